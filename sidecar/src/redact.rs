//! UPSTREAM → AGENT. What comes back on a credentialed route, without the credentials.
//!
//! [`request::prepare`] asks for plain, whole answers; [`response`] takes what came, refuses what can't be looked
//! into ([`refuse()`]), and puts stubs in the place of secrets in head, body and trailers. [`Patterns`] are every form
//! in which a secret of the route may be echoed; [`Redactor`] searches a stream for them, and its release points tell
//! nothing about them. Doubt is an error, and an error drops what is held.
//!
//! This is a second line: it finds copies, not transformations (encryption, compression within a format, reversal).
//! What a credential may be used for is bounded by its grant.

use std::sync::Arc;

use http::Response;

pub use self::body::Redacted;
pub use self::headers::Policy;
pub use self::pattern::{Patterns, PatternsError, Secret, Width};
pub use self::refuse::{Reason, refuse};
pub use self::stream::Redactor;

pub mod pattern;
pub mod shape;

mod index;
mod variant;

pub mod request;

pub mod refuse;

mod media;

pub mod headers;

pub mod coding;
pub mod grpc;
pub mod stream;

pub mod body;
pub mod websocket;

#[cfg(test)]
mod tests;

/// A response that isn't passed. The agent gets a 502 instead.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// By its head.
    #[error("the response can't be redacted: {0}")]
    Head(Reason),
    /// By its content codings.
    #[error("the response can't be decoded, and so not redacted")]
    Coding(#[source] coding::Error),
}

/// Redacts a response; with it comes how many secrets its head held. Without secrets it's left as it is.
///
/// Extensions are kept: a reason phrase among them (hyper's `ReasonPhrase`) is text from upstream, and the caller's to
/// remove.
pub fn response<B>(
    response: Response<B>,
    patterns: &Arc<Patterns>,
    limits: coding::Limits,
    policy: Policy,
) -> Result<(Response<Redacted<B>>, u64), Refused> {
    let (mut head, body) = response.into_parts();
    if patterns.is_empty() {
        let body = Redacted::new(body, body::Plan::transparent(), Arc::clone(patterns));
        return Ok((Response::from_parts(head, body), 0));
    }
    if let Some(reason) = refuse(head.status, &head.headers) {
        return Err(Refused::Head(reason));
    }
    let plan = body::Plan::of(&head.headers, limits, policy).map_err(Refused::Coding)?;
    if plan.decodes() {
        coding::relabel(&mut head.headers);
    }
    headers::unframe(&mut head.headers);
    let count = headers::redact(&mut head.headers, patterns, policy);
    let body = Redacted::new(body, plan, Arc::clone(patterns));
    Ok((Response::from_parts(head, body), count))
}
