//! The exchange itself: grants in, a request that carries the real values out. Nothing else writes a value into a
//! request, and it can't be called without a grant.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use berth_egress::decide::{Grant, Surface};
use berth_egress::path::Query;
use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::{ExposeSecret, SecretString};

pub mod sigv4;

/// A value can't stand where its stub stands.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SubstituteError {
    /// It has bytes that a header can't hold.
    #[error("the value of {credential} can't be sent in a header")]
    Header {
        /// Which.
        credential: String,
    },
    /// The stub isn't where it was when the request was judged.
    #[error("the stub of {credential} isn't where the request was judged to have it")]
    Moved {
        /// Which.
        credential: String,
    },
    /// The body isn't what the route says.
    #[error("the body isn't a form or JSON, or has no field {field}")]
    Body {
        /// Name or pointer.
        field: String,
    },
}

/// Writes the value of a grant into the headers, or into the query. The user that the value belongs to takes the place
/// of the agent's.
pub fn into_head(
    grant: &Grant,
    (user, value): (Option<&str>, &SecretString),
    headers: &mut HeaderMap,
    query: Option<&Query>,
) -> Result<Option<String>, SubstituteError> {
    match grant.surface() {
        Surface::Header { name, before, after } => {
            let text = [before, value.expose_secret(), after].concat();
            insert(headers, name.clone(), text, grant)?;
            Ok(None)
        }
        Surface::Basic { username } => {
            let username = user.unwrap_or(username);
            let pair = BASE64_STANDARD.encode(format!("{username}:{}", value.expose_secret()));
            insert(headers, AUTHORIZATION, format!("Basic {pair}"), grant)?;
            Ok(None)
        }
        Surface::Query { name } => into_query(grant, name, value, query).map(Some),
        Surface::Body { .. } | Surface::ClientCertificate | Surface::AwsSigV4(_) => Ok(None),
    }
}

fn insert(headers: &mut HeaderMap, name: HeaderName, text: String, grant: &Grant) -> Result<(), SubstituteError> {
    let mut value = HeaderValue::try_from(text).map_err(|_unsendable| SubstituteError::Header {
        credential: grant.credential().to_owned(),
    })?;
    value.set_sensitive(true);
    headers.insert(name, value);
    Ok(())
}

fn into_query(
    grant: &Grant,
    name: &str,
    value: &SecretString,
    query: Option<&Query>,
) -> Result<String, SubstituteError> {
    let query = query.ok_or_else(|| moved(grant))?;
    let place = query.values(name).next().ok_or_else(|| moved(grant))?;
    let encoded = encoded(value.expose_secret());
    let mut text = query.as_str().to_owned();
    text.replace_range(place, &encoded);
    Ok(text)
}

/// Writes the value of a grant into a whole body of this media type.
pub fn into_body(
    field: &str,
    stub: &str,
    value: &SecretString,
    media: &str,
    body: &Bytes,
) -> Result<Bytes, SubstituteError> {
    let wrong = || SubstituteError::Body {
        field: field.to_owned(),
    };
    if is_form(media) {
        let text = std::str::from_utf8(body).map_err(|_not_text| wrong())?;
        return into_form(field, stub, value, text).map(Bytes::from).ok_or_else(wrong);
    }
    if is_json(media) {
        let mut json: serde_json::Value = serde_json::from_slice(body).map_err(|_no_json| wrong())?;
        let place = json.pointer_mut(field).filter(|place| place.as_str() == Some(stub));
        *place.ok_or_else(wrong)? = serde_json::Value::from(value.expose_secret());
        return serde_json::to_vec(&json)
            .map(Bytes::from)
            .map_err(|_unwritable| wrong());
    }
    Err(wrong())
}

fn into_form(field: &str, stub: &str, value: &SecretString, text: &str) -> Option<String> {
    let encoded = encoded(value.expose_secret());
    let mut found = false;
    let pairs = text.split('&').map(|pair| match pair.split_once('=') {
        Some((name, found_stub)) if name == field && found_stub == stub => {
            found = true;
            format!("{name}={encoded}")
        }
        _ => pair.to_owned(),
    });
    let pairs: Vec<String> = pairs.collect();
    found.then(|| pairs.join("&"))
}

/// The text of a form's field, or of a member of a JSON object.
pub fn field(name: &str, media: &str, body: &Bytes) -> Option<String> {
    if is_form(media) {
        let text = std::str::from_utf8(body).ok()?;
        let mut pairs = text.split('&').filter_map(|pair| pair.split_once('='));
        let (_, value) = pairs.find(|(found, _)| *found == name)?;
        return Some(value.to_owned());
    }
    let json: serde_json::Value = serde_json::from_slice(body).ok().filter(|_| is_json(media))?;
    json.get(name)?.as_str().map(str::to_owned)
}

/// Whether a media type is that of a form.
pub fn is_form(media: &str) -> bool {
    essence(media).eq_ignore_ascii_case("application/x-www-form-urlencoded")
}

/// Whether a media type is one of JSON.
pub fn is_json(media: &str) -> bool {
    let essence = essence(media).to_ascii_lowercase();
    essence == "application/json" || essence.ends_with("+json")
}

fn essence(media: &str) -> &str {
    media.split(';').next().unwrap_or_default().trim()
}

/// As a query or a form has it.
pub fn encoded(text: &str) -> String {
    utf8_percent_encode(text, VALUE).to_string()
}

fn moved(grant: &Grant) -> SubstituteError {
    SubstituteError::Moved {
        credential: grant.credential().to_owned(),
    }
}

/// Everything but RFC 3986's unreserved characters.
const VALUE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
