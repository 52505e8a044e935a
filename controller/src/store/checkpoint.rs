//! Tables `checkpoint`, `checkpoint_chunk` and `checkpoint_restore`: what another pod needs to go on with a session.
//! Chunks are a session's own: nothing is ever shared between two.

use std::sync::Arc;
use std::time::Duration;

use berth_protocol::checkpoint::About;
use serde_json::Value;
use sqlx::{Acquire, PgPool};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{StoreError, migrate_if_behind};
use crate::telemetry::chain;

/// SHA-256 of a chunk.
pub type Hash = [u8; 32];

/// The tables. Cheap to clone.
#[derive(Clone)]
pub struct Checkpoints {
    /// `None` without a database: there are no checkpoints then.
    pool: Option<PgPool>,
    /// Streams that write at a time: the rest of the record goes first.
    slots: Arc<Semaphore>,
}

/// A chunk as it is kept.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// Of its bytes.
    pub hash: Hash,
    /// How many bytes it has.
    pub bytes: i32,
    /// The same as zstd.
    pub data: Vec<u8>,
}

/// Which checkpoint of a session.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Which {
    /// Who took it.
    pub incarnation: i64,
    /// Its number there.
    pub number: i64,
}

/// A checkpoint, without its chunks.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Kept {
    /// Who took it.
    pub incarnation: i64,
    /// Its number there.
    pub number: i64,
    /// How many chunks it has.
    pub chunks: i32,
    /// Bytes of its archive.
    pub bytes: i64,
    /// SHA-256 of its archive, by its runner's word.
    pub digest: Vec<u8>,
    /// What is in it, by its runner's word.
    pub about: About,
}

/// What is to be kept as a checkpoint.
#[derive(Debug)]
pub struct New<'a> {
    /// UID of the session.
    pub session_uid: &'a str,
    /// Who took it, and its number there.
    pub which: Which,
    /// `spec.task.runID` of the run.
    pub run_id: &'a str,
    /// Its chunks, in order.
    pub chunks: &'a [Hash],
    /// What the runner says is in it.
    pub about: &'a About,
}

/// Why a checkpoint isn't kept.
#[derive(Debug, thiserror::Error)]
pub enum NotKept {
    /// A later pod has begun to restore, or has taken one itself.
    #[error("a later incarnation goes on with the session")]
    Overtaken,
    /// A chunk isn't there.
    #[error("a chunk is missing")]
    Missing,
    /// The database is away, or refuses.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Checkpoints {
    /// Over this database, if there is one.
    pub fn new(pool: Option<PgPool>) -> Self {
        Self {
            pool,
            slots: Arc::new(Semaphore::new(WRITERS)),
        }
    }

    fn pool(&self) -> Result<&PgPool, StoreError> {
        let none = || StoreError::Connect(sqlx::Error::PoolClosed);
        self.pool.as_ref().ok_or_else(none)
    }

    /// Which of these the session has no chunk for, by position.
    pub async fn missing(&self, session_uid: &str, hashes: &[Hash]) -> Result<Vec<usize>, StoreError> {
        let pool = self.pool()?;
        let _slot = self.slots.acquire().await;
        migrate_if_behind(pool).await?;
        let wanted: Vec<&[u8]> = hashes.iter().map(<[u8; 32]>::as_slice).collect();
        let select = "select hash from checkpoint_chunk where session_uid = $1 and hash = any($2)";
        let query = sqlx::query_scalar(select).bind(session_uid).bind(wanted);
        let found: Vec<Vec<u8>> = query.fetch_all(pool).await.map_err(failed)?;
        let mut asked = Vec::new();
        for (position, hash) in hashes.iter().enumerate() {
            let is_known = found.iter().any(|found| found == hash);
            let is_asked = asked.iter().any(|at: &usize| hashes.get(*at) == Some(hash));
            if !is_known && !is_asked {
                asked.push(position);
            }
        }
        Ok(asked)
    }

    /// Keeps chunks.
    pub async fn put(&self, session_uid: &str, chunks: &[Chunk]) -> Result<(), StoreError> {
        let _slot = self.slots.acquire().await;
        let insert = "insert into checkpoint_chunk (session_uid, hash, bytes, data) \
            select $1, * from unnest($2::bytea[], $3::integer[], $4::bytea[]) on conflict do nothing";
        let hashes: Vec<&[u8]> = chunks.iter().map(|chunk| chunk.hash.as_slice()).collect();
        let bytes: Vec<i32> = chunks.iter().map(|chunk| chunk.bytes).collect();
        let data: Vec<&[u8]> = chunks.iter().map(|chunk| chunk.data.as_slice()).collect();
        let query = sqlx::query(insert)
            .bind(session_uid)
            .bind(hashes)
            .bind(bytes)
            .bind(data);
        query.execute(self.pool()?).await.map_err(failed)?;
        Ok(())
    }

    /// Keeps a checkpoint whose chunks are there, and lets go of all but the one before it.
    pub async fn keep(&self, new: &New<'_>) -> Result<(), NotKept> {
        let _slot = self.slots.acquire().await;
        let mut connection = self.pool()?.acquire().await.map_err(StoreError::Connect)?;
        let mut transaction = connection.begin().await.map_err(StoreError::Connect)?;
        // One at a time for a session: a restore that begins meanwhile waits, or is seen.
        let lock = sqlx::query("select pg_advisory_xact_lock(hashtextextended('checkpoint ' || $1, 0))");
        lock.bind(new.session_uid)
            .execute(&mut *transaction)
            .await
            .map_err(failed)?;
        let overtaken = "select exists (select from checkpoint_restore where session_uid = $1 and incarnation > $2) \
            or exists (select from checkpoint where session_uid = $1 and incarnation > $2)";
        let overtaken = sqlx::query_scalar(overtaken)
            .bind(new.session_uid)
            .bind(new.which.incarnation);
        if overtaken.fetch_one(&mut *transaction).await.map_err(failed)? {
            return Err(NotKept::Overtaken);
        }
        let chunks: Vec<&[u8]> = new.chunks.iter().map(<[u8; 32]>::as_slice).collect();
        let total = "select count(c.hash) = count(*) and bool_and(c.hash is not null), coalesce(sum(c.bytes), 0)::bigint \
            from unnest($2::bytea[]) as wanted(hash) \
            left join checkpoint_chunk c on c.session_uid = $1 and c.hash = wanted.hash";
        let total = sqlx::query_as(total).bind(new.session_uid).bind(&chunks);
        let (whole, bytes): (Option<bool>, i64) = total.fetch_one(&mut *transaction).await.map_err(failed)?;
        if whole != Some(true) {
            return Err(NotKept::Missing);
        }
        let insert = "insert into checkpoint (session_uid, incarnation, number, run_id, chunks, bytes, digest, about) \
            values ($1, $2, $3, $4, $5, $6, $7, $8) on conflict do nothing";
        sqlx::query(insert)
            .bind(new.session_uid)
            .bind(new.which.incarnation)
            .bind(new.which.number)
            .bind(new.run_id)
            .bind(&chunks)
            .bind(bytes)
            .bind(hex::decode(&new.about.digest).unwrap_or_default())
            .bind(serde_json::to_value(new.about).unwrap_or_default())
            .execute(&mut *transaction)
            .await
            .map_err(failed)?;
        let thin = sqlx::query("select checkpoint_thin($1)").bind(new.session_uid);
        thin.execute(&mut *transaction).await.map_err(failed)?;
        transaction.commit().await.map_err(StoreError::Connect)?;
        Ok(())
    }

    /// The newest one of a run that pods before this incarnation took. What this incarnation began to restore stays.
    pub async fn newest(&self, session_uid: &str, run_id: &str, before: i64) -> Result<Option<Kept>, StoreError> {
        let select = "select incarnation, number, cardinality(chunks), bytes, digest, about from checkpoint k \
            where session_uid = $1 and run_id = $2 and incarnation < $3 \
            order by exists (select from checkpoint_restore r where r.session_uid = $1 and r.incarnation = $3 \
                and r.from_incarnation = k.incarnation and r.from_number = k.number) desc, 1 desc, 2 desc limit 1";
        self.read(sqlx::query_as(select).bind(session_uid).bind(run_id).bind(before))
            .await
    }

    /// This one.
    pub async fn named(&self, session_uid: &str, which: Which) -> Result<Option<Kept>, StoreError> {
        let select = "select incarnation, number, cardinality(chunks), bytes, digest, about from checkpoint \
            where session_uid = $1 and incarnation = $2 and number = $3";
        let query = sqlx::query_as(select).bind(session_uid);
        self.read(query.bind(which.incarnation).bind(which.number)).await
    }

    async fn read(
        &self,
        query: sqlx::query::QueryAs<'_, sqlx::Postgres, Row, sqlx::postgres::PgArguments>,
    ) -> Result<Option<Kept>, StoreError> {
        let pool = self.pool()?;
        migrate_if_behind(pool).await?;
        let row = query.fetch_optional(pool).await.map_err(failed)?;
        Ok(row.map(|(incarnation, number, chunks, bytes, digest, about)| Kept {
            incarnation,
            number,
            chunks,
            bytes,
            digest,
            about: serde_json::from_value(about).unwrap_or_default(),
        }))
    }

    /// From now on no earlier incarnation takes a checkpoint, and this one may fetch `from`.
    pub async fn begin_restore(&self, session_uid: &str, incarnation: i64, from: Which) -> Result<(), StoreError> {
        let mut connection = self.pool()?.acquire().await.map_err(StoreError::Connect)?;
        let mut transaction = connection.begin().await.map_err(StoreError::Connect)?;
        let lock = sqlx::query("select pg_advisory_xact_lock(hashtextextended('checkpoint ' || $1, 0))");
        lock.bind(session_uid)
            .execute(&mut *transaction)
            .await
            .map_err(failed)?;
        let insert = "insert into checkpoint_restore (session_uid, incarnation, from_incarnation, from_number) \
            values ($1, $2, $3, $4) on conflict do nothing";
        let query = sqlx::query(insert).bind(session_uid).bind(incarnation);
        let query = query.bind(from.incarnation).bind(from.number);
        query.execute(&mut *transaction).await.map_err(failed)?;
        transaction.commit().await.map_err(StoreError::Connect)
    }

    /// A chunk, as zstd, of what this incarnation restores.
    pub async fn chunk(
        &self,
        session_uid: &str,
        incarnation: i64,
        position: u32,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let _slot = self.slots.acquire().await;
        let select = "select c.data from checkpoint_restore r \
            join checkpoint k on (k.session_uid, k.incarnation, k.number) = (r.session_uid, r.from_incarnation, r.from_number) \
            join checkpoint_chunk c on c.session_uid = k.session_uid and c.hash = k.chunks[$3] \
            where r.session_uid = $1 and r.incarnation = $2";
        let position = i32::try_from(position).unwrap_or(i32::MAX).saturating_add(1); // arrays begin at 1
        let query = sqlx::query_scalar(select)
            .bind(session_uid)
            .bind(incarnation)
            .bind(position);
        query.fetch_optional(self.pool()?).await.map_err(failed)
    }

    /// Lets go of what ended or deleted sessions had, now and again.
    pub async fn sweep(self, cancel: CancellationToken) {
        let Some(pool) = self.pool.clone() else { return };
        loop {
            if let Err(error) = sweep(&pool).await {
                tracing::warn!(error = chain(&error), "checkpoints of ended sessions stay for now");
            }
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(SWEEP) => {}
            }
        }
    }
}

async fn sweep(pool: &PgPool) -> Result<(), StoreError> {
    migrate_if_behind(pool).await?;
    let query = sqlx::query("select checkpoint_sweep()");
    query.execute(pool).await.map_err(failed)?;
    Ok(())
}

fn failed(error: sqlx::Error) -> StoreError {
    StoreError::Write("checkpoint", error)
}

type Row = (i64, i64, i32, i64, Vec<u8>, Value);

/// Of the pool's connections, so that events and the audit trail always find one.
const WRITERS: usize = 2;
const SWEEP: Duration = Duration::from_mins(10);
