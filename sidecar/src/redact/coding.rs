//! Pure: `Content-Encoding` undone, piece by piece. Anything in doubt is an error: an unknown coding, bytes that
//! aren't what the label says, an end that comes too early or too late, more output than input can account for.

use std::io;

use bytes::{Buf, Bytes};
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, ETAG, HeaderName, HeaderValue};

use self::codec::Codec;

mod codec;

#[cfg(test)]
pub(super) mod tests;

/// A content coding that can be undone (RFC 9110 §8.4.1, RFC 7932, RFC 9659).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Coding {
    /// RFC 1952, one or more members.
    Gzip,
    /// RFC 1950; not the bare RFC 1951 that some servers send.
    Deflate,
    /// RFC 7932, without large windows.
    Brotli,
    /// RFC 8878, windows to 8 MiB, one or more frames.
    Zstd,
}

/// Why a body can't be decoded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not one of the four.
    #[error("the content coding {0:?} isn't known")]
    Unknown(String),
    /// A cascade of decoders costs memory.
    #[error("more than {CODINGS_MAX} content codings")]
    Many,
    /// Wrong label, or damaged.
    #[error("the body isn't {coding:?} as it says")]
    Corrupt {
        /// What it says.
        coding: Coding,
        /// What the decoder says.
        source: io::Error,
    },
    /// It broke off.
    #[error("the body ends within {0:?}")]
    Truncated(Coding),
    /// Bytes that a more lenient reader would find.
    #[error("the body goes on after the end of {0:?}")]
    Trailing(Coding),
    /// A bomb.
    #[error("the body grows more than {RATIO_MAX} times when decoded")]
    Ratio,
    /// A big bomb.
    #[error("the decoded body has more than {0} bytes")]
    Large(u64),
}

/// The codings of a response in the order they were applied; empty if there are none.
pub fn codings(headers: &HeaderMap) -> Result<Vec<Coding>, Error> {
    let mut codings = Vec::new();
    for value in headers.get_all(CONTENT_ENCODING) {
        let value = value.to_str().map_err(|_opaque| Error::Unknown(format!("{value:?}")))?;
        for name in value.split(',').map(|name| name.trim().to_ascii_lowercase()) {
            match name.as_str() {
                "" | "identity" => {}
                "gzip" | "x-gzip" => codings.push(Coding::Gzip),
                "deflate" => codings.push(Coding::Deflate),
                "br" => codings.push(Coding::Brotli),
                "zstd" => codings.push(Coding::Zstd),
                _ => return Err(Error::Unknown(name)),
            }
        }
    }
    if codings.len() > CODINGS_MAX {
        return Err(Error::Many);
    }
    Ok(codings)
}

/// Makes a head speak of the decoded body: no length, no digests of other bytes, a strong `ETag` made weak.
pub fn relabel(headers: &mut HeaderMap) {
    for name in UNTRUE {
        headers.remove(name);
    }
    let weak = headers.get(ETAG).map(|tag| match tag.as_bytes() {
        tag if tag.starts_with(b"W/") => HeaderValue::from_bytes(tag),
        tag => HeaderValue::from_bytes(&[b"W/", tag].concat()),
    });
    match weak {
        Some(Ok(tag)) => drop(headers.insert(ETAG, tag)),
        _ => drop(headers.remove(ETAG)),
    }
}

/// Bounds of what a body may become.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes that one body may have once decoded.
    pub bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: BYTES_MAX }
    }
}

/// Undoes the codings of one body. Takes input by [`push`](Self::push), gives output by [`pull`](Self::pull).
pub struct Decoder {
    /// The one that was applied last comes first.
    stages: Vec<Stage>,
    limits: Limits,
    taken: u64,
    /// Where output is written first.
    room: Box<[u8]>,
}

struct Stage {
    coding: Coding,
    codec: Codec,
    input: Bytes,
    given: u64,
    /// Nothing was ever fed: an empty body stays empty whatever its label (a `HEAD`, a 304).
    fresh: bool,
    /// A member or frame is complete.
    ended: bool,
    /// The last piece of output filled its room, so there may be more.
    full: bool,
}

impl Decoder {
    /// Begins a body; `codings` as from [`codings`].
    pub fn new(codings: &[Coding], limits: Limits) -> Self {
        Self {
            stages: codings.iter().rev().map(|&coding| Stage::new(coding)).collect(),
            limits,
            taken: 0,
            room: vec![0; PIECE].into(),
        }
    }

    /// Takes input; only once [`pull`](Self::pull) has said that it needs some.
    pub fn push(&mut self, input: Bytes) {
        self.taken += input.len() as u64;
        if let Some(first) = self.stages.first_mut() {
            debug_assert!(first.input.is_empty(), "input pushed before it was asked for");
            first.fresh &= input.is_empty();
            first.input = input;
        }
    }

    /// The next piece of output, at most [`PIECE`] bytes; `None` once input is needed.
    pub fn pull(&mut self) -> Result<Option<Bytes>, Error> {
        match self.stages.len().checked_sub(1) {
            Some(last) => self.pull_from(last),
            None => Ok(None),
        }
    }

    /// At the end of the input, after [`pull`](Self::pull) gave all there is.
    pub fn finish(&mut self) -> Result<(), Error> {
        self.stages.iter_mut().try_for_each(Stage::finish)
    }

    fn pull_from(&mut self, number: usize) -> Result<Option<Bytes>, Error> {
        loop {
            let piece = self.stages[number].step(&mut self.room)?;
            if !piece.is_empty() {
                self.check(number)?;
                return Ok(Some(piece));
            }
            if self.stages[number].has_work() {
                continue;
            }
            let Some(before) = number.checked_sub(1) else {
                return Ok(None);
            };
            match self.pull_from(before)? {
                Some(input) => {
                    self.stages[number].input = input;
                    self.stages[number].fresh = false;
                }
                None => return Ok(None),
            }
        }
    }

    fn check(&self, number: usize) -> Result<(), Error> {
        let given = self.stages[number].given;
        if given > self.limits.bytes {
            Err(Error::Large(self.limits.bytes))
        } else if given > RATIO_FLOOR.max(self.taken.saturating_mul(RATIO_MAX)) {
            Err(Error::Ratio)
        } else {
            Ok(())
        }
    }
}

impl Stage {
    fn new(coding: Coding) -> Self {
        Self {
            coding,
            codec: Codec::new(coding),
            input: Bytes::new(),
            given: 0,
            fresh: true,
            ended: false,
            full: false,
        }
    }

    fn has_work(&self) -> bool {
        self.full || !self.input.is_empty()
    }

    /// One call of the codec. Output that comes with an error is dropped.
    fn step(&mut self, room: &mut [u8]) -> Result<Bytes, Error> {
        if !self.has_work() {
            return Ok(Bytes::new());
        }
        let coding = self.coding;
        let corrupt = |source| Error::Corrupt { coding, source };
        if self.ended {
            if !self.codec.has_members() {
                return Err(Error::Trailing(coding));
            }
            self.codec.restart().map_err(corrupt)?;
            self.ended = false;
        }
        let progress = self.codec.decode(&self.input, room).map_err(corrupt)?;
        self.input.advance(progress.taken);
        self.given += progress.given as u64;
        self.ended = progress.ended;
        self.full = progress.given == room.len() && !progress.ended;
        if progress.given == 0 && progress.taken == 0 && !progress.ended && !self.input.is_empty() {
            return Err(corrupt(io::Error::other("the decoder doesn't get on")));
        }
        Ok(Bytes::copy_from_slice(&room[..progress.given]))
    }

    fn finish(&mut self) -> Result<(), Error> {
        if self.fresh || self.ended || self.codec.is_finished() {
            Ok(())
        } else {
            Err(Error::Truncated(self.coding))
        }
    }
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let codings: Vec<_> = self.stages.iter().map(|stage| stage.coding).collect();
        formatter
            .debug_struct("Decoder")
            .field("codings", &codings)
            .finish_non_exhaustive()
    }
}

/// Output at a time. What a bomb can make of one push stays in the decoder until it's pulled.
const PIECE: usize = 32 * 1024;
/// Servers stack two at most; each may hold a window of 16 MiB.
const CODINGS_MAX: usize = 3;
/// Of decoded to received bytes (research/vault-proxy.md, row 65); text seldom goes beyond 20.
const RATIO_MAX: u64 = 100;
/// Short bodies of one letter may do better than that.
const RATIO_FLOOR: u64 = 1024 * 1024;
/// Packs and images come without a content coding; nothing else is this large.
const BYTES_MAX: u64 = 1024 * 1024 * 1024;

const UNTRUE: [HeaderName; 6] = [
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
];
