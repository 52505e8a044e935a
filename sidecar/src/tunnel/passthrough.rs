//! A tunnel that isn't terminated, for programs that pin their server. Only its name is read, to hold it to the tunnel's
//! host; nothing can be exchanged in it.

use std::io::{self, Cursor};
use std::sync::Arc;
use std::time::Duration;

use berth_egress::authority::{Authority, Host};
use berth_outbound::dial::{DialError, Target};
use bytes::BytesMut;
use rustls::server::Acceptor;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::time::timeout;

use super::Tunnel;
use super::prefixed::Prefixed;
use crate::proxy::Proxy;

/// A tunnel that couldn't be passed on.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// What came first is no handshake, names no host, or another one.
    #[error("the handshake doesn't name {authority}")]
    OtherName {
        /// Of the tunnel.
        authority: Authority,
    },
    /// The upstream.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// Reading or writing.
    #[error("a passed tunnel broke")]
    Broke(#[from] io::Error),
}

/// Passes bytes until either side ends.
pub async fn run(proxy: &Arc<Proxy>, tunnel: &Tunnel, mut stream: Prefixed) -> Result<(), PassError> {
    let authority = &tunnel.authority;
    let other = || PassError::OtherName {
        authority: authority.clone(),
    };
    let mut read = BytesMut::with_capacity(4096);
    let named = timeout(HANDSHAKE, hello(&mut stream, &mut read)).await;
    let named = named.map_err(|_elapsed| other())??.ok_or_else(other)?;
    let by_address = matches!(authority.host, Host::Ipv4(_) | Host::Ipv6(_));
    match Host::parse(&named) {
        Ok(host) if host == authority.host => {}
        Err(_) if named.is_empty() && by_address => {}
        _ => return Err(other()),
    }
    let target = Target {
        tls: false,
        ..Target::clone(&tunnel.target)
    };
    let mut leg = proxy.upstream.dialer().dial(&target).await?.leg;
    leg.write_all(&read).await?;
    copy_bidirectional(&mut stream, &mut leg).await?;
    Ok(())
}

/// The name in the ClientHello, empty when there is none; `None` when it is no ClientHello.
async fn hello(stream: &mut Prefixed, read: &mut BytesMut) -> io::Result<Option<String>> {
    while read.len() < HELLO_MAX {
        if stream.read_buf(read).await? == 0 {
            return Ok(None);
        }
        let mut acceptor = Acceptor::default();
        acceptor.read_tls(&mut Cursor::new(&read[..]))?;
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                return Ok(Some(
                    accepted.client_hello().server_name().unwrap_or_default().to_owned(),
                ));
            }
            Ok(None) => {}
            Err(_) => return Ok(None),
        }
    }
    Ok(None)
}

/// Larger than any ClientHello that is sent in one record.
const HELLO_MAX: usize = 17 << 10;
/// A local client's handshake takes milliseconds.
const HANDSHAKE: Duration = Duration::from_secs(10);
