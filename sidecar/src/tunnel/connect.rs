//! The proxy's port: `CONNECT host:port` opens a tunnel, `GET http://host/path` is one plain request.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use berth_egress::authority::Authority;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Uri};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;

use super::prefixed::Prefixed;
use super::{Tunnel, container, tls};
use crate::body::{Body, empty, full};
use crate::exchange;
use crate::proxy::Proxy;
use crate::refusal::Refusal;

/// Answers one connection until it ends.
pub async fn serve(proxy: Arc<Proxy>, stream: TcpStream) {
    let service = service_fn(move |request| {
        let proxy = Arc::clone(&proxy);
        async move { Ok::<_, Infallible>(answer(proxy, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(HEAD_MAX)
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    if let Err(error) = connection.await {
        tracing::debug!(
            error = &error as &dyn std::error::Error,
            "a connection of the agent ended"
        );
    }
}

async fn answer(proxy: Arc<Proxy>, request: Request<Incoming>) -> Response<Body> {
    if request.method() == Method::CONNECT {
        return open(proxy, request).unwrap_or_else(|refusal| refusal.response());
    }
    if request.uri().scheme_str() == Some("http") {
        return match plain(&proxy, request.uri()) {
            Ok(tunnel) => exchange::answer(&proxy, &tunnel, request).await,
            Err(refusal) => refusal.response(),
        };
    }
    if request.uri().path() == "/healthz" && request.uri().authority().is_none() {
        return Response::new(full("ok\n"));
    }
    if let Some(answer) = container::answer(&proxy.vault.snapshot(), &request) {
        return answer;
    }
    Refusal::bad("this is a proxy: use CONNECT for https, and http://host/path for http").response()
}

/// The request's own authority, which its `Host` must agree with, is the tunnel of a plain request.
fn plain(proxy: &Proxy, uri: &Uri) -> Result<Tunnel, Refusal> {
    let named = uri.authority().map_or("", |authority| authority.as_str());
    let authority = Authority::from_host_header(named, HTTP).map_err(|error| Refusal::malformed(&error))?;
    let snapshot = proxy.vault.snapshot();
    let reach = snapshot.rules.connect(&authority);
    let reach = reach.ok_or_else(|| not_covered(proxy, &authority, "http"))?;
    Ok(Tunnel::new(authority, false, reach.addresses))
}

fn open(proxy: Arc<Proxy>, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
    let named = request.uri().authority().map_or("", |authority| authority.as_str());
    let authority = Authority::from_connect(named).map_err(|error| Refusal::malformed(&error))?;
    let reach = proxy.vault.snapshot().rules.connect(&authority);
    let reach = reach.ok_or_else(|| not_covered(&proxy, &authority, "CONNECT"))?;
    let tunnel = Tunnel::new(authority, true, reach.addresses);
    tokio::spawn(async move {
        match hyper::upgrade::on(request).await {
            Ok(upgraded) => begin(proxy, tunnel, upgraded).await,
            Err(error) => tracing::debug!(error = &error as &dyn std::error::Error, "a tunnel didn't begin"),
        }
    });
    let mut response = Response::new(empty());
    *response.status_mut() = StatusCode::OK;
    Ok(response)
}

async fn begin(proxy: Arc<Proxy>, tunnel: Tunnel, upgraded: hyper::upgrade::Upgraded) {
    let Ok(parts) = upgraded.downcast::<TokioIo<TcpStream>>() else {
        return tracing::error!("a tunnel over something that isn't TCP");
    };
    let hyper::upgrade::Parts { io, read_buf, .. } = parts;
    let prefix = Bytes::copy_from_slice(&read_buf);
    drop(read_buf); // a part of hyper's buffer, 8 KiB that would be held for as long as the tunnel
    let stream = Prefixed::new(prefix, io.into_inner());
    let Some(permit) = proxy.tunnels.clone().try_acquire_owned().ok() else {
        return tracing::warn!("a tunnel was closed: as many as may be are open");
    };
    if let Err(error) = tls::run(&proxy, tunnel, stream).await {
        tracing::debug!(error = &error as &dyn std::error::Error, "a tunnel ended");
    }
    drop(permit);
}

fn not_covered(proxy: &Proxy, authority: &Authority, method: &str) -> Refusal {
    proxy.audit.denied(authority, method);
    Refusal::not_covered(authority)
}

/// The default port of `http`.
const HTTP: u16 = 80;
/// Also how long a connection may be idle; clients open another.
pub(super) const HEAD_TIME: Duration = Duration::from_mins(1);
/// Head of a request; larger ones are answered with 431.
pub(super) const HEAD_MAX: usize = 64 << 10;
