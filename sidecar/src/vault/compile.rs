//! Pure but for the clock: an offer → a snapshot. Whatever of it can't be used is left out, and said.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use berth_egress::lint;
use berth_egress::policy::{Policy, Route};
use berth_egress::rules::Rules;
use secrecy::{ExposeSecret, SecretString};
use tokio_util::sync::CancellationToken;

use super::minted::Minted;
use super::{DRAIN_MAX, Held, Offer, Problem, Snapshot, Value, certificates, holder};
use crate::redact::{Patterns, Secret};

/// What an offer makes of what holds, and what of it is left out.
pub(super) fn compile(offer: Offer, old: Option<&Snapshot>) -> (Snapshot, Vec<Problem>) {
    let Offer {
        mut policy,
        mut values,
        lease,
        drains,
        cut: _, // of what was, not of what is
    } = offer;
    let mut problems = check_values(&policy, &mut values);
    let identities = certificates::identities(&policy, &mut values, &mut problems);
    let roots = certificates::roots(&mut policy, &mut problems);
    let redacted = redacted(&policy);
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
    let minted = old.map(|old| old.minted.under(&values)).unwrap_or_default();
    let patterns = patterns((&redacted, &stubs, &secret_stubs), &mut values, &minted, &mut problems);
    let routes = policy
        .routes
        .iter()
        .map(|route| (route.name.clone(), hold(route, &values, &drains, old)));
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
        redacted,
        identities,
        roots,
        minted,
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
        if let Err(message) = checked.and_then(|()| holder::check(credential, &value.holder)) {
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
    searched: Searched<'_>,
    values: &mut HashMap<String, Value>,
    minted: &Minted,
    problems: &mut Vec<Problem>,
) -> Option<Arc<Patterns>> {
    if let Ok(patterns) = Patterns::new(secrets(searched, values, minted)) {
        return Some(patterns).filter(|patterns| !patterns.is_empty()).map(Arc::new);
    }
    let none = Minted::default();
    let failed = secrets(searched, values, &none);
    let failed = failed.into_iter().filter_map(|secret| {
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
    Patterns::new(secrets(searched, values, minted)).ok().map(Arc::new)
}

/// Names of the credentials that may not come back on some route.
fn redacted(policy: &Policy) -> Arc<[String]> {
    let searched = policy.credentials.iter().filter(|credential| {
        let mut routes = policy
            .routes
            .iter()
            .filter(|route| route.credential.as_ref() == Some(&credential.name));
        let wanted = credential.redact || routes.any(|route| route.redact == Some(true));
        wanted && !certificates::is_only_shown(policy, &credential.name)
    });
    searched.map(|credential| credential.name.clone()).collect()
}

/// Names of the credentials that may not come back; stubs by name, and those of secret access keys.
pub(super) type Searched<'a> = (
    &'a [String],
    &'a HashMap<String, String>,
    &'a HashMap<String, SecretString>,
);

/// What is to be searched for.
pub(super) fn secrets<'a>(
    (redacted, stubs, secret_stubs): Searched<'a>,
    values: &'a HashMap<String, Value>,
    minted: &'a Minted,
) -> Vec<Secret<'a>> {
    let known = redacted.iter().filter_map(|name| {
        let secret_stub = secret_stubs.get(name).map(ExposeSecret::expose_secret);
        let stubs = (stubs.get(name)?.as_str(), secret_stub);
        Some(holder::secrets_of(name, stubs, values.get(name)?))
    });
    known.flatten().chain(minted.secrets().map(Secret::from)).collect()
}

/// A route that is as it was keeps its streams.
fn hold(
    route: &Route,
    values: &HashMap<String, Value>,
    drains: &HashMap<String, Duration>,
    old: Option<&Snapshot>,
) -> Held {
    let value = route
        .credential
        .as_ref()
        .and_then(|name| values.get(name))
        .map(Value::digest);
    let held = Held {
        route: route.clone(),
        value,
        drain: drains
            .get(&route.name)
            .map_or(Duration::ZERO, |drain| (*drain).min(DRAIN_MAX)),
        cut: CancellationToken::new(),
    };
    match old.and_then(|old| old.routes.get(&route.name)) {
        Some(old) if held.goes_on(old) => Held {
            cut: old.renewed().cut,
            ..held
        },
        _ => held,
    }
}
