//! Why a request may not leave: for the audit trail in full, for the agent without a word on what exists.

use std::fmt;
use std::sync::Arc;

use http::StatusCode;

use super::Place;
use crate::authority::{Authority, AuthorityError};
use crate::aws::Problem;
use crate::path::PathError;
use crate::rules::route::Failure;

/// Why a request may not leave. `Display` is for the audit trail.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Denial {
    /// Something has two values of which only one would be judged (row 21).
    Ambiguous {
        /// What.
        place: Place,
    },
    /// `Host` or `:authority` names another place than the connection leads to (rows 3, 4).
    Authority {
        /// The place it names.
        named: Authority,
    },
    /// What can't be parsed. The reason holds none of the request's text.
    Malformed(String),
    /// The host is covered, the path too, the method isn't; or it is one that is never allowed.
    Method,
    /// A stub stands where it may not be exchanged (rows 1, 2, 27). An audit row of high weight.
    Misdirected {
        /// The credential that it stands for.
        credential: Arc<str>,
        /// Where it was found.
        place: Place,
    },
    /// No route covers the host and port. The same for one that is unknown and one that is forbidden.
    NotCovered,
    /// The host is covered, the path isn't.
    Path,
    /// A push to a repository that may only be fetched from (row 26).
    ReadOnly,
    /// Signed for AWS with a stub, but not as a route grants it (row 67).
    Signature(Problem),
    /// A repository that no git route for this host names.
    Repository,
    /// The host, path and method are covered, but not an upgrade to WebSocket (row 37).
    Websocket,
}

impl Denial {
    /// Status of the answer.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Ambiguous { .. } | Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::Authority { .. } => StatusCode::MISDIRECTED_REQUEST,
            Self::Method
            | Self::Misdirected { .. }
            | Self::NotCovered
            | Self::Path
            | Self::ReadOnly
            | Self::Repository
            | Self::Signature(_)
            | Self::Websocket => StatusCode::FORBIDDEN,
        }
    }

    /// What it is, as one word for metrics and the answer's machine-readable part.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Ambiguous { .. } => "ambiguous",
            Self::Authority { .. } => "authority",
            Self::Malformed(_) => "malformed",
            Self::Method => "method",
            Self::Misdirected { .. } => "misdirected",
            Self::NotCovered => "not-covered",
            Self::Path => "path",
            Self::ReadOnly => "read-only",
            Self::Repository => "repository",
            Self::Signature(_) => "signature",
            Self::Websocket => "websocket",
        }
    }

    /// What the agent is told: nothing that its own routes don't say, and none of the request's text.
    pub fn public_reason(&self) -> &'static str {
        match self {
            Self::Ambiguous { .. } => "a header or query parameter that carries a credential has more than one value",
            Self::Authority { .. } => "the Host of the request is not where the connection leads",
            Self::Malformed(_) => "the request can't be read in one way only",
            Self::Method => "no route allows this method here",
            Self::Misdirected { .. } => "a credential's placeholder stands where it may not be used",
            Self::NotCovered => "no route allows this host and port",
            Self::Path => "no route allows this path",
            Self::ReadOnly => "pushes to this repository are not allowed",
            Self::Repository => "no route allows this repository",
            Self::Signature(problem) => problem.as_str(),
            Self::Websocket => "no route allows WebSocket here",
        }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ambiguous { place } => write!(formatter, "more than one value of {place}"),
            Self::Authority { named } => write!(formatter, "Host names {named}, where the connection doesn't lead"),
            Self::Malformed(reason) => formatter.write_str(reason),
            Self::Misdirected { credential, place } => {
                write!(
                    formatter,
                    "the stub of {credential} in {place}, where no matching route takes it"
                )
            }
            other => formatter.write_str(other.public_reason()),
        }
    }
}

impl std::error::Error for Denial {}

impl From<AuthorityError> for Denial {
    fn from(error: AuthorityError) -> Self {
        Self::Malformed(error.to_string())
    }
}

impl From<PathError> for Denial {
    fn from(error: PathError) -> Self {
        Self::Malformed(error.to_string())
    }
}

/// The denial of the route that came closest; without a route the host isn't covered.
pub(super) fn of(closest: Option<Failure>) -> Denial {
    match closest {
        None => Denial::NotCovered,
        Some(Failure::Path) => Denial::Path,
        Some(Failure::Repository) => Denial::Repository,
        Some(Failure::Method) => Denial::Method,
        Some(Failure::ReadOnly) => Denial::ReadOnly,
        Some(Failure::Websocket) => Denial::Websocket,
    }
}
