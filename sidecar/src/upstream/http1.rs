//! One HTTP/1.1 connection to an upstream, driven by whoever uses it.
//!
//! It has no task of its own: the request that holds it polls it, so that a byte from upstream reaches the agent without
//! waking anything in between. That is worth a third of the proxy's own latency.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use berth_outbound::dial::Leg;
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;

use super::pool::{Key, Pool};
use super::quiet::Quiet;
use crate::body::{Body, Fault};

/// The connection.
pub struct Http1 {
    sender: http1::SendRequest<Body>,
    driver: Box<http1::Connection<TokioIo<Leg>, Body>>,
    /// The driver has ended. Polled again it would shut the connection down, under a WebSocket that begins.
    over: bool,
    quiet: Quiet,
}

/// A request that got no answer.
#[derive(Debug, thiserror::Error)]
#[error("the upstream connection broke before an answer came")]
pub struct Broken {
    /// Why.
    pub source: hyper::Error,
    /// The request, when no byte of it was sent.
    pub unsent: Option<Box<Request<Body>>>,
}

impl Http1 {
    /// Over an open connection.
    pub async fn begin(leg: Leg) -> Result<Self, hyper::Error> {
        let mut builder = http1::Builder::new();
        builder.max_buf_size(BUFFER_MAX).max_headers(HEADERS_MAX);
        let (sender, connection) = builder.handshake(TokioIo::new(leg)).await?;
        Ok(Self {
            sender,
            driver: Box::new(connection),
            over: false,
            quiet: Quiet::default(),
        })
    }

    /// Sends a request and waits for the head of its answer.
    pub async fn send(mut self, request: Request<Body>) -> Result<(Response<Incoming>, Self), Broken> {
        let answer = self.sender.try_send_request(request);
        let mut answer = pin!(answer);
        let (driver, over, quiet) = (&mut self.driver, &mut self.over, &self.quiet);
        let answer = poll_fn(|context| {
            quiet.poll(context, |context| {
                if let Poll::Ready(answer) = answer.as_mut().poll(context) {
                    return Poll::Ready(answer);
                }
                if !*over {
                    *over = Pin::new(driver.as_mut()).poll(context).is_ready();
                }
                answer.as_mut().poll(context)
            })
        })
        .await;
        match answer {
            Ok(answer) => Ok((answer, self)),
            Err(mut error) => Err(Broken {
                unsent: error.take_message().map(Box::new),
                source: error.into_error(),
            }),
        }
    }

    /// Runs it to its end and gives its bytes: after an upgrade. What was read beyond the head comes first.
    pub async fn finish(mut self) -> Result<(Bytes, Leg), hyper::Error> {
        if !self.over {
            self.driver.as_mut().await?;
        }
        let parts = self.driver.into_parts();
        Ok((parts.read_buf, parts.io.into_inner()))
    }

    /// Whether another request may be sent on it; looks at the socket once.
    pub fn is_free(&mut self) -> bool {
        if self.over {
            return false;
        }
        let mut context = Context::from_waker(Waker::noop());
        Pin::new(self.driver.as_mut()).poll(&mut context).is_pending() && self.sender.is_ready()
    }
}

/// The body of an answer, which holds its connection and gives it back at the end.
pub struct Lent {
    body: Incoming,
    connection: Option<Http1>,
    home: Option<(Arc<Pool>, Key)>,
}

impl Lent {
    /// To be given back to `pool`.
    pub fn new(body: Incoming, connection: Http1, pool: Arc<Pool>, key: Key) -> Self {
        Self {
            body,
            connection: Some(connection),
            home: Some((pool, key)),
        }
    }

    fn give_back(&mut self) {
        if let (Some(mut connection), Some((pool, key))) = (self.connection.take(), self.home.take())
            && connection.is_free()
        {
            pool.put(key, connection);
        }
    }
}

impl http_body::Body for Lent {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let Self { body, connection, .. } = &mut *self;
        let polled = match connection {
            Some(Http1 {
                driver, over, quiet, ..
            }) => quiet.poll(context, |context| {
                let polled = Pin::new(&mut *body).poll_frame(context);
                if polled.is_ready() || *over {
                    return polled;
                }
                *over = Pin::new(driver.as_mut()).poll(context).is_ready();
                Pin::new(&mut *body).poll_frame(context)
            }),
            None => Pin::new(body).poll_frame(context),
        };
        polled.map(|frame| frame.map(|frame| frame.map_err(Fault::from)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Lent {
    /// hyper doesn't poll a body beyond its announced length, so this is where most of them end.
    fn drop(&mut self) {
        if self.body.is_end_stream() {
            self.give_back();
        }
    }
}

/// Head of an answer and what is read ahead of the agent.
const BUFFER_MAX: usize = 64 << 10;
/// hyper's own limit, written down.
const HEADERS_MAX: usize = 100;
