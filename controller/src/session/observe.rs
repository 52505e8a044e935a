//! Gathers everything that a session's plan depends on into one [`Snapshot`], from the stores and the streams. No
//! request is made: an unchanged session costs the API server nothing.

use std::sync::Arc;
use std::time::Duration;

use berth_crds::{AgentPool, LaunchType, label};
use k8s_openapi::api::core::v1::Pod;
use kube::{Resource, ResourceExt};

use super::snapshot::{CheckpointFacts, ClaimFacts, InputFacts, PodFacts, PoolFacts, SandboxFacts, Snapshot};
use crate::context::Context;
use crate::pool;
use crate::sandbox::{ClaimPhase, Sandbox, SandboxClaim, claim_phase};
use crate::watch::Name;

/// The session's snapshot; `None` when there is no such session.
pub fn observe(context: &Context, name: &Name) -> Option<Snapshot> {
    let cached = context.caches.session(name)?;
    let session = Arc::unwrap_or_clone(context.written.newest(cached));
    let uid = session.uid()?;
    let mut claims: Vec<ClaimFacts> = context
        .caches
        .claims_of(&uid)
        .iter()
        .filter_map(|claim| claim_facts(claim))
        .collect();
    context.own_claims.apply((name, &uid), &mut claims, context.clock.now());
    claims.sort_by_key(|claim| claim.incarnation);
    let mut snapshot = Snapshot {
        now: context.clock.now(),
        serving_since: context.serving_since(),
        pool: pool_facts(context, &name.beside(&session.spec.pool_ref.name)),
        session,
        claims,
        sandbox: None,
        pod: None,
        stream: None,
        run: super::snapshot::RunFacts::default(),
        troubles: [context.allotments.troubles(&uid), context.gateway_keys.troubles(&uid)].concat(),
        proposals: context.proposals.shown(&uid, context.clock.now()),
        is_attached: false,
        checkpoint: CheckpointFacts::NotAsked,
        input: InputFacts::NotAsked,
        spend: context.spend.facts(&uid),
        pulls: None,
    };
    let repository = snapshot.session.spec.repository.as_ref();
    snapshot.pulls = repository.and_then(|repository| context.evidence.forges().pulls(&repository.url));
    let bound = snapshot.status().sandbox.and_then(|sandbox| sandbox.pod_uid);
    snapshot.is_attached = bound.is_some_and(|pod_uid| context.registry.pod(&pod_uid).is_some());
    let (phase, incarnation) = {
        let claim = snapshot.claim();
        (
            claim.map(|claim| claim.phase.clone()),
            claim.map(|claim| claim.incarnation),
        )
    };
    snapshot.run = context
        .runs
        .facts(&uid, incarnation.unwrap_or_else(|| snapshot.status().incarnation));
    if let Some(sandbox) =
        sandbox_name(&snapshot, phase).and_then(|sandbox| context.caches.sandbox(&name.beside(&sandbox)))
    {
        let pod = sandbox
            .annotations()
            .get(label::SANDBOX_POD_NAME)
            .cloned()
            .unwrap_or_else(|| sandbox.name_any());
        snapshot.pod = context
            .caches
            .pod(&name.beside(&pod))
            .and_then(|pod| pod_facts(&pod, &sandbox));
        snapshot.stream = snapshot.pod.as_ref().and_then(|pod| context.registry.facts(&pod.uid));
        snapshot.sandbox = Some(sandbox_facts(&sandbox));
    }
    Some(snapshot)
}

/// The sandbox that the claim names now, else the one that the status says is bound.
fn sandbox_name(snapshot: &Snapshot, phase: Option<ClaimPhase>) -> Option<String> {
    match phase {
        Some(ClaimPhase::Ready { sandbox }) => Some(sandbox),
        _ => snapshot.status().sandbox.and_then(|bound| bound.name),
    }
}

/// `None` for a claim that isn't one of ours.
pub fn claim_facts(claim: &SandboxClaim) -> Option<ClaimFacts> {
    Some(ClaimFacts {
        name: claim.name_any(),
        uid: claim.uid()?,
        incarnation: claim.annotations().get(label::INCARNATION)?.parse().ok()?,
        pair: claim.spec.warm_pool_ref.name.clone(),
        created: claim.creation_timestamp()?.0,
        deleting: claim.meta().deletion_timestamp.is_some(),
        given_back: false,
        phase: claim_phase(claim),
    })
}

fn sandbox_facts(sandbox: &Sandbox) -> SandboxFacts {
    let status = sandbox.status.clone().unwrap_or_default();
    let ready = status
        .conditions
        .iter()
        .find(|condition| condition.type_ == "Ready" && condition.status == "True");
    let launch_type = match sandbox.labels().get(label::LAUNCH_TYPE).map(String::as_str) {
        Some("warm") => Some(LaunchType::Warm),
        Some("cold") => Some(LaunchType::Cold),
        _ => None,
    };
    SandboxFacts {
        name: sandbox.name_any(),
        uid: sandbox.uid().unwrap_or_default(),
        deleting: sandbox.meta().deletion_timestamp.is_some(),
        ready_since: ready.map(|ready| ready.last_transition_time.0),
        launch_type,
        service_fqdn: status.service_fqdn.filter(|name| !name.is_empty()),
    }
}

/// The pod, if the sandbox controls it.
fn pod_facts(pod: &Pod, sandbox: &Sandbox) -> Option<PodFacts> {
    let owner = crate::sandbox::kind::controller_uid(pod.meta(), "Sandbox")?;
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let ended = matches!(phase, Some("Failed" | "Succeeded"));
    (Some(owner) == sandbox.uid().as_deref()).then(|| PodFacts {
        name: pod.name_any(),
        uid: pod.uid().unwrap_or_default(),
        ending: pod.meta().deletion_timestamp.is_some() || ended,
    })
}

fn pool_facts(context: &Context, name: &Name) -> Option<PoolFacts> {
    let pool = context.caches.pool(name)?;
    let pairs = pool::reconcile::pairs(context, name);
    let wanted = pool::pair::render(&pool, &context.settings).pair;
    let serving = pool::plan::serving(&pairs, &wanted);
    Some(PoolFacts {
        serving_pair: serving.map(|pair| pair.name.clone()),
        ready_members: serving.map_or(0, |pair| pair.ready),
        cold_start: pool.spec.cold_start.unwrap_or_default(),
        free: free(context, &pool, name),
        startup_deadline: pool.spec.startup_deadline.map(Duration::from),
        opens_hosts: pool
            .spec
            .egress
            .as_ref()
            .is_some_and(|egress| !egress.routes.is_empty()),
        refused: context.pools.refused(name).filter(|_| serving.is_none()),
        breaker_open_until: context.pools.open_until(name, context.clock.now()),
    })
}

fn free(context: &Context, pool: &AgentPool, name: &Name) -> Option<i64> {
    let most = i64::from(pool.spec.max_sessions?);
    Some(most - pool::reconcile::sessions_with_claim(context, name))
}
