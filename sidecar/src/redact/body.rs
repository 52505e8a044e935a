//! A response body with its secrets replaced: decoded, checked, redacted, piece by piece as it's polled.
//!
//! An error ends it. Whatever is held then, or came with the error, is dropped: passing it unredacted is how
//! CVE-2026-101998 leaked tokens.

use std::collections::VecDeque;
use std::error::Error as StdError;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use super::coding::{self, Coding, Decoder};
use super::grpc::{self, Frames};
use super::headers::{self, Policy};
use super::pattern::{Patterns, Width};
use super::stream::Redactor;

#[cfg(test)]
mod tests;

/// What the head of a response says about its body.
#[derive(Debug)]
pub struct Plan {
    codings: Vec<Coding>,
    frames: Option<Frames>,
    limits: coding::Limits,
    policy: Policy,
}

impl Plan {
    /// Reads a head, before it's relabelled.
    pub fn of(headers: &HeaderMap, limits: coding::Limits, policy: Policy) -> Result<Self, coding::Error> {
        Ok(Self {
            codings: coding::codings(headers)?,
            frames: Frames::of(headers),
            limits,
            policy,
        })
    }

    /// For a body that is passed as it is.
    pub(super) fn transparent() -> Self {
        Self {
            codings: Vec::new(),
            frames: None,
            limits: coding::Limits::default(),
            policy: Policy::default(),
        }
    }

    /// Whether the body comes out in another coding.
    pub fn decodes(&self) -> bool {
        !self.codings.is_empty()
    }
}

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// From upstream.
    #[error("failed to read the body of the response")]
    Read(#[source] Box<dyn StdError + Send + Sync>),
    /// It can't be decoded.
    #[error("failed to decode the body of the response")]
    Decode(#[from] coding::Error),
    /// Its messages can't be passed.
    #[error("failed to follow the messages of the response")]
    Messages(#[from] grpc::Error),
}

/// A redacted body. It reads from `B` only while it's polled and has nothing to give.
pub struct Redacted<B> {
    body: B,
    pipe: Option<Pipe>,
    /// To be given next.
    ready: VecDeque<Bytes>,
    trailers: Option<HeaderMap>,
    /// Nothing was read yet.
    fresh: bool,
    count: u64,
}

/// What lies between the body and what is given.
struct Pipe {
    decoder: Option<Decoder>,
    frames: Option<Frames>,
    redactor: Redactor,
    patterns: Arc<Patterns>,
    policy: Policy,
}

impl<B> Redacted<B> {
    /// Wraps a body whose head gave `plan`.
    pub fn new(body: B, plan: Plan, patterns: Arc<Patterns>) -> Self {
        // Length prefixes around a secret must stay true.
        let width = if plan.frames.is_some() {
            Width::Kept
        } else {
            Width::Free
        };
        let decoder = plan.decodes().then(|| Decoder::new(&plan.codings, plan.limits));
        Self {
            body,
            pipe: Some(Pipe {
                decoder,
                frames: plan.frames,
                redactor: Redactor::new(Arc::clone(&patterns), width),
                patterns,
                policy: plan.policy,
            }),
            ready: VecDeque::new(),
            trailers: None,
            fresh: true,
            count: 0,
        }
    }

    /// How many secrets were replaced so far, in data and trailers.
    pub fn count(&self) -> u64 {
        self.count + self.pipe.as_ref().map_or(0, |pipe| pipe.redactor.count())
    }

    /// Whether nothing can change: no secrets, no coding, no messages to check.
    fn is_transparent(&self) -> bool {
        self.pipe.as_ref().is_some_and(Pipe::is_transparent)
    }
}

impl<B> Redacted<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    /// Reads until there is something to give or the pipe is gone.
    fn fill(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        while self.ready.is_empty()
            && let Some(pipe) = &mut self.pipe
        {
            if pipe.pull(&mut self.ready)? {
                continue;
            }
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => {
                    self.fresh = false;
                    match frame.into_data() {
                        Ok(data) if self.body.is_end_stream() && pipe.is_plain() => {
                            let last = pipe.redactor.push_last(data);
                            self.ready.extend((!last.is_empty()).then_some(last));
                            self.finish(None)?;
                        }
                        Ok(data) => pipe.push(data, &mut self.ready)?,
                        Err(frame) => self.finish(frame.into_trailers().ok())?,
                    }
                }
                Some(Err(error)) => return Poll::Ready(Err(Error::Read(error.into()))),
                None => self.finish(None)?,
            }
        }
        Poll::Ready(Ok(()))
    }

    fn finish(&mut self, trailers: Option<HeaderMap>) -> Result<(), Error> {
        let Some(pipe) = self.pipe.take() else { return Ok(()) };
        let (patterns, policy) = (Arc::clone(&pipe.patterns), pipe.policy);
        let decoded = pipe.decoder.is_some();
        let (rest, count) = pipe.finish()?;
        self.count += count;
        self.ready.extend((!rest.is_empty()).then_some(rest));
        self.trailers = trailers.map(|mut trailers| {
            if decoded {
                coding::relabel(&mut trailers);
            }
            if !patterns.is_empty() {
                self.count += headers::redact(&mut trailers, &patterns, policy);
            }
            trailers
        });
        Ok(())
    }

    fn fail(&mut self) {
        self.pipe = None;
        self.ready.clear();
        self.trailers = None;
    }
}

impl Pipe {
    fn is_transparent(&self) -> bool {
        self.is_plain() && self.patterns.is_empty()
    }

    /// Whether bytes are text as they come: no coding, no messages.
    fn is_plain(&self) -> bool {
        self.decoder.is_none() && self.frames.is_none()
    }

    /// Lets one piece out of the decoder; whether there was one.
    fn pull(&mut self, ready: &mut VecDeque<Bytes>) -> Result<bool, Error> {
        let Some(decoder) = &mut self.decoder else {
            return Ok(false);
        };
        let Some(piece) = decoder.pull()? else { return Ok(false) };
        self.redact(piece, ready)?;
        Ok(true)
    }

    fn push(&mut self, data: Bytes, ready: &mut VecDeque<Bytes>) -> Result<(), Error> {
        match &mut self.decoder {
            Some(decoder) => {
                decoder.push(data);
                Ok(())
            }
            None => self.redact(data, ready),
        }
    }

    fn redact(&mut self, mut data: Bytes, ready: &mut VecDeque<Bytes>) -> Result<(), Error> {
        let ended = self.frames.as_mut().map_or(Ok(0), |frames| frames.check(&data))?;
        if ended > 0 {
            // A message is passed whole: its receiver may have to answer before the next one comes.
            ready.extend(self.redactor.push(data.split_to(ended)));
            let rest = self.redactor.end_message();
            ready.extend((!rest.is_empty()).then_some(rest));
        }
        if !data.is_empty() {
            ready.extend(self.redactor.push(data));
        }
        Ok(())
    }

    fn finish(mut self) -> Result<(Bytes, u64), Error> {
        if let Some(decoder) = &mut self.decoder {
            decoder.finish()?;
        }
        if let Some(frames) = &self.frames {
            frames.finish()?;
        }
        Ok(self.redactor.finish())
    }
}

impl<B> Body for Redacted<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.get_mut();
        if let Err(error) = ready!(this.fill(context)) {
            this.fail();
            return Poll::Ready(Some(Err(error)));
        }
        let data = this.ready.pop_front().map(Frame::data);
        Poll::Ready(data.or_else(|| this.trailers.take().map(Frame::trailers)).map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        match &self.pipe {
            Some(_) => self.fresh && self.body.is_end_stream(),
            None => self.ready.is_empty() && self.trailers.is_none(),
        }
    }

    /// Known only if nothing can change, or there is nothing.
    fn size_hint(&self) -> SizeHint {
        let hint = self.body.size_hint();
        if self.is_transparent() || (self.fresh && hint.exact() == Some(0)) {
            hint
        } else {
            SizeHint::default()
        }
    }
}

impl<B> std::fmt::Debug for Redacted<B> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Redacted")
            .field("redactor", &self.pipe.as_ref().map(|pipe| &pipe.redactor))
            .field("count", &self.count())
            .finish_non_exhaustive()
    }
}
