//! What may leave a sandbox, and with which credential. Pure: no IO, no clock, no async.
//!
//! [`policy`] is the grammar, as a file or over the control stream. [`lint`] says what is wrong with it, [`rules`]
//! compiles what is right. A request is parsed into an [`authority::Authority`] and a [`path::Target`]; [`decide`]
//! answers with [`decide::Allowed`] or [`decide::Denial`]. Only a [`decide::Grant`], which only that decision makes,
//! can be exchanged for a secret. Rows and sections in comments are those of research/vault-proxy.md.

pub mod authority;

pub mod address;

pub mod path;

pub mod pattern;

pub mod policy;

pub mod aws;

pub mod lint;

pub mod rules;

pub mod decide;

pub mod explain;

pub mod legacy;

mod git;

mod stubs;

pub mod tokens;
