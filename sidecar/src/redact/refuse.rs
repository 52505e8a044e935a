//! Pure: responses that redaction can't look into, judged by their head.

use http::header::{CONTENT_RANGE, HeaderName, TRANSFER_ENCODING};
use http::{HeaderMap, StatusCode};

use super::media;

/// Why a response isn't passed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Reason {
    /// 206, 226, `Content-Range` or `multipart/byteranges`: a secret may lie across two responses.
    #[error("it's a part of a document, though the whole was asked for")]
    Partial,
    /// 101. A stage that reads the protocol which follows answers it itself and doesn't ask here.
    #[error("it switches to a protocol that redaction doesn't read")]
    Upgrade,
    /// Anything but UTF-8, ASCII and Latin-1 may write a secret in other bytes.
    #[error("its charset isn't UTF-8, US-ASCII or ISO-8859-1")]
    Charset,
    /// Two `Content-Type` fields, or one that isn't text.
    #[error("its content type can't be read")]
    MediaType,
    /// `grpc-encoding` or `connect-content-encoding`, or base64 around messages.
    #[error("its messages are compressed or encoded")]
    MessageEncoding,
    /// A transfer coding that the HTTP library leaves in place.
    #[error("its transfer coding isn't chunked")]
    TransferCoding,
}

type Check = fn(StatusCode, &HeaderMap) -> bool;

/// Whether a response to a credentialed request must be refused; its `Content-Encoding` is judged elsewhere
/// ([`super::coding`]).
pub fn refuse(status: StatusCode, headers: &HeaderMap) -> Option<Reason> {
    let checks: [(Reason, Check); 6] = [
        (Reason::Upgrade, |status, _| status == StatusCode::SWITCHING_PROTOCOLS),
        (Reason::Partial, is_partial),
        (Reason::MediaType, |_, headers| !media::is_plain(headers)),
        (Reason::Charset, |_, headers| {
            media::charsets(headers)
                .iter()
                .any(|charset| !CHARSETS.contains(&charset.as_str()))
        }),
        (Reason::MessageEncoding, |_, headers| has_encoded_messages(headers)),
        (Reason::TransferCoding, |_, headers| {
            !only(headers, &TRANSFER_ENCODING, "chunked")
        }),
    ];
    checks
        .into_iter()
        .find_map(|(reason, applies)| applies(status, headers).then_some(reason))
}

/// 416 carries a `Content-Range` too, but says by it how long the whole is.
fn is_partial(status: StatusCode, headers: &HeaderMap) -> bool {
    status == StatusCode::PARTIAL_CONTENT
        || status == StatusCode::IM_USED
        || (status != StatusCode::RANGE_NOT_SATISFIABLE && headers.contains_key(CONTENT_RANGE))
        || media::essence(headers).is_some_and(|media| media == "multipart/byteranges")
}

fn has_encoded_messages(headers: &HeaderMap) -> bool {
    let text = media::essence(headers).is_some_and(|media| media.starts_with("application/grpc-web-text"));
    text || MESSAGE_ENCODINGS.iter().any(|name| !only(headers, name, "identity"))
}

/// Whether a header has no value but this one.
fn only(headers: &HeaderMap, name: &HeaderName, expected: &str) -> bool {
    let expected = expected.as_bytes();
    headers
        .get_all(name)
        .iter()
        .all(|value| value.as_bytes().eq_ignore_ascii_case(expected))
}

/// What ASCII reads the same in, under the names of the IANA registry that are in use.
const CHARSETS: [&str; 7] = [
    "utf-8",
    "utf8",
    "us-ascii",
    "ascii",
    "iso-8859-1",
    "iso8859-1",
    "latin1",
];
const MESSAGE_ENCODINGS: [HeaderName; 2] = [
    HeaderName::from_static("grpc-encoding"),
    HeaderName::from_static("connect-content-encoding"),
];

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    type Fields = &'static [(&'static str, &'static str)];

    fn verdict(status: u16, pairs: Fields) -> Option<Reason> {
        let mut headers = HeaderMap::new();
        for &(name, value) in pairs {
            headers.append(name, HeaderValue::from_static(value));
        }
        refuse(StatusCode::from_u16(status).unwrap(), &headers)
    }

    #[test]
    fn what_cannot_be_searched_is_refused() {
        let table: [(u16, Fields, Reason); 18] = [
            (101, &[("upgrade", "websocket")], Reason::Upgrade),
            (206, &[], Reason::Partial),
            (226, &[], Reason::Partial),
            (200, &[("content-range", "bytes 0-9/100")], Reason::Partial),
            (
                200,
                &[("content-type", "Multipart/Byteranges; boundary=x")],
                Reason::Partial,
            ),
            (200, &[("content-type", "text/html; charset=utf-16")], Reason::Charset),
            (
                200,
                &[("content-type", "text/html; a=b; Charset = \"UTF-7\"")],
                Reason::Charset,
            ),
            (
                200,
                &[("content-type", "application/json;charset='utf-32le'")],
                Reason::Charset,
            ),
            (
                200,
                &[("content-type", "text/html; charset=utf-8; charset=utf-16")],
                Reason::Charset,
            ),
            (200, &[("content-type", "text/html; charset=")], Reason::Charset),
            (
                200,
                &[
                    ("content-type", "text/html"),
                    ("content-type", "text/html; charset=utf-16"),
                ],
                Reason::MediaType,
            ),
            (200, &[("grpc-encoding", "gzip")], Reason::MessageEncoding),
            (
                200,
                &[("grpc-encoding", "identity"), ("grpc-encoding", "gzip")],
                Reason::MessageEncoding,
            ),
            (200, &[("connect-content-encoding", "br")], Reason::MessageEncoding),
            (
                200,
                &[("content-type", "application/grpc-web-text+proto")],
                Reason::MessageEncoding,
            ),
            (200, &[("transfer-encoding", "gzip, chunked")], Reason::TransferCoding),
            (
                200,
                &[("transfer-encoding", "gzip"), ("transfer-encoding", "chunked")],
                Reason::TransferCoding,
            ),
            (404, &[("content-type", "text/plain; charset=utf-16")], Reason::Charset),
        ];
        for (status, headers, reason) in table {
            assert_eq!(verdict(status, headers), Some(reason), "{status} {headers:?}");
        }
    }

    #[test]
    fn ordinary_responses_pass() {
        let table: [(u16, Fields); 7] = [
            (200, &[]),
            (200, &[("content-type", "text/html; charset=\"UTF-8\"")]),
            (200, &[("content-type", "text/plain;charset=iso-8859-1")]),
            (416, &[("content-range", "bytes */100")]),
            (
                200,
                &[("grpc-encoding", "identity"), ("content-type", "application/grpc")],
            ),
            (200, &[("transfer-encoding", "chunked")]),
            (302, &[("location", "/elsewhere")]),
        ];
        for (status, headers) in table {
            assert_eq!(verdict(status, headers), None, "{status} {headers:?}");
        }
    }
}
