//! `Expect: 100-continue`, from end to end: the agent isn't asked for its body before the upstream is.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{EXPECT, HeaderMap};
use http::{Request, StatusCode};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::sync::oneshot;
use tokio::time::{Sleep, sleep};

use crate::body::{Body, Fault};

/// Opens a gate.
pub type Opener = Option<oneshot::Sender<()>>;

/// Whether the agent waits to be asked for its body.
pub fn asked(headers: &HeaderMap) -> bool {
    let value = headers.get(EXPECT).and_then(|value| value.to_str().ok());
    value.is_some_and(|value| value.eq_ignore_ascii_case("100-continue"))
}

/// Holds a body back when the agent waits for it; hyper tells the agent to go on when the body is first read.
pub fn gate(asked: bool, body: Body) -> (Opener, Body) {
    if !asked || body.is_end_stream() {
        return (None, body);
    }
    let (opener, open) = oneshot::channel();
    let gated = Gated {
        body,
        gate: Some((open, Box::pin(sleep(PATIENCE)))),
    };
    (Some(opener), gated.boxed_unsync())
}

/// Opens the gate when the upstream says `100 Continue`.
pub fn open_at_continue(opener: Opener, request: &mut Request<Body>) {
    let Some(opener) = opener else { return };
    let opener = parking_lot::Mutex::new(Some(opener));
    hyper::ext::on_informational(request, move |response| {
        if response.status() == StatusCode::CONTINUE
            && let Some(opener) = opener.lock().take()
        {
            let _ = opener.send(()); // the body may have gone
        }
    });
}

struct Gated {
    body: Body,
    gate: Option<(oneshot::Receiver<()>, Pin<Box<Sleep>>)>,
}

impl http_body::Body for Gated {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        if let Some((opened, patience)) = &mut self.gate {
            let waits = Pin::new(opened).poll(context).is_pending() && patience.as_mut().poll(context).is_pending();
            if waits {
                return Poll::Pending;
            }
            self.gate = None;
        }
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// RFC 9110 §10.1.1: a client doesn't wait for ever; curl waits 1 s.
const PATIENCE: Duration = Duration::from_secs(1);
