//! CONTROLLER → BOND → CONTROLLER. The control stream's client side (DESIGN §8).
//!
//! [`stream`] speaks, [`gate`] refuses what an earlier leader says, [`bond`] holds what the pod is bound to and
//! [`spool`] what is still to be told. [`state`] keeps both over a restart of the container. Nothing here trusts the
//! runner, and nothing that arrives is acted upon before it is kept.

pub mod bond;
pub mod gate;
pub mod held;
pub mod key;
pub mod ready;
pub mod relay;
pub mod spool;
pub mod state;
pub mod stream;
pub mod token;
pub mod vault_link;
