//! GRANTPOLICY → STATUS, once for a generation: in force, or which of its fields this release can't judge yet. Those
//! restrict and never widen ([`super::permit`]).

use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_crds::condition::{self, Wanted};
use berth_crds::{ConditionType, GrantPolicy, GrantPolicySpec, GrantPolicyStatus, Reason, label};
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
    let unjudged = unjudged(&policy.spec);
    let wanted = if unjudged.is_empty() {
        let message = "the policy is in force";
        vec![Wanted::yes(ConditionType::Ready, Reason::PolicyReady, message)]
    } else {
        let message = format!(
            "{} isn't implemented in this release: the policy restricts and allows nothing by it",
            unjudged.join(", ")
        );
        vec![
            Wanted::no(ConditionType::Ready, Reason::NotImplemented, message.clone()),
            Wanted::yes(ConditionType::Stalled, Reason::NotImplemented, message),
        ]
    };
    let new = GrantPolicyStatus {
        observed_generation: generation,
        conditions: condition::merge(&old.conditions, &wanted, generation, &time(now)),
    };
    (policy.status.as_ref() != Some(&new)).then_some(new)
}

fn unjudged(spec: &GrantPolicySpec) -> Vec<&'static str> {
    let require = spec.require.as_ref();
    let checks = [(
        require.is_some_and(|require| require.on_stale.is_some()),
        "spec.require.onStale",
    )];
    checks
        .into_iter()
        .filter(|(used, _)| *used)
        .map(|(_, field)| field)
        .collect()
}

/// Somebody else wrote the object; the watch brings it within this time.
const OVERTAKEN: Duration = Duration::from_millis(50);
