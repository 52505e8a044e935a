-- What people say to interactive sessions, in order. A row that is here was accepted, and is given to the harness once: by
-- its number, which the harness's pod counts on from, also in the next pod.
create table session_input (
    session_uid   text        not null,
    number        bigint      not null,                -- counted from 1 in the session
    key           text,                                -- the sender's Idempotency-Key
    text          text        not null,
    author        text        not null,                -- the Kubernetes user
    accepted_at   timestamptz not null default now(),
    sent_at       timestamptz,                         -- when it was handed to the pod last
    primary key (session_uid, number)
);

create unique index session_input_by_key on session_input (session_uid, key) where key is not null;
