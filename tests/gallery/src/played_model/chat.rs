//! OpenAI's chat completions.

use serde_json::{Value, json};

use super::{Conversation, INPUT_TOKENS, OUTPUT_TOKENS, Turn, list, text};

pub(super) fn conversation(asked: &Value) -> Conversation {
    let messages = list(asked, "messages");
    let users = messages.iter().filter(|message| message["role"] == "user");
    let last = messages.last().filter(|message| message["role"] == "tool");
    let names = list(asked, "tools").iter();
    Conversation {
        prompt: users
            .map(|message| text(&message["content"]))
            .collect::<Vec<_>>()
            .join("\n"),
        tool_said: last.map(|message| text(&message["content"])),
        tools: names
            .filter_map(|tool| Some(tool["function"]["name"].as_str()?.to_owned()))
            .collect(),
    }
}

fn message(turn: &Turn) -> Value {
    match turn {
        Turn::Says(text) => json!({ "role": "assistant", "content": text }),
        Turn::Calls { tool, arguments } => {
            let function = json!({ "name": tool, "arguments": arguments.to_string() });
            let call = json!({ "index": 0, "id": "call_played", "type": "function", "function": function });
            json!({ "role": "assistant", "content": null, "tool_calls": [call] })
        }
    }
}

fn reason(turn: &Turn) -> &'static str {
    match turn {
        Turn::Says(_) => "stop",
        Turn::Calls { .. } => "tool_calls",
    }
}

fn usage() -> Value {
    json!({
        "prompt_tokens": INPUT_TOKENS, "completion_tokens": OUTPUT_TOKENS, "total_tokens": INPUT_TOKENS + OUTPUT_TOKENS,
    })
}

pub(super) fn whole(model: &str, turn: &Turn) -> Value {
    let choice = json!({ "index": 0, "message": message(turn), "finish_reason": reason(turn) });
    json!({
        "id": "chatcmpl-played", "object": "chat.completion", "created": 0, "model": model, "choices": [choice],
        "usage": usage(),
    })
}

pub(super) fn streamed(model: &str, turn: &Turn) -> Vec<(&'static str, Value)> {
    let chunk = |choices: Value, usage: Value| {
        let chunk = json!({
            "id": "chatcmpl-played", "object": "chat.completion.chunk", "created": 0, "model": model,
            "choices": choices, "usage": usage,
        });
        ("", chunk)
    };
    let says = json!([{ "index": 0, "delta": message(turn), "finish_reason": null }]);
    let ends = json!([{ "index": 0, "delta": {}, "finish_reason": reason(turn) }]);
    vec![
        chunk(says, Value::Null),
        chunk(ends, Value::Null),
        chunk(json!([]), usage()),
    ]
}
