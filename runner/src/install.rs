//! Copies the runner's own executable into the volume that the agent's container sees read-only. A half-written
//! program is never seen under the final name.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The runner couldn't be installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The own executable couldn't be read.
    #[error("failed to open this program's own file")]
    Open(#[source] io::Error),
    /// It couldn't be written.
    #[error("failed to write {path}")]
    Write {
        /// Where to.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Copies this program to `directory/berth-runner`, mode 0555.
pub fn install(directory: &Path) -> Result<(), InstallError> {
    // Through /proc the copy is of the running program, even when its path is hidden or replaced.
    let mut own = File::open("/proc/self/exe").map_err(InstallError::Open)?;
    let path = directory.join(NAME);
    write(&mut own, &directory.join(PARTIAL), &path).map_err(|source| InstallError::Write { path, source })
}

fn write(own: &mut File, partial: &Path, path: &Path) -> io::Result<()> {
    let mut copy = File::create(partial)?;
    io::copy(own, &mut copy)?;
    copy.set_permissions(Permissions::from_mode(0o555))?;
    fs::rename(partial, path)
}

const NAME: &str = "berth-runner";
const PARTIAL: &str = ".berth-runner.partial";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copy_is_complete_executable_and_alone() {
        let directory = tempfile::tempdir().unwrap();
        install(directory.path()).unwrap();
        install(directory.path()).unwrap(); // an init container may run twice
        let copy = directory.path().join(NAME);
        assert_eq!(fs::read(&copy).unwrap(), fs::read("/proc/self/exe").unwrap());
        assert_eq!(fs::metadata(&copy).unwrap().permissions().mode() & 0o7777, 0o555);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_missing_directory_is_named() {
        let error = install(Path::new("/nonexistent/bin")).unwrap_err();
        assert_eq!(error.to_string(), "failed to write /nonexistent/bin/berth-runner");
    }
}
