//! The four decoders behind one call that takes some input and gives some output.

use std::io;

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};
use compression_codecs::core::util::{PartialBuffer, WriteBuffer};
use compression_codecs::zstd::params::DParameter;
use compression_codecs::{DecodeV2, GzipDecoder, ZlibDecoder, ZstdDecoder};

use super::Coding;

/// A decoder of one coding.
pub(super) enum Codec {
    Gzip(Box<GzipDecoder>),
    Deflate(ZlibDecoder),
    Brotli(Box<Brotli>),
    Zstd(ZstdDecoder),
}

type Brotli = BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>;

/// What one call did.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    pub(super) taken: usize,
    pub(super) given: usize,
    pub(super) ended: bool,
}

impl Codec {
    pub(super) fn new(coding: Coding) -> Self {
        match coding {
            Coding::Gzip => Self::Gzip(Box::default()),
            Coding::Deflate => Self::Deflate(ZlibDecoder::new()),
            Coding::Brotli => Self::Brotli(brotli()),
            Coding::Zstd => Self::Zstd(ZstdDecoder::new_with_params(&[DParameter::window_log_max(
                ZSTD_WINDOW_LOG_MAX,
            )])),
        }
    }

    /// Decodes from `input` into `room`. Empty input asks for what the decoder still holds.
    pub(super) fn decode(&mut self, input: &[u8], room: &mut [u8]) -> io::Result<Progress> {
        let mut input = PartialBuffer::new(input);
        let mut output = WriteBuffer::new_initialized(room);
        let ended = match self {
            Self::Gzip(decoder) => inflate(&mut **decoder, &mut input, &mut output)?,
            Self::Deflate(decoder) => inflate(decoder, &mut input, &mut output)?,
            Self::Brotli(state) => unbrotli(state, &mut input, &mut output)?,
            Self::Zstd(decoder) => decoder.decode(&mut input, &mut output)?,
        };
        Ok(Progress {
            taken: input.written_len(),
            given: output.written_len(),
            ended,
        })
    }

    /// Whether another member or frame may follow the end of one.
    pub(super) fn has_members(&self) -> bool {
        matches!(self, Self::Gzip(_) | Self::Zstd(_))
    }

    /// Begins the next member or frame.
    pub(super) fn restart(&mut self) -> io::Result<()> {
        match self {
            Self::Gzip(decoder) => decoder.reinit(),
            Self::Deflate(decoder) => decoder.reinit(),
            Self::Brotli(state) => {
                *state = brotli();
                Ok(())
            }
            Self::Zstd(decoder) => decoder.reinit(),
        }
    }

    /// Whether the end of the stream has been read, for inflate, which may learn so only when it's asked for more.
    pub(super) fn is_finished(&mut self) -> bool {
        let mut room = [0];
        let mut output = WriteBuffer::new_initialized(&mut room);
        let finished = match self {
            Self::Gzip(decoder) => decoder.finish(&mut output),
            Self::Deflate(decoder) => decoder.finish(&mut output),
            Self::Brotli(_) | Self::Zstd(_) => return false,
        };
        matches!(finished, Ok(true)) && output.written_len() == 0
    }
}

/// Without input, inflate takes a call for an error that has nothing to give; a flush isn't.
fn inflate(
    decoder: &mut impl DecodeV2,
    input: &mut PartialBuffer<&[u8]>,
    output: &mut WriteBuffer<'_>,
) -> io::Result<bool> {
    if input.unwritten().is_empty() {
        decoder.flush(output)?;
        Ok(false)
    } else {
        decoder.decode(input, output)
    }
}

/// Strict: `BrotliState::new` would take large windows, and allocate up to 1 GiB because a header says so.
fn brotli() -> Box<Brotli> {
    Box::new(BrotliState::new_strict(
        StandardAlloc::default(),
        StandardAlloc::default(),
        StandardAlloc::default(),
    ))
}

fn unbrotli(state: &mut Brotli, input: &mut PartialBuffer<&[u8]>, output: &mut WriteBuffer<'_>) -> io::Result<bool> {
    let (bytes, room) = (input.unwritten(), output.initialize_unwritten());
    let (mut taken, mut given) = (0, 0);
    let (mut available, mut space) = (bytes.len(), room.len());
    let result = BrotliDecompressStream(
        &mut available,
        &mut taken,
        bytes,
        &mut space,
        &mut given,
        room,
        &mut 0,
        state,
    );
    input.advance(taken);
    output.advance(given);
    match result {
        BrotliResult::ResultSuccess => Ok(true),
        BrotliResult::NeedsMoreInput | BrotliResult::NeedsMoreOutput => Ok(false),
        BrotliResult::ResultFailure => Err(io::Error::new(io::ErrorKind::InvalidData, "not a brotli stream")),
    }
}

/// 8 MiB, the most that the content coding allows (RFC 9659 §3).
const ZSTD_WINDOW_LOG_MAX: u32 = 23;
