//! IO: a connection → a refusal that its program understands. The place where decisions will be made; until there are
//! grants, every one of them is no.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Entrance;
use super::head::{self, Head};

/// Reads what the agent begins with, and refuses it.
pub async fn answer(stream: &mut TcpStream, entrance: Entrance) -> io::Result<()> {
    let refusal = match timeout(HEAD_TIME, read_beginning(stream, entrance)).await {
        Ok(beginning) => beginning?.refusal(),
        Err(_elapsed) => Beginning::Slow.refusal(),
    };
    if let Some(refusal) = refusal {
        stream.write_all(&refusal).await?;
    }
    stream.shutdown().await?;
    drop(timeout(LINGER, discard(stream)).await);
    Ok(())
}

#[derive(Debug, Eq, PartialEq)]
enum Beginning {
    Request { host: String },
    Tls,
    TooLong,
    Nonsense(Entrance),
    Slow,
    Nothing,
}

async fn read_beginning(stream: &mut TcpStream, entrance: Entrance) -> io::Result<Beginning> {
    let mut bytes = Vec::with_capacity(1024);
    loop {
        let room = HEAD_MAX - bytes.len();
        if room == 0 {
            return Ok(Beginning::TooLong);
        }
        let read = (&mut *stream).take(room as u64).read_buf(&mut bytes).await?;
        if read == 0 {
            return Ok(Beginning::Nothing);
        }
        match head::parse(&bytes) {
            Head::Incomplete => {}
            Head::Complete { host } => return Ok(Beginning::Request { host }),
            Head::Nonsense if bytes.first() == Some(&TLS_HANDSHAKE) => return Ok(Beginning::Tls),
            Head::Nonsense => return Ok(Beginning::Nonsense(entrance)),
        }
    }
}

impl Beginning {
    /// The bytes to answer with.
    fn refusal(&self) -> Option<Vec<u8>> {
        let (status, error, reason, host) = match self {
            Self::Request { host } => (
                "403 Forbidden",
                "denied",
                "no grant allows this session to reach the host",
                Some(host.as_str()),
            ),
            Self::TooLong => (
                "431 Request Header Fields Too Large",
                "refused",
                "the request's head is longer than 16 KiB",
                None,
            ),
            Self::Slow => (
                "408 Request Timeout",
                "refused",
                "the request's head didn't arrive within 10 s",
                None,
            ),
            Self::Nonsense(Entrance::Proxy) => ("400 Bad Request", "refused", "the proxy speaks HTTP/1.1", None),
            Self::Tls => return Some(ACCESS_DENIED.to_vec()),
            Self::Nonsense(Entrance::Transparent) | Self::Nothing => return None,
        };
        Some(response(
            status,
            &serde_json::json!({ "error": error, "reason": reason, "host": host }).to_string(),
        ))
    }
}

fn response(status: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n");
    format!("{head}Connection: close\r\n\r\n{body}").into_bytes()
}

/// What still arrives is read, so that the answer isn't lost to a reset.
async fn discard(stream: &mut TcpStream) -> io::Result<u64> {
    tokio::io::copy(&mut stream.take(DISCARD_MAX), &mut tokio::io::sink()).await
}

/// Larger than any head of a proxied request that a client sends by itself.
const HEAD_MAX: usize = 16 << 10;
/// A local client sends its head at once.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// For a client to see the end of its connection …
const LINGER: Duration = Duration::from_secs(1);
/// … unless it keeps sending.
const DISCARD_MAX: u64 = 256 << 10;
/// First byte of a TLS record that holds a ClientHello.
const TLS_HANDSHAKE: u8 = 0x16;
/// A fatal TLS alert, access_denied.
const ACCESS_DENIED: [u8; 7] = [0x15, 0x03, 0x01, 0x00, 0x02, 0x02, 0x31];
