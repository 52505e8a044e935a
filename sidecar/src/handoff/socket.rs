//! IO: the unix socket in `handoff`. One connection at a time; another is closed and recorded, and the first stays.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use berth_protocol::control::HarnessExited;
use berth_protocol::handoff::{FromRunner, SOCKET_NAME, ToRunner, codec};
use berth_protocol::{VERSION, handoff::MAX_FRAME_BYTES};
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::codec::{FramedRead, FramedWrite, LengthDelimitedCodec};

use super::next::{Runner, Step, next};
use super::pace::Pace;
use super::word;
use crate::control::bond::Bond;
use crate::control::held::Bound;
use crate::control::state::StateError;

/// The socket can't be served.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// It couldn't be made.
    #[error("failed to listen on the runner's socket")]
    Listen(#[source] io::Error),
    /// What was said couldn't be kept.
    #[error(transparent)]
    State(#[from] StateError),
}

/// Makes the socket; an earlier process's is replaced.
pub fn listen(handoff: &Path) -> Result<UnixListener, SocketError> {
    let path = handoff.join(SOCKET_NAME);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(SocketError::Listen(error)),
        _ => {}
    }
    let listener = UnixListener::bind(&path).map_err(SocketError::Listen)?;
    // The agent's user must reach it, and only this pod's containers see the volume.
    let reachable = std::fs::Permissions::from_mode(0o666);
    std::fs::set_permissions(&path, reachable).map_err(SocketError::Listen)?;
    Ok(listener)
}

/// Serves runners, one after the other.
pub async fn serve(listener: UnixListener, bond: Arc<Bond>) -> Result<(), SocketError> {
    let mut current: JoinSet<Result<(), StateError>> = JoinSet::new();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted.map_err(SocketError::Listen)?.0,
            Some(ended) = current.join_next() => {
                ended.unwrap_or(Ok(()))?;
                continue;
            }
        };
        // A runner that returns may be seen before the end of its old connection is.
        if !current.is_empty()
            && let Ok(Some(ended)) = timeout(LINGER, current.join_next()).await
        {
            ended.unwrap_or(Ok(()))?;
        }
        if current.is_empty() {
            current.spawn(converse(stream, Arc::clone(&bond)));
        } else {
            drop(stream);
            bond.violation("a second connection to the runner's socket was refused")?;
        }
    }
}

async fn converse(stream: UnixStream, bond: Arc<Bond>) -> Result<(), StateError> {
    let (reader, writer) = stream.into_split();
    let mut source = FramedRead::new(reader, codec());
    let mut sink = FramedWrite::new(writer, codec());
    bond.forget_orders();
    let ended = conversation(&mut source, &mut sink, &bond).await;
    bond.confirm(None);
    match ended {
        Ok(()) => tracing::info!("the runner has gone"),
        Err(Broken::State(error)) => return Err(error),
        Err(Broken::Io(error)) => tracing::info!(error = &error as &dyn std::error::Error, "the runner has gone"),
        Err(Broken::Violation(why)) => bond.violation(&why)?,
    }
    Ok(())
}

/// Why a connection was ended from here.
enum Broken {
    State(StateError),
    Io(io::Error),
    Violation(String),
}

impl From<StateError> for Broken {
    fn from(error: StateError) -> Self {
        Self::State(error)
    }
}

type Source = FramedRead<OwnedReadHalf, LengthDelimitedCodec>;
type Sink = FramedWrite<OwnedWriteHalf, LengthDelimitedCodec>;

async fn conversation(source: &mut Source, sink: &mut Sink, bond: &Bond) -> Result<(), Broken> {
    let mut changes = bond.changes();
    let mut pace = Pace::begin();
    let Some(mut runner) = greeted(source).await? else {
        return Ok(());
    };
    loop {
        changes.mark_unchanged();
        while let Some((step, held)) = bond
            .with_bound(|bound| Some((next(bound, &runner)?, bound.clone())))
            .flatten()
        {
            carry_out(step, held, &mut runner, (sink, bond)).await?;
        }
        while let Some(order) = bond.next_order() {
            send(sink, &order).await?;
        }
        tokio::select! {
            frame = paced(source, &mut pace) => {
                let Some(frame) = frame? else { return Ok(()) };
                pace.count();
                let taken = word::take(bond, &mut runner, frame)?;
                taken.map_err(|violation| Broken::Violation(violation.to_string()))?;
            }
            _ = changes.changed() => {}
        }
    }
}

/// The first frame. Whoever connects and says nothing doesn't keep the runner out.
async fn greeted(source: &mut Source) -> Result<Option<Runner>, Broken> {
    let violation = |why: String| Err(Broken::Violation(why));
    match timeout(GREETING, frame(source)).await {
        Err(_elapsed) => violation("a connection without a hello".to_owned()),
        Ok(Ok(Some(FromRunner::Hello {
            protocol: VERSION,
            ran_incarnation,
        }))) => {
            tracing::info!(ran_incarnation, "the runner is connected");
            Ok(Some(Runner {
                ran: ran_incarnation,
                ..Runner::default()
            }))
        }
        Ok(Ok(Some(FromRunner::Hello { protocol, .. }))) => {
            violation(format!("a hello of protocol {protocol}, where {VERSION} is served"))
        }
        Ok(Ok(Some(_))) => violation("a connection that doesn't begin with a hello".to_owned()),
        Ok(Ok(None)) => Ok(None),
        Ok(Err(broken)) => Err(broken),
    }
}

async fn paced(source: &mut Source, pace: &mut Pace) -> Result<Option<FromRunner>, Broken> {
    pace.wait().await;
    frame(source).await
}

async fn frame(source: &mut Source) -> Result<Option<FromRunner>, Broken> {
    let bytes = match source.next().await {
        None => return Ok(None),
        Some(Ok(bytes)) => bytes,
        Some(Err(error)) if error.kind() == io::ErrorKind::InvalidData => {
            return Err(Broken::Violation(format!(
                "a frame of more than {MAX_FRAME_BYTES} bytes"
            )));
        }
        Some(Err(error)) => return Err(Broken::Io(error)),
    };
    // The parser's own words would quote the agent's.
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|_error| Broken::Violation("a frame that isn't a message of the handoff".to_owned()))
}

async fn carry_out(
    step: Step,
    held: Bound,
    runner: &mut Runner,
    (sink, bond): (&mut Sink, &Bond),
) -> Result<(), Broken> {
    match step {
        Step::Assign => {
            runner.assigned = Some(held.version);
            send(sink, &ToRunner::Assignment(Box::new(held.assignment))).await
        }
        Step::Start => {
            // Kept before it is said: whatever happens in between, the harness isn't started twice.
            if bond.begin_start()? {
                runner.started = true;
                send(sink, &ToRunner::Start).await?;
            }
            Ok(())
        }
        Step::Stop => {
            runner.stopped = true;
            send(
                sink,
                &ToRunner::Stop {
                    grace_seconds: STOP_GRACE_SECONDS,
                },
            )
            .await
        }
        Step::ReportRestart => {
            tracing::warn!(
                incarnation = held.incarnation,
                "the agent container restarted; its harness isn't started again"
            );
            let error = "the agent container restarted".to_owned();
            Ok(bond.exited(HarnessExited {
                code: 255,
                summary: String::new(),
                error,
                stopped: true,
                branch: String::new(),
                pull_request: 0,
                last_lines: String::new(),
            })?)
        }
    }
}

async fn send(sink: &mut Sink, message: &ToRunner) -> Result<(), Broken> {
    let bytes = serde_json::to_vec(message).map_err(|error| Broken::Io(error.into()))?;
    let late = |_elapsed| Broken::Violation("a connection that isn't read".to_owned());
    timeout(PATIENCE, sink.send(Bytes::from(bytes)))
        .await
        .map_err(late)?
        .map_err(Broken::Io)
}

/// A peer's end arrives at once on a unix socket; this is for a busy machine.
const LINGER: Duration = Duration::from_millis(200);
/// The runner's first frame is written before it does anything else.
const GREETING: Duration = Duration::from_secs(5);
/// The runner reads at all times.
const PATIENCE: Duration = Duration::from_secs(10);
/// Half of the pod's grace: whoever suspends waits for it.
const STOP_GRACE_SECONDS: u32 = 5;
