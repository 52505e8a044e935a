//! Pure: what GrantPolicies let a binding's routes be. A route may be narrowed, never widened: permitted is the route ∩
//! the union of `allow` − the union of `deny` (DESIGN §3). What can't be cut exactly is left out.

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_crds::{
    AllowRule, CredentialBinding, CredentialSource, DenyRule, GrantPolicy, GrantPolicySpec, KeyRef, Match,
    NamespaceBudget, Repositories, Require, Route, SourceSet,
};
use berth_egress::pattern::HostPattern;
use kube::Resource;

use super::decide::keys_of;

/// What the policies make of a binding.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Permitted {
    /// The routes that are left, narrowed.
    pub routes: Vec<Route>,
    /// What was taken away, for people; empty when nothing was.
    pub narrowed: Vec<String>,
}

/// Where nothing says `allow`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum DefaultPolicy {
    /// Nothing is permitted.
    #[default]
    Deny,
    /// Everything is.
    Allow,
}

/// The policies that speak of a binding, for widening and for narrowing apart: one of which that can't be told never
/// allows and always restricts.
pub struct Matching<'a> {
    allowing: Vec<&'a GrantPolicySpec>,
    restricting: Vec<&'a GrantPolicySpec>,
    wants_id: bool,
}

/// Where a binding's document stands.
pub struct Where<'a> {
    /// Name of the forge; `None` for a server that is none of the install's.
    pub forge: Option<&'a str>,
    /// The forge's id of the repository, once it is known.
    pub repository: Option<i64>,
    /// The branch.
    pub branch: &'a str,
    /// Path of the file.
    pub path: &'a str,
}

/// Whether a policy speaks of a binding.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Speaks {
    No,
    Unknown,
    Yes,
}

impl<'a> Matching<'a> {
    /// Of a binding in this namespace, with these labels as far as they are known, whose document stands there: `None`
    /// for one that stands nowhere.
    pub fn of(
        namespace: &str,
        labels: Option<&BTreeMap<String, String>>,
        document: Option<&Where<'_>>,
        policies: &'a [Arc<GrantPolicy>],
    ) -> Self {
        Self::by(policies, |matches| {
            let place = document.map_or(Speaks::No, |document| speaks_of_document(matches, document));
            let place = if matches.repositories.is_empty() {
                Speaks::Yes
            } else {
                place
            };
            speaks_of_namespace(matches, namespace, labels).min(place)
        })
    }

    /// Of any binding in this namespace, wherever its document stands.
    pub fn of_namespace(
        namespace: &str,
        labels: Option<&BTreeMap<String, String>>,
        policies: &'a [Arc<GrantPolicy>],
    ) -> Self {
        Self::by(policies, |matches| {
            let place = if matches.repositories.is_empty() {
                Speaks::Yes
            } else {
                Speaks::Unknown
            };
            speaks_of_namespace(matches, namespace, labels).min(place)
        })
    }

    fn by(policies: &'a [Arc<GrantPolicy>], speaks: impl Fn(&Match) -> Speaks) -> Self {
        let mut matching = Self {
            allowing: Vec::new(),
            restricting: Vec::new(),
            wants_id: false,
        };
        let live = policies
            .iter()
            .filter(|policy| policy.meta().deletion_timestamp.is_none());
        for spec in live.map(|policy| &policy.spec) {
            let found = spec.matches.as_ref().map_or(Speaks::Yes, &speaks);
            if found == Speaks::Yes {
                matching.allowing.push(spec);
            }
            if found != Speaks::No {
                matching.restricting.push(spec);
                let repositories = spec.matches.as_ref().map(|matches| matches.repositories.len());
                matching.wants_id |= repositories.is_some_and(|count| count > 0);
            }
        }
        matching
    }

    /// Whether one of them speaks of repositories by their ids.
    pub fn wants_id(&self) -> bool {
        self.wants_id
    }

    /// What every one of them requires.
    pub fn requirements(&self) -> impl Iterator<Item = &'a Require> {
        self.restricting.iter().filter_map(|spec| spec.require.as_ref())
    }

    /// What each namespace that they speak of may spend.
    pub fn budgets(&self) -> impl Iterator<Item = &'a NamespaceBudget> {
        self.restricting.iter().filter_map(|spec| spec.budget.as_ref())
    }

    /// Whether one of them accepts bindings that no git holds.
    pub fn accepts_direct(&self) -> bool {
        let mut requirements = self.allowing.iter().filter_map(|spec| spec.require.as_ref());
        requirements.any(|require| require.direct)
    }

    /// The binding's routes, as far as they are permitted.
    pub fn permit(&self, binding: &CredentialBinding, default: DefaultPolicy) -> Permitted {
        let source = &binding.spec.credential.source;
        let allow: Vec<&AllowRule> = self.allowing.iter().flat_map(|spec| &spec.allow).collect();
        let silent = allow.is_empty();
        let allow: Vec<&AllowRule> = allow
            .into_iter()
            .filter(|rule| covers_source(rule.sources.as_ref(), source))
            .collect();
        let deny = self.restricting.iter().flat_map(|spec| &spec.deny);
        let deny: Vec<&DenyRule> = deny
            .filter(|rule| covers_source(rule.sources.as_ref(), source))
            .collect();
        let mut permitted = Permitted::default();
        for route in &binding.spec.routes {
            let allowed = match (silent, default) {
                (true, DefaultPolicy::Allow) => vec![route.clone()],
                (true, DefaultPolicy::Deny) => Vec::new(),
                (false, _) => allow.iter().filter_map(|rule| narrow(route, rule)).collect(),
            };
            let left: Vec<Route> = allowed.into_iter().filter_map(|route| cut(route, &deny)).collect();
            let whole = left.iter().any(|left| left == route);
            if !whole {
                permitted.narrowed.push(told(route, &left));
            }
            permitted
                .routes
                .extend(numbered(if whole { vec![route.clone()] } else { left }));
        }
        permitted
    }
}

fn speaks_of_namespace(matches: &Match, namespace: &str, labels: Option<&BTreeMap<String, String>>) -> Speaks {
    if !matches.namespaces.is_empty() && !matches.namespaces.iter().any(|name| name == namespace) {
        return Speaks::No;
    }
    match (&matches.namespace_selector, labels) {
        (None, _) => Speaks::Yes,
        (Some(_), None) => Speaks::Unknown,
        (Some(selector), Some(labels)) if selector.matches(labels) => Speaks::Yes,
        (Some(_), Some(_)) => Speaks::No,
    }
}

/// By the one of its repositories that fits best. What is on a server that isn't one of the install's may be a
/// repository of one of them by another name.
fn speaks_of_document(matches: &Match, document: &Where<'_>) -> Speaks {
    let one = |wanted: &Repositories| {
        if wanted.branch != document.branch || !is_below(document.path, wanted.path.as_deref()) {
            return Speaks::No;
        }
        match (document.forge, document.repository) {
            (Some(forge), _) if wanted.forge != forge => Speaks::No,
            (Some(_), Some(id)) if id == wanted.repository_id => Speaks::Yes,
            (Some(_), Some(_)) => Speaks::No,
            (Some(_) | None, None) | (None, Some(_)) => Speaks::Unknown,
        }
    };
    matches.repositories.iter().map(one).max().unwrap_or(Speaks::Yes)
}

fn is_below(path: &str, folder: Option<&str>) -> bool {
    let folder = folder.unwrap_or_default().trim_matches('/');
    folder.is_empty() || path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
}

fn told(route: &Route, left: &[Route]) -> String {
    let name = &route.name;
    if left.is_empty() {
        format!("no GrantPolicy permits route {name} to {}", route.host)
    } else {
        format!("GrantPolicies narrow route {name} to {}", route.host)
    }
}

/// Several rules may each permit a part of one route.
fn numbered(mut routes: Vec<Route>) -> Vec<Route> {
    routes.dedup();
    for (number, route) in routes.iter_mut().enumerate().skip(1) {
        route.name = format!("{}.{number}", route.name);
    }
    routes
}

fn covers_source(set: Option<&SourceSet>, source: &CredentialSource) -> bool {
    let Some(set) = set else { return true };
    let secret = |key: &KeyRef| set.secrets.contains(&format!("{}/{}", key.name, key.key));
    let parts = [
        source.secret_ref.as_ref().map(secret),
        source
            .github_app
            .as_ref()
            .map(|app| set.installations.contains(&app.installation_id)),
        source
            .oauth2
            .as_ref()
            .map(|client| set.client_ids.contains(&client.client_id)),
        source
            .lite_llm_key
            .as_ref()
            .map(|key| set.gateways.contains(&key.gateway)),
        source
            .aws_sig_v4
            .as_ref()
            .map(|_| keys_of(source).into_iter().all(secret)),
    ];
    parts.into_iter().flatten().all(|covered| covered) && parts.iter().any(Option::is_some)
}

/// The route as far as one rule allows it.
fn narrow(route: &Route, rule: &AllowRule) -> Option<Route> {
    if !rule.hosts.iter().any(|host| host_covers(host, &route.host)) {
        return None;
    }
    let methods = intersect(&route.methods, &rule.methods)?;
    let paths = paths_within(&route.paths, &rule.paths)?;
    Some(Route {
        methods,
        paths,
        ..route.clone()
    })
}

/// Empty means all, on both sides.
fn intersect(route: &[String], rule: &[String]) -> Option<Vec<String>> {
    match (route, rule) {
        (all, []) => Some(all.to_vec()),
        ([], some) => Some(some.to_vec()),
        (some, others) => {
            let both: Vec<String> = some.iter().filter(|method| others.contains(method)).cloned().collect();
            (!both.is_empty()).then_some(both)
        }
    }
}

/// The route's patterns that lie within one of the rule's, and the rule's that lie within one of the route's.
fn paths_within(route: &[String], rule: &[String]) -> Option<Vec<String>> {
    match (route, rule) {
        (all, []) => Some(all.to_vec()),
        ([], some) => Some(some.to_vec()),
        (some, others) => {
            let within = |paths: &[String], larger: &[String]| -> Vec<String> {
                let inside = paths
                    .iter()
                    .filter(|path| larger.iter().any(|larger| path_covers(larger, path)));
                inside.cloned().collect()
            };
            let mut both = within(some, others);
            both.extend(within(others, some));
            both.sort_unstable();
            both.dedup();
            (!both.is_empty()).then_some(both)
        }
    }
}

/// What is left of a route. A rule that names methods takes those; one that names paths takes each pattern that it may
/// touch; one that names neither takes the route.
fn cut(mut route: Route, deny: &[&DenyRule]) -> Option<Route> {
    for rule in deny {
        let hosts = rule.hosts.is_empty() || rule.hosts.iter().any(|host| hosts_meet(host, &route.host));
        let methods = rule.methods.is_empty()
            || route.methods.is_empty()
            || rule.methods.iter().any(|method| route.methods.contains(method));
        let touched = |path: &String| rule.paths.is_empty() || rule.paths.iter().any(|denied| paths_meet(denied, path));
        let paths = route.paths.is_empty() || route.paths.iter().any(touched);
        if !(hosts && methods && paths) {
            continue;
        }
        if !rule.methods.is_empty() && !route.methods.is_empty() {
            route.methods.retain(|method| !rule.methods.contains(method));
        } else if !rule.paths.is_empty() && !route.paths.is_empty() {
            route.paths.retain(|path| !touched(path));
        } else {
            return None;
        }
        if route.methods.is_empty() && !rule.methods.is_empty() || route.paths.is_empty() && !rule.paths.is_empty() {
            return None;
        }
    }
    Some(route)
}

/// Whether every host of `pattern` is one of `larger`.
pub fn host_covers(larger: &str, pattern: &str) -> bool {
    if larger == pattern {
        return true;
    }
    let (Some(base), false) = (larger.strip_prefix("*."), pattern.starts_with("*.")) else {
        return false;
    };
    pattern
        .strip_suffix(base)
        .and_then(|label| label.strip_suffix('.'))
        .is_some_and(|label| !label.is_empty() && !label.contains('.'))
}

fn hosts_meet(one: &str, other: &str) -> bool {
    match (HostPattern::parse(one), HostPattern::parse(other)) {
        (Ok(one), Ok(other)) => one.overlaps(&other),
        _ => true, // what can't be read is denied
    }
}

/// Whether every path of `pattern` is one of `larger`: `*` stands for a segment, `**` at the end for any number.
fn path_covers(larger: &str, pattern: &str) -> bool {
    let mut smaller = pattern.split('/');
    let mut segments = larger.split('/').peekable();
    while let Some(segment) = segments.next() {
        if segment == "**" {
            return segments.peek().is_none();
        }
        match (segment, smaller.next()) {
            (_, None | Some("**")) => return false,
            ("*", Some(_)) => {}
            (segment, Some(other)) if segment == other => {}
            _ => return false,
        }
    }
    smaller.next().is_none()
}

fn paths_meet(one: &str, other: &str) -> bool {
    let (mut left, mut right) = (one.split('/'), other.split('/'));
    loop {
        match (left.next(), right.next()) {
            (None, None) | (Some("**"), _) | (_, Some("**")) => return true,
            (Some(left), Some(right)) if left == "*" || right == "*" || left == right => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests;
