//! A session that has begun and rests: idle, or with its budget spent; until it goes on, or nobody needs it any more.

use std::time::Duration;

use berth_crds::condition;
use berth_crds::{AgentSessionStatus, ConditionType, Lifecycle, OnInterrupt, PauseReason, Paused, Reason, TaskMode};
use berth_protocol::money::Pico;
use jiff::Timestamp;

use super::{LAST_WORDS, Plan, STORE_RETRY, State, after, give_back, go_on, has_ended, left, release, time};
use crate::session::snapshot::{CheckpointFacts, InputFacts, Snapshot};
use crate::settings::Deadlines;

/// Since when an interactive session waits for input, if it does.
pub(super) fn waits_since(snapshot: &Snapshot, status: &AgentSessionStatus) -> Option<Timestamp> {
    if snapshot.stream.as_ref().is_some_and(|stream| stream.waits.is_none()) {
        return None;
    }
    let waits = condition::find(&status.conditions, ConditionType::WaitingForInput)?;
    (waits.status == "True").then_some(waits.last_transition_time.0)
}

/// A session that rests: until there is a reason to go on, or nobody needs it any more.
pub(super) fn rest_on(
    snapshot: &Snapshot,
    status: &AgentSessionStatus,
    paused: &Paused,
    deadlines: &Deadlines,
) -> Plan {
    if paused.reason == PauseReason::BudgetExhausted {
        return rest_until_raised(snapshot, status, paused, deadlines);
    }
    let until_release = match until_idle(snapshot, paused.since.0, |lifecycle| lifecycle.idle_release_after) {
        Due::Now(after) => return released(snapshot, after),
        Due::In(left) => Some(left),
        Due::Never => None,
    };
    let worked_through = match &snapshot.checkpoint {
        CheckpointFacts::Kept(kept) => i64::try_from(kept.about.input).unwrap_or(i64::MAX),
        _ => 0,
    };
    let away = matches!(snapshot.checkpoint, CheckpointFacts::Away(_)) || matches!(snapshot.input, InputFacts::Away(_));
    let wakes = matches!(snapshot.input, InputFacts::Newest(newest) if newest > worked_through);
    if wakes && !away && !snapshot.is_attached {
        return go_on(snapshot, status, "somebody has said something", deadlines);
    }
    let soon = match (away, snapshot.is_attached) {
        (true, _) => Some(STORE_RETRY),
        (_, true) => Some(LAST_WORDS),
        _ => None,
    };
    Plan {
        steps: snapshot.claim().map(release).into_iter().collect(),
        state: State::Paused(paused.clone()),
        requeue: soon.into_iter().chain(until_release).min(),
    }
}

/// A session that has spent its budget: until it has another one.
fn rest_until_raised(snapshot: &Snapshot, status: &AgentSessionStatus, paused: &Paused, deadlines: &Deadlines) -> Plan {
    let spent = paused.limit.as_deref().and_then(Pico::parse);
    let is_raised = snapshot.limit().is_none_or(|limit| Some(limit) > spent);
    if is_raised && !snapshot.is_attached {
        return go_on(snapshot, status, "the budget was raised", deadlines);
    }
    Plan {
        steps: snapshot.claim().map(release).into_iter().collect(),
        state: State::Paused(paused.clone()),
        requeue: snapshot.is_attached.then_some(LAST_WORDS),
    }
}

/// When a limit of idleness is reached.
pub(super) enum Due {
    /// It has no such limit.
    Never,
    /// After this long.
    In(Duration),
    /// It is: after this long.
    Now(Duration),
}

pub(super) fn until_idle(
    snapshot: &Snapshot,
    since: Timestamp,
    limit: fn(&Lifecycle) -> Option<kube::core::Duration>,
) -> Due {
    let Some(limit) = snapshot.session.spec.lifecycle.as_ref().and_then(limit) else {
        return Due::Never;
    };
    match left(snapshot.now, after(since, limit.into())) {
        None => Due::Now(limit.into()),
        Some(left) => Due::In(left),
    }
}

pub(super) fn released(snapshot: &Snapshot, idle: Duration) -> Plan {
    Plan {
        steps: give_back(snapshot),
        state: State::Released(format!("nobody said anything for {}s", idle.as_secs())),
        requeue: None,
    }
}

pub(super) fn pause(snapshot: &Snapshot, reason: PauseReason, since: Timestamp) -> Plan {
    Plan {
        steps: give_back(snapshot),
        state: State::Paused(Paused {
            reason,
            since: time(since),
            limit: snapshot
                .session
                .spec
                .budget
                .as_ref()
                .filter(|_| reason == PauseReason::BudgetExhausted)
                .map(|budget| budget.limit.clone()),
        }),
        requeue: Some(LAST_WORDS),
    }
}

/// Whether this pass depends on what people have said.
pub fn is_input_wanted(snapshot: &Snapshot) -> bool {
    let status = snapshot.status();
    let idle = status
        .paused
        .as_ref()
        .is_some_and(|paused| paused.reason == PauseReason::Idle);
    idle && !has_ended(&status) && !snapshot.new_run_wanted() && !snapshot.session.spec.suspend
}

/// Why the session can't be idle, or would lose what it knows.
pub(super) fn no_idleness(snapshot: &Snapshot) -> Option<(Reason, String)> {
    let spec = &snapshot.session.spec;
    let lifecycle = spec.lifecycle.clone().unwrap_or_default();
    let suspends = lifecycle.idle_suspend_after.is_some();
    let field = match (suspends, lifecycle.idle_release_after) {
        (true, _) => "spec.lifecycle.idleSuspendAfter",
        (_, Some(_)) => "spec.lifecycle.idleReleaseAfter",
        _ => return None,
    };
    let message = if spec.task.mode != Some(TaskMode::Interactive) {
        format!("{field} needs spec.task.mode Interactive: a session that runs to completion never waits for input")
    } else if suspends && spec.task.on_interrupt != Some(OnInterrupt::Resume) {
        format!("{field} needs spec.task.onInterrupt Resume: without checkpoints the conversation would be lost")
    } else {
        return None;
    };
    Some((Reason::InvalidSpec, message))
}
