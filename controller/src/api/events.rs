//! A session's events: as server-sent events, from the beginning or from `Last-Event-ID` on, live until the session is over;
//! or all that there is now, as JSON lines. Both tell the same rows in the same order to every reader.
//!
//! A reader is bound to the UID of the session that stood when it began: a later session of the same name is another one.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use futures::{Stream, StreamExt, stream};
use kube::ResourceExt;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Instant;

use super::Served;
use super::caller::{Caller, Deed, OfSession};
use super::problem::Problem;
use crate::context::Context;
use crate::session::plan::has_ended;
use crate::store::read::{EventRow, LOOK};
use crate::telemetry::chain;
use crate::watch::Name;

/// The query of both.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// Kinds that are wanted, with commas; all when left out.
    kinds: Option<String>,
    /// Events after this one; `Last-Event-ID` goes before.
    after: Option<String>,
    /// Whether to wait for more; true when left out.
    follow: Option<bool>,
}

/// `GET …/events`.
pub async fn follow(
    State(served): State<Served>,
    OfSession(session): OfSession,
    asked: Result<Query<Asked>, axum::extract::rejection::QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let reader = Reader::begin(&served, session, &headers, asked, EVENTS).await?;
    let told = reader.told().map(|told| {
        Ok::<_, Infallible>(match told {
            Told::Row(row) => {
                let event = Event::default().id(row.seq.to_string()).event(&row.kind);
                event.data(document(&row).to_string())
            }
            Told::End => Event::default().event("end").data("{}"),
            Told::Problem(problem) => {
                let data =
                    json!({ "code": problem.code.as_u16(), "reason": problem.reason, "message": problem.message });
                Event::default().event("problem").data(data.to_string())
            }
        })
    });
    Ok(Sse::new(told).keep_alive(KeepAlive::default()).into_response())
}

/// `GET …/transcript`.
pub async fn transcript(
    State(served): State<Served>,
    OfSession(session): OfSession,
    asked: Result<Query<Asked>, axum::extract::rejection::QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let mut reader = Reader::begin(&served, session, &headers, asked, TRANSCRIPT).await?;
    reader.follow = false;
    // A broken stream is a broken body: nobody takes a part for the whole.
    let lines = reader.told().filter_map(async |told| match told {
        Told::Row(row) => Some(Ok(format!("{}\n", document(&row)))),
        Told::End => None,
        Told::Problem(problem) => Some(Err(std::io::Error::other(problem.message))),
    });
    let kind = [("content-type", "application/x-ndjson")];
    Ok((kind, Body::from_stream(lines)).into_response())
}

/// An event as it is told.
fn document(row: &EventRow) -> Value {
    let mut document = json!({
        "id": row.seq, "incarnation": row.incarnation, "number": row.number, "kind": row.kind, "at": row.at,
    });
    if let Some(stream) = row.stream {
        document["stream"] = stream.into();
    }
    if let Some(output) = &row.output {
        // A piece may end within a character.
        match std::str::from_utf8(output) {
            Ok(text) => document["text"] = text.into(),
            Err(_) => document["base64"] = BASE64_STANDARD.encode(output).into(),
        }
    }
    if let Some(data) = &row.data {
        document["data"] = data.clone();
    }
    document
}

/// What a reader is told.
enum Told {
    Row(EventRow),
    /// The session is over, and this was all.
    End,
    /// It can't go on.
    Problem(Problem),
}

struct Reader {
    context: Arc<Context>,
    caller: Caller,
    deed: Deed,
    session: Name,
    uid: String,
    kinds: Vec<String>,
    after: i64,
    follow: bool,
    rows: VecDeque<EventRow>,
    commits: watch::Receiver<()>,
    /// How much of the session Postgres held at the last look.
    stored: (i64, i64),
    reviewed: Instant,
    over: bool,
    _place: OwnedSemaphorePermit,
}

impl Reader {
    async fn begin(
        served: &Served,
        session: Name,
        headers: &HeaderMap,
        asked: Result<Query<Asked>, axum::extract::rejection::QueryRejection>,
        deed: Deed,
    ) -> Result<Self, Problem> {
        let context = served.context()?;
        let caller = Caller::of(&context.client, headers).await?;
        caller.may(&context.client, deed, &session).await?;
        let invalid = |message: String| Problem::new(StatusCode::BAD_REQUEST, "BadRequest", message);
        let Query(asked) = asked.map_err(|error| invalid(error.body_text()))?;
        let read = |id: &str| {
            let digits = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit());
            let number: Option<i64> = id.parse().ok().filter(|_| digits);
            number.ok_or_else(|| invalid(format!("{id:?} is no event's id")))
        };
        let last = headers.get("last-event-id");
        let last = last.map(|last| read(last.to_str().unwrap_or_default())).transpose()?;
        let after = asked.after.as_deref().map(read).transpose()?;
        let after = last.or(after).unwrap_or(0);
        let uid = context.caches.session(&session).and_then(|session| session.uid());
        let uid = uid.ok_or_else(|| Problem::no_session(&session))?;
        let busy = |_error| {
            let message = "too many readers; try again later";
            Problem::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", message)
        };
        let kinds = asked.kinds.unwrap_or_default();
        let kinds = kinds.split(',').map(str::trim).filter(|kind| !kind.is_empty());
        Ok(Self {
            _place: Arc::clone(&served.readers).try_acquire_owned().map_err(busy)?,
            commits: context.projection_commits(),
            kinds: kinds.map(str::to_owned).collect(),
            follow: asked.follow.unwrap_or(true),
            rows: VecDeque::new(),
            stored: (0, 0),
            reviewed: Instant::now(),
            over: false,
            context,
            caller,
            deed,
            session,
            uid,
            after,
        })
    }

    fn told(self) -> impl Stream<Item = Told> {
        stream::unfold(Some(self), async |reader| {
            let mut reader = reader?;
            let told = reader.next().await;
            let goes_on = matches!(told, Told::Row(_));
            Some((told, goes_on.then_some(reader)))
        })
    }

    async fn next(&mut self) -> Told {
        loop {
            if let Some(row) = self.rows.pop_front() {
                self.after = row.seq;
                return Told::Row(row);
            }
            if let Err(problem) = self.review().await {
                return Told::Problem(problem);
            }
            self.commits.mark_unchanged();
            self.stored = self.context.runs.stored(&self.uid);
            let was_over = self.over;
            self.over = self.is_over();
            match self.context.reader.events(&self.uid, self.after, &self.kinds).await {
                Err(error) => {
                    tracing::warn!(error = chain(&error), "events aren't read");
                    let message = "the database doesn't answer; go on from the last id";
                    return Told::Problem(Problem::new(
                        StatusCode::SERVICE_UNAVAILABLE,
                        "StoreUnavailable",
                        message,
                    ));
                }
                Ok(rows) if rows.is_empty() => {
                    // Seen to be over before the last look: nothing came in between.
                    if !self.follow || was_over {
                        return Told::End;
                    }
                    if !self.over {
                        self.wait().await;
                    }
                }
                Ok(rows) => self.rows = rows.into(),
            }
        }
    }

    async fn review(&mut self) -> Result<(), Problem> {
        if self.reviewed.elapsed() < REVIEW {
            return Ok(());
        }
        self.reviewed = Instant::now();
        self.caller
            .still_may(&self.context.client, self.deed, &self.session)
            .await
    }

    /// The session is gone, or another one by now, or has ended with all of its events stored.
    fn is_over(&self) -> bool {
        let session = self.context.caches.session(&self.session);
        let Some(session) = session.filter(|session| session.uid().as_ref() == Some(&self.uid)) else {
            return true;
        };
        let status = session.status.clone().unwrap_or_default();
        let ended = has_ended(&status) && status.run_id == session.spec.task.run_id;
        ended && self.context.runs.facts(&self.uid, status.incarnation).durable
    }

    /// Until Postgres holds more of this session, or the session is over.
    async fn wait(&mut self) {
        let ours = async {
            while self.commits.changed().await.is_ok() {
                if self.context.runs.stored(&self.uid) != self.stored || self.is_over() {
                    return;
                }
            }
        };
        drop(tokio::time::timeout(LOOK, ours).await);
    }
}

const EVENTS: Deed = Deed {
    verb: "get",
    subresource: "events",
};
const TRANSCRIPT: Deed = Deed {
    verb: "get",
    subresource: "transcript",
};
/// DESIGN §11: a right that is taken away ends an open stream.
const REVIEW: Duration = Duration::from_mins(1);
