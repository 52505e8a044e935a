//! OpenAI's chat completions.

use serde_json::{Value, json};

use super::{Conversation, Heard, INPUT_TOKENS, OUTPUT_TOKENS, Said, Turn, list, text};

pub(super) fn conversation(asked: &Value) -> Conversation {
    let heard = list(asked, "messages").iter().filter_map(|message| {
        let said = text(&message["content"]);
        match message["role"].as_str()? {
            "user" => Some(Heard::User(said)),
            "tool" => Some(Heard::Tool(said)),
            _ => None,
        }
    });
    let names = list(asked, "tools").iter();
    Conversation {
        heard: heard.collect(),
        tools: names
            .filter_map(|tool| Some(tool["function"]["name"].as_str()?.to_owned()))
            .collect(),
    }
}

fn message(turn: &Turn) -> Value {
    match turn {
        Turn::Says(text) => json!({ "role": "assistant", "content": text }),
        Turn::Calls { id, tool, arguments } => {
            let function = json!({ "name": tool, "arguments": arguments.to_string() });
            let call = json!({ "index": 0, "id": format!("call_{id}"), "type": "function", "function": function });
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

pub(super) fn whole(said: &Said<'_>) -> Value {
    let Said { model, turn, number } = said;
    let choice = json!({ "index": 0, "message": message(turn), "finish_reason": reason(turn) });
    json!({
        "id": format!("chatcmpl-played-{number}"), "object": "chat.completion", "created": 0, "model": model, "choices": [choice],
        "usage": usage(),
    })
}

pub(super) fn streamed(said: &Said<'_>) -> Vec<(&'static str, Value)> {
    let Said { model, turn, number } = said;
    let chunk = |choices: Value, usage: Value| {
        let chunk = json!({
            "id": format!("chatcmpl-played-{number}"), "object": "chat.completion.chunk", "created": 0, "model": model,
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
