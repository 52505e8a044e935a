//! SESSION × BINDING → VIRTUAL KEY. LiteLLM gateways of the install's configuration ([`config`]): what a session's key is
//! and what is said of it ([`key`], pure), what models cost ([`price`], pure), what is known of the keys and when the next thing is due ([`keys`], pure but
//! for the jitter), the requests ([`client`]), what a namespace needs now ([`run`]), keys that nobody has any more
//! ([`sweep`]), and what a gateway says that a session has spent ([`figure`]).
//!
//! A key's value is derived and never stored: a restart finds the key that is there, and mints none twice.

pub mod config;

pub mod key;

pub mod price;

pub mod keys;

pub mod client;

pub mod run;

pub mod sweep;

pub mod figure;
