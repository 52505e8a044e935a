//! What the session may use now: rules, values and for how long. Replaced as a whole, read without a lock.
//!
//! A value leaves this module in exchange for a [`Grant`] alone, and only the decision about a request makes one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use berth_egress::decide::Grant;
use berth_egress::lint;
use berth_egress::policy::{Policy, Route};
use berth_egress::rules::Rules;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::clock::Boottime;
use crate::redact::{Patterns, Secret};
use crate::substitute::sigv4::Key;

mod identity;

pub use self::identity::Identity;

/// What a credential is worth now.
#[derive(Clone)]
pub struct Value {
    /// The real one.
    pub secret: SecretString,
    /// Whose it is.
    pub identity: Identity,
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
}

impl Offer {
    /// Nothing at all.
    pub fn nothing() -> Self {
        Self {
            policy: Policy::default(),
            values: HashMap::new(),
            lease: None,
        }
    }
}

/// What holds.
pub struct Snapshot {
    /// Who may go where.
    pub rules: Arc<Rules>,
    /// What may not come back.
    pub patterns: Option<Arc<Patterns>>,
    values: HashMap<String, Value>,
    stubs: HashMap<String, String>,
    secret_stubs: HashMap<String, SecretString>,
    lease: Option<Boottime>,
    routes: HashMap<String, Held>,
}

/// A route, and what ends the streams that use it.
struct Held {
    route: Route,
    value: Option<[u8; 32]>,
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
    /// There is no value for it.
    #[error("the credential has no value at the moment")]
    Value,
}

/// The one place where values are.
pub struct Vault {
    snapshot: ArcSwap<Snapshot>,
    changed: watch::Sender<()>,
}

impl Snapshot {
    /// The value that a grant stands for.
    pub fn exchange(&self, grant: &Grant) -> Result<&SecretString, Lapsed> {
        self.value(grant.credential()).map(|value| &value.secret)
    }

    /// The AWS key that a grant stands for.
    pub fn exchange_aws(&self, grant: &Grant) -> Result<Key<'_>, Lapsed> {
        let value = self.value(grant.credential())?;
        match &value.identity {
            Identity::Aws {
                access_key,
                session_token,
            } => Ok(Key {
                id: access_key,
                secret: &value.secret,
                token: session_token.as_ref(),
            }),
            Identity::None | Identity::User(_) => Err(Lapsed::Value),
        }
    }

    /// The user that a grant's secret belongs to, if it is known.
    pub fn user(&self, grant: &Grant) -> Option<&str> {
        match &self.values.get(grant.credential())?.identity {
            Identity::User(name) => Some(name),
            Identity::None | Identity::Aws { .. } => None,
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

    /// From now on this holds and nothing else. Streams on routes that have changed are cut. Says what of it was left
    /// out, and the names of the routes that changed.
    pub fn replace(&self, offer: Offer) -> (Vec<Problem>, Vec<String>) {
        let old = self.snapshot.load_full();
        let (snapshot, problems) = compile(offer, Some(&old));
        let snapshot = Arc::new(snapshot);
        self.snapshot.store(Arc::clone(&snapshot));
        let gone: Vec<String> = old
            .routes
            .iter()
            .filter(|(name, held)| snapshot.routes.get(*name).is_none_or(|new| !new.goes_on(held)))
            .map(|(name, held)| {
                held.cut.cancel();
                name.clone()
            })
            .collect();
        self.changed.send_replace(());
        (problems, gone)
    }

    /// Prolongs the lease. What has ended in between stays ended for the streams that were cut.
    pub fn prolong(&self, lease: Boottime) {
        self.snapshot.rcu(|old| {
            let routes = old.routes.iter().map(|(name, held)| (name.clone(), held.renewed()));
            Snapshot {
                rules: Arc::clone(&old.rules),
                patterns: old.patterns.clone(),
                values: old.values.clone(),
                stubs: old.stubs.clone(),
                secret_stubs: old.secret_stubs.clone(),
                lease: Some(lease),
                routes: routes.collect(),
            }
        });
        self.changed.send_replace(());
    }

    /// Cuts the streams of whatever ends, when it ends; as long as the sidecar runs.
    pub async fn keep_time(&self) {
        let mut changed = self.changed.subscribe();
        loop {
            changed.mark_unchanged();
            let now = Boottime::now();
            self.cut_ended();
            let pause = self.snapshot.load().next_end(now).map(|end| now.until(end).min(NAP));
            tokio::select! {
                _ = changed.changed() => {}
                () = tokio::time::sleep(pause.unwrap_or_default()), if pause.is_some() => {}
            }
        }
    }

    fn cut_ended(&self) {
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
            cut,
        }
    }
}

fn compile(offer: Offer, old: Option<&Snapshot>) -> (Snapshot, Vec<Problem>) {
    let Offer {
        policy,
        mut values,
        lease,
    } = offer;
    let mut problems = check_values(&policy, &mut values);
    let patterns = patterns(&policy, &mut values, &mut problems);
    let stubs = policy
        .credentials
        .iter()
        .map(|credential| (credential.name.clone(), credential.stub.clone()));
    let stubs = stubs.collect();
    let secret_stubs = policy.credentials.iter().filter_map(|credential| {
        let stub = SecretString::from(credential.secret_stub.clone()?);
        Some((credential.name.clone(), stub))
    });
    let secret_stubs = secret_stubs.collect();
    let routes = policy
        .routes
        .iter()
        .map(|route| (route.name.clone(), hold(route, &values, old)));
    let routes = routes.collect();
    let (rules, findings) = Rules::compile(policy);
    problems.extend(findings.into_iter().map(|finding| Problem {
        at: finding.field,
        message: finding.message,
    }));
    let snapshot = Snapshot {
        rules: Arc::new(rules),
        patterns,
        values,
        stubs,
        secret_stubs,
        lease,
        routes,
    };
    (snapshot, problems)
}

/// Values that can't be used as the policy says are dropped.
fn check_values(policy: &Policy, values: &mut HashMap<String, Value>) -> Vec<Problem> {
    let mut problems = Vec::new();
    for credential in &policy.credentials {
        let Some(value) = values.get(&credential.name) else {
            continue;
        };
        let checked = lint::check_secret(policy, credential, value.secret.expose_secret().as_bytes());
        let checked = checked.map_err(|problem| problem.to_string());
        if let Err(message) = checked.and_then(|()| identity::check(credential, &value.identity)) {
            values.remove(&credential.name);
            problems.push(Problem {
                at: credential.name.clone(),
                message,
            });
        }
    }
    problems
}

/// Of every value that may not come back. One that can't be searched for isn't exchanged either.
fn patterns(
    policy: &Policy,
    values: &mut HashMap<String, Value>,
    problems: &mut Vec<Problem>,
) -> Option<Arc<Patterns>> {
    if let Ok(patterns) = Patterns::new(secrets(policy, values)) {
        return Some(patterns).filter(|patterns| !patterns.is_empty()).map(Arc::new);
    }
    let failed = secrets(policy, values).into_iter().filter_map(|secret| {
        let name = secret.name.to_owned();
        Patterns::new([secret]).err().map(|error| (name, error.to_string()))
    });
    let failed: Vec<(String, String)> = failed.collect();
    if failed.is_empty() {
        values.clear(); // each by itself is fine, so there are too many
    }
    for (at, message) in failed {
        values.remove(&at);
        problems.push(Problem { at, message });
    }
    Patterns::new(secrets(policy, values)).ok().map(Arc::new)
}

/// What is to be searched for.
fn secrets<'a>(policy: &'a Policy, values: &'a HashMap<String, Value>) -> Vec<Secret<'a>> {
    let searched = policy.credentials.iter().filter(|credential| {
        let mut routes = policy
            .routes
            .iter()
            .filter(|route| route.credential.as_ref() == Some(&credential.name));
        credential.redact || routes.any(|route| route.redact == Some(true))
    });
    let known = searched.filter_map(|credential| Some((credential, values.get(&credential.name)?)));
    known
        .flat_map(|(credential, value)| identity::secrets_of(credential, value))
        .collect()
}

/// A route that is as it was keeps its streams.
fn hold(route: &Route, values: &HashMap<String, Value>, old: Option<&Snapshot>) -> Held {
    let value = route
        .credential
        .as_ref()
        .and_then(|name| values.get(name))
        .map(Value::digest);
    let held = Held {
        route: route.clone(),
        value,
        cut: CancellationToken::new(),
    };
    match old.and_then(|old| old.routes.get(&route.name)) {
        Some(old) if held.goes_on(old) => old.renewed(),
        _ => held,
    }
}

/// Timers stand still while a machine sleeps; leases don't.
const NAP: Duration = Duration::from_secs(5);
