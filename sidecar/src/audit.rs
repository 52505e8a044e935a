//! What credentials were used for. A use is written down before its request's first byte leaves, and completed when its
//! answer has passed; a use that can't be written down doesn't happen.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;

use berth_egress::authority::Authority;
use berth_protocol::money::Pico;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;

use self::denials::Denials;
use self::sink::Sink;
use crate::clock::unix_ms;
use crate::meter::Reservation;
use crate::refusal::Wanted;

pub mod denials;

pub mod sink;

/// One use of credentials, as it begins.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Use {
    /// Counts from 1 without holes; a missing number is a row that was lost.
    pub number: u64,
    /// Milliseconds since the Unix epoch, by the pod's clock.
    pub at: i64,
    /// Names of the credentials.
    pub credentials: Vec<String>,
    /// The routes that allowed them.
    pub routes: Vec<String>,
    /// Fingerprints of the grants behind them.
    pub grants: Vec<String>,
    /// Of the request.
    pub method: String,
    /// Host and port.
    pub authority: String,
    /// Without the query.
    pub path: String,
}

/// How it ended.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// Of the use.
    pub number: u64,
    /// Status of the answer, 0 when there was none.
    pub status: u16,
    /// Bytes of the request's body that were read from the agent.
    pub sent: u64,
    /// Bytes of the answer's body.
    pub received: u64,
    /// From the use to its end.
    pub milliseconds: u64,
    /// Secrets that were taken out of the answer.
    pub redactions: u64,
    /// How.
    pub ended: Ended,
    /// What it has cost, for a session with a budget.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<Pico>,
    /// Whether that is the most that it could be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_is_estimate: Option<bool>,
}

/// A request would have cost more than the session may spend. Told once for each limit.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Exhausted {
    /// When.
    pub at: i64,
    /// The limit.
    pub limit: Pico,
}

/// How a use ended.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum Ended {
    /// The whole answer has passed.
    #[default]
    Complete,
    /// Either side broke off.
    Broken,
    /// The grant ended.
    Cut,
    /// The answer couldn't be passed on.
    Refused,
}

/// Requests that weren't passed on, since the last time they were told.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Denied {
    /// When the first of them came.
    pub at: i64,
    /// Where to; `other` beyond the first hosts.
    pub authority: String,
    /// Why.
    pub reason: String,
    /// How many.
    pub count: u64,
}

/// A request with a credential's stub that no grant covers: what a grant would have to say.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Unmet {
    /// When it came.
    pub at: i64,
    /// Name of the credential.
    pub credential: String,
    /// Method of the request.
    pub method: String,
    /// Host and port.
    pub authority: String,
    /// Without the query.
    pub path: String,
}

/// A line of the trail.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Record {
    /// A use begins.
    Use(Use),
    /// It ended.
    Outcome(Outcome),
    /// Denials.
    Denied(Denied),
    /// A need that no grant covers.
    Unmet(Unmet),
    /// The budget is used up.
    Exhausted(Exhausted),
}

/// The trail.
pub struct Audit {
    sink: Mutex<Sink>,
    denials: Mutex<HashMap<(String, String), Denied>>,
    /// Needs that were told.
    unmet: Mutex<HashSet<(String, Wanted)>>,
    denied: tokio::sync::Notify,
    noted: tokio::sync::Notify,
    /// The same as one number, for the session's events.
    pub counted: Denials,
    written: watch::Sender<()>,
}

/// The use can't be written down, so it doesn't happen.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The controller hasn't taken what there is.
    #[error("the audit trail is full: the controller hasn't stored it")]
    Full,
    /// The file.
    #[error("failed to write the audit trail")]
    Write(#[source] io::Error),
}

/// A use that goes on; it is completed when this is dropped.
pub struct Ticket {
    audit: Arc<Audit>,
    began: Instant,
    /// Filled in as it goes.
    pub outcome: Outcome,
    /// What it may cost, for a session with a budget.
    pub reserved: Option<Reservation>,
}

impl Audit {
    /// Into this sink.
    pub fn new(sink: Sink) -> Self {
        Self {
            sink: Mutex::new(sink),
            denials: Mutex::default(),
            unmet: Mutex::default(),
            denied: tokio::sync::Notify::new(),
            noted: tokio::sync::Notify::new(),
            counted: Denials::default(),
            written: watch::Sender::new(()),
        }
    }

    /// Writes a use down.
    pub fn begin(self: &Arc<Self>, mut used: Use) -> Result<Ticket, AuditError> {
        used.at = unix_ms();
        let number = self.sink.lock().begin(used)?;
        self.written.send_replace(());
        Ok(Ticket {
            audit: Arc::clone(self),
            began: Instant::now(),
            outcome: Outcome {
                number,
                ended: Ended::Broken,
                ..Outcome::default()
            },
            reserved: None,
        })
    }

    /// The session's budget is used up.
    pub fn exhausted(&self, limit: Pico) {
        self.note(Record::Exhausted(Exhausted { at: unix_ms(), limit }));
    }

    /// A request or a tunnel wasn't passed on. Counted by host and reason: the agent can't flood the trail.
    pub fn denied(&self, authority: &Authority, reason: &str) {
        let mut denials = self.denials.lock();
        let mut key = (authority.to_string(), reason.to_owned());
        if denials.len() >= DENIED_MAX && !denials.contains_key(&key) {
            key = (OTHER.to_owned(), OTHER.to_owned());
        }
        let (authority, reason) = key.clone();
        let denied = denials.entry(key).or_insert_with(|| Denied {
            at: unix_ms(),
            authority,
            reason,
            count: 0,
        });
        denied.count = denied.count.saturating_add(1);
        drop(denials);
        self.denied.notify_one();
        self.counted.count();
    }

    /// A credential's stub was sent where no grant covers it. The first few are told, each once: somebody may want to
    /// grant them.
    pub fn wanted(&self, authority: &Authority, wanted: &Wanted) {
        let mut told = self.unmet.lock();
        let need = (authority.to_string(), wanted.clone());
        if told.len() >= UNMET_MAX || wanted.path.len() > UNMET_PATH_MAX || !told.insert(need) {
            return;
        }
        drop(told);
        self.note(Record::Unmet(Unmet {
            at: unix_ms(),
            credential: wanted.credential.clone(),
            method: wanted.method.clone(),
            authority: authority.to_string(),
            path: wanted.path.clone(),
        }));
    }

    /// Tells denials, at most every [`INTERVAL`]; nothing ticks while nothing is denied.
    pub async fn tell_denials(&self) {
        loop {
            self.denied.notified().await;
            tokio::time::sleep(INTERVAL).await;
            let denials = std::mem::take(&mut *self.denials.lock());
            for denied in denials.into_values() {
                self.note(Record::Denied(denied));
            }
        }
    }

    /// Brings what nothing waits for to the file, at most [`PENDING`] late; nothing ticks while nothing is used. Only a
    /// sidecar that is killed loses that, and the uses themselves never.
    pub async fn keep_flushed(&self) {
        loop {
            self.noted.notified().await;
            tokio::time::sleep(PENDING).await;
            let flushed = self.sink.lock().flush();
            if let Err(error) = flushed {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the audit trail isn't written"
                );
            }
        }
    }

    /// Writes down what nothing waits for.
    fn note(&self, record: Record) {
        if let Err(error) = self.sink.lock().note(record) {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "a record of the audit trail is lost"
            );
        }
        self.noted.notify_one();
        self.written.send_replace(());
    }

    /// Changes whenever a record was written.
    pub fn written(&self) -> watch::Receiver<()> {
        self.written.subscribe()
    }

    /// Where it is kept.
    pub fn sink(&self) -> parking_lot::MutexGuard<'_, Sink> {
        self.sink.lock()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let milliseconds = self.began.elapsed().as_millis();
        self.outcome.milliseconds = u64::try_from(milliseconds).unwrap_or(u64::MAX);
        if let Some(reserved) = self.reserved.take() {
            let cost = reserved.end(self.outcome.status, self.outcome.ended);
            (self.outcome.cost, self.outcome.cost_is_estimate) = (Some(cost.amount), Some(cost.is_estimate));
        }
        let outcome = std::mem::take(&mut self.outcome);
        self.audit.note(Record::Outcome(outcome));
    }
}

/// Different hosts and reasons between two tellings.
const DENIED_MAX: usize = 64;
/// As many as a session's status has room for (issue 5: five proposals a session).
const UNMET_MAX: usize = 5;
/// A route's path has 512 characters at most (`crds/src/schema.rs`).
const UNMET_PATH_MAX: usize = 512;
const OTHER: &str = "other";
/// Two requests of a program that waits for each answer lie closer together.
const PENDING: std::time::Duration = std::time::Duration::from_millis(50);
/// Often enough to be seen while it happens.
const INTERVAL: std::time::Duration = std::time::Duration::from_secs(5);
