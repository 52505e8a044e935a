//! What a repository says before a push, as the agent gets it: with `no-thin`, so that the pack holds all bases of its
//! deltas and can be looked into; without `push-cert` (its nonce would be spent on a push that may not pass) and
//! `push-options`. Only the begin is held; what can't be read ends the answer.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG};
use http::{Response, StatusCode};
use http_body::Frame;
use http_body_util::BodyExt;

use super::packet::{self, Packet, PacketError};
use crate::body::{Body, Fault};
use crate::refusal::Refusal;

/// An advertisement that isn't passed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum AdvertisementError {
    /// No pkt-line.
    #[error("the repository's list of refs can't be read")]
    Packet(#[from] PacketError),
    /// It isn't that of `git-receive-pack`, version 0.
    #[error("the repository's list of refs isn't what comes before a push")]
    Malformed,
    /// It ends before its capabilities.
    #[error("the repository's list of refs ends too soon")]
    Truncated,
}

/// Rewrites an answer to `info/refs?service=git-receive-pack`; one that isn't a success is left as it is.
pub fn rewrite(response: Response<Body>) -> Result<Response<Body>, Refusal> {
    if response.status() != StatusCode::OK {
        return Ok(response);
    }
    let headers = response.headers();
    let media = headers.get(CONTENT_TYPE).and_then(|media| media.to_str().ok());
    if media != Some(MEDIA) || headers.contains_key(CONTENT_ENCODING) {
        return Err(Refusal::upstream(
            "the repository didn't answer with a list of refs in git's smart protocol",
        ));
    }
    let (mut head, body) = response.into_parts();
    head.headers.remove(CONTENT_LENGTH);
    head.headers.remove(ETAG);
    let rewriting = Rewriting {
        body,
        begin: Some(BytesMut::new()),
    };
    Ok(Response::from_parts(head, rewriting.boxed_unsync()))
}

struct Rewriting {
    body: Body,
    /// What has come so far, until the capabilities are there.
    begin: Option<BytesMut>,
}

impl http_body::Body for Rewriting {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        loop {
            let polled = Pin::new(&mut self.body).poll_frame(context);
            let Some(begin) = &mut self.begin else { return polled };
            match polled {
                Poll::Ready(Some(Ok(frame))) => {
                    let Ok(data) = frame.into_data() else {
                        return Poll::Ready(Some(Err(AdvertisementError::Truncated.into())));
                    };
                    begin.extend_from_slice(&data);
                }
                Poll::Ready(None) => return Poll::Ready(Some(Err(AdvertisementError::Truncated.into()))),
                other => return other,
            }
            match rewrite_begin(begin) {
                Ok(Some(written)) => {
                    self.begin = None;
                    return Poll::Ready(Some(Ok(Frame::data(written))));
                }
                Ok(None) => {}
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.begin.is_none() && self.body.is_end_stream()
    }
}

/// The begin, rewritten, and what has come of the rest; `None` until the first ref is there. No frame is longer than
/// 64 KiB, so there is always soon an end to the waiting.
fn rewrite_begin(begin: &[u8]) -> Result<Option<Bytes>, AdvertisementError> {
    let mut left = begin;
    for expected in [Some(SERVICE), None] {
        let Some((packet, rest)) = packet::take(left)? else {
            return Ok(None);
        };
        match (packet, expected) {
            (Packet::Data(line), Some(expected)) if packet::chomp(line) == expected => {}
            (Packet::Flush, None) => {}
            _ => return Err(AdvertisementError::Malformed),
        }
        left = rest;
    }
    let Some((packet, rest)) = packet::take(left)? else {
        return Ok(None);
    };
    let Packet::Data(line) = packet else {
        return Err(AdvertisementError::Malformed);
    };
    let mut out = begin[..begin.len() - left.len()].to_vec();
    let line = rewrite_line(line).ok_or(AdvertisementError::Malformed)?;
    if line.len() > packet::DATA_MAX {
        return Err(PacketError::Long.into());
    }
    packet::put(&mut out, &line);
    out.extend_from_slice(rest);
    Ok(Some(out.into()))
}

/// `<name> <ref> NUL <capabilities>`.
fn rewrite_line(line: &[u8]) -> Option<Vec<u8>> {
    let end = line.iter().position(|byte| *byte == 0)?;
    let (named, capabilities) = (&line[..end], packet::chomp(&line[end + 1..]));
    let (name, _) = named.split_at_checked(named.iter().position(|byte| *byte == b' ')?)?;
    if !name.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let mut out = named.to_vec();
    out.push(0);
    let kept = capabilities.split(|byte| *byte == b' ').filter(|capability| {
        let name = capability.split(|byte| *byte == b'=').next().unwrap_or_default();
        !name.is_empty() && !TAKEN_OUT.contains(&name)
    });
    for capability in kept.chain([NO_THIN]) {
        out.extend_from_slice(capability);
        out.push(b' ');
    }
    out.pop();
    out.push(b'\n');
    Some(out)
}

const MEDIA: &str = "application/x-git-receive-pack-advertisement";
const SERVICE: &[u8] = b"# service=git-receive-pack";
const NO_THIN: &[u8] = b"no-thin";
/// `no-thin` so that it's there once.
const TAKEN_OUT: [&[u8]; 3] = [b"push-cert", b"push-options", NO_THIN];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body;

    const NULL: &str = "0000000000000000000000000000000000000000";

    fn advertisement(capabilities: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        packet::put(&mut bytes, b"# service=git-receive-pack\n");
        bytes.extend_from_slice(packet::FLUSH);
        packet::put(
            &mut bytes,
            format!("{NULL} capabilities^{{}}\0{capabilities}\n").as_bytes(),
        );
        bytes.extend_from_slice(packet::FLUSH);
        bytes
    }

    #[test]
    fn capabilities_are_rewritten_and_the_rest_is_kept() {
        let bytes = advertisement("report-status push-cert=1-abc delete-refs push-options  agent=git/2");
        let written = rewrite_begin(&bytes).unwrap().unwrap();
        assert_eq!(written, advertisement("report-status delete-refs agent=git/2 no-thin"));
        assert_eq!(rewrite_begin(&written).unwrap().unwrap(), written);
        for end in 0..bytes.len() - packet::FLUSH.len() {
            assert_eq!(rewrite_begin(&bytes[..end]), Ok(None));
        }
    }

    #[test]
    fn another_thing_is_no_advertisement() {
        for bytes in [
            "<html>",
            "0008NAK\n",
            "0000",
            "001f# service=git-receive-pack\n0000000bversion",
            "001e# service=git-upload-pack\n0000",
        ] {
            assert!(rewrite_begin(bytes.as_bytes()).is_err(), "{bytes}");
        }
    }

    #[tokio::test]
    async fn an_answer_that_ends_too_soon_breaks() {
        let answer = |bytes: &[u8]| {
            let response = Response::builder()
                .header(CONTENT_TYPE, MEDIA)
                .header(CONTENT_LENGTH, bytes.len());
            rewrite(response.body(body::full(bytes.to_vec())).unwrap())
        };
        let bytes = advertisement("report-status");
        let whole = answer(&bytes).unwrap();
        assert!(!whole.headers().contains_key(CONTENT_LENGTH));
        assert_eq!(
            whole.into_body().collect().await.unwrap().to_bytes(),
            advertisement("report-status no-thin")
        );
        assert!(answer(&bytes[..40]).unwrap().into_body().collect().await.is_err());
        let page = Response::builder()
            .header(CONTENT_TYPE, "text/html")
            .body(body::empty())
            .unwrap();
        assert!(rewrite(page).is_err());
        let login = Response::builder().status(401).body(body::empty()).unwrap();
        assert_eq!(rewrite(login).unwrap().status(), 401);
    }
}
