//! AGENT → OUTSIDE, and CONTROLLER → AGENT. The container beside the agent.
//!
//! A connection of the agent comes in at [`listen`] and becomes a [`tunnel`] to one host. Each request in it is judged,
//! written down, given its credentials, sent and its answer cleaned by [`exchange`], with [`vault`] (what may be used
//! now), [`audit`], [`substitute`], [`upstream`], [`redact`] and, for pushes, [`git`]. Beside that, [`control`] holds the
//! stream to the active controller and [`handoff`] the connection of the runner; both meet in [`control::bond`], which
//! alone knows what this pod is bound to. [`standalone`] is the same proxy by a policy file. [`fence`] runs before all
//! of it, in a container of its own, and leaves the agent no other way.

pub mod cli;
pub mod clock;
pub mod files;
pub mod harden;
pub mod run;
pub mod standalone;

pub mod listen;
pub mod tunnel;

pub mod exchange;
pub mod git;
pub mod meter;
pub mod refusal;

pub mod vault;

pub mod substitute;

pub mod upstream;

pub mod redact;

pub mod audit;

pub mod body;
pub mod proxy;

pub mod control;
pub mod handoff;

pub mod fence;

/// An error and its causes, on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
