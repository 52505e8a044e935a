//! Pure but for what is kept: from a request that was refused to the least CredentialBinding that would allow it, as YAML for a pull request.
//! What an agent asks for is nobody's decision: the document says whose wish it is, names one place exactly, and ends.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use berth_crds::{AgentSession, CredentialBinding, CredentialBindingSpec, Injection, Proposal, Route, Subjects};
use berth_egress::authority::Authority;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use parking_lot::Mutex;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::plan::time;
use crate::grant::permit::Permitted;
use crate::grant::select;
use crate::grant::vet::vet;

/// What a sidecar tells of a request with a credential's stub that no grant covers.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
pub struct Unmet {
    /// Name of the credential.
    pub credential: String,
    /// Method of the request.
    pub method: String,
    /// Host and port.
    pub authority: String,
    /// Path, canonical, without the query.
    pub path: String,
}

#[derive(Deserialize)]
struct Record {
    unmet: Unmet,
}

impl Unmet {
    /// Of a record of the trail, if it is one.
    pub fn read(record: &[u8]) -> Option<Self> {
        if !record.starts_with(br#"{"unmet":"#) {
            return None;
        }
        serde_json::from_slice(record).ok().map(|Record { unmet }| unmet)
    }
}

/// The proposal for a session; `None` where no binding of its team holds the credential, or where no route could be so
/// exact.
pub fn propose(
    session: &AgentSession,
    unmet: &Unmet,
    bindings: &[&CredentialBinding],
    now: Timestamp,
) -> Option<Proposal> {
    let known = bindings.iter().find(|binding| {
        binding.spec.credential.name == unmet.credential && select::selects(&binding.spec.subjects, session)
    })?;
    let authority = Authority::from_connect(&unmet.authority).ok()?;
    let like = known.spec.routes.iter().find(|route| route.git.is_none())?;
    let binding = binding(session, (unmet, &authority), (known, like), now);
    let mut permitted = Permitted {
        routes: binding.spec.routes.clone(),
        narrowed: Vec::new(),
    };
    vet(&binding, &mut permitted);
    let exact = !unmet.path.contains(['*', '%', '{']) && unmet.path.len() <= PATH_MAX;
    if !exact || !METHODS.contains(&&*unmet.method) || !permitted.narrowed.is_empty() {
        return None;
    }
    let mut document = serde_json::to_value(&binding).ok()?;
    document.as_object_mut()?.remove("status");
    let yaml = serde_yaml::to_string(&document).ok()?;
    Some(Proposal {
        at: time(now),
        credential: unmet.credential.clone(),
        method: unmet.method.clone(),
        host: authority.to_string(),
        path: unmet.path.clone(),
        binding: yaml,
    })
}

fn binding(
    session: &AgentSession,
    (unmet, authority): (&Unmet, &Authority),
    (known, like): (&CredentialBinding, &Route),
    now: Timestamp,
) -> CredentialBinding {
    let digest = Sha256::digest(format!("{} {} {}", unmet.method, unmet.authority, unmet.path));
    let name = format!("proposed-{}", &hex::encode(digest)[..8]);
    let session = session.name_any();
    let same_host = like.host == authority.host.to_string();
    let route = Route {
        name: "proposed".to_owned(),
        host: authority.host.to_string(),
        ports: Some(i32::from(authority.port))
            .filter(|port| *port != HTTPS)
            .into_iter()
            .collect(),
        methods: vec![unmet.method.clone()],
        paths: vec![unmet.path.clone()],
        addresses: if same_host { like.addresses.clone() } else { Vec::new() },
        inject: Injection::clone(&like.inject),
        ..Route::default()
    };
    CredentialBinding::new(
        &name,
        CredentialBindingSpec {
            credential: known.spec.credential.clone(),
            subjects: Subjects {
                session_names: vec![session.clone()],
                ..Subjects::default()
            },
            routes: vec![route],
            expires_at: now.saturating_add(LASTS).ok().map(day_of),
            reason: format!("the agent of session {session} asked for this; whoever prompts an agent can make it ask"),
            not_before: None,
            revoke: None,
            suspend: false,
        },
    )
}

/// Whole seconds, as people write them.
fn day_of(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

/// What is kept of sessions' proposals until it stands in their status, by the session's UID. Cheap to clone.
#[derive(Clone, Default)]
pub struct Proposals {
    inner: Arc<Mutex<HashMap<String, Kept>>>,
}

#[derive(Default)]
struct Kept {
    found: Vec<Proposal>,
    /// How many of them may be shown.
    shown: usize,
    /// When the next may be.
    next: Option<Timestamp>,
}

impl Proposals {
    /// Takes one in. Gives how long it has to wait; `None` when there is nothing new, or no room.
    pub fn add(&self, session_uid: &str, proposal: Proposal, now: Timestamp) -> Option<Duration> {
        let mut inner = self.inner.lock();
        let kept = inner.entry(session_uid.to_owned()).or_default();
        if kept.found.len() >= PROPOSALS_MAX || kept.found.iter().any(|found| is_same(found, &proposal)) {
            return None;
        }
        kept.found.push(proposal);
        let wait = kept.next.map(|next| next.duration_since(now));
        Some(wait.and_then(|wait| Duration::try_from(wait).ok()).unwrap_or_default())
    }

    /// Those that may be shown: new ones once a minute, as an agent could make a status change at will.
    pub fn shown(&self, session_uid: &str, now: Timestamp) -> Vec<Proposal> {
        let mut inner = self.inner.lock();
        let Some(kept) = inner.get_mut(session_uid) else {
            return Vec::new();
        };
        if kept.shown < kept.found.len() && kept.next.is_none_or(|next| next <= now) {
            kept.shown = kept.found.len();
            kept.next = now.saturating_add(SHOWN_EVERY).ok();
        }
        kept.found[..kept.shown].to_vec()
    }

    /// The session is gone.
    pub fn forget(&self, session_uid: &str) {
        self.inner.lock().remove(session_uid);
    }
}

/// What stands in the status, and what is to be added.
pub fn merged(stands: &[Proposal], new: &[Proposal]) -> Vec<Proposal> {
    let mut all = stands.to_vec();
    let added = new
        .iter()
        .filter(|new| !stands.iter().any(|stands| is_same(stands, new)));
    all.extend(added.cloned());
    all.truncate(PROPOSALS_MAX);
    all
}

fn is_same(one: &Proposal, other: &Proposal) -> bool {
    let place = |it: &Proposal| {
        (
            it.credential.clone(),
            it.method.clone(),
            it.host.clone(),
            it.path.clone(),
        )
    };
    place(one) == place(other)
}

/// Of one session; the schema has the same bound.
const PROPOSALS_MAX: usize = 5;
const SHOWN_EVERY: SignedDuration = SignedDuration::from_mins(1);
/// What a person asks for; anything else is written by hand.
const METHODS: [&str; 6] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"];
const HTTPS: i32 = 443;
/// Of a route in the schema.
const PATH_MAX: usize = 512;
/// Long enough for a review and a piece of work.
const LASTS: SignedDuration = SignedDuration::from_hours(24);

#[cfg(test)]
mod tests;
