//! HTTP/2 by hand, for what no library sends: frames, and headers without compression.

/// What a client begins with, with empty settings.
pub fn preface() -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    bytes
}

/// One frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Literal fields that are never indexed (RFC 7541 §6.2.3).
pub fn fields(pairs: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in pairs {
        bytes.push(0x10);
        for text in [name, value] {
            integer(&mut bytes, text.len());
            bytes.extend(text.as_bytes());
        }
    }
    bytes
}

/// RFC 7541 §5.1, with a prefix of 7 bits.
fn integer(bytes: &mut Vec<u8>, value: usize) {
    let byte = |value: usize| u8::try_from(value).unwrap_or(u8::MAX);
    if value < 127 {
        return bytes.push(byte(value));
    }
    bytes.push(127);
    let mut rest = value - 127;
    while rest >= 128 {
        bytes.push(byte(rest % 128 + 128));
        rest /= 128;
    }
    bytes.push(byte(rest));
}

/// Types of frames that came, by the raw bytes of a connection.
pub fn kinds(mut bytes: &[u8]) -> Vec<u8> {
    let mut kinds = Vec::new();
    while let [a, b, c, kind, _, _, _, _, _, rest @ ..] = bytes {
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        kinds.push(*kind);
        bytes = rest.get(length..).unwrap_or_default();
    }
    kinds
}

/// RFC 9113 §6.
pub const DATA: u8 = 0;
/// RFC 9113 §6.
pub const HEADERS: u8 = 1;
/// RFC 9113 §6.
pub const RST_STREAM: u8 = 3;
/// RFC 9113 §6.
pub const SETTINGS: u8 = 4;
/// RFC 9113 §6.
pub const GOAWAY: u8 = 7;
/// RFC 9113 §6.
pub const CONTINUATION: u8 = 9;
/// Flag of `HEADERS` and `DATA`.
pub const END_STREAM: u8 = 1;
/// Flag of `HEADERS` and `CONTINUATION`.
pub const END_HEADERS: u8 = 4;
