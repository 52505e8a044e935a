//! Carries rows of sessions and revisions to Postgres: the newest row of each waits, older ones are overtaken.
//!
//! What waits is bounded by the number of objects. While the database is away rows wait here; a process that ends
//! meanwhile loses nothing, since the next leader projects every object again.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sqlx::{Acquire, PgPool};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::revision::{self, RevisionRow};
use super::session::{self, SessionRow};
use super::{StoreError, migrate_if_behind};

use crate::telemetry::chain;

/// Takes rows in. Cheap to clone.
#[derive(Clone, Default)]
pub struct ProjectionWriter {
    waiting: Arc<Mutex<Waiting>>,
    wake: Arc<Notify>,
}

#[derive(Default)]
struct Waiting {
    sessions: HashMap<String, SessionRow>,
    gone: HashSet<String>,
    revisions: HashMap<(String, String), RevisionRow>,
    /// Every session there is, when a new leader says so.
    only: Option<Vec<String>>,
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.sessions.is_empty() && self.gone.is_empty() && self.revisions.is_empty() && self.only.is_none()
    }

    /// Puts back what could not be written, behind what has come since.
    fn put_back(&mut self, older: Self) {
        let newer = std::mem::replace(&mut self.sessions, older.sessions);
        self.sessions.extend(newer);
        let newer = std::mem::replace(&mut self.revisions, older.revisions);
        self.revisions.extend(newer);
        self.gone.extend(older.gone);
        self.only = self.only.take().or(older.only);
    }
}

impl ProjectionWriter {
    /// The session stands so now.
    pub fn put(&self, row: SessionRow) {
        self.waiting.lock().sessions.insert(row.uid.clone(), row);
        self.wake.notify_one();
    }

    /// The session is gone.
    pub fn gone(&self, session_uid: &str) {
        self.waiting.lock().gone.insert(session_uid.to_owned());
        self.wake.notify_one();
    }

    /// A source's tip was handled.
    pub fn put_revision(&self, row: RevisionRow) {
        self.waiting
            .lock()
            .revisions
            .insert((row.source_uid.clone(), row.commit.clone()), row);
        self.wake.notify_one();
    }

    /// These sessions stand so, and there are no others.
    pub fn rebuild(&self, rows: Vec<SessionRow>) {
        let mut waiting = self.waiting.lock();
        waiting.only = Some(rows.iter().map(|row| row.uid.clone()).collect());
        waiting
            .sessions
            .extend(rows.into_iter().map(|row| (row.uid.clone(), row)));
        self.wake.notify_one();
    }

    /// Rows that wait.
    pub fn depth(&self) -> usize {
        let waiting = self.waiting.lock();
        waiting.sessions.len() + waiting.gone.len() + waiting.revisions.len()
    }

    /// Writes until cancelled, then once more. `epoch` is this leader's.
    pub async fn run(self, pool: PgPool, epoch: i64, cancel: CancellationToken) {
        let mut wait = RETRY_MIN;
        while !cancel.is_cancelled() {
            if self.waiting.lock().is_empty() {
                tokio::select! {
                    () = cancel.cancelled() => break,
                    () = self.wake.notified() => {}
                }
            }
            if self.write_waiting(&pool, epoch).await {
                wait = RETRY_MIN;
                continue;
            }
            tokio::select! {
                () = cancel.cancelled() => break,
                () = tokio::time::sleep(wait) => wait = (wait * 2).min(RETRY_MAX),
            }
        }
        drop(tokio::time::timeout(LAST_WRITE, self.write_waiting(&pool, epoch)).await);
    }

    async fn write_waiting(&self, pool: &PgPool, epoch: i64) -> bool {
        let taken = std::mem::take(&mut *self.waiting.lock());
        let written = write(pool, &taken, epoch).await;
        if let Err(error) = &written {
            tracing::warn!(error = chain(error), "the record isn't written; sessions go on");
            self.waiting.lock().put_back(taken);
        }
        written.is_ok()
    }
}

async fn write(pool: &PgPool, rows: &Waiting, epoch: i64) -> Result<(), StoreError> {
    if rows.is_empty() {
        return Ok(());
    }
    migrate_if_behind(pool).await?;
    let mut connection = pool.acquire().await.map_err(StoreError::Connect)?;
    let mut transaction = connection.begin().await.map_err(StoreError::Connect)?;
    let failed = |table| move |error| StoreError::Write(table, error);
    for row in rows.sessions.values() {
        session::put(&mut transaction, row, epoch)
            .await
            .map_err(failed("session"))?;
    }
    if let Some(uids) = &rows.only {
        session::only(&mut transaction, uids, epoch)
            .await
            .map_err(failed("session"))?;
    }
    let gone: Vec<String> = rows.gone.iter().cloned().collect();
    if !gone.is_empty() {
        session::gone(&mut transaction, &gone, epoch)
            .await
            .map_err(failed("session"))?;
    }
    for row in rows.revisions.values() {
        revision::put(&mut transaction, row)
            .await
            .map_err(failed("source_revision"))?;
    }
    transaction.commit().await.map_err(StoreError::Connect)
}

const RETRY_MIN: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// Within the pod's grace period.
const LAST_WRITE: Duration = Duration::from_secs(3);
