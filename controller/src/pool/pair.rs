//! Pure: the name and the hash of a rendered pair.

use berth_crds::AgentPool;
use kube::ResourceExt;
use sha2::{Digest, Sha256};

use super::pod::pod_spec;
use crate::settings::Settings;

/// A pod spec as rendered, with the name of the pair that carries it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rendering {
    /// Name of the SandboxTemplate and SandboxWarmPool: `<pool>-<first 8 hex of the hash>`.
    pub pair: String,
    /// SHA-256 of `json`, hex.
    pub sha256: String,
    /// The pod spec. `serde_json` keeps maps sorted, so the same spec always gives the same text.
    pub json: String,
}

/// Renders a pool's pods. Only fields that shape the pod take part: an edit of `replicas` keeps the pair.
pub fn render(pool: &AgentPool, settings: &Settings) -> Rendering {
    let spec = serde_json::to_value(pod_spec(&pool.spec, settings)).unwrap_or_default();
    let json = spec.to_string();
    let sha256 = sha256(&json);
    let pair = format!("{}-{}", pool.name_any(), sha256.get(..8).unwrap_or_default());
    Rendering { pair, sha256, json }
}

/// SHA-256 of a text, hex.
pub fn sha256(text: &str) -> String {
    hex::encode(Sha256::digest(text))
}
