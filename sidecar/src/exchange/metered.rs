//! A request to a model, for a session with a budget: held, priced and reserved before it is judged again and sent.

use std::sync::Arc;

use berth_protocol::money::Pico;
use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body as _, Incoming};
use serde_json::Value;

use super::judge;
use crate::body::Body;
use crate::meter::usage::Reader;
use crate::meter::{Reservation, Unaffordable};
use crate::proxy::Proxy;
use crate::refusal::Refusal;
use crate::tunnel::Tunnel;

/// A request as it goes on.
pub enum Counted {
    /// No counted credential is used.
    No(Request<Incoming>),
    /// It is held, and what it may cost is reserved: nothing where nothing is asked for.
    Yes(Request<Full<Bytes>>, Option<Reservation>),
}

/// Reserves what a request may cost.
pub async fn begin(proxy: &Arc<Proxy>, tunnel: &Tunnel, request: Request<Incoming>) -> Result<Counted, Refusal> {
    let snapshot = proxy.vault.snapshot_full();
    let allowed = judge::judge(&snapshot.rules, tunnel, &request)?.allowed;
    if !allowed
        .grants
        .iter()
        .any(|grant| proxy.meter.counts(grant.credential()))
    {
        return Ok(Counted::No(request));
    }
    let (mut parts, body) = request.into_parts();
    let too_large = || Refusal::too_large("a request that counts against a budget may have 8 MiB");
    let most = body.size_hint().upper().unwrap_or(BODY_MAX);
    let most = Some(most).filter(|most| *most <= BODY_MAX).ok_or_else(too_large)?;
    let room = Arc::clone(&proxy.held).acquire_many_owned(kibibytes(most)).await;
    let room = room.map_err(|_closed| Refusal::unavailable("the sidecar stops"))?;
    let held = Limited::new(body, usize::try_from(most).unwrap_or(usize::MAX))
        .collect()
        .await;
    let held = held.map_err(|_too_large| too_large())?;
    let body: Bytes = held.to_bytes();
    if body.is_empty() {
        return Ok(Counted::Yes(Request::from_parts(parts, Full::new(body)), None)); // lists of models, and the like
    }
    if parts.headers.contains_key(CONTENT_ENCODING) {
        return Err(Refusal::bad(
            "a request that counts against a budget can't be compressed",
        ));
    }
    let asked: Value = serde_json::from_slice(&body).unwrap_or_default();
    let Some(model) = asked.get("model").and_then(Value::as_str) else {
        return Err(Refusal::bad(
            "a request that counts against a budget has to name its model in JSON",
        ));
    };
    let length = u64::try_from(body.len()).unwrap_or(u64::MAX);
    let reserved = proxy.meter.reserve(model, length, answer_max(&asked));
    let reserved = reserved.map_err(|why| {
        if let Unaffordable::Exhausted { limit, .. } = why
            && proxy.meter.is_news(limit)
        {
            proxy.audit.exhausted(limit);
        }
        Refusal::unaffordable(&why)
    });
    let mut reserved = reserved?;
    reserved.holds(room);
    // What is compressed says nothing here.
    parts
        .headers
        .insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    Ok(Counted::Yes(
        Request::from_parts(parts, Full::new(body)),
        Some(reserved),
    ))
}

fn kibibytes(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(1 << 10)).unwrap_or(u32::MAX).max(1)
}

/// The most tokens that it asks for, over all of its answers.
fn answer_max(asked: &Value) -> Option<u64> {
    let named = ["max_completion_tokens", "max_output_tokens", "max_tokens"];
    let most = named.iter().filter_map(|name| asked.get(*name)?.as_u64()).max()?;
    let answers = asked.get("n").and_then(Value::as_u64).unwrap_or(1).max(1);
    Some(most.saturating_mul(answers))
}

/// The answer begins.
pub fn answered(reservation: &mut Reservation, response: &Response<Body>) {
    let headers = response.headers();
    let plain = !headers.contains_key(CONTENT_ENCODING);
    let media = text(headers, CONTENT_TYPE.as_str()).filter(|_| plain);
    let said = text(headers, COST).and_then(|cost| Pico::from_dollars(cost.trim().parse().ok()?));
    // Streams have it before they are over.
    let streams = media.is_some_and(|media| media.starts_with("text/event-stream"));
    reservation.answered(media.and_then(Reader::of), said.filter(|said| !streams && said.0 > 0));
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// What LiteLLM says that an answer has cost, in dollars.
const COST: &str = "x-litellm-response-cost";
/// A long conversation with pictures.
const BODY_MAX: u64 = 8 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_that_is_asked_for_counts() {
        let most = |text: &str| answer_max(&serde_json::from_str(text).unwrap());
        assert_eq!(most(r#"{"max_tokens": 100}"#), Some(100));
        assert_eq!(most(r#"{"max_completion_tokens": 100, "n": 3}"#), Some(300));
        assert_eq!(most(r#"{"max_tokens": 1, "max_output_tokens": 200}"#), Some(200));
        assert_eq!(most(r#"{"max_tokens": -5}"#), None);
        assert_eq!(most("{}"), None);
    }
}
