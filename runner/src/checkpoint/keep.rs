//! Takes checkpoints while the harness works, when something has changed, and one last time when the pod goes.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::gather::{Sources, fingerprint};
use super::take::{Exchange, NotTaken, Place, take};

/// Keeps a session's state.
#[derive(Debug)]
pub struct Keeper {
    sources: Sources,
    exchange: Exchange,
    wanted: bool,
    number: u64,
    /// Of the files in the last checkpoint that was taken, and where the session was.
    kept: Option<([u8; 32], Place)>,
}

impl Keeper {
    /// For files that aren't kept yet. Unless they are `wanted`, no checkpoint is ever taken.
    pub fn new(sources: Sources, exchange: Exchange, wanted: bool) -> Self {
        Self {
            sources,
            exchange,
            wanted,
            number: 0,
            kept: None,
        }
    }

    /// For the restore before the harness starts.
    pub fn exchange(&mut self) -> (&Sources, &mut Exchange) {
        (&self.sources, &mut self.exchange)
    }

    /// Until it is dropped: after `first`, then again and again. `place` is asked each time.
    pub async fn watch(&mut self, first: Duration, place: impl Fn() -> Place) {
        if !self.wanted {
            std::future::pending::<()>().await;
        }
        let mut pause = first;
        loop {
            sleep(pause).await;
            pause = EVERY;
            if let Err(error) = self.keep(place()).await {
                tracing::warn!(error = &error as &dyn std::error::Error, "no checkpoint is taken");
            }
        }
    }

    /// One last time, until then.
    pub async fn last(&mut self, place: Place, until: Instant) {
        if !self.wanted {
            return;
        }
        let left = until.saturating_duration_since(Instant::now());
        match timeout(left, self.keep(place)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(error = &error as &dyn std::error::Error, "no last checkpoint"),
            Err(_elapsed) => tracing::warn!("no time for a last checkpoint"),
        }
    }

    async fn keep(&mut self, place: Place) -> Result<(), NotTaken> {
        let began = Instant::now();
        let sources = self.sources.clone();
        let now = tokio::task::spawn_blocking(move || fingerprint(&sources));
        let now = now.await.map_err(std::io::Error::other)??;
        let now = (now, place.clone());
        if self.kept.as_ref() == Some(&now) {
            return Ok(());
        }
        self.number += 1;
        let about = take(self.sources.clone(), self.number, place, &mut self.exchange).await?;
        self.kept = Some(now);
        tracing::info!(
            number = self.number,
            bytes = about.bytes,
            files = about.files,
            missing = about.missing_count,
            milliseconds = began.elapsed().as_millis(),
            "checkpoint taken"
        );
        Ok(())
    }
}

/// After the start of a harness: a program has told its conversation by then.
pub const FIRST: Duration = Duration::from_secs(2);
/// As much work may be lost with a pod that has no time to say goodbye.
const EVERY: Duration = Duration::from_secs(10);
