-- What is kept of sessions whose objects are long gone: their row, and the chain of grants (grant_event), which is never
-- shortened. The application may delete nothing itself; this deletes with the owner's rights, and never what is a week old or
-- younger, whatever it is asked. At most so many rows of each table at once; gives how many went.
create function record_forget(before timestamptz, most integer) returns bigint
    language sql security definer
begin atomic
    with gone as (
        select uid from session where deleted_at < least(before, now() - interval '7 days')
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
    )
    select (select count(*) from events) + (select count(*) from uses) + (select count(*) from inputs)
        + (select count(*) from allotments);
end;

create index session_by_deletion on session (deleted_at) where deleted_at is not null;
