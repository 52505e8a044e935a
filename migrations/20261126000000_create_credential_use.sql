-- What sessions used credentials for: one row per request, written down by the sidecar before its first byte left, and
-- completed when its answer had passed. No value, no query, no header.
create table credential_use (
    pod_uid       text        not null,
    number        bigint      not null,                -- counted by the sidecar from 1; a missing one is a lost row. < 0: denials
    session_uid   text        not null,
    incarnation   bigint      not null,
    namespace     text        not null,
    session       text        not null,
    at            timestamptz not null,                -- the pod's clock
    verdict       text        not null,                -- allowed, denied
    credentials   text[],                              -- by name
    routes        text[],                              -- binding/route
    grants        text[],                              -- fingerprints, as in CredentialBinding.status.grant
    method        text,
    authority     text,                                -- host:port
    path          text,                                -- without the query
    reason        text,                                -- denied: why
    denials       bigint,                              -- denied: how many
    status        integer,                             -- of the answer; null while it passes
    sent          bigint,                              -- bytes of the request's body
    received      bigint,                              -- bytes of the answer's body
    milliseconds  bigint,
    redactions    bigint,                              -- secrets taken out of the answer
    ended         text,                                -- Complete, Broken, Cut, Refused
    recorded_at   timestamptz not null default now(),
    primary key (pod_uid, number)
);

create index credential_use_by_session on credential_use (session_uid, at);
