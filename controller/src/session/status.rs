//! Pure: from a snapshot and the state that its plan found to the status to write.
//!
//! kstatus-exact (research/gitops.md §2): `Ready` is `True` when the world matches the spec, which a finished or
//! suspended session does; `Reconciling` and `Stalled` are there only while they are `True`. Nothing here ticks.

use berth_crds::condition::{self, Wanted, cut};
use berth_crds::{
    AgentSessionSpec, AgentSessionStatus, ConditionType, PauseReason, Paused, Phase, Reason, Resume, SessionResult,
    SourceStatus, Spend, TaskMode,
};
use berth_protocol::money::Pico;
use sha2::{Digest, Sha256};

use super::plan::{State, has_ended, time};
use super::proposal::merged;
use super::snapshot::{CheckpointFacts, Exited, Snapshot};
use crate::store::checkpoint::Kept;

/// The status to write, `None` when the one that stands says it already.
pub fn status(snapshot: &Snapshot, state: &State) -> Option<AgentSessionStatus> {
    let old = snapshot.status();
    // A run that is about to begin leaves the old generation observed, so that nobody takes the old run's `Ready` for
    // the new one's.
    if *state == State::AsBefore && (old.observed_generation <= 0 || begins(snapshot, &old)) {
        return None;
    }
    let mut new = next(snapshot, state, run_of(snapshot, &old, state));
    let mut wanted = conditions(snapshot, state, &new);
    if let Some(credentials) = credentials(snapshot, &old) {
        wanted.retain(|condition| condition.type_ != ConditionType::CredentialsReady);
        wanted.push(credentials);
        let (held, listed) = (
            snapshot.credentials_held().len(),
            snapshot.session.spec.credentials.len(),
        );
        new.credentials_summary = Some(format!("{held}/{listed}"));
    }
    if let Some(waits) = waits_for_input(snapshot, &new) {
        wanted.retain(|condition| condition.type_ != ConditionType::WaitingForInput);
        wanted.push(waits);
    }
    wanted.retain(|condition| condition.type_ != ConditionType::BudgetExhausted);
    if !has_ended(&new) && (snapshot.exhausted().is_some() || is_exhausted(&new)) {
        let type_ = ConditionType::BudgetExhausted;
        wanted.push(Wanted::yes(type_, Reason::BudgetExhausted, EXHAUSTED));
    }
    new.spend = spend(snapshot, &old, &new);
    let resumed = resumed(snapshot, &mut new);
    wanted.retain(|condition| condition.type_ != ConditionType::Resumed);
    wanted.extend(resumed);
    new.proposals = merged(&new.proposals, &snapshot.proposals);
    let generation = snapshot.session.metadata.generation.unwrap_or(0);
    new.observed_generation = generation;
    new.conditions = condition::merge(&old.conditions, &wanted, generation, &time(snapshot.now));
    new.source = snapshot
        .session
        .metadata
        .annotations
        .as_ref()
        .and_then(SourceStatus::from_annotations);
    new.last_handled_reconcile_at = snapshot.requested_at();
    (new != old).then_some(new)
}

/// Whether the session's credentials are granted; `None` while nothing can be said: it lists none, has no pod, or is over.
fn credentials(snapshot: &Snapshot, old: &AgentSessionStatus) -> Option<Wanted> {
    let granted = snapshot.stream.as_ref()?.granted.as_ref();
    if snapshot.session.spec.credentials.is_empty()
        || has_ended(old)
        || granted.is_none_or(|granted| !granted.acknowledged)
    {
        return None;
    }
    let missing = snapshot.credentials_missing();
    Some(if missing.is_empty() {
        let message = "every required credential is granted";
        Wanted::yes(ConditionType::CredentialsReady, Reason::CredentialsGranted, message)
    } else if let Some((name, trouble)) = snapshot
        .troubles
        .iter()
        .find(|(name, _)| missing.contains(&name.as_str()))
    {
        let message = format!("no key for {name}: {}", trouble.message);
        Wanted::no(ConditionType::CredentialsReady, trouble.reason, message)
    } else {
        let message = format!(
            "not granted: {}; see kubectl get credentialbindings",
            missing.join(", ")
        );
        Wanted::no(ConditionType::CredentialsReady, Reason::CredentialsMissing, message)
    })
}

/// Whether an interactive session waits for somebody. While its stream is away it says what it said.
fn waits_for_input(snapshot: &Snapshot, new: &AgentSessionStatus) -> Option<Wanted> {
    let interactive = snapshot.session.spec.task.mode == Some(TaskMode::Interactive);
    if !interactive || new.phase != Some(Phase::Running) {
        return None;
    }
    let type_ = ConditionType::WaitingForInput;
    let Some(stream) = snapshot.stream.as_ref().filter(|stream| stream.started.is_some()) else {
        return kept(new, type_);
    };
    Some(match stream.waits {
        Some(after) => {
            let message =
                format!("the harness has done everything up to input {after}; say something: POST …/messages");
            Wanted::yes(type_, Reason::WaitingForInput, message)
        }
        None => Wanted::no(type_, Reason::Running, "the harness works"),
    })
}

/// The condition as it stands.
fn kept(new: &AgentSessionStatus, type_: ConditionType) -> Option<Wanted> {
    condition::find(&new.conditions, type_).and_then(Wanted::from_condition)
}

/// The receipt: what was kept, and what the runner found on the disk once it had restored it.
fn resumed(snapshot: &Snapshot, new: &mut AgentSessionStatus) -> Option<Wanted> {
    let incarnation = new.incarnation;
    let resume = new.resume.as_mut().filter(|resume| resume.incarnation == incarnation)?;
    if resume.verdict.is_empty()
        && let (Some(restored), CheckpointFacts::Kept(kept)) = (&snapshot.run.restored, &snapshot.checkpoint)
    {
        let (verdict, message) = receipt(kept, restored);
        verdict.as_str().clone_into(&mut resume.verdict);
        resume.message = cut(&message, RECEIPT_MAX);
        resume.at = time(snapshot.now);
    }
    let reasons = [Reason::Complete, Reason::TranscriptOnly, Reason::Incomplete];
    let reason = reasons.into_iter().find(|reason| reason.as_str() == resume.verdict)?;
    Some(if reason == Reason::Complete {
        Wanted::yes(ConditionType::Resumed, reason, resume.message.clone())
    } else {
        Wanted::no(ConditionType::Resumed, reason, resume.message.clone())
    })
}

fn receipt(kept: &Kept, restored: &[u8]) -> (Reason, String) {
    let (about, digest) = (&kept.about, hex::encode(&kept.digest));
    let what = format!(
        "checkpoint {}/{}, {} files, {} bytes, sha256 {digest}",
        kept.incarnation, kept.number, about.files, kept.bytes
    );
    if restored != kept.digest {
        let found = hex::encode(restored);
        return (
            Reason::Incomplete,
            format!("{what}: restored, but the disk holds sha256 {found}"),
        );
    }
    let left_out = match about.missing_count {
        0 => String::new(),
        count => format!("; {count} files were left out: {}", about.missing.join(", ")),
    };
    let message = format!("{what}: restored and read back{left_out}");
    if !about.transcript {
        return (
            Reason::Incomplete,
            format!("{message}; the program's own files weren't there"),
        );
    }
    match (about.missing_count, about.workspace) {
        (0, _) => (Reason::Complete, message),
        (_, 0) => (Reason::TranscriptOnly, message),
        _ => (Reason::Incomplete, message),
    }
}

/// Whether a session that rested is to run: resumed, or asked for another run.
fn begins(snapshot: &Snapshot, old: &AgentSessionStatus) -> bool {
    let resumed = old.phase == Some(Phase::Suspended) && !snapshot.session.spec.suspend;
    snapshot.new_run_wanted() || (resumed && !has_ended(old))
}

/// What of the old status belongs to this run: all of it, or the incarnation alone once another run is asked for.
fn run_of(snapshot: &Snapshot, old: &AgentSessionStatus, state: &State) -> AgentSessionStatus {
    if !snapshot.new_run_wanted() || *state == State::AsBefore {
        return old.clone();
    }
    AgentSessionStatus {
        incarnation: old.incarnation,
        conditions: old.conditions.clone(),
        spend: old.spend.clone(),
        ..AgentSessionStatus::default()
    }
}

fn next(snapshot: &Snapshot, state: &State, mut new: AgentSessionStatus) -> AgentSessionStatus {
    match state {
        State::AsBefore => {}
        State::Stalled(..) => new.phase = Some(Phase::Failed),
        State::Waiting(..) | State::Binding(_) => new.phase = Some(Phase::Pending),
        State::GaveUp(..) => {
            new.phase = Some(Phase::Pending);
            new.incarnation = snapshot.claim().map_or(new.incarnation, |claim| claim.incarnation);
            new.failed_binds += 1;
            new.last_failed_bind = Some(time(snapshot.now));
        }
        State::Bound(sandbox) => {
            new.phase = Some(Phase::Bound);
            new.incarnation = snapshot.claim().map_or(new.incarnation, |claim| claim.incarnation);
            new.failed_binds = 0;
            new.last_failed_bind = None;
            new.sandbox = Some((**sandbox).clone());
            new.pinned_generation = snapshot.session.metadata.generation;
            new.pinned_spec = Some(pinned_fields(&snapshot.session.spec));
            new.run_id.clone_from(&snapshot.session.spec.task.run_id);
            let paused = new.paused.take();
            if let CheckpointFacts::Kept(kept) = &snapshot.checkpoint {
                new.resumes += i64::from(paused.is_none());
                new.resume = Some(Resume {
                    incarnation: new.incarnation,
                    checkpoint: format!("{}/{}", kept.incarnation, kept.number),
                    verdict: String::new(),
                    message: String::new(),
                    at: time(snapshot.now),
                });
            }
        }
        State::Running => new.phase = Some(Phase::Running),
        State::Finished(exited) => {
            new.phase = Some(if exited.code == 0 && exited.error.is_empty() {
                Phase::Succeeded
            } else {
                Phase::Failed
            });
            new.result = Some(result(snapshot, exited));
        }
        State::Ended(reason, _) => {
            new.phase = Some(Phase::Failed);
            new.stopped_reason = Some(reason.as_str().to_owned());
        }
        State::Suspended => {
            new.phase = Some(Phase::Suspended);
            new.sandbox = new.sandbox.filter(|sandbox| sandbox.started_at.is_some());
        }
        State::Paused(paused) => {
            new.phase = Some(match paused.reason {
                PauseReason::Idle => Phase::Suspended,
                PauseReason::BudgetExhausted => Phase::Paused,
            });
            new.paused = Some(paused.clone());
        }
        State::Released(_) => {
            new.phase = Some(Phase::Succeeded);
            new.paused = None;
            new.stopped_reason = Some(Reason::Released.as_str().to_owned());
        }
    }
    new
}

fn result(snapshot: &Snapshot, exited: &Exited) -> SessionResult {
    SessionResult {
        summary: Some(cut(&exited.summary, SUMMARY_MAX)).filter(|summary| !summary.is_empty()),
        exit_code: Some(exited.code),
        branch: Some(exited.branch.clone()).filter(|branch| !branch.is_empty()),
        pull_request: pull_request(snapshot, exited),
        events: Some(exited.events),
        finished_at: Some(time(exited.at.unwrap_or(snapshot.now))),
    }
}

/// The agent's word is a number alone: where it leads, the install's configuration says.
fn pull_request(snapshot: &Snapshot, exited: &Exited) -> Option<String> {
    let pulls = snapshot.pulls.as_ref().filter(|_| exited.pull_request > 0)?;
    Some(format!("{}/{}", pulls.page, exited.pull_request))
}

fn conditions(snapshot: &Snapshot, state: &State, new: &AgentSessionStatus) -> Vec<Wanted> {
    let mut wanted = match state {
        State::AsBefore => return as_before(snapshot, new),
        State::Stalled(reason, message) => stalled(*reason, message),
        State::Waiting(reason, message) | State::GaveUp(reason, message) => reconciling(*reason, message),
        State::Binding(message) => reconciling(Reason::SandboxPending, message),
        State::Bound(_) => {
            let mut wanted = reconciling(Reason::Starting, "the harness is being started");
            wanted.push(bound(new));
            wanted
        }
        State::Running => running(new),
        State::Finished(exited) => finished(exited),
        State::Ended(reason, message) => {
            let mut wanted = stalled(*reason, message);
            wanted.push(Wanted::no(ConditionType::Succeeded, *reason, message.clone()));
            wanted
        }
        State::Suspended => vec![Wanted::yes(
            ConditionType::Ready,
            Reason::Suspended,
            "spec.suspend is set",
        )],
        State::Paused(paused) => at_rest(paused, new),
        State::Released(message) => vec![
            Wanted::yes(ConditionType::Ready, Reason::Released, message.clone()),
            Wanted::yes(ConditionType::Succeeded, Reason::Released, message.clone()),
        ],
    };
    wanted.extend(spec_pinned(snapshot, new));
    wanted
}

fn at_rest(paused: &Paused, new: &AgentSessionStatus) -> Vec<Wanted> {
    match paused.reason {
        PauseReason::Idle => {
            let message = "nobody said anything for a while; the next input continues it";
            let mut wanted = vec![Wanted::yes(ConditionType::Ready, Reason::Idle, message)];
            wanted.extend(kept(new, ConditionType::WaitingForInput));
            wanted
        }
        PauseReason::BudgetExhausted => stalled(Reason::BudgetExhausted, EXHAUSTED),
    }
}

/// What was spent, at the marks of its budget and whenever the phase changes: nothing that ticks.
fn spend(snapshot: &Snapshot, old: &AgentSessionStatus, new: &AgentSessionStatus) -> Option<Spend> {
    let Some(limit) = snapshot.limit() else {
        return new.spend.clone();
    };
    let spent = snapshot.spend.spent;
    if let Some(compared) = snapshot.spend.compared {
        let figure = Spend {
            usd: spent.to_string(),
            gateway_usd: Some(compared.said.to_string()),
            difference_usd: Some(compared.difference()),
        };
        let known = new.spend.as_ref();
        let said = |spend: &Spend| (spend.gateway_usd.clone(), spend.difference_usd.clone());
        if known.map(said) != Some(said(&figure)) {
            return Some(figure);
        }
    }
    let before = new.spend.as_ref().and_then(|spend| Pico::parse(&spend.usd));
    let mark = |spent: Pico| {
        MARKS
            .iter()
            .filter(|mark| spent.times(100) >= limit.times(**mark))
            .count()
    };
    let is_worth_it = old.phase != new.phase || mark(spent) != mark(before.unwrap_or_default());
    // A leader that has just begun doesn't know yet what was spent before it.
    if is_worth_it && before.is_none_or(|before| before < spent) && spent > Pico::default() {
        return Some(Spend {
            usd: spent.to_string(),
            ..new.spend.clone().unwrap_or_default()
        });
    }
    new.spend.clone()
}

fn is_exhausted(new: &AgentSessionStatus) -> bool {
    let paused = new.paused.as_ref();
    paused.is_some_and(|paused| paused.reason == PauseReason::BudgetExhausted)
}

/// The conditions that stand, seen again at this generation.
fn as_before(snapshot: &Snapshot, old: &AgentSessionStatus) -> Vec<Wanted> {
    let kept = old
        .conditions
        .iter()
        .filter(|condition| condition.type_ != ConditionType::SpecPinned.as_str());
    let mut wanted: Vec<Wanted> = kept.filter_map(Wanted::from_condition).collect();
    wanted.extend(spec_pinned(snapshot, old));
    wanted
}

fn stalled(reason: Reason, message: &str) -> Vec<Wanted> {
    vec![
        Wanted::no(ConditionType::Ready, reason, message),
        Wanted::yes(ConditionType::Stalled, reason, message),
    ]
}

fn reconciling(reason: Reason, message: &str) -> Vec<Wanted> {
    vec![
        Wanted::no(ConditionType::Ready, reason, message),
        Wanted::yes(ConditionType::Reconciling, Reason::Progressing, message),
    ]
}

fn bound(new: &AgentSessionStatus) -> Wanted {
    let pod = new
        .sandbox
        .as_ref()
        .and_then(|sandbox| sandbox.pod_name.as_deref())
        .unwrap_or_default();
    let message = format!("pod {pod} acknowledged incarnation {}", new.incarnation);
    Wanted::yes(ConditionType::SandboxBound, Reason::Bound, message)
}

fn running(new: &AgentSessionStatus) -> Vec<Wanted> {
    vec![
        Wanted::yes(ConditionType::Ready, Reason::Running, "the harness runs"),
        bound(new),
        Wanted::yes(ConditionType::Available, Reason::Running, "the harness runs"),
    ]
}

fn finished(exited: &Exited) -> Vec<Wanted> {
    if exited.code == 0 && exited.error.is_empty() {
        let message = "the harness ended with exit status 0";
        return vec![
            Wanted::yes(ConditionType::Ready, Reason::Completed, message),
            Wanted::yes(ConditionType::Succeeded, Reason::Completed, message),
        ];
    }
    let message = match exited.error.as_str() {
        "" => failed(exited),
        error if exited.code == 0 => format!("the harness ended with exit status 0, but {error}"),
        error => format!("the harness could not be started: {error}"),
    };
    let mut wanted = stalled(Reason::HarnessFailed, &message);
    wanted.push(Wanted::no(ConditionType::Succeeded, Reason::HarnessFailed, message));
    wanted
}

/// With its last lines, or else what its program said at last: the agent's words, of the length that a person reads.
fn failed(exited: &Exited) -> String {
    let said = [&exited.last_lines, &exited.summary]
        .into_iter()
        .find(|said| !said.trim().is_empty());
    let status = format!("the harness ended with exit status {}", exited.code);
    match said {
        Some(said) => format!("{status}; its last words: {}", cut(said.trim(), LAST_WORDS_MAX)),
        None => status,
    }
}

/// Says that an edit waits for a new `runID`.
fn spec_pinned(snapshot: &Snapshot, new: &AgentSessionStatus) -> Option<Wanted> {
    let pinned = new.pinned_spec.as_ref()?;
    let edited = *pinned != pinned_fields(&snapshot.session.spec) && !snapshot.new_run_wanted();
    let verb = if has_ended(new) { "ran" } else { "runs" };
    let generation = new.pinned_generation.unwrap_or_default();
    edited.then(|| {
        let message = format!("generation {generation} {verb}; the edit takes effect with a new task.runID");
        Wanted::yes(ConditionType::SpecPinned, Reason::SpecEdited, message)
    })
}

const EXHAUSTED: &str =
    "the budget is spent, or the next request could cost more than is left: raise spec.budget.limit";
/// The whole is in the session's events.
const LAST_WORDS_MAX: usize = 600;
/// Per cent of the budget.
const MARKS: [u64; 3] = [50, 80, 100];

/// SHA-256 of the fields that are pinned when the sandbox is bound. Budget, lifecycle, suspend and labels are live.
pub fn pinned_fields(spec: &AgentSessionSpec) -> String {
    let AgentSessionSpec {
        pool_ref,
        task,
        model,
        repository,
        env,
        credentials,
        budget: _,
        lifecycle: _,
        suspend: _,
    } = spec;
    let pinned = serde_json::json!([pool_ref, task, model, repository, env, credentials]);
    hex::encode(Sha256::digest(pinned.to_string()))
}

/// Sixteen names and two hashes.
const RECEIPT_MAX: usize = 4096;
/// What of `result.md` goes into the status: a screenful; Postgres holds the rest.
const SUMMARY_MAX: usize = 4096;
