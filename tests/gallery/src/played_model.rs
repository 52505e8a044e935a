//! A stand-in of a model: no provider can be had in a test. It speaks the three languages that agent programs speak to
//! models (Anthropic's messages, OpenAI's responses and chat completions), streamed or whole, and follows one script:
//!
//! - asked with a tool that runs commands, it has the command run that the prompt names as ``Run `COMMAND` ``, or
//!   ``Run `COMMAND` 20 times``, one after the other;
//! - told in the last message that it is in a new pod, it has the command run that an earlier message names as
//!   ``Later run `COMMAND` ``: it can know that one from its conversation alone;
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
        /// Names the call, once in a conversation.
        id: String,
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

/// An answer, before it is put into a provider's words.
struct Said<'a> {
    model: &'a str,
    turn: Turn,
    /// Programs take answers with the same id for parts of one: this counts them.
    number: usize,
}

/// What was said so far, in no provider's words.
struct Conversation {
    /// What came to the model, in order.
    heard: Vec<Heard>,
    /// Names of the tools that it may call.
    tools: Vec<String>,
}

/// What came to the model.
enum Heard {
    /// From the user, or from the program in its name.
    User(String),
    /// From a tool.
    Tool(String),
}

/// The newest thing that the script has an answer for counts: programs put reminders of their own between.
fn next(conversation: &Conversation) -> Turn {
    let (mut asked, mut results) = (None, Vec::new());
    for heard in conversation.heard.iter().rev() {
        match heard {
            Heard::Tool(said) => results.push(said),
            Heard::User(said) if said.contains("new pod") => asked = earlier(conversation, "Later run `"),
            Heard::User(said) => asked = named(said, "Run `"),
        }
        if asked.is_some() {
            break;
        }
    }
    let times = asked.as_ref().map_or(0, |(_, times)| *times);
    if let Some(newest) = results.first().filter(|_| results.len() >= times) {
        return Turn::Says(format!("{DONE} {}", newest.trim()));
    }
    let tool = conversation.tools.iter().find(|name| SHELLS.contains(&name.as_str()));
    let (Some((command, _)), Some(tool)) = (asked, tool) else {
        return Turn::Says(PLAYED.to_owned());
    };
    let arguments = match tool.as_str() {
        "exec_command" => json!({ "cmd": command }),
        "shell" => json!({ "command": ["bash", "-c", command] }),
        "terminal" | "shell_command" => json!({ "command": command }),
        _ => json!({ "command": command, "description": "Run what was asked for" }),
    };
    let tools = conversation
        .heard
        .iter()
        .filter(|heard| matches!(heard, Heard::Tool(_)));
    Turn::Calls {
        id: format!("played_{}", tools.count()),
        tool: tool.clone(),
        arguments,
    }
}

fn earlier(conversation: &Conversation, asks: &str) -> Option<(String, usize)> {
    conversation.heard.iter().rev().find_map(|heard| match heard {
        Heard::User(said) => named(said, asks),
        Heard::Tool(_) => None,
    })
}

/// The command in backquotes after these words, and how often it is to be run.
fn named(said: &str, asks: &str) -> Option<(String, usize)> {
    let (_, rest) = said.rsplit_once(asks)?;
    let (command, rest) = rest.split_once('`')?;
    let times = rest
        .trim_start()
        .split_once(" times")
        .and_then(|(times, _)| times.parse().ok());
    Some((command.to_owned(), times.unwrap_or(1)))
}

fn reply(
    asked: &Value,
    streamed: fn(&Said<'_>) -> Vec<(&'static str, Value)>,
    whole: fn(&Said<'_>) -> Value,
    conversation: &Conversation,
) -> Vec<u8> {
    let said = Said {
        model: asked["model"].as_str().unwrap_or(MODEL),
        turn: next(conversation),
        number: conversation.heard.len(),
    };
    if asked["stream"] != json!(true) {
        return json(200, &whole(&said));
    }
    let line = |(event, data): (&str, Value)| match event {
        "" => format!("data: {data}\n\n"),
        event => format!("event: {event}\ndata: {data}\n\n"),
    };
    let events = streamed(&said);
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

    fn conversation(heard: Vec<Heard>) -> Conversation {
        let prompt = "Please help. Run `ls -l`, then stop. Later run `cat notes`.".to_owned();
        Conversation {
            heard: [Heard::User(prompt)].into_iter().chain(heard).collect(),
            tools: vec!["Read".to_owned(), "exec_command".to_owned()],
        }
    }

    fn called(turn: &Turn) -> &str {
        match turn {
            Turn::Calls { arguments, .. } => arguments["cmd"].as_str().unwrap(),
            Turn::Says(_) => panic!("{turn:?}"),
        }
    }

    #[test]
    fn the_command_of_the_prompt_is_run_once() {
        assert_eq!(called(&next(&conversation(vec![]))), "ls -l");
        let reminder = || Heard::User("<reminder/>".to_owned());
        assert_eq!(called(&next(&conversation(vec![reminder()]))), "ls -l");
        let heard = vec![Heard::Tool("total 0\n".to_owned()), reminder()];
        assert_eq!(
            next(&conversation(heard)),
            Turn::Says("The command said: total 0".to_owned())
        );
        let often = Conversation {
            heard: vec![
                Heard::User("Run `true` 2 times".to_owned()),
                Heard::Tool("one".to_owned()),
            ],
            ..conversation(vec![])
        };
        assert_eq!(called(&next(&often)), "true");
        let without_tools = Conversation {
            tools: vec![],
            ..conversation(vec![])
        };
        assert_eq!(next(&without_tools), Turn::Says(PLAYED.to_owned()));
    }

    #[test]
    fn in_a_new_pod_it_goes_on_from_its_conversation() {
        let moved = || Heard::User("You are in a new pod.".to_owned());
        let heard = vec![Heard::Tool("interrupted".to_owned()), moved()];
        assert_eq!(called(&next(&conversation(heard))), "cat notes");
        let heard = vec![moved(), Heard::Tool("42".to_owned())];
        assert_eq!(
            next(&conversation(heard)),
            Turn::Says("The command said: 42".to_owned())
        );
    }
}
