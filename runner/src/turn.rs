//! One harness, from its first byte to its end, however it comes: by itself, by an abort, by a stop, with the pod.

use std::collections::BTreeMap;
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
use crate::repository::{Checkout, Published};
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
    /// Why its branch isn't pushed, or has no pull request; empty when nothing failed.
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
            let (code, summary, last_lines) = self.live(&frames).await;
            let stopped = stopped.load(Ordering::Acquire);
            let published = match checkout.filter(|_| code == 0 && !stopped) {
                Some(checkout) => checkout.publish(&summary).await,
                None => Published::default(),
            };
            let exited = FromRunner::Exited {
                code,
                summary,
                error: published.error.clone(),
                stopped,
                branch: published.branch,
                pull_request: published.pull_request,
                last_lines,
            };
            if is_last && frames.send(exited).await.is_err() {
                tracing::warn!("the end can't be told");
            }
            (code, published.error)
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

    /// From the first byte to the exit: everything that was written is carried before the end is told. Gives the exit status,
    /// the summary, and the last lines of one that failed and doesn't say why in its result: of its errors, or else of its
    /// output, if that is for people.
    async fn live(self, frames: &mpsc::Sender<FromRunner>) -> (i32, String, String) {
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
        streams.spawn(async move {
            let (from, log) = (harness.stdout, tokio::io::stdout());
            let last = stream::carry(1, from, log, of, end, told.as_deref()).await;
            (1, if told.is_none() { last } else { Vec::new() })
        });
        let of = frames.clone();
        streams.spawn(async move {
            let (from, log) = (harness.stderr, tokio::io::stderr());
            (2, stream::carry(2, from, log, of, seen, None).await)
        });
        let mut last = BTreeMap::new();
        let code = harness.ended.await.unwrap_or(255);
        // Whatever the harness left behind gets a moment, then goes with it, as it would with a container.
        if timeout(LEFTOVER_GRACE, drain(&mut streams, &mut last)).await.is_err() {
            group.kill();
        }
        drop(timeout(LEFTOVER_GRACE, drain(&mut streams, &mut last)).await); // who left the group may still hold a pipe
        cut.send_replace(true);
        drain(&mut streams, &mut last).await;
        group.kill();
        let last_words = teller.and_then(|teller| teller.lock().result().map(str::to_owned));
        let says_why = last_words.as_deref().is_some_and(|words| !words.is_empty());
        let summary = match last_words {
            Some(words) => words,
            None => tokio::task::spawn_blocking(move || result::summary(&workspace))
                .await
                .unwrap_or_default(),
        };
        let mut last = last.into_values().rev().map(|last| stream::last_lines(&last));
        let last_lines = last.find(|lines| !lines.is_empty()).filter(|_| code != 0 && !says_why);
        (code, summary, last_lines.unwrap_or_default())
    }
}

async fn drain(streams: &mut JoinSet<(u8, Vec<u8>)>, last: &mut BTreeMap<u8, Vec<u8>>) {
    while let Some(ended) = streams.join_next().await {
        last.extend(ended.ok());
    }
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
