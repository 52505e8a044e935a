//! Waits for every child. The runner is process 1 of its container, so orphans of the harness become its children.
//!
//! Processes are started through [`Reaper::spawn`] alone, and nothing else in this program waits for one: a child that
//! ends is either the one that somebody asked for, or an orphan.

use std::collections::HashMap;
use std::io;
use std::process::{Child, Command};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::process::{Pid, WaitOptions, WaitStatus};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

/// Waits for children.
#[derive(Clone, Default)]
pub struct Reaper {
    asked: Arc<Mutex<HashMap<i32, oneshot::Sender<i32>>>>,
}

/// A child of this process.
pub struct Started {
    /// Its pipes. Its `wait` must not be called.
    pub child: Child,
    /// Its process id, which is its group's too.
    pub pid: Pid,
    /// Its exit status, or 128 + the signal's number.
    pub ended: oneshot::Receiver<i32>,
}

impl Reaper {
    /// Begins to wait for children; from here on also for those whose parents have ended.
    pub fn begin() -> io::Result<Self> {
        let reaper = Self::default();
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        let ended = signal(SignalKind::child())?;
        tokio::spawn(reaper.clone().wait(ended));
        Ok(reaper)
    }

    /// Starts a child.
    pub fn spawn(&self, command: &mut Command) -> io::Result<Started> {
        // The lock keeps the child from being waited for before it is known, and `spawn` from losing one that failed.
        let mut asked = self.asked.lock();
        let child = command.spawn()?;
        let pid = Pid::from_child(&child);
        let (sender, ended) = oneshot::channel();
        asked.insert(pid.as_raw_nonzero().get(), sender);
        Ok(Started { child, pid, ended })
    }

    async fn wait(self, mut ended: Signal) {
        while ended.recv().await.is_some() {
            self.collect();
        }
    }

    fn collect(&self) {
        let mut asked = self.asked.lock();
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if let Some(sender) = asked.remove(&pid.as_raw_nonzero().get()) {
                let _ = sender.send(code(status)); // nobody waits any more: fine
            }
        }
    }
}

/// As a shell would say it.
fn code(status: WaitStatus) -> i32 {
    status
        .exit_status()
        .or_else(|| status.terminating_signal().map(|signal| 128 + signal))
        .unwrap_or(255)
}
