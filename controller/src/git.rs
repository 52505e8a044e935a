//! COMMIT → OBJECTS. The GitSource engine (DESIGN §3 GitSource, §4).
//!
//! fetch (a child process: [`fetch`], [`child`]; [`introduced`] and [`inspect`] find there what evidence is judged by) → [`manifest`] (pure) → [`plan`] (pure) → [`apply`] → [`status`] (pure);
//! [`reconcile`] is the table of contents. In: a branch. Out: AgentSessions, AgentPools and CredentialBindings of the
//! source's own namespace, applied as its ServiceAccount `berth-sync`. Never a checkout, never another namespace, never
//! another owner's object. Deleting a GitSource leaves what it applied: absence of a source is no wish to delete.

pub mod announce;
pub mod apply;
pub mod child;
pub mod credentials;
pub mod declared;
pub mod fetch;
pub mod history;
pub mod inspect;
pub mod introduced;
pub mod live;
pub mod manifest;
pub mod mirror;
pub mod plan;
pub mod reach;
pub mod reconcile;
pub mod status;
pub mod transport;
pub mod tree;
pub mod webhook;
pub mod wire;
pub mod yaml;
