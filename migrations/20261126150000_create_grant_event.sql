-- What was granted and what was taken away, one hash chain for each namespace: each row holds the hash of the one before, so
-- that nobody can change, drop or slip in a row without all later ones telling (`berth-controller audit verify`).
create table grant_event (
    namespace     text        not null,
    number        bigint      not null,                -- counted from 1 in the namespace, without holes
    record        text        not null,                -- JSON, the very bytes that are hashed
    prev_hash     bytea       not null,                -- of the row before; of the first: zeros
    hash          bytea       not null,                -- SHA-256 of prev_hash and record
    action        text        generated always as (record::jsonb ->> 'action') stored,
    binding       text        generated always as (record::jsonb ->> 'binding') stored,
    binding_uid   text        generated always as (record::jsonb ->> 'bindingUID') stored,
    credential    text        generated always as (record::jsonb ->> 'credential') stored,
    fingerprint   text        generated always as (record::jsonb ->> 'fingerprint') stored,
    recorded_at   timestamptz not null default now(),
    primary key (namespace, number)
);

create index grant_event_by_fingerprint on grant_event (fingerprint, namespace);
create index grant_event_by_binding on grant_event (namespace, binding_uid, number desc);

-- The last row of each chain; locked while one is added.
create table grant_head (
    namespace     text        primary key,
    number        bigint      not null,
    hash          bytea       not null,
    epoch         bigint      not null                 -- leader that added it; a lower one adds nothing
);

-- Rows are added and never touched again, by anybody but who may change the schema.
create function grant_event_stays() returns trigger language plpgsql as
$$ begin raise exception 'grant_event is append-only'; end $$;

create trigger grant_event_stays before update or delete or truncate on grant_event
    for each statement execute function grant_event_stays();
