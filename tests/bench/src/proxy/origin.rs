//! The origin: HTTP/1.1 over TLS on loopback, in a process of its own.
//!
//! `/hello` 1 KiB, `/upload` counts, `/download` 200 MiB of noise, `/log` 200 MiB of text, `/sse` an event a second,
//! `/auth` echoes `Authorization`.

use std::convert::Infallible;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::authority;

/// Of a large body.
pub(crate) const LARGE: u64 = 200 << 20;
/// Its pieces.
pub(crate) const PIECE: usize = 64 << 10;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Serves with the certificates in this directory until standard input ends; its address is the one line of output.
pub(crate) async fn serve(directory: &Path) -> Result<()> {
    let acceptor = TlsAcceptor::from(authority::server(directory)?);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    let parent = std::thread::spawn(|| std::io::stdin().read_to_end(&mut Vec::new()));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(converse(acceptor.clone(), stream));
        }
    });
    let waited = tokio::task::spawn_blocking(|| parent.join());
    waited.await?.ok().context("the wait for the end broke")??;
    Ok(())
}

/// The other side may break off at any time.
async fn converse(acceptor: TlsAcceptor, stream: TcpStream) {
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let Ok(stream) = acceptor.accept(stream).await else {
        return;
    };
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service_fn(answer))
        .await;
}

async fn answer(request: Request<Incoming>) -> Result<Response<Body>, hyper::Error> {
    Ok(match request.uri().path() {
        "/hello" => Response::new(full(HELLO)),
        "/auth" => {
            let echo = request
                .headers()
                .get(AUTHORIZATION)
                .map(HeaderValue::as_bytes)
                .unwrap_or_default();
            Response::new(full(Bytes::copy_from_slice(echo)))
        }
        "/upload" => {
            let mut count = 0;
            let mut body = request.into_body();
            while let Some(frame) = body.frame().await {
                count += frame?.data_ref().map_or(0, Bytes::len);
            }
            Response::new(full(count.to_string()))
        }
        "/download" => large("application/octet-stream", noise()),
        "/log" => large("text/plain", text()),
        "/sse" => events(),
        _ => {
            let mut response = Response::new(full(""));
            *response.status_mut() = StatusCode::NOT_FOUND;
            response
        }
    })
}

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed_unsync()
}

fn large(media: &'static str, piece: Bytes) -> Response<Body> {
    let pieces = stream::iter(0..LARGE / PIECE as u64).map(move |_| Ok(Frame::data(piece.clone())));
    let mut response = Response::new(StreamBody::new(pieces).boxed_unsync());
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(media));
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(LARGE));
    response
}

fn events() -> Response<Body> {
    let ticks = stream::unfold((), |()| async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Some((EVENT, ()))
    });
    let events = stream::iter([EVENT])
        .chain(ticks)
        .map(|event| Ok(Frame::data(Bytes::from_static(event))));
    let mut response = Response::new(StreamBody::new(events).boxed_unsync());
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response
}

/// The same bytes for everyone; a linear congruential generator's, which no matcher finds a pattern in.
pub(crate) fn noise() -> Bytes {
    let next = |state: &u64| Some(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
    let states = std::iter::successors(Some(1_u64), next);
    states
        .flat_map(|state| state.to_be_bytes().into_iter().take(4))
        .take(PIECE)
        .collect()
}

fn text() -> Bytes {
    let line = b"2026-01-01T00:00:00Z INFO GET /v1/models?limit=20 200 18ms id=0123456789abcdef\n";
    line.iter().copied().cycle().take(PIECE).collect()
}

const EVENT: &[u8] = b"data: tick\n\n";
static HELLO: &[u8] = &[b'x'; 1024];
