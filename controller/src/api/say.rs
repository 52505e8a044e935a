//! What people tell a session: messages, which its harness is given one after the other, and aborts, which end what it does
//! now. A message that was accepted is in Postgres before the answer says so.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::{HeaderMap, StatusCode};
use berth_crds::{AgentSession, TaskMode};
use berth_protocol::handoff::INPUT_MAX;
use kube::ResourceExt;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Served;
use super::caller::{Caller, Deed, OfSession};
use super::problem::Problem;
use crate::context::Context;
use crate::control::feed;
use crate::session::plan::has_ended;
use crate::store::input::{NewInput, NotAccepted};
use crate::telemetry::chain;
use crate::watch::Name;

/// The body of a message.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    text: String,
}

/// `POST …/messages`.
pub async fn message(
    State(served): State<Served>,
    OfSession(name): OfSession,
    headers: HeaderMap,
    body: Result<Json<Message>, JsonRejection>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let (context, caller, session) = begin(&served, &headers, &name, MESSAGES).await?;
    let Json(Message { text }) = body.map_err(|error| invalid(error.body_text()))?;
    if text.trim().is_empty() || text.len() > INPUT_MAX {
        return Err(invalid(format!("text has 1 to {INPUT_MAX} bytes")));
    }
    let key = headers
        .get("idempotency-key")
        .map(|key| key.to_str().unwrap_or_default());
    if key.is_some_and(|key| key.is_empty() || key.len() > KEY_MAX || key.contains(' ')) {
        let message = format!("Idempotency-Key has 1 to {KEY_MAX} visible ASCII characters");
        return Err(invalid(message));
    }
    let uid = session.uid().unwrap_or_default();
    let new = NewInput {
        session_uid: &uid,
        text: &text,
        author: caller.name(),
        key,
    };
    let number = context.inputs.accept(new).await.map_err(|error| match error {
        NotAccepted::Full => {
            let message = format!("{error}; wait until the session has worked through some");
            Problem::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", message)
        }
        NotAccepted::Store(error) => {
            tracing::warn!(error = chain(&error), "a message isn't accepted");
            let message = "the database doesn't answer, so the message isn't accepted; send it again";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "StoreUnavailable", message)
        }
    })?;
    feed::said(&context, &name, &uid);
    Ok((StatusCode::ACCEPTED, Json(json!({ "number": number }))))
}

/// `POST …/abort`.
pub async fn abort(
    State(served): State<Served>,
    OfSession(name): OfSession,
    headers: HeaderMap,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let (context, caller, session) = begin(&served, &headers, &name, ABORT).await?;
    if !feed::abort(&context, &session.uid().unwrap_or_default()) {
        let message = "no pod serves the session now; try again";
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "NoSandbox", message));
    }
    tracing::info!(
        session.namespace = name.namespace,
        session.name = name.name,
        user = caller.name(),
        "turn aborted"
    );
    Ok((StatusCode::ACCEPTED, Json(json!({}))))
}

/// Only an interactive session that isn't over can be told something.
async fn begin(
    served: &Served,
    headers: &HeaderMap,
    name: &Name,
    deed: Deed,
) -> Result<(Arc<Context>, Caller, Arc<AgentSession>), Problem> {
    let context = served.context()?;
    let caller = Caller::of(&context.client, headers).await?;
    caller.may(&context.client, deed, name).await?;
    let session = context.caches.session(name).ok_or_else(|| Problem::no_session(name))?;
    let conflict = |message: &str| Problem::new(StatusCode::CONFLICT, "Conflict", message);
    if session.spec.task.mode != Some(TaskMode::Interactive) {
        return Err(conflict(
            "the session runs to completion: spec.task.mode isn't Interactive",
        ));
    }
    if session.status.as_ref().is_some_and(has_ended) {
        return Err(conflict("the session has ended"));
    }
    Ok((context, caller, session))
}

fn invalid(message: String) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "BadRequest", message)
}

const MESSAGES: Deed = Deed {
    verb: "create",
    subresource: "messages",
};
const ABORT: Deed = Deed {
    verb: "create",
    subresource: "abort",
};
/// A UUID, or a forge's delivery.
const KEY_MAX: usize = 128;
