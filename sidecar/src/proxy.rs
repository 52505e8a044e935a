//! What all connections of the agent share.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::audit::Audit;
use crate::git::Pushes;
use crate::meter::Meter;
use crate::tunnel::leaf::Leaves;
use crate::upstream::Upstream;
use crate::vault::{Offer, Problem, Vault};

/// Shared by all connections.
pub struct Proxy {
    /// Rules and values.
    pub vault: Arc<Vault>,
    /// Certificates that the agent is answered with.
    pub leaves: Leaves,
    /// The way out.
    pub upstream: Upstream,
    /// What was used.
    pub audit: Arc<Audit>,
    /// What is spent.
    pub meter: Arc<Meter>,
    /// Where pushes are held.
    pub pushes: Pushes,
    /// Open tunnels.
    pub tunnels: Arc<Semaphore>,
    /// Bodies that are held to be hashed, in KiB.
    pub held: Arc<Semaphore>,
}

impl Proxy {
    /// With room for [`TUNNELS_MAX`] tunnels.
    pub fn new(vault: Arc<Vault>, leaves: Leaves, upstream: Upstream, audit: Arc<Audit>, pushes: Pushes) -> Self {
        Self {
            vault,
            leaves,
            upstream,
            audit,
            meter: Arc::default(),
            pushes,
            tunnels: Arc::new(Semaphore::new(TUNNELS_MAX)),
            held: Arc::new(Semaphore::new(HELD_MAX >> 10)),
        }
    }

    /// With what was spent by an earlier process.
    #[must_use]
    pub fn with_meter(self, meter: Meter) -> Self {
        Self {
            meter: Arc::new(meter),
            ..self
        }
    }

    /// From now on this holds; connections that wait on routes that changed are closed. Says what was left out.
    pub fn adopt(&self, offer: Offer) -> Vec<Problem> {
        let (problems, gone) = self.vault.replace(offer);
        if !gone.is_empty() {
            self.upstream
                .pool()
                .forget(|route| gone.iter().any(|name| name == route));
        }
        problems
    }
}

/// Three of the largest bodies that are held (`exchange/aws.rs`), in a container of 128 MiB.
const HELD_MAX: usize = 32 << 20;
/// An agent with more tunnels than this has lost count of them; each may cost 50 KiB.
pub const TUNNELS_MAX: usize = 10_240;
