//! Pure: names of objects. SHA-1 alone; a push to a SHA-256 repository is refused as it announces itself.

use std::fmt;

use aws_lc_rs::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};

/// Name of an object: the SHA-1 of its kind, size and content.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Oid(pub [u8; LENGTH]);

/// What an object is.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Kind {
    /// A commit.
    Commit,
    /// A directory.
    Tree,
    /// A file or the target of a symbolic link.
    Blob,
    /// An annotated tag.
    Tag,
}

/// Computes a name as content comes.
pub struct Naming(Context);

impl Oid {
    /// Forty hex digits.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let mut bytes = [0; LENGTH];
        hex::decode_to_slice(text, &mut bytes).ok()?;
        Some(Self(bytes))
    }

    /// The one that stands for no object.
    pub fn is_null(&self) -> bool {
        self.0 == [0; LENGTH]
    }

    /// Of an object that is all there.
    pub fn of(kind: Kind, content: &[u8]) -> Self {
        let mut naming = Naming::new(kind, content.len() as u64);
        naming.update(content);
        naming.finish()
    }
}

impl fmt::Display for Oid {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Oid {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl Kind {
    /// As git writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Commit => "commit",
            Self::Tree => "tree",
            Self::Blob => "blob",
            Self::Tag => "tag",
        }
    }
}

impl Naming {
    /// For an object of this size.
    pub fn new(kind: Kind, size: u64) -> Self {
        let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
        context.update(format!("{} {size}\0", kind.as_str()).as_bytes());
        Self(context)
    }

    /// More of its content.
    pub fn update(&mut self, content: &[u8]) {
        self.0.update(content);
    }

    /// Its name.
    pub fn finish(self) -> Oid {
        let mut bytes = [0; LENGTH];
        bytes.copy_from_slice(self.0.finish().as_ref());
        Oid(bytes)
    }
}

/// Of SHA-1.
pub const LENGTH: usize = 20;
