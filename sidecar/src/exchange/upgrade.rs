//! WebSocket: both sides have agreed, from here on bytes are relayed. What comes from an upstream that was given a
//! credential is read frame by frame ([`crate::redact::websocket`]), and anything that can't be read ends it.

use std::sync::Arc;

use berth_outbound::dial::Leg;
use bytes::{Bytes, BytesMut};
use http::Response;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, copy, split};

use super::headers;
use super::watch::Cuts;
use crate::audit::{Ended, Ticket};
use crate::body::Body;
use crate::redact::Patterns;
use crate::redact::websocket::Frames;
use crate::upstream::http1::Http1;

/// Tells the agent that the upstream has agreed, and relays until either side ends.
pub fn relay(
    mut response: Response<Body>,
    upstream: Http1,
    agent: OnUpgrade,
    patterns: Option<Arc<Patterns>>,
    (mut ticket, cuts): (Option<Ticket>, Cuts),
) -> Response<Body> {
    headers::for_agent_upgraded(response.headers_mut());
    if let Some(patterns) = &patterns {
        crate::redact::headers::redact(response.headers_mut(), patterns, crate::redact::Policy::default());
    }
    if let Some(ticket) = &mut ticket {
        ticket.outcome.status = response.status().as_u16();
    }
    tokio::spawn(async move {
        let ended = tokio::select! {
            ended = run(upstream, agent, patterns) => ended,
            () = cuts.cut() => Ended::Cut,
        };
        if let Some(mut ticket) = ticket {
            ticket.outcome.ended = ended;
        }
    });
    response
}

async fn run(upstream: Http1, agent: OnUpgrade, patterns: Option<Arc<Patterns>>) -> Ended {
    let (Ok((read, upstream)), Ok(agent)) = tokio::join!(upstream.finish(), agent) else {
        return Ended::Broken;
    };
    let (from_upstream, mut to_upstream) = split(upstream);
    let (mut from_agent, to_agent) = split(TokioIo::new(agent));
    let there = async {
        copy(&mut from_agent, &mut to_upstream).await?;
        to_upstream.shutdown().await
    };
    let back = answer(read, from_upstream, to_agent, patterns);
    // Either direction's end is the end: a WebSocket is closed by both.
    let ended = tokio::select! {
        ended = there => ended.map_err(crate::body::Fault::from),
        ended = back => ended,
    };
    match ended {
        Ok(()) => Ended::Complete,
        Err(error) => {
            tracing::debug!(error = &*error as &dyn std::error::Error, "a WebSocket broke");
            Ended::Broken
        }
    }
}

async fn answer(
    first: Bytes,
    mut upstream: ReadHalf<Leg>,
    mut agent: WriteHalf<TokioIo<Upgraded>>,
    patterns: Option<Arc<Patterns>>,
) -> Result<(), crate::body::Fault> {
    let Some(patterns) = patterns else {
        agent.write_all(&first).await?;
        copy(&mut upstream, &mut agent).await?;
        return Ok(agent.shutdown().await?);
    };
    let mut frames = Frames::new(patterns);
    let mut read = BytesMut::new();
    agent.write_all(&frames.push(&first)?).await?;
    loop {
        read.reserve(READ);
        if upstream.read_buf(&mut read).await? == 0 {
            return Ok(agent.shutdown().await?);
        }
        let clean: Bytes = frames.push(&read.split())?;
        agent.write_all(&clean).await?;
    }
}

/// A frame of a chat is smaller, one of a download isn't.
const READ: usize = 16 << 10;
