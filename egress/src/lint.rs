//! What is wrong with a policy, item by item: each finding names the one credential or route that it drops (§5.2).

use std::collections::{HashMap, HashSet};
use std::fmt;

use crate::policy::{Credential, Injection, Policy, Route};
use crate::rules::route::CompiledRoute;
use crate::stubs;

mod compile;

mod aws;

mod endpoints;

mod headers;

mod overlap;

mod secret;

mod tokens;

pub use self::secret::{SecretProblem, check_secret};

/// One thing that is wrong.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Finding {
    /// Which rule is broken.
    pub rule: Rule,
    /// Where: a path into the policy, such as `routes[3].host`.
    pub field: String,
    /// What is wrong and what to do.
    pub message: String,
    /// What is dropped for it.
    pub culprit: Culprit,
}

/// What a finding drops from the rules.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Culprit {
    /// The credential at this index, and with it the routes that name it.
    Credential(usize),
    /// The route at this index.
    Route(usize),
    /// Everything.
    Policy,
}

/// The rules of the linter.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Rule {
    /// `addresses` that open everything, or ports of the control plane (row 13).
    Addresses,
    /// `ca` that isn't certificates, or without TLS that ends at the sidecar (row 43).
    Ca,
    /// Two credentials of one host both as the client's certificate.
    Certificates,
    /// A credential on passthrough or plain HTTP (§5.2).
    CredentialTls,
    /// A name that another item has already.
    DuplicateName,
    /// A form without exactly one `{}`, or with characters that no header has.
    Form,
    /// `git` limits that name nothing valid.
    Git,
    /// A header that can't carry a credential: hop-by-hop, framing, routing, cookies (rows 18, 20, 22).
    Header,
    /// `headers` that the sidecar can't own, or without requests that are seen.
    Headers,
    /// A host that can't be parsed, or is a metadata service (rows 7-10, 12).
    Host,
    /// Only one of `credential` and `inject`.
    Inject,
    /// A method that isn't one, or is never allowed (row 28).
    Method,
    /// A route with a credential that doesn't say which methods (§5.2).
    Methods,
    /// An endpoint that mints credentials or approves changes, without `minting: true` (DESIGN §7, row 36).
    Minting,
    /// Terminated and unseen TLS, or TLS and plain HTTP, on the same host and port.
    MixedTls,
    /// An empty or odd name.
    Name,
    /// Routes of one credential that overlap, are equally specific and differ (§5.2).
    Overlap,
    /// A path pattern that can't be parsed (row 24).
    Path,
    /// Port 0.
    Port,
    /// `range` on a route with redaction (row 32).
    Range,
    /// A write that evades a credential's `refPrefixes`: REST, GraphQL, LFS (row 26).
    RefBypass,
    /// A body or query surface without redaction (§5.2).
    Redaction,
    /// An AWS key that isn't signed with, or a signature without region, service or key (row 67).
    Signature,
    /// A stub that is too short or has other characters than `A-Z a-z 0-9 _ . ~ -` (§5.2).
    Stub,
    /// A stub that is part of another (§5.2).
    StubOverlap,
    /// `tokens` without a credential, without redaction, or where no token endpoint gives any (row 36).
    Tokens,
    /// More stubs than one automaton holds.
    TooMany,
    /// A credential that isn't there, or was dropped.
    UnknownCredential,
    /// Limits on a connection whose requests aren't seen.
    Unseen,
    /// A credential that no route names: unbound credentials don't exist (§5.2).
    Unused,
    /// A wildcard over names of many owners, or in the wrong place (rows 5, 6).
    Wildcard,
}

/// All findings and the routes that could be compiled, in the policy's order.
pub(crate) struct Examined {
    pub(crate) routes: Vec<Option<CompiledRoute>>,
    pub(crate) findings: Vec<Finding>,
}

/// What is wrong with a policy; nothing, most of the time.
pub fn lint(policy: &Policy) -> Vec<Finding> {
    examine(policy).findings
}

/// Lints and compiles in one pass.
pub(crate) fn examine(policy: &Policy) -> Examined {
    let mut report = Report::default();
    check_credentials(policy, &mut report);
    check_route_names(policy, &mut report);
    // The first of a name counts.
    let mut credentials: HashMap<&str, &Credential> = HashMap::new();
    for credential in &policy.credentials {
        credentials.entry(&credential.name).or_insert(credential);
    }
    let indexed = policy.routes.iter().enumerate();
    let routes: Vec<Option<CompiledRoute>> = indexed
        .map(|(index, route)| compile::route(&mut report.route(index), route, &credentials))
        .collect();
    let compiled: Vec<(usize, &Route, &CompiledRoute)> = (policy.routes.iter().zip(&routes).enumerate())
        .filter_map(|(index, (route, compiled))| Some((index, route, compiled.as_ref()?)))
        .collect();
    endpoints::check(&compiled, &mut report);
    overlap::check(&compiled, &mut report);
    tokens::check(&compiled, &mut report);
    Examined {
        routes,
        findings: report.findings,
    }
}

/// Whether a stub can be told from other text.
pub(crate) fn is_stub(stub: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'~' | b'-');
    stub.len() >= STUB_MIN && stub.bytes().all(plain)
}

pub(crate) fn dropped_credential(index: usize, name: &str) -> Finding {
    Finding {
        rule: Rule::UnknownCredential,
        field: format!("routes[{index}].credential"),
        message: format!("credential {name} was dropped, and the route with it"),
        culprit: Culprit::Route(index),
    }
}

pub(crate) fn too_many_stubs() -> Finding {
    Finding {
        rule: Rule::TooMany,
        field: "credentials".to_owned(),
        message: "there are too many credentials; everything is denied until there are fewer".to_owned(),
        culprit: Culprit::Policy,
    }
}

/// Collects findings.
#[derive(Default)]
struct Report {
    findings: Vec<Finding>,
}

/// Collects findings about one route.
struct RouteReport<'a> {
    report: &'a mut Report,
    index: usize,
}

impl Report {
    fn credential(&mut self, index: usize, field: &str, rule: Rule, message: impl Into<String>) {
        self.findings.push(Finding {
            rule,
            field: format!("credentials[{index}].{field}"),
            message: message.into(),
            culprit: Culprit::Credential(index),
        });
    }

    fn route(&mut self, index: usize) -> RouteReport<'_> {
        RouteReport { report: self, index }
    }
}

impl RouteReport<'_> {
    fn add(&mut self, field: &str, rule: Rule, message: impl Into<String>) {
        self.report.findings.push(Finding {
            rule,
            field: format!("routes[{}].{field}", self.index),
            message: message.into(),
            culprit: Culprit::Route(self.index),
        });
    }
}

fn check_credentials(policy: &Policy, report: &mut Report) {
    let used: HashSet<&str> = policy
        .routes
        .iter()
        .filter_map(|route| route.credential.as_deref())
        .collect();
    let mut seen = HashSet::new();
    for (index, credential) in policy.credentials.iter().enumerate() {
        let name = credential.name.as_str();
        if !is_name(name) {
            report.credential(index, "name", Rule::Name, NAME_RULE);
        }
        if !seen.insert(name) {
            report.credential(
                index,
                "name",
                Rule::DuplicateName,
                format!("another credential is named {name}"),
            );
        }
        if !credential.stubs().all(is_stub) {
            let message = format!("the stub of {name} must have at least {STUB_MIN} characters of A-Z a-z 0-9 _ . ~ -");
            report.credential(index, "stub", Rule::Stub, message);
        }
        if !used.contains(name) {
            report.credential(index, "name", Rule::Unused, format!("no route names credential {name}"));
        }
    }
    check_stub_overlaps(policy, report);
}

/// Compared without case, as stubs are looked for. Both lose: which of them a request means can't be told.
fn check_stub_overlaps(policy: &Policy, report: &mut Report) {
    let credentials = policy.credentials.iter().enumerate();
    let all = credentials.flat_map(|(index, credential)| credential.stubs().map(move |stub| (index, credential, stub)));
    let all: Vec<(usize, &Credential, &str)> = all.filter(|(_, _, stub)| is_stub(stub)).collect();
    if all.len() < 2 {
        return; // a controller asks this of every binding by itself, and an automaton is most of that
    }
    let Some(automaton) = stubs::automaton(all.iter().map(|(_, _, stub)| *stub)) else {
        return;
    };
    let mut offenders = HashMap::new();
    for (at, (index, credential, stub)) in all.iter().enumerate() {
        let others = automaton
            .find_overlapping_iter(stub)
            .map(|hit| hit.pattern().as_usize());
        for (inner, part, _) in others.filter(|other| *other != at).filter_map(|other| all.get(other)) {
            offenders.insert(*index, &part.name);
            offenders.insert(*inner, &credential.name);
        }
    }
    let mut offenders: Vec<_> = offenders.into_iter().collect();
    offenders.sort_unstable();
    for (index, other) in offenders {
        report.credential(
            index,
            "stub",
            Rule::StubOverlap,
            format!("the stub overlaps that of {other}"),
        );
    }
}

fn check_route_names(policy: &Policy, report: &mut Report) {
    let mut names = HashSet::new();
    for (index, route) in policy.routes.iter().enumerate() {
        if !is_name(&route.name) {
            report.route(index).add("name", Rule::Name, NAME_RULE);
        }
        if !names.insert(route.name.as_str()) {
            let message = format!("another route is named {}", route.name);
            report.route(index).add("name", Rule::DuplicateName, message);
        }
    }
}

fn is_name(name: &str) -> bool {
    (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Whether a value is taken out of responses on a route: the route's word, else the credential's.
fn is_redacted(route: &Route, credential: &Credential) -> bool {
    route.redact.unwrap_or(credential.redact)
}

fn is_certificate(route: &Route) -> bool {
    matches!(route.inject, Some(Injection::ClientCertificate(_)))
}

impl Rule {
    /// Its name, as docs and logs write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Addresses => "addresses",
            Self::Ca => "ca",
            Self::Certificates => "certificates",
            Self::CredentialTls => "credential-tls",
            Self::DuplicateName => "duplicate-name",
            Self::Form => "form",
            Self::Git => "git",
            Self::Header => "header",
            Self::Headers => "headers",
            Self::Host => "host",
            Self::Inject => "inject",
            Self::Method => "method",
            Self::Methods => "methods",
            Self::Minting => "minting",
            Self::MixedTls => "mixed-tls",
            Self::Name => "name",
            Self::Overlap => "overlap",
            Self::Path => "path",
            Self::Port => "port",
            Self::Range => "range",
            Self::RefBypass => "ref-bypass",
            Self::Redaction => "redaction",
            Self::Signature => "signature",
            Self::Stub => "stub",
            Self::StubOverlap => "stub-overlap",
            Self::Tokens => "tokens",
            Self::TooMany => "too-many",
            Self::UnknownCredential => "unknown-credential",
            Self::Unseen => "unseen",
            Self::Unused => "unused",
            Self::Wildcard => "wildcard",
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {} ({})", self.field, self.message, self.rule)
    }
}

/// §5.2. 24 characters of 64 are 144 bits.
const STUB_MIN: usize = 24;
/// Longest name: two Kubernetes names of 63 and what joins them.
const NAME_MAX: usize = 128;
const NAME_RULE: &str = "a name has 1 to 128 visible ASCII characters";
