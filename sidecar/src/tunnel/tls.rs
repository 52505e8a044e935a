//! Ends the agent's TLS. The certificate is for the tunnel's host, whatever name the agent sends; another name ends the
//! connection. The protocol is the one that the upstream speaks, so that nothing has to be translated.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use berth_egress::authority::{Authority, Host};
use berth_egress::policy::Tls;
use rustls::server::Acceptor;
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::Tunnel;
use super::idle::IDLE_MAX;
use super::leaf::{Alpn, LeafError};
use super::passthrough::{self, PassError};
use super::prefixed::Prefixed;
use crate::proxy::Proxy;

/// A tunnel that ended early.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// Nothing came, or not in time.
    #[error("the agent sent no TLS handshake")]
    Silent,
    /// Something else came.
    #[error("the agent sent something that isn't TLS into a tunnel to {authority}")]
    NotTls {
        /// Of the tunnel.
        authority: Authority,
    },
    /// The name in the handshake is another one.
    #[error("the handshake names another host than the tunnel to {authority}")]
    OtherName {
        /// Of the tunnel.
        authority: Authority,
    },
    /// No rule covers it any more.
    #[error("no rule covers {authority}")]
    NotCovered {
        /// Of the tunnel.
        authority: Authority,
    },
    /// Nothing moves in it.
    #[error("nothing has gone through it for {} minutes", IDLE_MAX.as_secs() / 60)]
    Idle,
    /// The handshake failed.
    #[error("the handshake with the agent failed")]
    Handshake(#[source] io::Error),
    /// There is no certificate to answer with.
    #[error(transparent)]
    Leaf(#[from] LeafError),
    /// A tunnel that isn't terminated.
    #[error(transparent)]
    Pass(#[from] PassError),
}

/// Serves a tunnel until it ends.
pub async fn run(proxy: &Arc<Proxy>, tunnel: Tunnel, stream: Prefixed) -> Result<(), TunnelError> {
    let activity = stream.activity();
    activity
        .guard(serve(proxy, tunnel, stream))
        .await
        .ok_or(TunnelError::Idle)?
}

async fn serve(proxy: &Arc<Proxy>, tunnel: Tunnel, stream: Prefixed) -> Result<(), TunnelError> {
    // Boxed: what a handshake needs is gone when it is over.
    let Some((tunnel, alpn, stream)) = Box::pin(shake(proxy, tunnel, stream)).await? else {
        return Ok(());
    };
    match alpn {
        Alpn::Http1 => super::serve::http1(Arc::clone(proxy), tunnel, stream).await,
        Alpn::Http2 => super::serve::http2(Arc::clone(proxy), tunnel, stream).await,
    }
    Ok(())
}

/// A tunnel whose TLS with the agent stands.
type Terminated = (Tunnel, Alpn, TlsStream<Prefixed>);

/// The agent's handshake; `None` when the tunnel was passed through and is over.
async fn shake(proxy: &Arc<Proxy>, tunnel: Tunnel, stream: Prefixed) -> Result<Option<Terminated>, TunnelError> {
    let authority = &tunnel.authority;
    match timeout(HANDSHAKE, stream.first()).await {
        Ok(Ok(Some(HANDSHAKE_RECORD))) => {}
        Ok(Ok(Some(_))) => {
            return Err(TunnelError::NotTls {
                authority: authority.clone(),
            });
        }
        Ok(Ok(None) | Err(_)) | Err(_) => return Err(TunnelError::Silent),
    }
    let snapshot = proxy.vault.snapshot();
    let reach = snapshot.rules.connect(authority).ok_or(TunnelError::NotCovered {
        authority: authority.clone(),
    })?;
    drop(snapshot);
    if reach.tls == Tls::Passthrough {
        passthrough::run(proxy, &tunnel, stream).await?;
        return Ok(None);
    }
    let hello = timeout(HANDSHAKE, LazyConfigAcceptor::new(Acceptor::default(), stream));
    let hello = hello.await.map_err(|_elapsed| TunnelError::Silent)?;
    let hello = hello.map_err(TunnelError::Handshake)?;
    let offer = Offer::read(&hello.client_hello(), &authority.host).ok_or(TunnelError::OtherName {
        authority: authority.clone(),
    })?;
    let alpn = match offer {
        Offer::Http1 => Alpn::Http1,
        Offer::Http2 => Alpn::Http2,
        Offer::Both => {
            // A host that can't be reached is told of in an answer, which programs show; a broken handshake they don't.
            proxy.upstream.speaks(&tunnel.target).await.unwrap_or(Alpn::Http1)
        }
    };
    let config = proxy.leaves.config(&authority.host, alpn)?;
    let tunnel = tunnel.speaking(alpn);
    let stream = timeout(HANDSHAKE, hello.into_stream(config));
    let stream = stream.await.map_err(|_elapsed| TunnelError::Silent)?;
    let stream = stream.map_err(TunnelError::Handshake)?;
    Ok(Some((tunnel, alpn, stream)))
}

/// What the agent may speak.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Offer {
    Http1,
    Http2,
    Both,
}

impl Offer {
    /// `None` when the handshake names another host.
    fn read(hello: &rustls::server::ClientHello<'_>, host: &Host) -> Option<Self> {
        if let Some(name) = hello.server_name()
            && Host::parse(name).ok().as_ref() != Some(host)
        {
            return None;
        }
        let mut offers = (false, false);
        for protocol in hello.alpn().into_iter().flatten() {
            offers.0 |= protocol == Alpn::Http1.wire();
            offers.1 |= protocol == Alpn::Http2.wire();
        }
        Some(match offers {
            (true, true) => Self::Both,
            (false, true) => Self::Http2,
            (_, false) => Self::Http1,
        })
    }
}

/// A local client's handshake takes milliseconds.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// First byte of a TLS record that holds a ClientHello.
const HANDSHAKE_RECORD: u8 = 0x16;
