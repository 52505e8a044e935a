//! The handoff between sidecar and runner: one frame per message, a four-byte big-endian length and then JSON.
//!
//! The agent shares the runner's UID and can reach the socket, so everything that arrives on it is the agent's word
//! (DESIGN §8). The sidecar takes one connection per container start; a second is refused and recorded. Frames are at
//! most [`MAX_FRAME_BYTES`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tokio_util::codec::LengthDelimitedCodec;

use crate::checkpoint::{Answer, Restore, Step};
use crate::told::Said;

/// Largest frame either side accepts: a prompt (64 KiB) with its environment (64 × 4 KiB) and JSON escapes fits.
pub const MAX_FRAME_BYTES: usize = 1 << 20;

/// Largest piece of output in one frame, before base64.
pub const MAX_OUTPUT_BYTES: usize = 32 << 10;

/// Largest input: as large as a prompt.
pub const INPUT_MAX: usize = 64 << 10;

/// File name of the socket inside the `handoff` volume.
pub const SOCKET_NAME: &str = "runner.sock";

/// A message from the sidecar to the runner.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub enum ToRunner {
    /// What to run. The runner prepares and answers [`FromRunner::Ready`]; it starts nothing yet.
    Assignment(Box<Assignment>),
    /// The session's status names this pod: start the harness now.
    Start,
    /// End the harness: SIGTERM, and SIGKILL after `grace_seconds`.
    Stop {
        /// Seconds between the two signals.
        grace_seconds: u32,
    },
    /// About a checkpoint that is being taken or restored.
    Checkpoint(Answer),
    /// What somebody has said to the session.
    Input {
        /// Counted from 1 in the session.
        number: u64,
        /// At most [`INPUT_MAX`] bytes.
        text: String,
    },
    /// End what the harness does now, with [`ToRunner::Stop`]'s usual grace; the session stays.
    Abort,
}

/// What a runner is to run.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Assignment {
    /// Namespace of the session.
    pub namespace: String,
    /// Name of the session.
    pub name: String,
    /// Which attempt at the session this pod is, from 1.
    pub incarnation: u64,
    /// Given to the harness on standard input.
    pub prompt: String,
    /// Whether the harness stays for further input.
    pub interactive: bool,
    /// The author's name for this run of the task.
    pub run_id: String,
    /// Model that the harness is to ask for.
    pub model: String,
    /// Configuration for the harness; never a secret.
    pub env: BTreeMap<String, String>,
    /// The harness command; empty means the container's own arguments.
    pub command: Vec<String>,
    /// Repository to work on, if any.
    pub repository: Option<Repository>,
    /// Checkpoint to restore before the harness starts, if the session goes on in this pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<Restore>,
    /// Whether checkpoints are to be taken.
    #[serde(default)]
    pub checkpoints: bool,
}

/// The repository that the session works on.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Repository {
    /// Clone URL.
    pub url: String,
    /// Branch, tag or commit to start from.
    pub r#ref: String,
    /// Branch that the session pushes to.
    pub branch: String,
    /// Variable with the stub that git shows there; empty when the session has none for it.
    #[serde(default)]
    pub credential: String,
    /// Set when a pull request is to be opened for the branch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_request: Option<PullRequest>,
}

/// The pull request that is opened for a branch.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PullRequest {
    /// Where the forge's API lists and takes pull requests of the repository.
    pub api: String,
    /// Branch that it is to be merged into; empty for the repository's default branch.
    pub base: String,
}

/// A message from the runner to the sidecar.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub enum FromRunner {
    /// First frame of a connection.
    Hello {
        /// [`crate::VERSION`] of the runner.
        protocol: u32,
        /// Whether this container start has already run the harness of an incarnation (it never runs twice).
        ran_incarnation: u64,
    },
    /// The assignment is understood and the harness can be started.
    Ready {
        /// The assignment's incarnation.
        incarnation: u64,
    },
    /// The harness runs.
    Started {
        /// Its arguments.
        command: Vec<String>,
    },
    /// A piece of its output, at most [`MAX_OUTPUT_BYTES`] before encoding.
    Output {
        /// 1 standard output, 2 standard error.
        stream: u8,
        /// Standard base64.
        data: String,
    },
    /// The harness told something, in a line of its output that went before.
    Said(Said),
    /// It has ended.
    Exited {
        /// Exit status, or 128 + the signal's number.
        code: i32,
        /// The harness's last words, else the contents of `result.md`; cut to 16 KiB.
        summary: String,
        /// Why it could not be started; empty when it ran.
        error: String,
        /// Whether it was told to end, rather than ending by itself.
        #[serde(default)]
        stopped: bool,
        /// The branch that was pushed; empty when none was.
        #[serde(default)]
        branch: String,
        /// Number of its pull request; 0 when there is none.
        #[serde(default)]
        pull_request: u64,
        /// The last lines of what it wrote, if it failed.
        #[serde(default)]
        last_lines: String,
    },
    /// A step of a checkpoint.
    Checkpoint(Step),
    /// The harness has done everything up to this input and waits for the next. Told again while it waits.
    WantInput {
        /// The last input that it was given; 0 for the prompt.
        after: u64,
    },
    /// A checkpoint was restored, read back from the disk and hashed again.
    Restored {
        /// Which incarnation took it.
        incarnation: u64,
        /// Its number there.
        number: u64,
        /// SHA-256 of what the disk holds now, archived as the checkpoint was; hex.
        digest: String,
    },
}

/// The frame codec of both sides.
pub fn codec() -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder()
        .max_frame_length(MAX_FRAME_BYTES)
        .new_codec()
}
