//! Pure: WebSocket frames from an upstream, with their secrets replaced (RFC 6455 §5.2). A message is one stream to the
//! redactor, whatever its fragments; it is given on as fragments of its own. What can't be read is an error.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::pattern::{Patterns, Width};
use super::stream::Redactor;

/// Reads frames.
pub struct Frames {
    patterns: Arc<Patterns>,
    unread: BytesMut,
    /// What is left of the frame whose header was read.
    payload: Option<Payload>,
    /// The data message under way.
    message: Option<Message>,
}

struct Payload {
    left: u64,
    last: bool,
}

struct Message {
    redactor: Redactor,
    /// 1 text or 2 binary before the first fragment was given on, 0 afterwards.
    opcode: u8,
}

/// Frames that can't be passed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    /// A reserved bit: an extension, such as compression, that wasn't agreed on.
    #[error("a WebSocket frame uses an extension")]
    Extension,
    /// A server's frames aren't masked.
    #[error("a WebSocket frame of the upstream is masked")]
    Masked,
    /// An unknown opcode, a fragment without a beginning or a beginning within a message.
    #[error("a WebSocket frame is out of order")]
    Order,
    /// A control frame that is fragmented or has more than 125 bytes.
    #[error("a WebSocket control frame is malformed")]
    Control,
    /// A control frame that holds a secret.
    #[error("a WebSocket control frame holds a secret")]
    Secret,
}

impl Frames {
    /// Before the first frame.
    pub fn new(patterns: Arc<Patterns>) -> Self {
        Self {
            patterns,
            unread: BytesMut::new(),
            payload: None,
            message: None,
        }
    }

    /// Takes bytes of the upstream, gives those for the agent.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Bytes, Error> {
        self.unread.extend_from_slice(bytes);
        let mut given = BytesMut::with_capacity(self.unread.len() + 16);
        while self.step(&mut given)? {}
        Ok(given.freeze())
    }

    /// Whether there may be more to do.
    fn step(&mut self, given: &mut BytesMut) -> Result<bool, Error> {
        if let Some(payload) = self.payload.take() {
            return Ok(self.take_payload(payload, given));
        }
        let Some(header) = Header::read(&self.unread)? else {
            return Ok(false);
        };
        if header.opcode >= CLOSE {
            return self.take_control(&header, given);
        }
        self.unread.advance(header.bytes);
        match (header.opcode, self.message.is_some()) {
            (0, true) => {}
            (1 | 2, false) => {
                self.message = Some(Message {
                    redactor: Redactor::new(Arc::clone(&self.patterns), Width::Free),
                    opcode: header.opcode,
                });
            }
            _ => return Err(Error::Order),
        }
        self.payload = Some(Payload {
            left: header.length,
            last: header.last,
        });
        Ok(true)
    }

    fn take_payload(&mut self, mut payload: Payload, given: &mut BytesMut) -> bool {
        let here = usize::try_from(payload.left)
            .unwrap_or(usize::MAX)
            .min(self.unread.len());
        payload.left -= here as u64;
        let data = self.unread.split_to(here).freeze();
        if let Some(message) = &mut self.message {
            for piece in message.redactor.push(data) {
                message.give(&piece, false, given);
            }
        }
        if payload.left > 0 {
            self.payload = Some(payload);
            return false;
        }
        if payload.last
            && let Some(Message { redactor, opcode }) = self.message.take()
        {
            let (rest, _) = redactor.finish();
            give(opcode, &rest, true, given);
        }
        true
    }

    fn take_control(&mut self, header: &Header, given: &mut BytesMut) -> Result<bool, Error> {
        if !header.last || header.length > CONTROL_MAX || header.opcode > PONG {
            return Err(Error::Control);
        }
        let whole = header.bytes + usize::try_from(header.length).unwrap_or(usize::MAX);
        if self.unread.len() < whole {
            return Ok(false);
        }
        let frame = self.unread.split_to(whole);
        if self.patterns.occur_in(&frame) {
            return Err(Error::Secret);
        }
        given.extend_from_slice(&frame);
        Ok(true)
    }
}

impl Message {
    fn give(&mut self, piece: &[u8], last: bool, given: &mut BytesMut) {
        if !piece.is_empty() {
            give(self.opcode, piece, last, given);
            self.opcode = 0;
        }
    }
}

fn give(opcode: u8, piece: &[u8], last: bool, given: &mut BytesMut) {
    given.put_u8(opcode | if last { FIN } else { 0 });
    match piece.len() {
        length @ 0..=125 => given.put_u8(u8::try_from(length).unwrap_or_default()),
        length @ 126..=0xffff => {
            given.put_u8(126);
            given.put_u16(u16::try_from(length).unwrap_or_default());
        }
        length => {
            given.put_u8(127);
            given.put_u64(length as u64);
        }
    }
    given.extend_from_slice(piece);
}

struct Header {
    last: bool,
    opcode: u8,
    length: u64,
    /// Of the header itself.
    bytes: usize,
}

impl Header {
    /// `None` when more is needed.
    fn read(mut bytes: &[u8]) -> Result<Option<Self>, Error> {
        let [first, second, ..] = *bytes else { return Ok(None) };
        if first & RESERVED != 0 {
            return Err(Error::Extension);
        }
        if second & MASKED != 0 {
            return Err(Error::Masked);
        }
        let (last, opcode) = (first & FIN != 0, first & 0x0f);
        if (3..CLOSE).contains(&opcode) {
            return Err(Error::Order);
        }
        bytes.advance(2);
        let (length, size) = match second {
            126 if bytes.len() >= 2 => (u64::from(bytes.get_u16()), 4),
            127 if bytes.len() >= 8 => (bytes.get_u64(), 10),
            126 | 127 => return Ok(None),
            length => (u64::from(length), 2),
        };
        Ok(Some(Self {
            last,
            opcode,
            length,
            bytes: size,
        }))
    }
}

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;
/// The first of the control frames …
const CLOSE: u8 = 8;
/// … and the last.
const PONG: u8 = 10;
/// RFC 6455 §5.5.
const CONTROL_MAX: u64 = 125;

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "fake-secret-of-24-letters";
    const STUB: &str = "stub_of_the_fake_secret_";

    fn frames() -> Frames {
        let patterns = Patterns::new([("TOKEN", SECRET.as_bytes(), STUB)]).unwrap();
        Frames::new(Arc::new(patterns))
    }

    fn frame(opcode: u8, last: bool, payload: &str) -> Vec<u8> {
        let mut bytes = BytesMut::new();
        give(opcode, payload.as_bytes(), last, &mut bytes);
        bytes.to_vec()
    }

    /// Payloads of whole messages, joined; control frames as `<opcode:payload>`.
    fn messages(mut bytes: &[u8]) -> String {
        let mut text = String::new();
        while let Some(header) = Header::read(bytes).unwrap() {
            bytes.advance(header.bytes);
            let (payload, rest) = bytes.split_at(usize::try_from(header.length).unwrap());
            let payload = std::str::from_utf8(payload).unwrap();
            if header.opcode >= CLOSE {
                let opcode = header.opcode.to_string();
                text.extend(["<", opcode.as_str(), ":", payload, ">"]);
            } else {
                text += payload;
                text += if header.last { "|" } else { "" };
            }
            bytes = rest;
        }
        text
    }

    #[test]
    fn a_secret_is_replaced_however_its_message_is_cut() {
        let (left, right) = SECRET.split_at(9);
        let wire = [
            frame(1, true, "hello"),
            frame(1, false, &format!("a {left}")),
            frame(9, true, "ping"),
            frame(0, true, &format!("{right} b")),
            frame(8, true, ""),
        ]
        .concat();
        for step in 1..wire.len() {
            let mut frames = frames();
            let mut given = Vec::new();
            for piece in wire.chunks(step) {
                given.extend_from_slice(&frames.push(piece).unwrap());
            }
            let text = messages(&given).replace("<9:ping>", "");
            assert_eq!(text, format!("hello|a {STUB} b|<8:>"), "{step}");
        }
    }

    #[test]
    fn what_cannot_be_read_ends_it() {
        let cases = [
            (vec![0xc1, 0x00], Error::Extension),
            (vec![0x81, 0x80, 0, 0, 0, 0], Error::Masked),
            (frame(0, true, "x"), Error::Order),
            ([frame(1, false, "x"), frame(2, true, "y")].concat(), Error::Order),
            (frame(3, true, ""), Error::Order),
            (frame(9, false, ""), Error::Control),
            (frame(11, true, ""), Error::Control),
            (frame(9, true, &"x".repeat(126)), Error::Control),
            (frame(9, true, SECRET), Error::Secret),
        ];
        for (wire, expected) in cases {
            assert_eq!(frames().push(&wire), Err(expected));
        }
    }
}
