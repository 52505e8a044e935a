//! git → session → sandbox → grant → store → http: the controller, in the data's order.
//!
//! [`git`] turns commits into objects, [`pool`] turns pools into warm sandboxes, [`session`] binds sessions to them
//! over [`control`] streams, [`grant`] says what bindings and policies do, with evidence
//! from [`forge`]s and keys of model [`gateway`]s, [`feedback`] says so on pull requests, [`store`] keeps the record, [`http`] answers
//! people and forges. [`run`] wires it.

pub mod git;

pub mod pool;

pub mod session;

pub mod sandbox;

pub mod control;

pub mod forge;

pub mod feedback;

pub mod gateway;

pub mod grant;

pub mod store;

pub mod http;

pub mod answer;
pub mod api;
pub mod audit;
pub mod check;
pub mod cli;
pub mod context;
pub mod events;
pub mod lease;
pub mod metrics;
pub mod run;
pub mod settings;
pub mod telemetry;
pub mod watch;
pub mod work;
pub mod written;
