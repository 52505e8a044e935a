//! Pure: a byte stream with its secrets replaced, whatever chunks it comes in.
//!
//! What is released depends on positions and on public delimiters only: everything up to the last byte that can
//! occur in no form of a secret of this shape, else all but the last L−1 bytes, L being the longest form. There is
//! no timer: one that flushes when "nothing looks like a secret" would tell an agent, guess by guess, what does.

use std::mem;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::pattern::{Patterns, Width};

/// Replaces the secrets of one stream.
pub struct Redactor {
    patterns: Arc<Patterns>,
    width: Width,
    /// Without a delimiter, at most L−1 bytes.
    held: Bytes,
    /// How much of that was part of a match that began before it, and is replaced: another may begin there.
    covered: usize,
    count: u64,
}

impl Redactor {
    /// Begins a stream.
    pub fn new(patterns: Arc<Patterns>, width: Width) -> Self {
        Self {
            patterns,
            width,
            held: Bytes::new(),
            covered: 0,
            count: 0,
        }
    }

    /// Takes the next chunk; returns what may be released, without copying it where nothing was found.
    pub fn push(&mut self, mut chunk: Bytes) -> Vec<Bytes> {
        let mut released = Vec::with_capacity(2);
        let mut point = self.release_point(&chunk);
        if !self.held.is_empty() {
            let held = mem::take(&mut self.held);
            let overlap = chunk.len().min(self.reach());
            let joined = concat(&held, &chunk[..overlap]);
            if overlap == chunk.len() {
                chunk = joined;
            } else {
                // Every match that begins in what was held ends within the overlap, and `point` lies beyond.
                self.release(&joined, held.len(), &mut released);
                point -= held.len();
            }
        }
        self.release(&chunk, point, &mut released);
        // Copied, so that a few bytes don't keep the whole chunk alive.
        self.held = Bytes::copy_from_slice(&chunk[point..]);
        released
    }

    /// Takes the last chunk; returns all that is left, in one piece. That nothing follows is public.
    pub fn push_last(&mut self, chunk: Bytes) -> Bytes {
        self.held = if self.held.is_empty() {
            chunk
        } else {
            concat(&self.held, &chunk)
        };
        self.end_message()
    }

    /// Ends a message of the stream, by its framing, which is public: the rest of it. A secret that lies across two
    /// messages isn't found.
    pub fn end_message(&mut self) -> Bytes {
        let mut released = Vec::with_capacity(1);
        let held = mem::take(&mut self.held);
        self.release(&held, held.len(), &mut released);
        released.pop().unwrap_or_default()
    }

    /// Ends the stream: the rest.
    pub fn finish(mut self) -> (Bytes, u64) {
        (self.end_message(), self.count)
    }

    /// How many secrets were replaced so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Where, in what is held and the chunk after it, everything before can be judged.
    fn release_point(&self, chunk: &[u8]) -> usize {
        let total = self.held.len() + chunk.len();
        let by_position = total.saturating_sub(self.reach());
        let tail = &chunk[chunk.len().saturating_sub(self.reach())..];
        let after_delimiter = tail
            .iter()
            .rposition(|&byte| self.patterns.delimiters()[usize::from(byte)]);
        after_delimiter.map_or(by_position, |at| total - tail.len() + at + 1)
    }

    /// Releases what stands for `data` up to `point`, and for the rest of a match that lies across it.
    fn release(&mut self, data: &Bytes, point: usize, released: &mut Vec<Bytes>) {
        let (piece, end) = match self.patterns.redact_until(data, self.covered..point, self.width) {
            Some(redaction) => {
                self.count += redaction.count;
                (redaction.text.freeze(), redaction.end)
            }
            None => (data.slice(self.covered.min(point)..point), self.covered.max(point)),
        };
        self.covered = end - point;
        if !piece.is_empty() {
            released.push(piece);
        }
    }

    /// Bytes after a match's first byte that belong to it, at most.
    fn reach(&self) -> usize {
        self.patterns.longest().saturating_sub(1)
    }
}

impl std::fmt::Debug for Redactor {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Redactor")
            .field("patterns", &self.patterns)
            .field("held_bytes", &self.held.len())
            .field("count", &self.count)
            .finish_non_exhaustive()
    }
}

fn concat(left: &[u8], right: &[u8]) -> Bytes {
    let mut both = BytesMut::with_capacity(left.len() + right.len());
    both.extend_from_slice(left);
    both.extend_from_slice(right);
    both.freeze()
}
