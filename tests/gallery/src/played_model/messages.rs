//! Anthropic's messages.

use serde_json::{Value, json};

use super::{Conversation, Heard, INPUT_TOKENS, OUTPUT_TOKENS, Said, Turn, list, text};

pub(super) fn conversation(asked: &Value) -> Conversation {
    let users = list(asked, "messages")
        .iter()
        .filter(|message| message["role"] == "user");
    let heard = users.flat_map(|message| match message["content"].as_array() {
        None => vec![Heard::User(text(&message["content"]))],
        Some(parts) => parts.iter().map(part).collect(),
    });
    Conversation {
        heard: heard.collect(),
        tools: list(asked, "tools")
            .iter()
            .filter_map(|tool| Some(tool["name"].as_str()?.to_owned()))
            .collect(),
    }
}

fn part(part: &Value) -> Heard {
    if part["type"] == "tool_result" {
        Heard::Tool(text(&part["content"]))
    } else {
        Heard::User(text(part))
    }
}

fn block(turn: &Turn) -> Value {
    match turn {
        Turn::Says(text) => json!({ "type": "text", "text": text }),
        Turn::Calls { id, tool, arguments } => {
            json!({ "type": "tool_use", "id": format!("toolu_{id}"), "name": tool, "input": arguments })
        }
    }
}

fn reason(turn: &Turn) -> &'static str {
    match turn {
        Turn::Says(_) => "end_turn",
        Turn::Calls { .. } => "tool_use",
    }
}

pub(super) fn whole(said: &Said<'_>) -> Value {
    let Said { model, turn, number } = said;
    json!({
        "id": format!("msg_played-{number}"), "type": "message", "role": "assistant", "model": model, "content": [block(turn)],
        "stop_reason": reason(turn), "stop_sequence": null,
        "usage": { "input_tokens": INPUT_TOKENS, "output_tokens": OUTPUT_TOKENS },
    })
}

pub(super) fn streamed(said: &Said<'_>) -> Vec<(&'static str, Value)> {
    let turn = &said.turn;
    let mut message = whole(said);
    message["content"] = json!([]);
    message["stop_reason"] = Value::Null;
    let (begins, delta) = match turn {
        Turn::Says(text) => (
            json!({ "type": "text", "text": "" }),
            json!({ "type": "text_delta", "text": text }),
        ),
        Turn::Calls { arguments, .. } => {
            let mut begins = block(turn);
            begins["input"] = json!({});
            (
                begins,
                json!({ "type": "input_json_delta", "partial_json": arguments.to_string() }),
            )
        }
    };
    let ends = json!({ "stop_reason": reason(turn), "stop_sequence": null });
    let events = [
        ("message_start", json!({ "message": message })),
        ("content_block_start", json!({ "index": 0, "content_block": begins })),
        ("content_block_delta", json!({ "index": 0, "delta": delta })),
        ("content_block_stop", json!({ "index": 0 })),
        (
            "message_delta",
            json!({ "delta": ends, "usage": { "output_tokens": OUTPUT_TOKENS } }),
        ),
        ("message_stop", json!({})),
    ];
    let named = |(name, mut data): (&'static str, Value)| {
        data["type"] = name.into();
        (name, data)
    };
    events.into_iter().map(named).collect()
}
