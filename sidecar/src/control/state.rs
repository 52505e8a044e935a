//! IO: `vault-state`, a memory volume that only this container sees and that dies with the pod. What is bound is one
//! file, replaced atomically; the events' numbers are a small file of their own, as they move with every event.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::held::Held;

/// The state directory.
#[derive(Debug)]
pub struct State {
    held: PathBuf,
    numbers: File,
}

/// Up to where events are numbered and acknowledged.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Numbers {
    /// The incarnation that they count in.
    pub incarnation: u64,
    /// Number of the next event.
    pub next: u64,
    /// Highest number that the controller holds durably.
    pub acked: u64,
}

/// What was kept can't be used. The sidecar ends rather than forget what it holds.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A file couldn't be read.
    #[error("failed to read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file couldn't be written.
    #[error("failed to keep the pod's state")]
    Write(#[source] io::Error),
    /// A file was read and makes no sense.
    #[error("{path} makes no sense; the pod has to be replaced")]
    Broken {
        /// Which.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
}

impl State {
    /// Opens the directory and reads what an earlier process left.
    pub fn open(directory: &Path) -> Result<(Self, Held, Numbers), StateError> {
        let held = directory.join(HELD);
        let path = directory.join(NUMBERS);
        let read = |source| StateError::Read {
            path: path.clone(),
            source,
        };
        let mut options = OpenOptions::new();
        let numbers = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(read)?;
        let state = Self { held, numbers };
        let numbers = state.read_numbers().map_err(read)?;
        let held = state.read_held()?;
        Ok((state, held, numbers))
    }

    fn read_held(&self) -> Result<Held, StateError> {
        match fs::read(&self.held) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|source| StateError::Broken {
                path: self.held.clone(),
                source,
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Held::default()),
            Err(source) => Err(StateError::Read {
                path: self.held.clone(),
                source,
            }),
        }
    }

    fn read_numbers(&self) -> io::Result<Numbers> {
        let mut bytes = [0; 24];
        match self.numbers.read_exact_at(&mut bytes, 0) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Numbers::default()),
            Err(error) => return Err(error),
        }
        let [incarnation, next, acked] = [0, 8, 16].map(|at| {
            let mut number = [0; 8];
            number
                .iter_mut()
                .zip(bytes.iter().skip(at))
                .for_each(|(to, from)| *to = *from);
            u64::from_be_bytes(number)
        });
        Ok(Numbers {
            incarnation,
            next,
            acked,
        })
    }

    /// Keeps what is bound.
    pub fn write_held(&self, held: &Held) -> Result<(), StateError> {
        let bytes = serde_json::to_vec(held).map_err(|error| StateError::Write(error.into()))?;
        write_atomically(&self.held, &bytes).map_err(StateError::Write)
    }

    /// Keeps the numbers; one write call, so that an end of the process can't tear it.
    pub fn write_numbers(&self, numbers: Numbers) -> Result<(), StateError> {
        let parts = [numbers.incarnation, numbers.next, numbers.acked].map(u64::to_be_bytes);
        self.numbers
            .write_all_at(parts.as_flattened(), 0)
            .map_err(StateError::Write)
    }
}

/// Writes a file of mode 0600 that is seen whole or not at all. It isn't synced: the volume is memory and goes with the
/// pod; what has to be survived is the end of this process.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let partial = path.with_extension("partial");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&partial)?;
    file.write_all(bytes)?;
    fs::rename(&partial, path)
}

const HELD: &str = "held.json";
const NUMBERS: &str = "numbers";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let (state, held, numbers) = State::open(directory.path()).unwrap();
        assert_eq!((held, numbers), (Held::default(), Numbers::default()));
        let numbers = Numbers {
            incarnation: 3,
            next: 1 << 40,
            acked: 7,
        };
        let mut held = Held::default();
        held.gate.epoch = 5;
        state.write_numbers(numbers).unwrap();
        state.write_held(&held).unwrap();
        let (_, held_again, numbers_again) = State::open(directory.path()).unwrap();
        assert_eq!((held_again, numbers_again), (held, numbers));
    }

    #[test]
    fn a_broken_state_is_an_error_and_not_a_fresh_start() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(HELD), b"{").unwrap();
        assert!(matches!(State::open(directory.path()), Err(StateError::Broken { .. })));
    }
}
