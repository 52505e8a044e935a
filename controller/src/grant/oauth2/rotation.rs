//! Pure: refresh tokens that were rotated and don't stand in their Secrets yet. A server takes the one before for spent,
//! so until it is written back the new one is here alone, and lost with the process.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use super::after;

/// Namespace, and `name/key` of the Secret, or the name of a binding without one.
pub type Key = (String, String);

/// What is kept until it is written.
#[derive(Default)]
pub struct Rotations(HashMap<Key, Rotated>);

struct Rotated {
    /// Digest of what stands in the Secret. When something else does, its owner has put it there, and it counts.
    replaces: [u8; 32],
    token: SecretString,
    failure: Option<Failure>,
}

struct Failure {
    message: String,
    next: Timestamp,
}

impl Rotations {
    /// The token to send, where this one stands in the Secret.
    pub fn current(&mut self, key: &Key, stands: &SecretString) -> SecretString {
        match self.0.get(key) {
            Some(rotated) if rotated.replaces == digest(stands) => rotated.token.clone(),
            Some(_) => {
                self.0.remove(key);
                stands.clone()
            }
            None => stands.clone(),
        }
    }

    /// The server gave another one.
    pub fn rotated(&mut self, key: Key, stands: &SecretString, token: SecretString) {
        let failure = self.0.remove(&key).and_then(|before| before.failure);
        let rotated = Rotated {
            replaces: digest(stands),
            token,
            failure,
        };
        self.0.insert(key, rotated);
    }

    /// The token to be written where this one stands in the Secret; none when something else does.
    pub fn unwritten(&mut self, key: &Key, stands: &SecretString) -> Option<SecretString> {
        let rotated = self.0.get(key)?;
        if rotated.replaces == digest(stands) {
            return Some(rotated.token.clone());
        }
        self.0.remove(key);
        None
    }

    /// It stands in the Secret.
    pub fn written(&mut self, key: &Key) {
        self.0.remove(key);
    }

    /// It doesn't.
    pub fn failed(&mut self, key: &Key, message: String, now: Timestamp) {
        if let Some(rotated) = self.0.get_mut(key) {
            let next = after(now, AGAIN);
            rotated.failure = Some(Failure { message, next });
        }
    }

    /// Why it isn't written, and whether to try now.
    pub fn failure(&self, key: &Key, now: Timestamp) -> Option<(&str, bool)> {
        let failure = self.0.get(key)?.failure.as_ref()?;
        Some((&failure.message, failure.next <= now))
    }

    /// Forgets those of a namespace that no binding names any more.
    pub fn keep(&mut self, namespace: &str, is_named: impl Fn(&Key) -> bool) {
        self.0.retain(|key, _| key.0 != namespace || is_named(key));
    }
}

fn digest(token: &SecretString) -> [u8; 32] {
    Sha256::digest(token.expose_secret()).into()
}

/// Until it is tried again; a Role that is changed doesn't say so.
pub(super) const AGAIN: Duration = Duration::from_mins(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        ("team-a".to_owned(), "oauth/refresh".to_owned())
    }

    fn current(rotations: &mut Rotations, stands: &str) -> String {
        let token = rotations.current(&key(), &SecretString::from(stands));
        token.expose_secret().to_owned()
    }

    #[test]
    fn what_was_rotated_counts_while_the_secret_holds_what_it_replaces() {
        let mut rotations = Rotations::default();
        assert_eq!(current(&mut rotations, "one"), "one");
        rotations.rotated(key(), &"one".into(), "two".into());
        assert_eq!(current(&mut rotations, "one"), "two");
        rotations.rotated(key(), &"one".into(), "three".into());
        assert_eq!(current(&mut rotations, "one"), "three");
        assert_eq!(current(&mut rotations, "the owner's"), "the owner's");
        assert_eq!(current(&mut rotations, "one"), "one", "it was dropped");
    }

    #[test]
    fn what_the_owner_wrote_is_not_written_over() {
        let mut rotations = Rotations::default();
        rotations.rotated(key(), &"one".into(), "two".into());
        assert!(rotations.unwritten(&key(), &"one".into()).is_some());
        assert!(rotations.unwritten(&key(), &"the owner's".into()).is_none());
        assert!(rotations.unwritten(&key(), &"one".into()).is_none());
    }

    #[test]
    fn a_failure_is_told_until_it_is_written_and_tried_again() {
        let now = Timestamp::UNIX_EPOCH;
        let mut rotations = Rotations::default();
        rotations.rotated(key(), &"one".into(), "two".into());
        rotations.failed(&key(), "why".to_owned(), now);
        assert_eq!(rotations.failure(&key(), now), Some(("why", false)));
        rotations.rotated(key(), &"one".into(), "three".into());
        assert_eq!(rotations.failure(&key(), after(now, AGAIN)), Some(("why", true)));
        rotations.written(&key());
        assert_eq!(rotations.failure(&key(), now), None);
    }
}
