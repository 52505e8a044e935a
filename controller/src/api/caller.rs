//! Who calls, and whether they may. Kubernetes decides both: TokenReview and SubjectAccessReview; nothing is cached.

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::Client;
use kube::api::{Api, PostParams};

use super::problem::Problem;
use crate::telemetry::chain;
use crate::watch::Name;

/// Somebody whose token was reviewed.
#[derive(Clone, Debug)]
pub struct Caller {
    user: UserInfo,
    token: String,
}

/// What is asked for: a verb on a subresource of AgentSession.
#[derive(Clone, Copy, Debug)]
pub struct Deed {
    /// Such as `get`.
    pub verb: &'static str,
    /// Such as `events`.
    pub subresource: &'static str,
}

/// The session that a path names.
#[derive(Clone, Debug)]
pub struct OfSession(pub Name);

impl<S: Send + Sync> FromRequestParts<S> for OfSession {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::<(String, String)>::from_request_parts(parts, state).await;
        let Path((namespace, name)) =
            path.map_err(|error| Problem::new(StatusCode::BAD_REQUEST, "BadRequest", error.body_text()))?;
        Ok(Self(Name { namespace, name }))
    }
}

impl Caller {
    /// Whose token the request shows.
    pub async fn of(client: &Client, headers: &HeaderMap) -> Result<Self, Problem> {
        let header = headers
            .get("authorization")
            .and_then(|header| header.to_str().ok())
            .and_then(|header| header.strip_prefix("Bearer "))
            .filter(|token| token.len() <= TOKEN_MAX);
        let token = header.ok_or_else(|| unauthorized("a bearer token is needed"))?;
        let user = review(client, token).await?;
        let token = token.to_owned();
        Ok(Self { user, token })
    }

    /// Their name, as Kubernetes has it.
    pub fn name(&self) -> &str {
        self.user.username.as_deref().unwrap_or_default()
    }

    /// Whether they may do this to a session.
    pub async fn may(&self, client: &Client, deed: Deed, session: &Name) -> Result<(), Problem> {
        let attributes = ResourceAttributes {
            group: Some("berth.dev".to_owned()),
            version: Some("v1alpha1".to_owned()),
            resource: Some("agentsessions".to_owned()),
            subresource: Some(deed.subresource.to_owned()),
            verb: Some(deed.verb.to_owned()),
            namespace: Some(session.namespace.clone()),
            name: Some(session.name.clone()),
            ..ResourceAttributes::default()
        };
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: self.user.username.clone(),
                groups: self.user.groups.clone(),
                uid: self.user.uid.clone(),
                extra: self.user.extra.clone(),
                resource_attributes: Some(attributes),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let reviews: Api<SubjectAccessReview> = Api::all(client.clone());
        let answer = reviews
            .create(&PostParams::default(), &review)
            .await
            .map_err(|error| unavailable(&error))?;
        if answer.status.is_some_and(|status| status.allowed) {
            return Ok(());
        }
        let user = self.name();
        let Deed { verb, subresource } = deed;
        let Name { namespace, name } = session;
        let message = format!("{user} may not {verb} agentsessions/{subresource} of {name} in namespace {namespace}");
        Err(Problem::new(StatusCode::FORBIDDEN, "Forbidden", message))
    }

    /// The same again, for a stream that is open: the token still holds and its user still may.
    pub async fn still_may(&self, client: &Client, deed: Deed, session: &Name) -> Result<(), Problem> {
        review(client, &self.token).await?;
        self.may(client, deed, session).await
    }
}

async fn review(client: &Client, token: &str) -> Result<UserInfo, Problem> {
    let review = TokenReview {
        spec: TokenReviewSpec {
            audiences: Some(vec![AUDIENCE.to_owned()]),
            token: Some(token.to_owned()),
        },
        ..TokenReview::default()
    };
    let reviews: Api<TokenReview> = Api::all(client.clone());
    let answer = reviews
        .create(&PostParams::default(), &review)
        .await
        .map_err(|error| unavailable(&error))?;
    let status = answer.status.unwrap_or_default();
    let for_us = status
        .audiences
        .is_some_and(|all| all.iter().any(|audience| audience == AUDIENCE));
    if status.authenticated != Some(true) || !for_us {
        let message =
            format!("not a valid token of audience {AUDIENCE}: kubectl create token NAME --audience {AUDIENCE}");
        return Err(unauthorized(message));
    }
    Ok(status.user.unwrap_or_default())
}

fn unauthorized(message: impl Into<String>) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, "Unauthorized", message)
}

fn unavailable(error: &kube::Error) -> Problem {
    tracing::warn!(error = chain(error), "a caller isn't reviewed");
    let message = "the API server couldn't be asked; try again";
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", message)
}

/// DESIGN §11: a sidecar's token is of another audience, and refused here.
const AUDIENCE: &str = "berth-api";
/// A ServiceAccount's token is about 1 KiB; identity providers' have groups in them.
const TOKEN_MAX: usize = 16 << 10;
