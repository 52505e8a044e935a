//! IO: which files a checkpoint holds. Of the home only what the harness says that it needs; of the workspace everything
//! but what git ignores and `.berthignore` doesn't allow, `.git` included, so that commits, the index and edits that aren't
//! committed are there again.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use berth_protocol::checkpoint::MISSING_MAX;
use ignore::WalkBuilder;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::sqlite;
use crate::harness::Kept;

/// Where the files are.
#[derive(Clone, Debug)]
pub struct Sources {
    /// Home of the agent's user.
    pub home: PathBuf,
    /// Directory that the harness works in.
    pub workspace: PathBuf,
    /// What of the home is kept.
    pub keeps: &'static [Kept],
}

/// Whether databases are copied, since a program may be writing to them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Databases {
    /// By SQLite's own backup.
    Copied,
    /// As they are: nothing runs.
    AtRest,
}

/// Files for an archive.
#[derive(Debug, Default)]
pub struct Gathered {
    /// Below the home, then below the workspace; each in the order of names.
    pub roots: [Vec<Entry>; 2],
    /// Names of files that were left out, the first few …
    pub missing: Vec<String>,
    /// … and how many there are.
    pub missing_count: u64,
    /// Bytes of the files.
    pub bytes: u64,
    /// Copies of databases, which go with this.
    copies: Option<TempDir>,
}

/// One file.
#[derive(Debug)]
pub struct Entry {
    /// Below its root.
    pub name: PathBuf,
    /// Where it is read.
    pub path: PathBuf,
    /// What it is.
    pub what: What,
}

/// What a file is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum What {
    /// A folder.
    Folder,
    /// A symbolic link.
    Link,
    /// Bytes.
    File {
        /// How many.
        size: u64,
        /// Permissions.
        mode: u32,
        /// Seconds since the Unix epoch; 0 for a database, whose copy is new each time.
        modified: u64,
    },
}

impl Gathered {
    /// Entries of both roots.
    pub fn files(&self) -> u64 {
        self.roots.iter().map(|root| root.len() as u64).sum()
    }

    fn leave_out(&mut self, name: &Path) {
        self.missing_count += 1;
        if self.missing.len() < MISSING_MAX {
            self.missing.push(name.display().to_string());
        }
    }

    /// Adds a file of a root unless it is over a limit.
    fn add(&mut self, root: usize, entry: Entry) {
        let size = match entry.what {
            What::File { size, .. } => size,
            What::Folder | What::Link => 0,
        };
        if size > FILE_MAX || self.bytes + size > BYTES_MAX || self.files() >= FILES_MAX {
            self.leave_out(&entry.name);
            return;
        }
        self.bytes += size;
        self.roots[root].push(entry);
    }
}

/// Names what there is now.
pub fn gather(sources: &Sources, databases: Databases) -> io::Result<Gathered> {
    let mut gathered = Gathered::default();
    for kept in sources.keeps {
        match kept {
            Kept::Lines(folder, ending) => lines(&mut gathered, &sources.home, folder, ending)?,
            Kept::Sqlite(name) => database(&mut gathered, &sources.home, name, databases)?,
        }
    }
    workspace(&mut gathered, &sources.workspace);
    for root in &mut gathered.roots {
        root.sort_by(|one, other| one.name.cmp(&other.name));
    }
    Ok(gathered)
}

/// Changes when a file does: of names, sizes and times, without reading anything.
pub fn fingerprint(sources: &Sources) -> io::Result<[u8; 32]> {
    let mut hash = Sha256::new();
    let mut seen = |path: &Path, metadata: &Metadata| {
        hash.update(path.as_os_str().as_encoded_bytes());
        hash.update([0]);
        for number in [metadata.size().cast_signed(), metadata.mtime(), metadata.mtime_nsec()] {
            hash.update(number.to_be_bytes());
        }
    };
    for kept in sources.keeps {
        match kept {
            Kept::Lines(folder, ending) => {
                let mut found = Gathered::default();
                lines(&mut found, &sources.home, folder, ending)?;
                for entry in &found.roots[0] {
                    if let Ok(metadata) = fs::symlink_metadata(&entry.path) {
                        seen(&entry.path, &metadata);
                    }
                }
            }
            // A database that is written in the newer way changes beside itself.
            Kept::Sqlite(name) => {
                for beside in ["", "-wal"] {
                    let path = sources.home.join(format!("{name}{beside}"));
                    if let Ok(metadata) = fs::symlink_metadata(&path) {
                        seen(&path, &metadata);
                    }
                }
            }
        }
    }
    for found in walk(&sources.workspace).flatten() {
        if let Ok(metadata) = found.metadata()
            && !metadata.is_dir()
        {
            seen(found.path(), &metadata);
        }
    }
    Ok(hash.finalize().into())
}

fn lines(gathered: &mut Gathered, home: &Path, folder: &str, ending: &str) -> io::Result<()> {
    let mut folders = vec![home.join(folder)];
    while let Some(folder) = folders.pop() {
        let children = match fs::read_dir(&folder) {
            Ok(children) => children,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for child in children {
            let path = child?.path();
            let Ok(metadata) = fs::symlink_metadata(&path) else {
                continue;
            };
            let is_wanted = path.to_str().is_some_and(|path| path.ends_with(ending));
            if metadata.is_dir() {
                folders.push(path);
            } else if metadata.is_file() && is_wanted {
                let what = file(&metadata);
                add_below(gathered, 0, home, path, what);
            }
        }
    }
    Ok(())
}

fn database(gathered: &mut Gathered, home: &Path, name: &str, databases: Databases) -> io::Result<()> {
    let path = home.join(name);
    if !path.is_file() {
        return Ok(());
    }
    let path = match databases {
        Databases::AtRest => path,
        Databases::Copied => {
            let copies = match gathered.copies.take() {
                Some(copies) => copies,
                None => tempfile::tempdir()?,
            };
            let copy = copies.path().join(name.replace('/', "-"));
            gathered.copies = Some(copies);
            sqlite::copy(&path, &copy).map_err(io::Error::other)?;
            copy
        }
    };
    let size = fs::symlink_metadata(&path)?.len();
    let what = What::File {
        size,
        mode: 0o600,
        modified: 0,
    };
    let name = PathBuf::from(name);
    gathered.add(0, Entry { name, path, what });
    Ok(())
}

fn workspace(gathered: &mut Gathered, workspace: &Path) {
    for found in walk(workspace) {
        let Ok(found) = found else {
            // Not readable by the agent itself, or gone since.
            continue;
        };
        let Ok(metadata) = found.metadata() else { continue };
        let path = found.into_path();
        let what = if metadata.is_dir() {
            What::Folder
        } else if metadata.is_symlink() {
            What::Link
        } else if metadata.is_file() {
            file(&metadata)
        } else {
            continue; // sockets and pipes are of the processes that have gone
        };
        if path != workspace {
            add_below(gathered, 1, workspace, path, what);
        }
    }
}

fn walk(workspace: &Path) -> ignore::Walk {
    WalkBuilder::new(workspace)
        .standard_filters(false)
        .git_ignore(true)
        .git_exclude(true)
        .add_custom_ignore_filename(KEEPS)
        .follow_links(false)
        .sort_by_file_name(Ord::cmp)
        .build()
}

fn add_below(gathered: &mut Gathered, root: usize, base: &Path, path: PathBuf, what: What) {
    if let Ok(name) = path.strip_prefix(base) {
        let name = name.to_owned();
        gathered.add(root, Entry { name, path, what });
    }
}

fn file(metadata: &Metadata) -> What {
    What::File {
        size: metadata.len(),
        mode: metadata.permissions().mode() & 0o777,
        modified: u64::try_from(metadata.mtime()).unwrap_or(0),
    }
}

/// Lines as in `.gitignore`, before which they go: `!target/cache/` keeps what git ignores, `noise/` leaves out what it doesn't.
const KEEPS: &str = ".berthignore";
/// Bytes of one file: a pack of a large repository fits.
pub const FILE_MAX: u64 = 128 << 20;
/// Bytes of all files: what a session may keep in Postgres, before it is compressed.
pub const BYTES_MAX: u64 = 256 << 20;
/// Entries; the kernel's own sources are 90,000.
pub const FILES_MAX: u64 = 100_000;
