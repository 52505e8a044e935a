//! What went wrong, as JSON: `{"code": 403, "reason": "Forbidden", "message": "…"}`, the fields of Kubernetes' `Status`.

use axum::Json;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::watch::Name;

/// An answer that isn't what was asked for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    /// HTTP status.
    pub code: StatusCode,
    /// For programs; Kubernetes' words where it has one.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

impl Problem {
    /// A problem.
    pub fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { code, reason, message }
    }
}

impl Problem {
    /// There is no such session.
    pub fn no_session(session: &Name) -> Self {
        let message = format!("namespace {} has no AgentSession {}", session.namespace, session.name);
        Self::new(StatusCode::NOT_FOUND, "NotFound", message)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = json!({ "code": self.code.as_u16(), "reason": self.reason, "message": self.message });
        let mut response = (self.code, Json(body)).into_response();
        if self.code == StatusCode::UNAUTHORIZED {
            let bearer = HeaderValue::from_static("Bearer");
            response.headers_mut().insert("www-authenticate", bearer);
        }
        response
    }
}

/// There is no such path.
pub async fn no_route() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "NotFound", "no such path; see /openapi.json")
}

/// The path has no such method.
pub async fn no_method() -> Problem {
    let message = "the path doesn't take this method; see /openapi.json";
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message)
}
