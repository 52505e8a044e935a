//! Pure: from a [`Snapshot`] to what is to be done and where the session stands. Same snapshot, same plan.
//!
//! The checks stand in order of strength: an author's wish to stop, then a result, then a loss, then the way from
//! claim to running harness. A harness is released only in a pass whose snapshot already shows `startedAt` in the
//! status: so a session whose pod dies can always be told apart from one that never ran (DESIGN §5.4).

use std::time::Duration;

use berth_crds::{AgentSessionStatus, ColdStart, OnInterrupt, PauseReason, Paused, Phase, Reason, SandboxStatus};
use jiff::Timestamp;

use self::rest::{Due, no_idleness, pause, released, rest_on, until_idle, waits_since};

use super::snapshot::{
    CheckpointFacts, CheckpointWanted, ClaimFacts, Exited, PodFacts, PoolFacts, SandboxFacts, Snapshot, StreamFacts,
};
use crate::sandbox::ClaimPhase;
use crate::settings::Deadlines;
use crate::store::checkpoint::Which;

pub mod rest;

/// What is to be done, where the session stands, and when to look again.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// In order; the first failure ends the pass.
    pub steps: Vec<Step>,
    /// Where the session stands once the steps are done.
    pub state: State,
    /// Look again after this long, if nothing happens before.
    pub requeue: Option<Duration>,
}

/// One write or push.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Step {
    /// Claim a sandbox.
    CreateClaim {
        /// For this incarnation.
        incarnation: i64,
        /// From this warm pool.
        pair: String,
    },
    /// Give a claim back.
    DeleteClaim {
        /// Its name.
        name: String,
        /// Its UID, so that no other claim of the name is meant.
        uid: String,
    },
    /// Count a bind that failed against the pool.
    CountFailedBind,
    /// Prove who the pod is and push the assignment to its sidecar.
    Assign {
        /// For this incarnation.
        incarnation: i64,
        /// UID of the claim.
        claim_uid: String,
        /// UID of the pod.
        pod_uid: String,
    },
    /// Let the sidecar release the harness.
    Start {
        /// Of this incarnation.
        incarnation: i64,
        /// UID of the pod.
        pod_uid: String,
    },
    /// Tell the sidecar to end the harness.
    Stop {
        /// Of this incarnation.
        incarnation: i64,
        /// UID of the pod.
        pod_uid: String,
    },
}

/// Where a session stands.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// Nothing to say that the status doesn't say already.
    AsBefore,
    /// The spec can't be run; a person has to change it.
    Stalled(Reason, String),
    /// No sandbox, and this is why.
    Waiting(Reason, String),
    /// A claim is made and not bound yet.
    Binding(String),
    /// An attempt was given up; the next follows after a wait.
    GaveUp(Reason, String),
    /// The sidecar holds the assignment. The status is written before the harness is released.
    Bound(Box<SandboxStatus>),
    /// The harness runs.
    Running,
    /// The harness ended.
    Finished(Exited),
    /// The run ended without a result: lost, timed out.
    Ended(Reason, String),
    /// The author has suspended it.
    Suspended,
    /// It has begun, holds no sandbox, and goes on from its checkpoint when there is a reason to.
    Paused(Paused),
    /// Nobody needs it any more.
    Released(String),
}

/// Plans one pass.
pub fn plan(snapshot: &Snapshot, deadlines: &Deadlines) -> Plan {
    if snapshot.session.metadata.deletion_timestamp.is_some() {
        return rest();
    }
    let mut plan = decide(snapshot, deadlines);
    let kept = snapshot.claim().map(|claim| claim.uid.as_str());
    let strays = snapshot
        .claims
        .iter()
        .filter(|claim| !claim.is_leaving() && Some(claim.uid.as_str()) != kept);
    let strays: Vec<Step> = strays.map(release).collect();
    plan.steps.splice(0..0, strays);
    plan
}

fn decide(snapshot: &Snapshot, deadlines: &Deadlines) -> Plan {
    let status = snapshot.status();
    let over = has_ended(&status) && !snapshot.new_run_wanted();
    if snapshot.session.spec.suspend && !over {
        return suspend(snapshot);
    }
    if snapshot.new_run_wanted() {
        return begin_again(snapshot, deadlines);
    }
    if over {
        return release_finished(snapshot, &status, deadlines);
    }
    if let Some(paused) = &status.paused {
        return rest_on(snapshot, &status, paused, deadlines);
    }
    let resumes = snapshot.session.spec.task.on_interrupt == Some(OnInterrupt::Resume);
    // A harness that was refused has a moment to say so, or has given up by itself.
    if resumes
        && started_sandbox(&status).is_some()
        && let Some(since) = snapshot.exhausted()
        && (snapshot.run.exited.is_some() || left(snapshot.now, after(since, LAST_REQUESTS)).is_none())
    {
        return pause(snapshot, PauseReason::BudgetExhausted, snapshot.now);
    }
    if let Some(started) = started_sandbox(&status)
        && resumes
        && snapshot.run.exited.as_ref().is_some_and(|exited| exited.stopped)
    {
        let pod = started.pod_name.as_deref().unwrap_or("?");
        return go_on(snapshot, &status, &format!("pod {pod} was told to end"), deadlines);
    }
    // What was told counts for the run that the status speaks of: after a new `runID` that is none yet.
    if let Some(exited) = snapshot
        .run
        .exited
        .as_ref()
        .filter(|_| started_sandbox(&status).is_some())
    {
        return Plan {
            steps: vec![],
            state: State::Finished(exited.clone()),
            requeue: Some(Duration::ZERO),
        };
    }
    if let Some(started) = started_sandbox(&status) {
        return watch_run(snapshot, &status, started, deadlines);
    }
    claim_or_bind(snapshot, &status, deadlines)
}

/// Whether the status speaks of a run that has ended, well or not.
pub fn has_ended(status: &AgentSessionStatus) -> bool {
    status
        .result
        .as_ref()
        .is_some_and(|result| result.finished_at.is_some())
        || status.stopped_reason.is_some()
}

/// The sandbox in which the status says the harness was released.
fn started_sandbox(status: &AgentSessionStatus) -> Option<&SandboxStatus> {
    status.sandbox.as_ref().filter(|sandbox| sandbox.started_at.is_some())
}

fn suspend(snapshot: &Snapshot) -> Plan {
    Plan {
        steps: give_back(snapshot),
        state: State::Suspended,
        requeue: None,
    }
}

/// Ends what runs, with the time that a last checkpoint takes, and gives the sandbox back.
fn give_back(snapshot: &Snapshot) -> Vec<Step> {
    let mut steps = Vec::new();
    if let (Some(claim), Some(pod), Some(stream)) = (snapshot.claim(), &snapshot.pod, &snapshot.stream)
        && stream.assigned.or(stream.acknowledged) == Some(claim.incarnation)
    {
        steps.push(Step::Stop {
            incarnation: claim.incarnation,
            pod_uid: pod.uid.clone(),
        });
    }
    steps.extend(snapshot.claim().map(release));
    steps
}

/// A new `runID`: whatever the old run left is given back, then a fresh one begins.
fn begin_again(snapshot: &Snapshot, deadlines: &Deadlines) -> Plan {
    let old_run = snapshot
        .claim()
        .filter(|claim| claim.incarnation <= snapshot.status().incarnation);
    if let Some(claim) = old_run {
        let message = format!("giving back {} before the new run", claim.name);
        return Plan {
            steps: vec![release(claim)],
            state: State::Waiting(Reason::Progressing, message),
            requeue: None,
        };
    }
    claim_or_bind(snapshot, &AgentSessionStatus::default(), deadlines)
}

/// An ended run gives its sandbox back once its events are safe and the author's grace is over.
fn release_finished(snapshot: &Snapshot, status: &AgentSessionStatus, deadlines: &Deadlines) -> Plan {
    let Some(claim) = snapshot.claim() else { return rest() };
    let finished = status
        .result
        .as_ref()
        .and_then(|result| result.finished_at.as_ref())
        .map(|time| time.0);
    let finished = finished.unwrap_or(snapshot.now);
    let lifecycle = snapshot.session.spec.lifecycle.as_ref();
    let keep = lifecycle
        .and_then(|lifecycle| lifecycle.release_after_finished)
        .map_or(Duration::ZERO, Into::into);
    let safe = snapshot.run.durable || status.stopped_reason.is_some() || lost(snapshot, status).is_some();
    let wait = if safe { keep } else { keep.max(deadlines.drain_events) };
    match left(snapshot.now, after(finished, wait)) {
        None => Plan {
            steps: vec![release(claim)],
            state: State::AsBefore,
            requeue: None,
        },
        Some(left) => Plan {
            steps: vec![],
            state: State::AsBefore,
            requeue: Some(left),
        },
    }
}

/// The harness was released: it runs, or is to be released on this stream, or its pod is lost.
fn watch_run(snapshot: &Snapshot, status: &AgentSessionStatus, sandbox: &SandboxStatus, deadlines: &Deadlines) -> Plan {
    if let Some(what) = lost(snapshot, status) {
        if snapshot.session.spec.task.on_interrupt == Some(OnInterrupt::Resume) {
            return go_on(snapshot, status, &what, deadlines);
        }
        return end(
            snapshot,
            Reason::Interrupted,
            &format!("{what} after the harness started; {RUN_AGAIN}"),
        );
    }
    let deadline = max_duration(snapshot)
        .zip(sandbox.claimed_at.as_ref())
        .map(|(most, at)| after(at.0, most));
    let left = match deadline.map(|deadline| left(snapshot.now, deadline)) {
        Some(None) => return end(snapshot, Reason::TimedOut, "lifecycle.maxDuration has passed"),
        Some(left) => left,
        None => None,
    };
    let idle_since = waits_since(snapshot, status);
    let mut due = Vec::from_iter(left);
    due.extend(
        snapshot
            .exhausted()
            .and_then(|since| self::left(snapshot.now, after(since, LAST_REQUESTS))),
    );
    if let Some(since) = idle_since {
        match until_idle(snapshot, since, |lifecycle| lifecycle.idle_release_after) {
            Due::Now(after) => return released(snapshot, after),
            Due::In(left) => due.push(left),
            Due::Never => {}
        }
        match until_idle(snapshot, since, |lifecycle| lifecycle.idle_suspend_after) {
            Due::Now(_) => return pause(snapshot, PauseReason::Idle, since),
            Due::In(left) => due.push(left),
            Due::Never => {}
        }
    }
    let mut steps = Vec::new();
    if let (Some(stream), Some(pod)) = (&snapshot.stream, &snapshot.pod)
        && stream.started != Some(status.incarnation)
    {
        let step = hold_or_start(status.incarnation, stream, pod, sandbox);
        steps.extend(step.filter(|step| snapshot.may_begin() || !matches!(step, Step::Start { .. })));
    }
    let state = if snapshot.run.started {
        State::Running
    } else {
        State::AsBefore
    };
    Plan {
        steps,
        state,
        requeue: due.into_iter().min(),
    }
}

/// The pod is lost and the author wants the session to go on: in the next pod, from what the last one kept. A prompt whose
/// work nothing is known of is never run again by itself.
fn go_on(snapshot: &Snapshot, status: &AgentSessionStatus, what: &str, deadlines: &Deadlines) -> Plan {
    if status.resumes >= RESUMES_MAX {
        let message = format!("{what}, after {RESUMES_MAX} others; {RUN_AGAIN}");
        return end(snapshot, Reason::Interrupted, &message);
    }
    if snapshot
        .claim()
        .is_some_and(|claim| claim.incarnation <= status.incarnation)
        || snapshot.is_attached
    {
        let steps = snapshot
            .claim()
            .filter(|claim| claim.incarnation <= status.incarnation)
            .map(release);
        let message = format!("{what}; waiting for its last checkpoint");
        return Plan {
            steps: steps.into_iter().collect(),
            state: State::Waiting(Reason::Resuming, message),
            requeue: Some(LAST_WORDS),
        };
    }
    match &snapshot.checkpoint {
        CheckpointFacts::Kept(_) => {
            let mut plan = claim_or_bind(snapshot, status, deadlines);
            if plan.state == State::AsBefore && status.phase != Some(Phase::Pending) {
                plan.state = State::Waiting(Reason::Resuming, format!("{what}; the session goes on in another pod"));
            }
            plan
        }
        CheckpointFacts::Nothing => {
            let message = format!("{what} before a checkpoint was taken; {RUN_AGAIN}");
            end(snapshot, Reason::Interrupted, &message)
        }
        CheckpointFacts::Away(why) => wait(
            Reason::StoreUnavailable,
            format!("{what}; its checkpoint can't be read: {why}"),
            Some(STORE_RETRY),
        ),
        CheckpointFacts::NotAsked => rest(),
    }
}

/// What of Postgres this pass depends on.
pub fn checkpoint_wanted(snapshot: &Snapshot) -> Option<CheckpointWanted> {
    let status = snapshot.status();
    if has_ended(&status) || snapshot.new_run_wanted() || snapshot.session.spec.suspend {
        return None;
    }
    started_sandbox(&status)?;
    let stopped = snapshot.run.exited.as_ref().is_some_and(|exited| exited.stopped);
    if lost(snapshot, &status).is_some() || stopped || status.paused.is_some() {
        let resumes = snapshot.session.spec.task.on_interrupt == Some(OnInterrupt::Resume);
        let next = snapshot
            .claim()
            .map_or_else(|| snapshot.next_incarnation(), |claim| claim.incarnation);
        return resumes.then_some(CheckpointWanted::Before(next));
    }
    let resume = status
        .resume
        .filter(|resume| resume.incarnation == status.incarnation)?;
    let stream = snapshot.stream.as_ref();
    let unassigned = stream.is_some_and(|stream| stream.acknowledged != Some(status.incarnation));
    let untold = resume.verdict.is_empty() && snapshot.run.restored.is_some();
    let (incarnation, number) = resume.checkpoint.split_once('/')?;
    let which = Which {
        incarnation: incarnation.parse().ok()?,
        number: number.parse().ok()?,
    };
    (unassigned || untold).then_some(CheckpointWanted::Named(which))
}

/// After a reconnect the sidecar says what it holds: then Start is sent again, which it takes once. A container that
/// lost its memory gets the assignment first.
fn hold_or_start(incarnation: i64, stream: &StreamFacts, pod: &PodFacts, sandbox: &SandboxStatus) -> Option<Step> {
    if stream.refused.is_some() {
        return None;
    }
    if stream.acknowledged == Some(incarnation) {
        return Some(Step::Start {
            incarnation,
            pod_uid: pod.uid.clone(),
        });
    }
    let claim_uid = sandbox.claim_uid.clone()?;
    (stream.assigned != Some(incarnation)).then(|| Step::Assign {
        incarnation,
        claim_uid,
        pod_uid: pod.uid.clone(),
    })
}

/// What of a bound incarnation is gone, if anything.
fn lost(snapshot: &Snapshot, status: &AgentSessionStatus) -> Option<String> {
    let bound = status.sandbox.as_ref()?;
    let Some(claim) = snapshot
        .claim()
        .filter(|claim| Some(&claim.uid) == bound.claim_uid.as_ref())
    else {
        return Some(format!("claim {} is gone", bound.claim_name));
    };
    if let ClaimPhase::Ended(ended) = &claim.phase {
        return Some(format!("the sandbox ended ({})", ended.reason));
    }
    let same_sandbox = |sandbox: &SandboxFacts| Some(&sandbox.uid) == bound.uid.as_ref() && !sandbox.deleting;
    if !snapshot.sandbox.as_ref().is_some_and(same_sandbox) {
        return Some(format!("sandbox {} is gone", bound.name.as_deref().unwrap_or("?")));
    }
    let same_pod = |pod: &PodFacts| Some(&pod.uid) == bound.pod_uid.as_ref() && !pod.ending;
    if !snapshot.pod.as_ref().is_some_and(same_pod) {
        return Some(format!("pod {} is gone", bound.pod_name.as_deref().unwrap_or("?")));
    }
    None
}

fn end(snapshot: &Snapshot, reason: Reason, message: &str) -> Plan {
    let steps = snapshot.claim().map(release).into_iter().collect();
    Plan {
        steps,
        state: State::Ended(reason, message.to_owned()),
        requeue: None,
    }
}

/// The harness has not been released in this run: claim a sandbox, or go on binding the one that is claimed.
fn claim_or_bind(snapshot: &Snapshot, status: &AgentSessionStatus, deadlines: &Deadlines) -> Plan {
    if let Some((reason, message)) = unusable(snapshot) {
        let steps = snapshot.claim().map(release).into_iter().collect();
        return Plan {
            steps,
            state: State::Stalled(reason, message),
            requeue: None,
        };
    }
    match snapshot.claim() {
        // An incarnation is bound once: a claim of one that was given up, or of an old run, is on its way out.
        Some(claim) if claim.incarnation <= snapshot.status().incarnation => Plan {
            steps: vec![release(claim)],
            state: State::AsBefore,
            requeue: None,
        },
        Some(claim) => bind(snapshot, claim, deadlines),
        None => make_claim(snapshot, status, deadlines),
    }
}

/// What of the spec this release can't run.
fn unusable(snapshot: &Snapshot) -> Option<(Reason, String)> {
    let spec = &snapshot.session.spec;
    if spec.task.retries.is_some_and(|retries| retries > 0) {
        let message = "spec.task.retries is not implemented in this release; remove it".to_owned();
        return Some((Reason::NotImplemented, message));
    }
    no_idleness(snapshot).or_else(|| no_pull_request(snapshot))
}

/// Why the pull request that the author wants can't be opened by anyone.
fn no_pull_request(snapshot: &Snapshot) -> Option<(Reason, String)> {
    let repository = snapshot.session.spec.repository.as_ref()?;
    let wanted = repository.pull_request.as_ref();
    wanted.filter(|wanted| wanted.open)?;
    let field = "spec.repository.pullRequest.open";
    if repository.branch.is_none() {
        let message = format!("{field} needs spec.repository.branch, which the session pushes to");
        return Some((Reason::InvalidSpec, message));
    }
    let unknown = format!(
        "{field}: {} is on no forge of this install; the platform team names them in the chart's value `forges`",
        repository.url
    );
    snapshot.pulls.is_none().then_some((Reason::ForgeUnknown, unknown))
}

fn make_claim(snapshot: &Snapshot, status: &AgentSessionStatus, deadlines: &Deadlines) -> Plan {
    let name = &snapshot.session.spec.pool_ref.name;
    let Some(pool) = &snapshot.pool else {
        return wait(
            Reason::PoolNotFound,
            format!("AgentPool {name} doesn't exist in this namespace"),
            None,
        );
    };
    if let Some(refused) = &pool.refused {
        return wait(
            Reason::AdmissionRefused,
            format!("the pods of AgentPool {name} are refused: {refused}"),
            None,
        );
    }
    if let Some(left) = pool.breaker_open_until.and_then(|until| left(snapshot.now, until)) {
        let message = format!("sandboxes of AgentPool {name} don't attach; no claim is made for now");
        return wait(Reason::SandboxesDoNotAttach, message, Some(left));
    }
    if let Some(left) = back_off(snapshot.now, status, deadlines) {
        return Plan {
            steps: vec![],
            state: State::AsBefore,
            requeue: Some(left),
        };
    }
    if pool.free.is_some_and(|free| free <= 0) {
        return wait(
            Reason::PoolFull,
            format!("AgentPool {name} has maxSessions sessions"),
            None,
        );
    }
    claim_from(snapshot, pool, name)
}

fn claim_from(snapshot: &Snapshot, pool: &PoolFacts, name: &str) -> Plan {
    let Some(pair) = pool.serving_pair.clone() else {
        return wait(
            Reason::PoolWarming,
            format!("AgentPool {name} has no sandboxes yet"),
            None,
        );
    };
    if pool.cold_start == ColdStart::Wait && pool.ready_members <= 0 {
        return wait(
            Reason::PoolWarming,
            format!("no sandbox of AgentPool {name} waits, and coldStart is Wait"),
            None,
        );
    }
    let incarnation = snapshot.next_incarnation();
    // A warm bind is quicker than a status of its own is worth: see `announce`.
    Plan {
        steps: vec![Step::CreateClaim { incarnation, pair }],
        state: State::AsBefore,
        requeue: None,
    }
}

fn back_off(now: Timestamp, status: &AgentSessionStatus, deadlines: &Deadlines) -> Option<Duration> {
    let last = status.last_failed_bind.as_ref()?.0;
    let doublings = u32::try_from(status.failed_binds.clamp(1, 20) - 1).unwrap_or(0);
    let wait = deadlines
        .back_off_min
        .saturating_mul(1 << doublings)
        .min(deadlines.back_off_max);
    left(now, after(last, wait))
}

/// A claim that isn't bound yet: wait, assign, or give it up.
fn bind(snapshot: &Snapshot, claim: &ClaimFacts, deadlines: &Deadlines) -> Plan {
    match &claim.phase {
        ClaimPhase::Ended(ended) => give_up(
            claim,
            Reason::SandboxEnded,
            format!("{}: {}", ended.reason, ended.message),
        ),
        ClaimPhase::Pending { reason, message } => pending(snapshot, claim, (reason, message), deadlines),
        ClaimPhase::Ready { sandbox } => attach(snapshot, claim, sandbox, deadlines),
    }
}

fn pending(snapshot: &Snapshot, claim: &ClaimFacts, (reason, message): (&str, &str), deadlines: &Deadlines) -> Plan {
    let startup = snapshot
        .pool
        .as_ref()
        .and_then(|pool| pool.startup_deadline)
        .unwrap_or(deadlines.startup);
    let Some(left_to_start) = left(snapshot.now, after(claim.created, startup)) else {
        let why = format!(
            "no sandbox was ready within {}s ({reason}: {message})",
            startup.as_secs()
        );
        return give_up(claim, Reason::BindDeadlineExceeded, why);
    };
    let said = if reason.is_empty() { "no status yet" } else { reason };
    announce(
        snapshot,
        claim,
        format!("waiting for a sandbox ({said})"),
        left_to_start,
        deadlines,
    )
}

/// The claim has a sandbox: find its pod and stream, and assign.
fn attach(snapshot: &Snapshot, claim: &ClaimFacts, sandbox_name: &str, deadlines: &Deadlines) -> Plan {
    let ready = snapshot
        .sandbox
        .as_ref()
        .and_then(|sandbox| sandbox.ready_since)
        .unwrap_or(claim.created);
    let from = ready
        .max(claim.created)
        .max(after(snapshot.serving_since, deadlines.settle));
    let Some(left_to_bind) = left(snapshot.now, after(from, deadlines.bind)) else {
        let why = format!(
            "the sidecar of sandbox {sandbox_name} did not acknowledge within {}s",
            deadlines.bind.as_secs()
        );
        return give_up(claim, Reason::BindDeadlineExceeded, why);
    };
    let (Some(sandbox), Some(pod), Some(stream)) = (&snapshot.sandbox, &snapshot.pod, &snapshot.stream) else {
        let message = format!("waiting for the sidecar of sandbox {sandbox_name}");
        return announce(snapshot, claim, message, left_to_bind, deadlines);
    };
    if let Some(refused) = &stream.refused {
        return give_up(claim, Reason::PodNotAsRendered, refused.clone());
    }
    if pod.ending || sandbox.deleting {
        return give_up(claim, Reason::SandboxEnded, format!("pod {} is going away", pod.name));
    }
    if stream.acknowledged == Some(claim.incarnation) {
        let bound = bound(snapshot, claim, sandbox, pod);
        return Plan {
            steps: vec![],
            state: State::Bound(Box::new(bound)),
            requeue: Some(Duration::ZERO),
        };
    }
    let mut plan = announce(
        snapshot,
        claim,
        "waiting for the acknowledgement".to_owned(),
        left_to_bind,
        deadlines,
    );
    if stream.assigned != Some(claim.incarnation) {
        let (claim_uid, pod_uid) = (claim.uid.clone(), pod.uid.clone());
        plan.steps.push(Step::Assign {
            incarnation: claim.incarnation,
            claim_uid,
            pod_uid,
        });
    }
    plan
}

fn bound(snapshot: &Snapshot, claim: &ClaimFacts, sandbox: &SandboxFacts, pod: &PodFacts) -> SandboxStatus {
    SandboxStatus {
        claim_name: claim.name.clone(),
        claim_uid: Some(claim.uid.clone()),
        name: Some(sandbox.name.clone()),
        uid: Some(sandbox.uid.clone()),
        pod_name: Some(pod.name.clone()),
        pod_uid: Some(pod.uid.clone()),
        launch_type: sandbox.launch_type,
        service_fqdn: sandbox.service_fqdn.clone(),
        stream_key: snapshot.stream.as_ref().map(|stream| stream.key.clone()),
        claimed_at: Some(time(claim.created)),
        bound_at: Some(time(snapshot.now)),
        started_at: Some(time(snapshot.now)),
    }
}

/// A bind under way is worth a status only once it takes longer than a warm one does.
fn announce(snapshot: &Snapshot, claim: &ClaimFacts, message: String, most: Duration, deadlines: &Deadlines) -> Plan {
    match left(snapshot.now, after(claim.created, deadlines.pending_after)) {
        Some(quiet) => Plan {
            steps: vec![],
            state: State::AsBefore,
            requeue: Some(quiet.min(most)),
        },
        None => Plan {
            steps: vec![],
            state: State::Binding(message),
            requeue: Some(most),
        },
    }
}

fn give_up(claim: &ClaimFacts, reason: Reason, message: String) -> Plan {
    let steps = vec![Step::CountFailedBind, release(claim)];
    Plan {
        steps,
        state: State::GaveUp(reason, message),
        requeue: Some(Duration::ZERO),
    }
}

fn wait(reason: Reason, message: String, requeue: Option<Duration>) -> Plan {
    Plan {
        steps: vec![],
        state: State::Waiting(reason, message),
        requeue,
    }
}

fn rest() -> Plan {
    Plan {
        steps: vec![],
        state: State::AsBefore,
        requeue: None,
    }
}

fn release(claim: &ClaimFacts) -> Step {
    Step::DeleteClaim {
        name: claim.name.clone(),
        uid: claim.uid.clone(),
    }
}

fn max_duration(snapshot: &Snapshot) -> Option<Duration> {
    snapshot.session.spec.lifecycle.as_ref()?.max_duration.map(Into::into)
}

/// `from` + `wait`; the end of time when that can't be written.
pub fn after(from: Timestamp, wait: Duration) -> Timestamp {
    from.checked_add(wait).unwrap_or(Timestamp::MAX)
}

/// Time until the deadline; `None` when it has passed.
pub fn left(now: Timestamp, deadline: Timestamp) -> Option<Duration> {
    Duration::try_from(deadline.duration_since(now))
        .ok()
        .filter(|left| !left.is_zero())
}

/// A time as the API writes it.
pub fn time(at: Timestamp) -> k8s_openapi::apimachinery::pkg::apis::meta::v1::Time {
    k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at)
}

/// A stream that ends wakes the session; this is for one that doesn't.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// After a request was refused for the budget: programs try again a few times, and say why they stop.
const LAST_REQUESTS: Duration = Duration::from_secs(5);
const STORE_RETRY: Duration = Duration::from_secs(2);
/// A session that costs so many pods is what costs them.
const RESUMES_MAX: i64 = 10;
const RUN_AGAIN: &str = "set a new task.runID to run it again";
