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
}

impl Breaker {
    /// Counts a failed bind.
    pub fn fail(&mut self, now: Timestamp) {
        if self.failures.len() == FAILURES {
            self.failures.pop_front();
        }
        self.failures.push_back(now);
    }

    /// A bind succeeded: all is forgotten.
    pub fn reset(&mut self) {
        self.failures.clear();
    }

    /// Until when claims are held back, if they are.
    pub fn open_until(&self, now: Timestamp) -> Option<Timestamp> {
        let (first, last) = (self.failures.front()?, self.failures.back()?);
        let within = self.failures.len() == FAILURES && after(*first, WINDOW) >= *last;
        Some(after(*last, OPEN)).filter(|until| within && *until > now)
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
        breaker.reset();
        assert_eq!(breaker.open_until(at(5)), None);
    }
}
