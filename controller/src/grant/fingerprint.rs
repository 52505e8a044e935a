//! Pure: what of a binding matters to security, as the hashes of its elements. A narrowing is a subset with an earlier or
//! equal end (DESIGN §4): it keeps what was approved, and anything else needs evidence of its own. Order, place in the
//! repository, labels and `spec.reason` are in no element.

use std::collections::BTreeSet;

use berth_crds::{CredentialBindingSpec, GitAccess, GitRoute, ProtectedPaths, Route, Subjects};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The elements of one binding.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Fingerprint {
    /// Every method, path and host by itself; with `whole` where they are too many to keep.
    fine: BTreeSet<String>,
    /// Each route as one element.
    whole: BTreeSet<String>,
    /// When it ends; `None` for never.
    expires: Option<Timestamp>,
}

impl Fingerprint {
    /// Of a binding of this namespace and name.
    pub fn of(namespace: &str, name: &str, spec: &CredentialBindingSpec) -> Self {
        let shared: BTreeSet<String> = shared(namespace, name, spec).iter().map(hash).collect();
        let with = |elements: Vec<Value>| {
            let mut all = shared.clone();
            all.extend(elements.iter().map(hash));
            all
        };
        let whole = with(spec.routes.iter().map(|route| json!(["route", route])).collect());
        let names: BTreeSet<&str> = spec.routes.iter().map(|route| route.name.as_str()).collect();
        // Two routes of one name would lend each other their hosts and methods. The schema refuses them; a document in
        // git may have them all the same.
        let fine = if names.len() == spec.routes.len() {
            with(spec.routes.iter().flat_map(elements).collect())
        } else {
            whole.clone()
        };
        Self {
            fine,
            whole,
            expires: spec.expires_at.as_ref().map(|time| time.0),
        }
    }

    /// One hash of all of it.
    pub fn digest(&self) -> String {
        hash(&json!([
            "fingerprint",
            self.kept(),
            self.expires.map(|time| time.to_string())
        ]))
    }

    /// The elements that are written down.
    pub fn kept(&self) -> &BTreeSet<String> {
        if self.fine.len() <= ELEMENTS_MAX {
            &self.fine
        } else {
            &self.whole
        }
    }

    /// Whether it grants nothing that elements with this end didn't.
    pub fn is_within(&self, elements: &BTreeSet<String>, expires: Option<Timestamp>) -> bool {
        let ends = match (self.expires, expires) {
            (_, None) => true,
            (Some(ours), Some(theirs)) => ours <= theirs,
            (None, Some(_)) => false,
        };
        ends && (self.fine.is_subset(elements) || self.whole.is_subset(elements))
    }

    /// Whether `other` grants nothing that this one doesn't.
    pub fn covers(&self, other: &Self) -> bool {
        other.is_within(self.kept(), self.expires)
    }
}

/// What isn't a route's. Values that may only stay as they are stand as one element each.
fn shared(namespace: &str, name: &str, spec: &CredentialBindingSpec) -> Vec<Value> {
    let mut all = vec![
        json!(["binding", namespace, name]),
        json!(["credential", spec.credential]),
        json!(["notBefore", spec.not_before.as_ref().map(|time| time.0.to_string())]),
    ];
    all.extend(subjects(&spec.subjects));
    if !spec.suspend {
        all.push(json!(["live"]));
    }
    let drain = spec.revoke.as_ref().and_then(|revoke| revoke.drain);
    all.extend(drain.map(|drain| json!(["drain", drain])));
    all
}

fn subjects(subjects: &Subjects) -> Vec<Value> {
    let mut all: Vec<Value> = subjects
        .session_names
        .iter()
        .map(|name| json!(["session", name]))
        .collect();
    if subjects.all_sessions == Some(true) {
        all.push(json!(["sessions"]));
    }
    let selector = subjects.session_selector.as_ref();
    all.extend(selector.map(|selector| json!(["selector", selector])));
    all
}

/// A list that means "all" when it is empty has an element for that, so that emptying it is no narrowing. Each field is
/// named, so that a new one can't be forgotten here.
fn elements(route: &Route) -> Vec<Value> {
    let Route {
        name,
        host,
        ports,
        methods,
        paths,
        addresses,
        websocket,
        inject,
        git,
        tokens,
        ca,
        minting,
        set_cookie,
    } = route;
    let mut all = Vec::new();
    let mut add = |what: &str, value: Value| all.push(json!(["route", name, what, value]));
    add("host", json!(host));
    add("inject", json!(inject));
    let ports = if ports.is_empty() { &[443][..] } else { ports };
    for port in ports {
        add("port", json!(port));
    }
    each_or_all(methods, "method", &mut add);
    each_or_all(paths, "path", &mut add);
    for network in addresses {
        add("address", json!(network));
    }
    for (set, what) in [
        (*websocket, "websocket"),
        (*minting, "minting"),
        (*set_cookie, "set cookie"),
    ] {
        if set {
            add(what, Value::Null);
        }
    }
    // Whose word is taken for the host, and what a token endpoint gives: another value is another grant.
    add("tokens", json!(tokens));
    add("ca", json!(ca));
    match git {
        None => add("any protocol", Value::Null),
        Some(git) => limits(git, &mut add),
    }
    all
}

fn each_or_all(values: &[String], what: &str, add: &mut dyn FnMut(&str, Value)) {
    if values.is_empty() {
        add(what, Value::Null);
    }
    for value in values {
        add(what, json!(value));
    }
}

fn limits(git: &GitRoute, add: &mut dyn FnMut(&str, Value)) {
    let GitRoute {
        repos,
        access,
        ref_prefixes,
        protected_paths,
    } = git;
    add("git", Value::Null);
    each_or_all(repos, "repository", add);
    if *access == GitAccess::Write {
        add("push", Value::Null);
    }
    each_or_all(ref_prefixes, "ref", add);
    if *protected_paths == Some(ProtectedPaths::Allow) {
        add("protected paths", Value::Null);
    }
}

/// Of an array: what the element is, then its parts.
fn hash(element: &Value) -> String {
    let parts = element.as_array().map(Vec::as_slice).unwrap_or_default();
    let parts: Value = parts.iter().map(sorted).collect();
    hex::encode(Sha256::digest(parts.to_string()))
}

/// No list within a part has an order that means anything.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Array(items) => {
            let mut items: Vec<Value> = items.iter().map(sorted).collect();
            items.sort_by_cached_key(Value::to_string);
            items.into()
        }
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| (name.clone(), sorted(value)))
            .collect(),
        other => other.clone(),
    }
}

/// As many as the status may hold (`Grant::elements`).
const ELEMENTS_MAX: usize = 256;

#[cfg(test)]
mod tests;
