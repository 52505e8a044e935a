//! AGENT → (nothing yet). The two listeners on loopback: they accept, bound, and hand a connection to [`deny`], where
//! the tunnel will begin. No byte of the agent leaves the pod from here.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use self::denials::Denials;

pub mod deny;

pub mod head;

pub mod denials;

/// Port of the proxy: `HTTPS_PROXY` of the agent.
pub const PROXY_PORT: u16 = 14322;
/// Port that the fence redirects the agent's other connections to.
pub const TRANSPARENT_PORT: u16 = 14323;

/// Which of the two listeners.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Entrance {
    /// The agent speaks to a proxy.
    Proxy,
    /// The agent believes that it speaks to somebody else.
    Transparent,
}

/// A listener that can't be made.
#[derive(Debug, thiserror::Error)]
#[error("failed to listen on {address}")]
pub struct ListenError {
    address: SocketAddr,
    source: io::Error,
}

/// Binds a listener.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| ListenError { address, source })
}

/// Answers connections, at most [`CONNECTIONS_MAX`] at a time; further ones wait to be accepted.
pub async fn serve(listener: TcpListener, entrance: Entrance, denials: Arc<Denials>) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    while let Ok(permit) = Arc::clone(&permits).acquire_owned().await {
        let stream = accept(&listener).await;
        let denials = Arc::clone(&denials);
        tokio::spawn(async move {
            answer(stream, entrance).await;
            denials.count();
            drop(permit);
        });
    }
}

async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "a connection wasn't accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn answer(mut stream: TcpStream, entrance: Entrance) {
    match timeout(CONNECTION_TIME, deny::answer(&mut stream, entrance)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(error = &error as &dyn std::error::Error, "a denied connection broke"),
        Err(_elapsed) => tracing::debug!("a denied connection took too long"),
    }
}

/// 256 × a head of 16 KiB are 4 MiB per listener. Only the agent can use them up, and only against itself.
const CONNECTIONS_MAX: usize = 256;
/// A head (10 s) and an answer; a tunnel will have limits of its own.
const CONNECTION_TIME: Duration = Duration::from_secs(15);
/// Out of descriptors, most likely: give connections time to end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
