//! Pure: Anthropic's Claude Code in print mode. It finds its service in `ANTHROPIC_BASE_URL` and the stub in
//! `ANTHROPIC_AUTH_TOKEN` or `ANTHROPIC_API_KEY`, and prints a JSON document per line.

use berth_protocol::told::Told;
use serde_json::Value;

use super::{Harness, Kept, Launch, LaunchError, Reader, Task, text, variables, words};

pub(super) struct ClaudeCode;

impl Harness for ClaudeCode {
    fn launch(&self, task: Task<'_>) -> Result<Launch, LaunchError> {
        let mut command = task.program("claude");
        // The pod confines it; asking has nobody to answer.
        let modes = [
            "-p",
            "--output-format",
            "stream-json",
            "--verbose",
            "--permission-mode",
            "bypassPermissions",
        ];
        command.extend(words(modes));
        if let Some(model) = task.model() {
            command.extend(words(["--model", model]));
        }
        if let Some(id) = task.resume {
            command.extend(words(["--resume", id]));
        }
        let home = task.home.join(".claude").display().to_string();
        Ok(Launch {
            command,
            env: variables([
                ("CLAUDE_CONFIG_DIR", &home),
                ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1"),
                ("DISABLE_AUTOUPDATER", "1"),
            ]),
            input: task.prompt.to_owned(),
            files: vec![],
        })
    }

    fn reader(&self) -> Option<Box<dyn Reader>> {
        Some(Box::new(Lines))
    }

    fn keeps(&self) -> &'static [Kept] {
        &[Kept::Lines(".claude/projects", ".jsonl")]
    }
}

struct Lines;

impl Reader for Lines {
    fn line(&mut self, line: &str) -> Vec<Told> {
        let Ok(line) = serde_json::from_str::<Value>(line) else {
            return vec![];
        };
        match line["type"].as_str() {
            Some("system") if line["subtype"] == "init" => vec![Told::Session {
                id: text(&line["session_id"]),
            }],
            Some("assistant" | "user") => message(&line["message"]),
            Some("result") => result(&line),
            _ => vec![],
        }
    }
}

fn message(message: &Value) -> Vec<Told> {
    let parts = message["content"].as_array().map(Vec::as_slice).unwrap_or_default();
    parts.iter().filter_map(|part| told(part, message)).collect()
}

fn told(part: &Value, message: &Value) -> Option<Told> {
    match part["type"].as_str()? {
        // What the user says is the prompt, or the program's own.
        "text" if message["role"] == "assistant" => Some(Told::Message {
            text: text(&part["text"]),
        }),
        "tool_use" => Some(Told::ToolCall {
            id: text(&part["id"]),
            tool: text(&part["name"]),
            input: part["input"].to_string(),
        }),
        "tool_result" => Some(Told::ToolResult {
            id: text(&part["tool_use_id"]),
            output: text(&part["content"]),
            failed: part["is_error"] == true,
        }),
        _ => None,
    }
}

/// Its last line: what was used in all of the run, and its last words, which say what went wrong if something did.
fn result(line: &Value) -> Vec<Told> {
    let (usage, failed, said) = (&line["usage"], line["is_error"] == true, text_or(&line["result"]));
    let count = |field: &str| usage[field].as_u64().unwrap_or(0);
    let cached = count("cache_read_input_tokens");
    let usage = Told::Usage {
        input_tokens: count("input_tokens") + cached + count("cache_creation_input_tokens"),
        cached_tokens: cached,
        output_tokens: count("output_tokens"),
        cumulative: true,
    };
    let error = failed.then(|| Told::Error { message: said.clone() });
    let result = Told::Result { text: said, failed };
    [usage].into_iter().chain(error).chain([result]).collect()
}

/// A run that was cut off has no last words.
fn text_or(result: &Value) -> String {
    result.as_str().unwrap_or_default().to_owned()
}
