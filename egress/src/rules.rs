//! A policy, compiled: indexed by host, so that a decision costs the same among ten routes and ten thousand.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use ipnet::IpNet;

use self::route::CompiledRoute;
use crate::authority::{Authority, Host};
use crate::lint::{self, Culprit, Examined, Finding};
use crate::pattern::HostPattern;
use crate::policy::{Credential, Policy, Tls};
use crate::stubs::{Entry, Stubs};

pub(crate) mod route;

/// What requests are judged by. It denies what no route allows.
#[derive(Clone, Debug)]
pub struct Rules {
    revision: u64,
    credentials: Vec<Credential>,
    routes: Vec<CompiledRoute>,
    /// For each route, how many are more specific: a decision orders by numbers.
    ranks: Vec<usize>,
    exact: HashMap<Host, Vec<usize>>,
    one_label: HashMap<String, Vec<usize>>,
    any_depth: HashMap<String, Vec<usize>>,
    stubs: Stubs,
}

/// What can be reached at a host and port: known at `CONNECT`, before a request is seen.
#[derive(Clone, Debug, PartialEq)]
pub struct Reach {
    /// What becomes of the connection: as the routes with the narrowest host say, so that one host can be exempt from
    /// what a wildcard says.
    pub tls: Tls,
    /// The routes, the most specific first.
    pub routes: Vec<Arc<str>>,
    /// The narrowest host pattern: a leaf for `*.example.com` may serve all of its hosts (row 42).
    pub host: HostPattern,
    /// Networks that the host may resolve to although they aren't public: of all the routes together.
    pub addresses: Vec<IpNet>,
    /// Whether some route has a credential: then what isn't HTTP is closed (row 16).
    pub credentialed: bool,
}

impl Rules {
    /// Compiles what is right and drops what isn't: for snapshots of the controller, where one offender must not take
    /// the others along (DESIGN §7). The stubs of dropped credentials stay known, and are refused everywhere. As routes
    /// only allow, dropping one never allows more.
    pub fn compile(policy: Policy) -> (Self, Vec<Finding>) {
        let Examined { routes, mut findings } = lint::examine(&policy);
        let dropped: HashSet<Culprit> = findings.iter().map(|finding| finding.culprit).collect();
        let Some(stubs) = stubs(&policy) else {
            findings.push(lint::too_many_stubs());
            return (Self::deny_all(policy.revision), findings);
        };
        let is_kept = |index: usize| !dropped.contains(&Culprit::Credential(index));
        let ids = stubs.ids(
            policy
                .credentials
                .iter()
                .enumerate()
                .filter(|(index, _)| is_kept(*index)),
        );
        let mut rules = Self {
            credentials: keep(policy.credentials, is_kept),
            stubs,
            ..Self::deny_all(policy.revision)
        };
        for (index, route) in routes.into_iter().enumerate() {
            let Some(mut route) = route.filter(|_| !dropped.contains(&Culprit::Route(index))) else {
                continue;
            };
            if let Some(inject) = &mut route.inject {
                let Some(id) = ids.get(&inject.credential) else {
                    findings.push(lint::dropped_credential(index, &inject.credential));
                    continue;
                };
                inject.stub = *id;
            }
            rules.add(route);
        }
        rules.forget_unused();
        rules.rank();
        (rules, findings)
    }

    /// Compiles a policy that has nothing wrong: for the file of a sidecar that stands alone.
    pub fn strict(policy: Policy) -> Result<Self, Vec<Finding>> {
        let (rules, findings) = Self::compile(policy);
        if findings.is_empty() { Ok(rules) } else { Err(findings) }
    }

    /// Denies everything.
    pub fn deny_all(revision: u64) -> Self {
        Self {
            revision,
            credentials: Vec::new(),
            routes: Vec::new(),
            ranks: Vec::new(),
            exact: HashMap::new(),
            one_label: HashMap::new(),
            any_depth: HashMap::new(),
            stubs: Stubs::none(),
        }
    }

    /// Number of the snapshot that it was compiled from.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The credentials that some route can grant, in the policy's order: their values are needed, no others.
    pub fn credentials(&self) -> &[Credential] {
        &self.credentials
    }

    /// What can be reached there, or none. One answer for hosts that are unknown and those that are forbidden.
    pub fn connect(&self, authority: &Authority) -> Option<Reach> {
        let mut routes = self.at(authority);
        let narrowest = routes.first()?.host.specificity();
        let is_said = |tls: &Tls| {
            let mut narrow = routes.iter().filter(|route| route.host.specificity() == narrowest);
            narrow.any(|route| route.tls == *tls)
        };
        let kinds = [Tls::Terminate, Tls::Plain, Tls::Passthrough];
        let tls = kinds.into_iter().find(is_said)?;
        routes.retain(|route| route.tls == tls);
        let first = routes.first()?;
        Some(Reach {
            tls,
            host: first.host.clone(),
            addresses: routes
                .iter()
                .flat_map(|route| route.addresses.iter().copied())
                .collect(),
            credentialed: routes.iter().any(|route| route.inject.is_some()),
            routes: routes.iter().map(|route| Arc::clone(&route.name)).collect(),
        })
    }

    /// Routes for the host and port, the most specific first.
    pub(crate) fn at(&self, authority: &Authority) -> Vec<&CompiledRoute> {
        let host = &authority.host;
        if host.is_metadata() {
            return Vec::new();
        }
        let mut found: Vec<usize> = self.exact.get(host).into_iter().flatten().copied().collect();
        if let Some(name) = host.name() {
            let mut bases = name.match_indices('.').filter_map(|(at, _)| name.get(at + 1..));
            let first = bases.next();
            found.extend(first.and_then(|base| self.one_label.get(base)).into_iter().flatten());
            for base in first.into_iter().chain(bases) {
                found.extend(self.any_depth.get(base).into_iter().flatten());
            }
        }
        found.sort_by_key(|index| self.ranks.get(*index));
        let routes = found.into_iter().filter_map(|index| self.routes.get(index));
        routes.filter(|route| route.ports.contains(&authority.port)).collect()
    }

    pub(crate) fn routes(&self) -> &[CompiledRoute] {
        &self.routes
    }

    pub(crate) fn stubs(&self) -> &Stubs {
        &self.stubs
    }

    fn add(&mut self, route: CompiledRoute) {
        let index = self.routes.len();
        let places = match &route.host {
            HostPattern::Exact(host) => self.exact.entry(host.clone()).or_default(),
            HostPattern::OneLabel(base) => self.one_label.entry(base.clone()).or_default(),
            HostPattern::AnyDepth(base) => self.any_depth.entry(base.clone()).or_default(),
        };
        places.push(index);
        self.routes.push(route);
    }

    /// Routes of equal specificity have one rank, so that their order stays as it is.
    fn rank(&mut self) {
        let mut order: Vec<usize> = (0..self.routes.len()).collect();
        order.sort_by_cached_key(|index| self.routes.get(*index).map(|route| Reverse(route.specificity())));
        self.ranks = vec![0; order.len()];
        let mut last: Option<(usize, usize)> = None;
        for (position, index) in order.into_iter().enumerate() {
            let specificity = |index: usize| self.routes.get(index).map(CompiledRoute::specificity);
            let rank = match last {
                Some((before, rank)) if specificity(before) == specificity(index) => rank,
                _ => position,
            };
            last = Some((index, rank));
            if let Some(place) = self.ranks.get_mut(index) {
                *place = rank;
            }
        }
    }

    fn forget_unused(&mut self) {
        let injects = self.routes.iter().filter_map(|route| route.inject.as_ref());
        let used: HashSet<&str> = injects.map(|inject| inject.credential.as_ref()).collect();
        self.credentials
            .retain(|credential| used.contains(credential.name.as_str()));
    }
}

fn keep(credentials: Vec<Credential>, is_kept: impl Fn(usize) -> bool) -> Vec<Credential> {
    let kept = credentials.into_iter().enumerate().filter(|(index, _)| is_kept(*index));
    kept.map(|(_, credential)| credential).collect()
}

/// A stub that is too short or odd to be told from other text isn't looked for; its credential is dropped anyway.
fn stubs(policy: &Policy) -> Option<Stubs> {
    let entries = policy.credentials.iter().flat_map(|credential| {
        let stubs = credential.stubs().filter(|stub| lint::is_stub(stub));
        stubs.map(|stub| Entry {
            credential: Arc::from(credential.name.as_str()),
            stub: stub.to_owned(),
        })
    });
    Stubs::new(entries.collect())
}
