//! CLAIM → POD. The only module that knows agent-sandbox's API group; the rest sees [`Phase`].
//!
//! Types here are narrow views: a field that we don't read isn't declared, so that a newer agent-sandbox changes
//! nothing for us. Supported from v1.0.0 on (`v1beta1`).

pub mod kind;
pub mod phase;

pub use kind::{Sandbox, SandboxClaim, SandboxTemplate, SandboxWarmPool};
pub use phase::{ClaimPhase, Ended, claim_phase};
