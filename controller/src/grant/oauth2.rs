//! Access tokens of OAuth 2.0 clients: what is held of them, when the next one is due, and what goes wrong. Pure but for
//! the jitter; [`run`] says what a namespace needs, [`ask`] asks token endpoints and writes rotated refresh tokens back.
//!
//! A token is renewed ahead of its end. One that can't be had is asked for again after a back-off, and the one before it
//! is used until it ends.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use berth_crds::OAuth2 as Spec;
use berth_outbound::endpoint::{Endpoint, EndpointError};
use berth_outbound::oauth2::renewal;
use berth_outbound::post::Caller;
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use secrecy::SecretString;

use self::rotation::{Key, Rotations};
use super::github::Token;
use crate::watch::Name;

pub mod rotation;

pub mod ask;
pub mod run;

/// The tokens of all bindings.
pub struct OAuth2 {
    caller: Caller,
    states: Mutex<HashMap<Name, State>>,
    rotations: Mutex<Rotations>,
    /// What is being asked for: one request at a time for each refresh token, or else for each binding.
    busy: Mutex<HashSet<Key>>,
}

/// What a token is minted for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct For {
    /// The client, as the binding has it.
    pub spec: Spec,
    /// Versions of its Secrets.
    pub version: String,
}

/// What is known of a binding's token.
#[derive(Debug, Default)]
pub struct Known {
    /// While it lasts.
    pub token: Option<Token>,
    /// Whether one is to be asked for now.
    pub is_due: bool,
    /// How long until the next one is.
    pub wait: Duration,
    /// Why there was none, the last time.
    pub failure: Option<String>,
}

struct State {
    wanted: For,
    /// The versions once the rotated refresh token stands in its Secret: that change is our own.
    written: Option<String>,
    token: Option<Token>,
    failure: Option<Failure>,
}

struct Failure {
    message: String,
    tries: u32,
    next: Timestamp,
}

/// A token as it came.
pub struct Minted {
    /// Its value.
    pub value: SecretString,
    /// How long it lasts, where that is said.
    pub lasts: Option<Duration>,
    /// The Secrets' versions after a rotated refresh token was written back.
    pub written: Option<String>,
}

/// There is none.
pub struct Refusal {
    /// Why, with all causes.
    pub message: String,
    /// Whether it takes a change of the Secret or of the binding.
    pub is_final: bool,
}

/// Endpoints of a client, read.
pub struct Endpoints {
    /// Where tokens are asked for.
    pub token: Endpoint,
    /// Where they are revoked.
    pub revocation: Option<Endpoint>,
}

impl Endpoints {
    /// Reads them; with an error comes the field.
    pub fn of(spec: &Spec) -> Result<Self, (&'static str, EndpointError)> {
        let revocation = spec.revocation_url.as_deref().map(Endpoint::parse).transpose();
        Ok(Self {
            token: Endpoint::parse(&spec.token_url).map_err(|error| ("tokenURL", error))?,
            revocation: revocation.map_err(|error| ("revocationURL", error))?,
        })
    }

    /// Hosts that the client's Secrets are sent to.
    pub fn hosts(&self) -> impl Iterator<Item = String> {
        [Some(&self.token), self.revocation.as_ref()]
            .into_iter()
            .flatten()
            .map(Endpoint::host)
    }
}

impl OAuth2 {
    /// Asks through this.
    pub fn new(caller: Caller) -> Self {
        Self {
            caller,
            states: Mutex::default(),
            rotations: Mutex::default(),
            busy: Mutex::default(),
        }
    }

    /// What is known of a binding's token now.
    pub fn known(&self, binding: &Name, wanted: &For, now: Timestamp) -> Known {
        let states = self.states.lock();
        let Some(state) = states.get(binding).filter(|state| state.is_for(wanted)) else {
            return Known {
                is_due: true,
                ..Known::default()
            };
        };
        let token = state.token.as_ref().filter(|token| token.expires > now + MARGIN);
        let next = match (&state.failure, token) {
            (Some(failure), _) => failure.next,
            (None, Some(token)) => token.renew,
            (None, None) => now,
        };
        Known {
            token: token.cloned(),
            is_due: next <= now,
            wait: Duration::try_from(next.duration_since(now)).unwrap_or_default(),
            failure: state.failure.as_ref().map(|failure| failure.message.clone()),
        }
    }

    /// Why a rotated refresh token isn't written, and whether to try now.
    pub fn unsaved(&self, key: &Key, now: Timestamp) -> Option<(String, bool)> {
        let rotations = self.rotations.lock();
        rotations.failure(key, now).map(|(why, again)| (why.to_owned(), again))
    }

    /// Whether to ask now: nobody else does.
    fn begins(&self, key: &Key) -> bool {
        self.busy.lock().insert(key.clone())
    }

    fn ends(&self, key: &Key) {
        self.busy.lock().remove(key);
    }

    /// What came of asking. `jitter` is from 0 to 1.
    pub fn settle(
        &self,
        binding: &Name,
        wanted: For,
        result: Result<Minted, Refusal>,
        (now, jitter): (Timestamp, f64),
    ) {
        let result = result.and_then(|minted| {
            let lasts = renewal::lasts(minted.lasts).map_err(|short| Refusal {
                message: short.to_string(),
                is_final: true,
            })?;
            Ok((minted, lasts))
        });
        let mut states = self.states.lock();
        let before = states.remove(binding).filter(|state| state.is_for(&wanted));
        let state = match result {
            Ok((minted, lasts)) => State {
                wanted,
                written: minted.written,
                token: Some(Token {
                    value: minted.value,
                    expires: after(now, lasts),
                    renew: after(now, renewal::renewed_after(lasts, jitter)),
                }),
                failure: None,
            },
            Err(refusal) => {
                let tries = before.as_ref().and_then(|state| state.failure.as_ref());
                let tries = tries.map_or(0, |failure| failure.tries);
                let pause = renewal::pause(tries, refusal.is_final, jitter);
                State {
                    wanted,
                    written: before.as_ref().and_then(|state| state.written.clone()),
                    token: before.and_then(|state| state.token),
                    failure: Some(Failure {
                        message: refusal.message,
                        tries: tries.saturating_add(1),
                        next: after(now, pause),
                    }),
                }
            }
        };
        states.insert(binding.clone(), state);
    }

    /// Takes out the tokens of a namespace's bindings that grant no more, with what they were minted for.
    pub fn retire(&self, namespace: &str, grants: impl Fn(&Name) -> bool) -> Vec<(Spec, Token)> {
        let mut states = self.states.lock();
        let over = states.extract_if(|name, _| name.namespace == namespace && !grants(name));
        over.filter_map(|(_, state)| Some((state.wanted.spec, state.token?)))
            .collect()
    }
}

impl State {
    fn is_for(&self, wanted: &For) -> bool {
        let version = wanted.version == self.wanted.version || self.written.as_ref() == Some(&wanted.version);
        version && self.wanted.spec == wanted.spec
    }
}

fn after(now: Timestamp, wait: Duration) -> Timestamp {
    let wait = SignedDuration::try_from(wait).unwrap_or(SignedDuration::MAX);
    now.saturating_add(wait).unwrap_or(Timestamp::MAX)
}

/// A request that leaves with a token still has to arrive.
const MARGIN: SignedDuration = SignedDuration::from_secs(5);

#[cfg(test)]
mod tests;
