//! AGENT → OUTSIDE, and CONTROLLER → AGENT. The container beside the agent.
//!
//! A connection of the agent comes in at [`listen`], which denies everything: the stages below it (tunnel, decide,
//! substitute, upstream, redact, audit) come with the vault, and until then there is no way out. Beside that,
//! [`control`] holds the stream to the active controller and [`handoff`] the connection of the runner; both meet in
//! [`control::bond`], which alone knows what this pod is bound to. [`fence`] runs before all of it, in a container of
//! its own, and leaves the agent no other way.

pub mod cli;
pub mod clock;
pub mod run;

pub mod listen;

pub mod control;
pub mod handoff;

pub mod fence;
