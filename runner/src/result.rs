//! `result.md` in the workspace → the summary. The agent wrote it, so only a regular file counts: no symlink is
//! followed, no pipe is waited for, and no more than [`SUMMARY_MAX`] is read.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;

/// What the agent left as its result; empty when there is none.
pub fn summary(workspace: &Path) -> String {
    match read(&workspace.join(NAME)) {
        Ok(bytes) => cut(&String::from_utf8_lossy(&bytes), SUMMARY_MAX).to_owned(),
        Err(error) => {
            tracing::debug!(error = &error as &dyn std::error::Error, "no result.md");
            String::new()
        }
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(SUMMARY_MAX as u64).read_to_end(&mut bytes)?;
    if let Err(error) = std::str::from_utf8(&bytes)
        && error.error_len().is_none()
    {
        bytes.truncate(error.valid_up_to()); // the cut went through a character
    }
    Ok(bytes)
}

/// The longest prefix of at most `max` bytes that ends between characters.
pub(crate) fn cut(text: &str, max: usize) -> &str {
    text.get(..text.floor_char_boundary(max)).unwrap_or_default()
}

const NAME: &str = "result.md";
/// Longest summary: what the status and the record take (DESIGN §8).
pub const SUMMARY_MAX: usize = 16 << 10;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_long_result_is_cut_between_characters() {
        let workspace = tempfile::tempdir().unwrap();
        fs::write(workspace.path().join(NAME), format!("a{}", "€".repeat(SUMMARY_MAX))).unwrap();
        let summary = summary(workspace.path());
        assert_eq!(summary.len(), 1 + 3 * ((SUMMARY_MAX - 1) / 3));
        assert!(summary.ends_with('€'));
    }

    #[test]
    fn bytes_that_are_no_text_are_shown_as_such() {
        let workspace = tempfile::tempdir().unwrap();
        fs::write(workspace.path().join(NAME), b"ok \xff\xfe").unwrap();
        assert!(summary(workspace.path()).starts_with("ok \u{fffd}"));
    }

    #[test]
    fn symlinks_directories_pipes_and_nothing_give_no_summary() {
        let workspace = tempfile::tempdir().unwrap();
        let path = workspace.path().join(NAME);
        assert_eq!(summary(workspace.path()), "");
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert_eq!(summary(workspace.path()), "");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert_eq!(summary(workspace.path()), "");
        fs::remove_dir(&path).unwrap();
        assert!(
            std::process::Command::new("mkfifo")
                .arg(&path)
                .status()
                .unwrap()
                .success()
        );
        assert_eq!(summary(workspace.path()), "");
    }
}
