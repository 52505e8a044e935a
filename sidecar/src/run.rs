//! Wiring of `berth-sidecar run`: state, listeners, handoff, stream, and the way out.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use berth_egress::address::Vetting;
use berth_outbound::dial::Dialer;
use berth_outbound::resolve::Resolver;
use berth_outbound::tls::{RootsError, UpstreamTls};
use hickory_resolver::net::NetError;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::audit::Audit;
use crate::audit::sink::Sink;
use crate::cli::{Options, Place};
use crate::control::bond::Bond;
use crate::control::key::{KeyError, StreamKey};
use crate::control::ready::Ready;
use crate::control::state::StateError;
use crate::control::stream::Client;
use crate::control::token;
use crate::control::vault_link::VaultLink;
use crate::git::Pushes;
use crate::handoff::socket::{self, SocketError};
use crate::handoff::trust;
use crate::harden::harden;
use crate::listen::{self, Entrance, ListenError};
use crate::meter::Meter;
use crate::proxy::Proxy;
use crate::tunnel::ca::{Ca, CaError};
use crate::tunnel::leaf::{LeafError, Leaves};
use crate::upstream::Upstream;
use crate::vault::Vault;

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
    /// The session's certificate authority.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// The agent's certificates.
    #[error(transparent)]
    Leaf(#[from] LeafError),
    /// What upstreams are verified with.
    #[error(transparent)]
    Roots(#[from] RootsError),
    /// The machine's name servers.
    #[error("failed to read the name servers of this machine")]
    Dns(#[source] Box<NetError>),
    /// Where uses are written down.
    #[error("failed to open the audit trail")]
    Audit(#[source] std::io::Error),
    /// What the agent reads.
    #[error("failed to write the agent's files")]
    Handoff(#[source] std::io::Error),
    /// A part ended that never does.
    #[error("a part of the sidecar ended")]
    Ended,
}

/// Runs until SIGTERM.
pub fn start(options: Options) -> Result<(), RunError> {
    harden().map_err(RunError::Start)?;
    let runtime = runtime()?;
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

/// Of a sidecar.
pub fn runtime() -> Result<tokio::runtime::Runtime, RunError> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .map_err(RunError::Start)
}

/// Runs until `stop`, then tells what is left to be told, at most for [`DRAIN`].
pub async fn run(options: Options, stop: impl Future<Output = ()>) -> Result<(), RunError> {
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default()); // set before: the same one
    let ready = Ready::begin(&options.place.state);
    let key = StreamKey::open(&options.place.state)?;
    let bond = Arc::new(Bond::open(&options.place.state)?);
    let audit = Arc::new(Audit::new(Sink::spool(&options.place.state).map_err(RunError::Audit)?));
    let meter = Meter::kept(&options.place.state);
    let proxy = Arc::new(build(&options.place, audit)?.with_meter(meter));
    let mut parts = serve(&options.place, &proxy).await?.parts;
    let (socket, held) = (socket::listen(&options.place.handoff)?, Arc::clone(&bond));
    parts.spawn(async move { Ok(socket::serve(socket, held).await?) });
    let (told, audit) = (Arc::clone(&bond), Arc::clone(&proxy.audit));
    parts.spawn(async move { Ok(audit.counted.tell(&told).await?) });
    let (sender, token) = watch::channel(String::new());
    parts.spawn(async move {
        token::follow(options.control.token_file, sender).await;
        Err(RunError::Ended)
    });
    let client = Client {
        url: options.control.control_url,
        ca: options.control.control_ca,
        token,
        key,
        bond: Arc::clone(&bond),
        ready,
        vault: VaultLink::new(Arc::clone(&proxy)),
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

/// The proxy, with nothing allowed yet.
pub fn build(place: &Place, audit: Arc<Audit>) -> Result<Proxy, RunError> {
    let leaves = Leaves::new(Ca::open(&place.state)?)?;
    trust::write(&place.handoff, leaves.ca_pem()).map_err(RunError::Handoff)?;
    let vetting = Vetting {
        cluster: place.cluster_cidr.clone(),
        own: Vec::new(),
    };
    let fixed = place.resolve.iter().map(|fixed| (fixed.host.clone(), fixed.address));
    let resolver = Resolver::asking(&place.name_server, fixed.collect(), vetting)
        .map_err(|error| RunError::Dns(Box::new(error)))?;
    let tls = UpstreamTls::new(&place.upstream_ca)?;
    let upstream = Upstream::new(Dialer::new(resolver, tls));
    let pushes = Pushes::new(place.spool.clone().unwrap_or_else(|| place.state.clone()));
    Ok(Proxy::new(Arc::new(Vault::closed()), leaves, upstream, audit, pushes))
}

/// Parts that run for as long as this lives.
pub struct Serving {
    /// None of them ends by itself.
    pub parts: JoinSet<Result<(), RunError>>,
    /// Where the proxy listens.
    pub proxy_address: SocketAddr,
    /// Where redirected connections arrive.
    pub transparent_address: SocketAddr,
}

/// Everything that faces the agent; it serves before the pod is ready.
pub async fn serve(place: &Place, proxy: &Arc<Proxy>) -> Result<Serving, RunError> {
    let mut parts = JoinSet::new();
    let mut bound = Vec::new();
    for (address, entrance) in [
        (place.proxy_address, Entrance::Proxy),
        (place.transparent_address, Entrance::Transparent),
    ] {
        let listener = listen::bind(address).await?;
        bound.push(listener.local_addr().unwrap_or(address));
        let proxy = Arc::clone(proxy);
        parts.spawn(async move {
            listen::serve(listener, entrance, proxy).await;
            Err(RunError::Ended)
        });
    }
    let kept = Arc::clone(proxy);
    parts.spawn(async move {
        tokio::join!(
            kept.vault.keep_time(),
            kept.upstream.pool().keep_tidy(),
            kept.audit.tell_denials(),
            kept.audit.keep_flushed()
        );
        Err(RunError::Ended)
    });
    let [proxy_address, transparent_address] = bound[..] else {
        return Err(RunError::Ended);
    };
    Ok(Serving {
        parts,
        proxy_address,
        transparent_address,
    })
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
