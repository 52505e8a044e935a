//! Pure: when the next token is asked for. `jitter` is from 0 to 1, so that the clients of one server don't ask at once.

use std::time::Duration;

/// A token that isn't worth the way to who uses it; its server would be asked without an end.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the token endpoint gives tokens that last less than {} s", LASTS_MIN.as_secs())]
pub struct TooShort;

/// How long a token is taken to last, by what its server says.
pub fn lasts(said: Option<Duration>) -> Result<Duration, TooShort> {
    match said {
        Some(lasts) if lasts < LASTS_MIN => Err(TooShort),
        said => Ok(said.unwrap_or(UNSAID).min(LASTS_MAX)),
    }
}

/// How long after it came: in the last quarter of its life, but not before its last ten minutes.
pub fn renewed_after(lasts: Duration, jitter: f64) -> Duration {
    let ahead = (lasts / 4).min(AHEAD).mul_f64(1.0 - JITTER * jitter);
    lasts.saturating_sub(ahead)
}

/// How long after a failure: longer each time, and at once as long as it gets for one that takes a change.
pub fn pause(tries: u32, is_final: bool, jitter: f64) -> Duration {
    let doubled = PAUSE_MIN.saturating_mul(2_u32.saturating_pow(tries.min(16)));
    let pause = if is_final { PAUSE_MAX } else { doubled.min(PAUSE_MAX) };
    pause.mul_f64(1.0 + JITTER * jitter)
}

/// A token is new ten minutes before its end at the latest, as those of GitHub are.
const AHEAD: Duration = Duration::from_mins(10);
/// Of what a server doesn't say (RFC 6749 §5.1 only recommends it).
const UNSAID: Duration = Duration::from_mins(10);
/// Less isn't worth the way to a session.
const LASTS_MIN: Duration = Duration::from_secs(30);
/// However long a token lasts, a revoked client is noticed within a day.
const LASTS_MAX: Duration = Duration::from_hours(24);
/// A server that can't be reached is asked again.
const PAUSE_MIN: Duration = Duration::from_secs(15);
/// What was refused, and what fails for long.
const PAUSE_MAX: Duration = Duration::from_mins(10);
/// A fifth.
const JITTER: f64 = 0.2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_renewed_ahead_of_its_end() {
        for (lasts, jitter, after) in [(3_600, 0.0, 3_000), (3_600, 1.0, 3_120), (120, 0.0, 90), (30, 1.0, 24)] {
            let renewed = renewed_after(Duration::from_secs(lasts), jitter);
            assert_eq!(renewed, Duration::from_secs(after), "{lasts}");
        }
    }

    #[test]
    fn what_a_server_says_has_bounds() {
        let seconds = |said: Option<u64>| lasts(said.map(Duration::from_secs)).map(|lasts| lasts.as_secs());
        assert_eq!(seconds(None), Ok(600));
        assert_eq!(seconds(Some(29)), Err(TooShort));
        assert_eq!(seconds(Some(30)), Ok(30));
        assert_eq!(seconds(Some(u64::MAX)), Ok(86_400));
    }

    #[test]
    fn failures_are_tried_again_more_and_more_seldom() {
        let pauses: Vec<u64> = (0..8).map(|tries| pause(tries, false, 0.0).as_secs()).collect();
        assert_eq!(pauses, [15, 30, 60, 120, 240, 480, 600, 600]);
        assert_eq!(pause(0, true, 1.0).as_secs(), 720);
    }
}
