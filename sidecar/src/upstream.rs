//! PROXY → UPSTREAM. A host is resolved, vetted, dialled and verified ([`berth_outbound`]), and the connection kept for the
//! next request of the same target and grants ([`pool`], [`http1`]).

use std::sync::Arc;
use std::time::Duration;

use berth_egress::authority::Authority;
use berth_outbound::alpn::Alpn;
use berth_outbound::dial::{DialError, Dialed, Dialer, Leg, Target};
use http::{Method, Request, Response};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use quick_cache::sync::Cache;

use self::http1::{Broken, Http1, Lent};
use self::pool::{Key, Pool};
use crate::body::{Body, Fault, empty};

pub mod http1;
pub mod pool;
pub mod quiet;

/// Sends requests to wherever they may go.
pub struct Upstream {
    dialer: Dialer,
    pool: Arc<Pool>,
    /// What a host spoke when it was last dialled with both offered.
    spoken: Cache<Authority, Alpn>,
}

/// A request that has no answer.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// There is no connection.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// HTTP didn't begin on it.
    #[error("failed to begin HTTP")]
    Begin(#[source] hyper::Error),
    /// The agent speaks HTTP/2 and the host doesn't.
    #[error("{0} doesn't speak HTTP/2")]
    Http1Only(Authority),
    /// The grant ended while it was waited for.
    #[error("the grant that the request stood on has ended")]
    Cut,
    /// It broke.
    #[error("the upstream connection broke before an answer came")]
    Broken(#[source] hyper::Error),
}

impl SendError {
    /// Whether nothing of the request has reached anybody.
    pub fn is_unsent(&self) -> bool {
        matches!(self, Self::Dial(_) | Self::Begin(_) | Self::Http1Only(_))
    }
}

/// An answer, and the connection of one that agrees to another protocol.
pub struct Answer {
    /// Head and body.
    pub response: Response<Body>,
    /// Set when the answer is `101 Switching Protocols`.
    pub upgrade: Option<Http1>,
}

impl Upstream {
    /// Through this dialer.
    pub fn new(dialer: Dialer) -> Self {
        Self {
            dialer,
            pool: Arc::default(),
            spoken: Cache::new(SPOKEN_MAX),
        }
    }

    /// Opens connections that aren't kept.
    pub fn dialer(&self) -> &Dialer {
        &self.dialer
    }

    /// The idle connections.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// What a host speaks when it may choose; dialled once, and the connection is kept for the first request.
    pub async fn speaks(&self, target: &Target) -> Result<Alpn, DialError> {
        if let Some(alpn) = self.spoken.get(&target.authority) {
            return Ok(alpn);
        }
        let both = Target {
            http2: true,
            ..target.clone()
        };
        let Dialed { leg, alpn } = Box::pin(self.dialer.dial(&both)).await?;
        self.spoken.insert(target.authority.clone(), alpn);
        let target = Arc::new(Target {
            http2: alpn == Alpn::Http2,
            ..both
        });
        let key = Key { target, routes: None };
        match alpn {
            Alpn::Http2 => drop(self.begin_http2(&key, leg).await),
            Alpn::Http1 => {
                if let Ok(connection) = Http1::begin(leg).await {
                    self.pool.put(key, connection);
                }
            }
        }
        Ok(alpn)
    }

    /// Sends a request over HTTP/1.1 and waits for the head of the answer. What was certainly not sent is sent again,
    /// and so is a `GET` or `HEAD` on a connection that had waited and turned out to be closed.
    pub async fn send_http1(&self, key: &Key, mut request: Request<Body>) -> Result<Answer, SendError> {
        for _ in 0..STALE_MAX {
            let Some(connection) = self.pool.take(key) else { break };
            let again = copy(&request);
            match connection.send(request).await {
                Ok(sent) => return Ok(self.answer(sent, key)),
                Err(Broken { source, unsent }) => {
                    let unsent = unsent.map(|request| *request).or(again);
                    request = unsent.ok_or(SendError::Broken(source))?;
                }
            }
        }
        let Dialed { leg, .. } = Box::pin(self.dialer.dial(&key.target)).await?;
        let connection = Http1::begin(leg).await.map_err(SendError::Begin)?;
        let sent = connection.send(request).await;
        Ok(self.answer(sent.map_err(|broken| SendError::Broken(broken.source))?, key))
    }

    fn answer(&self, (response, connection): (Response<hyper::body::Incoming>, Http1), key: &Key) -> Answer {
        if response.status() == http::StatusCode::SWITCHING_PROTOCOLS {
            return Answer {
                response: response.map(|_nothing| empty()),
                upgrade: Some(connection),
            };
        }
        let response = response.map(|body| {
            let lent = Lent::new(body, connection, Arc::clone(&self.pool), key.clone());
            lent.boxed_unsync()
        });
        Answer {
            response,
            upgrade: None,
        }
    }

    /// Sends a request over the HTTP/2 connection of its key.
    pub async fn send_http2(&self, key: &Key, request: Request<Body>) -> Result<Response<Body>, SendError> {
        let mut sender = if let Some(sender) = self.pool.shared(key) {
            sender
        } else {
            let Dialed { leg, alpn } = Box::pin(self.dialer.dial(&key.target)).await?;
            if alpn != Alpn::Http2 {
                self.spoken.remove(&key.target.authority);
                return Err(SendError::Http1Only(key.target.authority.clone()));
            }
            self.begin_http2(key, leg).await.map_err(SendError::Begin)?
        };
        sender.ready().await.map_err(SendError::Broken)?;
        let response = sender.send_request(request).await.map_err(SendError::Broken)?;
        Ok(response.map(|body| body.map_err(Fault::from).boxed_unsync()))
    }

    async fn begin_http2(&self, key: &Key, leg: Leg) -> Result<http2::SendRequest<Body>, hyper::Error> {
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW_CONNECTION)
            .max_header_list_size(HEADER_LIST_MAX)
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .handshake(TokioIo::new(leg))
            .await?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error = &error as &dyn std::error::Error, "an upstream connection ended");
            }
        });
        self.pool.share(key.clone(), sender.clone());
        Ok(sender)
    }
}

/// A request that does no harm when it arrives twice.
fn copy(request: &Request<Body>) -> Option<Request<Body>> {
    let safe = matches!(*request.method(), Method::GET | Method::HEAD);
    let plain = request.body().is_end_stream() && !request.headers().contains_key(http::header::UPGRADE);
    if !safe || !plain {
        return None;
    }
    let mut copy = Request::new(empty());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    Some(copy)
}

/// Connections that turn out to be closed, before a fresh one is opened.
const STALE_MAX: usize = 2;
/// Hosts whose protocol is remembered.
const SPOKEN_MAX: usize = 512;
/// Of a stream: what may be under way to an agent that has stopped reading.
const WINDOW: u32 = 256 << 10;
/// Of a connection.
const WINDOW_CONNECTION: u32 = 1 << 20;
/// research/vault-proxy.md §2.1, row 39.
const HEADER_LIST_MAX: u32 = 64 << 10;
/// A peer that is gone is noticed within twice that.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
