//! Attacks on the vault, over real sockets: an [`origin`] that keeps every byte it gets, a [`sidecar`] with a [`policy`],
//! and an [`agent`] that sends whatever it likes; a [`scene`] is all of them together. The tests are in `tests/gallery`,
//! one file for each stage of a request; `THREATS.md` says which attack is met where.

pub mod agent;
pub mod aws;
pub mod cgi;
pub mod crates;
pub mod dns;
pub mod frames;
pub mod litellm_stand_in;
pub mod oauth;
pub mod origin;
pub mod played_model;
pub mod policy;
pub mod process;
pub mod rpc;
pub mod scene;
pub mod sidecar;
