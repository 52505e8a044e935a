//! The control stream's listener: TLS handshakes on the side, gRPC over what comes out of them.

use std::sync::Arc;
use std::time::Duration;

use berth_protocol::control::control_server::ControlServer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use super::server::ControlService;
use super::tls::Material;

use crate::telemetry::chain;

/// Serves until cancelled.
pub async fn serve(
    listener: TcpListener,
    material: watch::Receiver<Arc<Material>>,
    service: ControlService,
    cancel: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let (sender, receiver) = mpsc::channel(HANDSHAKES_MAX);
    let accepting = accept(listener, material, |material| &material.server, sender);
    let serving = Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .tcp_nodelay(true)
        .add_service(ControlServer::new(service).max_decoding_message_size(MESSAGE_MAX))
        .serve_with_incoming(ReceiverStream::new(receiver));
    tokio::select! {
        () = cancel.cancelled() => Ok(()),
        () = accepting => Ok(()),
        served = serving => served,
    }
}

/// With the certificate of the moment: a new one holds from the next connection on.
pub async fn accept(
    listener: TcpListener,
    material: watch::Receiver<Arc<Material>>,
    choose: fn(&Material) -> &Arc<ServerConfig>,
    sender: mpsc::Sender<std::io::Result<TlsStream<TcpStream>>>,
) {
    let permits = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    while let Ok(permit) = Arc::clone(&permits).acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(error = chain(&error), "control connection not accepted");
                tokio::time::sleep(ACCEPT_AGAIN).await; // out of file descriptors: let some close
                continue;
            }
        };
        let tls = TlsAcceptor::from(Arc::clone(choose(&material.borrow())));
        let sender = sender.clone();
        tokio::spawn(async move {
            let _permit = permit;
            // A handshake that fails is the client's affair; a health prober does it all the time.
            if let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
                drop(sender.send(Ok(stream)).await);
            }
        });
    }
}

/// Pods of a whole node that attach at once.
pub const HANDSHAKES_MAX: usize = 256;
const HANDSHAKE: Duration = Duration::from_secs(5);
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// DESIGN §2: keep-alive 5 s.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// A chunk of a checkpoint with room; a piece of output has 32 KiB. Never more from a pod.
const MESSAGE_MAX: usize = berth_protocol::checkpoint::PACKED_MAX + (4 << 10);
