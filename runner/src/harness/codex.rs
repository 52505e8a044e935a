//! Pure: OpenAI's Codex, `codex exec --json`. It finds its service in a provider of its own settings, which names
//! `OPENAI_BASE_URL`'s value and the variable with the stub.

use berth_protocol::told::Told;
use serde_json::Value;

use super::{Harness, Kept, Launch, LaunchError, OPENAI_KEY, Reader, Task, text, variables, words};

pub(super) struct Codex;

impl Harness for Codex {
    fn launch(&self, task: Task<'_>) -> Result<Launch, LaunchError> {
        let mut command = task.program("codex");
        command.extend(words(["exec"]));
        if let Some(id) = task.resume {
            command.extend(words(["resume", id]));
        }
        // The pod confines it: a sandbox of its own within has no rights to stand on.
        let modes = [
            "--json",
            "--skip-git-repo-check",
            "--dangerously-bypass-approvals-and-sandbox",
        ];
        command.extend(words(modes));
        if let Some(model) = task.model() {
            command.extend(words(["--model", model]));
        }
        command.extend(words(["-"])); // the prompt is on standard input
        let home = task.home.join(".codex");
        Ok(Launch {
            command,
            env: variables([("CODEX_HOME", &home.display().to_string())]),
            input: task.prompt.to_owned(),
            files: vec![(home.join("config.toml"), settings(task.openai_url()))],
        })
    }

    fn reader(&self) -> Option<Box<dyn Reader>> {
        Some(Box::<Lines>::default())
    }

    fn keeps(&self) -> &'static [Kept] {
        &[Kept::Lines(".codex/sessions", ".jsonl")]
    }
}

/// A JSON string is a basic string of TOML.
fn settings(url: &str) -> String {
    format!(
        "model_provider = \"berth\"\ncheck_for_update_on_startup = false\n\n[analytics]\nenabled = false\n\n\
        [model_providers.berth]\nname = \"berth\"\nbase_url = {}\nwire_api = \"responses\"\nenv_key = \"{OPENAI_KEY}\"\n",
        Value::from(url)
    )
}

#[derive(Default)]
struct Lines {
    /// What the model said last.
    last: String,
}

impl Reader for Lines {
    fn line(&mut self, line: &str) -> Vec<Told> {
        let Ok(line) = serde_json::from_str::<Value>(line) else {
            return vec![];
        };
        match line["type"].as_str() {
            Some("thread.started") => vec![Told::Session {
                id: text(&line["thread_id"]),
            }],
            Some("item.started") => call(&line["item"]).into_iter().collect(),
            Some("item.completed") => self.item(&line["item"]),
            Some("turn.completed") => self.end_of_turn(&line["usage"]),
            Some("error") => vec![Told::Error {
                message: text(&line["message"]),
            }],
            Some("turn.failed") => vec![Told::Result {
                text: text(&line["error"]["message"]),
                failed: true,
            }],
            _ => vec![],
        }
    }
}

impl Lines {
    fn item(&mut self, item: &Value) -> Vec<Told> {
        let id = text(&item["id"]);
        let failed = item["status"] == "failed";
        match item["type"].as_str() {
            Some("agent_message") => {
                self.last = text(&item["text"]);
                vec![Told::Message {
                    text: self.last.clone(),
                }]
            }
            Some("error") => vec![Told::Error {
                message: text(&item["message"]),
            }],
            Some("command_execution") => {
                let output = text(&item["aggregated_output"]);
                vec![Told::ToolResult { id, output, failed }]
            }
            Some("mcp_tool_call") => {
                let output = item.get("result").or_else(|| item.get("error"));
                let output = output.map(ToString::to_string).unwrap_or_default();
                vec![Told::ToolResult { id, output, failed }]
            }
            // It is told only once it is done.
            Some("file_change" | "web_search") => {
                let call = Told::ToolCall {
                    id: id.clone(),
                    tool: text(&item["type"]),
                    input: item.to_string(),
                };
                let output = String::new();
                vec![call, Told::ToolResult { id, output, failed }]
            }
            _ => vec![],
        }
    }

    fn end_of_turn(&self, usage: &Value) -> Vec<Told> {
        let count = |field: &str| usage[field].as_u64().unwrap_or(0);
        let usage = Told::Usage {
            input_tokens: count("input_tokens"),
            cached_tokens: count("cached_input_tokens"),
            output_tokens: count("output_tokens"),
            cumulative: true,
        };
        let result = Told::Result {
            text: self.last.clone(),
            failed: false,
        };
        vec![usage, result]
    }
}

fn call(item: &Value) -> Option<Told> {
    let (tool, input) = match item["type"].as_str()? {
        "command_execution" => ("command_execution".to_owned(), text(&item["command"])),
        "mcp_tool_call" => (text(&item["tool"]), item["arguments"].to_string()),
        _ => return None,
    };
    let id = text(&item["id"]);
    Some(Told::ToolCall { id, tool, input })
}
