//! A client's connection to the origin: direct, or through a proxy's tunnel. It is driven by the task that uses it, so
//! that a client costs as few wakings as may be, the same for all.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Result, bail};
use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::authority;
use super::config::STUB;

/// What is sent.
pub(crate) type Body = UnsyncBoxBody<Bytes, std::convert::Infallible>;

type Driver = http1::Connection<TokioIo<TlsStream<TcpStream>>, Body>;

/// How the origin is reached.
#[derive(Clone)]
pub(crate) struct Way {
    pub(crate) origin: SocketAddr,
    /// `None`: direct.
    pub(crate) proxy: Option<SocketAddr>,
    pub(crate) tls: Arc<ClientConfig>,
}

/// An open connection.
pub(crate) struct Link {
    sender: http1::SendRequest<Body>,
    /// Until it ends.
    driver: Option<Driver>,
    host: HeaderValue,
}

impl Way {
    fn authority(&self) -> String {
        format!("{}:{}", authority::HOST, self.origin.port())
    }

    /// TCP, `CONNECT` and TLS.
    pub(crate) async fn open(&self) -> Result<Link> {
        let mut stream = TcpStream::connect(self.proxy.unwrap_or(self.origin)).await?;
        stream.set_nodelay(true)?;
        if self.proxy.is_some() {
            connect(&mut stream, &self.authority()).await?;
        }
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        let stream = connector
            .connect(ServerName::try_from(authority::HOST)?, stream)
            .await?;
        let (sender, driver) = http1::Builder::new().handshake(TokioIo::new(stream)).await?;
        Ok(Link {
            sender,
            driver: Some(driver),
            host: HeaderValue::try_from(self.authority())?,
        })
    }
}

async fn connect(stream: &mut TcpStream, authority: &str) -> Result<()> {
    let request = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::with_capacity(256);
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut head).await? == 0 {
            bail!("the proxy closed the connection");
        }
    }
    if !head.starts_with(b"HTTP/1.1 200") {
        bail!("CONNECT was answered with {}", String::from_utf8_lossy(&head));
    }
    Ok(())
}

impl Link {
    /// Sends a request with a stub, and waits for the head of its answer, which is a 200.
    pub(crate) async fn send(&mut self, mut request: Request<Body>) -> Result<Response<Incoming>> {
        request.headers_mut().insert(HOST, self.host.clone());
        let stub = format!("Bearer {STUB}");
        request
            .headers_mut()
            .insert(AUTHORIZATION, HeaderValue::try_from(stub)?);
        drive(&mut self.driver, self.sender.ready()).await?;
        let response = drive(&mut self.driver, self.sender.send_request(request)).await?;
        if response.status() != StatusCode::OK {
            let body = drive(&mut self.driver, response.into_body().collect())
                .await?
                .to_bytes();
            bail!("answered with {}", String::from_utf8_lossy(&body));
        }
        Ok(response)
    }

    /// The next piece of a body.
    pub(crate) async fn piece(&mut self, body: &mut Incoming) -> Result<Option<Bytes>> {
        let frame = drive(&mut self.driver, body.frame()).await.transpose()?;
        Ok(frame.map(|frame| frame.into_data().unwrap_or_default()))
    }

    /// Sends a request and reads its answer whole; gives the count of its bytes.
    pub(crate) async fn exchange(&mut self, request: Request<Body>) -> Result<u64> {
        let mut body = self.send(request).await?.into_body();
        let mut count = 0;
        while let Some(piece) = self.piece(&mut body).await? {
            count += piece.len() as u64;
        }
        Ok(count)
    }

    /// The same for a `GET`.
    pub(crate) async fn get(&mut self, path: &'static str) -> Result<u64> {
        self.exchange(get(path)).await
    }
}

/// Drives a connection while waiting for something of it.
async fn drive<T>(driver: &mut Option<Driver>, waited: impl Future<Output = T>) -> T {
    tokio::pin!(waited);
    if let Some(running) = driver {
        tokio::select! {
            biased;
            output = &mut waited => return output,
            _ = running => *driver = None,
        }
    }
    waited.await
}

/// A `GET` without a body.
pub(crate) fn get(path: &'static str) -> Request<Body> {
    let mut request = Request::new(Empty::new().boxed_unsync());
    *request.uri_mut() = http::Uri::from_static(path);
    request
}
