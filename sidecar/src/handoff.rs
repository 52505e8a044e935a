//! BOND → RUNNER → BOND. The runner's connection.
//!
//! [`socket`] takes one connection at a time, [`next`] says what the connected runner is to be told, [`word`] takes
//! what it says: the agent shares the runner's UID, so all of it is the agent's word, bounded and never more.

pub mod java;
pub mod next;
pub mod pace;
pub mod socket;
pub mod trust;
pub mod word;
