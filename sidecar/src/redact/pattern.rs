//! Pure: the live secrets of a route in every form an upstream may echo them, and what stands in their place.

use std::fmt;
use std::ops::Range;

use bytes::{BufMut, BytesMut};

use super::index::{GRAM, Index, Match};
use super::shape::Shape;
use super::variant::{Instead, MARKER, Variant, variants};

/// A secret and what the agent knows in its place.
#[derive(Clone, Copy)]
pub struct Secret<'a> {
    /// Of the credential, for messages.
    pub name: &'a str,
    /// The real value.
    pub value: &'a [u8],
    /// Replaces the value.
    pub stub: &'a str,
    /// The user name it's sent with under HTTP's Basic scheme, if it's one that is known beforehand.
    pub user: Option<&'a str>,
}

impl<'a> From<(&'a str, &'a [u8], &'a str)> for Secret<'a> {
    fn from((name, value, stub): (&'a str, &'a [u8], &'a str)) -> Self {
        Self {
            name,
            value,
            stub,
            user: None,
        }
    }
}

impl fmt::Debug for Secret<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Secret")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Secrets that can't be redacted, and so must not be used.
#[derive(Debug, thiserror::Error)]
pub enum PatternsError {
    /// Would be found everywhere.
    #[error("the value of {name:?} has fewer than {VALUE_MIN} bytes: redaction can't tell it from ordinary text")]
    Short {
        /// Of the credential.
        name: String,
    },
    /// Too much would have to be held back.
    #[error("the value of {name:?} has more than {VALUE_MAX} bytes: redaction would hold back too much")]
    Long {
        /// Of the credential.
        name: String,
    },
    /// Beyond what was measured.
    #[error("more than {SECRETS_MAX} secrets on one route")]
    Many,
}

/// All forms of all secrets of a route. Its `Debug` shows counts only; the patterns are zeroed when it's dropped.
///
/// Forms: as it is and in lower case (header names); percent-encoded by eleven rules, JSON- and HTML-escaped, each with
/// both cases of digits; hex; base64 at three alignments, plain, in URLs and in JSON; and the Basic credentials where
/// the user is known.
pub struct Patterns {
    index: Index,
    /// For each pattern.
    replacements: Vec<Replacement>,
    stubs: Vec<Box<str>>,
    shape: Shape,
    delimiters: Box<[bool; 256]>,
}

struct Replacement {
    secret: usize,
    instead: Instead,
}

/// Whether a replacement may have another length than what it replaces.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Width {
    /// The stub, whatever its length.
    Free,
    /// As many bytes as before, so that framed messages stay readable: [`MARKER`] over and over unless the stub has
    /// the same length.
    Kept,
}

impl Patterns {
    /// Renders secrets in all their forms.
    pub fn new<'a, T: Into<Secret<'a>>>(secrets: impl IntoIterator<Item = T>) -> Result<Self, PatternsError> {
        let secrets: Vec<_> = secrets.into_iter().map(Into::into).collect();
        if secrets.len() > SECRETS_MAX {
            return Err(PatternsError::Many);
        }
        let mut shape = Shape::default();
        let mut stubs = Vec::new();
        let mut all = Vec::new();
        let mut replacements = Vec::new();
        for (number, secret) in secrets.into_iter().enumerate() {
            // Files of secrets often end in a newline that no header carries, and that no echo need have.
            let secret = Secret {
                value: secret.value.trim_ascii(),
                ..secret
            };
            check(&secret)?;
            shape = shape.union(Shape::of(secret.value, secret.user));
            stubs.push(secret.stub.into());
            for Variant { bytes, instead } in variants(&secret) {
                all.push(bytes);
                replacements.push(Replacement {
                    secret: number,
                    instead,
                });
            }
        }
        Ok(Self {
            index: Index::new(&all.iter().map(|bytes| bytes.as_slice()).collect::<Vec<_>>()),
            replacements,
            stubs,
            delimiters: Box::new(shape.delimiters()),
            shape,
        })
    }

    /// Whether there is nothing to redact.
    pub fn is_empty(&self) -> bool {
        self.stubs.is_empty()
    }

    /// The most bytes a match can have, by shape: no single pattern need be that long.
    pub fn longest(&self) -> usize {
        self.shape.longest()
    }

    /// Bytes that can occur in no form of a secret, by value.
    pub(super) fn delimiters(&self) -> &[bool; 256] {
        &self.delimiters
    }

    /// What release points may depend on.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The first match that begins in `from..limit`; of those that begin there, the longest.
    pub(super) fn find(&self, haystack: &[u8], from: usize, limit: usize) -> Option<Match> {
        self.index.find(haystack, from, limit)
    }

    /// Whether a secret occurs in a text, in any form.
    pub fn occur_in(&self, text: &[u8]) -> bool {
        self.find(text, 0, text.len()).is_some()
    }

    /// A whole text with its secrets replaced, and how many there were; `None` if there were none.
    pub fn redact(&self, text: &[u8], width: Width) -> Option<(BytesMut, u64)> {
        let redaction = self.redact_until(text, 0..text.len(), width)?;
        debug_assert_eq!(redaction.end, text.len());
        Some((redaction.text, redaction.count))
    }

    /// Replaces the matches that begin before `span.end`, in what isn't replaced already: all from `span.start` on.
    /// `None` if there are none. Matches that overlap are replaced as one, by what stands for the first: of the second,
    /// all but a few bytes would be left.
    pub(super) fn redact_until(&self, text: &[u8], span: Range<usize>, width: Width) -> Option<Redaction> {
        let Range {
            start: covered,
            end: limit,
        } = span;
        let mut found = self.find(text, 0, limit)?;
        let mut redaction = Redaction {
            text: BytesMut::with_capacity(limit),
            end: covered,
            count: 0,
        };
        loop {
            if found.start >= redaction.end {
                redaction.text.extend_from_slice(&text[redaction.end..found.start]);
                self.write(&found, width, &mut redaction.text);
                redaction.count += 1;
            } else if width == Width::Kept {
                fill(found.end.saturating_sub(redaction.end), &mut redaction.text);
            }
            redaction.end = redaction.end.max(found.end);
            match self.find(text, found.start + 1, limit) {
                Some(next) => found = next,
                None => break,
            }
        }
        if redaction.end < limit {
            redaction.text.extend_from_slice(&text[redaction.end..limit]);
            redaction.end = limit;
        }
        Some(redaction)
    }

    fn write(&self, found: &Match, width: Width, out: &mut BytesMut) {
        let length = found.end - found.start;
        let replacement = &self.replacements[found.pattern];
        let text = match &replacement.instead {
            Instead::Stub => self.stubs[replacement.secret].as_bytes(),
            Instead::Text(text) => text,
            Instead::Letters => return fill(length, out),
            Instead::Zeros => return out.put_bytes(b'0', length),
        };
        if width == Width::Kept && text.len() != length {
            fill(length, out);
        } else {
            out.extend_from_slice(text);
        }
    }
}

/// What stands for a text up to a point.
pub(super) struct Redaction {
    pub(super) text: BytesMut,
    /// How much of the original this stands for: the limit, or the end of a match that lay across it.
    pub(super) end: usize,
    pub(super) count: u64,
}

impl fmt::Debug for Patterns {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Patterns")
            .field("secrets", &self.stubs.len())
            .field("patterns", &self.index.len())
            .field("longest", &self.longest())
            .finish_non_exhaustive()
    }
}

fn check(secret: &Secret<'_>) -> Result<(), PatternsError> {
    let name = || secret.name.to_owned();
    match secret.value.len() {
        0..VALUE_MIN => Err(PatternsError::Short { name: name() }),
        VALUE_MIN..=VALUE_MAX => Ok(()),
        _ => Err(PatternsError::Long { name: name() }),
    }
}

fn fill(length: usize, out: &mut BytesMut) {
    out.extend(MARKER.iter().cycle().take(length));
}

/// A gram of the index; no form is shorter than the value.
pub const VALUE_MIN: usize = GRAM;
/// What servers commonly take as one header line. Six times this is held back.
pub const VALUE_MAX: usize = 8192;
/// Times at most 102 forms of 16 grams of 12 bytes.
pub const SECRETS_MAX: usize = 10_000;
