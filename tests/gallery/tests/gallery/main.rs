//! The attack gallery: rows of research/vault-proxy.md §2.1, by the stage of a request that they attack. Each test says
//! its row in a comment `THREAT:`; `THREATS.md` is the list of all of them.
#![cfg(test)]

mod authority;
mod aws;
mod aws_sdk;
mod certificates;
mod clients;
mod exchange;
mod gateway;
mod git_push;
mod limits;
mod oauth;
mod path;
mod policy;
mod pool;
mod process;
mod protocol;
mod reach;
mod redaction;
mod registry;
mod session;
mod streaming;
mod threats;
mod toolchains;
mod websocket;
