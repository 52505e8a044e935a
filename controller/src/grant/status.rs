//! Pure: the status of a binding, by its verdict.

use berth_crds::condition::{self, Wanted};
use berth_crds::{ConditionType, CredentialBinding, CredentialBindingStatus, Grant, Reason};
use jiff::Timestamp;
use kube::ResourceExt;

use super::approve::ToldGrant;
use super::decide::{Active, Verdict};
use super::evidence::prove::Proof;
use super::evidence::seal;
use super::offer::InstallKey;
use crate::session::plan::time;

/// What is to be said of a binding, and why its rotated refresh token isn't stored; `None` when it stands already. A grant
/// is sealed as it is written.
pub fn status(
    binding: &CredentialBinding,
    (verdict, grant): (&Verdict, &ToldGrant),
    unsaved: Option<&String>,
    sessions: i64,
    (key, now): (&InstallKey, Timestamp),
) -> Option<CredentialBindingStatus> {
    let generation = binding.metadata.generation.unwrap_or(0);
    let old = binding.status.clone().unwrap_or_default();
    let mut wanted = conditions(verdict, grant);
    wanted.extend(unsaved.map(|why| not_stored(why)));
    let new = CredentialBindingStatus {
        observed_generation: generation,
        conditions: condition::merge(&old.conditions, &wanted, generation, &time(now)),
        grant: match grant {
            ToldGrant::AsBefore => old.grant,
            ToldGrant::Nothing => None,
            ToldGrant::Sealed(sealed) => Some(Grant::clone(sealed)),
            ToldGrant::Proven(proof) => Some(sealed(binding, proof, (key, now))),
        },
        sessions: Some(sessions),
    };
    (binding.status.as_ref() != Some(&new)).then_some(new)
}

/// With the time from which it holds: of what was sealed before the same.
fn sealed(binding: &CredentialBinding, proof: &Proof, (key, now): (&InstallKey, Timestamp)) -> Grant {
    let since = proof.sealed.as_ref().and_then(|before| before.granted_at.clone());
    let mut grant = Grant {
        granted_at: Some(since.unwrap_or_else(|| time(whole_second(now)))),
        seal: None,
        ..proof.grant.clone()
    };
    grant.seal = Some(seal::seal(key, &binding.uid().unwrap_or_default(), &grant));
    grant
}

/// As the API server may cut it; the seal is over all of it.
fn whole_second(now: Timestamp) -> Timestamp {
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

fn conditions(verdict: &Verdict, grant: &ToldGrant) -> Vec<Wanted> {
    let proven = matches!(grant, ToldGrant::Proven(_));
    let approved = |reason: Reason, message: &str| {
        let there = "the evidence that policies ask for is there";
        if proven {
            Wanted::yes(ConditionType::Approved, Reason::Granted, there)
        } else {
            Wanted::no(ConditionType::Approved, reason, message)
        }
    };
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
            approved(*reason, message),
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
            approved(*reason, message),
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
    let grant = &active.grant;
    let by = match (&grant.commit, &grant.pull_request) {
        (Some(commit), None) => format!("granted by commit {}", commit.get(..12).unwrap_or(commit)),
        (Some(commit), Some(pull)) => {
            let users: Vec<&str> = grant.approvers.iter().map(|approval| approval.user.as_str()).collect();
            let commit = commit.get(..12).unwrap_or(commit);
            format!("granted by commit {commit} of {pull}, approved by {}", users.join(", "))
        }
        (None, _) => "granted by the object alone".to_owned(),
    };
    if active.permitted.narrowed.is_empty() {
        by
    } else {
        format!("{by}; {}", active.permitted.narrowed.join("; "))
    }
}
