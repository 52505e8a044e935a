//! Pure: a chain of rows, each with the hash of the one before it, and what is wrong with one that was tampered with.

use sha2::{Digest, Sha256};

/// SHA-256.
pub type Hash = [u8; 32];

/// A row as it stands in `grant_event`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Row {
    /// Counted from 1.
    pub number: i64,
    /// The bytes that are hashed.
    pub record: String,
    /// Hash of the row before.
    pub prev_hash: Vec<u8>,
    /// Its own.
    pub hash: Vec<u8>,
}

/// The last row of a chain, as something else remembers it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Head {
    /// Its number; 0 for an empty chain.
    pub number: i64,
    /// Its hash.
    pub hash: Vec<u8>,
}

/// What is wrong with a chain, at the first place where something is.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Broken {
    /// A row isn't there.
    #[error("row {0} is missing")]
    Missing(i64),
    /// A row isn't what was written.
    #[error("row {0} isn't what was written: its hash doesn't match")]
    Altered(i64),
    /// A row doesn't follow the one before it.
    #[error("row {0} doesn't follow the row before it: one of the two was replaced")]
    Severed(i64),
    /// The rows end before what is remembered.
    #[error("the chain ends with row {found}, and row {expected} was seen")]
    Truncated {
        /// The last row.
        found: i64,
        /// What is remembered.
        expected: i64,
    },
    /// Everything fits together, and isn't what is remembered: it was written anew.
    #[error("row {0} has another hash than was seen: the chain was written anew")]
    Rewritten(i64),
}

/// Hash of a row.
pub fn hash(prev: &[u8], record: &str) -> Hash {
    let mut hash = Sha256::new();
    hash.update(prev);
    hash.update(record.as_bytes());
    hash.finalize().into()
}

/// Of the row before the first.
pub const BEGIN: Hash = [0; 32];

/// Reads rows in order; `heads` are what is remembered of the chain, each of any age.
pub fn verify(rows: &[Row], heads: &[Head]) -> Result<(), Broken> {
    let mut prev: Vec<u8> = BEGIN.to_vec();
    for (expected, row) in (1..).zip(rows) {
        if row.number != expected {
            return Err(Broken::Missing(expected));
        }
        if row.hash != hash(&row.prev_hash, &row.record) {
            return Err(Broken::Altered(expected));
        }
        if row.prev_hash != prev {
            return Err(Broken::Severed(expected));
        }
        prev.clone_from(&row.hash);
    }
    for head in heads.iter().filter(|head| head.number > 0) {
        let at = usize::try_from(head.number - 1).unwrap_or(usize::MAX);
        let found = i64::try_from(rows.len()).unwrap_or(i64::MAX);
        match rows.get(at) {
            None => {
                let expected = head.number;
                return Err(Broken::Truncated { found, expected });
            }
            Some(row) if row.hash != head.hash => return Err(Broken::Rewritten(head.number)),
            Some(_) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chain(records: &[String]) -> Vec<Row> {
        let mut prev = BEGIN.to_vec();
        let row = |(number, record): (i64, &String)| {
            let hash = hash(&prev, record).to_vec();
            let prev_hash = std::mem::replace(&mut prev, hash.clone());
            let record = record.clone();
            Row {
                number,
                record,
                prev_hash,
                hash,
            }
        };
        (1..).zip(records).map(row).collect()
    }

    fn head(rows: &[Row]) -> Head {
        let last = rows.last().unwrap();
        Head {
            number: last.number,
            hash: last.hash.clone(),
        }
    }

    proptest! {
        #[test]
        fn whatever_is_done_to_a_chain_is_found_where_it_was_done(
            records in proptest::collection::vec("[a-z]{0,8}", 3..12),
            at in any::<prop::sample::Index>(),
            how in 0..6,
        ) {
            let rows = chain(&records);
            let head = head(&rows);
            prop_assert_eq!(verify(&rows, std::slice::from_ref(&head)), Ok(()));
            let at = at.index(rows.len() - 1);
            let number = i64::try_from(at).unwrap() + 1;
            let mut bad = rows.clone();
            let expected = match how {
                0 => {
                    bad[at].record.push('!');
                    Broken::Altered(number)
                }
                1 => {
                    bad.remove(at);
                    Broken::Missing(number)
                }
                2 => {
                    // Altered with a hash that fits: the next row tells.
                    bad[at].record.push('!');
                    bad[at].hash = hash(&bad[at].prev_hash, &bad[at].record).to_vec();
                    Broken::Severed(number + 1)
                }
                3 => {
                    bad.truncate(at + 1);
                    Broken::Truncated { found: number, expected: head.number }
                }
                4 => {
                    // All of it anew from there on: only what was remembered tells.
                    let mut records = records.clone();
                    records[at].push('!');
                    bad = chain(&records);
                    Broken::Rewritten(head.number)
                }
                _ => {
                    bad.swap(at, at + 1);
                    Broken::Missing(number)
                }
            };
            prop_assert_eq!(verify(&bad, &[head]), Err(expected));
        }
    }

    #[test]
    fn an_empty_chain_is_whole() {
        let head = Head {
            number: 0,
            hash: vec![],
        };
        assert_eq!(verify(&[], &[head]), Ok(()));
    }
}
