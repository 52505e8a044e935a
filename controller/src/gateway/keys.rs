//! What is known of the keys, when the next thing is due, and what becomes of one that is wanted no more. Pure but for the
//! jitter.
//!
//! A key is renewed ahead of its end. What can't be done is tried again after a back-off, and what the gateway would
//! forget by itself isn't tried for ever.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use berth_crds::{AgentSession, Phase, Reason};
use berth_outbound::oauth2::renewal;
use berth_outbound::post::Caller;
use berth_protocol::budget::Price;
use jiff::{SignedDuration, Timestamp};
use kube::Resource;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::config::Gateways;
use super::key::{KeyId, Terms, Wanted};
use crate::session::plan::has_ended;
use crate::watch::Name;

/// The keys of all sessions.
pub struct Keys {
    /// The install's gateways.
    pub gateways: Gateways,
    /// Asks them.
    pub caller: Caller,
    /// How many are asked at a time.
    pub at_once: Semaphore,
    states: Mutex<HashMap<KeyId, State>>,
    /// What their models cost, by the gateway, as it was asked last.
    prices: Mutex<HashMap<String, Arc<Vec<Price>>>>,
    /// What is being asked for: one request at a time for each key.
    busy: Mutex<HashSet<KeyId>>,
}

/// What is known of a key that is wanted.
#[derive(Debug, Default, PartialEq)]
pub struct Known {
    /// Until when the session may use it; `None` while it may not.
    pub ends: Option<Timestamp>,
    /// Whether the gateway is to be asked now.
    pub is_due: bool,
    /// How long until it is.
    pub wait: Duration,
    /// Whether the gateway has it, as far as is known.
    pub is_there: bool,
    /// Whether this leader hasn't heard of it from the gateway yet.
    pub is_first: bool,
}

/// Why a session has no key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Trouble {
    /// For programs.
    pub reason: Reason,
    /// For people.
    pub message: String,
}

/// What is to be done about a key that is wanted no more.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fate {
    /// Nothing: it may be wanted in a moment.
    Wait,
    /// It can't be used until it is wanted again, and what it has spent stays counted.
    Block,
    /// It goes.
    Delete,
}

/// A key that is wanted no more.
#[derive(Clone, Debug, PartialEq)]
pub struct Unwanted {
    /// Which.
    pub id: KeyId,
    /// Its name at the gateway.
    pub alias: String,
    /// Its session.
    pub session: Name,
    /// What becomes of it.
    pub fate: Fate,
}

struct State {
    session: Name,
    credential: String,
    alias: String,
    stands: Stands,
    /// When the gateway takes it for over, at the latest.
    ends: Timestamp,
    failure: Option<Failure>,
}

enum Stands {
    /// It may be there.
    Unknown,
    /// A former leader made it: the sidecar holds it.
    Presumed,
    Active {
        terms: Terms,
        renew: Timestamp,
    },
    Blocked,
}

struct Failure {
    work: Work,
    trouble: Trouble,
    tries: u32,
    next: Timestamp,
}

#[derive(Clone, Debug, PartialEq)]
enum Work {
    Keep(Terms),
    End(Fate),
}

/// What the fate of a key hangs on.
#[derive(Clone, Copy, Debug)]
pub struct Standing<'a> {
    /// Its session, if that is there.
    pub session: Option<&'a AgentSession>,
    /// Whether its binding is there.
    pub binding_lives: bool,
    /// Whether this leader serves the session's pod, and can judge all of its bindings.
    pub is_judged: bool,
}

/// A session that is over, and a binding that is gone, take the key along. Otherwise the key may be wanted again, and a
/// deleted one would have its whole budget anew.
pub fn fate(standing: Standing<'_>) -> Fate {
    let Some(session) = standing.session else {
        return Fate::Delete;
    };
    let status = session.status.as_ref();
    if session.meta().deletion_timestamp.is_some() || status.is_some_and(has_ended) || !standing.binding_lives {
        return Fate::Delete;
    }
    // A pod whose stream is away holds on to what it was granted, until its lease ends.
    let rests = status.is_none_or(|status| {
        status.sandbox.is_none() || status.paused.is_some() || status.phase == Some(Phase::Suspended)
    });
    if standing.is_judged || rests {
        Fate::Block
    } else {
        Fate::Wait
    }
}

impl Keys {
    /// None yet.
    pub fn new(gateways: Gateways, caller: Caller) -> Self {
        Self {
            gateways,
            caller,
            at_once: Semaphore::new(AT_ONCE),
            states: Mutex::default(),
            prices: Mutex::default(),
            busy: Mutex::default(),
        }
    }

    /// What is known of a key now.
    pub fn known(&self, wanted: &Wanted, now: Timestamp) -> Known {
        let states = self.states.lock();
        let Some(state) = states.get(&wanted.id) else {
            return Known {
                is_due: true,
                is_first: true,
                ..Known::default()
            };
        };
        let (held, renew) = match &state.stands {
            Stands::Active { terms, renew } => (
                // With another list of models it would be good for what isn't granted.
                terms.models == wanted.terms.models && state.ends > now + MARGIN,
                (*terms == wanted.terms).then_some(*renew),
            ),
            Stands::Presumed => (state.ends > now + MARGIN, None),
            Stands::Blocked | Stands::Unknown => (false, None),
        };
        let failure = state.failure.as_ref();
        let failure = failure.filter(|failure| failure.work == Work::Keep(wanted.terms.clone()));
        let next = failure.map(|failure| failure.next).or(renew).unwrap_or(now);
        Known {
            ends: held.then_some(state.ends),
            is_due: next <= now,
            wait: until(next, now),
            is_there: !matches!(state.stands, Stands::Unknown) || state.failure.is_none(),
            is_first: matches!(state.stands, Stands::Unknown) && state.failure.is_none(),
        }
    }

    /// Why a session has no key for these credentials.
    pub fn troubles(&self, session_uid: &str) -> Vec<(String, Trouble)> {
        let states = self.states.lock();
        let theirs = states.iter().filter(|(id, _)| id.session_uid == session_uid);
        let failed = theirs.filter_map(|(_, state)| {
            let failure = state.failure.as_ref()?;
            let is_kept = matches!(failure.work, Work::Keep(_));
            is_kept.then(|| (state.credential.clone(), failure.trouble.clone()))
        });
        failed.collect()
    }

    /// The keys of a session that the gateways may have, the session's name, and the credential that each is.
    pub fn of_session(&self, session_uid: &str) -> Vec<(KeyId, Name, String)> {
        let states = self.states.lock();
        let theirs = states.iter().filter(|(id, _)| id.session_uid == session_uid);
        theirs
            .map(|(id, state)| (id.clone(), state.session.clone(), state.credential.clone()))
            .collect()
    }

    /// What the models of a gateway cost, once it was asked.
    pub fn prices(&self, gateway: &str) -> Option<Arc<Vec<Price>>> {
        self.prices.lock().get(gateway).map(Arc::clone)
    }

    /// A gateway has said what its models cost.
    pub fn are_priced(&self, gateway: &str, prices: Vec<Price>) {
        self.prices.lock().insert(gateway.to_owned(), Arc::new(prices));
    }

    /// Whether to ask now: nobody else does.
    pub fn begins(&self, id: &KeyId) -> bool {
        self.busy.lock().insert(id.clone())
    }

    /// What was asked for has come, or hasn't.
    pub fn ends(&self, id: &KeyId) {
        self.busy.lock().remove(id);
    }

    /// A sidecar holds what a former leader granted it, and with that its key, which is the very same. It goes on being
    /// offered while the gateway is asked.
    pub fn presume(&self, wanted: &Wanted, now: Timestamp) {
        let mut states = self.states.lock();
        let state = states.entry(wanted.id.clone()).or_insert_with(|| unknown(wanted, now));
        if matches!(state.stands, Stands::Unknown) {
            state.stands = Stands::Presumed;
        }
    }

    /// The gateway has a key that this process knows nothing of. Whether that was new.
    pub fn seen(&self, wanted: &Wanted, now: Timestamp) -> bool {
        let mut states = self.states.lock();
        let is_new = !states.contains_key(&wanted.id);
        states.entry(wanted.id.clone()).or_insert_with(|| unknown(wanted, now));
        is_new
    }

    /// What came of asking for a key that is wanted. `jitter` is from 0 to 1.
    pub fn settle_wanted(&self, wanted: &Wanted, result: Result<(), Trouble>, (now, jitter): (Timestamp, f64)) {
        let mut states = self.states.lock();
        let state = states.entry(wanted.id.clone()).or_insert_with(|| unknown(wanted, now));
        let lasts = wanted.terms.lasts;
        // What was asked for may have been done, though no answer came.
        state.ends = state.ends.max(after(now, lasts));
        match result {
            Ok(()) => {
                state.stands = Stands::Active {
                    terms: wanted.terms.clone(),
                    renew: after(now, lasts.mul_f64(0.75 - 0.1 * jitter)),
                };
                state.ends = after(now, lasts);
                state.failure = None;
            }
            Err(trouble) => {
                if trouble.reason == Reason::GatewayRefused && matches!(state.stands, Stands::Presumed) {
                    state.stands = Stands::Unknown;
                }
                state.fail(Work::Keep(wanted.terms.clone()), trouble, (now, jitter));
            }
        }
    }

    /// What came of blocking or deleting a key: whether it was there.
    pub fn settle_unwanted(&self, unwanted: &Unwanted, result: Result<bool, Trouble>, (now, jitter): (Timestamp, f64)) {
        let mut states = self.states.lock();
        let Some(state) = states.get_mut(&unwanted.id) else {
            return;
        };
        match (result, unwanted.fate) {
            (Ok(true), Fate::Block) => {
                state.stands = Stands::Blocked;
                state.failure = None;
            }
            (Ok(_), _) => drop(states.remove(&unwanted.id)),
            (Err(trouble), fate) => state.fail(Work::End(fate), trouble, (now, jitter)),
        }
    }

    /// The keys of a namespace that are wanted no more and are to be ended now, and how long until the next one is.
    pub fn unwanted(
        &self,
        namespace: &str,
        wanted: &HashSet<KeyId>,
        fate: impl Fn(&KeyId, &Name) -> Fate,
        now: Timestamp,
    ) -> (Vec<Unwanted>, Option<Duration>) {
        let mut states = self.states.lock();
        // A gateway refuses what has ended by itself.
        states.retain(|id, state| id.namespace != namespace || wanted.contains(id) || state.ends > now);
        let (mut due, mut wait) = (Vec::new(), None);
        let over = states
            .iter()
            .filter(|(id, _)| id.namespace == namespace && !wanted.contains(id));
        for (id, state) in over {
            let fate = fate(id, &state.session);
            if fate == Fate::Wait || (fate == Fate::Block && matches!(state.stands, Stands::Blocked)) {
                continue;
            }
            let failure = state.failure.as_ref().filter(|failure| failure.work == Work::End(fate));
            match failure.map(|failure| failure.next).filter(|next| *next > now) {
                Some(next) => wait = wait.into_iter().chain([until(next, now)]).min(),
                None => due.push(Unwanted {
                    id: id.clone(),
                    alias: state.alias.clone(),
                    session: state.session.clone(),
                    fate,
                }),
            }
        }
        (due, wait)
    }
}

impl State {
    fn fail(&mut self, work: Work, trouble: Trouble, (now, jitter): (Timestamp, f64)) {
        let before = self.failure.take().filter(|failure| failure.work == work);
        let tries = before.map_or(0, |failure| failure.tries);
        self.failure = Some(Failure {
            work,
            trouble,
            tries: tries.saturating_add(1),
            next: after(now, renewal::pause(tries, false, jitter)),
        });
    }
}

fn unknown(wanted: &Wanted, now: Timestamp) -> State {
    State {
        session: wanted.session.clone(),
        credential: wanted.credential.clone(),
        alias: wanted.alias.clone(),
        stands: Stands::Unknown,
        ends: after(now, UNKNOWN),
        failure: None,
    }
}

fn after(now: Timestamp, wait: Duration) -> Timestamp {
    let wait = SignedDuration::try_from(wait).unwrap_or(SignedDuration::MAX);
    now.saturating_add(wait).unwrap_or(Timestamp::MAX)
}

fn until(at: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(now)).unwrap_or_default()
}

/// A request that leaves with a key still has to arrive.
const MARGIN: SignedDuration = SignedDuration::from_secs(5);
/// No key lasts longer than a day ([`super::key`]).
const UNKNOWN: Duration = Duration::from_hours(24);
/// A gateway writes each key to its database; a hundred sessions may begin at once.
const AT_ONCE: usize = 8;

#[cfg(test)]
mod tests;
