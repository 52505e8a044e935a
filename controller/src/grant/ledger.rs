//! Pure: what is to be written down of a namespace's grants, given what was written down and what holds now; and which
//! grants wait for that. A grant's first row is committed before a sidecar is told; a revocation waits for nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use berth_crds::{CredentialBinding, Grant, Reason, Route};
use jiff::Timestamp;
use kube::ResourceExt;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::approve::ToldGrant;
use super::decide::{Active, Decisions, SessionGrant, Verdict};

/// A row of `grant_event`, without its place in the chain.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// What happened.
    pub action: Action,
    /// When it was decided.
    pub at: Timestamp,
    /// Namespace of the binding.
    pub namespace: String,
    /// Its name.
    pub binding: String,
    /// Its UID.
    #[serde(rename = "bindingUID")]
    pub binding_uid: String,
    /// Name of the credential.
    pub credential: String,
    /// Fingerprint of the grant.
    pub fingerprint: String,
    /// SHA-256 of the routes, to tell a change of what policies leave of them.
    pub scope: String,
    /// The routes, as policies leave them.
    pub routes: Vec<Route>,
    /// UIDs of sessions that hold it, at most [`SESSIONS_MAX`].
    pub sessions: Vec<String>,
    /// When it ends by itself.
    pub expires_at: Option<Timestamp>,
    /// What was proven of it.
    pub grant: Option<Grant>,
    /// Why it is taken away.
    pub reason: String,
    /// The same for people.
    pub message: String,
    /// The controller's pod.
    pub actor: String,
}

/// What happens to grants.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Sessions may use it from now on.
    Granted,
    /// Policies leave something else of it.
    Changed,
    /// Nobody may any more.
    Revoked,
    /// The same, seen by a leader that found it so when it began.
    RevokedObservedLate,
}

/// A grant that was written down and not taken away since.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Live {
    /// Name of the binding.
    pub binding: String,
    /// Name of the credential.
    pub credential: String,
    /// Fingerprint of the grant.
    pub fingerprint: String,
    /// SHA-256 of its routes.
    pub scope: String,
}

/// What is written down of a namespace.
#[derive(Clone, Debug, Default)]
pub struct Book {
    /// By UID of the binding: what is committed.
    pub committed: BTreeMap<String, Live>,
    /// The same with what is on its way.
    pub written: BTreeMap<String, Live>,
    /// Whether a leader has just read it: what ended before is seen late.
    pub is_fresh: bool,
}

/// What a pass writes down, and what waits.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Turn {
    /// New rows, in order.
    pub entries: Vec<Entry>,
    /// Bindings, by name, whose grant isn't committed yet: nobody gets it. `true` for one that takes the place of another
    /// grant of the same binding.
    pub waiting: BTreeMap<String, bool>,
}

/// Looks at what holds. `book` is `None` until it is read: then a grant that its own sealed status speaks of is one that was
/// committed before, and everything else waits.
pub fn turn(
    namespace: &str,
    bindings: &[Arc<CredentialBinding>],
    decisions: &Decisions,
    book: Option<&Book>,
    (now, actor): (Timestamp, &str),
) -> Turn {
    let mut turn = Turn::default();
    let mut present = BTreeSet::new();
    for binding in bindings {
        let (name, uid) = (binding.name_any(), binding.uid().unwrap_or_default());
        let Some(Verdict::Active(active)) = decisions.bindings.get(&name) else {
            continue;
        };
        present.insert(uid.clone());
        let Some(book) = book else {
            if !was_granted(binding, active) {
                turn.waiting.insert(name, false);
            }
            continue;
        };
        let live = live(binding, active);
        let same = |live: &Live, other: Option<&Live>| other.is_some_and(|it| it.fingerprint == live.fingerprint);
        let before = book.committed.get(&uid);
        if !same(&live, before) {
            turn.waiting.insert(name.clone(), before.is_some());
        }
        let written = book.written.get(&uid);
        if written != Some(&live) {
            let action = if same(&live, written) {
                Action::Changed
            } else {
                Action::Granted
            };
            let entry = Entry {
                sessions: holders(decisions, &name),
                expires_at: active.expires,
                routes: active.permitted.routes.clone(),
                grant: Some(active.grant.clone()),
                ..entry(namespace, action, (&uid, &live), (now, actor))
            };
            turn.entries.push(entry);
        }
    }
    for (uid, live) in book.iter().flat_map(|book| &book.written) {
        if present.contains(uid) || is_undetermined(decisions, &live.binding) {
            continue;
        }
        let fresh = book.is_some_and(|book| book.is_fresh);
        let action = if fresh {
            Action::RevokedObservedLate
        } else {
            Action::Revoked
        };
        let (reason, message) = match decisions.bindings.get(&live.binding) {
            Some(Verdict::Inactive { reason, message, .. }) => (reason.as_str().to_owned(), message.clone()),
            _ => ("Deleted".to_owned(), "the binding is deleted".to_owned()),
        };
        turn.entries.push(Entry {
            reason,
            message,
            ..entry(namespace, action, (uid, live), (now, actor))
        });
    }
    turn
}

impl Book {
    /// These rows are on their way.
    pub fn write(&mut self, entries: &[Entry]) {
        self.is_fresh = false;
        for entry in entries {
            apply(&mut self.written, entry);
        }
    }

    /// These rows are committed.
    pub fn commit(&mut self, entries: &[Entry]) {
        for entry in entries {
            apply(&mut self.committed, entry);
        }
    }
}

/// What a row makes of what is live.
pub fn apply(live: &mut BTreeMap<String, Live>, entry: &Entry) {
    match entry.action {
        Action::Granted | Action::Changed => {
            let now = Live {
                binding: entry.binding.clone(),
                credential: entry.credential.clone(),
                fingerprint: entry.fingerprint.clone(),
                scope: entry.scope.clone(),
            };
            live.insert(entry.binding_uid.clone(), now);
        }
        Action::Revoked | Action::RevokedObservedLate => drop(live.remove(&entry.binding_uid)),
    }
}

/// A leader that has just begun doesn't know yet: nothing is granted meanwhile, and nothing was taken away either.
fn is_undetermined(decisions: &Decisions, binding: &str) -> bool {
    let verdict = decisions.bindings.get(binding);
    let waits = matches!(
        verdict,
        Some(Verdict::Inactive {
            reason: Reason::Progressing,
            ..
        })
    );
    waits || matches!(decisions.grants.get(binding), Some(ToldGrant::AsBefore))
}

fn live(binding: &CredentialBinding, active: &Active) -> Live {
    let scope = serde_json::to_vec(&active.permitted.routes).unwrap_or_default();
    Live {
        binding: binding.name_any(),
        credential: binding.spec.credential.name.clone(),
        fingerprint: active.grant.fingerprint.clone(),
        scope: hex::encode(Sha256::digest(scope)),
    }
}

fn entry(namespace: &str, action: Action, (uid, live): (&str, &Live), (at, actor): (Timestamp, &str)) -> Entry {
    Entry {
        action,
        at,
        namespace: namespace.to_owned(),
        binding: live.binding.clone(),
        binding_uid: uid.to_owned(),
        credential: live.credential.clone(),
        fingerprint: live.fingerprint.clone(),
        scope: live.scope.clone(),
        routes: vec![],
        sessions: vec![],
        expires_at: None,
        grant: None,
        reason: String::new(),
        message: String::new(),
        actor: actor.to_owned(),
    }
}

fn holders(decisions: &Decisions, binding: &str) -> Vec<String> {
    let holds = |(_, grants): &(&String, &Vec<SessionGrant>)| grants.iter().any(|grant| grant.binding == binding);
    let sessions = decisions.sessions.iter().filter(holds);
    sessions.map(|(uid, _)| uid.clone()).take(SESSIONS_MAX).collect()
}

/// The status is written after the row: what it says was granted is in the chain.
fn was_granted(binding: &CredentialBinding, active: &Active) -> bool {
    let Some(status) = &binding.status else { return false };
    let same = status
        .grant
        .as_ref()
        .is_some_and(|grant| grant.fingerprint == active.grant.fingerprint);
    let mut conditions = status.conditions.iter();
    same && conditions.any(|condition| condition.type_ == "Active" && condition.status == "True")
}

/// In a row; the count of all is in the binding's status.
const SESSIONS_MAX: usize = 64;

#[cfg(test)]
mod tests;
