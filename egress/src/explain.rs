//! Why a request is allowed or not: the decision, and for each route the first test that it fails. For `berth explain`
//! and for people; it names hosts and paths, so it is never sent to the agent.

use std::fmt;
use std::sync::Arc;

use crate::authority::Authority;
use crate::decide::{Allowed, Denial, Request};
use crate::policy::Tls;
use crate::rules::Rules;
use crate::rules::route::{CompiledRoute, Failure};

/// The decision about a request, with its reasons.
#[derive(Debug)]
pub struct Explanation {
    /// What was asked, without query and headers: those may hold data.
    pub request: String,
    /// The decision.
    pub decision: Result<Allowed, Denial>,
    /// One step for each route, in the policy's order.
    pub steps: Vec<Step>,
}

/// How a request fares on one route.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Step {
    /// Name of the route.
    pub route: Arc<str>,
    /// How it fares.
    pub outcome: Outcome,
}

/// How a request fares on one route.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// It matches, and is the most specific that does.
    Decides,
    /// It matches too.
    Matches,
    /// The first test that it fails.
    Fails {
        /// Which.
        test: Test,
        /// What the route has there.
        wanted: String,
    },
}

/// The tests, in their order.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Test {
    /// The host.
    Host,
    /// The port.
    Port,
    /// TLS or not.
    Tls,
    /// The path.
    Path,
    /// The repository, and whether it may be pushed to.
    Git,
    /// The method.
    Method,
    /// An upgrade to WebSocket.
    Websocket,
    /// Where the stubs stand.
    Stub,
}

impl Rules {
    /// Explains the decision about a request. It looks at each route, so it is slower than the decision itself.
    pub fn explain(&self, request: &Request<'_>) -> Explanation {
        let decision = self.decide(request);
        let deciding = decision.as_ref().ok().and_then(|allowed| allowed.routes.first());
        let misdirected = matches!(decision, Err(Denial::Misdirected { .. } | Denial::Ambiguous { .. }));
        let steps = self.routes().iter().map(|route| Step {
            route: Arc::clone(&route.name),
            outcome: match first_failure(route, request) {
                Some((test, wanted)) => Outcome::Fails { test, wanted },
                None if misdirected => Outcome::Fails {
                    test: Test::Stub,
                    wanted: wanted_stub(route),
                },
                None if deciding == Some(&route.name) => Outcome::Decides,
                None => Outcome::Matches,
            },
        });
        let steps = steps.collect();
        Explanation {
            request: format!("{} {}{}", request.method, request.authority, request.path),
            decision,
            steps,
        }
    }
}

fn first_failure(route: &CompiledRoute, request: &Request<'_>) -> Option<(Test, String)> {
    let Authority { host, port } = request.authority;
    if host.is_metadata() || !route.host.matches(host) {
        return Some((Test::Host, route.host.to_string()));
    }
    if !route.ports.contains(port) {
        return Some((Test::Port, join(&route.ports)));
    }
    let tls = if request.tls { Tls::Terminate } else { Tls::Plain };
    if route.tls != tls {
        return Some((Test::Tls, format!("{:?}", route.tls)));
    }
    match route.test(request) {
        Ok(()) => None,
        Err(Failure::Path) => Some((Test::Path, join(&route.paths))),
        Err(Failure::Method) => Some((Test::Method, route.methods.to_string())),
        Err(Failure::Repository) => Some((Test::Git, join(route.git.iter().flat_map(|git| &git.repos)))),
        Err(Failure::ReadOnly) => Some((Test::Git, "Read".to_owned())),
        Err(Failure::Websocket) => Some((Test::Websocket, "no upgrade".to_owned())),
    }
}

fn wanted_stub(route: &CompiledRoute) -> String {
    match &route.inject {
        Some(inject) => format!("that of {} as {}, and no other", inject.credential, inject.surface),
        None => "none".to_owned(),
    }
}

fn join<T: fmt::Display>(items: impl IntoIterator<Item = T>) -> String {
    let words: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    words.join(", ")
}

impl fmt::Display for Explanation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "{}", self.request)?;
        match &self.decision {
            Ok(allowed) => {
                writeln!(formatter, "allowed by {}", join(&allowed.routes))?;
                for grant in &allowed.grants {
                    writeln!(formatter, "  with {} by {}", grant.credential(), grant.route())?;
                }
                for prefix in &allowed.headers.drop_prefixes {
                    writeln!(formatter, "  without the agent's {prefix}*")?;
                }
                for (name, _) in &allowed.headers.set {
                    writeln!(formatter, "  with the sidecar's own {name}")?;
                }
            }
            Err(denial) => writeln!(
                formatter,
                "denied, {} ({}): {denial}",
                denial.status().as_u16(),
                denial.code()
            )?,
        }
        for step in &self.steps {
            writeln!(formatter, "{step}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Step {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.outcome {
            Outcome::Decides => write!(formatter, "- {}: decides", self.route),
            Outcome::Matches => write!(formatter, "- {}: matches", self.route),
            Outcome::Fails { test, wanted } => write!(formatter, "- {}: fails on {test}, wants {wanted}", self.route),
        }
    }
}

impl fmt::Display for Test {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Host => "host",
            Self::Port => "port",
            Self::Tls => "tls",
            Self::Path => "path",
            Self::Git => "git",
            Self::Method => "method",
            Self::Websocket => "websocket",
            Self::Stub => "stub",
        })
    }
}
