//! Takes checkpoints while the harness works, when something has changed, and one last time when the pod goes.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::gather::{Sources, fingerprint};
use super::take::{Exchange, NotTaken, take};

/// Keeps a session's state.
#[derive(Debug)]
pub struct Keeper {
    sources: Sources,
    exchange: Exchange,
    wanted: bool,
    number: u64,
    /// Of the files in the last checkpoint that was taken.
    kept: Option<[u8; 32]>,
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

    /// Until it is dropped: soon after the start, then again and again. `conversation` is asked each time.
    pub async fn watch(&mut self, conversation: impl Fn() -> String) {
        if !self.wanted {
            std::future::pending::<()>().await;
        }
        let mut pause = FIRST;
        loop {
            sleep(pause).await;
            pause = EVERY;
            if let Err(error) = self.keep(conversation()).await {
                tracing::warn!(error = &error as &dyn std::error::Error, "no checkpoint is taken");
            }
        }
    }

    /// One last time, until then.
    pub async fn last(&mut self, conversation: String, until: Instant) {
        if !self.wanted {
            return;
        }
        let left = until.saturating_duration_since(Instant::now());
        match timeout(left, self.keep(conversation)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(error = &error as &dyn std::error::Error, "no last checkpoint"),
            Err(_elapsed) => tracing::warn!("no time for a last checkpoint"),
        }
    }

    async fn keep(&mut self, conversation: String) -> Result<(), NotTaken> {
        let began = Instant::now();
        let sources = self.sources.clone();
        let now = tokio::task::spawn_blocking(move || fingerprint(&sources));
        let now = now.await.map_err(std::io::Error::other)??;
        if self.kept == Some(now) {
            return Ok(());
        }
        self.number += 1;
        let about = take(self.sources.clone(), self.number, conversation, &mut self.exchange).await?;
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

/// A program has told its conversation by then.
const FIRST: Duration = Duration::from_secs(2);
/// As much work may be lost with a pod that has no time to say goodbye.
const EVERY: Duration = Duration::from_secs(10);
