//! Pure: opencode, `opencode run --format json`. Its settings come in a variable: a provider at `OPENAI_BASE_URL`'s value
//! with the session's model, and the variable with the stub.

use berth_protocol::told::Told;
use serde_json::{Value, json};

use super::{Harness, Kept, Launch, LaunchError, OPENAI_KEY, Reader, Task, text, variables, words};

pub(super) struct OpenCode;

impl Harness for OpenCode {
    fn launch(&self, task: Task<'_>) -> Result<Launch, LaunchError> {
        let model = task.model().ok_or(LaunchError::NoModel("opencode"))?;
        let mut command = task.program("opencode");
        command.extend(words(["run", "--format", "json"]));
        if let Some(id) = task.resume {
            command.extend(words(["--session", id]));
        }
        let settings = settings(task.openai_url(), model);
        let data = task.home.join(".local/share").display().to_string();
        Ok(Launch {
            command,
            env: variables([
                ("OPENCODE_CONFIG_CONTENT", &settings),
                ("OPENCODE_DISABLE_AUTOUPDATE", "1"),
                ("OPENCODE_DISABLE_LSP_DOWNLOAD", "1"),
                ("OPENCODE_DISABLE_MODELS_FETCH", "1"),
                ("XDG_DATA_HOME", &data),
            ]),
            input: task.prompt.to_owned(),
            files: vec![],
        })
    }

    fn reader(&self) -> Option<Box<dyn Reader>> {
        Some(Box::<Lines>::default())
    }

    fn keeps(&self) -> &'static [Kept] {
        &[Kept::Sqlite(".local/share/opencode/opencode.db")]
    }
}

fn settings(url: &str, model: &str) -> String {
    let options = json!({ "baseURL": url, "apiKey": format!("{{env:{OPENAI_KEY}}}") });
    let provider = json!({
        "npm": "@ai-sdk/openai-compatible", "name": "berth", "options": options, "models": { model: { "name": model } },
    });
    // The pod confines it; asking has nobody to answer.
    let settings = json!({
        "provider": { "berth": provider }, "model": format!("berth/{model}"), "small_model": format!("berth/{model}"),
        "permission": "allow", "autoupdate": false, "share": "disabled",
    });
    settings.to_string()
}

#[derive(Default)]
struct Lines {
    session: String,
    /// What the model said last.
    last: String,
}

impl Reader for Lines {
    fn line(&mut self, line: &str) -> Vec<Told> {
        let Ok(line) = serde_json::from_str::<Value>(line) else {
            return vec![];
        };
        let mut told = self.session(&line["sessionID"]);
        let part = &line["part"];
        match line["type"].as_str() {
            Some("text") => {
                self.last = text(&part["text"]);
                told.push(Told::Message {
                    text: self.last.clone(),
                });
            }
            Some("tool_use") => told.extend(tool(part)),
            Some("step_finish") => told.extend(self.step(part)),
            Some("error") => told.extend(error(&line["error"])),
            _ => {}
        }
        told
    }
}

impl Lines {
    /// Every line has it; it is told once.
    fn session(&mut self, id: &Value) -> Vec<Told> {
        let id = id.as_str().unwrap_or_default();
        if id.is_empty() || self.session == id {
            return vec![];
        }
        id.clone_into(&mut self.session);
        vec![Told::Session { id: id.to_owned() }]
    }

    fn step(&self, part: &Value) -> Vec<Told> {
        let tokens = &part["tokens"];
        let cached = tokens["cache"]["read"].as_u64().unwrap_or(0);
        let usage = Told::Usage {
            input_tokens: tokens["input"].as_u64().unwrap_or(0) + cached,
            cached_tokens: cached,
            output_tokens: tokens["output"].as_u64().unwrap_or(0),
            cumulative: false,
        };
        let result = (part["reason"] == "stop").then(|| Told::Result {
            text: self.last.clone(),
            failed: false,
        });
        [usage].into_iter().chain(result).collect()
    }
}

/// It is told only once it is done.
fn tool(part: &Value) -> [Told; 2] {
    let (id, state) = (text(&part["callID"]), &part["state"]);
    let failed = state["status"] == "error";
    let output = text(&state[if failed { "error" } else { "output" }]);
    let call = Told::ToolCall {
        id: id.clone(),
        tool: text(&part["tool"]),
        input: state["input"].to_string(),
    };
    [call, Told::ToolResult { id, output, failed }]
}

/// It ends with an error.
fn error(error: &Value) -> [Told; 2] {
    let message = match &error["data"]["message"] {
        Value::String(message) => message.clone(),
        _ => text(&error["name"]),
    };
    let result = Told::Result {
        text: message.clone(),
        failed: true,
    };
    [Told::Error { message }, result]
}
