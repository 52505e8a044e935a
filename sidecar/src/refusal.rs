//! What the agent is told when a request isn't passed on: a status, a JSON body, and the reason in a header for programs
//! that print only the head. It names no secret, and never says whether a host is known to other sessions.

use berth_egress::authority::Authority;
use berth_egress::decide::Denial;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Response, StatusCode};

use crate::body::{Body, full};
use crate::meter::Unaffordable;

/// A request that isn't passed on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refusal {
    status: StatusCode,
    error: &'static str,
    reason: String,
    wanted: Option<Box<Wanted>>,
}

/// What a credential was wanted for, where no grant lets it be used.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Wanted {
    /// Name of the credential whose stub was sent.
    pub credential: String,
    /// Method of the request.
    pub method: String,
    /// Its path, canonical, without the query.
    pub path: String,
}

impl Refusal {
    /// Nothing covers it; the same for hosts that exist and those that don't.
    pub fn not_covered(authority: &Authority) -> Self {
        Self::denied(format!(
            "no grant allows this session to reach {authority}: add the host to a route of a CredentialBinding, or to \
             spec.egress.routes of the AgentPool"
        ))
    }

    /// By a rule.
    pub fn denied(reason: impl Into<String>) -> Self {
        Self {
            status: StatusCode::FORBIDDEN,
            error: "denied",
            reason: reason.into(),
            wanted: None,
        }
    }

    /// It can't be read, or says two things.
    pub fn bad(reason: impl Into<String>) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            error: "refused",
            reason: reason.into(),
            wanted: None,
        }
    }

    /// A part of it is malformed.
    pub fn malformed(error: &dyn std::error::Error) -> Self {
        Self::bad(error.to_string())
    }

    /// It names another host than its tunnel.
    pub fn misdirected(authority: &Authority) -> Self {
        Self {
            status: StatusCode::MISDIRECTED_REQUEST,
            error: "refused",
            reason: format!("the request names another host than its connection, which is for {authority}"),
            wanted: None,
        }
    }

    /// The upstream doesn't answer, or what it answers can't be passed on.
    pub fn upstream(reason: impl Into<String>) -> Self {
        Self {
            status: StatusCode::BAD_GATEWAY,
            error: "upstream",
            reason: reason.into(),
            wanted: None,
        }
    }

    /// It could cost more than the session may spend, or nobody knows what. OpenAI's and Anthropic's programs show a message
    /// in this place.
    pub fn unaffordable(why: &Unaffordable) -> Self {
        Self {
            status: match why {
                Unaffordable::Exhausted { .. } => StatusCode::PAYMENT_REQUIRED,
                Unaffordable::NoPrice(_) => StatusCode::FORBIDDEN,
            },
            error: BUDGET,
            reason: why.to_string(),
            wanted: None,
        }
    }

    /// The sidecar can't do it now.
    pub fn unavailable(reason: impl Into<String>) -> Self {
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            error: "unavailable",
            reason: reason.into(),
            wanted: None,
        }
    }

    /// A body that would have to be held and is larger than what may be.
    pub fn too_large(reason: impl Into<String>) -> Self {
        Self {
            status: StatusCode::PAYLOAD_TOO_LARGE,
            error: "refused",
            reason: reason.into(),
            wanted: None,
        }
    }

    /// Of a request that sent a credential's stub where it may not be used.
    #[must_use]
    pub fn wanting(self, wanted: Wanted) -> Self {
        Self {
            wanted: Some(Box::new(wanted)),
            ..self
        }
    }

    /// What would have been wanted instead.
    pub fn wanted(&self) -> Option<&Wanted> {
        self.wanted.as_deref()
    }

    /// For people and the audit trail.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// As the agent sees it.
    pub fn response(&self) -> Response<Body> {
        let body = if self.error == BUDGET {
            let error = serde_json::json!({ "type": BUDGET, "code": BUDGET, "message": self.reason });
            serde_json::json!({ "type": "error", "error": error, "reason": self.reason })
        } else {
            serde_json::json!({ "error": self.error, "reason": self.reason })
        };
        let mut response = Response::new(full(format!("{body}\n")));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Ok(reason) = HeaderValue::from_str(&self.reason) {
            headers.insert(REASON, reason);
        }
        response
    }
}

impl From<&Denial> for Refusal {
    fn from(denial: &Denial) -> Self {
        Self {
            status: denial.status(),
            error: denial.code(),
            reason: denial.public_reason().to_owned(),
            wanted: None,
        }
    }
}

const BUDGET: &str = "budget_exhausted";
/// Holds the reason.
const REASON: HeaderName = HeaderName::from_static("berth-denied");
