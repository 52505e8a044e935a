//! Pure: Hermes, `hermes chat` with one question. It prints its last words as text, nothing else in quiet mode but
//! warnings; what it did is in its database alone.

use berth_protocol::told::{RESULT_MAX, Told};

use super::{Harness, Kept, Launch, LaunchError, OPENAI_KEY, Reader, Task, variables, words};

pub(super) struct Hermes;

impl Harness for Hermes {
    fn launch(&self, task: Task<'_>) -> Result<Launch, LaunchError> {
        let model = task.model().ok_or(LaunchError::NoModel("Hermes"))?;
        let prompt = task.prompt;
        if prompt.len() > PROMPT_MAX {
            let (program, most) = ("Hermes", PROMPT_MAX);
            return Err(LaunchError::LongPrompt { program, most });
        }
        let mut command = task.program("hermes");
        // The pod confines it; asking has nobody to answer.
        command.extend(words(["chat", "--quiet", "--yolo"]));
        if task.resume.is_some() {
            command.extend(words(["--continue"])); // the newest: it says its id only when it ends
        }
        command.push(format!("--query={prompt}")); // one word, so that a prompt may begin with a dash
        let home = task.home.join(".hermes");
        Ok(Launch {
            command,
            env: variables([("HERMES_HOME", &home.display().to_string())]),
            input: String::new(),
            files: vec![(home.join("config.yaml"), settings(task.openai_url(), model))],
        })
    }

    fn reader(&self) -> Option<Box<dyn Reader>> {
        Some(Box::<Words>::default())
    }

    fn newest(&self) -> Option<&'static str> {
        Some("newest")
    }

    fn keeps(&self) -> &'static [Kept] {
        &[Kept::Sqlite(".hermes/state.db")]
    }
}

/// A JSON document is one of YAML. Without a context length it probes the service for one.
fn settings(url: &str, model: &str) -> String {
    let settings = serde_json::json!({
        "model": {
            "default": model, "provider": "custom", "base_url": url, "api_key": format!("${{{OPENAI_KEY}}}"),
            "context_length": CONTEXT,
        },
        "security": { "tirith_enabled": false },
    });
    settings.to_string()
}

/// Everything that it prints, up to a result's length.
#[derive(Default)]
struct Words {
    said: String,
}

impl Reader for Words {
    fn line(&mut self, line: &str) -> Vec<Told> {
        let is_warning = self.said.is_empty() && line.trim_start().starts_with('\u{26a0}');
        if is_warning || self.said.len() > RESULT_MAX {
            return vec![];
        }
        self.said.push_str(line);
        self.said.push('\n');
        vec![]
    }

    fn end(&mut self) -> Vec<Told> {
        let text = std::mem::take(&mut self.said).trim().to_owned();
        if text.is_empty() {
            return vec![];
        }
        // It says a failure in the same way; its exit status tells them apart.
        let message = Told::Message { text: text.clone() };
        vec![message, Told::Result { text, failed: false }]
    }
}

/// The kernel takes arguments of at most 128 KiB (`MAX_ARG_STRLEN`), this one's option and end included.
const PROMPT_MAX: usize = (128 << 10) - "--query=".len() - 1;
/// Tokens. Hermes refuses less than 64 Ki; today's models have more.
const CONTEXT: u32 = 128 << 10;
