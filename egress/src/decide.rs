//! May this request leave, and with which credential? Allow-only: the union of the routes that match.

use std::sync::Arc;

use http::header::{AUTHORIZATION, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use ipnet::IpNet;

use self::place::{Held, Sought};
use crate::authority::{Authority, AuthorityError};
use crate::aws::Claim;
use crate::git::GitCall;
use crate::path::{CanonicalPath, Query};
use crate::pattern;
use crate::policy::{ProtectedPaths, Tls, Tokens};
use crate::rules::Rules;
use crate::rules::route::CompiledRoute;
use crate::stubs::StubId;

mod denial;

mod place;

mod aws;

pub use self::denial::Denial;
pub use self::place::Place;

/// A request, parsed.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Where the connection leads: what `CONNECT` or the absolute target said, never what `Host` says (row 3).
    pub authority: &'a Authority,
    /// Whether the upstream connection is TLS.
    pub tls: bool,
    /// Its method.
    pub method: &'a Method,
    /// Its path; the same bytes are sent.
    pub path: &'a CanonicalPath,
    /// Its query; the same bytes are sent, but for a granted value.
    pub query: Option<&'a Query>,
    /// Its headers as the agent sent them, hop-by-hop ones included.
    pub headers: &'a HeaderMap,
    /// The protocol that it asks to change to. One that isn't listed is for the caller to refuse (row 38).
    pub upgrade: Option<Upgrade>,
}

/// A protocol to change to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Upgrade {
    /// WebSocket, by RFC 6455 or RFC 8441.
    WebSocket,
}

/// The request may leave.
#[derive(Debug)]
pub struct Allowed {
    /// The routes that match, the most specific first; that one is named in the audit row.
    pub routes: Vec<Arc<str>>,
    /// What is exchanged for secrets. Empty for a request without stub on a surface.
    pub grants: Vec<Grant>,
    /// Credentials whose values must not come back: of the matching routes, and of the others for this host, as what
    /// one request stores another may read (rows 28, 33).
    pub redact: Vec<Arc<str>>,
    /// Whether a matching route has a credential, used or not: then override and compression headers are stripped
    /// (row 22, DESIGN §7).
    pub credentialed: bool,
    /// Whether `Set-Cookie` may reach the agent.
    pub set_cookie: bool,
    /// Whether `Range` may stay in the request, and 206 in the response (row 32).
    pub range: bool,
    /// Set when a git route matches.
    pub git: Option<GitUse>,
    /// Networks that the host may resolve to although they aren't public: of the matching routes.
    pub addresses: Vec<IpNet>,
    /// The credential for which the answer's tokens become stubs, on a token endpoint.
    pub mints_for: Option<Arc<str>>,
    /// Headers that the agent has no say in: of the matching routes.
    pub headers: OwnHeaders,
}

/// Headers of a request that are the sidecar's own.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct OwnHeaders {
    /// Prefixes of those that are dropped.
    pub drop_prefixes: Vec<Arc<str>>,
    /// What is set, in place of what the agent sent; each name once.
    pub set: Vec<(HeaderName, HeaderValue)>,
}

/// What a request of git may do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GitUse {
    /// The repository, `owner/name`.
    pub repository: String,
    /// What it is.
    pub step: GitStep,
    /// For each credential in use, the ref prefixes it is limited to. Empty: no limit.
    pub ref_limits: Vec<Vec<String>>,
    /// Whether a push may add or change CI definitions, CODEOWNERS and tracked paths: every route that the limits come
    /// from says so.
    pub protected_paths: ProtectedPaths,
    /// Globs of paths that are protected beside those that always are: of all the routes that the limits come from.
    pub protect: Vec<String>,
}

/// What a request of git is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum GitStep {
    /// `info/refs`.
    Discovery,
    /// `git-upload-pack`.
    Fetch,
    /// `git-receive-pack`: its commands are to be held against [`GitUse::allows_ref`].
    Push,
}

/// The right to put one secret into one place of this one request. Only [`Rules::decide`] makes it, and a secret is
/// given for nothing else.
#[derive(Debug, Eq, PartialEq)]
pub struct Grant {
    credential: Arc<str>,
    surface: Surface,
    route: Arc<str>,
    authority: Authority,
    exchanges: Exchanges,
}

/// What a grant is the right to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Exchanges {
    /// The credential's own value, for its stub.
    Value,
    /// The token that was minted for the credential, for this stub of it.
    Token(Arc<str>),
    /// Tokens that were minted for the credential, for those of their stubs that the body has.
    Tokens,
}

/// Where in the request the stub stands, and the secret goes.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Surface {
    /// The one value of this header: `before`, the stub, `after`.
    Header {
        /// Name of the header.
        name: HeaderName,
        /// What stands before, such as `Bearer `.
        before: String,
        /// What stands after.
        after: String,
    },
    /// The password of HTTP Basic in `Authorization`.
    Basic {
        /// The user name that the request carries.
        username: String,
    },
    /// The one value of this query parameter; the secret is percent-encoded there.
    Query {
        /// Name of the parameter, decoded.
        name: Arc<str>,
    },
    /// A form field or JSON pointer in the body, which wasn't seen here: the stub may or may not be there.
    Body {
        /// Name of the field, or the pointer.
        name: Arc<str>,
    },
    /// The client's certificate.
    ClientCertificate,
    /// The request is signed for AWS with the stub: it is verified by the secret's stub, and signed anew.
    AwsSigV4(Box<Claim>),
}

impl Grant {
    /// Name of the credential.
    pub fn credential(&self) -> &str {
        &self.credential
    }

    /// Where the secret goes.
    pub fn surface(&self) -> &Surface {
        &self.surface
    }

    /// What it is the right to.
    pub fn exchanges(&self) -> &Exchanges {
        &self.exchanges
    }

    /// The route that grants it.
    pub fn route(&self) -> &str {
        &self.route
    }

    /// Where the request leads. The secret goes nowhere else.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }
}

impl Allowed {
    /// Whether the response is redacted.
    pub fn is_redacted(&self) -> bool {
        !self.redact.is_empty()
    }
}

impl GitUse {
    /// Whether a push may touch this ref: for each limited credential, it begins with one of its prefixes.
    pub fn allows_ref(&self, name: &str) -> bool {
        let fits = |prefixes: &Vec<String>| prefixes.iter().any(|prefix| name.starts_with(prefix.as_str()));
        !name.contains("..") && self.ref_limits.iter().all(fits)
    }
}

impl Rules {
    /// Decides about a request.
    ///
    /// Each stub in it must be the whole value, in one of the forms, of the surface of a matching route with that
    /// very credential. No stub at all is fine: git asks without one first.
    pub fn decide(&self, request: &Request<'_>) -> Result<Allowed, Denial> {
        check_host(request)?;
        let candidates = self.candidates(request);
        let tested: Vec<_> = candidates.iter().map(|route| (*route, route.test(request))).collect();
        let passed = tested.iter().filter(|(_, result)| result.is_ok());
        let matching: Vec<&CompiledRoute> = passed.map(|(route, _)| *route).collect();
        // Without a match, a stub that stands where some route of this host wants it isn't the reason of the denial.
        let judged = if matching.is_empty() { &candidates } else { &matching };
        check_single(judged, request)?;
        let held = self.held(judged, request);
        self.check_stubs(judged, &held, request)?;
        if pattern::is_forbidden(request.method.as_str()) {
            return Err(Denial::Method);
        }
        if matching.is_empty() {
            let failures = tested.iter().filter_map(|(_, result)| result.err());
            return Err(denial::of(failures.max()));
        }
        Ok(allow(request, &candidates, &matching, held))
    }

    /// The credential that a refused request wanted: the one whose stub is in a header of it.
    pub fn wanted(&self, request: &Request<'_>) -> Option<&str> {
        let sightings = place::sightings(self.stubs(), request);
        let sighting = sightings.iter().find(|it| matches!(it.place, Place::Header(_)))?;
        self.stubs().entry(sighting.stub).map(|entry| &*entry.credential)
    }

    /// Routes for host and port that see requests at all, over this kind of connection.
    pub(crate) fn candidates(&self, request: &Request<'_>) -> Vec<&CompiledRoute> {
        let tls = if request.tls { Tls::Terminate } else { Tls::Plain };
        let mut routes = self.at(request.authority);
        routes.retain(|route| route.tls == tls);
        routes
    }

    /// The stubs that stand on a surface of these routes, one entry for each route.
    fn held<'a>(&self, routes: &[&'a CompiledRoute], request: &Request<'_>) -> Vec<(&'a CompiledRoute, Held)> {
        let injecting = routes.iter().filter_map(|route| Some((*route, route.inject.as_ref()?)));
        let found = injecting.filter_map(|(route, inject)| {
            let entry = self.stubs().entry(inject.stub)?;
            let sought = Sought {
                id: inject.stub,
                stub: &entry.stub,
                minted: route.tokens == Some(Tokens::Minted),
            };
            Some((route, place::find(&inject.surface, &sought, request)?))
        });
        found.collect()
    }

    /// Refuses a stub anywhere but where it is held.
    fn check_stubs(
        &self,
        routes: &[&CompiledRoute],
        held: &[(&CompiledRoute, Held)],
        request: &Request<'_>,
    ) -> Result<(), Denial> {
        let sightings = place::sightings(self.stubs(), request);
        if let Some(problem) = aws::problem(routes, held, (self.stubs(), &sightings), request) {
            return Err(Denial::Signature(problem));
        }
        for sighting in sightings {
            let proper = |(_, held): &(&CompiledRoute, Held)| held.sightings.contains(&sighting);
            if !held.iter().any(proper) {
                return Err(self.misdirected(sighting.stub, sighting.place));
            }
        }
        Ok(())
    }

    fn misdirected(&self, stub: StubId, place: Place) -> Denial {
        let credential = self.stubs().entry(stub).map(|entry| Arc::clone(&entry.credential));
        Denial::Misdirected {
            credential: credential.unwrap_or_else(|| Arc::from("?")),
            place,
        }
    }
}

fn allow(
    request: &Request<'_>,
    candidates: &[&CompiledRoute],
    matching: &[&CompiledRoute],
    held: Vec<(&CompiledRoute, Held)>,
) -> Allowed {
    let granting: Vec<&CompiledRoute> = held.iter().map(|(route, _)| *route).collect();
    let redact = redacted(candidates, matching);
    let mints_for = mints_for(matching, &granting);
    let mut grants = grants(request.authority, held);
    if let Some(credential) = &mints_for {
        grants.extend(refreshes(request.authority, credential, matching));
    }
    Allowed {
        routes: matching.iter().map(|route| Arc::clone(&route.name)).collect(),
        grants,
        mints_for,
        range: redact.is_empty() || matching.iter().all(|route| route.range),
        redact,
        credentialed: matching.iter().any(|route| route.inject.is_some()),
        set_cookie: matching.iter().all(|route| route.inject.is_none() || route.set_cookie),
        git: git_use(request, matching, &granting),
        addresses: matching
            .iter()
            .flat_map(|route| route.addresses.iter().copied())
            .collect(),
        headers: own_headers(matching),
    }
}

/// Of two routes that set one header the more specific one's word counts.
fn own_headers(matching: &[&CompiledRoute]) -> OwnHeaders {
    let mut own = OwnHeaders::default();
    for route in matching {
        let prefixes = route.headers.drop_prefixes.iter();
        own.drop_prefixes.extend(prefixes.map(Arc::clone));
        for (name, value) in &route.headers.set {
            if !own.set.iter().any(|(known, _)| known == name) {
                own.set.push((name.clone(), value.clone()));
            }
        }
    }
    own.drop_prefixes.sort_unstable();
    own.drop_prefixes.dedup();
    own
}

/// A `Host` that names another place than the connection leads to is refused, and so are two (rows 3, 4).
fn check_host(request: &Request<'_>) -> Result<(), Denial> {
    let mut values = request.headers.get_all(HOST).iter();
    let Some(value) = values.next() else { return Ok(()) };
    if values.next().is_some() {
        return Err(Denial::Ambiguous {
            place: Place::Header(HOST),
        });
    }
    let default_port = if request.tls { 443 } else { 80 };
    let text = value.to_str().map_err(|_not_ascii| AuthorityError::Character)?;
    if request.authority.is_spelled(text, default_port) {
        return Ok(());
    }
    match Authority::from_host_header(text, default_port) {
        Ok(named) if named == *request.authority => Ok(()),
        Ok(named) => Err(Denial::Authority { named }),
        Err(error) => Err(error.into()),
    }
}

/// A header or parameter that a route exchanges, and `Authorization` where a route has a credential, has one value:
/// of two the upstream might read the other (row 21).
fn check_single(routes: &[&CompiledRoute], request: &Request<'_>) -> Result<(), Denial> {
    for inject in routes.iter().filter_map(|route| route.inject.as_ref()) {
        let place = place::of(&inject.surface);
        for place in [place, Some(Place::Header(AUTHORIZATION))].into_iter().flatten() {
            if place::count(&place, request) > 1 {
                return Err(Denial::Ambiguous { place });
            }
        }
    }
    Ok(())
}

/// One grant for each credential and surface; the routes come the most specific first. There is one certificate.
fn grants(authority: &Authority, held: Vec<(&CompiledRoute, Held)>) -> Vec<Grant> {
    let mut grants: Vec<Grant> = Vec::new();
    for (route, held) in held {
        let Some(inject) = &route.inject else { continue };
        let exchanges = held.token.map_or(Exchanges::Value, Exchanges::Token);
        let same = |grant: &Grant| {
            grant.surface == held.surface
                && grant.exchanges == exchanges
                && (grant.credential == inject.credential || held.surface == Surface::ClientCertificate)
        };
        if !grants.iter().any(same) {
            grants.push(Grant {
                credential: Arc::clone(&inject.credential),
                surface: held.surface,
                route: Arc::clone(&route.name),
                authority: authority.clone(),
                exchanges,
            });
        }
    }
    grants
}

/// A token endpoint mints for the credential that the request carries, or else for that of its most specific route.
fn mints_for(matching: &[&CompiledRoute], granting: &[&CompiledRoute]) -> Option<Arc<str>> {
    let mut routes = granting.iter().chain(matching);
    let endpoint = routes.find(|route| route.tokens == Some(Tokens::Endpoint))?;
    endpoint.inject.as_ref().map(|inject| Arc::clone(&inject.credential))
}

/// The body of a request to a token endpoint may have stubs of tokens that it gave earlier.
fn refreshes(authority: &Authority, credential: &Arc<str>, matching: &[&CompiledRoute]) -> Option<Grant> {
    let is_of = |route: &&&CompiledRoute| {
        let of = route.inject.as_ref().map(|inject| &inject.credential);
        route.tokens == Some(Tokens::Endpoint) && of == Some(credential)
    };
    Some(Grant {
        credential: Arc::clone(credential),
        surface: Surface::Body {
            name: Arc::from("refresh_token"),
        },
        route: Arc::clone(&matching.iter().find(is_of)?.name),
        authority: authority.clone(),
        exchanges: Exchanges::Tokens,
    })
}

/// A matching route's own word on its credential counts before that of the other routes for the host.
fn redacted(candidates: &[&CompiledRoute], matching: &[&CompiledRoute]) -> Vec<Arc<str>> {
    let names = |routes: &[&CompiledRoute], wanted: Option<bool>| -> Vec<Arc<str>> {
        let injects = routes
            .iter()
            .filter_map(|route| Some((route.redact, route.inject.as_ref()?)));
        let wanted = injects.filter(|(redact, _)| wanted.is_none_or(|wanted| wanted == *redact));
        wanted.map(|(_, inject)| Arc::clone(&inject.credential)).collect()
    };
    let spoken_for = names(matching, None);
    let mut redact = names(matching, Some(true));
    let others = names(candidates, Some(true));
    redact.extend(others.into_iter().filter(|name| !spoken_for.contains(name)));
    redact.sort_unstable();
    redact.dedup();
    redact
}

/// The ref limits are those of the routes that grant, or of all that match when none does.
fn git_use(request: &Request<'_>, matching: &[&CompiledRoute], granting: &[&CompiledRoute]) -> Option<GitUse> {
    matching.iter().find(|route| route.git.is_some())?;
    let call = GitCall::parse(request.method, request.path, request.query)?;
    let limiting = if granting.is_empty() { matching } else { granting };
    let credential = |route: &CompiledRoute| route.inject.as_ref().map(|inject| Arc::clone(&inject.credential));
    let mut credentials: Vec<Option<Arc<str>>> = limiting.iter().map(|route| credential(route)).collect();
    if granting.is_empty() {
        credentials = vec![None];
    }
    credentials.sort_unstable();
    credentials.dedup();
    let limits = credentials.into_iter().filter_map(|name| {
        let routes = limiting
            .iter()
            .filter(|route| name.is_none() || credential(route) == name);
        ref_limit(routes.copied())
    });
    Some(GitUse {
        repository: call.repository.to_owned(),
        step: match (call.discovery, call.push) {
            (true, _) => GitStep::Discovery,
            (false, false) => GitStep::Fetch,
            (false, true) => GitStep::Push,
        },
        ref_limits: limits.collect(),
        protected_paths: protected_paths(limiting),
        protect: protect(limiting),
    })
}

fn protected_paths(limiting: &[&CompiledRoute]) -> ProtectedPaths {
    let allows = |route: &&CompiledRoute| route.protected_paths == ProtectedPaths::Allow;
    if limiting.iter().all(allows) {
        ProtectedPaths::Allow
    } else {
        ProtectedPaths::Refuse
    }
}

fn protect(limiting: &[&CompiledRoute]) -> Vec<String> {
    let limits = limiting.iter().filter_map(|route| route.git.as_ref());
    let mut globs: Vec<String> = limits.flat_map(|git| git.protect.iter().cloned()).collect();
    globs.sort_unstable();
    globs.dedup();
    globs
}

/// The prefixes of all the routes together; none as soon as one has no limit.
fn ref_limit<'a>(routes: impl Iterator<Item = &'a CompiledRoute>) -> Option<Vec<String>> {
    let mut prefixes = Vec::new();
    for route in routes {
        let limits = route.git.as_ref().filter(|git| !git.ref_prefixes.is_empty())?;
        prefixes.extend(limits.ref_prefixes.iter().cloned());
    }
    Some(prefixes)
}
