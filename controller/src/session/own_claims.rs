//! Claims that this process has just made or deleted, until the watch shows it: a claim is made once, and deleted once.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;

use super::snapshot::ClaimFacts;
use crate::watch::Name;

/// Writes that the watch may be behind, by session.
#[derive(Clone, Default)]
pub struct OwnClaims {
    inner: Arc<Mutex<HashMap<Name, Writes>>>,
}

#[derive(Default)]
struct Writes {
    /// UIDs of claims as given back.
    given_back: HashSet<String>,
    /// As the API server answered, and the UID of its session.
    made: Option<(String, ClaimFacts)>,
}

impl OwnClaims {
    /// The API server took the deletion of this claim, or had no such claim.
    pub fn given_back(&self, session: &Name, claim_uid: &str) {
        let mut inner = self.inner.lock();
        let writes = inner.entry(session.clone()).or_default();
        writes.given_back.insert(claim_uid.to_owned());
    }

    /// The API server made this claim for a session of this UID.
    pub fn made(&self, session: &Name, session_uid: String, claim: ClaimFacts) {
        self.inner.lock().entry(session.clone()).or_default().made = Some((session_uid, claim));
    }

    /// Adds to a session's claims the one that was made, and marks those that were given back. What the watch has caught up
    /// with is forgotten, so that at most the claims that a session has are kept; a claim that it hasn't shown for
    /// long has come and gone.
    pub fn apply(&self, (session, session_uid): (&Name, &str), claims: &mut Vec<ClaimFacts>, now: Timestamp) {
        let mut inner = self.inner.lock();
        let Some(writes) = inner.get_mut(session) else {
            return;
        };
        let is_ahead = |(uid, made): &(String, ClaimFacts)| {
            let is_young = now.duration_since(made.created) < BEHIND_MAX;
            uid == session_uid && is_young && !claims.iter().any(|claim| claim.uid == made.uid)
        };
        writes.made = writes.made.take().filter(is_ahead);
        claims.extend(writes.made.iter().map(|(_, made)| made.clone()));
        writes
            .given_back
            .retain(|uid| claims.iter().any(|claim| &claim.uid == uid));
        for claim in claims {
            claim.given_back = writes.given_back.contains(&claim.uid);
        }
        if writes.given_back.is_empty() && writes.made.is_none() {
            inner.remove(session);
        }
    }

    /// The session is gone.
    pub fn forget(&self, session: &Name) {
        self.inner.lock().remove(session);
    }
}

/// How far a watch is behind, on a bad day.
const BEHIND_MAX: SignedDuration = SignedDuration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::ClaimPhase;

    fn session() -> Name {
        Name {
            namespace: "team".to_owned(),
            name: "s".to_owned(),
        }
    }

    fn claim(uid: &str) -> ClaimFacts {
        ClaimFacts {
            name: "s-1".to_owned(),
            uid: uid.to_owned(),
            incarnation: 1,
            pair: "pool-0123abcd".to_owned(),
            created: Timestamp::UNIX_EPOCH,
            deleting: false,
            given_back: false,
            phase: ClaimPhase::Ready {
                sandbox: "x".to_owned(),
            },
        }
    }

    #[test]
    fn a_claim_is_marked_until_the_watch_shows_it_gone() {
        let own = OwnClaims::default();
        let marks = |uids: &[&str]| {
            let mut claims: Vec<ClaimFacts> = uids.iter().map(|uid| claim(uid)).collect();
            own.apply((&session(), "u"), &mut claims, Timestamp::UNIX_EPOCH);
            claims.iter().map(|claim| claim.given_back).collect::<Vec<bool>>()
        };
        own.given_back(&session(), "a");
        assert_eq!(marks(&["a", "b"]), [true, false]);
        assert_eq!(marks(&["b"]), [false]);
        assert_eq!(marks(&["a"]), [false], "forgotten once it was gone");
        assert!(own.inner.lock().is_empty());
    }

    #[test]
    fn a_claim_that_was_made_is_there_before_the_watch_shows_it() {
        let own = OwnClaims::default();
        let seen = |session_uid: &str, shown: &[&str], seconds: i64| {
            let mut claims: Vec<ClaimFacts> = shown.iter().map(|uid| claim(uid)).collect();
            let now = Timestamp::from_second(seconds).unwrap();
            own.apply((&session(), session_uid), &mut claims, now);
            claims.iter().map(|claim| claim.uid.clone()).collect::<Vec<String>>()
        };
        own.made(&session(), "u".to_owned(), claim("a"));
        assert_eq!(seen("u", &[], 1), ["a"]);
        assert_eq!(seen("u", &["a"], 1), ["a"]);
        assert!(seen("u", &[], 1).is_empty(), "it was shown, and is gone");
        own.made(&session(), "u".to_owned(), claim("a"));
        assert!(seen("another", &[], 1).is_empty(), "a session of the same name later");
        own.made(&session(), "u".to_owned(), claim("a"));
        assert!(seen("u", &[], 10).is_empty(), "it came and went");
        assert!(own.inner.lock().is_empty());
    }
}
