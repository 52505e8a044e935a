//! Wiring of `berth-sidecar run`: state, listeners, handoff, stream, and the way out.

use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::cli::Options;
use crate::control::bond::Bond;
use crate::control::key::{KeyError, StreamKey};
use crate::control::ready::Ready;
use crate::control::state::StateError;
use crate::control::stream::Client;
use crate::control::token;
use crate::handoff::socket::{self, SocketError};
use crate::listen::denials::Denials;
use crate::listen::{self, Entrance, ListenError};

/// The sidecar can't do its work; its container is restarted.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The runtime or its signals.
    #[error("failed to start")]
    Start(#[source] std::io::Error),
    /// What the pod holds.
    #[error(transparent)]
    State(#[from] StateError),
    /// The stream key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A listener for the agent.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The runner's socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// A part ended that never does.
    #[error("a part of the sidecar ended")]
    Ended,
}

/// Runs until SIGTERM.
pub fn start(options: Options) -> Result<(), RunError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build();
    let runtime = runtime.map_err(RunError::Start)?;
    let ended = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Start)?;
        let stop = async move {
            terminate.recv().await;
        };
        run(options, stop).await
    });
    runtime.shutdown_background();
    ended
}

/// Runs until `stop`, then tells what is left to be told, at most for [`DRAIN`].
pub async fn run(options: Options, stop: impl Future<Output = ()>) -> Result<(), RunError> {
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default()); // set before: the same one
    let ready = Ready::begin(&options.state);
    let key = StreamKey::open(&options.state)?;
    let bond = Arc::new(Bond::open(&options.state)?);
    let mut parts = serve(&options, &bond).await?;
    let (sender, token) = watch::channel(String::new());
    parts.spawn(async move {
        token::follow(options.token_file, sender).await;
        Err(RunError::Ended)
    });
    let client = Client {
        url: options.control_url,
        ca: options.control_ca,
        token,
        key,
        bond: Arc::clone(&bond),
        ready,
    };
    parts.spawn(async move {
        Err(client
            .keep_up()
            .await
            .map_or_else(RunError::State, |()| RunError::Ended))
    });
    tokio::select! {
        Some(ended) = parts.join_next() => return ended.unwrap_or(Err(RunError::Ended)),
        () = stop => {}
    }
    if timeout(DRAIN, drained(&bond)).await.is_err() {
        tracing::warn!("ending with events that the controller doesn't hold yet");
    }
    Ok(())
}

/// Everything that faces the agent; it serves before the pod is ready.
async fn serve(options: &Options, bond: &Arc<Bond>) -> Result<JoinSet<Result<(), RunError>>, RunError> {
    let mut parts = JoinSet::new();
    let denials = Arc::new(Denials::default());
    for (address, entrance) in [
        (options.proxy_address, Entrance::Proxy),
        (options.transparent_address, Entrance::Transparent),
    ] {
        let listener = listen::bind(address).await?;
        let denials = Arc::clone(&denials);
        parts.spawn(async move {
            listen::serve(listener, entrance, denials).await;
            Err(RunError::Ended)
        });
    }
    let (socket, held) = (socket::listen(&options.handoff)?, Arc::clone(bond));
    parts.spawn(async move { Ok(socket::serve(socket, held).await?) });
    let told = Arc::clone(bond);
    parts.spawn(async move { Ok(denials.tell(&told).await?) });
    Ok(parts)
}

async fn drained(bond: &Bond) {
    let mut changes = bond.changes();
    while !bond.is_drained() {
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// The requested CPU is a fraction of one; two threads keep a slow file from holding up the probe's neighbours.
const WORKERS: usize = 2;
/// The pod's grace is 10 s, the agent takes up to 8 of it and ends first; the kubelet grants sidecars at least 2 s.
const DRAIN: Duration = Duration::from_secs(4);
