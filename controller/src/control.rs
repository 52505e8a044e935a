//! POD → IDENTITY → STREAM. The control stream's server side (DESIGN §5.3, §8).
//!
//! A sidecar's stream is worth what its token proves: TokenReview gives the pod, [`identity`] gives the session, by
//! UID on live reads. What arrives on a stream is the runner's word; it moves phase, result and events, nothing else.

pub mod checkpoints;
pub mod feed;
pub mod identity;
pub mod listen;
pub mod registry;
pub mod server;
pub mod session_link;
pub mod tls;
pub mod token;
