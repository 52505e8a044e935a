//! Table `session_event`: what happened in sessions, exactly once by (session, incarnation, the sidecar's number).

use berth_protocol::control::{Event, event};
use berth_protocol::told::Told;
use jiff::Timestamp;
use serde_json::json;
use sqlx::PgConnection;

use super::session::clean;

/// An event to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct NewEvent {
    /// The sidecar's number for it.
    pub number: i64,
    /// What kind it is.
    pub kind: &'static str,
    /// Output: which stream.
    pub stream: Option<i16>,
    /// Output: the bytes.
    pub output: Option<Vec<u8>>,
    /// Every other kind: its fields, JSON.
    pub data: Option<String>,
    /// When it happened, by the pod's clock, RFC 3339.
    pub at: String,
}

impl NewEvent {
    /// The event as it arrived; `None` without a kind or with a number beyond reason.
    pub fn from_wire(event: Event, now: Timestamp) -> Option<Self> {
        let at = Timestamp::from_millisecond(event.at_unix_ms).unwrap_or(now).to_string();
        let number = i64::try_from(event.client_seq).ok().filter(|number| *number > 0)?;
        let told = |kind, data: serde_json::Value| {
            // A NUL is legal in JSON and not in jsonb.
            let data = data.to_string().replace("\\u0000", "\\ufffd");
            Self {
                number,
                kind,
                stream: None,
                output: None,
                data: Some(data),
                at: at.clone(),
            }
        };
        Some(match event.kind? {
            event::Kind::Output(output) => Self {
                number,
                kind: "output",
                stream: i16::try_from(output.stream).ok(),
                output: Some(output.data),
                data: None,
                at: at.clone(),
            },
            event::Kind::Started(started) => told("started", json!({ "command": started.command })),
            event::Kind::Exited(exited) => told(
                "exited",
                json!({ "code": exited.code, "summary": exited.summary, "error": exited.error }),
            ),
            event::Kind::Gap(gap) => told("gap", json!({ "events": gap.events, "bytes": gap.bytes })),
            event::Kind::Violation(what) => told("violation", json!({ "what": clean(&what) })),
            event::Kind::Said(said) => {
                let Ok(what) = serde_json::from_slice::<Told>(&said.told) else {
                    return Some(told(
                        "violation",
                        json!({ "what": "the harness told what can't be read" }),
                    ));
                };
                let what = what.cut();
                told(
                    "said",
                    json!({ "told": what, "offset": said.offset, "length": said.length }),
                )
            }
            event::Kind::Restored(restored) => told(
                "restored",
                json!({
                    "incarnation": restored.incarnation, "number": restored.number, "sha256": hex::encode(restored.digest),
                }),
            ),
            event::Kind::Denied(count) => told("denied", json!({ "count": count })),
        })
    }
}

/// An event of a session's incarnation.
#[derive(Clone, Debug)]
pub(super) struct Placed {
    pub(super) session_uid: String,
    pub(super) incarnation: i64,
    pub(super) event: NewEvent,
}

/// Writes a batch; what is there already stays.
pub(super) async fn put(connection: &mut PgConnection, batch: &[Placed]) -> Result<(), sqlx::Error> {
    let of = |event: fn(&Placed) -> i64| batch.iter().map(event).collect::<Vec<i64>>();
    let sessions: Vec<&str> = batch.iter().map(|placed| placed.session_uid.as_str()).collect();
    let kinds: Vec<&str> = batch.iter().map(|placed| placed.event.kind).collect();
    let streams: Vec<Option<i16>> = batch.iter().map(|placed| placed.event.stream).collect();
    let outputs: Vec<Option<&[u8]>> = batch.iter().map(|placed| placed.event.output.as_deref()).collect();
    let data: Vec<Option<&str>> = batch.iter().map(|placed| placed.event.data.as_deref()).collect();
    let times: Vec<&str> = batch.iter().map(|placed| placed.event.at.as_str()).collect();
    sqlx::query(
        r"
        insert into session_event (session_uid, incarnation, client_seq, kind, stream, output, data, at)
        select session_uid, incarnation, client_seq, kind, stream, output, data::jsonb, at::timestamptz
        from unnest($1::text[], $2::int8[], $3::int8[], $4::text[], $5::int2[], $6::bytea[], $7::text[], $8::text[])
            as new (session_uid, incarnation, client_seq, kind, stream, output, data, at)
        on conflict do nothing
        ",
    )
    .bind(&sessions)
    .bind(of(|placed| placed.incarnation))
    .bind(of(|placed| placed.event.number))
    .bind(&kinds)
    .bind(&streams)
    .bind(&outputs)
    .bind(&data)
    .bind(&times)
    .execute(connection)
    .await?;
    Ok(())
}
