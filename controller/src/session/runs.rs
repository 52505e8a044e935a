//! What runners have told, by session: kept in memory while the session has a stream, and told again by the sidecar
//! to the next leader, since nothing that moves the status is acknowledged before the status says it.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;

use super::snapshot::{Exited, RunFacts};

/// What runners have told.
#[derive(Clone, Default)]
pub struct Runs {
    inner: Arc<Mutex<HashMap<String, Run>>>,
}

#[derive(Clone, Debug, Default)]
struct Run {
    incarnation: i64,
    /// Number of the event that said that the harness started.
    started: Option<i64>,
    /// Number of the event that said what was restored, and the digest.
    restored: Option<(i64, Vec<u8>)>,
    exited: Option<Exited>,
    /// Highest number received.
    told: i64,
    /// Highest number that Postgres holds.
    committed: i64,
}

impl Runs {
    /// An event came. A higher incarnation begins anew; a lower one says nothing any more.
    pub fn tell(&self, session_uid: &str, incarnation: i64, told: &Told) {
        let mut runs = self.inner.lock();
        let run = runs.entry(session_uid.to_owned()).or_default();
        if incarnation > run.incarnation {
            *run = Run {
                incarnation,
                ..Run::default()
            };
        }
        if incarnation < run.incarnation {
            return;
        }
        run.told = run.told.max(told.number);
        match &told.what {
            What::Started => run.started = Some(told.number),
            What::Restored(digest) => run.restored = Some((told.number, digest.clone())),
            What::Exited(exited) => {
                run.exited = Some(Exited {
                    events: told.number,
                    at: Some(told.at),
                    ..exited.clone()
                });
            }
            What::Other => {}
        }
    }

    /// What a sidecar says it has told another leader, and had acknowledged. 0 says nothing.
    pub fn resume(&self, session_uid: &str, incarnation: i64, told: i64, acknowledged: i64) {
        let mut runs = self.inner.lock();
        let run = runs.entry(session_uid.to_owned()).or_default();
        if told == 0 || incarnation < run.incarnation {
            return;
        }
        if incarnation > run.incarnation {
            *run = Run {
                incarnation,
                ..Run::default()
            };
        }
        run.told = run.told.max(told);
        run.committed = run.committed.max(acknowledged);
    }

    /// Postgres holds everything up to this number.
    pub fn committed(&self, session_uid: &str, incarnation: i64, number: i64) {
        if let Some(run) = self
            .inner
            .lock()
            .get_mut(session_uid)
            .filter(|run| run.incarnation == incarnation)
        {
            run.committed = run.committed.max(number);
        }
    }

    /// Changes whenever Postgres holds more of a session.
    pub fn stored(&self, session_uid: &str) -> (i64, i64) {
        let runs = self.inner.lock();
        runs.get(session_uid)
            .map_or((0, 0), |run| (run.incarnation, run.committed))
    }

    /// What is known of an incarnation.
    pub fn facts(&self, session_uid: &str, incarnation: i64) -> RunFacts {
        let runs = self.inner.lock();
        let Some(run) = runs.get(session_uid).filter(|run| run.incarnation == incarnation) else {
            return RunFacts::default();
        };
        RunFacts {
            started: run.started.is_some(),
            restored: run.restored.as_ref().map(|(_, digest)| digest.clone()),
            exited: run.exited.clone(),
            durable: run.committed >= run.told,
        }
    }

    /// Up to which number events may be acknowledged: what Postgres holds, short of one that the status must say
    /// first. `running` and `finished` are what the status says.
    pub fn acknowledge(&self, session_uid: &str, incarnation: i64, running: bool, finished: bool) -> i64 {
        let runs = self.inner.lock();
        let Some(run) = runs.get(session_uid).filter(|run| run.incarnation == incarnation) else {
            return 0;
        };
        let first = run.restored.as_ref().map(|(number, _)| *number).or(run.started);
        let started = first.filter(|_| !running && !finished);
        let exited = run.exited.as_ref().map(|exited| exited.events).filter(|_| !finished);
        let held = started.into_iter().chain(exited).min();
        held.map_or(run.committed, |held| run.committed.min(held - 1))
    }

    /// The session is gone.
    pub fn forget(&self, session_uid: &str) {
        self.inner.lock().remove(session_uid);
    }
}

/// One event, as far as the session's state goes.
#[derive(Clone, Debug)]
pub struct Told {
    /// The sidecar's number for it.
    pub number: i64,
    /// When it arrived.
    pub at: Timestamp,
    /// What it says.
    pub what: What,
}

/// What an event says of the session's state.
#[derive(Clone, Debug)]
pub enum What {
    /// The harness runs.
    Started,
    /// A checkpoint was restored; SHA-256 of what the disk holds.
    Restored(Vec<u8>),
    /// It has ended.
    Exited(Exited),
    /// Nothing that moves the state.
    Other,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(number: i64, what: What) -> Told {
        Told {
            number,
            at: Timestamp::UNIX_EPOCH,
            what,
        }
    }

    fn runs() -> Runs {
        let runs = Runs::default();
        runs.tell("u", 1, &told(1, What::Started));
        runs.tell("u", 1, &told(2, What::Other));
        runs.tell(
            "u",
            1,
            &told(
                3,
                What::Exited(Exited {
                    code: 7,
                    ..Exited::default()
                }),
            ),
        );
        runs
    }

    #[test]
    fn an_exit_is_acknowledged_only_once_the_status_says_it() {
        let runs = runs();
        runs.committed("u", 1, 3);
        assert_eq!(runs.acknowledge("u", 1, false, false), 0);
        assert_eq!(runs.acknowledge("u", 1, true, false), 2);
        assert_eq!(runs.acknowledge("u", 1, true, true), 3);
    }

    #[test]
    fn nothing_is_acknowledged_that_postgres_does_not_hold() {
        assert_eq!(runs().acknowledge("u", 1, true, true), 0);
        assert!(!runs().facts("u", 1).durable);
    }

    #[test]
    fn a_lower_incarnation_says_nothing_any_more() {
        let runs = runs();
        runs.tell("u", 2, &told(1, What::Other));
        runs.tell("u", 1, &told(4, What::Exited(Exited::default())));
        assert_eq!(runs.facts("u", 2).exited, None);
        assert_eq!(runs.facts("u", 1).exited, None);
    }
}
