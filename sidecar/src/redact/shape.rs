//! Pure: what may be known about a secret. Whatever an agent can time, that is when bytes are released, follows from
//! a [`Shape`] and from bytes the agent sees anyway; never from the letters of a value.

/// Lengths and byte classes of a set of secrets.
///
/// Two sets of equal shape have the same [`longest`](Self::longest) and the same delimiters, so that a stream which
/// holds neither's values is released at the same points.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Shape {
    longest: usize,
    classes: u8,
}

impl Shape {
    /// The shape of one value, and of the user name that it may be rendered with (which is not secret).
    pub(super) fn of(value: &[u8], user: Option<&str>) -> Self {
        let basic = user.map_or(0, |user| BASE64_CHAR_MAX * base64_length(user.len() + 1 + value.len()));
        Self {
            longest: basic.max(value.len() * ENCODED_BYTE_MAX),
            classes: value.iter().fold(0, |classes, &byte| classes | class(byte)),
        }
    }

    /// The shape of both sets together.
    #[must_use]
    pub(super) fn union(self, other: Self) -> Self {
        Self {
            longest: self.longest.max(other.longest),
            classes: self.classes | other.classes,
        }
    }

    /// The most bytes that an encoded value of this shape can have; zero if there is no secret.
    pub fn longest(self) -> usize {
        self.longest
    }

    /// For each byte, whether it can occur in no encoding of any value of this shape.
    pub fn delimiters(self) -> [bool; 256] {
        let mut delimiters = [false; 256];
        for (byte, delimiter) in (0..=u8::MAX).zip(&mut delimiters) {
            let class = class(byte);
            *delimiter = class != WORD && class & self.classes == 0;
        }
        delimiters
    }
}

/// The class of a byte. Coarse on purpose: a shape tells six facts about the values, no more.
fn class(byte: u8) -> u8 {
    match byte {
        b'\n' | b'\r' => LINE,
        b' ' | b'\t' => BLANK,
        0..0x20 | 0x7f => CONTROL,
        0x80.. => HIGH,
        b'-' | b'.' | b'_' | b'~' | b'+' | b'/' | b'=' | b'%' | b'\\' | b'&' | b'#' | b';' => WORD,
        _ if byte.is_ascii_alphanumeric() => WORD,
        _ => PUNCTUATION,
    }
}

fn base64_length(length: usize) -> usize {
    length.div_ceil(3) * 4
}

/// Letters, digits, the other bytes of token68 (RFC 9110 §11.2), and what escapes are written with. Any encoding
/// may hold these, so they never delimit.
const WORD: u8 = 0;
const LINE: u8 = 1;
const BLANK: u8 = 2;
const CONTROL: u8 = 4;
const HIGH: u8 = 8;
const PUNCTUATION: u8 = 16;

/// `\u0041` and `&#x41;`: the longest that an encoding makes of one byte.
const ENCODED_BYTE_MAX: usize = 6;
/// `%2B`: the longest that an encoding makes of one character of base64.
const BASE64_CHAR_MAX: usize = 3;
