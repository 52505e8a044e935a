//! Pure: what a request on a credentialed route may not ask for, since the answer could hide a secret from redaction.

use http::HeaderMap;
use http::header::{ACCEPT_ENCODING, HeaderValue, TE};

use crate::exchange::headers::drop_those;

/// Makes a request ask for a plain, whole answer.
pub fn prepare(headers: &mut HeaderMap) {
    drop_those(headers, |name| STRIPPED.contains(&name));
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    keep_trailers_only(headers);
}

/// `TE: trailers` says that trailers are understood (gRPC insists on it); anything else asks for a transfer coding.
fn keep_trailers_only(headers: &mut HeaderMap) {
    if !headers.contains_key(TE) {
        return;
    }
    let trailers = headers
        .get_all(TE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|coding| coding.trim().eq_ignore_ascii_case("trailers"));
    headers.remove(TE);
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// Ranges cut a secret in two; a delta (RFC 3229), a charset or a compression of messages writes it in other bytes.
const STRIPPED: [&str; 7] = [
    "a-im",
    "accept-charset",
    "connect-accept-encoding",
    "grpc-accept-encoding",
    "if-range",
    "range",
    "sec-websocket-extensions",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_a_plain_whole_answer_is_asked_for() {
        let mut headers = HeaderMap::new();
        for name in STRIPPED {
            headers.append(name, HeaderValue::from_static("anything"));
        }
        headers.append(ACCEPT_ENCODING, HeaderValue::from_static("gzip, br"));
        headers.append(ACCEPT_ENCODING, HeaderValue::from_static("zstd"));
        headers.append(TE, HeaderValue::from_static("gzip;q=0.5, Trailers"));
        headers.append("accept", HeaderValue::from_static("application/json"));
        prepare(&mut headers);
        let mut left: Vec<_> = headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
            .collect();
        left.sort_unstable();
        assert_eq!(
            left,
            [
                ("accept", "application/json"),
                ("accept-encoding", "identity"),
                ("te", "trailers")
            ]
        );
    }

    #[test]
    fn a_transfer_coding_alone_is_not_asked_for() {
        let mut headers = HeaderMap::from_iter([(TE, HeaderValue::from_static("deflate"))]);
        prepare(&mut headers);
        assert!(!headers.contains_key(TE));
    }
}
