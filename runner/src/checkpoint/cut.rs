//! Pure: a stream of bytes → chunks by content, so that a change moves the chunks that it touches and no others.

use std::io::{self, Write};

use berth_protocol::checkpoint::CHUNK_MAX;
use fastcdc::v2020::FastCDC;
use sha2::{Digest, Sha256};

/// Takes bytes in and gives chunks to `sink`.
pub struct Cutter<F> {
    pending: Vec<u8>,
    whole: Sha256,
    bytes: u64,
    chunks: u32,
    sink: F,
}

/// What went through.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Whole {
    /// SHA-256 of all of it, in hex.
    pub digest: String,
    /// How many bytes.
    pub bytes: u64,
    /// How many chunks.
    pub chunks: u32,
}

impl<F: FnMut(&[u8]) -> io::Result<()>> Cutter<F> {
    /// At the beginning.
    pub fn new(sink: F) -> Self {
        Self {
            pending: Vec::with_capacity(BUFFER),
            whole: Sha256::new(),
            bytes: 0,
            chunks: 0,
            sink,
        }
    }

    /// The end: gives the last chunks.
    pub fn finish(mut self) -> io::Result<Whole> {
        self.cut(0)?;
        Ok(Whole {
            digest: hex::encode(self.whole.finalize()),
            bytes: self.bytes,
            chunks: self.chunks,
        })
    }

    /// Cuts while more than `keep` bytes are there: where a chunk ends depends on the [`CHUNK_MAX`] bytes from its
    /// beginning on, and on nothing else.
    fn cut(&mut self, keep: usize) -> io::Result<()> {
        let mut cut = 0;
        for chunk in FastCDC::new(&self.pending, CHUNK_MIN, CHUNK_AVERAGE, CHUNK_MAX) {
            if self.pending.len() - chunk.offset <= keep {
                break;
            }
            cut = chunk.offset + chunk.length;
            self.chunks += 1;
            (self.sink)(&self.pending[chunk.offset..cut])?;
        }
        self.pending.drain(..cut);
        Ok(())
    }
}

impl<F: FnMut(&[u8]) -> io::Result<()>> Write for Cutter<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.whole.update(bytes);
        self.bytes += bytes.len() as u64;
        self.pending.extend_from_slice(bytes);
        if self.pending.len() >= BUFFER {
            self.cut(CHUNK_MAX)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Four of the longest chunks: what stays is moved once in that many.
const BUFFER: usize = 4 * CHUNK_MAX;
/// An eighth, a half … as fastcdc's authors measured them: chunks near the average, and few of the longest.
const CHUNK_MIN: usize = 16 << 10;
/// A changed line costs this much, compressed; 256 MiB are 4,096 chunks.
const CHUNK_AVERAGE: usize = 64 << 10;
