//! Checkpoints between runner and controller; the sidecar passes them on. A checkpoint is one archive of what another pod
//! needs to go on: the program's own files below the agent's home, and the workspace. It is cut into chunks by its
//! content, so that what hasn't changed isn't sent again.
//!
//! The runner offers a batch, sends the chunks that the controller doesn't hold for this session, offers the next, and
//! finishes. One batch is under way at a time: nobody in between holds more than [`BATCH_BYTES`]. All of it is the agent's
//! word (DESIGN §8); the controller computes the hashes again.

use serde::{Deserialize, Serialize};

/// A step of a checkpoint, from the runner.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "step", rename_all = "camelCase")]
pub enum Step {
    /// The next chunks of a checkpoint.
    Offer {
        /// The checkpoint, counted from 1 by the runner.
        number: u64,
        /// SHA-256 of each chunk's bytes, in hex; at most [`BATCH`].
        hashes: Vec<String>,
    },
    /// A chunk that was wanted.
    Chunk {
        /// Of this checkpoint.
        number: u64,
        /// Its bytes as zstd, in base64.
        data: String,
    },
    /// Every chunk is sent.
    Finish {
        /// The checkpoint.
        number: u64,
        /// What is in it.
        about: About,
    },
    /// A chunk of the checkpoint that is to be restored is wanted.
    Fetch {
        /// Its position, from 0.
        position: u32,
    },
}

/// An answer of the controller.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "answer", rename_all = "camelCase")]
pub enum Answer {
    /// Send these of the chunks that were offered.
    Want {
        /// Of this checkpoint.
        number: u64,
        /// Positions in the offer, in order.
        positions: Vec<u32>,
    },
    /// The checkpoint is kept, or isn't.
    Taken {
        /// Which.
        number: u64,
        /// Why it isn't; empty when it is.
        error: String,
    },
    /// A chunk that was fetched.
    Piece {
        /// Its position, from 0.
        position: u32,
        /// Its bytes as zstd, in base64.
        data: String,
        /// Why it can't be had; empty when it is here.
        error: String,
    },
}

/// What is in a checkpoint.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct About {
    /// SHA-256 of the archive, in hex.
    pub digest: String,
    /// Bytes of the archive.
    pub bytes: u64,
    /// Files in it.
    pub files: u64,
    /// Of those, files of the workspace.
    pub workspace: u64,
    /// The program's own id of its conversation; empty when it has none.
    pub conversation: String,
    /// The last input that the harness was given; 0 for the prompt alone.
    #[serde(default)]
    pub input: u64,
    /// Whether it was at work on that.
    #[serde(default)]
    pub working: bool,
    /// Whether the program's own files are in it; for a program that keeps none, always.
    pub transcript: bool,
    /// Files that were left out, by name, at most [`MISSING_MAX`] …
    pub missing: Vec<String>,
    /// … and how many there are.
    pub missing_count: u64,
}

/// A checkpoint that is to be restored.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Restore {
    /// Which incarnation took it.
    pub incarnation: u64,
    /// Its number there.
    pub number: u64,
    /// Chunks of its archive.
    pub chunks: u32,
    /// Bytes of its archive.
    pub bytes: u64,
    /// SHA-256 of its archive, in hex.
    pub digest: String,
    /// The program's own id of its conversation; empty when it has none.
    pub conversation: String,
    /// What was left out, by name.
    pub missing: Vec<String>,
    /// The last input that the harness was given; 0 for the prompt alone.
    #[serde(default)]
    pub input: u64,
    /// Whether it was at work on that.
    #[serde(default)]
    pub working: bool,
}

impl About {
    /// The same within its limits.
    #[must_use]
    pub fn cut(mut self) -> Self {
        cut(&mut self.digest, HASH_HEX);
        cut(&mut self.conversation, CONVERSATION_MAX);
        self.missing.truncate(MISSING_MAX);
        for name in &mut self.missing {
            cut(name, NAME_MAX);
        }
        self.missing_count = self.missing_count.max(self.missing.len() as u64);
        self
    }
}

fn cut(text: &mut String, max: usize) {
    text.truncate(text.floor_char_boundary(max));
}

/// Chunks in an offer.
pub const BATCH: usize = 32;
/// Bytes of the chunks in an offer, before they are compressed.
pub const BATCH_BYTES: usize = 1 << 20;
/// Bytes of a chunk, before it is compressed: a frame of the handoff holds one in base64.
pub const CHUNK_MAX: usize = 256 << 10;
/// Bytes of a chunk as zstd: it adds little to what can't be compressed.
pub const PACKED_MAX: usize = CHUNK_MAX + (4 << 10);
/// Names of files that were left out.
pub const MISSING_MAX: usize = 16;
const NAME_MAX: usize = 256;
const CONVERSATION_MAX: usize = 128;
const HASH_HEX: usize = 64;
