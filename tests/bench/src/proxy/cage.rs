//! A process within a memory limit: a control group of its own, of either version of the kernel's interface.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

/// A control group with a limit; removed with this, once its process has ended.
pub(crate) struct Cage {
    directory: PathBuf,
}

impl Cage {
    /// Puts a process into a group that may have this many bytes, buffers of its files and sockets included; what it had
    /// before isn't counted. Needs a writable hierarchy, as root has.
    pub(crate) fn around(process: u32, bytes: u64) -> io::Result<Self> {
        let root = Path::new("/sys/fs/cgroup");
        let (parent, limit) = if root.join("memory").is_dir() {
            (root.join("memory"), "memory.limit_in_bytes")
        } else {
            (root.to_owned(), "memory.max")
        };
        let directory = parent.join(format!("berth-bench-{process}"));
        fs::create_dir(&directory)?;
        let cage = Self { directory };
        fs::write(cage.directory.join(limit), bytes.to_string())?;
        fs::write(cage.directory.join("cgroup.procs"), process.to_string())?;
        Ok(cage)
    }
}

impl Drop for Cage {
    fn drop(&mut self) {
        // A group can be removed a moment after its last process is gone, of which nobody tells.
        for _ in 0..TRIES {
            if fs::remove_dir(&self.directory).is_ok() {
                return;
            }
            sleep(PAUSE);
        }
        eprintln!("{} is left behind", self.directory.display());
    }
}

const TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(20);
