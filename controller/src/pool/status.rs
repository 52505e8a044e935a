//! Pure: the status of a pool.

use std::collections::BTreeMap;

use berth_crds::condition::{self, Wanted};
use berth_crds::{AgentPoolStatus, ConditionType, Confinement, Reason, label};

use super::plan::{Snapshot, State, serving};
use crate::session::plan::time;

/// The status that a pass leaves.
pub fn status(snapshot: &Snapshot, state: &State) -> AgentPoolStatus {
    let old = snapshot.pool.status.clone().unwrap_or_default();
    let generation = snapshot.pool.metadata.generation.unwrap_or(0);
    let serves = serving(&snapshot.pairs, &snapshot.rendering.pair);
    let draining = snapshot
        .pairs
        .iter()
        .filter(|pair| Some(&pair.name) != serves.map(|serves| &serves.name));
    let confinement = snapshot.pool.spec.confinement.unwrap_or_default();
    let wanted = [ready(state), vec![confined(confinement)]].concat();
    AgentPoolStatus {
        observed_generation: generation,
        conditions: condition::merge(&old.conditions, &wanted, generation, &time(snapshot.now)),
        current: serves.map(|pair| pair.name.clone()),
        draining: draining.map(|pair| pair.name.clone()).collect(),
        renderings: renderings(snapshot, &old.renderings),
        warm: serves.map(|pair| format!("{}/{}", pair.ready, pair.replicas)),
        sessions: Some(snapshot.sessions),
        confinement: Some(confinement),
        last_handled_reconcile_at: annotation(snapshot),
    }
}

/// Whether two statuses differ in more than the counts, which change with every session.
pub fn differs(old: Option<&AgentPoolStatus>, new: &AgentPoolStatus) -> bool {
    let uncounted = |status: &AgentPoolStatus| AgentPoolStatus {
        warm: None,
        sessions: None,
        ..status.clone()
    };
    old.map(uncounted) != Some(uncounted(new))
}

/// Hashes of the renderings that live pods may have: the wanted one and those of pairs that still exist.
fn renderings(snapshot: &Snapshot, old: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let exists = |name: &String| snapshot.pairs.iter().any(|pair| &pair.name == name);
    let mut kept: BTreeMap<String, String> = old
        .iter()
        .filter(|(name, _)| exists(name))
        .map(|(name, hash)| (name.clone(), hash.clone()))
        .collect();
    kept.insert(snapshot.rendering.pair.clone(), snapshot.rendering.sha256.clone());
    kept
}

fn annotation(snapshot: &Snapshot) -> Option<String> {
    snapshot
        .pool
        .metadata
        .annotations
        .as_ref()?
        .get(label::RECONCILE)
        .cloned()
}

fn ready(state: &State) -> Vec<Wanted> {
    match state {
        State::Ready => vec![Wanted::yes(
            ConditionType::Ready,
            Reason::PoolReady,
            "sandboxes wait warm",
        )],
        State::Warming(message) => vec![
            Wanted::no(ConditionType::Ready, Reason::PoolWarming, message.clone()),
            Wanted::yes(ConditionType::Reconciling, Reason::Progressing, message.clone()),
        ],
        State::Stalled(reason, message) => stalled(*reason, message),
        State::Broken(message) => stalled(Reason::SandboxesDoNotAttach, message),
    }
}

fn stalled(reason: Reason, message: &str) -> Vec<Wanted> {
    vec![
        Wanted::no(ConditionType::Ready, reason, message),
        Wanted::yes(ConditionType::Stalled, reason, message),
    ]
}

fn confined(confinement: Confinement) -> Wanted {
    match confinement {
        Confinement::Fence => Wanted::yes(
            ConditionType::Confined,
            Reason::Fenced,
            "owner rules in the pod let the agent reach its sidecar alone",
        ),
        Confinement::NetworkPolicy => Wanted::unknown(
            ConditionType::Confined,
            Reason::Unconfined,
            "a NetworkPolicy holds only where the network plugin enforces it, and lets the agent reach what its sidecar does",
        ),
        Confinement::None => Wanted::no(
            ConditionType::Confined,
            Reason::Unconfined,
            "nothing keeps the agent from going round the sidecar",
        ),
    }
}
