//! A stand-in of a model: no provider can be had in a test. It speaks the three languages that agent programs speak to
//! models (Anthropic's messages, OpenAI's responses and chat completions), streamed or whole, and follows one script:
//!
//! - asked with a tool that runs commands, it has the command run that the prompt names as ``Run `COMMAND` ``;
//! - shown what a tool said, it says [`DONE`] and repeats that;
//! - asked for anything else, such as a title, it says [`PLAYED`].
//!
//! It keeps nothing between requests: what it answers follows from the conversation that it is shown.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::origin::{Answer, Seen};

mod chat;
mod messages;
mod responses;

/// What it says without a command to run.
pub const PLAYED: &str = "This is a played model.";
/// How its last words begin after a command has run.
pub const DONE: &str = "The command said:";

/// What it says next.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Turn {
    /// Words, and then no more.
    Says(String),
    /// A call of a tool.
    Calls {
        /// The tool's name.
        tool: String,
        /// Its arguments.
        arguments: Value,
    },
}

/// Answers as a provider does.
pub fn answer() -> Answer {
    Arc::new(|seen| Some(respond(seen)))
}

fn respond(seen: &Seen) -> Vec<u8> {
    let path = seen.target().split('?').next().unwrap_or_default();
    let asked: Value = serde_json::from_slice(&seen.body).unwrap_or_default();
    match path {
        "/v1/messages" => reply(
            &asked,
            messages::streamed,
            messages::whole,
            &messages::conversation(&asked),
        ),
        "/v1/messages/count_tokens" => json(200, &json!({ "input_tokens": INPUT_TOKENS })),
        "/v1/responses" => reply(
            &asked,
            responses::streamed,
            responses::whole,
            &responses::conversation(&asked),
        ),
        "/v1/chat/completions" => reply(&asked, chat::streamed, chat::whole, &chat::conversation(&asked)),
        "/v1/models" => json(
            200,
            &json!({ "object": "list", "data": [{ "id": MODEL, "object": "model" }] }),
        ),
        _ => json(
            404,
            &json!({ "error": { "message": "the played model has no such path", "type": "not_found_error" } }),
        ),
    }
}

/// What was said so far, in no provider's words.
struct Conversation {
    /// What the user said, joined.
    prompt: String,
    /// What the last tool said, when nothing was said after it.
    tool_said: Option<String>,
    /// Names of the tools that it may call.
    tools: Vec<String>,
}

fn next(conversation: &Conversation) -> Turn {
    if let Some(said) = &conversation.tool_said {
        return Turn::Says(format!("{DONE} {}", said.trim()));
    }
    let command = conversation
        .prompt
        .rsplit_once("Run `")
        .and_then(|(_, rest)| rest.split_once('`'));
    let tool = conversation.tools.iter().find(|name| SHELLS.contains(&name.as_str()));
    let (Some((command, _)), Some(tool)) = (command, tool) else {
        return Turn::Says(PLAYED.to_owned());
    };
    let arguments = match tool.as_str() {
        "exec_command" => json!({ "cmd": command }),
        "shell" => json!({ "command": ["bash", "-c", command] }),
        "terminal" | "shell_command" => json!({ "command": command }),
        _ => json!({ "command": command, "description": "Run what was asked for" }),
    };
    Turn::Calls {
        tool: tool.clone(),
        arguments,
    }
}

fn reply(
    asked: &Value,
    streamed: fn(&str, &Turn) -> Vec<(&'static str, Value)>,
    whole: fn(&str, &Turn) -> Value,
    conversation: &Conversation,
) -> Vec<u8> {
    let (turn, model) = (next(conversation), asked["model"].as_str().unwrap_or(MODEL));
    if asked["stream"] != json!(true) {
        return json(200, &whole(model, &turn));
    }
    let line = |(event, data): (&str, Value)| match event {
        "" => format!("data: {data}\n\n"),
        event => format!("event: {event}\ndata: {data}\n\n"),
    };
    let events = streamed(model, &turn);
    let end = match events.first() {
        Some(("", _)) => "data: [DONE]\n\n", // chat completions alone end so
        _ => "",
    };
    let mut body: String = events.into_iter().map(line).collect();
    body.push_str(end);
    http(200, "text/event-stream", &body)
}

fn json(status: u16, said: &Value) -> Vec<u8> {
    http(status, "application/json", &said.to_string())
}

fn http(status: u16, kind: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status} As Said\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes()
}

/// The text of what is a text itself, or a list of parts with texts.
fn text(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().map(text).collect::<Vec<_>>().join("\n"),
        Value::Object(part) => part
            .get("text")
            .or_else(|| part.get("content"))
            .map(text)
            .unwrap_or_default(),
        _ => String::new(),
    }
}

fn list<'a>(asked: &'a Value, field: &str) -> &'a [Value] {
    asked[field].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Tools that run commands, by the names that the four agent programs give them.
const SHELLS: [&str; 6] = ["Bash", "bash", "exec_command", "shell_command", "shell", "terminal"];
const MODEL: &str = "played";
/// Of every request, so that usage can be added up.
const INPUT_TOKENS: u64 = 11;
/// Of every answer.
const OUTPUT_TOKENS: u64 = 7;

#[cfg(test)]
mod tests {
    use super::*;

    fn conversation(tool_said: Option<&str>, tools: &[&str]) -> Conversation {
        Conversation {
            prompt: "Please help. Run `ls -l`, then stop.".to_owned(),
            tool_said: tool_said.map(str::to_owned),
            tools: tools.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    #[test]
    fn the_command_of_the_prompt_is_run_once() {
        let calls = next(&conversation(None, &["Read", "exec_command"]));
        let arguments = json!({ "cmd": "ls -l" });
        assert_eq!(
            calls,
            Turn::Calls {
                tool: "exec_command".to_owned(),
                arguments
            }
        );
        let says = next(&conversation(Some("total 0\n"), &["exec_command"]));
        assert_eq!(says, Turn::Says("The command said: total 0".to_owned()));
        assert_eq!(next(&conversation(None, &[])), Turn::Says(PLAYED.to_owned()));
    }
}
