//! What sessions with a budget have spent: told by their sidecars' trails, request by request, and of earlier pods read from the
//! record. In memory while this process leads.

use std::collections::{BTreeMap, HashMap, HashSet};

use berth_protocol::money::Pico;
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use serde::Deserialize;

/// What is known of all sessions.
#[derive(Default)]
pub struct Spend(Mutex<HashMap<String, Account>>);

#[derive(Default)]
struct Account {
    pods: BTreeMap<i64, Pod>,
    /// What the record says that was spent before an incarnation: of two pods at a time, while one takes the other's place.
    read: BTreeMap<i64, Recorded>,
    /// What the gateways say, once they were asked.
    compared: Option<Compared>,
    /// When they are to be asked, unless the session spends more: since it did last.
    asks_from: Option<Timestamp>,
    /// The limit that a request would have exceeded, and since when that is known.
    exhausted: Option<(Pico, Timestamp)>,
    busy: bool,
}

/// What the record says that was spent, as seen from one incarnation.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Recorded {
    /// Before it.
    pub before: Pico,
    /// In it.
    pub here: Pico,
    /// By how much less that was before it, by the gateways' figures.
    pub credit_before: Pico,
    /// And in it.
    pub credit_here: Pico,
}

/// A gateway's figure, and what sidecars saw of the same requests.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Compared {
    /// By the gateways.
    pub said: Pico,
    /// By the sidecars: with what requests may have cost at most, where their answers didn't say.
    pub seen: Pico,
}

/// One incarnation.
#[derive(Default)]
struct Pod {
    sum: Pico,
    /// Requests that are counted: a sidecar tells again what it isn't answered.
    counted: HashSet<i64>,
}

/// What a plan depends on.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct SpendFacts {
    /// Over the whole session, as far as is known.
    pub spent: Pico,
    /// The limit that a request would have exceeded, and since when that is known.
    pub exhausted: Option<(Pico, Timestamp)>,
    /// What the gateways say, once they were asked.
    pub compared: Option<Compared>,
}

/// What a record of the trail says of it.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "camelCase")]
pub enum Told {
    /// A request is over.
    Outcome {
        /// Its number.
        number: i64,
        /// What it has cost, if it is counted.
        #[serde(default)]
        cost: Option<Pico>,
    },
    /// One would have cost more than is left.
    Exhausted {
        /// Of this.
        limit: Pico,
    },
}

impl Told {
    /// Of a record of the trail, if it is one.
    pub fn read(record: &[u8]) -> Option<Self> {
        let begins = [br#"{"outcome":"#.as_slice(), br#"{"exhausted":"#];
        begins.iter().find(|begin| record.starts_with(begin))?;
        serde_json::from_slice(record).ok()
    }
}

impl Spend {
    /// A pod of a session tells something; whether it is news.
    pub fn tell(&self, session_uid: &str, incarnation: i64, told: Told, now: Timestamp) -> bool {
        let mut accounts = self.0.lock();
        match told {
            Told::Outcome { cost: None, .. } => false,
            Told::Outcome {
                number,
                cost: Some(cost),
            } => {
                let account = accounts.entry(session_uid.to_owned()).or_default();
                let pod = account.pods.entry(incarnation).or_default();
                let is_new = pod.counted.insert(number);
                if is_new {
                    pod.sum = pod.sum.plus(cost);
                    account.asks_from = Some(now);
                }
                is_new
            }
            Told::Exhausted { limit } => {
                let account = accounts.entry(session_uid.to_owned()).or_default();
                let is_new = account.exhausted.is_none_or(|(known, _)| known != limit);
                if is_new {
                    account.exhausted = Some((limit, now));
                }
                is_new
            }
        }
    }

    /// What was spent before this incarnation, and by how much less in it than its sidecar counts; `None` until it is read.
    pub fn before(&self, session_uid: &str, incarnation: i64) -> Option<(Pico, Pico)> {
        let accounts = self.0.lock();
        accounts.get(session_uid)?.before(incarnation)
    }

    /// Sessions that have spent something since their gateways were asked, and when they did last, if that is before this.
    pub fn quiet_since(&self, then: Timestamp) -> Vec<(String, Timestamp)> {
        let accounts = self.0.lock();
        let quiet = accounts.iter().filter_map(|(uid, account)| {
            let from = account.asks_from.filter(|from| *from <= then)?;
            Some((uid.clone(), from))
        });
        quiet.collect()
    }

    /// The gateways of a session that spent last at this time were asked; when not to any avail, it is as if it had spent
    /// something at `again`. One that has spent more meanwhile is asked about anew.
    pub fn was_compared(&self, session_uid: &str, from: Timestamp, again: Option<Timestamp>) {
        let mut accounts = self.0.lock();
        let account = accounts.get_mut(session_uid);
        if let Some(account) = account.filter(|account| account.asks_from == Some(from)) {
            account.asks_from = again;
        }
    }

    /// Whether a session's gateways are to be asked, and that isn't long overdue.
    pub fn awaits_figure(&self, session_uid: &str, now: Timestamp) -> bool {
        let accounts = self.0.lock();
        let from = accounts.get(session_uid).and_then(|account| account.asks_from);
        from.is_some_and(|from| now < from + FIGURE_MAX)
    }

    /// What its gateways say, and what the record makes of that.
    pub fn compare(&self, session_uid: &str, incarnation: i64, (compared, recorded): (Compared, Recorded)) {
        if let Some(account) = self.0.lock().get_mut(session_uid) {
            account.compared = Some(compared);
            account.take(incarnation, recorded);
        }
    }

    /// Whether to read it now: nobody else does.
    pub fn begins(&self, session_uid: &str) -> bool {
        let mut accounts = self.0.lock();
        !std::mem::replace(&mut accounts.entry(session_uid.to_owned()).or_default().busy, true)
    }

    /// The record says what was spent before this incarnation, and in it; or it can't be read.
    pub fn read(&self, session_uid: &str, incarnation: i64, read: Option<Recorded>, now: Timestamp) {
        let mut accounts = self.0.lock();
        let Some(account) = accounts.get_mut(session_uid) else {
            return;
        };
        account.busy = false;
        if let Some(recorded) = read {
            account.take(incarnation, recorded);
            // A former leader may not have asked.
            if recorded.before.plus(recorded.here) > Pico::default() && account.compared.is_none() {
                account.asks_from.get_or_insert(now);
            }
        }
    }

    /// What is known of a session.
    pub fn facts(&self, session_uid: &str) -> SpendFacts {
        let accounts = self.0.lock();
        let Some(account) = accounts.get(session_uid) else {
            return SpendFacts::default();
        };
        let newest = account.read.keys().next_back().copied().unwrap_or_default();
        let (before, credit) = account.before(newest).unwrap_or_default();
        let since = account.pods.range(newest..).map(|(_, pod)| pod.sum);
        SpendFacts {
            spent: since.fold(before, Pico::plus).minus(credit),
            exhausted: account.exhausted,
            compared: account.compared,
        }
    }

    /// The session is gone.
    pub fn forget(&self, session_uid: &str) {
        self.0.lock().remove(session_uid);
    }
}

impl Account {
    /// The last rows of a pod may have come and not be stored yet.
    fn before(&self, incarnation: i64) -> Option<(Pico, Pico)> {
        let read = self.read.get(&incarnation)?;
        let here: Pico = self.pods.range(..incarnation).map(|(_, pod)| pod.sum).sum();
        Some((here.max(read.before).minus(read.credit_before), read.credit_here))
    }

    fn take(&mut self, incarnation: i64, recorded: Recorded) {
        self.read.insert(incarnation, recorded);
        let pod = self.pods.entry(incarnation).or_default();
        pod.sum = pod.sum.max(recorded.here);
    }
}

impl Compared {
    /// By how many dollars the gateways say more, with a sign when that is less.
    pub fn difference(&self) -> String {
        let sign = if self.said < self.seen { "-" } else { "" };
        let amount = Pico(self.said.0.abs_diff(self.seen.0));
        let amount = if amount < ROUNDING { Pico::default() } else { amount };
        let sign = if amount == Pico::default() { "" } else { sign };
        format!("{sign}{amount}")
    }
}

/// Sums of binary fractions of dollars: a thousandth of the cheapest token.
pub const ROUNDING: Pico = Pico(1_000);
/// A key of a session that is over waits no longer for its figure.
const FIGURE_MAX: SignedDuration = SignedDuration::from_mins(2);

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(number: i64, cost: u64) -> Told {
        Told::Outcome {
            number,
            cost: Some(Pico(cost)),
        }
    }

    #[test]
    fn what_is_told_twice_counts_once() {
        let spend = Spend::default();
        assert!(
            spend.tell("u", 1, cost(1, 10), Timestamp::UNIX_EPOCH)
                && spend.tell("u", 1, cost(2, 5), Timestamp::UNIX_EPOCH)
        );
        assert!(!spend.tell("u", 1, cost(2, 5), Timestamp::UNIX_EPOCH));
        assert!(!spend.tell("u", 1, Told::Outcome { number: 3, cost: None }, Timestamp::UNIX_EPOCH));
        assert_eq!(spend.facts("u").spent, Pico(15));
        assert_eq!(spend.facts("other"), SpendFacts::default());
    }

    #[test]
    fn a_pod_begins_with_what_earlier_ones_have_spent() {
        let spend = Spend::default();
        spend.tell("u", 1, cost(1, 10), Timestamp::UNIX_EPOCH);
        assert_eq!(spend.before("u", 2), None, "the record may know more");
        assert!(spend.begins("u") && !spend.begins("u"));
        let before = |before: u64| Recorded {
            before: Pico(before),
            ..Recorded::default()
        };
        spend.read("u", 2, Some(before(30)), Timestamp::UNIX_EPOCH);
        assert_eq!(spend.before("u", 2), Some((Pico(30), Pico(0))));
        spend.tell("u", 1, cost(2, 25), Timestamp::UNIX_EPOCH); // not stored when it was read
        assert_eq!(spend.before("u", 2), Some((Pico(35), Pico(0))));
        spend.tell("u", 2, cost(1, 7), Timestamp::UNIX_EPOCH);
        assert_eq!(spend.facts("u").spent, Pico(42));
        assert_eq!(spend.before("u", 3), None);
    }

    #[test]
    fn what_gateways_say_is_asked_once_it_is_quiet_and_lowers_what_was_reserved() {
        let spend = Spend::default();
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        spend.tell("u", 1, cost(1, 100), at(10));
        spend.tell("u", 1, cost(2, 50), at(20));
        assert!(spend.quiet_since(at(19)).is_empty());
        assert_eq!(spend.quiet_since(at(20)), [("u".to_owned(), at(20))]);
        spend.was_compared("u", at(10), None);
        assert_eq!(spend.quiet_since(at(20)).len(), 1, "it has spent more meanwhile");
        assert!(spend.awaits_figure("u", at(139)) && !spend.awaits_figure("u", at(140)));
        spend.was_compared("u", at(20), Some(at(30)));
        assert!(spend.quiet_since(at(29)).is_empty(), "it is asked again later");
        let recorded = Recorded {
            here: Pico(150),
            credit_here: Pico(40),
            ..Recorded::default()
        };
        let compared = Compared {
            said: Pico(110),
            seen: Pico(150),
        };
        spend.compare("u", 1, (compared, recorded));
        spend.was_compared("u", at(30), None);
        assert!(spend.quiet_since(at(99)).is_empty() && !spend.awaits_figure("u", at(31)));
        let facts = spend.facts("u");
        assert_eq!((facts.spent, facts.compared), (Pico(110), Some(compared)));
        assert_eq!(
            spend.before("u", 1),
            Some((Pico(0), Pico(40))),
            "its sidecar still counts 150"
        );
    }

    #[test]
    fn records_of_sidecars_are_read() {
        let outcome = br#"{"outcome":{"number":7,"status":200,"ended":"Complete","cost":12,"costIsEstimate":false}}"#;
        assert_eq!(Told::read(outcome), Some(cost(7, 12)));
        let free = br#"{"outcome":{"number":7,"status":200,"ended":"Complete"}}"#;
        assert_eq!(Told::read(free), Some(Told::Outcome { number: 7, cost: None }));
        let exhausted = br#"{"exhausted":{"at":1,"limit":5}}"#;
        assert_eq!(Told::read(exhausted), Some(Told::Exhausted { limit: Pico(5) }));
        assert_eq!(Told::read(br#"{"use":{"number":7}}"#), None);
    }
}
