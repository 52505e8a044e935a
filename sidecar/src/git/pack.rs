//! IO: the pack of a push, read from its file (gitformat-pack, version 2). All objects, deltas resolved within the pack,
//! in flat memory and with an end to the work.
//!
//! It is read as strictly as `git index-pack --strict` would: sizes, counts and the checksum must be right to the byte,
//! so that the upstream can't see other objects in it than were looked at.

use std::fs::File;

use aws_lc_rs::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};

use self::source::Source;
use super::oid::{self, Kind, Oid};

mod source;

mod delta;

mod walk;

pub use self::walk::Visit;

/// A pack that isn't passed on.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The spooled file.
    #[error("the spooled pack can't be read")]
    Read(#[from] std::io::Error),
    /// It isn't a pack that git would take.
    #[error("the pack is corrupt: {0}")]
    Corrupt(&'static str),
    /// Bases of deltas that it doesn't hold.
    #[error("the pack is thin: it leaves out objects that it builds upon; push with --no-thin")]
    Thin,
    /// More than [`OBJECTS_MAX`].
    #[error("the pack has more than {OBJECTS_MAX} objects: push in smaller steps")]
    Objects,
    /// More than [`OBJECT_MAX`].
    #[error("an object has more than {} MiB", OBJECT_MAX >> 20)]
    Object,
    /// More than [`WHOLE_MAX`] where that must be held.
    #[error(
        "a commit, tag, directory or delta has more than {0} MiB: set core.bigFileThreshold to {0}m and push again",
        WHOLE_MAX >> 20
    )]
    Whole,
    /// A chain of more than [`DEPTH_MAX`].
    #[error("a chain of deltas has more than {DEPTH_MAX} links: set pack.depth to 50 and push again")]
    Depth,
    /// More than [`WORK_MAX`].
    #[error("the pack unfolds to more than {} GiB: push in smaller steps", WORK_MAX >> 30)]
    Work,
    /// More than [`super::trees::PATHS_MAX`], or longer ones than can be held.
    #[error("the pack changes too many paths: push in smaller steps")]
    Paths,
}

/// A pack, of which it's known where its objects are.
pub struct Pack<'a> {
    source: Source<'a>,
    entries: Vec<Entry>,
}

/// An object, as it's stored.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Of its header in the file.
    offset: u64,
    /// Of its compressed content.
    data: u64,
    /// Of its content; of the delta if it is one.
    size: u64,
    stored: Stored,
}

#[derive(Clone, Copy, Debug)]
enum Stored {
    /// As it is.
    Whole(Kind),
    /// As what changes from the object at this offset.
    Offset(u64),
    /// As what changes from this object.
    Name(Oid),
}

impl<'a> Pack<'a> {
    /// Reads where the objects are; the pack takes up a file from `begin` to `end`.
    pub fn open(file: &'a File, begin: u64, end: u64) -> Result<Self, PackError> {
        let least = (HEADER + oid::LENGTH) as u64;
        if end.saturating_sub(begin) < least {
            return Err(PackError::Corrupt("it ends too soon"));
        }
        let trailer = end - oid::LENGTH as u64;
        check_sum(file, begin, trailer)?;
        let mut source = Source::new(file, begin, trailer);
        let count = header(&mut source)?;
        let mut entries = Vec::new();
        for _ in 0..count {
            entries.push(entry(&mut source, begin)?);
        }
        if source.position() != trailer {
            return Err(PackError::Corrupt("bytes follow its last object"));
        }
        Ok(Self { source, entries })
    }

    /// The inflated content of an entry that may be held.
    fn content(&mut self, index: usize) -> Result<Vec<u8>, PackError> {
        let entry = self.entries[index];
        let mut content = Vec::with_capacity(usize::try_from(entry.size.min(WHOLE_MAX)).unwrap_or_default());
        self.source.seek(entry.data);
        self.source
            .inflate(entry.size, &mut |part| content.extend_from_slice(part))?;
        Ok(content)
    }
}

/// The last bytes are the SHA-1 of all before.
fn check_sum(file: &File, begin: u64, end: u64) -> Result<(), PackError> {
    let mut source = Source::new(file, begin, end);
    let mut digest = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    loop {
        let bytes = source.available()?;
        if bytes.is_empty() {
            break;
        }
        digest.update(bytes);
        let count = bytes.len();
        source.consume(count);
    }
    let mut trailer = Source::new(file, end, end + oid::LENGTH as u64);
    if trailer.array::<{ oid::LENGTH }>()? != digest.finish().as_ref() {
        return Err(PackError::Corrupt("its checksum is wrong"));
    }
    Ok(())
}

fn header(source: &mut Source<'_>) -> Result<u32, PackError> {
    if source.array()? != *b"PACK" {
        return Err(PackError::Corrupt("it doesn't begin with PACK"));
    }
    if u32::from_be_bytes(source.array()?) != 2 {
        return Err(PackError::Corrupt("its version isn't 2"));
    }
    let count = u32::from_be_bytes(source.array()?);
    if count > OBJECTS_MAX {
        return Err(PackError::Objects);
    }
    Ok(count)
}

/// Reads a header and passes over the content.
fn entry(source: &mut Source<'_>, begin: u64) -> Result<Entry, PackError> {
    let offset = source.position();
    let byte = source.byte()?;
    let mut size = u64::from(byte & 0x0f);
    let (mut shift, mut more) = (4, byte & 0x80 != 0);
    while more {
        let next = source.byte()?;
        if shift > SHIFT_MAX {
            return Err(PackError::Corrupt("an object's size is beyond all bounds"));
        }
        size |= u64::from(next & 0x7f) << shift;
        (shift, more) = (shift + 7, next & 0x80 != 0);
    }
    let stored = match byte >> 4 & 7 {
        1 => Stored::Whole(Kind::Commit),
        2 => Stored::Whole(Kind::Tree),
        3 => Stored::Whole(Kind::Blob),
        4 => Stored::Whole(Kind::Tag),
        6 => Stored::Offset(base(source, begin, offset)?),
        7 => Stored::Name(Oid(source.array()?)),
        _ => return Err(PackError::Corrupt("an object has no known kind")),
    };
    if size > OBJECT_MAX {
        return Err(PackError::Object);
    }
    if size > WHOLE_MAX && !matches!(stored, Stored::Whole(Kind::Blob)) {
        return Err(PackError::Whole);
    }
    let data = source.position();
    source.inflate(size, &mut |_| {})?;
    Ok(Entry {
        offset,
        data,
        size,
        stored,
    })
}

/// How far before the delta its base begins.
fn base(source: &mut Source<'_>, begin: u64, offset: u64) -> Result<u64, PackError> {
    let wrong = PackError::Corrupt("a delta builds upon something outside of the pack");
    let mut byte = source.byte()?;
    let mut distance = u64::from(byte & 0x7f);
    while byte & 0x80 != 0 {
        byte = source.byte()?;
        if distance > offset {
            return Err(wrong);
        }
        distance = (distance + 1) << 7 | u64::from(byte & 0x7f);
    }
    let base = offset
        .checked_sub(distance)
        .filter(|base| *base >= begin && distance > 0);
    base.ok_or(wrong)
}

/// Some 50 bytes of memory each, and as many again for names of trees.
pub const OBJECTS_MAX: u32 = 200_000;
/// Of one object. What isn't held is looked at in parts.
pub const OBJECT_MAX: u64 = 512 << 20;
/// Of what is held: bases, deltas and what they make, and all that isn't a file.
pub const WHOLE_MAX: u64 = 8 << 20;
/// git's own default is 50 and its bound 4095.
pub const DEPTH_MAX: usize = 250;
/// Of all bytes that are made, those of repeated work included; some 20 s on a slow core.
pub const WORK_MAX: u64 = 8 << 30;
const HEADER: usize = 12;
/// What keeps a size below 2^60.
const SHIFT_MAX: u32 = 53;
