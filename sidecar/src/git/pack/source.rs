//! IO: bytes of a file from a place on, and zlib streams in it. Counts the work.

use std::fs::File;
use std::os::unix::fs::FileExt;

use flate2::{Decompress, FlushDecompress, Status};

use super::{PackError, WORK_MAX};

/// A reader that can be set to any place.
pub(super) struct Source<'a> {
    file: &'a File,
    end: u64,
    /// Of what is buffered.
    offset: u64,
    buffer: Vec<u8>,
    used: usize,
    zlib: Decompress,
    inflated: Vec<u8>,
    work: u64,
}

impl<'a> Source<'a> {
    pub(super) fn new(file: &'a File, begin: u64, end: u64) -> Self {
        Self {
            file,
            end,
            offset: begin,
            buffer: Vec::new(),
            used: 0,
            zlib: Decompress::new(true),
            inflated: vec![0; BUFFER],
            work: WORK_MAX,
        }
    }

    /// Of the next byte, in the file.
    pub(super) fn position(&self) -> u64 {
        self.offset + self.used as u64
    }

    pub(super) fn seek(&mut self, position: u64) {
        let within = position
            .checked_sub(self.offset)
            .and_then(|used| usize::try_from(used).ok());
        if let Some(used) = within.filter(|used| *used <= self.buffer.len()) {
            self.used = used;
        } else {
            (self.offset, self.used) = (position, 0);
            self.buffer.clear();
        }
    }

    /// What is there of the following bytes; nothing at the end.
    pub(super) fn available(&mut self) -> Result<&[u8], PackError> {
        if self.used == self.buffer.len() {
            self.offset += self.used as u64;
            let left = self.end.saturating_sub(self.offset).min(BUFFER as u64);
            self.buffer.resize(usize::try_from(left).unwrap_or_default(), 0);
            self.used = 0;
            self.file.read_exact_at(&mut self.buffer, self.offset)?;
        }
        Ok(&self.buffer[self.used..])
    }

    pub(super) fn consume(&mut self, count: usize) {
        self.used += count;
    }

    pub(super) fn byte(&mut self) -> Result<u8, PackError> {
        let byte = self.available()?.first().copied().ok_or(TRUNCATED)?;
        self.consume(1);
        Ok(byte)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], PackError> {
        let mut bytes = [0; N];
        for byte in &mut bytes {
            *byte = self.byte()?;
        }
        Ok(bytes)
    }

    /// Inflates the stream that begins here, which must hold `size` bytes.
    pub(super) fn inflate(&mut self, size: u64, sink: &mut dyn FnMut(&[u8])) -> Result<(), PackError> {
        self.zlib.reset(true);
        let mut left = size;
        loop {
            self.available()?;
            let before = (self.zlib.total_in(), self.zlib.total_out());
            let input = &self.buffer[self.used..];
            let status = self.zlib.decompress(input, &mut self.inflated, FlushDecompress::None);
            let status = status.map_err(|_corrupt| PackError::Corrupt("an object can't be inflated"))?;
            let read = usize::try_from(self.zlib.total_in() - before.0).unwrap_or_default();
            let made = usize::try_from(self.zlib.total_out() - before.1).unwrap_or_default();
            self.used += read;
            left = left.checked_sub(made as u64).ok_or(SIZE)?;
            self.spend(made)?;
            sink(&self.inflated[..made]);
            if status == Status::StreamEnd {
                break;
            }
            if read == 0 && made == 0 {
                return Err(TRUNCATED);
            }
        }
        if left == 0 { Ok(()) } else { Err(SIZE) }
    }

    /// Counts bytes that are made.
    pub(super) fn spend(&mut self, bytes: usize) -> Result<(), PackError> {
        self.work = self.work.checked_sub(bytes as u64).ok_or(PackError::Work)?;
        Ok(())
    }
}

const BUFFER: usize = 64 << 10;
const TRUNCATED: PackError = PackError::Corrupt("it ends too soon");
const SIZE: PackError = PackError::Corrupt("an object hasn't the size that it announces");
