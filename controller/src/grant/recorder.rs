//! IO: keeps each namespace's book and writes its rows, beside the passes: no push waits for Postgres but that of a grant
//! whose first row isn't committed yet.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use berth_crds::{CredentialBinding, Reason};
use jiff::Timestamp;
use parking_lot::Mutex;
use sqlx::PgPool;
use tokio::time::Instant;

use super::decide::{Decisions, Verdict};
use super::ledger::{Book, Entry, turn};
use crate::context::Context;
use crate::store::{StoreError, ledger};
use crate::telemetry::chain;

/// Writes down what is granted. Cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    /// `None` without a database: nothing is written down, and nothing waits.
    pool: Option<PgPool>,
    epoch: i64,
    actor: String,
    books: Arc<Mutex<HashMap<String, Kept>>>,
}

#[derive(Default)]
struct Kept {
    /// `None` until it is read.
    book: Option<Book>,
    /// Rows that aren't committed yet.
    queue: VecDeque<Entry>,
    /// A task reads the book or writes rows.
    busy: bool,
    /// Since when a grant waits.
    waiting: Option<Instant>,
}

impl Recorder {
    /// For a leader of this epoch, in this pod.
    pub fn new(pool: Option<PgPool>, epoch: i64, actor: &str) -> Self {
        Self {
            pool,
            epoch,
            actor: actor.to_owned(),
            books: Arc::default(),
        }
    }

    /// Looks at what holds in a namespace: what is new is written down, and what isn't committed yet is taken out.
    pub fn look(
        &self,
        context: &Arc<Context>,
        namespace: &str,
        bindings: &[Arc<CredentialBinding>],
        decisions: &mut Decisions,
        now: Timestamp,
    ) {
        if self.pool.is_none() {
            return;
        }
        let mut books = self.books.lock();
        let kept = books.entry(namespace.to_owned()).or_default();
        let turn = turn(namespace, bindings, decisions, kept.book.as_ref(), (now, &self.actor));
        let room = kept.queue.len() + turn.entries.len() <= QUEUE_MAX;
        if let Some(book) = kept.book.as_mut().filter(|_| room) {
            book.write(&turn.entries);
            kept.queue.extend(turn.entries);
        }
        if turn.waiting.is_empty() {
            kept.waiting = None;
        } else {
            let since = *kept.waiting.get_or_insert_with(Instant::now);
            let patient = since.elapsed() < PATIENCE;
            for (name, replaces) in &turn.waiting {
                hold_back(decisions, name, patient, *replaces && since.elapsed() < SEAMLESS);
            }
        }
        if (kept.book.is_none() || !kept.queue.is_empty()) && !std::mem::replace(&mut kept.busy, true) {
            tokio::spawn(self.clone().work(Arc::clone(context), namespace.to_owned()));
        }
    }

    /// What was written down of a namespace since a time; nothing while the database is away.
    pub async fn since(&self, namespace: &str, since: Timestamp) -> Vec<Entry> {
        let Some(pool) = &self.pool else { return Vec::new() };
        let read = ledger::since(pool, namespace, since).await;
        read.unwrap_or_else(|error| {
            tracing::debug!(namespace, error = chain(&error), "the record of grants isn't read");
            Vec::new()
        })
    }

    /// Until the book is read and every row is committed.
    async fn work(self, context: Arc<Context>, namespace: String) {
        let mut pause = RETRY_MIN;
        loop {
            match self.step(&namespace).await {
                Ok(true) => pause = RETRY_MIN,
                Ok(false) => break,
                Err(error) => {
                    tracing::warn!(
                        namespace,
                        error = chain(&error),
                        "grants aren't written down; new ones wait"
                    );
                    context.queues.grants.poke(namespace.clone()); // statuses say that they wait
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_MAX);
                }
            }
            if context.check_leading().is_err() {
                return;
            }
        }
        context.queues.grants.poke(namespace);
    }

    /// One thing; says whether there is more.
    async fn step(&self, namespace: &str) -> Result<bool, StoreError> {
        let Some(pool) = &self.pool else { return Ok(false) };
        let (is_read, batch) = {
            let books = self.books.lock();
            let kept = books.get(namespace);
            let batch: Vec<Entry> = kept.iter().flat_map(|kept| &kept.queue).take(BATCH).cloned().collect();
            (kept.is_some_and(|kept| kept.book.is_some()), batch)
        };
        if !is_read {
            let live = ledger::live(pool, namespace).await?;
            let book = Book {
                committed: live.clone(),
                written: live,
                is_fresh: true,
            };
            return Ok(self.end(namespace, |kept| kept.book = Some(book)));
        }
        ledger::append(pool, namespace, &batch, self.epoch).await?;
        Ok(self.end(namespace, |kept| {
            kept.queue.drain(..batch.len());
            if let Some(book) = &mut kept.book {
                book.commit(&batch);
            }
        }))
    }

    /// Notes what was done; the task ends when nothing is left.
    fn end(&self, namespace: &str, note: impl FnOnce(&mut Kept)) -> bool {
        let mut books = self.books.lock();
        let Some(kept) = books.get_mut(namespace) else {
            return false;
        };
        note(kept);
        kept.busy = !kept.queue.is_empty();
        kept.busy
    }
}

/// Nobody gets it in this pass. Its status says nothing new while the row is on its way; and who holds another grant of the
/// same binding keeps that for a moment, so that an edit cuts nothing off.
fn hold_back(decisions: &mut Decisions, name: &str, patient: bool, seamless: bool) {
    for (session, grants) in &mut decisions.sessions {
        let before = grants.len();
        grants.retain(|grant| grant.binding != name);
        if seamless && grants.len() < before {
            decisions
                .kept
                .entry(session.clone())
                .or_default()
                .insert(name.to_owned());
        }
    }
    if patient {
        decisions.bindings.remove(name);
    } else {
        let message = "waits until Postgres has written it down, which doesn't answer; what was granted before stands";
        let verdict = Verdict::Inactive {
            reason: Reason::Progressing,
            message: message.to_owned(),
            stalled: false,
        };
        decisions.bindings.insert(name.to_owned(), verdict);
    }
}

/// Of a namespace: a commit of 1,000 bindings, twice over.
const QUEUE_MAX: usize = 4096;
/// Rows in a transaction.
const BATCH: usize = 256;
/// A row is committed in milliseconds; a status is worth it only when it isn't.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long an edit of a binding keeps what it replaces.
const SEAMLESS: Duration = Duration::from_millis(500);
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(5);
