//! Moments of a session's life, each said as what differs from the usual.

use std::time::Duration;

use berth_crds::{
    AgentSession, AgentSessionSpec, AgentSessionStatus, Budget, ColdStart, CredentialUse, LaunchType, OnInterrupt,
    PauseReason, Paused, Phase, PoolRef, PullRequest, Reason, Repository, Resume, SandboxStatus, SessionResult, Spend,
    Task, TaskMode, label,
};
use berth_protocol::checkpoint::About;
use berth_protocol::money::Pico;
use jiff::Timestamp;

use super::super::plan::time;
use super::super::snapshot::*;
use super::super::spend::{Compared, SpendFacts};
use super::super::status::pinned_fields;
use crate::forge::config::Pulls;
use crate::gateway::keys::Trouble;
use crate::sandbox::{ClaimPhase, Ended};
use crate::store::checkpoint::Kept;

pub(super) struct Scenario {
    pub(super) name: &'static str,
    pub(super) snapshot: Snapshot,
}

/// 2026-01-01T00:00:00Z plus this many milliseconds.
fn at(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(1_767_225_600_000 + millis).expect("a time of this century")
}

/// A new session, ten seconds after its creation, with a warm pool and a leader that has served for a minute.
fn new() -> Snapshot {
    let spec = AgentSessionSpec {
        pool_ref: PoolRef {
            name: "pool".to_owned(),
        },
        task: Task {
            prompt: "say hello".to_owned(),
            ..Task::default()
        },
        ..AgentSessionSpec::default()
    };
    let mut session = AgentSession::new("s", spec);
    session.metadata.namespace = Some("team".to_owned());
    session.metadata.uid = Some("session-uid".to_owned());
    session.metadata.generation = Some(1);
    Snapshot {
        now: at(10_000),
        serving_since: at(-60_000),
        session,
        pool: Some(PoolFacts {
            serving_pair: Some("pool-1".to_owned()),
            ready_members: 3,
            ..PoolFacts::default()
        }),
        claims: vec![],
        sandbox: None,
        pod: None,
        stream: None,
        run: RunFacts::default(),
        troubles: Vec::new(),
        proposals: Vec::new(),
        is_attached: false,
        checkpoint: CheckpointFacts::NotAsked,
        input: InputFacts::NotAsked,
        spend: SpendFacts::default(),
        pulls: None,
    }
}

/// A new session whose pull request is to be opened for this branch.
fn pulling(branch: &str) -> Snapshot {
    of_spec(new(), |spec| {
        spec.repository = Some(Repository {
            url: "https://forge.example.com/a/b.git".to_owned(),
            branch: Some(branch.to_owned()).filter(|branch| !branch.is_empty()),
            pull_request: Some(PullRequest { open: true, base: None }),
            ..Repository::default()
        });
    })
}

fn claim(incarnation: i64, phase: ClaimPhase) -> ClaimFacts {
    let (name, uid) = (format!("s-{incarnation}"), format!("claim-{incarnation}"));
    ClaimFacts {
        name,
        uid,
        incarnation,
        pair: "pool-0123abcd".to_owned(),
        created: at(10_000),
        deleting: false,
        given_back: false,
        phase,
    }
}

fn pending(reason: &str) -> ClaimPhase {
    ClaimPhase::Pending {
        reason: reason.to_owned(),
        message: "m".to_owned(),
    }
}

fn ready() -> ClaimPhase {
    ClaimPhase::Ready {
        sandbox: "pool-1-abc".to_owned(),
    }
}

fn ended(reason: &str) -> ClaimPhase {
    ClaimPhase::Ended(Ended {
        reason: reason.to_owned(),
        message: "m".to_owned(),
    })
}

/// A claim with a warm sandbox whose sidecar is attached.
fn claimed() -> Snapshot {
    Snapshot {
        claims: vec![claim(1, ready())],
        sandbox: Some(SandboxFacts {
            name: "pool-1-abc".to_owned(),
            uid: "sandbox-uid".to_owned(),
            deleting: false,
            ready_since: Some(at(-30_000)),
            launch_type: Some(LaunchType::Warm),
            service_fqdn: None,
        }),
        pod: Some(PodFacts {
            name: "pool-1-abc".to_owned(),
            uid: "pod-uid".to_owned(),
            ending: false,
        }),
        stream: Some(StreamFacts {
            key: "key".to_owned(),
            ..StreamFacts::default()
        }),
        ..new()
    }
}

fn acknowledged() -> Snapshot {
    let mut snapshot = claimed();
    snapshot.stream = Some(StreamFacts {
        key: "key".to_owned(),
        assigned: Some(1),
        acknowledged: Some(1),
        ..StreamFacts::default()
    });
    snapshot
}

/// Bound, and the status says so: the harness may be released.
fn bound() -> Snapshot {
    let mut snapshot = acknowledged();
    let spec = &snapshot.session.spec;
    snapshot.session.status = Some(AgentSessionStatus {
        observed_generation: 1,
        phase: Some(Phase::Bound),
        incarnation: 1,
        pinned_generation: Some(1),
        pinned_spec: Some(pinned_fields(spec)),
        run_id: spec.task.run_id.clone(),
        sandbox: Some(SandboxStatus {
            claim_name: "s-1".to_owned(),
            claim_uid: Some("claim-1".to_owned()),
            name: Some("pool-1-abc".to_owned()),
            uid: Some("sandbox-uid".to_owned()),
            pod_name: Some("pool-1-abc".to_owned()),
            pod_uid: Some("pod-uid".to_owned()),
            launch_type: Some(LaunchType::Warm),
            stream_key: Some("key".to_owned()),
            claimed_at: Some(time(at(10_000))),
            bound_at: Some(time(at(10_100))),
            started_at: Some(time(at(10_100))),
            ..SandboxStatus::default()
        }),
        ..AgentSessionStatus::default()
    });
    snapshot.now = at(10_200);
    snapshot
}

fn running() -> Snapshot {
    let mut snapshot = bound();
    if let Some(stream) = &mut snapshot.stream {
        stream.started = Some(1);
    }
    snapshot.run = RunFacts {
        started: true,
        ..RunFacts::default()
    };
    of_status(snapshot, |status| status.phase = Some(Phase::Running))
}

fn exited(code: i32) -> Exited {
    Exited {
        code,
        summary: "done".to_owned(),
        events: 4,
        at: Some(at(20_000)),
        ..Exited::default()
    }
}

fn finished(code: i32) -> Snapshot {
    let mut snapshot = running();
    snapshot.now = at(20_000);
    snapshot.run = RunFacts {
        started: true,
        exited: Some(exited(code)),
        durable: true,
        ..RunFacts::default()
    };
    let phase = if code == 0 { Phase::Succeeded } else { Phase::Failed };
    of_status(snapshot, |status| {
        status.phase = Some(phase);
        status.result = Some(SessionResult {
            exit_code: Some(code),
            events: Some(4),
            finished_at: Some(time(at(20_000))),
            ..SessionResult::default()
        });
    })
}

fn interrupted() -> Snapshot {
    of_status(Snapshot { pod: None, ..running() }, |status| {
        status.phase = Some(Phase::Failed);
        status.stopped_reason = Some("Interrupted".to_owned());
    })
}

fn of_status(mut snapshot: Snapshot, change: impl FnOnce(&mut AgentSessionStatus)) -> Snapshot {
    change(snapshot.session.status.get_or_insert_default());
    snapshot
}

fn of_spec(mut snapshot: Snapshot, change: impl FnOnce(&mut AgentSessionSpec)) -> Snapshot {
    change(&mut snapshot.session.spec);
    snapshot.session.metadata.generation = snapshot.session.metadata.generation.map(|generation| generation + 1);
    snapshot
}

fn of_pool(mut snapshot: Snapshot, change: impl FnOnce(&mut PoolFacts)) -> Snapshot {
    change(snapshot.pool.get_or_insert_default());
    snapshot
}

fn of_stream(mut snapshot: Snapshot, change: impl FnOnce(&mut StreamFacts)) -> Snapshot {
    change(snapshot.stream.get_or_insert_default());
    snapshot
}

fn of_claim(mut snapshot: Snapshot, change: impl FnOnce(&mut ClaimFacts)) -> Snapshot {
    snapshot.claims.iter_mut().for_each(change_once(change));
    snapshot
}

fn given_back(snapshot: Snapshot) -> Snapshot {
    of_claim(snapshot, |claim| claim.given_back = true)
}

fn change_once(change: impl FnOnce(&mut ClaimFacts)) -> impl FnMut(&mut ClaimFacts) {
    let mut change = Some(change);
    move |claim| {
        if let Some(change) = change.take() {
            change(claim);
        }
    }
}

fn later(mut snapshot: Snapshot, millis: i64) -> Snapshot {
    snapshot.now = at(10_000 + millis);
    snapshot
}

fn minutes(minutes: u64) -> kube::core::Duration {
    Duration::from_mins(minutes).into()
}

/// The same moment in the incarnation that follows the one of the status.
fn next_bind(mut snapshot: Snapshot) -> Snapshot {
    let next = snapshot.status().incarnation + 1;
    snapshot.claims = vec![claim(next, ready())];
    of_stream(snapshot, |stream| {
        (stream.assigned, stream.acknowledged) = (Some(next), Some(next));
    })
}

fn failed_binds(snapshot: Snapshot, count: i64, last: i64) -> Snapshot {
    of_status(snapshot, |status| {
        status.observed_generation = 1;
        status.incarnation = count;
        status.failed_binds = count;
        status.last_failed_bind = Some(time(at(last)));
    })
}

macro_rules! table {
    ($($name:literal => $snapshot:expr;)+) => { vec![$(Scenario { name: $name, snapshot: $snapshot }),+] };
}

pub(super) fn scenarios() -> Vec<Scenario> {
    let mut all = to_claim();
    all.extend(to_bound());
    all.extend(to_end());
    all.extend(to_go_on());
    all.extend(to_rest());
    all.extend(to_spend());
    all.extend(authors_wishes());
    all
}

fn resuming(snapshot: Snapshot) -> Snapshot {
    let snapshot = of_spec(snapshot, |spec| spec.task.on_interrupt = Some(OnInterrupt::Resume));
    let pinned = pinned_fields(&snapshot.session.spec);
    of_status(snapshot, |status| status.pinned_spec = Some(pinned))
}

fn kept() -> Kept {
    Kept {
        incarnation: 1,
        number: 7,
        chunks: 3,
        bytes: 4096,
        digest: vec![0xab; 32],
        about: About {
            files: 2,
            workspace: 1,
            transcript: true,
            ..About::default()
        },
    }
}

fn interactive(waits: Option<u64>) -> Snapshot {
    let snapshot = of_spec(running(), |spec| spec.task.mode = Some(TaskMode::Interactive));
    let pinned = pinned_fields(&snapshot.session.spec);
    let snapshot = of_status(snapshot, |status| status.pinned_spec = Some(pinned));
    of_stream(snapshot, |stream| stream.waits = waits)
}

/// The pod is gone, and what it kept is known.
fn lost(checkpoint: CheckpointFacts) -> Snapshot {
    let lost = Snapshot {
        pod: None,
        claims: vec![],
        checkpoint,
        ..running()
    };
    resuming(lost)
}

/// The next pod goes on from it, and its runner says what the disk holds.
fn restored(digest: &[u8]) -> Snapshot {
    let mut snapshot = resuming(running());
    snapshot.run.restored = Some(digest.to_vec());
    snapshot.checkpoint = CheckpointFacts::Kept(kept());
    of_status(snapshot, |status| {
        status.resumes = 1;
        status.resume = Some(Resume {
            incarnation: 1,
            checkpoint: "1/7".to_owned(),
            verdict: String::new(),
            message: String::new(),
            at: time(at(10_000)),
        });
    })
}

fn to_go_on() -> Vec<Scenario> {
    let waits = lost(CheckpointFacts::Kept(kept()));
    table! {
        "a session that resumes gives the lost pod's claim back" => Snapshot { claims: running().claims, ..waits.clone() };
        "and waits until the pod's stream has ended" => Snapshot { is_attached: true, ..waits.clone() };
        "then it claims another pod" => waits.clone();
        "the next pod is assigned what was kept" => {
            let mut snapshot = Snapshot { claims: vec![claim(2, ready())], pod: running().pod, ..waits.clone() };
            snapshot.stream = claimed().stream;
            snapshot
        };
        "and its acknowledgement binds" => {
            let next = Snapshot { claims: vec![claim(2, ready())], pod: running().pod, ..waits.clone() };
            next_bind(next)
        };
        "a database that is away holds it" => lost(CheckpointFacts::Away("no connection".to_owned()));
        "without a checkpoint it is reported" => lost(CheckpointFacts::Nothing);
        "a session that was lost ten times isn't resumed again" =>
            of_status(waits.clone(), |status| status.resumes = 10);
        "a harness that was told to end hasn't ended" => {
            let mut snapshot = resuming(running());
            snapshot.run.exited = Some(Exited { stopped: true, ..exited(143) });
            snapshot.is_attached = true;
            snapshot
        };
        "without the wish to resume it has" => {
            let mut snapshot = running();
            snapshot.run.exited = Some(Exited { stopped: true, ..exited(143) });
            snapshot
        };
        "a harness that ended well and whose branch isn't pushed has failed" => {
            let mut snapshot = running();
            snapshot.run.exited = Some(Exited { error: "the branch can't be pushed: no".to_owned(), ..exited(0) });
            snapshot
        };
        "what was restored as it was is complete" => restored(&[0xab; 32]);
        "what wasn't is incomplete" => restored(&[0xcd; 32]);
        "what was left out is named" => {
            let mut snapshot = restored(&[0xab; 32]);
            let mut kept = kept();
            kept.about.missing = vec!["large.bin".to_owned()];
            kept.about.missing_count = 1;
            snapshot.checkpoint = CheckpointFacts::Kept(kept);
            snapshot
        };
        "an interactive session that works says that it doesn't wait" => interactive(None);
        "one that waits says for what" => interactive(Some(3));
        "one without a stream says what it said" => Snapshot { stream: None, ..interactive(Some(3)) };
        "a verdict stays" => {
            let mut snapshot = restored(&[0xab; 32]);
            snapshot.checkpoint = CheckpointFacts::NotAsked;
            of_status(snapshot, |status| if let Some(resume) = &mut status.resume {
                resume.verdict = "Complete".to_owned();
                resume.message = "as it was".to_owned();
            })
        };
    }
}

/// An interactive session that may be idle for five minutes, and is released after an hour; it began to wait at 10 s.
fn may_be_idle(waits: Option<u64>) -> Snapshot {
    let snapshot = of_spec(resuming(interactive(waits)), |spec| {
        let lifecycle = spec.lifecycle.get_or_insert_default();
        lifecycle.idle_suspend_after = Some(minutes(5));
        lifecycle.idle_release_after = Some(minutes(60));
    });
    let pinned = pinned_fields(&snapshot.session.spec);
    let snapshot = of_status(snapshot, |status| status.pinned_spec = Some(pinned));
    said(snapshot)
}

/// The same once it has given its sandbox back, having worked through three inputs.
fn paused(newest: InputFacts, millis: i64) -> Snapshot {
    let waits = may_be_idle(Some(3));
    let state = super::super::plan::State::Paused(Paused {
        reason: PauseReason::Idle,
        since: time(at(10_000)),
        limit: None,
    });
    let status = super::status(&waits, &state);
    let mut kept = kept();
    kept.about.input = 3;
    let resting = Snapshot {
        claims: vec![],
        sandbox: None,
        pod: None,
        stream: None,
        checkpoint: CheckpointFacts::Kept(kept),
        input: newest,
        ..later(waits, millis)
    };
    of_status(resting, |old| *old = status.unwrap_or_default())
}

/// A running session that may spend so much, and has spent so many picodollars; `refused` is a limit that it met.
fn spending(limit: &str, spent: u64, refused: Option<u64>) -> Snapshot {
    let snapshot = of_spec(resuming(running()), |spec| {
        spec.budget = Some(Budget {
            limit: limit.to_owned(),
        });
    });
    let mut snapshot = said(snapshot);
    snapshot.spend = SpendFacts {
        spent: Pico(spent),
        exhausted: refused.map(|limit| (Pico(limit), at(10_000))),
        compared: None,
    };
    snapshot
}

/// The same once its gateway was asked.
fn compared(mut snapshot: Snapshot, said: u64, seen: u64) -> Snapshot {
    snapshot.spend.compared = Some(Compared {
        said: Pico(said),
        seen: Pico(seen),
    });
    snapshot
}

/// The same once it has given its sandbox back.
fn broke(limit: &str) -> Snapshot {
    let exhausted = spending("2", 1_950_000_000_000, Some(DOLLAR * 2));
    let state = super::super::plan::State::Paused(Paused {
        reason: PauseReason::BudgetExhausted,
        since: time(at(10_000)),
        limit: Some("2".to_owned()),
    });
    let status = super::status(&exhausted, &state);
    let resting = Snapshot {
        claims: vec![],
        sandbox: None,
        pod: None,
        stream: None,
        checkpoint: CheckpointFacts::Kept(kept()),
        ..exhausted
    };
    let resting = of_status(resting, |old| *old = status.unwrap_or_default());
    of_spec(resting, |spec| {
        spec.budget = Some(Budget {
            limit: limit.to_owned(),
        });
    })
}

const DOLLAR: u64 = 1_000_000_000_000;

fn to_spend() -> Vec<Scenario> {
    let refused = || spending("2", 1_950_000_000_000, Some(DOLLAR * 2));
    table! {
        "what was spent isn't told below half of the budget" => spending("2", DOLLAR - 1, None);
        "at half of it it is" => spending("2", DOLLAR, None);
        "and not again before four fifths" => of_status(spending("2", 1_590_000_000_000, None), |status| {
            status.spend = Some(Spend { usd: "1.0000".to_owned(), ..Spend::default() });
        });
        "nor by a leader that doesn't know what was spent before it" => of_status(spending("2", 0, None), |status| {
            status.spend = Some(Spend { usd: "1.0000".to_owned(), ..Spend::default() });
        });
        "what its gateway says is told, and how that differs" =>
            compared(spending("2", DOLLAR / 10, None), DOLLAR / 10, DOLLAR / 5);
        "and what it has spent may be less than was told" =>
            of_status(compared(spending("2", DOLLAR, None), DOLLAR, DOLLAR + DOLLAR / 10), |status| {
                status.spend = Some(Spend { usd: "1.1000".to_owned(), ..Spend::default() });
            });
        "a harness that was refused has a moment to say so" => later(refused(), 4_000);
        "then the session is paused" => later(refused(), 5_000);
        "although its harness has given up" => {
            let mut snapshot = refused();
            snapshot.run.exited = Some(exited(1));
            snapshot
        };
        "one that wouldn't resume goes on without models" =>
            of_spec(refused(), |spec| spec.task.on_interrupt = Some(OnInterrupt::Report));
        "of another budget it says nothing" => spending("3", 1_950_000_000_000, Some(DOLLAR * 2));
        "paused it waits" => broke("2");
        "a smaller budget changes nothing" => broke("1");
        "a larger one continues it" => broke("2.50");
        "and so does none" => of_spec(broke("2"), |spec| spec.budget = None);
    }
}

fn to_rest() -> Vec<Scenario> {
    let woken = paused(InputFacts::Newest(4), 1_000);
    table! {
        "a session that waits is looked at again when it is idle" => later(may_be_idle(Some(3)), 299_000);
        "then it gives its sandbox back" => later(may_be_idle(Some(3)), 301_000);
        "one that works isn't idle" => later(may_be_idle(None), 301_000);
        "one whose stream is away may have work" => {
            let waits = may_be_idle(Some(3));
            later(of_stream(waits, |stream| stream.waits = None), 301_000)
        };
        "while it rests it waits until nobody needs it" => paused(InputFacts::Newest(3), 600_000);
        "not before its pod has said its last word" => Snapshot { is_attached: true, ..woken.clone() };
        "the next input continues it" => woken.clone();
        "in the next pod" => {
            let next = Snapshot { claims: vec![claim(2, ready())], sandbox: running().sandbox, pod: running().pod, ..woken };
            next_bind(Snapshot { stream: running().stream, ..next })
        };
        "without the database nobody knows" => paused(InputFacts::Away("no connection".to_owned()), 600_000);
        "after an hour it is over" => paused(InputFacts::Newest(3), 3_600_000);
        "without a pause before, too" => later(
            of_spec(may_be_idle(Some(3)), |spec| spec.lifecycle.get_or_insert_default().idle_suspend_after = None),
            3_601_000,
        );
    }
}

fn to_claim() -> Vec<Scenario> {
    table! {
        "a new session claims from the serving pair" => new();
        "a session whose pool is missing waits for it" => Snapshot { pool: None, ..new() };
        "a pool without a pair lets the session wait" => of_pool(new(), |pool| pool.serving_pair = None);
        "a refused pool says what admission said" => of_pool(new(), |pool| {
            pool.refused = Some("violates PodSecurity".to_owned());
        });
        "an open breaker holds the claim back" => of_pool(new(), |pool| pool.breaker_open_until = Some(at(25_000)));
        "a closed breaker doesn't" => of_pool(new(), |pool| pool.breaker_open_until = Some(at(9_000)));
        "a full pool lets the session wait" => of_pool(new(), |pool| pool.free = Some(0));
        "a pool with one place left takes it" => of_pool(new(), |pool| pool.free = Some(1));
        "cold start is allowed by default" => of_pool(new(), |pool| pool.ready_members = 0);
        "coldStart Wait waits for a member" => of_pool(new(), |pool| {
            pool.ready_members = 0;
            pool.cold_start = ColdStart::Wait;
        });
        "after one failed bind it waits a second" => failed_binds(new(), 1, 9_500);
        "and then claims the next incarnation" => failed_binds(new(), 1, 8_900);
        "after five it waits sixteen seconds" => failed_binds(new(), 5, 0);
        "after twenty it waits five minutes at most" => failed_binds(new(), 20, 0);
        "a claim that is going away doesn't count, but its number does" =>
            of_claim(Snapshot { claims: vec![claim(3, ready())], ..new() }, |claim| claim.deleting = true);
        "a claim that was given back doesn't count either, though the cache still shows it" =>
            given_back(Snapshot { claims: vec![claim(3, ready())], ..new() });
        "a session that is being deleted is left to garbage collection" => {
            let mut snapshot = claimed();
            snapshot.session.metadata.deletion_timestamp = Some(time(at(9_000)));
            snapshot
        };
        "onInterrupt Report is" => of_spec(new(), |spec| spec.task.on_interrupt = Some(OnInterrupt::Report));
        "retries are not implemented" => of_spec(new(), |spec| spec.task.retries = Some(2));
        "zero retries are" => of_spec(new(), |spec| spec.task.retries = Some(0));
        "a pull request can be opened on a forge of the install" => {
            let mut snapshot = pulling("agent/work");
            snapshot.pulls = Some(Pulls { api: String::new(), page: String::new() });
            snapshot
        };
        "and on no other" => pulling("agent/work");
        "a pull request needs a branch" => pulling("");
        "a session with a budget begins as any other" => of_spec(new(), |spec| {
            spec.budget = Some(Budget { limit: "5".to_owned() });
        });
        "a session that runs to completion is never idle" =>
            of_spec(new(), |spec| spec.lifecycle.get_or_insert_default().idle_release_after = Some(minutes(5)));
        "an idle one without checkpoints would lose its conversation" => of_spec(new(), |spec| {
            spec.task.mode = Some(TaskMode::Interactive);
            spec.lifecycle.get_or_insert_default().idle_suspend_after = Some(minutes(5));
        });
    }
}

fn to_bound() -> Vec<Scenario> {
    table! {
        "a fresh claim without a status costs no write" => Snapshot { claims: vec![claim(1, pending(""))], ..new() };
        "after two seconds the status says that it waits" =>
            later(Snapshot { claims: vec![claim(1, pending("SandboxNotReady"))], ..new() }, 2_001);
        "a claim may take as long as its pool says" => {
            let waiting = Snapshot { claims: vec![claim(1, pending("SandboxNotReady"))], ..new() };
            of_pool(later(waiting, 200_000), |pool| pool.startup_deadline = Some(Duration::from_mins(4)))
        };
        "a claim that takes longer is given up" => {
            let waiting = Snapshot { claims: vec![claim(1, pending("SandboxNotReady"))], ..new() };
            of_pool(later(waiting, 240_000), |pool| pool.startup_deadline = Some(Duration::from_mins(4)))
        };
        "ten minutes is the limit where the pool says nothing" =>
            later(Snapshot { claims: vec![claim(1, pending("WarmPoolNotFound"))], ..new() }, 600_000);
        "a claim that can never be served is given up" =>
            Snapshot { claims: vec![claim(1, ended("InvalidMetadata"))], ..new() };
        "a ready claim waits for its sandbox to be seen" => Snapshot { sandbox: None, pod: None, stream: None, ..claimed() };
        "a ready claim waits for its pod to be seen" => Snapshot { pod: None, stream: None, ..claimed() };
        "a ready claim waits for its sidecar" => Snapshot { stream: None, ..claimed() };
        "an attached sidecar is assigned" => claimed();
        "an assignment is pushed once" => of_stream(claimed(), |stream| stream.assigned = Some(1));
        "an assignment of an older incarnation is another one" => of_stream(claimed(), |stream| {
            stream.assigned = Some(7);
            stream.acknowledged = Some(7);
        });
        "the acknowledgement binds" => acknowledged();
        "a cold sandbox binds as cold" => {
            let mut snapshot = acknowledged();
            if let Some(sandbox) = &mut snapshot.sandbox {
                sandbox.launch_type = Some(LaunchType::Cold);
                sandbox.ready_since = Some(at(12_000));
            }
            later(snapshot, 3_000)
        };
        "a bind resets the count of failed ones" => next_bind(failed_binds(acknowledged(), 3, 0));
        "no acknowledgement within ten seconds is given up" =>
            later(of_stream(claimed(), |stream| stream.assigned = Some(1)), 10_000);
        "no sidecar within ten seconds is given up" => later(Snapshot { stream: None, ..claimed() }, 10_000);
        "a new leader gives sidecars fifteen seconds more" => {
            let mut snapshot = later(Snapshot { stream: None, ..claimed() }, 12_000);
            snapshot.serving_since = at(15_000);
            snapshot
        };
        "but not for ever" => {
            let mut snapshot = later(Snapshot { stream: None, ..claimed() }, 30_000);
            snapshot.serving_since = at(15_000);
            snapshot
        };
        "a cold sandbox has ten seconds from when it was ready" => {
            let mut snapshot = later(Snapshot { stream: None, ..claimed() }, 19_000);
            if let Some(sandbox) = &mut snapshot.sandbox {
                sandbox.ready_since = Some(at(25_000));
            }
            snapshot
        };
        "a refused pod is given up" => of_stream(claimed(), |stream| {
            stream.refused = Some("containers are [\"agent\", \"extra\"]".to_owned());
        });
        "a pod that goes away before it is bound is given up" => {
            let mut snapshot = claimed();
            snapshot.pod.iter_mut().for_each(|pod| pod.ending = true);
            snapshot
        };
        "an older claim beside the current one is given back" =>
            Snapshot { claims: vec![claim(1, ready()), claim(2, pending(""))], ..new() };
    }
}

fn to_end() -> Vec<Scenario> {
    table! {
        "a status that says started lets the harness go" => bound();
        "a credential that isn't granted holds the harness" => listing(bound(), None, None);
        "a gateway that refuses its key is named" => refused_by_a_gateway(listing(bound(), None, Some((&[], true))));
        "nor does a grant let it go before the sidecar holds it" => listing(bound(), None, Some((&["TOKEN"], false)));
        "a granted one lets it go" => listing(bound(), None, Some((&["TOKEN"], true)));
        "a grant of something else doesn't" => listing(bound(), None, Some((&[], true)));
        "an optional one doesn't hold it" => listing(bound(), Some(false), Some((&[], true)));
        "a pool that opens hosts holds it until they are open" => of_pool(bound(), |pool| pool.opens_hosts = true);
        "start is pushed once on a stream" => of_stream(bound(), |stream| stream.started = Some(1));
        "a new stream that holds the incarnation gets start again" => running_on_new_stream(Some(1));
        "a new stream that lost its memory gets the assignment again" => running_on_new_stream(None);
        "a running harness is said once" => of_status(running(), |status| status.phase = Some(Phase::Bound));
        "a running session needs nothing" => said(running());
        "a stream that is away for a while changes nothing" => said(Snapshot { stream: None, ..running() });
        "exit status 0 is a success" => Snapshot { run: RunFacts { exited: Some(exited(0)), ..RunFacts::default() }, ..running() };
        "another exit status is a failure" => Snapshot { run: RunFacts { exited: Some(exited(3)), ..RunFacts::default() }, ..running() };
        "a harness that could not start is a failure" => {
            let exited = Exited { code: 127, error: "no such file".to_owned(), ..exited(127) };
            Snapshot { run: RunFacts { exited: Some(exited), ..RunFacts::default() }, ..bound() }
        };
        "a result counts even when the pod has gone" =>
            Snapshot { pod: None, run: RunFacts { exited: Some(exited(0)), ..RunFacts::default() }, ..running() };
        "a pod lost after the start is reported, not run again" => Snapshot { pod: None, ..running() };
        "another pod of the same sandbox is a loss" => {
            let mut snapshot = running();
            snapshot.pod.iter_mut().for_each(|pod| pod.uid = "another".to_owned());
            snapshot
        };
        "a pod that is being deleted is a loss" => {
            let mut snapshot = running();
            snapshot.pod.iter_mut().for_each(|pod| pod.ending = true);
            snapshot
        };
        "another sandbox under the same claim is a loss" => {
            let mut snapshot = running();
            snapshot.sandbox.iter_mut().for_each(|sandbox| sandbox.uid = "another".to_owned());
            snapshot
        };
        "a claim that was deleted is a loss" => Snapshot { claims: vec![], ..running() };
        "a sandbox that ended by itself is a loss" => Snapshot { claims: vec![claim(1, ended("PodFailed"))], ..running() };
        "a bound claim whose warm pool is gone runs on" => said(running());
        "maxDuration ends the run" => later(
            of_spec(running(), |spec| spec.lifecycle.get_or_insert_default().max_duration = Some(minutes(10))), 600_000);
        "before it, its time is waited for" =>
            of_spec(running(), |spec| spec.lifecycle.get_or_insert_default().max_duration = Some(minutes(10)));
        "a finished session gives its sandbox back" => said(finished(0));
        "a failed one too" => said(finished(1));
        "releaseAfterFinished keeps it for a while" => said(of_spec(finished(0), |spec| {
            spec.lifecycle.get_or_insert_default().release_after_finished = Some(minutes(10));
        }));
        "events that Postgres lacks keep it too" => said(undurable(20_001));
        "for ten minutes" => said(undurable(620_001));
        "a finished session without a claim is at rest" => said(Snapshot { claims: vec![], ..finished(0) });
        "an interrupted one gives its sandbox back" => said(interrupted());
        "a sandbox is given back once, though the cache still shows its claim" => given_back(said(finished(0)));
        "an interrupted one's too" => given_back(said(interrupted()));
        "a new leader that knows nothing of the run keeps the result" =>
            said(Snapshot { run: RunFacts::default(), stream: None, ..finished(0) });
    }
}

/// A session that lists `TOKEN`, and what its sidecar was granted.
fn listing(snapshot: Snapshot, required: Option<bool>, granted: Option<(&[&str], bool)>) -> Snapshot {
    let listed = of_spec(snapshot, |spec| {
        spec.credentials = vec![CredentialUse {
            name: "TOKEN".to_owned(),
            required,
        }];
    });
    of_stream(said(listed), |stream| {
        stream.granted = granted.map(|(names, acknowledged)| Granted {
            digest: [0; 32],
            revision: 2,
            acknowledged,
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            prolonged: std::time::Instant::now(),
        });
    })
}

fn refused_by_a_gateway(mut snapshot: Snapshot) -> Snapshot {
    let trouble = Trouble {
        reason: Reason::GatewayRefused,
        message: "gateway main refuses: 400 Bad Request".to_owned(),
    };
    snapshot.troubles = vec![("OTHER".to_owned(), trouble.clone()), ("TOKEN".to_owned(), trouble)];
    snapshot
}

fn undurable(now: i64) -> Snapshot {
    let mut snapshot = finished(0);
    snapshot.run.durable = false;
    snapshot.now = at(now);
    snapshot
}

fn running_on_new_stream(acknowledged: Option<i64>) -> Snapshot {
    let stream = StreamFacts {
        key: "key".to_owned(),
        acknowledged,
        ..StreamFacts::default()
    };
    said(Snapshot {
        stream: Some(stream),
        ..running()
    })
}

/// With the conditions that the state calls for already written.
fn said(mut snapshot: Snapshot) -> Snapshot {
    use super::super::plan::State;
    let current = snapshot.status();
    let state = match current.phase {
        Some(Phase::Succeeded | Phase::Failed) if current.stopped_reason.is_none() => State::Finished(exited(
            current.result.as_ref().and_then(|result| result.exit_code).unwrap_or(0),
        )),
        Some(Phase::Failed) => State::Ended(Reason::Interrupted, "lost".to_owned()),
        Some(Phase::Suspended) => State::Suspended,
        Some(Phase::Bound) => State::Bound(Box::new(current.sandbox.clone().unwrap_or_default())),
        _ => State::Running,
    };
    if let Some(status) = super::status(&snapshot, &state) {
        snapshot.session.status = Some(AgentSessionStatus {
            result: current.result,
            ..status
        });
    }
    snapshot
}

fn suspended(snapshot: Snapshot) -> Snapshot {
    of_spec(snapshot, |spec| spec.suspend = true)
}

fn again(snapshot: Snapshot) -> Snapshot {
    of_spec(snapshot, |spec| spec.task.run_id = Some("second".to_owned()))
}

fn authors_wishes() -> Vec<Scenario> {
    table! {
        "a suspended new session makes no claim" => suspended(new());
        "suspending a claim gives it back" => suspended(claimed());
        "a suspended session's claim is given back once" => given_back(suspended(claimed()));
        "suspending a running session stops its harness first" => suspended(running());
        "suspending a finished one only gives its sandbox back" => suspended(said(finished(0)));
        "a suspended session is at rest" => {
            let resting = Snapshot { claims: vec![], sandbox: None, pod: None, stream: None, ..suspended(new()) };
            let status = super::status(&resting, &super::super::plan::State::Suspended);
            of_status(resting, |old| *old = status.unwrap_or_default())
        };
        "the claim of an old run is not bound again while the cache still shows it" => {
            let asked = of_spec(running(), |spec| spec.task.run_id = Some("two".to_owned()));
            let waiting = super::super::plan::State::Waiting(Reason::Progressing, "giving back s-1".to_owned());
            let status = super::status(&asked, &waiting);
            of_status(asked, |old| *old = status.unwrap_or_default())
        };
        "a new run is not ended by what the old one told" => {
            let asked = of_spec(finished(0), |spec| spec.task.run_id = Some("two".to_owned()));
            let waiting = super::super::plan::State::Waiting(Reason::Progressing, "giving back s-1".to_owned());
            let status = super::status(&asked, &waiting);
            let released = Snapshot { claims: vec![], sandbox: None, pod: None, stream: None, ..asked };
            of_status(released, |old| *old = status.unwrap_or_default())
        };
        "resumed before it ever ran it claims again" => {
            let resting = of_status(new(), |status| {
                status.observed_generation = 1;
                status.phase = Some(Phase::Suspended);
                status.incarnation = 1;
            });
            of_spec(resting, |spec| spec.suspend = false)
        };
        "resumed after it ran it is reported" => {
            let resting = Snapshot { claims: vec![], sandbox: None, pod: None, stream: None, ..running() };
            of_spec(resting, |spec| spec.suspend = false)
        };
        "an edit of the task while it runs waits" =>
            of_spec(said(running()), |spec| spec.task.prompt = "something else".to_owned());
        "an edit of the task after it ran waits" =>
            of_spec(said(finished(0)), |spec| spec.task.prompt = "something else".to_owned());
        "an edit of the lifecycle is live" =>
            of_spec(said(running()), |spec| spec.lifecycle.get_or_insert_default().max_duration = Some(minutes(60)));
        "a new runID after the end gives the old claim back first" => again(said(finished(0)));
        "and then claims the next incarnation with an empty result" =>
            Snapshot { claims: vec![], ..again(said(finished(0))) };
        "a new runID while it runs ends the old run" => again(said(running()));
        "a new runID after an interruption runs again" => Snapshot { claims: vec![], ..again(said(interrupted())) };
        "the new run binds with its own runID" => {
            let mut snapshot = again(said(finished(0)));
            snapshot.claims = vec![claim(2, ready())];
            of_stream(snapshot, |stream| {
                *stream = StreamFacts { assigned: Some(2), acknowledged: Some(2), ..StreamFacts::default() };
            })
        };
        "a request to look again is noted" => {
            let mut snapshot = said(running());
            let annotations = snapshot.session.metadata.annotations.get_or_insert_default();
            annotations.insert(label::RECONCILE.to_owned(), "now".to_owned());
            snapshot
        };
        "provenance is shown" => {
            let mut snapshot = acknowledged();
            let annotations = snapshot.session.metadata.annotations.get_or_insert_default();
            annotations.insert(label::COMMIT.to_owned(), "0123abcd".to_owned());
            snapshot
        };
    }
}
