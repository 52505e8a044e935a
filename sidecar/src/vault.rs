//! What the session may use now: rules, values and for how long. Replaced as a whole, read without a lock.
//!
//! A value leaves this module in exchange for a [`Grant`] alone, and only the decision about a request makes one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use berth_egress::decide::{Exchanges, Grant, Surface};
use berth_egress::policy::{Policy, Route};
use berth_egress::rules::Rules;
use berth_outbound::identity::{Identity, Roots};
use parking_lot::Mutex;
use secrecy::SecretString;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::clock::Boottime;
use crate::redact::{Patterns, PatternsError};
use crate::substitute::sigv4::Key;
use crate::vault::compile::{compile, secrets};
use crate::vault::minted::{Minted, NewToken, TooMany};

pub mod minted;

mod certificates;
mod compile;
mod holder;

pub use self::holder::Holder;

/// What a credential is worth now.
#[derive(Clone)]
pub struct Value {
    /// The real one.
    pub secret: SecretString,
    /// Whose it is.
    pub holder: Holder,
    /// Fingerprint of the grant that allows its use, for the audit trail.
    pub grant: Arc<str>,
    /// When the grant ends.
    pub until: Option<Boottime>,
}

/// Everything that is to hold from now on.
pub struct Offer {
    /// Credentials by their stubs, and routes.
    pub policy: Policy,
    /// Values by the credentials' names.
    pub values: HashMap<String, Value>,
    /// When the right to use any of it ends, unless it is prolonged; `None` standalone.
    pub lease: Option<Boottime>,
    /// Routes whose streams go on this long after a later offer doesn't have the route any more.
    pub drains: HashMap<String, Duration>,
    /// Bindings whose streams are cut at once, whatever an earlier offer said. A route's name begins with its binding's.
    pub cut: Vec<String>,
}

impl Offer {
    /// Nothing at all.
    pub fn nothing() -> Self {
        Self {
            policy: Policy::default(),
            values: HashMap::new(),
            lease: None,
            drains: HashMap::new(),
            cut: Vec::new(),
        }
    }

    /// What of its certificates can't be used: for a file, which is taken whole or not at all.
    pub fn check_certificates(&self) -> Result<(), Problem> {
        let mut problems = Vec::new();
        certificates::identities(&self.policy, &mut self.values.clone(), &mut problems);
        certificates::roots(&mut self.policy.clone(), &mut problems);
        problems.into_iter().next().map_or(Ok(()), Err)
    }
}

/// What holds.
#[derive(Clone)]
pub struct Snapshot {
    /// Who may go where.
    pub rules: Arc<Rules>,
    /// What may not come back.
    pub patterns: Option<Arc<Patterns>>,
    values: HashMap<String, Value>,
    stubs: HashMap<String, String>,
    secret_stubs: HashMap<String, SecretString>,
    /// Names of the credentials whose values are searched for in answers.
    redacted: Arc<[String]>,
    identities: HashMap<String, Arc<Identity>>,
    roots: HashMap<String, Arc<Roots>>,
    minted: Minted,
    lease: Option<Boottime>,
    routes: HashMap<String, Held>,
}

/// A route, and what ends the streams that use it.
#[derive(Clone)]
struct Held {
    route: Route,
    value: Option<[u8; 32]>,
    drain: Duration,
    cut: CancellationToken,
}

/// A route that isn't granted any more and whose streams may go on for a while.
struct Draining {
    route: String,
    until: Boottime,
    cut: CancellationToken,
}

/// A part of an offer that was left out.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{at}: {message}")]
pub struct Problem {
    /// Field of the policy, or name of the credential.
    pub at: String,
    /// What is wrong and what to do.
    pub message: String,
}

/// A credential whose time is over.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Lapsed {
    /// The lease.
    #[error("the controller hasn't prolonged this session's grants in time")]
    Lease,
    /// The grant.
    #[error("the grant has ended")]
    Grant,
    /// A token that was minted.
    #[error("the token isn't known or has ended: ask the token endpoint for another")]
    Token,
    /// There is no value for it.
    #[error("the credential has no value at the moment")]
    Value,
}

/// A token that isn't kept, and so not passed on.
#[derive(Debug, thiserror::Error)]
pub enum MintError {
    /// The credential that it was asked for with.
    #[error(transparent)]
    Lapsed(#[from] Lapsed),
    /// There are too many.
    #[error(transparent)]
    Many(#[from] TooMany),
    /// It couldn't be found again in an answer.
    #[error("the token can't be told from other text")]
    Patterns(#[source] PatternsError),
}

/// The one place where values are.
pub struct Vault {
    snapshot: ArcSwap<Snapshot>,
    draining: Mutex<Vec<Draining>>,
    /// One change after the other: each is made of what holds before it.
    changing: Mutex<()>,
    changed: watch::Sender<()>,
}

impl Snapshot {
    /// The value that a grant stands for.
    pub fn exchange(&self, grant: &Grant) -> Result<&SecretString, Lapsed> {
        match grant.exchanges() {
            Exchanges::Value => self.value(grant.credential()).map(|value| &value.secret),
            Exchanges::Token(stub) => self.token(grant, stub),
            Exchanges::Tokens => Err(Lapsed::Token),
        }
    }

    /// The token that a stub stands for, if the grant is one for tokens of its credential.
    pub fn token(&self, grant: &Grant, stub: &str) -> Result<&SecretString, Lapsed> {
        self.value(grant.credential())?;
        let token = match grant.exchanges() {
            Exchanges::Value => None,
            Exchanges::Token(_) | Exchanges::Tokens => self.minted.get(stub, grant.credential(), Boottime::now()),
        };
        token.ok_or(Lapsed::Token)
    }

    /// The certificate that a grant allows to be shown; none for a grant of something else.
    pub fn identity(&self, grant: &Grant) -> Result<Option<Arc<Identity>>, Lapsed> {
        if *grant.surface() != Surface::ClientCertificate {
            return Ok(None);
        }
        self.value(grant.credential())?;
        let identity = self.identities.get(grant.credential()).ok_or(Lapsed::Value)?;
        Ok(Some(Arc::clone(identity)))
    }

    /// What the hosts of a route are verified with, if it has its own.
    pub fn roots(&self, route: &str) -> Option<&Arc<Roots>> {
        self.roots.get(route)
    }

    /// The AWS key that a grant stands for.
    pub fn exchange_aws(&self, grant: &Grant) -> Result<Key<'_>, Lapsed> {
        let value = self.value(grant.credential())?;
        match &value.holder {
            Holder::Aws {
                access_key,
                session_token,
            } => Ok(Key {
                id: access_key,
                secret: &value.secret,
                token: session_token.as_ref(),
            }),
            Holder::None | Holder::User(_) => Err(Lapsed::Value),
        }
    }

    /// The user that a grant's value belongs to, if it is known; tokens have none.
    pub fn user(&self, grant: &Grant) -> Option<&str> {
        if *grant.exchanges() != Exchanges::Value {
            return None;
        }
        match &self.values.get(grant.credential())?.holder {
            Holder::User(name) => Some(name),
            Holder::None | Holder::Aws { .. } => None,
        }
    }

    /// What the agent signs with, for a credential that is an AWS key.
    pub fn secret_stub(&self, credential: &str) -> Option<&SecretString> {
        self.secret_stubs.get(credential)
    }

    /// Fingerprint of the grant that a credential is used under.
    pub fn fingerprint(&self, credential: &str) -> Arc<str> {
        self.values
            .get(credential)
            .map_or_else(Arc::default, |value| Arc::clone(&value.grant))
    }

    /// Whether a credential may be used at this moment.
    pub fn value(&self, credential: &str) -> Result<&Value, Lapsed> {
        let now = Boottime::now();
        if self.lease.is_some_and(|until| until <= now) {
            return Err(Lapsed::Lease);
        }
        let value = self.values.get(credential).ok_or(Lapsed::Value)?;
        if value.until.is_some_and(|until| until <= now) {
            return Err(Lapsed::Grant);
        }
        Ok(value)
    }

    /// Ends the streams that use a route, once its grant ends or changes.
    pub fn cut(&self, route: &str) -> Option<CancellationToken> {
        self.routes.get(route).map(|held| held.cut.clone())
    }

    /// The credential that a route allows.
    pub fn credential_of(&self, route: &str) -> Option<&str> {
        self.routes.get(route)?.route.credential.as_deref()
    }

    /// What the agent holds in place of a credential; nothing for one that isn't known.
    pub fn stub(&self, credential: &str) -> &str {
        self.stubs.get(credential).map_or("", String::as_str)
    }

    /// The stubs, by the names of their credentials.
    pub fn stubs(&self) -> &HashMap<String, String> {
        &self.stubs
    }

    /// When the grant of a route ends by itself.
    fn end_of(&self, held: &Held) -> Option<Boottime> {
        let credential = held.route.credential.as_ref()?;
        self.values.get(credential)?.until
    }

    /// The next moment at which something ends.
    fn next_end(&self, now: Boottime) -> Option<Boottime> {
        let ends = self.values.values().filter_map(|value| value.until).chain(self.lease);
        ends.filter(|end| *end > now).min()
    }
}

impl Vault {
    /// Nothing is allowed yet.
    pub fn closed() -> Self {
        Self {
            snapshot: ArcSwap::from_pointee(compile(Offer::nothing(), None).0),
            draining: Mutex::default(),
            changing: Mutex::default(),
            changed: watch::Sender::new(()),
        }
    }

    /// What holds now. Cheap; don't keep it over an await that may take long.
    pub fn snapshot(&self) -> Guard<Arc<Snapshot>> {
        self.snapshot.load()
    }

    /// The same, to be kept.
    pub fn snapshot_full(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// From now on this holds and nothing else. Streams on routes that have changed are cut, or drain. Says what of it
    /// was left out, and the names of the routes that changed.
    pub fn replace(&self, mut offer: Offer) -> (Vec<Problem>, Vec<String>) {
        let _alone = self.changing.lock();
        let old = self.snapshot.load_full();
        let at_once = std::mem::take(&mut offer.cut);
        let (snapshot, problems) = compile(offer, Some(&old));
        let snapshot = Arc::new(snapshot);
        self.snapshot.store(Arc::clone(&snapshot));
        let changed = old
            .routes
            .iter()
            .filter(|(name, held)| snapshot.routes.get(*name).is_none_or(|new| !new.goes_on(held)));
        let changed: Vec<(&String, &Held)> = changed.collect();
        let now = Boottime::now();
        let mut draining = self.draining.lock();
        for (name, held) in &changed {
            let drained = now.after(held.drain);
            draining.push(Draining {
                route: (*name).clone(),
                until: old.end_of(held).map_or(drained, |end| end.min(drained)),
                cut: held.cut.clone(),
            });
        }
        draining.retain(|route| {
            let goes_on = route.until > now && !at_once.iter().any(|binding| is_of(&route.route, binding));
            if !goes_on {
                route.cut.cancel();
            }
            goes_on
        });
        drop(draining);
        self.changed.send_replace(());
        (problems, changed.into_iter().map(|(name, _)| name.clone()).collect())
    }

    /// Prolongs the lease. What has ended in between stays ended for the streams that were cut.
    pub fn prolong(&self, lease: Boottime) {
        let _alone = self.changing.lock();
        let old = self.snapshot.load_full();
        let routes = old.routes.iter().map(|(name, held)| (name.clone(), held.renewed()));
        self.snapshot.store(Arc::new(Snapshot {
            lease: Some(lease),
            routes: routes.collect(),
            ..Snapshot::clone(&old)
        }));
        self.changed.send_replace(());
    }

    /// Keeps tokens that were asked for with a credential, and gives the stub of each. From now on they don't come back.
    pub fn mint(&self, credential: &str, new: Vec<NewToken>) -> Result<Vec<String>, MintError> {
        let _alone = self.changing.lock();
        let old = self.snapshot.load_full();
        let grant = Arc::clone(&old.value(credential)?.grant);
        let mut minted = old.minted.clone();
        let stubs = minted.add((credential, old.stub(credential)), &grant, new, Boottime::now())?;
        let searched = (&*old.redacted, &old.stubs, &old.secret_stubs);
        let patterns = Patterns::new(secrets(searched, &old.values, &minted));
        self.snapshot.store(Arc::new(Snapshot {
            patterns: Some(Arc::new(patterns.map_err(MintError::Patterns)?)),
            minted,
            ..Snapshot::clone(&old)
        }));
        Ok(stubs)
    }

    /// Cuts the streams of whatever ends, when it ends; as long as the sidecar runs.
    pub async fn keep_time(&self) {
        let mut changed = self.changed.subscribe();
        loop {
            changed.mark_unchanged();
            let now = Boottime::now();
            self.cut_ended();
            let drained = self.draining.lock().iter().map(|route| route.until).min();
            let next = self.snapshot.load().next_end(now).into_iter().chain(drained).min();
            let pause = next.map(|end| now.until(end).min(NAP));
            tokio::select! {
                _ = changed.changed() => {}
                () = tokio::time::sleep(pause.unwrap_or_default()), if pause.is_some() => {}
            }
        }
    }

    fn cut_ended(&self) {
        let now = Boottime::now();
        self.draining.lock().retain(|route| {
            if route.until <= now {
                route.cut.cancel();
            }
            route.until > now
        });
        let snapshot = self.snapshot.load();
        for held in snapshot.routes.values() {
            let credential = held.route.credential.as_deref();
            if credential.is_some_and(|credential| snapshot.value(credential).is_err()) {
                held.cut.cancel();
            }
        }
    }
}

impl Held {
    fn goes_on(&self, old: &Self) -> bool {
        self.route == old.route && self.value == old.value
    }

    /// A token that was cancelled is replaced, so that new streams live.
    fn renewed(&self) -> Self {
        let cut = if self.cut.is_cancelled() {
            CancellationToken::new()
        } else {
            self.cut.clone()
        };
        Self {
            route: self.route.clone(),
            value: self.value,
            drain: self.drain,
            cut,
        }
    }
}

/// Whether a route is one of a binding.
fn is_of(route: &str, binding: &str) -> bool {
    route.strip_prefix(binding).is_some_and(|rest| rest.starts_with('/'))
}

/// DESIGN §3, `revoke`.
const DRAIN_MAX: Duration = Duration::from_mins(1);
/// Timers stand still while a machine sleeps; leases don't.
const NAP: Duration = Duration::from_secs(5);
