//! Pure: finds the leftmost-longest of very many patterns. Every pattern is known by the grams at its first offsets;
//! so a search looks at one gram in [`stride`](Index::stride) bytes and compares only where it is known.
//!
//! Not an Aho–Corasick automaton: that has a state per byte of all patterns (10,000 secrets have 20 million) and looks
//! at every byte. Side by side, over text and noise: 0.2–0.3 GB/s for an automaton of ten secrets or a thousand; here
//! 3–5 GB/s, and more than 1 GB/s with 10,000. Values under 16 bytes make the stride short: 0.5 GB/s for 8 bytes.

use zeroize::Zeroizing;

/// The patterns and where to look for them.
pub(super) struct Index {
    /// All patterns, one after the other.
    bytes: Zeroizing<Vec<u8>>,
    /// Where each pattern ends in `bytes`.
    ends: Vec<usize>,
    /// Sorted by hash.
    entries: Vec<Entry>,
    /// By the top bits of a hash: the first of its entries.
    buckets: Vec<u32>,
    /// By the top bits of a hash, a word whose bits tell whether there may be an entry.
    filter: Vec<u64>,
    stride: usize,
}

/// An occurrence of a pattern.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Match {
    pub(super) start: usize,
    pub(super) end: usize,
    /// Number of the pattern, in the order given.
    pub(super) pattern: usize,
}

/// A gram of a pattern.
#[derive(Clone, Copy)]
struct Entry {
    hash: u32,
    pattern: u32,
    offset: u8,
}

impl Index {
    /// Indexes patterns, each of at least [`GRAM`] bytes; fewer than 2³² of them.
    pub(super) fn new(patterns: &[&[u8]]) -> Self {
        let shortest = patterns.iter().map(|pattern| pattern.len()).min().unwrap_or(GRAM);
        debug_assert!(shortest >= GRAM, "a pattern of {shortest} bytes");
        let stride = (shortest + 1 - GRAM).min(STRIDE_MAX);
        let mut bytes = Zeroizing::new(Vec::with_capacity(patterns.iter().map(|pattern| pattern.len()).sum()));
        let mut ends = Vec::with_capacity(patterns.len());
        let mut entries = Vec::with_capacity(patterns.len() * stride);
        for (number, pattern) in (0..).zip(patterns) {
            bytes.extend_from_slice(pattern);
            ends.push(bytes.len());
            entries.extend(
                (0..)
                    .zip(pattern.array_windows().take(stride))
                    .map(|(offset, gram)| Entry {
                        hash: hash(*gram),
                        pattern: number,
                        offset,
                    }),
            );
        }
        entries.sort_unstable_by_key(|entry| entry.hash);
        Self {
            bytes,
            ends,
            buckets: buckets(&entries),
            filter: filter(&entries),
            entries,
            stride,
        }
    }

    /// The first match that begins in `from..limit`; of those that begin there, the longest.
    pub(super) fn find(&self, haystack: &[u8], from: usize, limit: usize) -> Option<Match> {
        if self.entries.is_empty() {
            return None;
        }
        // A match that begins in the `stride` bytes up to `at` holds the gram at `at`, at one of its first offsets.
        let mut at = from + self.stride - 1;
        while at < limit + self.stride - 1 {
            let gram = *haystack.get(at..)?.first_chunk()?;
            let hash = hash(gram);
            if self.may_hold(hash)
                && let Some(found) = self.verify(haystack, at, hash, from..limit)
            {
                return Some(found);
            }
            at += self.stride;
        }
        None
    }

    #[inline]
    fn may_hold(&self, hash: u32) -> bool {
        let mask = filter_mask(hash);
        self.filter[top(hash, self.filter.len())] & mask == mask
    }

    #[cold]
    fn verify(&self, haystack: &[u8], at: usize, hash: u32, starts: std::ops::Range<usize>) -> Option<Match> {
        let bucket = top(hash, self.buckets.len() - 1);
        let entries = &self.entries[self.buckets[bucket] as usize..self.buckets[bucket + 1] as usize];
        entries
            .iter()
            .filter(|entry| entry.hash == hash)
            .filter_map(|entry| {
                let start = at.checked_sub(usize::from(entry.offset))?;
                let pattern = entry.pattern as usize;
                let bytes = self.pattern(pattern);
                let found = starts.contains(&start) && haystack[start..].starts_with(bytes);
                found.then(|| Match {
                    start,
                    end: start + bytes.len(),
                    pattern,
                })
            })
            .min_by_key(|found| (found.start, std::cmp::Reverse(found.end)))
    }

    fn pattern(&self, number: usize) -> &[u8] {
        let start = number.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[start..self.ends[number]]
    }

    /// How many patterns there are.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }
}

/// Multiplicative, as the grams are short; the top bits are the good ones. A collision costs a comparison.
#[inline]
fn hash(gram: [u8; GRAM]) -> u32 {
    let mixed = u64::from_le_bytes(gram).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 32) as u32
}

/// The top bits of a hash, as a number below `count`.
#[inline]
fn top(hash: u32, count: usize) -> usize {
    ((u64::from(hash) * count as u64) >> 32) as usize
}

fn buckets(entries: &[Entry]) -> Vec<u32> {
    let count = entries.len().next_power_of_two();
    let mut buckets = vec![0; count + 1];
    for entry in entries {
        buckets[top(entry.hash, count) + 1] += 1;
    }
    let mut before = 0;
    for bucket in &mut buckets {
        before += *bucket;
        *bucket = before;
    }
    buckets
}

/// A Bloom filter whose two bits lie in one word, so that a look costs one load.
fn filter(entries: &[Entry]) -> Vec<u64> {
    let mut filter = vec![0; entries.len() / ENTRIES_PER_WORD + 1];
    let words = filter.len();
    for entry in entries {
        filter[top(entry.hash, words)] |= filter_mask(entry.hash);
    }
    filter
}

/// From the bits that choosing a word uses least.
#[inline]
fn filter_mask(hash: u32) -> u64 {
    1 << (hash % 64) | 1 << (hash / 64 % 64)
}

/// Bytes of a gram: one load; and what the shortest pattern must have.
pub(super) const GRAM: usize = 8;
/// Beyond this a longer stride saves little time and costs 12 bytes per pattern and byte.
const STRIDE_MAX: usize = 16;
/// Sixteen bits for each: one look in 70 at ordinary text goes on to the entries in vain.
const ENTRIES_PER_WORD: usize = 4;
