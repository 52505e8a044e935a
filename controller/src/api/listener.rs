//! Connections whose TLS handshake is done, as axum takes them.

use std::net::SocketAddr;

use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::server::TlsStream;

/// Connections from [`crate::control::listen::accept`].
pub struct Accepted {
    /// As they come.
    pub connections: mpsc::Receiver<std::io::Result<TlsStream<TcpStream>>>,
    /// Where this listens.
    pub address: SocketAddr,
}

impl axum::serve::Listener for Accepted {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            match self.connections.recv().await {
                Some(Ok(stream)) => return (stream, self.address),
                Some(Err(_)) => {}
                None => std::future::pending().await, // the process ends
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        Ok(self.address)
    }
}
