//! HTTP with the agent, over whatever its tunnel is made of.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use super::Tunnel;
use super::connect::{HEAD_MAX, HEAD_TIME};
use crate::exchange;
use crate::proxy::Proxy;

/// HTTP/1.1 until the connection ends.
pub async fn http1<S>(proxy: Arc<Proxy>, tunnel: Tunnel, stream: S)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    // Boxed: hyper keeps a service's place for as long as the connection, also while an answer streams.
    let service = service_fn(|request: Request<Incoming>| {
        Box::pin(async { Ok::<_, Infallible>(exchange::answer(&proxy, &tunnel, request).await) })
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(HEAD_MAX)
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    ended(connection.await);
}

/// HTTP/2 until the connection ends.
pub async fn http2<S>(proxy: Arc<Proxy>, tunnel: Tunnel, stream: S)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let tunnel = Arc::new(tunnel);
    let service = service_fn(move |request: Request<Incoming>| {
        let (proxy, tunnel) = (Arc::clone(&proxy), Arc::clone(&tunnel));
        async move { Ok::<_, Infallible>(exchange::answer(&proxy, &tunnel, request).await) }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADER_LIST_MAX)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW_CONNECTION)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .serve_connection(TokioIo::new(stream), service);
    ended(connection.await);
}

fn ended(result: hyper::Result<()>) {
    if let Err(error) = result {
        tracing::debug!(
            error = &error as &dyn std::error::Error,
            "a connection of the agent ended"
        );
    }
}

/// research/vault-proxy.md §2.1, row 39.
const STREAMS_MAX: u32 = 128;
/// The same row.
const HEADER_LIST_MAX: u32 = 64 << 10;
/// Of a stream: an upload in flight that the upstream doesn't take yet.
const WINDOW: u32 = 256 << 10;
/// Of a connection.
const WINDOW_CONNECTION: u32 = 1 << 20;
/// A peer that is gone is noticed within twice that.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
