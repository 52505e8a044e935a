//! Bodies as they pass through: one type for all of them, one type for what breaks them.

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};

/// What breaks a body.
pub type Fault = Box<dyn std::error::Error + Send + Sync>;

/// A body on its way.
pub type Body = UnsyncBoxBody<Bytes, Fault>;

/// A body that is all there.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// No body.
pub fn empty() -> Body {
    full(Bytes::new())
}
