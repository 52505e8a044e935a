-- What gateways say that a session has spent, held against what its sidecars saw: the newest answer, in picodollars.
create table gateway_figure (
    session_uid   text        primary key,
    namespace     text        not null,
    session       text        not null,
    said          bigint      not null,                -- by the gateways, of all of the session's keys
    told          bigint      not null,                -- the costs that answers said
    estimated     bigint      not null,                -- what requests whose answers didn't could have cost at most
    lost          bigint      not null,                -- requests under way when their pods were lost
    until         timestamptz not null,                -- the end of the last request that these speak of
    at            timestamptz not null default now()
);

-- What an estimate came to, once the gateway's figure was there; and what a request came to that a lost pod had under way.
alter table credential_use add column cost_settled bigint;
drop index credential_use_by_cost;
create index credential_use_by_cost on credential_use (namespace, at) include (cost, cost_settled) where cost is not null;

-- As before, and the figures go along.
create or replace function record_forget(before timestamptz, most integer) returns bigint
    language sql security definer
begin atomic
    with gone as (
        select uid from session where deleted_at < least(before, now() - interval '31 days')
    ), events as (
        delete from session_event where (session_uid, incarnation, client_seq) in
            (select e.session_uid, e.incarnation, e.client_seq from session_event e join gone on gone.uid = e.session_uid limit most)
        returning 1
    ), uses as (
        delete from credential_use where (pod_uid, number) in
            (select u.pod_uid, u.number from credential_use u join gone on gone.uid = u.session_uid limit most)
        returning 1
    ), inputs as (
        delete from session_input where (session_uid, number) in
            (select i.session_uid, i.number from session_input i join gone on gone.uid = i.session_uid limit most)
        returning 1
    ), allotments as (
        delete from allotment where session_uid in (select uid from gone) returning 1
    ), figures as (
        delete from gateway_figure where session_uid in (select uid from gone) returning 1
    )
    select (select count(*) from events) + (select count(*) from uses) + (select count(*) from inputs)
        + (select count(*) from allotments) + (select count(*) from figures);
end;
