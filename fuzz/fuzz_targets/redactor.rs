//! Any split of any input is redacted the same, and no secret is left in it.

#![no_main]

use std::sync::{Arc, LazyLock};

use arbitrary::Arbitrary;
use berth_sidecar::redact::{Patterns, Redactor, Width};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

const SECRETS: [&str; 2] = ["fake-token-0123456789", "fake/other+value=0123456789abcdef"];

static PATTERNS: LazyLock<Arc<Patterns>> = LazyLock::new(|| {
    let [one, other] = SECRETS;
    // No stub ends as a secret begins: what lacked its first letter in the text would be whole behind it.
    let patterns = Patterns::new([
        ("ONE", one.as_bytes(), "stub_one_0123456789abcdeX"),
        ("OTHER", other.as_bytes(), "stub_other_0123456789abcdeX"),
    ]);
    Arc::new(patterns.expect("patterns compile"))
});

#[derive(Arbitrary, Debug)]
enum Piece {
    Bytes(Vec<u8>),
    Secret { other: bool, from: u8, to: u8 },
}

#[derive(Arbitrary, Debug)]
struct Input {
    pieces: Vec<Piece>,
    cuts: Vec<u16>,
}

fn text(pieces: &[Piece]) -> Vec<u8> {
    let mut text = Vec::new();
    for piece in pieces {
        match piece {
            Piece::Bytes(bytes) => text.extend_from_slice(bytes),
            Piece::Secret { other, from, to } => {
                let secret = SECRETS[usize::from(*other)].as_bytes();
                let part = usize::from(*from) % secret.len()..=usize::from(*to) % (secret.len() + 1);
                text.extend_from_slice(secret.get(part).unwrap_or(secret));
            }
        }
    }
    text
}

fn redact<'a>(chunks: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut redactor = Redactor::new(Arc::clone(&PATTERNS), Width::Free);
    let mut out = Vec::new();
    for chunk in chunks {
        for piece in redactor.push(Bytes::copy_from_slice(chunk)) {
            out.extend_from_slice(&piece);
        }
    }
    out.extend_from_slice(&redactor.finish().0);
    out
}

fuzz_target!(|input: Input| {
    let text = text(&input.pieces);
    let mut cuts: Vec<usize> = input
        .cuts
        .iter()
        .map(|cut| usize::from(*cut) % (text.len() + 1))
        .collect();
    cuts.extend([0, text.len()]);
    cuts.sort_unstable();
    let whole = redact(std::iter::once(&text[..]));
    let split = redact(cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]));
    assert_eq!(whole, split, "cut at {cuts:?}");
    for secret in SECRETS {
        let left = whole.windows(secret.len()).any(|window| window == secret.as_bytes());
        assert!(!left, "{secret} is left");
    }
});
