//! Anthropic's messages.

use serde_json::{Value, json};

use super::{Conversation, INPUT_TOKENS, OUTPUT_TOKENS, Turn, list, text};

pub(super) fn conversation(asked: &Value) -> Conversation {
    let messages = list(asked, "messages");
    let last = messages.last().map(|message| &message["content"]);
    let is_result = |part: &&Value| part["type"] == "tool_result";
    let result = last
        .and_then(Value::as_array)
        .and_then(|parts| parts.iter().rfind(is_result));
    let users = messages.iter().filter(|message| message["role"] == "user");
    Conversation {
        prompt: users
            .map(|message| text(&message["content"]))
            .collect::<Vec<_>>()
            .join("\n"),
        tool_said: result.map(|result| text(&result["content"])),
        tools: list(asked, "tools")
            .iter()
            .filter_map(|tool| Some(tool["name"].as_str()?.to_owned()))
            .collect(),
    }
}

fn block(turn: &Turn) -> Value {
    match turn {
        Turn::Says(text) => json!({ "type": "text", "text": text }),
        Turn::Calls { tool, arguments } => {
            json!({ "type": "tool_use", "id": "toolu_played", "name": tool, "input": arguments })
        }
    }
}

fn reason(turn: &Turn) -> &'static str {
    match turn {
        Turn::Says(_) => "end_turn",
        Turn::Calls { .. } => "tool_use",
    }
}

pub(super) fn whole(model: &str, turn: &Turn) -> Value {
    json!({
        "id": "msg_played", "type": "message", "role": "assistant", "model": model, "content": [block(turn)],
        "stop_reason": reason(turn), "stop_sequence": null,
        "usage": { "input_tokens": INPUT_TOKENS, "output_tokens": OUTPUT_TOKENS },
    })
}

pub(super) fn streamed(model: &str, turn: &Turn) -> Vec<(&'static str, Value)> {
    let mut message = whole(model, turn);
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
