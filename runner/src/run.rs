//! Wiring: one container start from the first connection to SIGTERM. The runner outlives the harness, so that the
//! container isn't restarted and the harness with it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use berth_protocol::handoff::{Assignment, FromRunner, ToRunner};
use parking_lot::Mutex;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, timeout};

use crate::checkpoint::gather::Sources;
use crate::checkpoint::keep::Keeper;
use crate::checkpoint::restore::restore;
use crate::checkpoint::take::Exchange;
use crate::cli::Options;
use crate::harness::{Launch, Task};
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

/// Restores, runs the harness and tells how it ended; says whether the runner was told to leave meanwhile.
async fn serve(
    options: &Options,
    reaper: &Reaper,
    assignment: &Assignment,
    link: &mut Link,
    stop: &mut StopSignal,
) -> bool {
    let mut keeper = keeper(options, assignment, link);
    match go_on(&mut keeper, assignment, link, stop).await {
        GoOn::Yes => {}
        GoOn::No(error) => {
            not_started(link, NotStarted { code: 255, error }).await;
            return false;
        }
        GoOn::Leave => return true,
    }
    let (launch, harness) = match begin(options, reaper, assignment) {
        Ok(begun) => begun,
        Err(error) => {
            not_started(link, error).await;
            return false;
        }
    };
    let command = launch.command;
    if link.answers.try_send(FromRunner::Started { command }).is_err() {
        tracing::warn!("the sidecar doesn't take the start");
    }
    let teller = options
        .harness
        .reader()
        .map(|lines| Arc::new(Mutex::new(Teller::new(lines))));
    let earlier = assignment.restore.as_ref().map(|restore| restore.conversation.clone());
    let conversation = || {
        let told = teller
            .as_ref()
            .and_then(|teller| teller.lock().conversation().map(str::to_owned));
        let newest = || options.harness.newest().map(str::to_owned);
        told.or_else(|| earlier.clone()).or_else(newest).unwrap_or_default()
    };
    let mut ending = Ending::of(harness.group());
    {
        let watch = keeper.watch(conversation);
        run_out(
            harness,
            teller.clone(),
            options,
            assignment,
            (link, stop, &mut ending),
            watch,
        )
        .await;
    }
    if let Some(until) = ending.told_to_end {
        keeper.last(conversation(), until).await;
    }
    ending.settle()
}

/// Until the harness has ended and that is told.
async fn run_out(
    harness: Harness,
    teller: Option<Arc<Mutex<Teller>>>,
    options: &Options,
    assignment: &Assignment,
    (link, stop, ending): (&mut Link, &mut StopSignal, &mut Ending),
    watch: impl Future<Output = ()>,
) {
    let (group, frames, workspace) = (harness.group(), link.frames.clone(), options.workspace.clone());
    let stopped = AtomicBool::new(false);
    let life = async {
        let (code, summary) = live(harness, teller, &frames, workspace).await;
        let exited = FromRunner::Exited {
            code,
            summary,
            error: String::new(),
            stopped: stopped.load(Ordering::Acquire),
        };
        frames.send(exited).await
    };
    tokio::pin!(life);
    tokio::pin!(watch);
    loop {
        tokio::select! {
            _ = &mut life => break,
            () = &mut watch => {}
            Some(order) = link.orders.recv() => match order {
                ToRunner::Stop { grace_seconds } => {
                    stopped.store(true, Ordering::Release);
                    ending.end(Duration::from_secs(grace_seconds.into()));
                }
                other => answer(assignment.incarnation, &other, link),
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
}

fn keeper(options: &Options, assignment: &Assignment, link: &mut Link) -> Keeper {
    let sources = Sources {
        home: options.home.clone(),
        workspace: options.workspace.clone(),
        keeps: options.harness.keeps(),
    };
    let answers = link.checkpoints.take().unwrap_or_else(|| mpsc::channel(1).1);
    let steps = link.steps.clone();
    Keeper::new(sources, Exchange { steps, answers }, assignment.checkpoints)
}

/// Whether the harness is to be started.
enum GoOn {
    Yes,
    /// What an earlier pod left can't be had.
    No(String),
    /// The runner was told to leave.
    Leave,
}

/// Restores what an earlier pod left, if there is something.
async fn go_on(keeper: &mut Keeper, assignment: &Assignment, link: &mut Link, stop: &mut StopSignal) -> GoOn {
    let Some(from) = &assignment.restore else {
        return GoOn::Yes;
    };
    let (sources, exchange) = keeper.exchange();
    let restoring = restore(sources.clone(), from, exchange);
    tokio::pin!(restoring);
    let restored = loop {
        tokio::select! {
            restored = &mut restoring => break restored,
            Some(order) = link.orders.recv() => match order {
                ToRunner::Stop { .. } => return GoOn::Leave,
                other => answer(assignment.incarnation, &other, link),
            },
            () = stop.received() => return GoOn::Leave,
        }
    };
    let digest = match restored {
        Ok(digest) => digest,
        Err(error) => return GoOn::No(format!("checkpoint {}/{}: {error}", from.incarnation, from.number)),
    };
    let restored = FromRunner::Restored {
        incarnation: from.incarnation,
        number: from.number,
        digest,
    };
    // The same way as the start takes, which has to come after it.
    if link.answers.try_send(restored).is_err() {
        tracing::warn!("the sidecar doesn't take what was restored");
    }
    GoOn::Yes
}

async fn not_started(link: &Link, NotStarted { code, error }: NotStarted) {
    tracing::error!(code, error, "the harness wasn't started");
    let exited = FromRunner::Exited {
        code,
        summary: String::new(),
        error,
        stopped: false,
    };
    if link.frames.send(exited).await.is_err() {
        tracing::warn!("the end can't be told");
    }
}

/// Prepares and starts the harness.
fn begin(options: &Options, reaper: &Reaper, assignment: &Assignment) -> Result<(Launch, Harness), NotStarted> {
    let restore = assignment.restore.as_ref();
    let prompt = crate::harness::resumed(assignment);
    let task = Task {
        assignment,
        fallback: &options.command,
        home: &options.home,
        workspace: &options.workspace,
        resume: restore
            .map(|restore| restore.conversation.as_str())
            .filter(|conversation| !conversation.is_empty()),
        prompt: &prompt,
    };
    let launch = options.harness.launch(task).map_err(|error| NotStarted {
        code: 126,
        error: error.to_string(),
    })?;
    prepare(&launch)?;
    let harness = start(reaper, &launch, &options.workspace)?;
    Ok((launch, harness))
}

/// From the first byte to the exit: everything that was written is carried before the end is told. Gives the exit status
/// and the summary.
async fn live(
    harness: Harness,
    teller: Option<Arc<Mutex<Teller>>>,
    frames: &mpsc::Sender<FromRunner>,
    workspace: PathBuf,
) -> (i32, String) {
    let group = harness.group();
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
    (code, summary)
}

async fn drain(streams: &mut JoinSet<()>) {
    while streams.join_next().await.is_some() {}
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
        ToRunner::Start | ToRunner::Stop { .. } | ToRunner::Checkpoint(_) => {}
    }
}

/// How far the harness is on its way out.
struct Ending {
    group: Group,
    kill: Option<AbortHandle>,
    leave_by: Option<Instant>,
    /// Set once somebody has told it to end: until when there is time for a last checkpoint.
    told_to_end: Option<Instant>,
}

impl Ending {
    fn of(group: Group) -> Self {
        Self {
            group,
            kill: None,
            leave_by: None,
            told_to_end: None,
        }
    }

    fn end(&mut self, grace: Duration) {
        self.told_to_end.get_or_insert_with(|| Instant::now() + LEAVE);
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
