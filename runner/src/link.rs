//! The connection to the sidecar: kept up, greeted, and fed. What is told survives a lost connection: frames wait in a
//! bounded queue, and states that were told already are told again, as a sidecar that restarted may not know them.
//!
//! One task owns the connection. It never blocks on what it hears, so that a stop arrives while output is stuck.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use berth_protocol::VERSION;
use berth_protocol::checkpoint::Answer;
use berth_protocol::handoff::{FromRunner, SOCKET_NAME, ToRunner, codec};
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::codec::{FramedRead, FramedWrite, LengthDelimitedCodec};

/// What the rest of the runner holds of the connection.
pub struct Link {
    /// What the sidecar says.
    pub orders: mpsc::Receiver<ToRunner>,
    /// Answers that don't wait behind output.
    pub answers: mpsc::Sender<FromRunner>,
    /// Output, and then the end.
    pub frames: mpsc::Sender<FromRunner>,
    /// Steps of checkpoints, behind everything else.
    pub steps: mpsc::Sender<FromRunner>,
    /// What is answered to them; taken by whoever keeps checkpoints.
    pub checkpoints: Option<mpsc::Receiver<Answer>>,
    /// The incarnation whose harness this container start has run; 0 before.
    pub ran: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

/// Connects to the sidecar in `handoff`, as soon as its socket is there, again and again.
pub fn open(handoff: &Path) -> Link {
    let (orders_sender, orders) = mpsc::channel(ORDERS);
    let (answers, answers_receiver) = mpsc::channel(ANSWERS);
    let (frames, frames_receiver) = mpsc::channel(FRAMES);
    let (steps, steps_receiver) = mpsc::channel(1);
    let (checkpoints_sender, checkpoints) = mpsc::channel(CHECKPOINTS);
    let ran = Arc::new(AtomicU64::new(0));
    let outbox = Outbox {
        answers: answers_receiver,
        frames: frames_receiver,
        steps: steps_receiver,
        ran: Arc::clone(&ran),
        in_hand: None,
        told: Vec::new(),
    };
    let heard = Heard {
        orders: orders_sender,
        checkpoints: checkpoints_sender,
    };
    let task = tokio::spawn(keep_up(handoff.join(SOCKET_NAME), outbox, heard));
    Link {
        orders,
        answers,
        frames,
        steps,
        checkpoints: Some(checkpoints),
        ran,
        task,
    }
}

impl Link {
    /// Ends the connection once everything is written, at the latest after `patience`.
    pub async fn close(self, patience: Duration) {
        let Self {
            answers,
            frames,
            steps,
            task,
            orders,
            ..
        } = self;
        drop((answers, frames, steps));
        let abort = task.abort_handle();
        if tokio::time::timeout(patience, task).await.is_err() {
            tracing::warn!("the sidecar didn't take the last frames");
            abort.abort();
        }
        drop(orders);
    }
}

/// What waits to be told, and what has to be told again.
struct Outbox {
    answers: mpsc::Receiver<FromRunner>,
    frames: mpsc::Receiver<FromRunner>,
    steps: mpsc::Receiver<FromRunner>,
    ran: Arc<AtomicU64>,
    /// Taken from a queue, not yet written.
    in_hand: Option<FromRunner>,
    /// `Started` and `Exited`, once written.
    told: Vec<FromRunner>,
}

/// Where what the sidecar says goes.
struct Heard {
    orders: mpsc::Sender<ToRunner>,
    checkpoints: mpsc::Sender<Answer>,
}

async fn keep_up(socket: PathBuf, mut outbox: Outbox, heard: Heard) {
    let mut pause = RETRY_MIN;
    loop {
        let connected = Instant::now();
        match UnixStream::connect(&socket).await {
            Ok(stream) => match converse(stream, &mut outbox, &heard).await {
                Ok(Ended::Told) => return,
                Ok(Ended::Closed) => tracing::info!("the sidecar closed the connection"),
                Err(error) => tracing::info!(error = &error as &dyn std::error::Error, "the connection is lost"),
            },
            Err(error) => tracing::debug!(error = &error as &dyn std::error::Error, "the sidecar isn't there yet"),
        }
        pause = if connected.elapsed() > STEADY {
            RETRY_MIN
        } else {
            (pause * 2).min(RETRY_MAX)
        };
        tokio::time::sleep(pause).await;
    }
}

/// How a connection ended without an error.
enum Ended {
    /// Everything is written and nothing more will come.
    Told,
    /// By the sidecar.
    Closed,
}

async fn converse(stream: UnixStream, outbox: &mut Outbox, heard: &Heard) -> std::io::Result<Ended> {
    let (reader, writer) = stream.into_split();
    let mut sink = FramedWrite::new(writer, codec());
    tokio::select! {
        told = tell(&mut sink, outbox) => told.map(|()| Ended::Told),
        heard = hear(FramedRead::new(reader, codec()), heard) => heard.map(|()| Ended::Closed),
    }
}

async fn hear(mut source: FramedRead<OwnedReadHalf, LengthDelimitedCodec>, heard: &Heard) -> std::io::Result<()> {
    while let Some(frame) = source.next().await {
        let order = match serde_json::from_slice(&frame?)? {
            // Late ones, which nobody waits for any more, may go.
            ToRunner::Checkpoint(answer) => {
                drop(heard.checkpoints.try_send(answer));
                continue;
            }
            order => order,
        };
        if heard.orders.send(order).await.is_err() {
            std::future::pending::<()>().await; // the runner is leaving: only the telling matters now
        }
    }
    Ok(())
}

async fn tell(
    sink: &mut FramedWrite<OwnedWriteHalf, LengthDelimitedCodec>,
    outbox: &mut Outbox,
) -> std::io::Result<()> {
    let hello = FromRunner::Hello {
        protocol: VERSION,
        ran_incarnation: outbox.ran.load(Ordering::Acquire),
    };
    write(sink, &hello).await?;
    for state in &outbox.told {
        write(sink, state).await?;
    }
    loop {
        if outbox.in_hand.is_none() {
            outbox.in_hand = outbox.next().await;
        }
        let Some(frame) = &outbox.in_hand else { return Ok(()) };
        write(sink, frame).await?;
        outbox.written();
    }
}

async fn write(
    sink: &mut FramedWrite<OwnedWriteHalf, LengthDelimitedCodec>,
    frame: &FromRunner,
) -> std::io::Result<()> {
    sink.send(Bytes::from(serde_json::to_vec(frame)?)).await
}

impl Outbox {
    /// The next frame; answers first. `None` once all queues are closed and empty.
    async fn next(&mut self) -> Option<FromRunner> {
        tokio::select! {
            biased;
            Some(answer) = self.answers.recv() => Some(answer),
            Some(frame) = self.frames.recv() => Some(frame),
            Some(step) = self.steps.recv() => Some(step),
            else => None,
        }
    }

    fn written(&mut self) {
        let frame = self.in_hand.take();
        self.told
            .extend(frame.filter(|frame| matches!(frame, FromRunner::Started { .. } | FromRunner::Exited { .. })));
    }
}

/// Orders are three per session; more than that many at once says that the sidecar misbehaves, and it may wait.
const ORDERS: usize = 16;
/// `Ready` once per assignment and `Started`; the link takes them at once while it is up.
const ANSWERS: usize = 16;
/// One is under way; late ones may be before it.
const CHECKPOINTS: usize = 16;
/// 16 × 32 KiB: half a MiB of output (less than 1 MiB with base64) may wait for the sidecar before the harness blocks.
const FRAMES: usize = 16;
/// The sidecar's socket appears before the agent's container starts, so the first try nearly always works.
const RETRY_MIN: Duration = Duration::from_millis(25);
/// A restarted sidecar container is back within seconds.
const RETRY_MAX: Duration = Duration::from_secs(1);
/// A connection that lived this long wasn't refused.
const STEADY: Duration = Duration::from_secs(5);
