//! What runs in the agent container.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema;

/// What runs in the agent container.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = schema::rules(&[
    ("self.kind != 'Custom' || (has(self.command) && size(self.command) > 0)", "a Custom harness needs command"),
])))]
pub struct Harness {
    /// Which agent program it is: `ClaudeCode`, `Codex`, `Hermes`, `OpenCode` or `Custom`.
    pub kind: HarnessKind,

    /// Image of the agent container. The runner is added to it; the image needs glibc and a user 1000.
    #[schemars(schema_with = "schema::image")]
    pub image: String,

    /// Program and arguments. Required for `Custom`; the task's prompt arrives on standard input. For the others it
    /// replaces the program's name, such as `claude`, and may add arguments; Berth's own follow.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::command")]
    pub command: Vec<String>,
}

/// An agent program.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum HarnessKind {
    /// Anthropic's Claude Code.
    ClaudeCode,
    /// OpenAI's Codex.
    Codex,
    /// Hermes.
    Hermes,
    /// opencode.
    OpenCode,
    /// Any program: the prompt on standard input, `result.md` as its summary.
    #[default]
    Custom,
}
