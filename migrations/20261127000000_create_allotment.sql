-- What a session holds of its namespace's budget, in picodollars: the whole of its own, until it ends.

create table allotment (
    session_uid   text        primary key,
    namespace     text        not null,
    amount        bigint      not null,                -- spec.budget.limit
    at            timestamptz not null default now()
);

create index allotment_by_namespace on allotment (namespace);

-- What a namespace has spent since a day or a month began.
create index credential_use_by_cost on credential_use (namespace, at) include (cost) where cost is not null;
