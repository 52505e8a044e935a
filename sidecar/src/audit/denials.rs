//! Denied connections, counted and told at most every [`INTERVAL`]: the agent can't flood the record.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;

use crate::control::bond::Bond;
use crate::control::state::StateError;

/// How many connections were denied and aren't told yet.
#[derive(Debug, Default)]
pub struct Denials {
    count: AtomicU32,
    some: Notify,
}

impl Denials {
    /// One more.
    pub fn count(&self) {
        self.add(1);
    }

    fn add(&self, more: u32) {
        let _ = self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
            Some(count.saturating_add(more))
        });
        self.some.notify_one();
    }

    /// Tells them; nothing ticks while nothing is denied.
    pub async fn tell(&self, bond: &Bond) -> Result<(), StateError> {
        loop {
            self.some.notified().await;
            sleep(INTERVAL).await;
            let count = self.count.swap(0, Ordering::Relaxed);
            if count > 0 && !bond.denied(count)? {
                self.add(count);
            }
        }
    }
}

/// Often enough to be seen while it happens.
pub const INTERVAL: Duration = Duration::from_secs(5);
