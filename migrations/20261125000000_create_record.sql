-- The record of sessions (DESIGN §10). Postgres never decides who may do what, or which objects exist: every row here
-- is written after the fact, and `session` can be rebuilt from the API server.
--
-- Expand/contract: version N-1 of the controller runs on schema N. So columns are only ever added here, nullable or
-- with a default; dropping one takes two releases.

-- One row per AgentSession that was ever seen, as its object stood when it last changed.
create table session (
    uid           text primary key,                    -- metadata.uid
    namespace     text        not null,
    name          text        not null,
    pool          text        not null,                -- spec.poolRef.name
    phase         text        not null,                -- status.phase, for display
    reason        text        not null,                -- reason of condition Ready
    message       text        not null,                -- message of condition Ready
    incarnation   bigint      not null,                -- status.incarnation
    run_id        text,                                -- status.runID
    pod_name      text,
    pod_uid       text,
    launch_type   text,                                -- warm, cold
    exit_code     integer,
    summary       text,                                -- the agent's word
    stopped_reason text,
    repository    text,                                -- provenance annotations: where to look, no proof
    path          text,
    commit_id     text,
    author        text,
    created_at    timestamptz not null,                -- metadata.creationTimestamp
    bound_at      timestamptz,
    finished_at   timestamptz,
    deleted_at    timestamptz,                         -- when the object was seen to be gone
    epoch         bigint      not null,                -- leader that wrote the row; a lower one is refused
    recorded_at   timestamptz not null default now()
);

create index session_by_name on session (namespace, name, created_at desc);

-- What happened in sessions, exactly once by (session_uid, incarnation, client_seq). Rows outlive the object.
create table session_event (
    session_uid   text        not null,
    incarnation   bigint      not null,
    client_seq    bigint      not null,                -- counted by the sidecar, from 1, without holes
    seq           bigint generated always as identity, -- counted by the server, over all sessions
    kind          text        not null,                -- output, started, exited, gap, violation, denied
    stream        smallint,                            -- output: 1 standard output, 2 standard error
    output        bytea,                               -- output: the bytes
    data          jsonb,                               -- every other kind: its fields
    at            timestamptz not null,                -- the pod's clock
    received_at   timestamptz not null default now(),
    primary key (session_uid, incarnation, client_seq)
);

create index session_event_by_seq on session_event (seq);

-- Each tip of a GitSource that the controller has handled.
create table source_revision (
    source_uid    text        not null,
    commit_id     text        not null,
    namespace     text        not null,
    name          text        not null,
    repository    text        not null,                -- URL without credentials
    branch        text        not null,
    applied       bigint      not null,                -- objects of the tip that stand
    failed        bigint      not null,                -- documents and objects with an error
    skipped       bigint      not null,                -- documents of foreign kinds
    at            timestamptz not null,                -- when it was handled last
    primary key (source_uid, commit_id)
);
