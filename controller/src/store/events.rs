//! Carries events from the streams to Postgres: a bounded queue and one writer.
//!
//! A sidecar keeps each event until it is told that Postgres holds it, so nothing here has to last. When the queue
//! stays full the session is let go of: its further events are read and dropped, which keeps its state moving, and
//! once Postgres takes writes again its stream is closed, so that the sidecar tells all of it anew.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sqlx::PgPool;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::StoreError;
use super::event::{self, NewEvent, Placed};
use crate::session::runs::Runs;
use crate::telemetry::chain;

/// Takes events in. Cheap to clone.
#[derive(Clone)]
pub struct EventWriter {
    sender: mpsc::Sender<Placed>,
    dropped: Arc<Mutex<HashSet<String>>>,
    commits: watch::Sender<()>,
}

/// The other end of an [`EventWriter`].
pub struct EventQueue {
    receiver: mpsc::Receiver<Placed>,
    writer: EventWriter,
    runs: Runs,
}

impl EventWriter {
    /// The writer and the queue behind it.
    pub fn new(runs: &Runs) -> (Self, EventQueue) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let writer = Self {
            sender,
            dropped: Arc::default(),
            commits: watch::Sender::new(()),
        };
        let queue = EventQueue {
            receiver,
            writer: writer.clone(),
            runs: runs.clone(),
        };
        (writer, queue)
    }

    /// Takes one event of a session's incarnation, waiting a little for a place.
    pub async fn submit(&self, session_uid: &str, incarnation: i64, event: NewEvent) {
        if self.dropped.lock().contains(session_uid) {
            return;
        }
        let placed = Placed {
            session_uid: session_uid.to_owned(),
            incarnation,
            event,
        };
        if self.sender.send_timeout(placed, PATIENCE).await.is_err() {
            tracing::warn!(
                session.uid = session_uid,
                "events wait in the sidecar: the database doesn't take them"
            );
            self.dropped.lock().insert(session_uid.to_owned());
        }
    }

    /// A new stream tells the session's events from the first that isn't acknowledged.
    pub fn restart(&self, session_uid: &str) {
        self.dropped.lock().remove(session_uid);
    }

    /// Whether the session's stream has to be closed so that its sidecar tells its events anew.
    pub fn wants_restart(&self, session_uid: &str) -> bool {
        self.dropped.lock().contains(session_uid) && self.sender.capacity() > QUEUE / 2
    }

    /// Changes whenever something may have become acknowledgeable.
    pub fn commits(&self) -> watch::Receiver<()> {
        self.commits.subscribe()
    }

    /// Something other than a commit made events acknowledgeable: a status was written.
    pub fn announce(&self) {
        self.commits.send_replace(());
    }

    /// Events that wait.
    pub fn depth(&self) -> usize {
        QUEUE - self.sender.capacity()
    }
}

impl EventQueue {
    /// Writes until cancelled; then once more what waits. Without a database everything counts as written.
    pub async fn run(mut self, pool: Option<PgPool>, cancel: CancellationToken) {
        let mut batch = Vec::new();
        loop {
            let received = tokio::select! {
                () = cancel.cancelled() => break,
                received = self.receiver.recv_many(&mut batch, BATCH) => received,
            };
            if received == 0 || !self.write_patiently(pool.as_ref(), &batch, &cancel).await {
                break;
            }
            batch.clear();
        }
        self.receiver.close();
        while self.receiver.recv_many(&mut batch, BATCH).await > 0 {}
        if let Some(pool) = pool.filter(|_| !batch.is_empty())
            && tokio::time::timeout(LAST_WRITE, write(&pool, &batch))
                .await
                .is_ok_and(|written| written.is_ok())
        {
            self.committed(&batch);
        }
    }

    /// Tries until the batch is written; `false` when cancelled meanwhile.
    async fn write_patiently(&self, pool: Option<&PgPool>, batch: &[Placed], cancel: &CancellationToken) -> bool {
        let mut wait = RETRY_MIN;
        while let Some(pool) = pool {
            match write(pool, batch).await {
                Ok(()) => break,
                Err(error) => tracing::warn!(error = chain(&error), "events not written"),
            }
            tokio::select! {
                () = cancel.cancelled() => return false,
                () = tokio::time::sleep(wait) => wait = (wait * 2).min(RETRY_MAX),
            }
        }
        self.committed(batch);
        true
    }

    fn committed(&self, batch: &[Placed]) {
        let mut highest: HashMap<(&str, i64), i64> = HashMap::new();
        for placed in batch {
            let number = highest.entry((&placed.session_uid, placed.incarnation)).or_default();
            *number = placed.event.number.max(*number);
        }
        for ((session_uid, incarnation), number) in highest {
            self.runs.committed(session_uid, incarnation, number);
        }
        self.writer.announce();
    }
}

async fn write(pool: &PgPool, batch: &[Placed]) -> Result<(), StoreError> {
    let mut connection = pool.acquire().await.map_err(StoreError::Connect)?;
    event::put(&mut connection, batch)
        .await
        .map_err(|error| StoreError::Write("session_event", error))
}

/// Pieces of output are at most 32 KiB, so the queue holds at most 32 MiB.
const QUEUE: usize = 1024;
/// One statement carries at most 8 MiB.
const BATCH: usize = 256;
/// How long a stream waits for a place before its session is let go of.
const PATIENCE: Duration = Duration::from_secs(1);
const RETRY_MIN: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// Within the pod's grace period.
const LAST_WRITE: Duration = Duration::from_secs(3);
