//! The streams that are attached now, by pod UID: what is known of each and how to push to it.
//!
//! One stream per pod. A pod that shows a second key is refused for good, both streams: "a second key for one pod →
//! grants to neither" (DESIGN §5.3).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use berth_protocol::control::{ToSidecar, to_sidecar};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::token::PodIdentity;
use crate::session::snapshot::StreamFacts;

/// Attached streams.
#[derive(Clone, Default)]
pub struct Registry {
    inner: Arc<Mutex<Inner>>,
    connections: Arc<AtomicU64>,
}

#[derive(Default)]
struct Inner {
    streams: HashMap<String, Entry>,
    /// Key that each pod proved first; kept while the leader serves, for pods that have gone at most [`KEYS_MAX`].
    keys: HashMap<String, String>,
    /// Pods that serve no session of this leader any more, and why; their streams may be gone.
    refused: HashMap<String, String>,
}

struct Entry {
    connection: u64,
    pod: PodIdentity,
    sender: mpsc::Sender<ToSidecar>,
    facts: StreamFacts,
    epoch: u64,
    revision: u64,
}

/// A message can't be pushed.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum PushError {
    /// The pod has no stream now.
    #[error("the pod has no control stream")]
    Gone,
    /// Its queue is full: the sidecar doesn't read.
    #[error("the sidecar doesn't read its stream")]
    Full,
}

/// What a new stream brings.
pub struct Attachment {
    /// The pod, by its token.
    pub pod: PodIdentity,
    /// Fingerprint of the key that it proved.
    pub key: String,
    /// Incarnation that it holds and that the session's status confirms.
    pub acknowledged: Option<i64>,
    /// Where pushes go.
    pub sender: mpsc::Sender<ToSidecar>,
    /// Epoch of this leader.
    pub epoch: u64,
    /// Revision that the sidecar has seen in this epoch.
    pub revision: u64,
}

impl Inner {
    fn refuse(&mut self, pod_uid: &str, why: &str) {
        if self.refused.len() >= KEYS_MAX {
            self.refused.clear();
        }
        self.refused.entry(pod_uid.to_owned()).or_insert_with(|| why.to_owned());
    }
}

impl Registry {
    /// Enters a stream. `None` when the pod has shown another key before: it is refused from now on.
    pub fn attach(&self, attachment: Attachment) -> Option<u64> {
        let mut inner = self.inner.lock();
        let Attachment {
            pod,
            key,
            acknowledged,
            sender,
            epoch,
            revision,
        } = attachment;
        if inner.keys.len() >= KEYS_MAX {
            let live: HashSet<String> = inner.streams.keys().cloned().collect();
            inner.keys.retain(|uid, _| live.contains(uid));
        }
        let first = inner.keys.entry(pod.uid.clone()).or_insert_with(|| key.clone()).clone();
        if first != key {
            inner.refuse(&pod.uid, "a second stream with another key was opened for the pod");
        }
        if inner.refused.contains_key(&pod.uid) {
            return None;
        }
        let connection = self.connections.fetch_add(1, Ordering::Relaxed);
        let facts = StreamFacts {
            key,
            acknowledged,
            ..StreamFacts::default()
        };
        let uid = pod.uid.clone();
        inner.streams.insert(
            uid,
            Entry {
                connection,
                pod,
                sender,
                facts,
                epoch,
                revision,
            },
        );
        Some(connection)
    }

    /// Removes a stream, unless the pod has attached anew.
    pub fn detach(&self, pod_uid: &str, connection: u64) {
        let mut inner = self.inner.lock();
        if inner
            .streams
            .get(pod_uid)
            .is_some_and(|entry| entry.connection == connection)
        {
            inner.streams.remove(pod_uid);
        }
    }

    /// Whether this is still the pod's stream, and not refused.
    pub fn is_current(&self, pod_uid: &str, connection: u64) -> bool {
        let inner = self.inner.lock();
        inner
            .streams
            .get(pod_uid)
            .is_some_and(|entry| entry.connection == connection && !inner.refused.contains_key(pod_uid))
    }

    /// What is known of a pod's stream. A refusal is known after its end too: it must reach the session's plan.
    pub fn facts(&self, pod_uid: &str) -> Option<StreamFacts> {
        let inner = self.inner.lock();
        let facts = inner.streams.get(pod_uid).map(|entry| entry.facts.clone());
        match inner.refused.get(pod_uid).cloned() {
            None => facts,
            refused => Some(StreamFacts {
                refused,
                ..facts.unwrap_or_default()
            }),
        }
    }

    /// The pod serves no session any more: its stream ends, and it gets no other.
    pub fn refuse(&self, pod_uid: &str, why: &str) {
        self.inner.lock().refuse(pod_uid, why);
    }

    /// The pod of a stream, by its token.
    pub fn pod(&self, pod_uid: &str) -> Option<PodIdentity> {
        self.inner.lock().streams.get(pod_uid).map(|entry| entry.pod.clone())
    }

    /// Changes what is known of a pod's stream.
    pub fn update(&self, pod_uid: &str, change: impl FnOnce(&mut StreamFacts)) {
        if let Some(entry) = self.inner.lock().streams.get_mut(pod_uid) {
            change(&mut entry.facts);
        }
    }

    /// Pushes a message that changes what the sidecar holds: it gets the next revision, which is given back.
    pub fn push(&self, pod_uid: &str, message: to_sidecar::Message) -> Result<u64, PushError> {
        let mut inner = self.inner.lock();
        let entry = inner.streams.get_mut(pod_uid).ok_or(PushError::Gone)?;
        let next = ToSidecar {
            epoch: entry.epoch,
            revision: entry.revision + 1,
            message: Some(message),
        };
        entry.sender.try_send(next).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => PushError::Full,
            mpsc::error::TrySendError::Closed(_) => PushError::Gone,
        })?;
        entry.revision += 1;
        Ok(entry.revision)
    }

    /// Streams attached, and of those the ones whose sidecar holds an assignment.
    pub fn count(&self) -> (usize, usize) {
        let inner = self.inner.lock();
        let bound = inner
            .streams
            .values()
            .filter(|entry| entry.facts.acknowledged.is_some())
            .count();
        (inner.streams.len(), bound)
    }

    /// Forgets everything: this replica leads no more.
    pub fn clear(&self) {
        *self.inner.lock() = Inner::default();
    }
}

/// Messages that wait for one sidecar: an assignment, a start, a stop and acknowledgements.
pub const QUEUE: usize = 64;

/// Ten pods' life on the largest node that agent-sandbox is tested with.
const KEYS_MAX: usize = 100_000;
