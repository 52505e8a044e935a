//! Pure: the status of a binding, by its verdict.

use berth_crds::condition::{self, Wanted};
use berth_crds::{ConditionType, CredentialBinding, CredentialBindingStatus, Evidence, Grant, Reason};
use jiff::Timestamp;

use super::decide::{Active, Verdict};
use crate::session::plan::time;

/// What is to be said of a binding, and why its rotated refresh token isn't stored; `None` when it stands already.
pub fn status(
    binding: &CredentialBinding,
    (verdict, unsaved): (&Verdict, Option<&String>),
    sessions: i64,
    now: Timestamp,
) -> Option<CredentialBindingStatus> {
    let generation = binding.metadata.generation.unwrap_or(0);
    let old = binding.status.clone().unwrap_or_default();
    let mut wanted = conditions(verdict);
    wanted.extend(unsaved.map(|why| not_stored(why)));
    let new = CredentialBindingStatus {
        observed_generation: generation,
        conditions: condition::merge(&old.conditions, &wanted, generation, &time(now)),
        grant: match verdict {
            Verdict::Active(active) => Some(grant(active, old.grant.as_ref(), now)),
            Verdict::Inactive { .. } => None,
        },
        sessions: Some(sessions),
    };
    (binding.status.as_ref() != Some(&new)).then_some(new)
}

fn conditions(verdict: &Verdict) -> Vec<Wanted> {
    match verdict {
        Verdict::Active(active) => {
            let message = told(active);
            vec![
                Wanted::yes(ConditionType::Ready, Reason::Granted, message.clone()),
                Wanted::yes(ConditionType::Approved, Reason::Granted, message.clone()),
                Wanted::yes(ConditionType::Active, Reason::Granted, message),
            ]
        }
        Verdict::Inactive {
            reason,
            message,
            stalled: true,
        } => vec![
            Wanted::no(ConditionType::Ready, *reason, message.clone()),
            Wanted::yes(ConditionType::Stalled, *reason, message.clone()),
            Wanted::no(ConditionType::Active, *reason, message.clone()),
        ],
        Verdict::Inactive {
            reason: Reason::Progressing,
            message,
            ..
        } => vec![
            Wanted::no(ConditionType::Ready, Reason::Progressing, message.clone()),
            Wanted::yes(ConditionType::Reconciling, Reason::Progressing, message.clone()),
        ],
        // As its author wants it: nothing is in the way, and nothing is granted.
        Verdict::Inactive { reason, message, .. } => vec![
            Wanted::yes(ConditionType::Ready, *reason, message.clone()),
            Wanted::no(ConditionType::Active, *reason, message.clone()),
        ],
    }
}

/// The grant stands, on something that a restart takes away.
fn not_stored(why: &str) -> Wanted {
    let message = format!("the rotated refresh token is in the controller's memory alone, and lost with it: {why}");
    Wanted::no(ConditionType::RefreshTokenStored, Reason::WriteBackFailed, message)
}

fn told(active: &Active) -> String {
    let by = match &active.commit {
        Some(commit) => format!("granted by commit {}", commit.get(..12).unwrap_or(commit)),
        None => "granted by the object alone".to_owned(),
    };
    if active.permitted.narrowed.is_empty() {
        by
    } else {
        format!("{by}; {}", active.permitted.narrowed.join("; "))
    }
}

fn grant(active: &Active, old: Option<&Grant>, now: Timestamp) -> Grant {
    let same = old.filter(|old| old.fingerprint == active.fingerprint);
    Grant {
        fingerprint: active.fingerprint.clone(),
        commit: active.commit.clone(),
        author: active.author.clone().filter(|author| !author.is_empty()),
        evidence: active.commit.iter().map(|_| Evidence::Branch).collect(),
        granted_at: Some(same.and_then(|old| old.granted_at.clone()).unwrap_or_else(|| time(now))),
        expires_at: active.expires.map(time),
        ..Grant::default()
    }
}
