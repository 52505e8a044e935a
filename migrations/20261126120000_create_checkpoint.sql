-- What another pod needs to go on with a session. The newest one of the highest incarnation counts; a pod of an earlier
-- incarnation can't add one any more once a later one has begun to restore.
create table checkpoint (
    session_uid   text        not null,
    incarnation   bigint      not null,                -- of the pod that took it
    number        bigint      not null,                -- counted by its runner from 1
    run_id        text        not null default '',     -- spec.task.runID of the run
    chunks        bytea[]     not null,                -- SHA-256 of each, in the archive's order
    bytes         bigint      not null,                -- of the archive, by the server's count
    digest        bytea       not null,                -- SHA-256 of the archive, by the runner's word
    about         jsonb       not null,                -- berth_protocol::checkpoint::About: the runner's word
    at            timestamptz not null default now(),
    primary key (session_uid, incarnation, number)
);

-- Pieces of checkpoints, never shared between sessions.
create table checkpoint_chunk (
    session_uid   text        not null,
    hash          bytea       not null,                -- SHA-256, computed by the server
    bytes         integer     not null,                -- before compression
    data          bytea       not null,                -- zstd
    primary key (session_uid, hash)
);

-- zstd already; a second attempt would cost time alone.
alter table checkpoint_chunk alter column data set storage external;

-- Which incarnation began to restore: earlier ones take no checkpoint from then on.
create table checkpoint_restore (
    session_uid   text        not null,
    incarnation   bigint      not null,                -- of the pod that restores
    from_incarnation bigint   not null,
    from_number   bigint      not null,
    at            timestamptz not null default now(),
    primary key (session_uid, incarnation)
);

-- The application may add to these tables and not delete from them: what goes, and when, is said here. The functions run
-- with the owner's rights, and their bodies name the tables once and for all.
--
-- Of a session all but its two newest checkpoints go, and the chunks of none.
create function checkpoint_thin(uid text) returns void
    language sql security definer
begin atomic
    delete from checkpoint k
    where k.session_uid = uid and (k.incarnation, k.number) not in
        (select n.incarnation, n.number from checkpoint n where n.session_uid = uid order by 1 desc, 2 desc limit 2);
    delete from checkpoint_chunk c
    where c.session_uid = uid
      and c.hash not in (select unnest(k.chunks) from checkpoint k where k.session_uid = uid);
end;

-- Everything of sessions that have ended or are deleted.
create function checkpoint_sweep() returns void
    language sql security definer
begin atomic
    delete from checkpoint_chunk c using session s
    where s.uid = c.session_uid and (s.deleted_at is not null or s.finished_at is not null);
    delete from checkpoint k using session s
    where s.uid = k.session_uid and (s.deleted_at is not null or s.finished_at is not null);
    delete from checkpoint_restore r using session s
    where s.uid = r.session_uid and (s.deleted_at is not null or s.finished_at is not null);
end;
