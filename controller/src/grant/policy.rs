//! GRANTPOLICY → STATUS, once for a generation: in force.

use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_crds::condition::{self, Wanted};
use berth_crds::{ConditionType, GrantPolicy, GrantPolicyStatus, Reason, label};
use jiff::Timestamp;
use kube::api::{Api, PostParams};
use kube::{Resource, ResourceExt};

use crate::answer;
use crate::context::Context;
use crate::session::plan::time;
use crate::telemetry::chain;
use crate::watch::Name;
use crate::work::Outcome;

/// Looks at one policy.
pub async fn reconcile(context: Arc<Context>, name: Name) -> Outcome {
    let began = Instant::now();
    let outcome = pass(&context, &name).await;
    context.metrics.reconcile.observe("policy", outcome, began.elapsed());
    outcome
}

async fn pass(context: &Context, name: &Name) -> Outcome {
    let Some(policy) = context.caches.policy(name) else {
        context.written_policies.forget(name);
        return Outcome::Done;
    };
    let policy = context.written_policies.newest(policy);
    let Some(status) = status(&policy, context.clock.now()) else {
        return Outcome::Done;
    };
    if policy.meta().deletion_timestamp.is_some() || context.check_leading().is_err() {
        return Outcome::Done;
    }
    let api: Api<GrantPolicy> = Api::all(context.client.clone());
    let wanted = GrantPolicy {
        status: Some(status),
        ..GrantPolicy::clone(&policy)
    };
    let params = PostParams {
        field_manager: Some(label::MANAGER.to_owned()),
        ..PostParams::default()
    };
    match api.replace_status(&name.name, &params, &wanted).await {
        Ok(written) => {
            context.written_policies.remember(policy.resource_version(), written);
            Outcome::Done
        }
        Err(error) if answer::is_overtaken(&error) => Outcome::Again(OVERTAKEN),
        Err(error) => {
            tracing::warn!(policy = name.name, error = chain(&error), "policy pass failed");
            Outcome::Failed
        }
    }
}

fn status(policy: &GrantPolicy, now: Timestamp) -> Option<GrantPolicyStatus> {
    let generation = policy.metadata.generation.unwrap_or(0);
    let old = policy.status.clone().unwrap_or_default();
    let wanted = [Wanted::yes(
        ConditionType::Ready,
        Reason::PolicyReady,
        "the policy is in force",
    )];
    let new = GrantPolicyStatus {
        observed_generation: generation,
        conditions: condition::merge(&old.conditions, &wanted, generation, &time(now)),
    };
    (policy.status.as_ref() != Some(&new)).then_some(new)
}

/// Somebody else wrote the object; the watch brings it within this time.
const OVERTAKEN: Duration = Duration::from_millis(50);
