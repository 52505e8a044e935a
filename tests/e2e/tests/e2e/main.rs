//! End-to-end tests, on the real cluster: `bin/test e2e`, or one in seconds:
//! `tests/cluster/cluster shell cargo test -p berth-e2e NAME`.
//!
//! Tests of module [`disruptive`] stop parts that others need: `bin/test` runs them alone.
#![cfg(test)]

mod agents;
mod api;
mod bad;
mod clients;
mod delivery;
mod disruptive;
mod errands;
mod evidence;
mod feedback;
mod forge;
mod gateway;
mod grant;
mod guarantees;
mod gvisor;
mod harm;
mod identity;
mod interactive;
mod kinds;
mod ledger;
mod litellm;
mod manifests;
mod pool;
mod protocols;
mod repository;
mod resume;
mod session;
mod source;
mod tenancy;
mod vault;
