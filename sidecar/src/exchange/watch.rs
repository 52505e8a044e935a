//! Bodies on their way: counted, cut when a grant ends, and the use completed when the answer has passed.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::future::select_all;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::audit::{Ended, Ticket};
use crate::body::{Body, Fault};

/// Bytes of a request's body.
pub type Sent = Arc<AtomicU64>;

/// What cuts an exchange.
#[derive(Clone, Debug, Default)]
pub struct Cuts(Vec<CancellationToken>);

/// The grant of an open stream has ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the grant that this stream stood on has ended")]
pub struct GrantEnded;

impl Cuts {
    /// Any of these.
    pub fn new(tokens: Vec<CancellationToken>) -> Self {
        Self(tokens)
    }

    /// Waits until one of them does.
    pub async fn cut(&self) {
        match &self.0[..] {
            [] => std::future::pending().await,
            [token] => token.cancelled().await,
            tokens => drop(select_all(tokens.iter().map(|token| Box::pin(token.cancelled()))).await),
        }
    }

    /// Whether nothing can.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn waits(&self) -> Waits {
        Waits(
            self.0
                .iter()
                .map(|token| Box::pin(token.clone().cancelled_owned()))
                .collect(),
        )
    }
}

struct Waits(Vec<Pin<Box<WaitForCancellationFutureOwned>>>);

impl Waits {
    fn poll_cut(&mut self, context: &mut Context<'_>) -> bool {
        self.0.iter_mut().any(|wait| wait.as_mut().poll(context).is_ready())
    }
}

/// A request's body; counted and cut only for a credential's sake.
pub fn upload<B>(body: B, sent: &Sent, cuts: &Cuts) -> Body
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Fault>,
{
    if cuts.0.is_empty() || body.is_end_stream() {
        return body.map_err(Into::into).boxed_unsync();
    }
    let upload = Upload {
        body,
        sent: Arc::clone(sent),
        waits: cuts.waits(),
    };
    upload.boxed_unsync()
}

struct Upload<B> {
    body: B,
    sent: Sent,
    waits: Waits,
}

impl<B> http_body::Body for Upload<B>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<Fault>,
{
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        if self.waits.poll_cut(context) {
            return Poll::Ready(Some(Err(GrantEnded.into())));
        }
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            self.sent.fetch_add(data.len() as u64, Ordering::Relaxed);
        }
        polled.map(|frame| frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An answer's body, until its end.
pub struct Watched<B> {
    body: B,
    is_over: fn(&B) -> bool,
    redactions: fn(&B) -> u64,
    sent: Sent,
    waits: Waits,
    ticket: Option<Ticket>,
}

impl<B> Watched<B>
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    /// Completes `ticket` at the end of `body`.
    pub fn new(body: B, redactions: fn(&B) -> u64, sent: Sent, cuts: &Cuts, ticket: Option<Ticket>) -> Self {
        Self {
            body,
            is_over: B::is_end_stream,
            redactions,
            sent,
            waits: cuts.waits(),
            ticket,
        }
    }
}

impl<B> Watched<B> {
    fn end(&mut self, ended: Ended) {
        if let Some(mut ticket) = self.ticket.take() {
            ticket.outcome.ended = ended;
            ticket.outcome.sent = self.sent.load(Ordering::Relaxed);
            ticket.outcome.redactions += (self.redactions)(&self.body);
        }
    }
}

impl<B> http_body::Body for Watched<B>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<Fault>,
{
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        if self.waits.poll_cut(context) {
            self.end(Ended::Cut);
            return Poll::Ready(Some(Err(GrantEnded.into())));
        }
        let polled = Pin::new(&mut self.body).poll_frame(context);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let (Some(data), Some(ticket)) = (frame.data_ref(), &mut self.ticket) {
                    ticket.outcome.received += data.len() as u64;
                    if let Some(reserved) = &mut ticket.reserved {
                        reserved.read(data);
                    }
                }
            }
            Poll::Ready(Some(Err(_))) => self.end(Ended::Broken),
            Poll::Ready(None) => self.end(Ended::Complete),
            Poll::Pending => {}
        }
        polled.map(|frame| frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> Drop for Watched<B> {
    /// hyper doesn't poll a body beyond its announced length, so this is where most of them end.
    fn drop(&mut self) {
        let over = (self.is_over)(&self.body);
        self.end(if over { Ended::Complete } else { Ended::Broken });
    }
}
