//! Pure: the forms in which an upstream may echo a secret, and what each is replaced with.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

use super::pattern::Secret;

/// One form of one secret.
pub(super) struct Variant {
    pub(super) bytes: Zeroizing<Vec<u8>>,
    pub(super) instead: Instead,
}

/// What a match is replaced with.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Instead {
    /// The stub, as the agent sent it.
    Stub,
    /// This text: [`MARKER`], or a rendering of the stub.
    Text(Vec<u8>),
    /// [`MARKER`] over and over, as long as the match: what surrounds it stays valid base64.
    Letters,
    /// Zeros, as long as the match: what surrounds it stays valid hex.
    Zeros,
}

/// Stands where a stub can't. Letters only, so that it's valid in every encoding but hex.
pub(super) const MARKER: &[u8] = b"REDACTED";

/// All forms of a secret, each once, the plain value first; at most [`VARIANTS_MAX`].
pub(super) fn variants(secret: &Secret<'_>) -> Vec<Variant> {
    let mut found = Variants(Vec::with_capacity(VARIANTS_MAX));
    found.add(secret.value.to_vec(), Instead::Stub);
    let escaped = escaped_instead(secret.stub);
    found.add(secret.value.to_ascii_lowercase(), escaped.clone());
    percent(secret.value, &mut found, &escaped);
    text(secret.value, &mut found, &escaped);
    hex(secret.value, &mut found);
    base64(secret.value, &mut found);
    basic(secret, &mut found);
    debug_assert!(found.0.len() <= VARIANTS_MAX, "{} variants", found.0.len());
    found.0
}

struct Variants(Vec<Variant>);

impl Variants {
    fn add(&mut self, bytes: Vec<u8>, instead: Instead) {
        let bytes = Zeroizing::new(bytes);
        if self.0.iter().all(|known| known.bytes != bytes) {
            self.0.push(Variant { bytes, instead });
        }
    }
}

/// The stub may stand in an escaped text if no escape would change it.
fn escaped_instead(stub: &str) -> Instead {
    if stub.bytes().all(unreserved) {
        Instead::Stub
    } else {
        Instead::Text(MARKER.to_vec())
    }
}

fn unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// Percent-encodings, by each of [`PERCENT_KEPT`]; a space that is kept is written `+`.
fn percent(value: &[u8], found: &mut Variants, instead: &Instead) {
    for (words, kept) in PERCENT_KEPT {
        for digits in [UPPER, LOWER] {
            let bytes = escape(value, |byte, out| match byte {
                b' ' if kept.contains(&byte) => out.push(b'+'),
                _ if (words && byte.is_ascii_alphanumeric()) || kept.contains(&byte) => out.push(byte),
                _ => {
                    out.push(b'%');
                    push_hex(byte, digits, out);
                }
            });
            found.add(bytes, instead.clone());
        }
    }
}

/// What libraries leave as it is: whether letters and digits, and which other bytes.
const PERCENT_KEPT: [(bool, &[u8]); 12] = [
    // Nothing but letters and digits: Rust's NON_ALPHANUMERIC.
    (true, b""),
    // RFC 3986's unreserved characters.
    (true, b"-._~"),
    // Python's quote.
    (true, b"-._~/"),
    // Python's quote_plus, Go's QueryEscape.
    (true, b"-._~ "),
    // JavaScript's encodeURIComponent.
    (true, b"-._~!'()*"),
    // A segment of a path, RFC 3986 §3.3.
    (true, b"-._~!$&'()*+,;=:@"),
    // Go's PathEscape.
    (true, b"-._~$&+:=@"),
    // JavaScript's encodeURI.
    (true, b"-._~!$&'()*+,;=:@/?#"),
    // The URL standard: forms (Java's URLEncoder), queries, paths.
    (true, b"-._* "),
    (true, b"-._~!$%&()*+,;=:@/?[\\]^`{|}"),
    (true, b"-._~!$%&'()*+,;=:@/[\\]|"),
    (false, b""),
];

/// JSON and HTML. A value that isn't UTF-8 is read as Latin-1, as HTTP libraries do with header values.
fn text(value: &[u8], found: &mut Variants, instead: &Instead) {
    let latin = Zeroizing::new(value.iter().map(|&byte| char::from(byte)).collect::<String>());
    let readings = [std::str::from_utf8(value).ok(), Some(latin.as_str())];
    for reading in readings.into_iter().flatten() {
        for rule in &JSON {
            found.add(json(reading, rule), instead.clone());
        }
        for rule in &HTML {
            found.add(html(reading, rule), instead.clone());
        }
    }
}

/// A way to write JSON strings: which characters beyond the required ones become `\uXXXX`, with which digits, and
/// whether a slash is escaped.
struct Json(fn(char) -> bool, &'static [u8; 16], bool);

const JSON: [Json; 10] = [
    Json(|_| false, LOWER, false),
    Json(|_| false, LOWER, true),
    // ensure_ascii.
    Json(|char| !char.is_ascii(), LOWER, false),
    Json(|char| !char.is_ascii(), LOWER, true),
    // Safe inside of HTML: Go, Ruby on Rails.
    Json(|char| "<>&".contains(char), LOWER, false),
    // Safe inside of attributes too: .NET, PHP's JSON_HEX_*, Gson.
    Json(|char| "<>&'\"`+".contains(char) || !char.is_ascii(), UPPER, false),
    Json(|char| "<>&'\"".contains(char) || !char.is_ascii(), UPPER, true),
    Json(|char| "<>&'=".contains(char), LOWER, false),
    Json(|_| true, LOWER, false),
    Json(|_| true, UPPER, false),
];

fn json(value: &str, &Json(also, digits, slash): &Json) -> Vec<u8> {
    escape_chars(value, |char, out| match char {
        _ if also(char) => push_utf16(char, digits, out),
        '"' => out.extend(b"\\\""),
        '\\' => out.extend(b"\\\\"),
        '/' if slash => out.extend(b"\\/"),
        '\n' => out.extend(b"\\n"),
        '\r' => out.extend(b"\\r"),
        '\t' => out.extend(b"\\t"),
        '\u{8}' => out.extend(b"\\b"),
        '\u{c}' => out.extend(b"\\f"),
        '\0'..' ' => push_utf16(char, digits, out),
        _ => push_char(char, out),
    })
}

/// A way to write HTML text: how the two quotes are written, and which characters become references by number.
struct Html(&'static str, &'static str, fn(char) -> bool, Radix);

#[derive(Clone, Copy)]
enum Radix {
    Decimal,
    HexLower,
    HexUpper,
}

const HTML: [Html; 8] = [
    Html("&quot;", "&#39;", |_| false, Radix::Decimal),
    Html("&#34;", "&#39;", |_| false, Radix::Decimal),
    Html("&quot;", "&#x27;", |_| false, Radix::Decimal),
    Html("&quot;", "&apos;", |_| false, Radix::Decimal),
    // OWASP's and Mustache's lists.
    Html("&quot;", "&#x27;", |char| "/`=+".contains(char), Radix::HexUpper),
    Html("", "", |_| true, Radix::Decimal),
    Html("", "", |_| true, Radix::HexLower),
    Html("", "", |_| true, Radix::HexUpper),
];

fn html(value: &str, &Html(double, single, by_number, radix): &Html) -> Vec<u8> {
    escape_chars(value, |char, out| match char {
        _ if by_number(char) => push_reference(char, radix, out),
        '&' => out.extend(b"&amp;"),
        '<' => out.extend(b"&lt;"),
        '>' => out.extend(b"&gt;"),
        '"' => out.extend(double.bytes()),
        '\'' => out.extend(single.bytes()),
        _ => push_char(char, out),
    })
}

fn hex(value: &[u8], found: &mut Variants) {
    for digits in [LOWER, UPPER] {
        found.add(escape(value, |byte, out| push_hex(byte, digits, out)), Instead::Zeros);
    }
}

/// What stays the same of the base64 of a longer text that holds the value, at each of three alignments. Up to four
/// bits of the first and of the last byte share a character with their neighbours and are not covered.
fn base64(value: &[u8], found: &mut Variants) {
    for lead in 0..3 {
        let mut padded = Zeroizing::new(vec![0; lead + value.len()]);
        padded[lead..].copy_from_slice(value);
        let whole = (lead * 8).div_ceil(6)..padded.len() * 8 / 6;
        for engine in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
            let encoded = Zeroizing::new(engine.encode(&*padded));
            for form in escaped_base64(&encoded.as_bytes()[whole.clone()]) {
                found.add(form, Instead::Letters);
            }
        }
    }
}

/// `user:secret`, as HTTP's Basic scheme renders it. The agent knows the same of its stub, so it gets that back.
fn basic(secret: &Secret<'_>, found: &mut Variants) {
    let Some(user) = secret.user else { return };
    let real = Zeroizing::new([user.as_bytes(), b":", secret.value].concat());
    let stub = format!("{user}:{}", secret.stub);
    for engine in [STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD] {
        let encoded = Zeroizing::new(engine.encode(&*real));
        let instead = escaped_base64(engine.encode(&stub).as_bytes());
        for (form, instead) in escaped_base64(encoded.as_bytes()).into_iter().zip(instead) {
            found.add(form, Instead::Text(instead));
        }
    }
}

/// Base64 as it is, in a URL, and in JSON that escapes slashes.
fn escaped_base64(encoded: &[u8]) -> [Vec<u8>; 4] {
    let percent = |digits| {
        escape(encoded, |byte, out| match byte {
            b'+' | b'/' | b'=' => {
                out.push(b'%');
                push_hex(byte, digits, out);
            }
            _ => out.push(byte),
        })
    };
    let slash = escape(encoded, |byte, out| match byte {
        b'/' => out.extend(b"\\/"),
        _ => out.push(byte),
    });
    [encoded.to_vec(), percent(UPPER), percent(LOWER), slash]
}

/// Room for the longest result is made at once: a vector that grows leaves copies of secrets behind.
fn escape(value: &[u8], mut push: impl FnMut(u8, &mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len() * CHAR_MAX);
    for &byte in value {
        push(byte, &mut out);
    }
    out
}

fn escape_chars(value: &str, mut push: impl FnMut(char, &mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len() * CHAR_MAX);
    for char in value.chars() {
        push(char, &mut out);
    }
    out
}

fn push_char(char: char, out: &mut Vec<u8>) {
    out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
}

fn push_hex(byte: u8, digits: &[u8; 16], out: &mut Vec<u8>) {
    out.extend([digits[usize::from(byte >> 4)], digits[usize::from(byte & 15)]]);
}

fn push_utf16(char: char, digits: &[u8; 16], out: &mut Vec<u8>) {
    for unit in char.encode_utf16(&mut [0; 2]) {
        out.extend(b"\\u");
        for byte in unit.to_be_bytes() {
            push_hex(byte, digits, out);
        }
    }
}

fn push_reference(char: char, radix: Radix, out: &mut Vec<u8>) {
    let code = u32::from(char);
    let reference = match radix {
        Radix::Decimal => format!("&#{code};"),
        Radix::HexLower => format!("&#x{code:x};"),
        Radix::HexUpper => format!("&#x{code:X};"),
    };
    out.extend(reference.bytes());
}

const LOWER: &[u8; 16] = b"0123456789abcdef";
const UPPER: &[u8; 16] = b"0123456789ABCDEF";

/// Of one byte: `\u0041`, `&#x41;`. Characters of more bytes need less for each.
const CHAR_MAX: usize = 6;

/// 2 plain, 22 percent, 2 × 18 JSON and HTML, 2 hex, 24 base64, 16 Basic. An ordinary token has 14.
pub(super) const VARIANTS_MAX: usize = 102;
