//! What this pod is bound to: the one place where stream, runner and listeners meet.
//!
//! Every change is kept in `vault-state` before it is acted upon, under one lock. A pod serves one incarnation and
//! starts its harness at most once; both hold over restarts of either container.

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use berth_protocol::checkpoint;
use berth_protocol::control::to_sidecar::Message;
use berth_protocol::control::{self, Ack, Event, Hello, ToSidecar, WantInput, event::Kind};
use berth_protocol::handoff::{INPUT_MAX, ToRunner};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::watch;

use super::gate::{Stale, Weight};
use super::held::{Bound, Held, Stage, for_runner};
use super::relay::{NoStep, Relay};
use super::spool::Spool;
use super::state::{Numbers, State, StateError};
use crate::clock::unix_ms;

/// Shared by everything in the sidecar.
pub struct Bond {
    inner: Mutex<Inner>,
    changed: watch::Sender<u64>,
}

struct Inner {
    state: State,
    held: Held,
    spool: Spool,
    /// Version of the assignment that the connected runner has confirmed.
    confirmed: Option<u64>,
    /// An assignment that the controller waits to have acknowledged.
    ack_due: Option<Ack>,
    /// Grants that the vault holds and the controller doesn't know of.
    grants_ack_due: Option<Ack>,
    relay: Relay,
    wanted: Option<Wanted>,
}

/// What the harness waits for.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    /// The last input that it was given.
    after: u64,
    /// How often it has asked.
    asked: u64,
}

/// What a message of the controller came to.
#[derive(Debug, PartialEq)]
pub enum Taken {
    /// Sign this nonce.
    Sign(Vec<u8>),
    /// It was about what this pod is bound to: the controller knows the pod as bound.
    Known,
    /// The vault is to hold this, for the incarnation that this pod serves.
    Vault(Box<ForVault>),
    /// Nothing that anybody waits for.
    Done,
}

/// What the vault or the audit trail is told.
#[derive(Debug, PartialEq)]
pub enum ForVault {
    /// What holds from now on, with the stubs that the agent has; to be acknowledged afterwards.
    Grants(Box<control::Grants>, BTreeMap<String, String>, Ack),
    /// The lease goes on.
    Prolong(control::Prolong),
    /// Nothing may be used any more.
    Close,
    /// Records that are stored.
    Stored(u64),
}

impl Bond {
    /// What an earlier process of this pod left, or a warm pod.
    pub fn open(directory: &Path) -> Result<Self, StateError> {
        let (state, held, numbers) = State::open(directory)?;
        let spool = restore(&held, numbers);
        let bond = Self {
            inner: Mutex::new(Inner {
                state,
                held,
                spool,
                confirmed: None,
                ack_due: None,
                grants_ack_due: None,
                relay: Relay::default(),
                wanted: None,
            }),
            changed: watch::Sender::new(0),
        };
        bond.inner.lock().note_restart()?;
        Ok(bond)
    }

    /// Wakes whenever something is to be done.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// The first message of a stream, for a sidecar with this key.
    pub fn hello(&self, public_key: Vec<u8>) -> Hello {
        let inner = self.inner.lock();
        let bound = inner.held.bound.as_ref();
        Hello {
            protocol: berth_protocol::VERSION,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            public_key,
            highest_epoch: inner.held.gate.epoch,
            highest_revision: inner.held.gate.revision,
            incarnation: bound.map_or(0, |bound| bound.incarnation),
            session_uid: bound.map(|bound| bound.session_uid.clone()).unwrap_or_default(),
            events_told: inner.spool.told(),
            events_acknowledged: inner.spool.acked(),
        }
    }

    /// Takes a message of the controller, unless it is an earlier leader's or was seen before.
    pub fn take(&self, message: ToSidecar) -> Result<Result<Taken, Stale>, StateError> {
        let ToSidecar {
            epoch,
            revision,
            message,
        } = message;
        let Some(message) = message else {
            return Ok(Ok(Taken::Done));
        }; // a kind that this release doesn't know
        let mut inner = self.inner.lock();
        let seen = inner.held.gate;
        if let Err(stale) = inner.held.gate.admit(epoch, revision, weight(&message)) {
            return Ok(Err(stale));
        }
        let taken = inner.apply(message, (epoch, revision))?;
        if inner.held.gate != seen {
            inner.keep()?;
        }
        drop(inner);
        self.wake();
        Ok(Ok(taken))
    }

    /// The acknowledgement that is due, once.
    pub fn due_ack(&self) -> Option<Ack> {
        let mut inner = self.inner.lock();
        if inner.is_confirmed() {
            inner.ack_due.take()
        } else {
            None
        }
    }

    /// The vault holds what was granted: the acknowledgement is due.
    pub fn granted(&self, ack: Ack) {
        self.inner.lock().grants_ack_due = Some(ack);
        self.wake();
    }

    /// The acknowledgement of grants that is due, once.
    pub fn due_grants_ack(&self) -> Option<Ack> {
        self.inner.lock().grants_ack_due.take()
    }

    /// The incarnation that this pod serves.
    pub fn incarnation(&self) -> Option<u64> {
        self.with_bound(|bound| bound.incarnation)
    }

    /// The event that follows `number`.
    pub fn event_after(&self, number: u64) -> Option<Event> {
        self.inner.lock().spool.after(number)
    }

    /// Whether the controller durably holds everything that there was to tell.
    pub fn is_drained(&self) -> bool {
        self.inner.lock().spool.is_empty()
    }

    /// Connections were denied. Counted only while bound; `false` when it has to be said later.
    pub fn denied(&self, count: u32) -> Result<bool, StateError> {
        let mut inner = self.inner.lock();
        if inner.held.bound.is_none() {
            return Ok(true);
        }
        let told = inner.spool.push_denied(count, unix_ms());
        inner.keep_numbers()?;
        drop(inner);
        self.wake();
        Ok(told)
    }

    /// The runner's socket was misused. Told while bound, at most [`VIOLATIONS_MAX`] times; logged always.
    pub fn violation(&self, why: &str) -> Result<(), StateError> {
        tracing::warn!(why, "the handoff was violated");
        let mut inner = self.inner.lock();
        let Some(bound) = inner
            .held
            .bound
            .as_mut()
            .filter(|bound| bound.violations < VIOLATIONS_MAX)
        else {
            return Ok(());
        };
        bound.violations += 1;
        let last = if bound.violations == VIOLATIONS_MAX {
            "; further ones are only logged"
        } else {
            ""
        };
        inner.tell_state(Kind::Violation(format!("{why}{last}")))?;
        drop(inner);
        self.wake();
        Ok(())
    }

    /// What is bound, for the handoff.
    pub fn with_bound<T>(&self, read: impl FnOnce(&Bound) -> T) -> Option<T> {
        self.inner.lock().held.bound.as_ref().map(read)
    }

    /// The connected runner has confirmed this version of the assignment; `None` when it has gone.
    pub fn confirm(&self, version: Option<u64>) {
        self.inner.lock().confirmed = version;
        self.wake();
    }

    /// A runner is about to be told to start: no other will be. `false` when one was.
    pub fn begin_start(&self) -> Result<bool, StateError> {
        let mut inner = self.inner.lock();
        let Some(bound) = inner
            .held
            .bound
            .as_mut()
            .filter(|bound| bound.stage == Stage::Released && !bound.suspended)
        else {
            return Ok(false);
        };
        bound.stage = Stage::Started;
        inner.keep()?;
        Ok(true)
    }

    /// The harness runs, says the runner. Told once.
    pub fn started(&self, command: Vec<String>) -> Result<(), StateError> {
        let mut inner = self.inner.lock();
        let running = inner
            .held
            .bound
            .as_mut()
            .filter(|bound| bound.stage == Stage::Started && !bound.started_told);
        if let Some(bound) = running {
            bound.started_told = true;
            inner.tell_state(Kind::Started(control::HarnessStarted { command }))?;
        }
        drop(inner);
        self.wake();
        Ok(())
    }

    /// A piece of output, says the runner.
    pub fn output(&self, stream: u32, data: &[u8]) -> Result<(), StateError> {
        let mut inner = self.inner.lock();
        if inner
            .held
            .bound
            .as_ref()
            .is_some_and(|bound| bound.stage == Stage::Started)
        {
            inner.spool.push_output(stream, data, unix_ms());
            inner.keep_numbers()?;
        }
        drop(inner);
        self.wake();
        Ok(())
    }

    /// What the harness told, says the runner.
    pub fn said(&self, said: control::Said) -> Result<(), StateError> {
        let mut inner = self.inner.lock();
        let bound = inner.held.bound.as_ref();
        if bound.is_some_and(|bound| bound.stage == Stage::Started) {
            inner.spool.push_said(said, unix_ms());
            inner.keep_numbers()?;
        }
        drop(inner);
        self.wake();
        Ok(())
    }

    /// The harness has ended. The first word counts.
    pub fn exited(&self, exited: control::HarnessExited) -> Result<(), StateError> {
        let mut inner = self.inner.lock();
        if let Some(bound) = inner.held.bound.as_mut().filter(|bound| bound.stage == Stage::Started) {
            bound.stage = Stage::Over;
            inner.tell_state(Kind::Exited(exited))?;
        }
        drop(inner);
        self.wake();
        Ok(())
    }

    /// A checkpoint was restored before the harness starts, says the runner.
    pub fn restored(&self, restored: control::Restored) -> Result<(), StateError> {
        let mut inner = self.inner.lock();
        let waits = |bound: &Bound| bound.stage == Stage::Started && !bound.started_told;
        if inner.held.bound.as_ref().is_some_and(waits) {
            inner.tell_state(Kind::Restored(restored))?;
        }
        drop(inner);
        self.wake();
        Ok(())
    }

    /// A step of a checkpoint, from the runner.
    pub fn checkpoint(&self, step: checkpoint::Step) -> Result<(), NoStep> {
        let mut inner = self.inner.lock();
        let incarnation = inner.held.bound.as_ref().map_or(0, |bound| bound.incarnation);
        inner.relay.push(incarnation, step)?;
        drop(inner);
        self.wake();
        Ok(())
    }

    /// The next step of a checkpoint for the controller.
    pub fn next_step(&self) -> Option<control::Checkpoint> {
        self.inner.lock().relay.next_step()
    }

    /// The next order for the runner that doesn't follow from what is bound.
    pub fn next_order(&self) -> Option<ToRunner> {
        self.inner.lock().relay.next_order()
    }

    /// The harness waits for the next input, says the runner.
    pub fn want_input(&self, after: u64) {
        let mut inner = self.inner.lock();
        let asked = inner.wanted.map_or(0, |wanted| wanted.asked);
        inner.wanted = Some(Wanted {
            after,
            asked: asked + 1,
        });
        drop(inner);
        self.wake();
    }

    /// What the harness waits for, unless that question was told already.
    pub fn wanted(&self, told: &mut u64) -> Option<WantInput> {
        let inner = self.inner.lock();
        let wanted = inner.wanted.filter(|wanted| wanted.asked > *told)?;
        *told = wanted.asked;
        let incarnation = inner.held.bound.as_ref()?.incarnation;
        let after = wanted.after;
        Some(WantInput { incarnation, after })
    }

    /// A new control stream begins.
    pub fn forget_steps(&self) {
        self.inner.lock().relay.forget_steps();
    }

    /// A runner's connection begins.
    pub fn forget_orders(&self) {
        self.inner.lock().relay.forget_orders();
    }

    fn wake(&self) {
        self.changed.send_modify(|turn| *turn = turn.wrapping_add(1));
    }
}

impl Inner {
    fn apply(&mut self, message: Message, (epoch, revision): (u64, u64)) -> Result<Taken, StateError> {
        match message {
            Message::Welcome(welcome) => Ok(Taken::Sign(welcome.nonce)),
            Message::Assignment(assigned) => self.assign(assigned, (epoch, revision)),
            Message::Start(start) => self.advance(start.incarnation, |bound| {
                bound.stage = bound.stage.max(Stage::Released);
            }),
            Message::Suspend(suspend) => {
                tracing::info!(
                    incarnation = suspend.incarnation,
                    reason = suspend.reason,
                    "the session is stopped"
                );
                self.advance(suspend.incarnation, |bound| bound.suspended = true)?;
                Ok(Taken::Vault(Box::new(ForVault::Close)))
            }
            Message::Grants(grants) if self.serves(grants.incarnation) => {
                let ack = Ack {
                    epoch,
                    revision,
                    incarnation: grants.incarnation,
                };
                let stubs = self.held.bound.as_ref().map(|bound| bound.stubs.clone());
                let grants = ForVault::Grants(Box::new(grants), stubs.unwrap_or_default(), ack);
                Ok(Taken::Vault(Box::new(grants)))
            }
            Message::Prolong(prolong) if self.serves(prolong.incarnation) => {
                Ok(Taken::Vault(Box::new(ForVault::Prolong(prolong))))
            }
            Message::TrailAck(ack) if self.serves(ack.incarnation) => {
                Ok(Taken::Vault(Box::new(ForVault::Stored(ack.position))))
            }
            Message::CheckpointAnswer(answer) => {
                if self.serves(answer.incarnation) {
                    self.relay.answer(answer);
                }
                Ok(Taken::Done)
            }
            Message::Input(input) => {
                if self.serves(input.incarnation) && input.text.len() <= INPUT_MAX {
                    self.wanted = None;
                    let control::Input { number, text, .. } = input;
                    self.relay.order(ToRunner::Input { number, text });
                }
                Ok(Taken::Done)
            }
            Message::Abort(abort) => {
                if self.serves(abort.incarnation) {
                    self.relay.order(ToRunner::Abort);
                }
                Ok(Taken::Done)
            }
            Message::Grants(_) | Message::Prolong(_) | Message::TrailAck(_) => Ok(Taken::Done),
            Message::EventAck(ack) => {
                if self.serves(ack.incarnation) && ack.durable {
                    self.forget(ack.client_seq)?;
                }
                Ok(if self.serves(ack.incarnation) {
                    Taken::Known
                } else {
                    Taken::Done
                })
            }
        }
    }

    /// One incarnation per pod. Before the start it may be assigned anew; after, the running one stands.
    fn assign(&mut self, assigned: control::Assignment, (epoch, revision): (u64, u64)) -> Result<Taken, StateError> {
        match &mut self.held.bound {
            None => {
                self.spool = Spool::new(assigned.incarnation);
                tracing::info!(
                    session.namespace = assigned.namespace,
                    session.name = assigned.name,
                    session.uid = assigned.session_uid,
                    incarnation = assigned.incarnation,
                    "bound"
                );
                self.ack_due = Some(Ack {
                    epoch,
                    revision,
                    incarnation: assigned.incarnation,
                });
                self.held.bound = Some(Bound::new(assigned));
                self.keep_numbers()?;
            }
            Some(bound) if bound.is(&assigned) => {
                self.ack_due = Some(Ack {
                    epoch,
                    revision,
                    incarnation: assigned.incarnation,
                });
                let assignment = for_runner(assigned);
                if bound.stage == Stage::Assigned && bound.assignment != assignment {
                    bound.assignment = assignment;
                    bound.version += 1;
                }
            }
            Some(bound) => {
                let (held, found) = (bound.incarnation, assigned.incarnation);
                tracing::error!(
                    held,
                    found,
                    session.uid = assigned.session_uid,
                    "refused: a pod serves one incarnation"
                );
                return Ok(Taken::Done);
            }
        }
        self.keep()?;
        Ok(Taken::Known)
    }

    fn advance(&mut self, incarnation: u64, change: impl FnOnce(&mut Bound)) -> Result<Taken, StateError> {
        let Some(bound) = self
            .held
            .bound
            .as_mut()
            .filter(|bound| bound.incarnation == incarnation)
        else {
            tracing::warn!(incarnation, "a message for an incarnation that this pod doesn't serve");
            return Ok(Taken::Done);
        };
        change(bound);
        self.keep()?;
        Ok(Taken::Known)
    }

    fn serves(&self, incarnation: u64) -> bool {
        self.held
            .bound
            .as_ref()
            .is_some_and(|bound| bound.incarnation == incarnation)
    }

    fn is_confirmed(&self) -> bool {
        let bound = self.held.bound.as_ref();
        bound.is_some_and(|bound| bound.stage >= Stage::Started || self.confirmed == Some(bound.version))
    }

    fn forget(&mut self, number: u64) -> Result<(), StateError> {
        self.spool.acknowledge(number, unix_ms());
        self.keep_numbers()?;
        if let Some(bound) = &mut self.held.bound
            && bound
                .states
                .first_key_value()
                .is_some_and(|(first, _)| *first <= number)
        {
            bound.states = bound.states.split_off(&(number + 1));
            self.keep()?;
        }
        Ok(())
    }

    /// The number is kept first: an end of the process in between costs a number, never gives one out twice.
    fn tell_state(&mut self, kind: Kind) -> Result<(), StateError> {
        let number = self.spool.push(kind, unix_ms());
        self.keep_numbers()?;
        let event = self
            .spool
            .peek(number)
            .map(|event| BASE64_STANDARD.encode(event.encode_to_vec()));
        if let (Some(bound), Some(event)) = (&mut self.held.bound, event) {
            bound.states.insert(number, event);
        }
        self.keep()
    }

    /// Output may have been on its way when an earlier process ended; how much, nobody knows.
    fn note_restart(&mut self) -> Result<(), StateError> {
        if self
            .held
            .bound
            .as_ref()
            .is_some_and(|bound| bound.stage == Stage::Started)
        {
            tracing::warn!("the sidecar was restarted while the harness ran");
            self.tell_state(Kind::Gap(control::Gap { events: 1, bytes: 0 }))?;
        }
        Ok(())
    }

    fn keep(&self) -> Result<(), StateError> {
        self.state.write_held(&self.held)
    }

    fn keep_numbers(&self) -> Result<(), StateError> {
        let incarnation = self.held.bound.as_ref().map_or(0, |bound| bound.incarnation);
        self.state.write_numbers(Numbers {
            incarnation,
            next: self.spool.next(),
            acked: self.spool.acked(),
        })
    }
}

fn weight(message: &Message) -> Weight {
    match message {
        Message::Welcome(_)
        | Message::EventAck(_)
        | Message::TrailAck(_)
        | Message::CheckpointAnswer(_)
        | Message::Input(_)
        | Message::Abort(_) => Weight::Plain,
        Message::Assignment(_) | Message::Start(_) | Message::Suspend(_) | Message::Grants(_) | Message::Prolong(_) => {
            Weight::Changing
        }
    }
}

fn restore(held: &Held, numbers: Numbers) -> Spool {
    let Some(bound) = &held.bound else {
        return Spool::default();
    };
    if numbers.incarnation != bound.incarnation {
        return Spool::new(bound.incarnation);
    }
    let states: BTreeMap<u64, Event> = bound
        .states
        .iter()
        .filter_map(|(number, text)| Some((*number, decode(text)?)))
        .collect();
    Spool::restore(bound.incarnation, numbers.next, numbers.acked, states, unix_ms())
}

fn decode(text: &str) -> Option<Event> {
    Event::decode(BASE64_STANDARD.decode(text).ok()?.as_slice()).ok()
}

/// Enough to see what an agent tries; at most 64 × a line in the state file and the record.
pub const VIOLATIONS_MAX: u32 = 64;

#[cfg(test)]
mod tests;
