//! What the install decided: read once by `cli`, passed down as a value.

use std::time::Duration;

use crate::grant::permit::DefaultPolicy;

/// Settings of sessions and pools.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Namespace that Berth runs in.
    pub namespace: String,
    /// Image of the sidecar and of the fence.
    pub sidecar_image: String,
    /// Image that the runner is copied from.
    pub runner_image: String,
    /// `Always`, `IfNotPresent` or `Never`, for these two images and the agent's.
    pub image_pull_policy: String,
    /// URL of the control stream, as pods reach it.
    pub control_url: String,
    /// Networks of the cluster, which no session reaches unless a route names them.
    pub cluster_cidrs: Vec<String>,
    /// Networks that git servers may be in although they usually aren't.
    pub git_networks: Vec<ipnet::IpNet>,
    /// Limits in time.
    pub deadlines: Deadlines,
    /// What bindings may grant where no GrantPolicy says `allow`.
    pub default_policy: DefaultPolicy,
}

/// Limits in time that `plan` works with.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// From a ready sandbox to the acknowledgement (DESIGN §5.4).
    pub bind: Duration,
    /// How long a new leader serves before it holds a missing stream against a sandbox (DESIGN §5.4).
    pub settle: Duration,
    /// From a claim to a ready sandbox when the pool doesn't say (DESIGN §3, `startupDeadline`).
    pub startup: Duration,
    /// First wait after a failed bind; doubles up to `back_off_max`.
    pub back_off_min: Duration,
    /// Longest wait after failed binds.
    pub back_off_max: Duration,
    /// How long a warm bind may take before the status says that it is pending. A bind that is quicker costs no write.
    /// Creation times have whole seconds, so this is one to two of them.
    pub pending_after: Duration,
    /// How long a finished session's pod is kept for events that Postgres has not taken yet.
    pub drain_events: Duration,
    /// What `shutdownTime` adds to `maxDuration`, so that we end the session first.
    pub shutdown_grace: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            bind: Duration::from_secs(10),
            settle: Duration::from_secs(15),
            startup: Duration::from_mins(10),
            back_off_min: Duration::from_secs(1),
            back_off_max: Duration::from_mins(5),
            pending_after: Duration::from_secs(2),
            drain_events: Duration::from_mins(10),
            shutdown_grace: Duration::from_mins(1),
        }
    }
}
