//! Pure: the media type of a response, read as strictly as redaction needs it.

use http::HeaderMap;
use http::header::CONTENT_TYPE;

/// Type and subtype in lower case, without parameters; `None` without a readable `Content-Type`.
pub(super) fn essence(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    let essence = value.split(';').next()?.trim();
    Some(essence.to_ascii_lowercase())
}

/// Whether every `Content-Type` field can be read as text and there is one at most: two readers of two fields may
/// each take another one.
pub(super) fn is_plain(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(CONTENT_TYPE).iter();
    let readable = values.next().is_none_or(|value| value.to_str().is_ok());
    readable && values.next().is_none()
}

/// Values of all parameters named `charset`, in lower case and without quotes.
pub(super) fn charsets(headers: &HeaderMap) -> Vec<String> {
    let Some(Ok(value)) = headers.get(CONTENT_TYPE).map(|value| value.to_str()) else {
        return Vec::new();
    };
    let parameters = value
        .split(';')
        .skip(1)
        .filter_map(|parameter| parameter.split_once('='));
    parameters
        .filter(|(name, _)| name.trim().eq_ignore_ascii_case("charset"))
        .map(|(_, value)| value.trim().trim_matches(['"', '\'']).trim().to_ascii_lowercase())
        .collect()
}
