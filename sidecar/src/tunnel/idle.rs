//! Ends a tunnel in which nothing moves: an agent or an upstream that stops within a message is waited for, but not for
//! ever (research/vault-proxy.md §2.1, rows 40 and 65).

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// When a byte last went through a stream, in either direction.
#[derive(Clone, Debug)]
pub struct Activity {
    began: Instant,
    /// Milliseconds after `began`.
    last: Arc<AtomicU64>,
}

impl Default for Activity {
    /// Now.
    fn default() -> Self {
        Self {
            began: Instant::now(),
            last: Arc::default(),
        }
    }
}

impl Activity {
    /// Something went through.
    pub fn note(&self) {
        let since = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(since, Ordering::Relaxed);
    }

    /// Drives `tunnel` to its end, or until nothing has gone through for [`IDLE_MAX`]: then it is dropped.
    pub async fn guard<T>(&self, tunnel: impl Future<Output = T>) -> Option<T> {
        let mut tunnel = pin!(tunnel);
        loop {
            let end = self.began + Duration::from_millis(self.last.load(Ordering::Relaxed)) + IDLE_MAX;
            if end <= Instant::now() {
                return None;
            }
            tokio::select! {
                done = &mut tunnel => return Some(done),
                () = sleep_until(end) => {}
            }
        }
    }
}

/// Longer than any model thinks before it answers, and than a forge needs for a push.
pub const IDLE_MAX: Duration = Duration::from_hours(1);

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::time::{advance, sleep};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_a_tunnel_in_which_nothing_moves_is_ended() {
        let activity = Activity::default();
        let began = Instant::now();
        assert_eq!(activity.guard(pending::<()>()).await, None);
        assert!(began.elapsed() >= IDLE_MAX);

        let activity = Activity::default();
        let moving = async {
            for _ in 0..5 {
                sleep(IDLE_MAX / 2).await;
                activity.note();
            }
            "done"
        };
        assert_eq!(activity.guard(moving).await, Some("done"));

        let activity = Activity::default();
        advance(IDLE_MAX / 2).await;
        activity.note();
        let began = Instant::now();
        assert_eq!(activity.guard(pending::<()>()).await, None);
        assert!(began.elapsed() >= IDLE_MAX, "counted from the last byte");
    }
}
