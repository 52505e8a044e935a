//! AGENTSESSION → CLAIM → BOUND → RESULT. One pass: observe → plan → act → status → record (DESIGN §5).
//!
//! In: the stores, the streams, what runners told, the clock: all as one [`snapshot::Snapshot`]. Out: claims, pushes,
//! one status write when something changed. The decision is [`plan::plan`], pure; IO is in [`act`] alone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::ResourceExt;

use self::snapshot::{CheckpointFacts, CheckpointWanted, InputFacts, Snapshot};
use crate::context::Context;
use crate::telemetry::chain;
use crate::watch::Name;
use crate::work::Outcome;

pub mod act;
pub mod claim;
pub mod observe;
pub mod own_claims;
pub mod plan;
pub mod proposal;
pub mod runs;
pub mod snapshot;
pub mod spend;
pub mod status;

#[cfg(test)]
mod tests;

/// Looks at one session: passes follow each other while one leads straight to the next.
pub async fn reconcile(context: Arc<Context>, name: Name) -> Outcome {
    let began = Instant::now();
    let mut outcome = Outcome::Again(Duration::ZERO);
    for _ in 0..PASSES_MAX {
        outcome = pass(&context, &name).await;
        if outcome != Outcome::Again(Duration::ZERO) {
            break;
        }
    }
    context.metrics.reconcile.observe("session", outcome, began.elapsed());
    outcome
}

async fn pass(context: &Context, name: &Name) -> Outcome {
    match try_pass(context, name).await {
        Ok(None) => Outcome::Done,
        Ok(Some(wait)) => Outcome::Again(wait),
        Err(error) if error.is_overtaken() => Outcome::Again(OVERTAKEN),
        Err(error) if error.is_terminating() => Outcome::Done,
        Err(error) => {
            let error = chain(&error);
            tracing::warn!(
                session.namespace = name.namespace,
                session.name = name.name,
                error,
                "session pass failed"
            );
            Outcome::Failed
        }
    }
}

async fn try_pass(context: &Context, name: &Name) -> Result<Option<Duration>, act::ActError> {
    let Some(mut snapshot) = observe::observe(context, name) else {
        context.written.forget(name);
        context.own_claims.forget(name);
        return Ok(None);
    };
    if let Some(wanted) = plan::checkpoint_wanted(&snapshot) {
        snapshot.checkpoint = checkpoint(context, &snapshot, wanted).await;
    }
    if plan::rest::is_input_wanted(&snapshot) {
        let newest = context.inputs.newest(&snapshot.session.uid().unwrap_or_default()).await;
        snapshot.input = match newest {
            Ok(number) => InputFacts::Newest(number),
            Err(error) => InputFacts::Away(chain(&error)),
        };
    }
    let plan = plan::plan(&snapshot, &context.settings.deadlines);
    act::act(context, name, &snapshot, &plan).await?;
    if let Some(status) = status::status(&snapshot, &plan.state) {
        let session = act::write_status(context, &snapshot, status).await?;
        act::record(context, &snapshot, &plan, &session);
    }
    Ok(plan.requeue)
}

/// Asks Postgres for what a plan depends on: only a session that goes on in another pod does.
async fn checkpoint(context: &Context, snapshot: &Snapshot, wanted: CheckpointWanted) -> CheckpointFacts {
    let (uid, status) = (snapshot.session.uid().unwrap_or_default(), snapshot.status());
    let found = match wanted {
        CheckpointWanted::Before(incarnation) => {
            let run_id = status.run_id.unwrap_or_default();
            context.checkpoints.newest(&uid, &run_id, incarnation).await
        }
        CheckpointWanted::Named(which) => context.checkpoints.named(&uid, which).await,
    };
    match found {
        Ok(Some(kept)) => CheckpointFacts::Kept(kept),
        Ok(None) => CheckpointFacts::Nothing,
        Err(error) => CheckpointFacts::Away(chain(&error)),
    }
}

/// A session is gone: what was kept for it goes, and the record says so.
pub fn forget(context: &Context, session_uid: &str) -> Outcome {
    context.runs.forget(session_uid);
    context.proposals.forget(session_uid);
    context.spend.forget(session_uid);
    context.allotments.forget(session_uid);
    context.projection.gone(session_uid);
    for pod_uid in context.sessions_on_pods.take(session_uid) {
        act::stop(context, &pod_uid, "the session was deleted");
    }
    Outcome::Done
}

/// Bound → released → running is three passes; more would be a loop.
const PASSES_MAX: usize = 5;
/// Somebody else wrote the object; the watch brings it within this time.
const OVERTAKEN: Duration = Duration::from_millis(50);
