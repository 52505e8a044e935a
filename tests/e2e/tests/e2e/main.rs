//! End-to-end tests, on the real cluster: `bin/test e2e`, or one in seconds:
//! `tests/cluster/cluster shell cargo test -p berth-e2e NAME`.
//!
//! Tests of module [`disruptive`] stop parts that others need: `bin/test` runs them alone.
#![cfg(test)]

mod agents;
mod api;
mod clients;
mod disruptive;
mod evidence;
mod forge;
mod gateway;
mod grant;
mod guarantees;
mod gvisor;
mod identity;
mod interactive;
mod kinds;
mod ledger;
mod manifests;
mod pool;
mod repository;
mod resume;
mod session;
mod source;
mod vault;
