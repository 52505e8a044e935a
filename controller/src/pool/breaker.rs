//! Pure: holds claims back when sandboxes of a pool don't attach (DESIGN §5.4).
//!
//! Five failed binds within two minutes open it for thirty seconds; then one claim may try. In memory: a new leader
//! begins closed and learns again, at the price of at most five claims.

use std::collections::VecDeque;

use jiff::Timestamp;

use crate::session::plan::after;

/// Failed binds of one pool.
#[derive(Clone, Debug, Default)]
pub struct Breaker {
    failures: VecDeque<Timestamp>,
    /// Open: no claim until then, and one at a time after it.
    held_until: Option<Timestamp>,
}

impl Breaker {
    /// Counts a failed bind.
    pub fn fail(&mut self, now: Timestamp) {
        if self.failures.len() == FAILURES {
            self.failures.pop_front();
        }
        self.failures.push_back(now);
        let first = self.failures.front().filter(|_| self.failures.len() == FAILURES);
        let quick = first.is_some_and(|first| after(*first, WINDOW) >= now);
        if quick || self.held_until.is_some() {
            self.held_until = Some(after(now, OPEN));
        }
    }

    /// A bind succeeded: all is forgotten. Whether claims were held back.
    pub fn reset(&mut self) -> bool {
        self.failures.clear();
        self.held_until.take().is_some()
    }

    /// Whether a claim may be made now. The one that tries an open breaker holds the others back for a while.
    pub fn admits(&mut self, now: Timestamp) -> bool {
        let admits = self.open_until(now).is_none();
        if admits && self.held_until.is_some() {
            self.held_until = Some(after(now, OPEN));
        }
        admits
    }

    /// Until when claims are held back, if they are.
    pub fn open_until(&self, now: Timestamp) -> Option<Timestamp> {
        self.held_until.filter(|until| *until > now)
    }
}

const FAILURES: usize = 5;
const WINDOW: std::time::Duration = std::time::Duration::from_mins(2);
const OPEN: std::time::Duration = std::time::Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a small number of seconds is a time")
    }

    #[test]
    fn five_failures_in_two_minutes_open_it_for_half_a_minute() {
        let mut breaker = Breaker::default();
        for second in [0, 10, 20, 30] {
            breaker.fail(at(second));
            assert_eq!(breaker.open_until(at(second)), None);
        }
        breaker.fail(at(120));
        assert_eq!(breaker.open_until(at(121)), Some(at(150)));
        assert_eq!(breaker.open_until(at(150)), None);
    }

    #[test]
    fn slow_failures_keep_it_closed() {
        let mut breaker = Breaker::default();
        for second in [0, 40, 80, 120, 160] {
            breaker.fail(at(second));
        }
        assert_eq!(breaker.open_until(at(161)), None);
    }

    #[test]
    fn one_success_closes_it() {
        let mut breaker = Breaker::default();
        (0..5).for_each(|second| breaker.fail(at(second)));
        assert!(breaker.reset());
        assert_eq!(breaker.open_until(at(5)), None);
        assert!(breaker.admits(at(5)) && breaker.admits(at(5)) && !breaker.reset());
    }

    #[test]
    fn after_half_a_minute_one_claim_tries_and_the_others_wait_for_it() {
        let mut breaker = Breaker::default();
        (0..5).for_each(|second| breaker.fail(at(second)));
        assert!(!breaker.admits(at(33)));
        assert!(breaker.admits(at(34)));
        assert!(!breaker.admits(at(34)));
        // Its failure opens the breaker again, however long the first five are past.
        breaker.fail(at(500));
        assert_eq!(breaker.open_until(at(500)), Some(at(530)));
    }
}
