//! Where the trail is kept: lines of JSON in a file, or a spool that the controller empties.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::{AuditError, Record, Use};

/// Where the trail is kept.
pub struct Sink {
    file: File,
    /// Lines that nothing waits for: how uses ended, and denials. They go to the file with the next use, or at the next
    /// [`Sink::flush`].
    pending: Vec<u8>,
    /// Number of the next use.
    next: u64,
    spool: Option<Spool>,
}

/// Records that the controller hasn't stored. The file holds them as well, for the next process of this pod.
struct Spool {
    path: PathBuf,
    waiting: VecDeque<Waiting>,
    /// Position of the next record, from 1.
    next: u64,
    bytes: usize,
    in_file: usize,
}

struct Waiting {
    position: u64,
    bytes: usize,
    record: Record,
}

impl Sink {
    /// Appends lines to a file without a limit; `-` is standard output.
    pub fn lines(path: &Path) -> io::Result<Self> {
        let path = if path == Path::new("-") {
            Path::new("/dev/stdout")
        } else {
            path
        };
        Ok(Self {
            file: appending(path)?,
            pending: Vec::new(),
            next: 1,
            spool: None,
        })
    }

    /// A spool of at most [`SPOOL_MAX`] in this directory, with what an earlier process left.
    pub fn spool(directory: &Path) -> io::Result<Self> {
        let path = directory.join(FILE);
        let mut spool = Spool {
            path: path.clone(),
            waiting: VecDeque::new(),
            next: 1,
            bytes: 0,
            in_file: 0,
        };
        let text = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            text => text?,
        };
        let mut next = 1;
        for line in text.lines() {
            let Ok(record) = serde_json::from_str::<Record>(line) else {
                continue; // the last line of a process that was killed
            };
            if let Record::Use(used) = &record {
                next = next.max(used.number + 1);
            }
            spool.push(record, line.len() + 1);
        }
        Ok(Self {
            file: appending(&path)?,
            pending: Vec::new(),
            next,
            spool: Some(spool),
        })
    }

    /// Writes a use down and gives its number. It is in the file when this returns.
    pub fn begin(&mut self, mut used: Use) -> Result<u64, AuditError> {
        used.number = self.next;
        self.note(Record::Use(used))?;
        self.next += 1;
        Ok(self.next - 1)
    }

    /// Writes a record down; one that isn't a use reaches the file a little later.
    pub fn note(&mut self, record: Record) -> Result<(), AuditError> {
        let before = self.pending.len();
        let noted = self.append(&record);
        if noted.is_err() {
            self.pending.truncate(before);
        }
        let bytes = noted?;
        if let Some(spool) = &mut self.spool {
            spool.push(record, bytes);
        }
        Ok(())
    }

    /// Gives the length of the line.
    fn append(&mut self, record: &Record) -> Result<usize, AuditError> {
        let before = self.pending.len();
        serde_json::to_writer(&mut self.pending, record).map_err(|error| AuditError::Write(error.into()))?;
        self.pending.push(b'\n');
        let bytes = self.pending.len() - before;
        let is_use = matches!(record, Record::Use(_));
        let limit = if is_use { SPOOL_USES_MAX } else { SPOOL_MAX };
        if self.spool.as_ref().is_some_and(|spool| spool.bytes + bytes > limit) {
            return Err(AuditError::Full);
        }
        if is_use || self.pending.len() > PENDING_MAX {
            self.flush().map_err(AuditError::Write)?;
        }
        Ok(bytes)
    }

    /// Writes what is pending.
    pub fn flush(&mut self) -> io::Result<()> {
        if !self.pending.is_empty() {
            self.file.write_all(&self.pending)?;
            self.pending.clear();
        }
        Ok(())
    }

    /// The record that follows `position`, with its own.
    pub fn after(&self, position: u64) -> Option<(u64, Record)> {
        let waiting = &self.spool.as_ref()?.waiting;
        let first = waiting.front()?.position;
        let index = usize::try_from((position + 1).saturating_sub(first)).ok()?;
        let found = waiting.get(index)?;
        Some((found.position, found.record.clone()))
    }

    /// The controller has stored everything up to and including `position`.
    pub fn acknowledge(&mut self, position: u64) -> io::Result<()> {
        let Some(spool) = &mut self.spool else { return Ok(()) };
        while let Some(stored) = spool.waiting.pop_front_if(|waiting| waiting.position <= position) {
            spool.bytes = spool.bytes.saturating_sub(stored.bytes);
        }
        if spool.in_file > REWRITE_AT && spool.bytes < spool.in_file / 2 {
            self.file = spool.rewrite()?;
            self.pending.clear(); // what of it isn't stored is in the new file
        }
        Ok(())
    }
}

impl Spool {
    fn push(&mut self, record: Record, bytes: usize) {
        self.waiting.push_back(Waiting {
            position: self.next,
            bytes,
            record,
        });
        self.next += 1;
        self.bytes += bytes;
        self.in_file += bytes;
    }

    /// A file without what was stored, put in place of the other one.
    fn rewrite(&mut self) -> io::Result<File> {
        let mut text = Vec::with_capacity(self.bytes);
        for waiting in &self.waiting {
            serde_json::to_writer(&mut text, &waiting.record)?;
            text.push(b'\n');
        }
        crate::control::state::write_atomically(&self.path, &text)?;
        self.in_file = text.len();
        appending(&self.path)
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        let _ = self.flush(); // nobody is left to be told
    }
}

fn appending(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

const FILE: &str = "uses";
/// DESIGN §7: 16 MiB, a quarter of the volume; about 50,000 uses.
const SPOOL_MAX: usize = 16 << 20;
/// The rest is kept for how they end.
const SPOOL_USES_MAX: usize = 12 << 20;
/// A few hundred lines; written sooner than at the next flush when there are more.
const PENDING_MAX: usize = 64 << 10;
/// Rewriting is rare and cheap.
const REWRITE_AT: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::Outcome;

    fn used(path: &str) -> Use {
        Use {
            path: path.to_owned(),
            ..Use::default()
        }
    }

    #[test]
    fn what_isnt_stored_survives_a_restart_and_numbers_go_on() {
        let directory = tempfile::tempdir().unwrap();
        let mut sink = Sink::spool(directory.path()).unwrap();
        assert_eq!(sink.begin(used("/a")).unwrap(), 1);
        assert_eq!(sink.begin(used("/b")).unwrap(), 2);
        sink.note(Record::Outcome(Outcome::default())).unwrap();
        drop(sink);
        let mut sink = Sink::spool(directory.path()).unwrap();
        assert_eq!(sink.begin(used("/c")).unwrap(), 3);
        assert_eq!(sink.after(0).unwrap().0, 1);
        assert_eq!(sink.after(2).unwrap().1, Record::Outcome(Outcome::default()));
        sink.acknowledge(3).unwrap();
        assert_eq!(sink.after(0).unwrap().0, 4);
        assert!(sink.after(4).is_none());
    }

    #[test]
    fn the_end_of_a_use_is_written_with_the_next_use_or_a_flush() {
        let directory = tempfile::tempdir().unwrap();
        let lines = || {
            let text = std::fs::read_to_string(directory.path().join(FILE)).unwrap();
            text.lines()
                .map(|line| line.get(2..5).unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        let mut sink = Sink::spool(directory.path()).unwrap();
        sink.begin(used("/a")).unwrap();
        assert_eq!(lines(), ["use"]);
        sink.note(Record::Outcome(Outcome::default())).unwrap();
        assert_eq!(lines(), ["use"]);
        assert_eq!(sink.after(1).unwrap().1, Record::Outcome(Outcome::default()));
        sink.begin(used("/b")).unwrap();
        assert_eq!(lines(), ["use", "out", "use"]);
        sink.note(Record::Outcome(Outcome::default())).unwrap();
        sink.flush().unwrap();
        assert_eq!(lines(), ["use", "out", "use", "out"]);
        sink.note(Record::Outcome(Outcome::default())).unwrap();
        drop(sink);
        assert_eq!(lines(), ["use", "out", "use", "out", "out"]);
    }

    #[test]
    fn a_full_spool_refuses_uses_and_still_takes_their_ends() {
        let directory = tempfile::tempdir().unwrap();
        let mut sink = Sink::spool(directory.path()).unwrap();
        let path = "/".repeat(1 << 20);
        let refused = (0..32)
            .map(|_| sink.begin(used(&path)))
            .position(|begun| begun.is_err());
        assert_eq!(refused, Some(11), "12 MiB hold eleven of them and their fields");
        sink.note(Record::Outcome(Outcome::default())).unwrap();
        sink.acknowledge(5).unwrap();
        sink.begin(used(&path)).unwrap();
    }
}
