//! The request's path and query, made canonical once: what is matched is byte for byte what is sent (row 24).
//!
//! Rules, in the order they are applied:
//! - Only origin form: it begins with `/`, and with one only. Visible ASCII without `\` and `#`.
//! - `%XX` of an unreserved character is decoded; any other keeps its triplet, in upper case. `"<>^`{|}` are encoded,
//!   as the URL standard does. Encoded controls, `%00` and `%5C` are refused, and so is what isn't UTF-8 once decoded.
//! - `.` and `..` are resolved (RFC 3986 §5.2.4); above the root they are refused. So is `%25` before two hex digits
//!   that would become a separator, a dot or a control on a second decoding, and a `;` beside a dot or at the
//!   beginning of a segment (CVE-2026-100971). `%3B` counts as `;`.
//! - `%2F` stays, inside its segment, whose parts may not be `.` or `..`. A pattern matches such a segment only by
//!   `*` or `**`.
//! - An empty segment (`//`) stays. Only a trailing `**` matches it, so an upstream that merges slashes stays below
//!   the literal part of the pattern.

use std::fmt;
use std::ops::Range;

use percent_encoding::percent_decode_str;

/// A path in its canonical form; [`Target::parse`] makes it.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct CanonicalPath(String);

/// A query without its `?`: visible ASCII without `#`, otherwise as it came.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Query(String);

/// The target of a request in origin form.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Target {
    /// The path.
    pub path: CanonicalPath,
    /// The query; `/a?` has an empty one.
    pub query: Option<Query>,
}

/// Why a target is refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PathError {
    /// `..` where nothing is above.
    #[error("'..' leads above the root")]
    AboveRoot,
    /// A backslash, plain or encoded, which some servers read as `/`.
    #[error("a backslash in the path")]
    Backslash,
    /// A control, space or character outside ASCII that isn't encoded, or `#`.
    #[error("a character that must be percent-encoded")]
    Character,
    /// An encoded control character.
    #[error("an encoded control character in the path")]
    Control,
    /// `.` or `..` between slashes that are encoded.
    #[error("a dot segment between encoded slashes")]
    DotSegment,
    /// Something that decodes to a separator, a dot or a control only at the second decoding.
    #[error("a doubly encoded separator, dot or control character in the path")]
    DoubleEncoding,
    /// `//` at the beginning, which some parsers take for an authority.
    #[error("the path begins with two slashes")]
    LeadingSlashes,
    /// Longer than [`TARGET_MAX`].
    #[error("the target is longer than {TARGET_MAX} bytes")]
    Length,
    /// Not in origin form.
    #[error("the target doesn't begin with '/'")]
    NotOrigin,
    /// A `%` without two hex digits.
    #[error("a '%' that isn't followed by two hex digits")]
    Percent,
    /// A `;` beside a dot or at the beginning of a segment.
    #[error("a ';' beside a dot or at the beginning of a segment")]
    Semicolon,
    /// Not UTF-8 once decoded, such as an overlong form.
    #[error("the path isn't UTF-8 once decoded")]
    Utf8,
}

impl Target {
    /// Parses a target in origin form, such as `http::uri::PathAndQuery::as_str` gives.
    pub fn parse(raw: &str) -> Result<Self, PathError> {
        if raw.len() > TARGET_MAX {
            return Err(PathError::Length);
        }
        let (path, query) = match raw.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (raw, None),
        };
        let target = Self {
            path: CanonicalPath::parse(path)?,
            query: query.map(Query::parse).transpose()?,
        };
        // What is encoded is three times as long.
        if target.path.0.len() + query.map_or(0, |query| 1 + query.len()) > TARGET_MAX {
            return Err(PathError::Length);
        }
        Ok(target)
    }
}

impl CanonicalPath {
    /// The path, to be sent as it is.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its segments: one more than it has slashes, less one. `/` has one, which is empty.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.strip_prefix('/').unwrap_or(&self.0).split('/')
    }

    fn parse(raw: &str) -> Result<Self, PathError> {
        if !raw.starts_with('/') {
            return Err(PathError::NotOrigin);
        }
        if raw.starts_with("//") {
            return Err(PathError::LeadingSlashes);
        }
        let path = resolve_dots(normalize_percent(raw)?)?;
        if path.starts_with("//") {
            return Err(PathError::LeadingSlashes);
        }
        path.split('/').try_for_each(check_segment)?;
        Ok(Self(path))
    }
}

impl Query {
    /// The query, to be sent as it is unless a grant changes a value.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Where the values of a parameter stand in [`Query::as_str`]; its name is compared once decoded.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = Range<usize>> + 'a {
        let mut start = 0;
        let pairs = self.0.split('&').map(move |pair| {
            let at = start;
            start += pair.len() + 1;
            (at, pair)
        });
        pairs.filter_map(move |(at, pair)| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let key = key.replace('+', " ");
            let decoded = percent_decode_str(&key).decode_utf8_lossy();
            let end = at + pair.len();
            (decoded == name).then_some(end - value.len()..end)
        })
    }

    fn parse(raw: &str) -> Result<Self, PathError> {
        if raw.bytes().any(|byte| !byte.is_ascii_graphic() || byte == b'#') {
            return Err(PathError::Character);
        }
        Ok(Self(raw.to_owned()))
    }
}

impl fmt::Display for CanonicalPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Display for Query {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.query {
            Some(query) => write!(formatter, "{}?{query}", self.path),
            None => write!(formatter, "{}", self.path),
        }
    }
}

fn normalize_percent(raw: &str) -> Result<String, PathError> {
    let mut out = String::with_capacity(raw.len());
    let mut bytes = raw.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => push_triplet(&mut out, bytes.next(), bytes.next())?,
            b'\\' => return Err(PathError::Backslash),
            b'"' | b'<' | b'>' | b'^' | b'`' | b'{' | b'|' | b'}' => push_encoded(&mut out, byte),
            b'#' => return Err(PathError::Character),
            _ if byte.is_ascii_graphic() => out.push(char::from(byte)),
            _ => return Err(PathError::Character),
        }
    }
    Ok(out)
}

fn push_triplet(out: &mut String, high: Option<u8>, low: Option<u8>) -> Result<(), PathError> {
    let byte = decode_hex(high, low).ok_or(PathError::Percent)?;
    match byte {
        b'\\' => return Err(PathError::Backslash),
        _ if byte.is_ascii_control() => return Err(PathError::Control),
        _ if is_unreserved(byte) => out.push(char::from(byte)),
        _ => push_encoded(out, byte),
    }
    Ok(())
}

fn push_encoded(out: &mut String, byte: u8) {
    out.push_str(percent_encoding::percent_encode_byte(byte));
}

fn decode_hex(high: Option<u8>, low: Option<u8>) -> Option<u8> {
    let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

/// RFC 3986 §5.2.4. Empty segments count as segments.
fn resolve_dots(path: String) -> Result<String, PathError> {
    if !path.contains("/.") {
        return Ok(path);
    }
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." => {}
            ".." => {
                kept.pop().ok_or(PathError::AboveRoot)?;
            }
            _ => kept.push(segment),
        }
        if last && matches!(segment, "." | "..") {
            kept.push("");
        }
    }
    Ok(format!("/{}", kept.join("/")))
}

fn check_segment(segment: &str) -> Result<(), PathError> {
    if !segment.contains(['%', ';']) {
        return Ok(());
    }
    if percent_decode_str(segment).decode_utf8().is_err() {
        return Err(PathError::Utf8);
    }
    if has_double_encoding(segment) {
        return Err(PathError::DoubleEncoding);
    }
    for part in segment.split("%2F") {
        if matches!(part, "." | "..") {
            return Err(PathError::DotSegment);
        }
        let part = part.replace("%3B", ";");
        if part.starts_with(';') || part.contains(".;") || part.contains(";.") {
            return Err(PathError::Semicolon);
        }
    }
    Ok(())
}

fn has_double_encoding(segment: &str) -> bool {
    segment.match_indices("%25").any(|(at, percent)| {
        let mut after = segment.bytes().skip(at + percent.len());
        decode_hex(after.next(), after.next()).is_some_and(is_special)
    })
}

/// What changes where a path leads when it appears at a second decoding.
fn is_special(byte: u8) -> bool {
    !byte.is_ascii() || byte.is_ascii_control() || matches!(byte, b'.' | b'/' | b'\\' | b'%' | b';' | b'?' | b'#')
}

/// RFC 3986 §2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Bytes of a target. nginx and Node take 8 and 16 KiB by default; longer ones would fail upstream.
pub const TARGET_MAX: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_no_longer_than_what_is_taken() {
        let longest = format!("/{}", "a".repeat(TARGET_MAX - 1));
        assert!(Target::parse(&longest).is_ok());
        for longer in [
            format!("{longest}a"),
            format!("/{}", "|".repeat(TARGET_MAX / 3 + 1)),
            format!("/|?{}", &longest[4..]),
        ] {
            assert!(
                matches!(Target::parse(&longer), Err(PathError::Length)),
                "{}",
                longer.len()
            );
        }
    }

    #[test]
    fn a_path_has_one_form() {
        let table = [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a/", "/a/"),
            ("/%61%2D%7e", "/a-~"),
            ("/a/%e2%82%ac", "/a/%E2%82%AC"),
            ("/a/./b/../c", "/a/c"),
            ("/a/%2e%2E/c", "/c"),
            ("/a/.%2e/c", "/c"),
            ("/a/b/..", "/a/"),
            ("/a/.", "/a/"),
            ("/..a/...", "/..a/..."),
            ("/@scope%2fname", "/@scope%2Fname"),
            ("/a//b", "/a//b"),
            ("/a/%20b", "/a/%20b"),
            ("/a/%2520b", "/a/%2520b"),
            ("/{id}/a|b", "/%7Bid%7D/a%7Cb"),
            ("/a;v=1/b", "/a;v=1/b"),
            ("/x/a:b!$&'()*+,=@", "/x/a:b!$&'()*+,=@"),
            ("/a%21", "/a%21"),
            ("/a%3Fb", "/a%3Fb"),
        ];
        for (raw, canonical) in table {
            assert_eq!(Target::parse(raw).expect(raw).path.as_str(), canonical, "{raw}");
        }
    }

    #[test]
    fn what_two_servers_could_read_differently_is_refused() {
        let table = [
            ("/..", PathError::AboveRoot),
            ("/a/../../b", PathError::AboveRoot),
            ("/%2e%2e/b", PathError::AboveRoot),
            ("/a\\b", PathError::Backslash),
            ("/a%5cb", PathError::Backslash),
            ("/..%5c..%5cb", PathError::Backslash),
            ("/a#b", PathError::Character),
            ("/a b", PathError::Character),
            ("/a\r\nb", PathError::Character),
            ("/ä", PathError::Character),
            ("/a\0", PathError::Character),
            ("/a?b#c", PathError::Character),
            ("/a?b c", PathError::Character),
            ("/a%00b", PathError::Control),
            ("/a%0d%0ab", PathError::Control),
            ("/a%7f", PathError::Control),
            ("/a/..%2fb", PathError::DotSegment),
            ("/a/b%2f..%2Fc", PathError::DotSegment),
            ("/a/%2e%2e%2fb", PathError::DotSegment),
            ("/a/.%2f", PathError::DotSegment),
            ("/%252e%252e/b", PathError::DoubleEncoding),
            ("/a%252fb", PathError::DoubleEncoding),
            ("/a%255cb", PathError::DoubleEncoding),
            ("/a%25252fb", PathError::DoubleEncoding),
            ("/a%25%32%66b", PathError::DoubleEncoding),
            ("/a%2500", PathError::DoubleEncoding),
            ("/a%25c0%25ae", PathError::DoubleEncoding),
            ("//example.com/a", PathError::LeadingSlashes),
            ("/.//example.com", PathError::LeadingSlashes),
            ("/a/..//example.com", PathError::LeadingSlashes),
            ("", PathError::NotOrigin),
            ("*", PathError::NotOrigin),
            ("a", PathError::NotOrigin),
            ("https://example.com/a", PathError::NotOrigin),
            ("?a", PathError::NotOrigin),
            ("/a%", PathError::Percent),
            ("/a%2", PathError::Percent),
            ("/a%zz", PathError::Percent),
            ("/a%u002e", PathError::Percent),
            ("/a/..;/b", PathError::Semicolon),
            ("/a/.;x/b", PathError::Semicolon),
            ("/a/;..", PathError::Semicolon),
            ("/a/x;../b", PathError::Semicolon),
            ("/a/..;x=1/b", PathError::Semicolon),
            ("/a/..%3bx/b", PathError::Semicolon),
            ("/a/%2e%2e;/b", PathError::Semicolon),
            ("/a/;x/b", PathError::Semicolon),
            ("/a/b%2f..;x", PathError::Semicolon),
            ("/%c0%ae%c0%ae/b", PathError::Utf8),
            ("/%ff", PathError::Utf8),
        ];
        for (raw, error) in table {
            assert_eq!(Target::parse(raw), Err(error), "{raw}");
        }
    }

    #[test]
    fn values_of_a_query_are_found_by_their_decoded_name() {
        let target = Target::parse("/?key=a&k%65y=b&&key&monkey=c&key=a=b").expect("a target");
        let query = target.query.expect("a query");
        let values: Vec<&str> = query.values("key").map(|range| &query.as_str()[range]).collect();
        assert_eq!(values, ["a", "b", "", "a=b"]);
    }
}
