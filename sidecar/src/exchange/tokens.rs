//! An OAuth 2.0 flow that the agent runs itself (research/vault-proxy.md §2.1, row 36). What a token endpoint gives stays
//! here: the agent finds a stub in the place of each token, and a stub of a refresh token that it sends is exchanged back.
//!
//! An answer that can't be read whole isn't passed on, whatever its status. Known to be missed: a token under another
//! name than those of [`is_token`].

use std::time::Duration;

use berth_egress::decide::{Exchanges, Grant};
use berth_egress::tokens;
use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, HeaderMap, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};
use tokio::time::timeout;

use super::watch::{Cuts, GrantEnded};
use super::{Plan, media};
use crate::body::{Body, full};
use crate::refusal::Refusal;
use crate::substitute;
use crate::vault::minted::NewToken;
use crate::vault::{Snapshot, Vault};

/// Whether a grant is for tokens in the body.
pub(super) fn is_of(grant: &Grant) -> bool {
    *grant.exchanges() == Exchanges::Tokens
}

/// Puts tokens in the place of their stubs in a request to a token endpoint.
pub(super) fn into_body(
    snapshot: &Snapshot,
    grant: &Grant,
    headers: &HeaderMap,
    mut body: Bytes,
) -> Result<Bytes, Refusal> {
    let (media, stub) = (media(headers), snapshot.stub(grant.credential()));
    for field in SENT {
        let Some(found) = substitute::field(field, media, &body).filter(|found| tokens::is_stub_of(found, stub)) else {
            continue;
        };
        let token = snapshot.token(grant, &found);
        let token = token.map_err(|lapsed| Refusal::denied(lapsed.to_string()))?;
        let name = if substitute::is_json(media) {
            format!("/{field}")
        } else {
            field.to_owned()
        };
        let exchanged = substitute::into_body(&name, &found, token, media, &body);
        body = exchanged.map_err(|error| Refusal::denied(error.to_string()))?;
    }
    Ok(body)
}

/// An answer of a token endpoint, with stubs in the place of its tokens.
pub(super) async fn for_agent(plan: &Plan<'_>, response: Response<Body>) -> Result<Response<Body>, Refusal> {
    let Some(credential) = &plan.judged.allowed.mints_for else {
        return Ok(response);
    };
    let (mut head, body) = response.into_parts();
    if head.status.is_redirection() {
        return Err(Refusal::upstream(
            "the token endpoint answers with a redirect, which could hold tokens",
        ));
    }
    if head.headers.contains_key(CONTENT_ENCODING) {
        return Err(Refusal::upstream(
            "the token endpoint's answer is compressed though it was asked not to be",
        ));
    }
    let body = whole(body, &plan.standing.cuts).await?;
    let body = if body.trim_ascii().is_empty() {
        body
    } else {
        rewritten(
            &plan.proxy.vault,
            credential,
            (head.status, media(&head.headers)),
            &body,
        )?
    };
    head.headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    Ok(Response::from_parts(head, full(body)))
}

/// An answer's body, read within bounds.
async fn whole(mut body: Body, cuts: &Cuts) -> Result<Bytes, Refusal> {
    let mut read = BytesMut::new();
    let reading = async {
        while let Some(frame) = body.frame().await {
            let broke = |_fault| Refusal::upstream("the token endpoint's answer broke");
            let Ok(data) = frame.map_err(broke)?.into_data() else {
                continue;
            };
            if read.len() + data.len() > ANSWER_MAX {
                return Err(Refusal::upstream("the token endpoint's answer has more than 64 KiB"));
            }
            read.extend_from_slice(&data);
        }
        Ok(())
    };
    tokio::select! {
        ended = timeout(TIME, reading) => {
            ended.map_err(|_elapsed| Refusal::upstream("the token endpoint's answer took too long"))??;
        }
        () = cuts.cut() => return Err(Refusal::denied(GrantEnded.to_string())),
    }
    Ok(read.freeze())
}

fn rewritten(
    vault: &Vault,
    credential: &str,
    (status, media): (StatusCode, &str),
    body: &[u8],
) -> Result<Bytes, Refusal> {
    let mut answer = Answer::read(media, body).ok_or_else(|| {
        Refusal::upstream(format!(
            "the token endpoint answers {} with something else than JSON or a form, which can't be read",
            status.as_u16()
        ))
    })?;
    let mut new = Vec::new();
    let odd = || Refusal::upstream("the token endpoint's answer holds a token that isn't text");
    answer
        .each(&mut |token, lasts| new.push(NewToken { secret: token, lasts }))
        .ok_or_else(odd)?;
    if new.is_empty() {
        return Ok(answer.written());
    }
    let stubs = vault.mint(credential, new);
    let stubs = stubs.map_err(|error| Refusal::upstream(crate::chain(&error)))?;
    answer.replace(&mut stubs.into_iter());
    Ok(answer.written())
}

/// What a token endpoint says.
enum Answer {
    Json(Value),
    Form(Vec<(String, String)>),
}

impl Answer {
    /// JSON is told by itself: some servers call it text. Text alone, in JSON's quotes too, could be a token.
    fn read(media: &str, body: &[u8]) -> Option<Self> {
        match serde_json::from_slice(body) {
            Ok(json @ (Value::Object(_) | Value::Array(_))) => return Some(Self::Json(json)),
            Ok(_scalar) => return None,
            Err(_other) => {}
        }
        if !substitute::is_form(media) {
            return None;
        }
        let text = std::str::from_utf8(body).ok()?;
        let pairs = text.trim().split('&').map(|pair| {
            let (name, value) = pair.split_once('=')?;
            Some((decoded(name)?, decoded(value)?))
        });
        pairs.collect::<Option<_>>().map(Self::Form)
    }

    /// Gives each token and how long it lasts; nothing when one is no text.
    fn each(&self, take: &mut dyn FnMut(SecretString, Option<Duration>)) -> Option<()> {
        match self {
            Self::Json(json) => each_of(json, take),
            Self::Form(pairs) => {
                let lasts = pairs.iter().find(|(name, _)| name == "expires_in");
                let lasts = lasts.and_then(|(_, text)| text.parse().ok()).map(Duration::from_secs);
                for (name, value) in pairs.iter().filter(|(name, value)| is_token(name) && !value.is_empty()) {
                    take(SecretString::from(value.as_str()), lasts.filter(|_| !is_refresh(name)));
                }
                Some(())
            }
        }
    }

    /// Puts a stub in the place of each token, in the same order.
    fn replace(&mut self, stubs: &mut dyn Iterator<Item = String>) {
        match self {
            Self::Json(json) => replace_in(json, stubs),
            Self::Form(pairs) => {
                for (_, value) in pairs
                    .iter_mut()
                    .filter(|(name, value)| is_token(name) && !value.is_empty())
                {
                    *value = stubs.next().unwrap_or_default();
                }
            }
        }
    }

    fn written(&self) -> Bytes {
        match self {
            Self::Json(json) => Bytes::from(json.to_string()),
            Self::Form(pairs) => {
                let pairs = pairs.iter().map(|(name, value)| {
                    let value = SecretString::from(value.as_str());
                    format!(
                        "{}={}",
                        substitute::encoded(name),
                        substitute::encoded(value.expose_secret())
                    )
                });
                Bytes::from(pairs.collect::<Vec<_>>().join("&"))
            }
        }
    }
}

fn each_of(json: &Value, take: &mut dyn FnMut(SecretString, Option<Duration>)) -> Option<()> {
    match json {
        Value::Object(members) => {
            let lasts = lasts(members);
            members.iter().try_for_each(|(name, value)| match value {
                Value::String(token) if is_token(name) && !token.is_empty() => {
                    take(SecretString::from(token.as_str()), lasts.filter(|_| !is_refresh(name)));
                    Some(())
                }
                Value::String(_) | Value::Null => Some(()),
                _ if is_token(name) => None,
                other => each_of(other, take),
            })
        }
        Value::Array(items) => items.iter().try_for_each(|item| each_of(item, take)),
        _ => Some(()),
    }
}

fn replace_in(json: &mut Value, stubs: &mut dyn Iterator<Item = String>) {
    match json {
        Value::Object(members) => {
            for (name, value) in members.iter_mut() {
                match value {
                    Value::String(token) if is_token(name) && !token.is_empty() => {
                        *token = stubs.next().unwrap_or_default();
                    }
                    other => replace_in(other, stubs),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| replace_in(item, stubs)),
        _ => {}
    }
}

fn lasts(members: &Map<String, Value>) -> Option<Duration> {
    let said = members.get("expires_in")?;
    let seconds = said.as_u64().or_else(|| said.as_str()?.parse().ok());
    seconds.map(Duration::from_secs)
}

/// `access_token`, `refresh_token` and `id_token` of RFC 6749 and OpenID Connect, `token` of registries; `accessToken` and
/// such as well.
fn is_token(name: &str) -> bool {
    let plain: String = name.chars().filter(|letter| !matches!(letter, '_' | '-')).collect();
    ["accesstoken", "idtoken", "refreshtoken", "token"].contains(&plain.to_ascii_lowercase().as_str())
}

fn is_refresh(name: &str) -> bool {
    name.to_ascii_lowercase().starts_with("refresh")
}

fn decoded(text: &str) -> Option<String> {
    let text = text.replace('+', " ");
    percent_decode_str(&text)
        .decode_utf8()
        .ok()
        .map(std::borrow::Cow::into_owned)
}

/// Fields of requests that hold tokens: RFC 6749 §6, RFC 7009 §2.1.
const SENT: [&str; 2] = ["refresh_token", "token"];
/// Answers of token endpoints have a few KiB.
const ANSWER_MAX: usize = 64 << 10;
/// From the head of an answer to its end.
const TIME: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::*;

    fn rewrite(media: &str, body: &str) -> Option<(Vec<String>, String)> {
        let mut answer = Answer::read(media, body.as_bytes())?;
        let mut found = Vec::new();
        answer.each(&mut |token, lasts| {
            found.push(format!(
                "{} {:?}",
                token.expose_secret(),
                lasts.map(|lasts| lasts.as_secs())
            ));
        })?;
        let mut stubs = (1..).map(|number| format!("stub-{number}"));
        answer.replace(&mut stubs);
        Some((found, String::from_utf8(answer.written().to_vec()).unwrap()))
    }

    #[test]
    fn tokens_are_found_at_any_depth_and_replaced_in_order() {
        let json =
            r#"{"access_token":"A","expires_in":60,"id_token":"I","refresh_token":"R","user":{"accessToken":"B"}}"#;
        let (found, written) = rewrite("application/json", json).unwrap();
        assert_eq!(found, ["A Some(60)", "I Some(60)", "R None", "B None"]);
        assert_eq!(
            written,
            r#"{"access_token":"stub-1","expires_in":60,"id_token":"stub-2","refresh_token":"stub-3","user":{"accessToken":"stub-4"}}"#
        );
        let (found, written) = rewrite(
            "application/x-www-form-urlencoded",
            "access_token=A%2B&scope=a+b&expires_in=60",
        )
        .unwrap();
        assert_eq!(found, ["A+ Some(60)"]);
        assert_eq!(written, "access_token=stub-1&scope=a%20b&expires_in=60");
        assert_eq!(
            rewrite("text/plain", r#"{"error":"invalid_grant"}"#).unwrap().0,
            Vec::<String>::new()
        );
    }

    #[test]
    fn what_cannot_be_read_is_not_passed() {
        for (media, body) in [
            ("application/json", "\"a-token-by-itself\""),
            ("application/json", "{\"access_token\":\"A\""),
            ("text/html", "<p>access_token=A"),
            ("text/plain", "access_token=A"),
            ("application/json", r#"{"access_token":{"value":"A"}}"#),
            ("application/json", r#"{"access_token":["A"]}"#),
            ("application/x-www-form-urlencoded", "access_token"),
        ] {
            assert!(rewrite(media, body).is_none(), "{body}");
        }
    }
}
