//! What an agent program tells of its work, in one vocabulary for all of them. An adapter in the runner reads it off the
//! program's own lines; those are kept beside it, as output, and a [`Said`] names the line it was read from.
//!
//! All of it is the agent's word (DESIGN §8). Texts are cut to [`TEXT_MAX`]: the whole of them is in the line.

use serde::{Deserialize, Serialize};

/// One thing that an agent program tells. In JSON the variant's name is in `kind`, camelCase.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Told {
    /// The conversation has this id in the program's own files; it resumes by it.
    Session {
        /// The program's own id.
        id: String,
    },
    /// Somebody said something to the session.
    Input {
        /// Counted from 1 in the session.
        number: u64,
        /// What was said.
        text: String,
    },
    /// The model says something to people.
    Message {
        /// What it says.
        text: String,
    },
    /// The model wants a tool to be used.
    ToolCall {
        /// The call, as its result names it.
        id: String,
        /// The tool, by the program's own name for it.
        tool: String,
        /// Its arguments, JSON as text.
        input: String,
    },
    /// A tool has been used.
    ToolResult {
        /// The call that it answers.
        id: String,
        /// What the tool gave.
        output: String,
        /// Whether the tool says that it failed.
        failed: bool,
    },
    /// Tokens, by the program's count; spend is never taken from it.
    Usage {
        /// Tokens that the model read.
        input_tokens: u64,
        /// Of those, tokens that came from a cache.
        cached_tokens: u64,
        /// Tokens that the model wrote.
        output_tokens: u64,
        /// Whether this counts the whole conversation so far, rather than one step.
        cumulative: bool,
    },
    /// The program waits for a person.
    WaitingForInput,
    /// Something went wrong; the program may go on.
    Error {
        /// What it says of it.
        message: String,
    },
    /// The task has ended, by the program's word.
    Result {
        /// Its last words, the session's summary.
        text: String,
        /// Whether it says that it failed.
        failed: bool,
    },
}

/// Something told, and the line it was read from.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Said {
    /// What is told.
    pub told: Told,
    /// Where the native line begins: bytes of standard output before it.
    pub offset: u64,
    /// Bytes of the line, without its newline.
    pub length: u64,
}

impl Told {
    /// The variant's name, as in JSON.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Session { .. } => "session",
            Self::Input { .. } => "input",
            Self::Message { .. } => "message",
            Self::ToolCall { .. } => "toolCall",
            Self::ToolResult { .. } => "toolResult",
            Self::Usage { .. } => "usage",
            Self::WaitingForInput => "waitingForInput",
            Self::Error { .. } => "error",
            Self::Result { .. } => "result",
        }
    }

    /// The same with no text longer than [`TEXT_MAX`], a result's than [`RESULT_MAX`].
    #[must_use]
    pub fn cut(mut self) -> Self {
        match &mut self {
            Self::Session { id } => cut(id, ID_MAX),
            Self::Message { text } | Self::Input { text, .. } => cut(text, TEXT_MAX),
            Self::ToolCall { id, tool, input } => {
                cut(id, ID_MAX);
                cut(tool, ID_MAX);
                cut(input, TEXT_MAX);
            }
            Self::ToolResult { id, output, .. } => {
                cut(id, ID_MAX);
                cut(output, TEXT_MAX);
            }
            Self::Error { message } => cut(message, TEXT_MAX),
            Self::Result { text, .. } => cut(text, RESULT_MAX),
            Self::Usage { .. } | Self::WaitingForInput => {}
        }
        self
    }
}

fn cut(text: &mut String, max: usize) {
    text.truncate(text.floor_char_boundary(max));
}

/// Longest text in bytes: a screenful. The native line has all of it.
pub const TEXT_MAX: usize = 4 << 10;
/// Longest result in bytes: the summary in the status.
pub const RESULT_MAX: usize = 16 << 10;
/// Longest id or name in bytes; those of the four programs have at most 40.
const ID_MAX: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_between_characters_and_named_as_in_json() {
        let told = Told::Message {
            text: format!("a{}", "€".repeat(TEXT_MAX)),
        };
        let cut = told.cut();
        let json = serde_json::to_value(&cut).unwrap();
        assert_eq!(json["kind"], cut.kind());
        let text = json["text"].as_str().unwrap();
        assert!(text.len() <= TEXT_MAX && text.ends_with('€'));
    }
}
