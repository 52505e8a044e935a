//! How fast frames are taken: a runner that sends faster waits, its pipe fills, and the harness writes larger pieces.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Counts frames in a window of a second.
#[derive(Debug)]
pub struct Pace {
    window: Instant,
    taken: u32,
}

impl Pace {
    /// A fresh window.
    pub fn begin() -> Self {
        Self {
            window: Instant::now(),
            taken: 0,
        }
    }

    /// Until the next frame may be taken. May be cancelled.
    pub async fn wait(&mut self) {
        if self.window.elapsed() < WINDOW {
            if self.taken < FRAMES {
                return;
            }
            sleep_until(self.window + WINDOW).await;
        }
        *self = Self::begin();
    }

    /// A frame was taken.
    pub fn count(&mut self) {
        self.taken += 1;
    }
}

const WINDOW: Duration = Duration::from_secs(1);
/// 500 full frames are 16 MiB of output a second, more than a stream carries; an event each is what the record can
/// bear from one session.
pub const FRAMES: u32 = 500;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_waits_for_the_next_second() {
        let begun = Instant::now();
        let mut pace = Pace::begin();
        for _ in 0..(FRAMES * 3) {
            pace.wait().await;
            pace.count();
        }
        assert_eq!(begun.elapsed().as_secs(), 2);
    }
}
