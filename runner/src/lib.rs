//! SIDECAR → HARNESS → SIDECAR. The entry process of the agent container.
//!
//! It gives up sockets that no fence sees ([`harden`]), connects to the sidecar's socket ([`link`]), waits for an
//! assignment and its release ([`wait`]), restores what an earlier pod left ([`checkpoint`]), starts the harness
//! ([`start`], what exactly says [`harness`]), streams what it writes ([`stream`]) and what that tells ([`tell`]), keeps
//! what another pod needs to go on, and says how it ended ([`result`]). It never runs two harnesses in one container
//! start, never restarts one, and holds no secret.

pub mod cli;
pub mod harden;
pub mod install;
pub mod pull_request;
pub mod repository;
pub mod run;
pub mod serve;
pub mod turn;

pub mod link;

pub mod wait;

pub mod checkpoint;

pub mod harness;
pub mod start;

pub mod stream;
pub mod tell;

pub mod result;

pub mod reap;
