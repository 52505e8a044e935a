//! Requests in the one form that signatures are made over.

use std::borrow::Cow;
use std::cmp::Ordering;

use berth_egress::aws;
use http::header::HOST;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};

use super::{Message, SigV4Error};

/// Names and values, as they stand in a canonical request.
pub(super) struct CanonicalHeaders {
    lines: String,
    names: String,
}

pub(super) fn canonical_headers(names: &[String], message: &Message<'_>) -> Result<CanonicalHeaders, SigV4Error> {
    let mut lines = String::new();
    for name in names {
        let value = if name == HOST.as_str() {
            message.host.to_owned()
        } else {
            let values = message.headers.get_all(name).iter();
            let values = values.map(|value| value.to_str().map(squeezed));
            let values: Result<Vec<_>, _> = values.collect();
            values.map_err(|_not_text| SigV4Error::Header)?.join(",")
        };
        lines.extend([name, ":", &value, "\n"]);
    }
    Ok(CanonicalHeaders {
        lines,
        names: names.join(";"),
    })
}

/// Trimmed, and with single spaces.
fn squeezed(value: &str) -> String {
    value.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
}

pub(super) fn canonical(
    method: &str,
    (path, query): (&str, &str),
    headers: &CanonicalHeaders,
    payload: &str,
) -> String {
    let CanonicalHeaders { lines, names } = headers;
    [method, path, query, lines, names, payload].join("\n")
}

/// What may stand for a path, the one that AWS computes last. S3 encodes once and keeps the path as it is; all others
/// encode what was encoded, after dots and empty segments are resolved.
pub(super) fn paths(service: &str, path: &str) -> Vec<String> {
    if is_s3(service) {
        return vec![path.to_owned(), encoded_path(path)];
    }
    let twice = |path: &str| percent_encode(path.as_bytes(), PATH).to_string();
    vec![twice(path), twice(&resolved(path))]
}

/// Encoded once, wherever it has to be.
pub(super) fn encoded_path(path: &str) -> String {
    let decoded: Cow<'_, [u8]> = percent_decode_str(path).into();
    percent_encode(&decoded, PATH).to_string()
}

fn resolved(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(kept.pop()),
            segment => kept.push(segment),
        }
    }
    let last = path.rsplit('/').next().unwrap_or_default();
    let slash = if matches!(last, "" | "." | "..") && !kept.is_empty() {
        "/"
    } else {
        ""
    };
    format!("/{}{slash}", kept.join("/"))
}

/// What may stand for a query.
pub(super) fn queries(query: Option<&str>) -> [String; 2] {
    let query = query.unwrap_or_default();
    let mut raw: Vec<(&str, &str)> = pairs(query).collect();
    raw.sort_unstable();
    let raw = raw.into_iter().map(|(name, value)| format!("{name}={value}"));
    [encoded_query(query), raw.collect::<Vec<_>>().join("&")]
}

/// Sorted by name and value, each encoded once.
pub(super) fn encoded_query(query: &str) -> String {
    let encode = |text: &str| {
        let decoded: Cow<'_, [u8]> = percent_decode_str(text).into();
        percent_encode(&decoded, UNRESERVED).to_string()
    };
    let mut all: Vec<(String, String)> = pairs(query)
        .map(|(name, value)| (encode(name), encode(value)))
        .collect();
    all.sort_unstable_by(|one, two| match one.0.cmp(&two.0) {
        Ordering::Equal => one.1.cmp(&two.1),
        unequal => unequal,
    });
    let all = all.into_iter().map(|(name, value)| format!("{name}={value}"));
    all.collect::<Vec<_>>().join("&")
}

/// But for the signature itself.
pub(super) fn pairs(query: &str) -> impl Iterator<Item = (&str, &str)> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.filter(|(name, _)| decoded(name) != aws::SIGNATURE)
}

pub(super) fn decoded(text: &str) -> Cow<'_, str> {
    percent_decode_str(text).decode_utf8_lossy()
}

/// The first value of a parameter, decoded.
pub(super) fn parameter(query: &str, name: &str) -> Option<String> {
    let mut found = pairs(query).filter(|(key, _)| decoded(key) == name);
    found.next().map(|(_, value)| decoded(value).into_owned())
}

/// Services of which the path is signed as S3 does.
pub(super) fn is_s3(service: &str) -> bool {
    matches!(service, "s3" | "s3-object-lambda" | "s3-outposts")
}

/// RFC 3986's unreserved characters stay.
pub(super) const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// And slashes, in a path.
const PATH: &AsciiSet = &UNRESERVED.remove(b'/');
