//! Wiring: one container start from the first connection to SIGTERM. The runner outlives the harness, so that the
//! container isn't restarted and the harness with it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use berth_protocol::handoff::{Assignment, FromRunner, ToRunner};
use parking_lot::Mutex;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, timeout};

use crate::cli::Options;
use crate::harness::{Launch, Reader, Task};
use crate::link::{self, Link};
use crate::reap::Reaper;
use crate::start::{Group, Harness, NotStarted, prepare, start};
use crate::tell::Teller;
use crate::{result, stream, wait};

/// The runner can't do its work.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Signals can't be waited for.
    #[error("failed to listen for signals")]
    Signals(#[source] io::Error),
}

/// Runs until SIGTERM.
pub async fn run(options: Options) -> Result<(), RunError> {
    let reaper = Reaper::begin().map_err(RunError::Signals)?;
    let mut stop = StopSignal::new().map_err(RunError::Signals)?;
    let mut link = link::open(&options.handoff);
    let assignment = tokio::select! {
        assignment = wait::for_start(&mut link) => assignment,
        () = stop.received() => None,
    };
    if let Some(assignment) = assignment {
        link.ran.store(assignment.incarnation, Ordering::Release); // before anything runs: it never runs twice
        let leaving = serve(&options, &reaper, &assignment, &mut link, &mut stop).await;
        if !leaving {
            idle(assignment.incarnation, &mut link, &mut stop).await;
        }
    }
    link.close(FLUSH).await;
    Ok(())
}

/// Runs the harness and tells how it ended; says whether the runner was told to leave meanwhile.
async fn serve(
    options: &Options,
    reaper: &Reaper,
    assignment: &Assignment,
    link: &mut Link,
    stop: &mut StopSignal,
) -> bool {
    let (launch, harness) = match begin(options, reaper, assignment) {
        Ok(begun) => begun,
        Err(NotStarted { code, error }) => {
            tracing::error!(code, error, "the harness wasn't started");
            tell_end(
                link,
                FromRunner::Exited {
                    code,
                    summary: String::new(),
                    error,
                },
            )
            .await;
            return false;
        }
    };
    if link
        .answers
        .try_send(FromRunner::Started {
            command: launch.command,
        })
        .is_err()
    {
        tracing::warn!("the sidecar doesn't take the start");
    }
    let group = harness.group();
    let frames = link.frames.clone();
    let workspace = options.workspace.clone();
    let lines = options.harness.reader();
    let life = async move {
        let exited = live(harness, lines, &frames, workspace).await;
        frames.send(exited).await
    };
    tokio::pin!(life);
    let mut ending = Ending {
        group,
        kill: None,
        leave_by: None,
    };
    loop {
        tokio::select! {
            _ = &mut life => break,
            Some(order) = link.orders.recv() => match order {
                ToRunner::Stop { grace_seconds } => ending.end(Duration::from_secs(grace_seconds.into())),
                other => answer(assignment.incarnation, &other, link),
            },
            () = stop.received() => ending.leave(),
            () = ending.deadline() => {
                group.kill();
                break;
            }
        }
    }
    ending.settle()
}

/// Prepares and starts the harness.
fn begin(options: &Options, reaper: &Reaper, assignment: &Assignment) -> Result<(Launch, Harness), NotStarted> {
    let task = Task {
        assignment,
        fallback: &options.command,
        home: &options.home,
        resume: None,
    };
    let launch = options.harness.launch(task).map_err(|error| NotStarted {
        code: 126,
        error: error.to_string(),
    })?;
    prepare(&launch)?;
    let harness = start(reaper, &launch, &options.workspace)?;
    Ok((launch, harness))
}

/// From the first byte to the exit: everything that was written is carried before the end is told.
async fn live(
    harness: Harness,
    lines: Option<Box<dyn Reader>>,
    frames: &mpsc::Sender<FromRunner>,
    workspace: PathBuf,
) -> FromRunner {
    let group = harness.group();
    let teller = lines.map(|lines| Arc::new(Mutex::new(Teller::new(lines))));
    let (cut, seen) = watch::channel(false);
    let mut streams = JoinSet::new();
    let (told, of, end) = (teller.clone(), frames.clone(), seen.clone());
    streams.spawn(async move { stream::carry(1, harness.stdout, tokio::io::stdout(), of, end, told.as_deref()).await });
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
    FromRunner::Exited {
        code,
        summary,
        error: String::new(),
    }
}

async fn drain(streams: &mut JoinSet<()>) {
    while streams.join_next().await.is_some() {}
}

async fn tell_end(link: &Link, exited: FromRunner) {
    if link.frames.send(exited).await.is_err() {
        tracing::warn!("the end can't be told");
    }
}

/// The harness has run: a restarted sidecar assigns again and is answered; nothing starts.
async fn idle(incarnation: u64, link: &mut Link, stop: &mut StopSignal) {
    loop {
        tokio::select! {
            Some(order) = link.orders.recv() => answer(incarnation, &order, link),
            () = stop.received() => return,
        }
    }
}

fn answer(ran: u64, order: &ToRunner, link: &Link) {
    match order {
        ToRunner::Assignment(assignment) if assignment.incarnation == ran => wait::ready(&link.answers, ran),
        ToRunner::Assignment(assignment) => {
            tracing::warn!(
                ran,
                assigned = assignment.incarnation,
                "this container serves one incarnation only"
            );
        }
        ToRunner::Start | ToRunner::Stop { .. } => {}
    }
}

/// How far the harness is on its way out.
struct Ending {
    group: Group,
    kill: Option<AbortHandle>,
    leave_by: Option<Instant>,
}

impl Ending {
    fn end(&mut self, grace: Duration) {
        if let Some(earlier) = self.kill.replace(self.group.end(grace)) {
            earlier.abort();
        }
    }

    fn leave(&mut self) {
        if self.leave_by.is_none() {
            self.end(TERM_GRACE);
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

/// SIGTERM, or SIGINT at a terminal.
struct StopSignal {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignal {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn received(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// What the harness started and left behind may still write this long, twice: before and after its group is killed.
const LEFTOVER_GRACE: Duration = Duration::from_secs(1);
/// The pod's grace is 10 s and the sidecar ends after the agent: 5 s for the harness, …
const TERM_GRACE: Duration = Duration::from_secs(5);
/// … 2 s for its leftovers, …
const LEAVE: Duration = Duration::from_secs(7);
/// … and 1 s for the last frames; 2 s stay for the sidecar to send them on.
const FLUSH: Duration = Duration::from_secs(1);
