//! Pure: refresh tokens that were rotated and don't stand in their Secrets yet. A server takes the one before for spent,
//! so until it is written back the new one is here alone, and lost with the process.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use super::after;

/// Namespace, and `name/key` of the Secret, or the name of a binding without one.
pub type Key = (String, String);

/// What is kept until it is written, and which versions of Secrets are our own doing.
#[derive(Default)]
pub struct Rotations {
    kept: HashMap<Key, Rotated>,
    written: HashMap<Key, Lineage>,
}

/// Versions of a Secret that differ by nothing but the refresh tokens that were written.
struct Lineage {
    origin: String,
    ours: VecDeque<String>,
}

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
        match self.kept.get(key) {
            Some(rotated) if rotated.replaces == digest(stands) => rotated.token.clone(),
            Some(_) => {
                self.kept.remove(key);
                stands.clone()
            }
            None => stands.clone(),
        }
    }

    /// The server gave another one.
    pub fn rotated(&mut self, key: Key, stands: &SecretString, token: SecretString) {
        let failure = self.kept.remove(&key).and_then(|before| before.failure);
        let rotated = Rotated {
            replaces: digest(stands),
            token,
            failure,
        };
        self.kept.insert(key, rotated);
    }

    /// The token to be written where this one stands in the Secret; none when something else does.
    pub fn unwritten(&mut self, key: &Key, stands: &SecretString) -> Option<SecretString> {
        let rotated = self.kept.get(key)?;
        if rotated.replaces == digest(stands) {
            return Some(rotated.token.clone());
        }
        self.kept.remove(key);
        None
    }

    /// It stands in the Secret, whose version has changed by it.
    pub fn written(&mut self, key: &Key, (before, after): (&str, &str)) {
        self.kept.remove(key);
        let is_ours = |lineage: &Lineage| lineage.ours.iter().any(|version| version == before);
        let lineage = self.written.remove(key).filter(is_ours);
        let mut lineage = lineage.unwrap_or_else(|| Lineage {
            origin: before.to_owned(),
            ours: VecDeque::new(),
        });
        lineage.ours.push_back(after.to_owned());
        if lineage.ours.len() > OURS_MAX {
            lineage.ours.pop_front();
        }
        self.written.insert(key.clone(), lineage);
    }

    /// Versions of a namespace's Secrets as they were before we wrote to them: of two bindings with one refresh token
    /// neither takes what the other has written for a change.
    pub fn before_ours(&self, namespace: &str, versions: &str) -> String {
        let origin = |version: &str| {
            let mut lineages = self.written.iter().filter(|(key, _)| key.0 == namespace);
            let found = lineages.find(|(_, lineage)| lineage.ours.iter().any(|ours| ours == version));
            found.map_or_else(|| version.to_owned(), |(_, lineage)| lineage.origin.clone())
        };
        versions.split(',').map(origin).collect::<Vec<_>>().join(",")
    }

    /// It doesn't.
    pub fn failed(&mut self, key: &Key, message: String, now: Timestamp) {
        if let Some(rotated) = self.kept.get_mut(key) {
            let next = after(now, AGAIN);
            rotated.failure = Some(Failure { message, next });
        }
    }

    /// Why it isn't written, and whether to try now.
    pub fn failure(&self, key: &Key, now: Timestamp) -> Option<(&str, bool)> {
        let failure = self.kept.get(key)?.failure.as_ref()?;
        Some((&failure.message, failure.next <= now))
    }

    /// Forgets those of a namespace that no binding names any more.
    pub fn keep(&mut self, namespace: &str, is_named: impl Fn(&Key) -> bool) {
        self.kept.retain(|key, _| key.0 != namespace || is_named(key));
        self.written.retain(|key, _| key.0 != namespace || is_named(key));
    }
}

fn digest(token: &SecretString) -> [u8; 32] {
    Sha256::digest(token.expose_secret()).into()
}

/// A watch isn't that far behind.
const OURS_MAX: usize = 8;
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
        rotations.written(&key(), ("u/1", "u/2"));
        assert_eq!(rotations.failure(&key(), now), None);
    }

    #[test]
    fn what_we_wrote_is_no_change_and_what_others_write_is() {
        let mut rotations = Rotations::default();
        let seen = |rotations: &Rotations, version: &str| rotations.before_ours("team-a", &format!("c/7,{version}"));
        rotations.written(&key(), ("u/1", "u/2"));
        rotations.written(&key(), ("u/2", "u/5"));
        for version in ["u/1", "u/2", "u/5"] {
            assert_eq!(seen(&rotations, version), "c/7,u/1");
        }
        assert_eq!(seen(&rotations, "u/6"), "c/7,u/6");
        assert_eq!(rotations.before_ours("team-b", "u/5"), "u/5");
        rotations.written(&key(), ("u/6", "u/8"));
        assert_eq!(seen(&rotations, "u/8"), "c/7,u/6");
        for version in 8..30 {
            rotations.written(&key(), (&format!("u/{version}"), &format!("u/{}", version + 1)));
        }
        assert_eq!(seen(&rotations, "u/30"), "c/7,u/6");
        assert_eq!(seen(&rotations, "u/9"), "c/7,u/9", "only so many are kept");
        rotations.keep("team-a", |_| false);
        assert_eq!(seen(&rotations, "u/30"), "c/7,u/30");
    }
}
