//! BINDINGS ∩ POLICIES ∩ GIT ∩ OFFERS → GRANTS → SIDECARS. One pass looks at one namespace: what holds is decided by
//! [`decide`], pure, with what is proven of each binding ([`approve`], [`evidence`]); what a session's sidecar is to hold
//! by [`offer`], pure; [`reconcile`] watches Secrets ([`secrets`], read by their [`kind`]), has tokens minted ([`github`],
//! [`oauth2`]), pushes what has changed ([`push`]), and writes the statuses ([`status`]). [`policy`] says what this release
//! makes of a GrantPolicy.
//!
//! What is granted and taken away is written down in a chain of rows ([`ledger`], [`chain`], pure; [`recorder`]): the first row of
//! a grant is committed before anybody gets it. A value passes through a push and nowhere else.

pub mod reconcile;

pub mod decide;

pub mod approve;
pub mod evidence;
pub mod fingerprint;
pub mod permit;
pub mod select;
pub mod vet;

pub mod tip;

pub mod secrets;

pub mod kind;

pub mod github;

pub mod oauth2;

pub mod allot;
pub mod budget;
pub mod offer;
pub mod tracked;

pub mod push;

pub mod chain;
pub mod ledger;
pub mod recorder;

pub mod policy;
pub mod status;
