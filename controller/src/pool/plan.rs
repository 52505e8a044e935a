//! Pure: from a pool and its pairs to what is to be done. Blue/green: claims go to an old pair until the new one has
//! a ready member, then the old one drains and goes when no claim refers to it.

use std::time::Duration;

use berth_crds::{AgentPool, AgentPoolSpec, Reason};
use jiff::Timestamp;

use super::pair::Rendering;

/// What is known of one pool at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// When it was taken.
    pub now: Timestamp,
    /// The pool.
    pub pool: AgentPool,
    /// What its spec renders to now.
    pub rendering: Rendering,
    /// Its pairs, newest first.
    pub pairs: Vec<PairFacts>,
    /// Admission's words when it refuses the rendered pod.
    pub refused: Option<String>,
    /// Another pool of the namespace that is between two pairs.
    pub other_rolling: Option<String>,
    /// Sessions that hold a sandbox of this pool.
    pub sessions: i64,
    /// Until when the breaker holds claims back.
    pub breaker_open_until: Option<Timestamp>,
}

/// One pair of SandboxTemplate and SandboxWarmPool.
#[derive(Clone, Debug, Default)]
pub struct PairFacts {
    /// Its name.
    pub name: String,
    /// Sandboxes that it is to keep waiting.
    pub replicas: i32,
    /// Sandboxes that wait ready.
    pub ready: i32,
    /// Claims that refer to it.
    pub claims: usize,
    /// Somebody else has changed its template, or this leader hasn't seen to it yet.
    pub stray: bool,
}

/// What is to be done and where the pool stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// In order.
    pub steps: Vec<Step>,
    /// Where the pool stands.
    pub state: State,
    /// Look again after this long, if nothing happens before.
    pub requeue: Option<Duration>,
}

/// One write.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Step {
    /// Make or mend the pair of the rendering, with this many waiting sandboxes.
    ApplyPair(i32),
    /// Let an old pair wait with this many sandboxes.
    Scale(String, i32),
    /// Delete a drained pair.
    DeletePair(String),
}

/// Where a pool stands.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum State {
    /// Claims have a pair with members.
    Ready,
    /// The first members are starting, or the new pair's are.
    Warming(String),
    /// The spec can't be used; a person has to change it.
    Stalled(Reason, String),
    /// Claims are held back.
    Broken(String),
}

/// Plans one pass.
pub fn plan(snapshot: &Snapshot) -> Plan {
    if snapshot.pool.metadata.deletion_timestamp.is_some() {
        return Plan {
            steps: vec![],
            state: State::Warming("being deleted".to_owned()),
            requeue: None,
        };
    }
    if let Some((reason, message)) = unusable(&snapshot.pool.spec) {
        return Plan {
            steps: vec![],
            state: State::Stalled(reason, message),
            requeue: None,
        };
    }
    let (steps, hold) = steps(snapshot);
    let (state, requeue) = state(snapshot, hold);
    Plan { steps, state, requeue }
}

/// The pair that new claims name: the wanted one once it has a ready member or nothing else serves.
pub fn serving<'a>(pairs: &'a [PairFacts], wanted: &str) -> Option<&'a PairFacts> {
    let new = pairs.iter().find(|pair| pair.name == wanted);
    let mut others = pairs.iter().filter(|pair| pair.name != wanted && pair.replicas > 0);
    if new.is_some_and(|pair| pair.ready > 0) {
        return new;
    }
    others
        .clone()
        .find(|pair| pair.ready > 0)
        .or_else(|| others.next())
        .or(new)
}

fn unusable(spec: &AgentPoolSpec) -> Option<(Reason, String)> {
    let checks = [(spec.gateway.is_some(), "spec.gateway")];
    let used: Vec<&str> = checks
        .iter()
        .filter(|(used, _)| *used)
        .map(|(_, field)| *field)
        .collect();
    let message = format!("{} is not implemented in this release; remove it", used.join(", "));
    (!used.is_empty()).then_some((Reason::NotImplemented, message))
}

/// The writes, and why a new pair has to wait, if it has.
fn steps(snapshot: &Snapshot) -> (Vec<Step>, Option<String>) {
    let replicas = snapshot.pool.spec.replicas;
    let wanted = snapshot.rendering.pair.as_str();
    let others: Vec<&PairFacts> = snapshot.pairs.iter().filter(|pair| pair.name != wanted).collect();
    let mut steps = Vec::new();
    let mut hold = None;
    match snapshot.pairs.iter().find(|pair| pair.name == wanted) {
        Some(pair) if pair.stray || pair.replicas != replicas => steps.push(Step::ApplyPair(replicas)),
        Some(_) => {}
        None => match why_hold(snapshot, others.len()) {
            Some(why) => hold = Some(why),
            None => steps.push(Step::ApplyPair(replicas)),
        },
    }
    let switched = serving(&snapshot.pairs, wanted).is_some_and(|pair| pair.name == wanted) || replicas == 0;
    for pair in others {
        match (pair.replicas, pair.claims) {
            (1.., _) if switched && hold.is_none() => steps.push(Step::Scale(pair.name.clone(), 0)),
            (0, 0) => steps.push(Step::DeletePair(pair.name.clone())),
            _ => {}
        }
    }
    (steps, hold)
}

fn why_hold(snapshot: &Snapshot, others: usize) -> Option<String> {
    if snapshot.refused.is_some() {
        return Some("admission refuses the pod".to_owned());
    }
    if others >= OLD_PAIRS_MAX {
        return Some(format!("{others} older pairs still serve sessions"));
    }
    let other = snapshot.other_rolling.as_ref().filter(|_| others > 0)?;
    Some(format!("AgentPool {other} of this namespace is rolling"))
}

fn state(snapshot: &Snapshot, hold: Option<String>) -> (State, Option<Duration>) {
    if let Some(refused) = &snapshot.refused {
        let message = format!("the namespace doesn't admit the pool's pod: {refused}");
        return (State::Stalled(Reason::AdmissionRefused, message), Some(REFUSED_AGAIN));
    }
    if let Some(until) = snapshot.breaker_open_until {
        let message = "five binds failed within two minutes; claims wait".to_owned();
        return (State::Broken(message), crate::session::plan::left(snapshot.now, until));
    }
    if let Some(why) = hold {
        return (State::Warming(format!("the new pair waits: {why}")), None);
    }
    let wanted = &snapshot.rendering.pair;
    let pair = snapshot.pairs.iter().find(|pair| &pair.name == wanted);
    let ready = pair.is_some_and(|pair| pair.ready > 0 || snapshot.pool.spec.replicas == 0);
    if ready || was_ready(snapshot, wanted) {
        return (State::Ready, None);
    }
    (State::Warming(format!("sandboxes of {wanted} are starting")), None)
}

/// A pair that has been ready stays so for the status while its members are claimed and made again.
fn was_ready(snapshot: &Snapshot, wanted: &str) -> bool {
    let Some(status) = &snapshot.pool.status else {
        return false;
    };
    let ready = berth_crds::condition::find(&status.conditions, berth_crds::ConditionType::Ready);
    status.current.as_deref() == Some(wanted) && ready.is_some_and(|ready| ready.status == "True")
}

/// DESIGN §3: at most two old pairs.
const OLD_PAIRS_MAX: usize = 2;
/// Admission is asked again this often: a namespace's labels may have changed, which no watch of ours shows.
const REFUSED_AGAIN: Duration = Duration::from_mins(1);

#[cfg(test)]
mod tests;
