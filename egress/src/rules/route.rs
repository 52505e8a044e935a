//! One route, compiled: patterns parsed, the surface ready to be compared.

use std::fmt;
use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use ipnet::IpNet;

use crate::decide::{Request, Upgrade};
use crate::git::{self, GitCall, GitFailure};
use crate::pattern::{HostPattern, Methods, PathPattern};
use crate::policy::{GitRoute, ProtectedPaths, Tls, Tokens};
use crate::stubs::StubId;

/// A route whose parts are all valid.
#[expect(clippy::struct_excessive_bools, reason = "as the grammar's Route")]
#[derive(Clone, Debug)]
pub(crate) struct CompiledRoute {
    pub(crate) name: Arc<str>,
    pub(crate) host: HostPattern,
    pub(crate) ports: Vec<u16>,
    pub(crate) methods: Methods,
    pub(crate) paths: Vec<PathPattern>,
    pub(crate) inject: Option<Inject>,
    pub(crate) git: Option<GitRoute>,
    pub(crate) protected_paths: ProtectedPaths,
    pub(crate) tls: Tls,
    pub(crate) websocket: bool,
    pub(crate) addresses: Vec<IpNet>,
    pub(crate) redact: bool,
    pub(crate) set_cookie: bool,
    pub(crate) range: bool,
    pub(crate) tokens: Option<Tokens>,
    pub(crate) headers: HeaderRules,
}

/// Headers that are the sidecar's own, parsed.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct HeaderRules {
    pub(crate) drop_prefixes: Vec<Arc<str>>,
    pub(crate) set: Vec<(HeaderName, HeaderValue)>,
}

/// Which credential, where.
#[derive(Clone, Debug)]
pub(crate) struct Inject {
    pub(crate) credential: Arc<str>,
    pub(crate) stub: StubId,
    pub(crate) surface: SurfaceRule,
}

/// Where in a request a stub may stand.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum SurfaceRule {
    /// What stands before and after the stub, one pair for each form.
    Header {
        name: HeaderName,
        forms: Vec<(String, String)>,
    },
    Basic {
        username: Option<String>,
    },
    Query {
        name: Arc<str>,
    },
    Body {
        name: Arc<str>,
    },
    ClientCertificate,
    AwsSigV4(AwsRule),
}

/// Which signatures are exchanged.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct AwsRule {
    pub(crate) region: String,
    pub(crate) services: Vec<String>,
    pub(crate) presigned: bool,
}

/// The first test that a request fails on a route; a later one is closer to a match.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Failure {
    Path,
    Repository,
    Method,
    ReadOnly,
    Websocket,
}

impl CompiledRoute {
    /// Tests all but host and port.
    pub(crate) fn test(&self, request: &Request<'_>) -> Result<(), Failure> {
        if !self.paths.iter().any(|pattern| pattern.matches(request.path)) {
            return Err(Failure::Path);
        }
        if let Some(limits) = &self.git {
            let call = GitCall::parse(request.method, request.path, request.query);
            git::test(limits, call).map_err(|failure| match failure {
                GitFailure::NotGit => Failure::Path,
                GitFailure::Repository => Failure::Repository,
                GitFailure::ReadOnly => Failure::ReadOnly,
            })?;
        }
        if !self.methods.contains(request.method) {
            return Err(Failure::Method);
        }
        match request.upgrade {
            Some(Upgrade::WebSocket) if !self.websocket => Err(Failure::Websocket),
            Some(Upgrade::WebSocket) | None => Ok(()),
        }
    }

    /// How narrow it is: the host counts before the path, the path before the methods.
    pub(crate) fn specificity(&self) -> impl Ord + use<> {
        let path = self.paths.iter().map(PathPattern::specificity).max();
        (
            self.host.specificity(),
            path,
            self.git.is_some(),
            self.methods != Methods::All,
        )
    }
}

impl fmt::Display for SurfaceRule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header { name, forms } => {
                let forms: Vec<String> = forms
                    .iter()
                    .map(|(before, after)| format!("{before}{{}}{after}"))
                    .collect();
                write!(formatter, "header {name}: {}", forms.join(" or "))
            }
            Self::Basic { username: None } => formatter.write_str("the password of HTTP Basic"),
            Self::Basic {
                username: Some(username),
            } => write!(formatter, "the password of HTTP Basic for {username}"),
            Self::Query { name } => write!(formatter, "query parameter {name}"),
            Self::Body { name } => write!(formatter, "{name} in the body"),
            Self::ClientCertificate => formatter.write_str("the client's certificate"),
            Self::AwsSigV4(AwsRule { region, services, .. }) => {
                write!(formatter, "an AWS signature for {} in {region}", services.join(" or "))
            }
        }
    }
}
