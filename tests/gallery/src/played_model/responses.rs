//! OpenAI's responses.

use serde_json::{Value, json};

use super::{Conversation, Heard, INPUT_TOKENS, OUTPUT_TOKENS, Said, Turn, list, text};

pub(super) fn conversation(asked: &Value) -> Conversation {
    let heard = list(asked, "input").iter().filter_map(|item| {
        if item["role"] == "user" {
            return Some(Heard::User(text(&item["content"])));
        }
        (item["type"] == "function_call_output").then(|| Heard::Tool(text(&item["output"])))
    });
    let names = list(asked, "tools").iter();
    Conversation {
        heard: heard.collect(),
        tools: names
            .filter_map(|tool| Some(tool["name"].as_str()?.to_owned()))
            .collect(),
    }
}

fn item(turn: &Turn, number: usize) -> Value {
    match turn {
        Turn::Says(text) => json!({
            "type": "message", "id": format!("msg_played-{number}"), "role": "assistant", "status": "completed",
            "content": [{ "type": "output_text", "text": text, "annotations": [] }],
        }),
        Turn::Calls { id, tool, arguments } => json!({
            "type": "function_call", "id": format!("fc_{id}"), "call_id": format!("call_{id}"), "name": tool, "status": "completed",
            "arguments": arguments.to_string(),
        }),
    }
}

pub(super) fn whole(said: &Said<'_>) -> Value {
    let Said { model, turn, number } = said;
    json!({
        "id": format!("resp_played-{number}"), "object": "response", "created_at": 0, "status": "completed", "model": model,
        "output": [item(turn, *number)],
        "usage": {
            "input_tokens": INPUT_TOKENS, "input_tokens_details": { "cached_tokens": 0 },
            "output_tokens": OUTPUT_TOKENS, "output_tokens_details": { "reasoning_tokens": 0 },
            "total_tokens": INPUT_TOKENS + OUTPUT_TOKENS,
        },
    })
}

pub(super) fn streamed(said: &Said<'_>) -> Vec<(&'static str, Value)> {
    let Said { model, turn, number } = said;
    let begun =
        json!({ "id": format!("resp_played-{number}"), "object": "response", "status": "in_progress", "model": model });
    let events = [
        ("response.created", json!({ "response": begun })),
        (
            "response.output_item.added",
            json!({ "output_index": 0, "item": item(turn, *number) }),
        ),
        (
            "response.output_item.done",
            json!({ "output_index": 0, "item": item(turn, *number) }),
        ),
        ("response.completed", json!({ "response": whole(said) })),
    ];
    let numbered = events.into_iter().enumerate();
    let named = |(number, (name, mut data)): (usize, (&'static str, Value))| {
        data["type"] = name.into();
        data["sequence_number"] = number.into();
        (name, data)
    };
    numbered.map(named).collect()
}
