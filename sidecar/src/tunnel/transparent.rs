//! The port that the fence redirects to. The name in the handshake or the `Host` header says where a connection goes;
//! the address that the agent dialled is never used (research/vault-proxy.md §5.6).

use std::io;
use std::sync::Arc;
use std::time::Duration;

use berth_egress::authority::Authority;
use bytes::{Bytes, BytesMut};
use rustls::server::Acceptor;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::prefixed::Prefixed;
use super::{Tunnel, serve, tls};
use crate::proxy::Proxy;

/// Answers one connection until it ends.
pub async fn serve(proxy: Arc<Proxy>, mut stream: TcpStream) {
    let mut read = BytesMut::with_capacity(2048);
    let Ok(Ok(Some(named))) = timeout(BEGIN, beginning(&mut stream, &mut read)).await else {
        return tracing::debug!("a redirected connection names no host");
    };
    let (Ok(authority), is_tls) = (
        Authority::from_host_header(&named.host, named.port),
        named.port == HTTPS,
    ) else {
        return tracing::debug!("a redirected connection names no good host");
    };
    let stream = Prefixed::new(Bytes::from(read), stream);
    let reach = proxy.vault.snapshot().rules.connect(&authority);
    let addresses = reach.map_or_else(Vec::new, |reach| reach.addresses);
    let tunnel = Tunnel::new(authority, is_tls, addresses);
    if !is_tls {
        return serve::http1(proxy, tunnel, stream).await;
    }
    let Ok(permit) = Arc::clone(&proxy.tunnels).try_acquire_owned() else {
        return tracing::warn!("a tunnel was closed: as many as may be are open");
    };
    if let Err(error) = tls::run(&proxy, tunnel, stream).await {
        tracing::debug!(error = &error as &dyn std::error::Error, "a tunnel ended");
    }
    drop(permit);
}

struct Named {
    host: String,
    port: u16,
}

/// Reads until the connection has said where it wants to go. Everything read is kept to be read again.
async fn beginning(stream: &mut TcpStream, read: &mut BytesMut) -> io::Result<Option<Named>> {
    while read.len() < BEGINNING_MAX {
        if stream.read_buf(read).await? == 0 {
            return Ok(None);
        }
        match said(read)? {
            Said::NotYet => {}
            Said::Nothing => return Ok(None),
            Said::Host(host, port) => return Ok(Some(Named { host, port })),
        }
    }
    Ok(None)
}

/// What the beginning of a connection says about where it wants to go.
#[derive(Debug, Eq, PartialEq)]
pub enum Said {
    /// More has to be read.
    NotYet,
    /// No host.
    Nothing,
    /// A host, as it stands there, and the port of the protocol.
    Host(String, u16),
}

/// Looks into the beginning of a connection: a ClientHello, or the head of a plain request. An error is TLS that can't
/// be read.
pub fn said(read: &[u8]) -> io::Result<Said> {
    if read.first() == Some(&HANDSHAKE_RECORD) {
        server_name(read)
    } else {
        Ok(host_header(read))
    }
}

fn server_name(read: &[u8]) -> io::Result<Said> {
    let mut acceptor = Acceptor::default();
    acceptor.read_tls(&mut io::Cursor::new(read))?;
    Ok(match acceptor.accept() {
        Ok(None) => Said::NotYet,
        Err(_) => Said::Nothing,
        Ok(Some(accepted)) => match accepted.client_hello().server_name() {
            Some(name) => Said::Host(name.to_owned(), HTTPS),
            None => Said::Nothing,
        },
    })
}

/// The only thing read of a plain head; hyper reads the rest, and the exchange compares.
fn host_header(read: &[u8]) -> Said {
    let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Said::NotYet;
    };
    let head = read.get(..end).and_then(|head| std::str::from_utf8(head).ok());
    let host = head.and_then(|head| {
        head.split("\r\n").skip(1).find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("host").then(|| value.trim().to_owned())
        })
    });
    host.map_or(Said::Nothing, |host| Said::Host(host, HTTP))
}

const HTTP: u16 = 80;
const HTTPS: u16 = 443;
/// First byte of a TLS record that holds a ClientHello.
const HANDSHAKE_RECORD: u8 = 0x16;
/// A local client begins at once.
const BEGIN: Duration = Duration::from_secs(10);
/// A ClientHello, or the head of a plain request up to its `Host`.
const BEGINNING_MAX: usize = 17 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_header_is_found_or_waited_for() {
        let host = |name: &str| Said::Host(name.to_owned(), HTTP);
        let cases = [
            ("GET / HTTP/1.1\r\nHost: a.example.com\r\n\r\n", host("a.example.com")),
            (
                "GET / HTTP/1.1\r\nX: y\r\nhOST:a.example.com:80 \r\n\r\nrest",
                host("a.example.com:80"),
            ),
            ("GET / HTTP/1.1\r\nHost: a", Said::NotYet),
            ("GET / HTTP/1.1\r\n\r\n", Said::Nothing),
            ("GET Host: x HTTP/1.1\r\nHosts: y\r\n\r\n", Said::Nothing),
        ];
        for (text, expected) in cases {
            assert_eq!(host_header(text.as_bytes()), expected, "{text:?}");
        }
    }
}
