//! IO: a file that somebody else replaces. Kubelets and editors swap files by renaming, so the directory is watched; a
//! slow poll is the safety net.

use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecursiveMode, Watcher};
use tokio::sync::mpsc;

/// Changes of a file.
pub struct Changes {
    events: mpsc::Receiver<()>,
    poll: Duration,
    _watcher: Option<Box<dyn Watcher + Send>>,
}

impl Changes {
    /// Of this file, and whatever else is in its directory.
    pub fn of(path: &Path, poll: Duration) -> Self {
        let (sender, events) = mpsc::channel(1);
        let watcher = observe(path, sender);
        if let Err(error) = &watcher {
            tracing::warn!(
                error = error as &dyn std::error::Error,
                path = %path.display(),
                "a directory isn't watched; polling only"
            );
        }
        Self {
            events,
            poll,
            _watcher: watcher.ok(),
        }
    }

    /// Waits until it is worth looking again.
    pub async fn next(&mut self) {
        tokio::select! {
            Some(()) = self.events.recv() => {}
            () = tokio::time::sleep(self.poll) => {}
        }
    }
}

fn observe(path: &Path, sender: mpsc::Sender<()>) -> notify::Result<Box<dyn Watcher + Send>> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.map_or_else(|| PathBuf::from("."), Path::to_path_buf);
    let told = move |event: notify::Result<Event>| {
        if event.as_ref().is_ok_and(is_reading) {
            return; // our own, most likely: it would be answered by another
        }
        let _ = sender.try_send(()); // a full channel already says "look again"
    };
    let mut watcher = notify::recommended_watcher(told)?;
    watcher.watch(&directory, RecursiveMode::NonRecursive)?;
    Ok(Box::new(watcher))
}

/// Opening, reading and closing change nothing; closing after writing may.
fn is_reading(event: &Event) -> bool {
    event.kind.is_access() && event.kind != EventKind::Access(AccessKind::Close(AccessMode::Write))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn reading_the_file_is_no_change_and_replacing_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("policy");
        std::fs::write(&path, "one").unwrap();
        let mut changes = Changes::of(&path, Duration::from_hours(1));
        for _ in 0..3 {
            std::fs::read(&path).unwrap();
        }
        let nothing = tokio::time::timeout(Duration::from_millis(200), changes.next()).await;
        assert!(nothing.is_err(), "a reading was taken for a change");
        std::fs::write(directory.path().join("next"), "two").unwrap();
        std::fs::rename(directory.path().join("next"), &path).unwrap();
        tokio::time::timeout(Duration::from_secs(5), changes.next())
            .await
            .unwrap();
    }
}
