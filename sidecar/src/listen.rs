//! AGENT → SIDECAR. The two listeners on loopback: they accept, bound, and hand each connection to its
//! [`crate::tunnel`].

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::sleep;

use crate::proxy::Proxy;
use crate::tunnel::{connect, transparent};

/// Port of the proxy: `HTTPS_PROXY` of the agent.
pub const PROXY_PORT: u16 = berth_protocol::environment::PROXY_PORT;
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
pub async fn serve(listener: TcpListener, entrance: Entrance, proxy: Arc<Proxy>) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    while let Ok(permit) = Arc::clone(&permits).acquire_owned().await {
        let stream = accept(&listener).await;
        let proxy = Arc::clone(&proxy);
        tokio::spawn(async move {
            match entrance {
                Entrance::Proxy => connect::serve(proxy, stream).await,
                Entrance::Transparent => transparent::serve(proxy, stream).await,
            }
            drop(permit);
        });
    }
}

async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        let accepted = listener.accept().await.and_then(|(stream, _)| {
            stream.set_nodelay(true)?;
            Ok(stream)
        });
        match accepted {
            Ok(stream) => return stream,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "a connection wasn't accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Only the agent can use them up, and only against itself. A tunnel's permit is counted apart.
const CONNECTIONS_MAX: usize = 1024;
/// Out of descriptors, most likely: give connections time to end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
