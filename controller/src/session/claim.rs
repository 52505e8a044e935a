//! Pure: the SandboxClaim of an incarnation.

use std::collections::BTreeMap;
use std::time::Duration;

use berth_crds::{AgentSession, label};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::ObjectMeta;
use kube::{Resource, ResourceExt};

use super::plan::{after, time};
use crate::sandbox::SandboxClaim;
use crate::sandbox::kind::{ClaimLifecycle, NameRef, PodMetadata, SandboxClaimSpec};

/// The claim. Never `env`, never volumes: either would force a cold start (DESIGN §1.5). `shutdownTime` only from
/// `maxDuration`: it works while we are down, and we end the session before it.
pub fn claim(session: &AgentSession, incarnation: i64, pair: &str, now: Timestamp, grace: Duration) -> SandboxClaim {
    let pod = BTreeMap::from([
        (label::SESSION_UID.to_owned(), session.uid().unwrap_or_default()),
        (label::INCARNATION.to_owned(), incarnation.to_string()),
    ]);
    let most: Option<Duration> = session
        .spec
        .lifecycle
        .as_ref()
        .and_then(|cycle| cycle.max_duration)
        .map(Into::into);
    SandboxClaim {
        metadata: ObjectMeta {
            name: Some(format!("{}-{incarnation}", session.name_any())),
            namespace: session.namespace(),
            labels: Some(BTreeMap::from([
                (label::POOL.to_owned(), session.spec.pool_ref.name.clone()),
                (label::SESSION.to_owned(), session.name_any()),
            ])),
            annotations: Some(BTreeMap::from([
                (label::INCARNATION.to_owned(), incarnation.to_string()),
                (label::FIRST_REQUESTED.to_owned(), now.to_string()),
            ])),
            owner_references: Some(vec![owner(session)]),
            ..ObjectMeta::default()
        },
        spec: SandboxClaimSpec {
            warm_pool_ref: NameRef { name: pair.to_owned() },
            lifecycle: most.map(|most| ClaimLifecycle {
                shutdown_time: Some(time(after(now, most + grace))),
                shutdown_policy: Some("Delete".to_owned()),
            }),
            additional_pod_metadata: Some(PodMetadata {
                labels: BTreeMap::new(),
                annotations: pod,
            }),
        },
        status: None,
    }
}

fn owner(session: &AgentSession) -> OwnerReference {
    OwnerReference {
        api_version: AgentSession::api_version(&()).into_owned(),
        kind: AgentSession::kind(&()).into_owned(),
        name: session.name_any(),
        uid: session.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}
