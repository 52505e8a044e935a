//! Claims that this process has just deleted, until the watch shows them gone: a claim is deleted once.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;

use super::snapshot::ClaimFacts;
use crate::watch::Name;

/// UIDs of claims as given back, by session.
#[derive(Clone, Default)]
pub struct GivenBack {
    inner: Arc<Mutex<HashMap<Name, HashSet<String>>>>,
}

impl GivenBack {
    /// The API server took the deletion of this claim, or had no such claim.
    pub fn remember(&self, session: &Name, claim_uid: &str) {
        let mut inner = self.inner.lock();
        inner.entry(session.clone()).or_default().insert(claim_uid.to_owned());
    }

    /// Marks those of a session's claims that were given back. What the watch shows no more is forgotten, so that at
    /// most the claims that a session has are kept.
    pub fn mark(&self, session: &Name, claims: &mut [ClaimFacts]) {
        let mut inner = self.inner.lock();
        let Some(given_back) = inner.get_mut(session) else {
            return;
        };
        given_back.retain(|uid| claims.iter().any(|claim| &claim.uid == uid));
        for claim in claims {
            claim.given_back = given_back.contains(&claim.uid);
        }
        if given_back.is_empty() {
            inner.remove(session);
        }
    }

    /// The session is gone.
    pub fn forget(&self, session: &Name) {
        self.inner.lock().remove(session);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::ClaimPhase;

    fn claim(uid: &str) -> ClaimFacts {
        ClaimFacts {
            name: "s-1".to_owned(),
            uid: uid.to_owned(),
            incarnation: 1,
            pair: "pool-0123abcd".to_owned(),
            created: jiff::Timestamp::UNIX_EPOCH,
            deleting: false,
            given_back: false,
            phase: ClaimPhase::Ready {
                sandbox: "x".to_owned(),
            },
        }
    }

    #[test]
    fn a_claim_is_marked_until_the_watch_shows_it_gone() {
        let given_back = GivenBack::default();
        let session = Name {
            namespace: "team".to_owned(),
            name: "s".to_owned(),
        };
        let marks = |uids: &[&str]| {
            let mut claims: Vec<ClaimFacts> = uids.iter().map(|uid| claim(uid)).collect();
            given_back.mark(&session, &mut claims);
            claims.iter().map(|claim| claim.given_back).collect::<Vec<bool>>()
        };
        given_back.remember(&session, "a");
        assert_eq!(marks(&["a", "b"]), [true, false]);
        assert_eq!(marks(&["b"]), [false]);
        assert_eq!(marks(&["a"]), [false], "forgotten once it was gone");
        assert!(given_back.inner.lock().is_empty());
    }
}
