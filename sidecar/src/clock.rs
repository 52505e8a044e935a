//! Reads the clocks, in one place.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// Milliseconds since the Unix epoch; events carry it, nothing is decided by it.
#[expect(clippy::disallowed_methods, reason = "the edge that reads the clock")]
pub fn unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Seconds since the Unix epoch, for certificates.
pub fn unix_seconds() -> i64 {
    unix_ms() / 1000
}

/// A time of `CLOCK_BOOTTIME`, which counts while the machine sleeps and which nobody can set: leases and expiry are
/// held to it (DESIGN §7).
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Boottime(Duration);

impl Boottime {
    /// The current one.
    pub fn now() -> Self {
        let now = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
        let nanoseconds = u32::try_from(now.tv_nsec).unwrap_or_default();
        Self(Duration::new(seconds, nanoseconds))
    }

    /// This much later.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }

    /// How long until then; nothing when it has passed.
    pub fn until(self, then: Self) -> Duration {
        then.0.saturating_sub(self.0)
    }
}
