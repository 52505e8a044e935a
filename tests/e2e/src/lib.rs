//! What the end-to-end tests share: a team's namespace on the running cluster, its repository on the forge, and waits
//! that are watches.
//!
//! In: the environment that `tests/cluster/cluster env` prints. Every test makes its own namespace, so that tests run
//! beside each other; nothing here is a stand-in.

pub mod api;
pub mod audit;
pub mod cluster;
pub mod forge;
pub mod granted;
pub mod node;
pub mod origin;
pub mod team;

pub use cluster::{Cluster, cluster};
pub use forge::{Repository, User};
pub use granted::{Granted, Scene};
pub use team::{Team, session_yaml};
