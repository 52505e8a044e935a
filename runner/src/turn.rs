//! One harness, from its first byte to its end, however it comes: by itself, by an abort, by a stop, with the pod.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use berth_protocol::handoff::{FromRunner, ToRunner};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, timeout};

use crate::link::Link;
use crate::repository::Checkout;
use crate::run::{StopSignal, answer};
use crate::start::{Group, Harness};
use crate::tell::Teller;
use crate::{result, stream};

/// A harness that was started.
pub struct Turn<'a> {
    /// The repository whose branch is pushed once it has ended well.
    pub checkout: Option<Checkout<'a>>,
    /// Its process.
    pub harness: Harness,
    /// Reads what it prints.
    pub teller: Option<Arc<Mutex<Teller>>>,
    /// Where it works.
    pub workspace: PathBuf,
    /// Of the session in this pod.
    pub incarnation: u64,
    /// Whether its end is the session's.
    pub is_last: bool,
}

/// How a harness ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Over {
    /// Its exit status.
    pub code: i32,
    /// Why its branch isn't pushed; empty when it is, or there is nothing to push.
    pub unpushed: String,
    /// Somebody ended it, and the session stays.
    pub aborted: bool,
    /// It was told to end with the pod, or with the session's rest: until when there is time for a last checkpoint.
    pub stopped: Option<Instant>,
    /// Whether the runner is to leave.
    pub leaving: bool,
}

impl Turn<'_> {
    /// Until the harness has ended and, where it is the session's end, that is told.
    pub async fn run_out(self, link: &mut Link, stop: &mut StopSignal, watch: impl Future<Output = ()>) -> Over {
        let (incarnation, group, frames) = (self.incarnation, self.harness.group(), link.frames.clone());
        let mut ending = Ending::of(group);
        let (stopped, mut aborted) = (AtomicBool::new(false), false);
        let (mut code, mut unpushed) = (255, String::new());
        let life = async {
            let (is_last, checkout) = (self.is_last, self.checkout);
            let (code, summary) = self.live(&frames).await;
            let stopped = stopped.load(Ordering::Acquire);
            let (branch, error) = push(checkout.filter(|_| code == 0 && !stopped)).await;
            let exited = FromRunner::Exited {
                code,
                summary,
                error: error.clone(),
                stopped,
                branch,
            };
            if is_last && frames.send(exited).await.is_err() {
                tracing::warn!("the end can't be told");
            }
            (code, error)
        };
        tokio::pin!(life);
        tokio::pin!(watch);
        loop {
            tokio::select! {
                ended = &mut life => {
                    (code, unpushed) = ended;
                    break;
                }
                () = &mut watch => {}
                Some(order) = link.orders.recv() => match order {
                    ToRunner::Stop { grace_seconds } => {
                        stopped.store(true, Ordering::Release);
                        ending.stop(Duration::from_secs(grace_seconds.into()));
                    }
                    ToRunner::Abort => {
                        aborted = true;
                        ending.end(TERM_GRACE);
                    }
                    other => answer(incarnation, &other, link),
                },
                () = stop.received() => {
                    stopped.store(true, Ordering::Release);
                    ending.leave();
                }
                () = ending.deadline() => {
                    group.kill();
                    break;
                }
            }
        }
        let stopped = ending.stopped;
        Over {
            code,
            unpushed,
            aborted,
            stopped,
            leaving: ending.settle(),
        }
    }

    /// From the first byte to the exit: everything that was written is carried before the end is told. Gives the exit status
    /// and the summary.
    async fn live(self, frames: &mpsc::Sender<FromRunner>) -> (i32, String) {
        let Self {
            harness,
            teller,
            workspace,
            ..
        } = self;
        let group = harness.group();
        let (cut, seen) = watch::channel(false);
        let mut streams = JoinSet::new();
        let (told, of, end) = (teller.clone(), frames.clone(), seen.clone());
        streams.spawn(
            async move { stream::carry(1, harness.stdout, tokio::io::stdout(), of, end, told.as_deref()).await },
        );
        streams.spawn(stream::carry(
            2,
            harness.stderr,
            tokio::io::stderr(),
            frames.clone(),
            seen,
            None,
        ));
        let code = harness.ended.await.unwrap_or(255);
        // Whatever the harness left behind gets a moment, then goes with it, as it would with a container.
        if timeout(LEFTOVER_GRACE, drain(&mut streams)).await.is_err() {
            group.kill();
        }
        drop(timeout(LEFTOVER_GRACE, drain(&mut streams)).await); // who left the group may still hold a pipe
        cut.send_replace(true);
        drain(&mut streams).await;
        group.kill();
        let last_words = teller.and_then(|teller| teller.lock().result().map(str::to_owned));
        let summary = match last_words {
            Some(words) => words,
            None => tokio::task::spawn_blocking(move || result::summary(&workspace))
                .await
                .unwrap_or_default(),
        };
        (code, summary)
    }
}

/// The branch that was pushed, and why none was.
async fn push(checkout: Option<Checkout<'_>>) -> (String, String) {
    match checkout {
        None => (String::new(), String::new()),
        Some(checkout) => match checkout.push().await {
            Ok(branch) => (branch.unwrap_or_default(), String::new()),
            Err(error) => (String::new(), error.to_string()),
        },
    }
}

async fn drain(streams: &mut JoinSet<()>) {
    while streams.join_next().await.is_some() {}
}

/// How far the harness is on its way out.
struct Ending {
    group: Group,
    kill: Option<AbortHandle>,
    leave_by: Option<Instant>,
    /// Set once it was told to end for good: until when there is time for a last checkpoint.
    stopped: Option<Instant>,
}

impl Ending {
    fn of(group: Group) -> Self {
        Self {
            group,
            kill: None,
            leave_by: None,
            stopped: None,
        }
    }

    fn end(&mut self, grace: Duration) {
        if let Some(earlier) = self.kill.replace(self.group.end(grace)) {
            earlier.abort();
        }
    }

    fn stop(&mut self, grace: Duration) {
        self.stopped.get_or_insert_with(|| Instant::now() + LEAVE);
        self.end(grace);
    }

    fn leave(&mut self) {
        if self.leave_by.is_none() {
            self.stop(TERM_GRACE);
            self.leave_by = Some(Instant::now() + LEAVE);
        }
    }

    async fn deadline(&self) {
        match self.leave_by {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    /// The harness has gone, so its process ids may be given to others. Says whether the runner is to leave.
    fn settle(self) -> bool {
        if let Some(kill) = self.kill {
            kill.abort();
        }
        self.leave_by.is_some()
    }
}

/// What the harness started and left behind may still write this long, twice: before and after its group is killed.
const LEFTOVER_GRACE: Duration = Duration::from_secs(1);
/// The pod's grace is 10 s and the sidecar ends after the agent: 5 s for the harness, …
const TERM_GRACE: Duration = Duration::from_secs(5);
/// … 2 s for its leftovers and the last checkpoint; 1 s for the last frames stays (`run.rs`).
pub const LEAVE: Duration = Duration::from_secs(7);
