//! IO: files → an archive that is the same bytes whenever the files are. No owner is in it, and no time of a folder.

use std::fs::{self, File};
use std::io::{self, Read, Write};

use tar::{Builder, EntryType, Header};

use super::gather::{Entry, Gathered, What};

/// Writes both roots. A file that has gone is passed over, and one that shrinks is filled up with zeros: the next
/// checkpoint has them right.
pub fn write(gathered: &Gathered, mut to: impl Write) -> io::Result<()> {
    for root in &gathered.roots {
        let mut tar = Builder::new(&mut to);
        for entry in root {
            append(&mut tar, entry)?;
        }
        tar.finish()?;
    }
    Ok(())
}

fn append(tar: &mut Builder<impl Write>, entry: &Entry) -> io::Result<()> {
    let mut header = Header::new_gnu();
    match entry.what {
        What::Folder => {
            header.set_entry_type(EntryType::Directory);
            header.set_mode(0o755);
            header.set_size(0);
            tar.append_data(&mut header, &entry.name, io::empty())
        }
        What::Link => {
            let Ok(target) = fs::read_link(&entry.path) else {
                return Ok(());
            };
            header.set_entry_type(EntryType::Symlink);
            header.set_mode(0o777);
            header.set_size(0);
            tar.append_link(&mut header, &entry.name, target)
        }
        What::File { size, mode, modified } => {
            let Ok(file) = File::open(&entry.path) else {
                return Ok(());
            };
            header.set_entry_type(EntryType::Regular);
            header.set_mode(mode);
            header.set_mtime(modified);
            header.set_size(size);
            let filled = file.chain(io::repeat(0)).take(size);
            tar.append_data(&mut header, &entry.name, filled)
        }
    }
}
