//! Finds stubs in requests, however they are written: a stub is public, but where it shows up is not (rows 1, 27).

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use aho_corasick::{AhoCorasick, MatchKind};
use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use percent_encoding::percent_decode;

use crate::policy::Credential;

/// Stubs of all credentials, those included that lint has dropped: the stub of such a one is refused everywhere.
#[derive(Clone, Debug)]
pub(crate) struct Stubs {
    entries: Vec<Entry>,
    automaton: Option<AhoCorasick>,
    /// Length of the shortest one. Decoding only shortens a text, so one that is shorter holds no stub in any spelling.
    shortest: usize,
}

#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) credential: Arc<str>,
    pub(crate) stub: String,
}

/// Position of a credential among the stubs.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct StubId(pub(crate) usize);

impl Stubs {
    /// None when there are more stubs than one automaton holds.
    pub(crate) fn new(entries: Vec<Entry>) -> Option<Self> {
        let automaton = if entries.is_empty() {
            None
        } else {
            Some(automaton(entries.iter().map(|entry| entry.stub.as_str()))?)
        };
        let shortest = entries.iter().map(|entry| entry.stub.len()).min().unwrap_or_default();
        Some(Self {
            entries,
            automaton,
            shortest,
        })
    }

    pub(crate) fn none() -> Self {
        Self {
            entries: Vec::new(),
            automaton: None,
            shortest: 0,
        }
    }

    /// Ids of some of the credentials, by name.
    pub(crate) fn ids<'a>(
        &self,
        credentials: impl Iterator<Item = (usize, &'a Credential)>,
    ) -> HashMap<Arc<str>, StubId> {
        let places: HashMap<&str, usize> = (self.entries.iter().enumerate())
            .map(|(at, entry)| (entry.stub.as_str(), at))
            .collect();
        credentials
            .filter_map(|(_, credential)| {
                let at = *places.get(credential.stub.as_str())?;
                Some((Arc::from(credential.name.as_str()), StubId(at)))
            })
            .collect()
    }

    pub(crate) fn entry(&self, id: StubId) -> Option<&Entry> {
        self.entries.get(id.0)
    }

    /// Stubs within the text: raw, percent-decoded, and decoded from Basic.
    pub(crate) fn within(&self, text: &[u8]) -> Vec<StubId> {
        let mut found = Vec::new();
        let Some(automaton) = self.automaton.as_ref().filter(|_| text.len() >= self.shortest) else {
            return found;
        };
        collect(automaton, text, &mut found);
        for decoded in basic_decoded(text) {
            collect(automaton, &decoded, &mut found);
        }
        found.sort_unstable();
        found.dedup();
        found
    }
}

/// An automaton that finds each of the words, in any case and also where they overlap.
pub(crate) fn automaton<'a>(words: impl Iterator<Item = &'a str>) -> Option<AhoCorasick> {
    AhoCorasick::builder()
        .ascii_case_insensitive(true)
        .match_kind(MatchKind::Standard)
        .build(words)
        .ok()
}

fn collect(automaton: &AhoCorasick, text: &[u8], found: &mut Vec<StubId>) {
    let mut text = Cow::Borrowed(text);
    for _ in 0..=DECODINGS_MAX {
        let here = automaton.find_overlapping_iter(text.as_ref());
        found.extend(here.map(|hit| StubId(hit.pattern().as_usize())));
        let decoded: Vec<u8> = match Cow::from(percent_decode(&text)) {
            Cow::Borrowed(_) => return,
            Cow::Owned(decoded) => decoded,
        };
        text = Cow::Owned(decoded);
    }
}

/// What stands behind each `Basic ` in the text, decoded as far as it is base64 of either alphabet.
fn basic_decoded(text: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let starts = text
        .windows(BASIC.len())
        .enumerate()
        .filter(|(_, window)| window.eq_ignore_ascii_case(BASIC))
        .map(|(at, _)| at + BASIC.len());
    starts.filter_map(move |start| {
        let rest = text.get(start..).unwrap_or_default().trim_ascii_start();
        let word = rest
            .split(|byte| matches!(byte, b' ' | b'\t' | b',' | b';' | b'"'))
            .next();
        decode_base64(word.unwrap_or_default())
    })
}

/// Decodes base64 of either alphabet, with or without padding.
pub(crate) fn decode_base64(word: &[u8]) -> Option<Vec<u8>> {
    STANDARD.decode(word).or_else(|_| URL_SAFE.decode(word)).ok()
}

const BASIC: &[u8] = b"basic ";
const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_padding_mode(DecodePaddingMode::Indifferent)
    .with_decode_allow_trailing_bits(true);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);
/// Encoded once by a client, once more by a program that nests URLs, and one to spare.
const DECODINGS_MAX: usize = 3;
