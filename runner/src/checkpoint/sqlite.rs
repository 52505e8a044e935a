//! IO: a database that may be written at this moment → a copy that is whole.

use std::path::Path;
use std::time::Duration;

use rusqlite::backup::Backup;
use rusqlite::{Connection, OpenFlags};

/// Copies by SQLite's own backup, which takes what is in the write-ahead log too and holds the writer up only while it
/// reads [`PAGES`].
pub fn copy(from: &Path, to: &Path) -> rusqlite::Result<()> {
    // It isn't made when it isn't there; without the right to write, the log beside it can't be read.
    let source = Connection::open_with_flags(
        from,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    source.busy_timeout(PATIENCE)?;
    let mut target = Connection::open(to)?;
    Backup::new(&source, &mut target)?.run_to_completion(PAGES, PAUSE, None)
}

/// 4 MiB at the usual page size.
const PAGES: i32 = 1024;
const PAUSE: Duration = Duration::from_millis(1);
/// A writer's transaction is done by then.
const PATIENCE: Duration = Duration::from_secs(2);
