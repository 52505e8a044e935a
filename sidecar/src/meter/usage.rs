//! Pure: what an answer of a model says that it has used. Chat completions and responses of OpenAI's API, messages of
//! Anthropic's, whole or as server-sent events; the last word counts, as streams count up.

use serde_json::Value;

/// Tokens.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Usage {
    /// Of the prompt, without what was cached.
    pub input: u64,
    /// Of the answer.
    pub output: u64,
    /// Of the prompt, from the provider's cache.
    pub cache_read: u64,
    /// Of the prompt, into it.
    pub cache_write: u64,
}

/// Reads an answer as it passes.
pub struct Reader {
    events: bool,
    held: Vec<u8>,
    /// More than is held: nothing is known then.
    lost: bool,
    usage: Option<Usage>,
}

impl Reader {
    /// For an answer of this media type; `None` for one that says nothing.
    pub fn of(media: &str) -> Option<Self> {
        let media = media.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let events = media == "text/event-stream";
        (events || media == "application/json").then(|| Self {
            events,
            held: Vec::new(),
            lost: false,
            usage: None,
        })
    }

    /// A piece of it.
    pub fn push(&mut self, mut data: &[u8]) {
        if self.lost {
            return;
        }
        while self.events
            && let Some(end) = data.iter().position(|byte| *byte == b'\n')
        {
            let (line, rest) = data.split_at(end);
            self.hold(line);
            self.line();
            data = rest.get(1..).unwrap_or_default();
        }
        self.hold(data);
    }

    fn hold(&mut self, data: &[u8]) {
        if self.held.len() + data.len() > HELD_MAX {
            self.lost = true;
            self.held = Vec::new();
            return;
        }
        self.held.extend_from_slice(data);
    }

    fn line(&mut self) {
        let line = std::mem::take(&mut self.held);
        let Some(data) = line.strip_prefix(b"data:") else {
            return;
        };
        if holds(data, b"\"usage\"") {
            self.read(data);
        }
    }

    fn read(&mut self, json: &[u8]) {
        let Ok(value) = serde_json::from_slice::<Value>(json) else {
            return;
        };
        let places = [
            value.get("usage"),
            value.pointer("/message/usage"),
            value.pointer("/response/usage"),
        ];
        for said in places.into_iter().flatten().filter(|said| said.is_object()) {
            let before = self.usage.unwrap_or_default();
            self.usage = Some(before.with(said));
        }
    }

    /// All of it has passed: what it says, if it says it.
    pub fn finish(mut self) -> Option<Usage> {
        if self.lost {
            return None;
        }
        if self.events {
            self.line();
        } else {
            let held = std::mem::take(&mut self.held);
            self.read(&held);
        }
        self.usage
    }
}

impl Usage {
    /// The larger of each: what comes later never says less, but may leave something out.
    fn with(self, said: &Value) -> Self {
        let number = |path: &str| said.pointer(path).and_then(Value::as_u64);
        let cached =
            number("/prompt_tokens_details/cached_tokens").or_else(|| number("/input_tokens_details/cached_tokens"));
        // OpenAI counts cached tokens among the prompt's, Anthropic beside them.
        let input = number("/prompt_tokens")
            .or_else(|| number("/input_tokens"))
            .unwrap_or(0);
        let output = number("/completion_tokens")
            .or_else(|| number("/output_tokens"))
            .unwrap_or(0);
        let read = cached.or_else(|| number("/cache_read_input_tokens")).unwrap_or(0);
        Self {
            input: self.input.max(input.saturating_sub(cached.unwrap_or(0))),
            output: self.output.max(output),
            cache_read: self.cache_read.max(read),
            cache_write: self
                .cache_write
                .max(number("/cache_creation_input_tokens").unwrap_or(0)),
        }
    }
}

fn holds(text: &[u8], sought: &[u8]) -> bool {
    text.windows(sought.len()).any(|window| window == sought)
}

/// A line, or a whole answer: a model's longest has some hundred thousand tokens.
const HELD_MAX: usize = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(media: &str, text: &str) -> Option<Usage> {
        // In pieces of every size, as the wire has them.
        let mut all = (1..=text.len().min(40)).map(|size| {
            let mut reader = Reader::of(media)?;
            text.as_bytes().chunks(size).for_each(|piece| reader.push(piece));
            reader.finish()
        });
        let first = all.next().flatten();
        assert!(all.all(|usage| usage == first));
        first
    }

    fn usage(input: u64, output: u64, cache_read: u64, cache_write: u64) -> Usage {
        Usage {
            input,
            output,
            cache_read,
            cache_write,
        }
    }

    #[test]
    fn whole_answers_say_what_they_used() {
        let json = "application/json; charset=utf-8";
        let chat = r#"{"usage": {"prompt_tokens": 20, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 5}}}"#;
        assert_eq!(read(json, chat), Some(usage(15, 7, 5, 0)));
        let messages = r#"{"usage": {"input_tokens": 20, "output_tokens": 7, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 3}}"#;
        assert_eq!(read(json, messages), Some(usage(20, 7, 5, 3)));
        let responses =
            r#"{"usage": {"input_tokens": 20, "output_tokens": 7, "input_tokens_details": {"cached_tokens": 5}}}"#;
        assert_eq!(read(json, responses), Some(usage(15, 7, 5, 0)));
        for nothing in ["{}", "[", r#"{"usage": null}"#] {
            assert_eq!(read(json, nothing), None, "{nothing}");
        }
        assert_eq!(read("text/plain", chat), None);
    }

    #[test]
    fn streams_count_up() {
        let anthropic = "event: message_start\r\ndata: {\"message\": {\"usage\": {\"input_tokens\": 9, \"output_tokens\": 1}}}\r\n\r\n\
            data: {\"delta\": {\"text\": \"the \\\"usage\\\" of it\"}}\n\n\
            data: {\"type\": \"message_delta\", \"usage\": {\"output_tokens\": 12}}\n\n";
        assert_eq!(read("text/event-stream", anthropic), Some(usage(9, 12, 0, 0)));
        let chat = "data: {\"choices\": [], \"usage\": null}\n\n\
            data: {\"choices\": [], \"usage\": {\"prompt_tokens\": 4, \"completion_tokens\": 2}}\n\ndata: [DONE]\n\n";
        assert_eq!(read("text/event-stream", chat), Some(usage(4, 2, 0, 0)));
        let responses = "data: {\"type\": \"response.completed\", \"response\": {\"usage\": {\"input_tokens\": 4, \"output_tokens\": 2}}}";
        assert_eq!(read("text/event-stream", responses), Some(usage(4, 2, 0, 0)));
        assert_eq!(
            read("text/event-stream", "data: {\"choices\": []}\n\ndata: [DONE]\n\n"),
            None
        );
    }

    #[test]
    fn what_is_longer_than_is_held_is_not_known() {
        let mut reader = Reader::of("application/json").unwrap();
        (0..5).for_each(|_| reader.push(&vec![b' '; 1 << 20]));
        assert!(reader.held.is_empty());
        assert_eq!(reader.finish(), None);
    }
}
