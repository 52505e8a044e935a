//! What a git server and a WebSocket upstream may send is taken or refused without a panic, split anyhow.

#![no_main]

use std::sync::{Arc, LazyLock};

use berth_sidecar::git::{command::Commands, packet};
use berth_sidecar::redact::Patterns;
use berth_sidecar::redact::websocket::Frames;
use libfuzzer_sys::fuzz_target;

static PATTERNS: LazyLock<Arc<Patterns>> = LazyLock::new(|| {
    let patterns = Patterns::new([("ONE", &b"fake-token-0123456789"[..], "stub_one_0123456789abcdef")]);
    Arc::new(patterns.expect("patterns compile"))
});

fuzz_target!(|input: (u16, &[u8])| {
    let (cut, bytes) = input;
    let cut = usize::from(cut) % (bytes.len() + 1);
    let push = |parts: &[&[u8]]| {
        let mut frames = Frames::new(Arc::clone(&PATTERNS));
        let mut out = Vec::new();
        for part in parts {
            match frames.push(part) {
                Ok(given) => out.extend_from_slice(&given),
                Err(_) => return None,
            }
        }
        Some(out)
    };
    let (whole, split) = (push(&[bytes]), push(&[&bytes[..cut], &bytes[cut..]]));
    assert_eq!(whole.is_some(), split.is_some(), "the split decides");
    if let Some(out) = whole {
        let secret = b"fake-token-0123456789";
        assert!(!out.windows(secret.len()).any(|window| window == secret));
    }
    let mut rest = bytes;
    while let Ok(Some((_, after))) = packet::take(rest) {
        rest = after;
    }
    let _ = Commands::parse(bytes, true);
});
