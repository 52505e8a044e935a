//! What the end-to-end tests share: a team's namespace on the running cluster, its repository on the forge, and waits
//! that are watches.
//!
//! In: the environment that `tests/cluster/cluster env` prints. Every test makes its own namespace, so that tests run
//! beside each other; what is a stand-in is called so.

pub mod agent;
pub mod api;
pub mod audit;
pub mod cluster;
pub mod diagnosis;
pub mod flux;
pub mod forge;
pub mod granted;
pub mod hook;
pub mod litellm;
pub mod node;
pub mod origin;
pub mod stream;
pub mod team;

pub use cluster::{Cluster, cluster};
pub use forge::{Repository, User};
pub use granted::{Granted, Scene};
pub use team::{PATIENCE, Team, session_yaml};
