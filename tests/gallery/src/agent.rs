//! What an agent may do: any bytes on any socket that it reaches.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::sidecar::Sidecar;

/// A tunnel's inside.
pub type Tls = TlsStream<TcpStream>;

/// The body of a request or an answer that hyper sends.
pub type Body = UnsyncBoxBody<Bytes, anyhow::Error>;

/// A body that is all there.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// An answer, read whole.
#[derive(Clone, Debug)]
pub struct Response {
    /// Of the status line.
    pub status: u16,
    /// Status line and headers.
    pub head: String,
    /// Without chunk framing.
    pub body: Vec<u8>,
}

impl Response {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// TLS that trusts the session's authority.
pub fn tls(ca: &Path, protocols: &[&str]) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca)?)?;
    let mut config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    Ok(config)
}

/// Says `CONNECT`, and gives the status and what it is answered over.
pub async fn connect(proxy: SocketAddr, authority: &str) -> Result<(Response, TcpStream)> {
    let mut stream = TcpStream::connect(proxy).await?;
    stream.set_nodelay(true)?;
    let request = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let response = read_head(&mut stream).await?;
    Ok((response, stream))
}

/// A tunnel with TLS that names `sni`.
pub async fn tunnel(sidecar: &Sidecar, authority: &str, sni: &str, protocols: &[&str]) -> Result<Tls> {
    tunnel_through(sidecar.proxy, &sidecar.ca(), authority, sni, protocols).await
}

/// The same, through the proxy at an address, whose authority is in a file.
pub async fn tunnel_through(
    proxy: SocketAddr,
    ca: &Path,
    authority: &str,
    sni: &str,
    protocols: &[&str],
) -> Result<Tls> {
    let (response, stream) = connect(proxy, authority).await?;
    if response.status != 200 {
        bail!("CONNECT was answered with {}", response.status);
    }
    let connector = TlsConnector::from(Arc::new(tls(ca, protocols)?));
    Ok(connector.connect(ServerName::try_from(sni.to_owned())?, stream).await?)
}

/// Sends raw bytes through a tunnel of its own, and reads one answer.
pub async fn send(sidecar: &Sidecar, authority: &str, request: &str) -> Result<Response> {
    let host = authority.rsplit_once(':').context("no port")?.0;
    let mut stream = tunnel(sidecar, authority, host, &["http/1.1"]).await?;
    exchange(&mut stream, request.as_bytes()).await
}

/// Sends raw bytes and reads one answer.
pub async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, request: &[u8]) -> Result<Response> {
    stream.write_all(request).await?;
    read(stream).await
}

/// Speaks HTTP/2 through a tunnel of its own.
pub async fn http2(sidecar: &Sidecar, authority: &str) -> Result<http2::SendRequest<Body>> {
    let host = authority.rsplit_once(':').context("no port")?.0;
    let stream = tunnel(sidecar, authority, host, &["h2"]).await?;
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        let _ = connection.await; // the test sees it by its streams
    });
    Ok(sender)
}

/// Sends raw bytes, ends its side, and reads all answers until the other side ends too.
pub async fn converse<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, requests: &[u8]) -> Result<Vec<Response>> {
    // The proxy may have closed before everything is written: its answers count.
    let _ = stream.write_all(requests).await;
    let _ = stream.shutdown().await;
    let mut answers = Vec::new();
    while let Ok(answer) = read(stream).await {
        answers.push(answer);
    }
    Ok(answers)
}

/// Everything that comes until the other side ends, however it ends.
pub async fn rest<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    within(async {
        let _ = stream.read_to_end(&mut bytes).await;
        Ok(())
    })
    .await?;
    Ok(bytes)
}

/// Fails where something hangs.
pub async fn within<T>(doing: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(PATIENCE, doing).await.context("nothing happened in time")?
}

/// Reads one answer, whole; fails where nothing of it comes for a while.
pub async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Response> {
    let mut response = within(read_head(stream)).await?;
    let field = |name: &str| crate::origin::header(&response.head, name);
    if let Some(length) = field("content-length") {
        response.body = vec![0; length.parse()?];
        fill(stream, &mut response.body).await?;
    } else if field("transfer-encoding").is_some() {
        response.body = chunks(stream).await?;
    } else if response.status != 204 && response.status != 304 && response.status >= 200 {
        response.body = within(async {
            let mut body = Vec::new();
            stream.read_to_end(&mut body).await?;
            Ok(body)
        })
        .await?;
    }
    Ok(response)
}

/// Reads until the buffer is full, however long it takes, while something comes.
async fn fill<S: AsyncRead + Unpin>(stream: &mut S, mut buffer: &mut [u8]) -> Result<()> {
    while !buffer.is_empty() {
        let count = within(async { Ok(stream.read(buffer).await?) }).await?;
        ensure!(count > 0, "the connection ended");
        buffer = &mut buffer[count..];
    }
    Ok(())
}

/// A head, byte by byte so that nothing of what follows is lost.
pub async fn read_head<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Response> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.context("the connection ended")?);
    }
    let head = String::from_utf8(head)?;
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    Ok(Response {
        status,
        head,
        body: Vec::new(),
    })
}

/// The head of a request, as a server reads it.
pub async fn read_request<S: AsyncRead + Unpin>(stream: &mut S) -> Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8(head)?)
}

/// Reads a request's body without keeping it, and counts it.
pub async fn discard<S: AsyncRead + Unpin>(stream: &mut S, head: &str) -> Result<u64> {
    if let Some(length) = crate::origin::header(head, "content-length") {
        let mut body = stream.take(length.parse()?);
        return Ok(tokio::io::copy(&mut body, &mut tokio::io::sink()).await?);
    }
    if crate::origin::header(head, "transfer-encoding").is_none() {
        return Ok(0);
    }
    let mut count = 0;
    loop {
        let size = u64::from_str_radix(&line(stream).await?, 16)?;
        if size == 0 {
            return Ok(count);
        }
        count += tokio::io::copy(&mut (&mut *stream).take(size), &mut tokio::io::sink()).await?;
        line(stream).await?;
    }
}

/// The rest of a chunked body.
async fn chunks<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let size = usize::from_str_radix(&within(line(stream)).await?, 16)?;
        if size == 0 {
            while !within(line(stream)).await?.is_empty() {}
            return Ok(body);
        }
        let begin = body.len();
        body.resize(begin + size, 0);
        fill(stream, &mut body[begin..]).await?;
        within(line(stream)).await?;
    }
}

async fn line<S: AsyncRead + Unpin>(stream: &mut S) -> Result<String> {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        line.push(stream.read_u8().await.context("the connection ended")?);
    }
    line.truncate(line.len() - 2);
    Ok(String::from_utf8(line)?)
}

/// More than any answer in these tests takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
