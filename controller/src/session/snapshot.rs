//! Everything that a session's plan depends on, as values: no client, no clock, no event payload (DESIGN §5.1).

use std::time::{Duration, Instant};

use berth_crds::{AgentSession, AgentSessionStatus, ColdStart, LaunchType, Proposal, label};
use berth_protocol::money::Pico;
use jiff::Timestamp;

use super::spend::SpendFacts;
use crate::forge::config::Pulls;
use crate::gateway::keys::Trouble;
use crate::sandbox::ClaimPhase;
use crate::store::checkpoint::{Kept, Which};

/// What is known of one session at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// When it was taken.
    pub now: Timestamp,
    /// Since when this leader has served streams.
    pub serving_since: Timestamp,
    /// The session.
    pub session: AgentSession,
    /// Its pool.
    pub pool: Option<PoolFacts>,
    /// Claims that the session controls, by incarnation.
    pub claims: Vec<ClaimFacts>,
    /// The sandbox that the newest claim names.
    pub sandbox: Option<SandboxFacts>,
    /// The pod of that sandbox.
    pub pod: Option<PodFacts>,
    /// The control stream of that pod.
    pub stream: Option<StreamFacts>,
    /// What the runner of the current incarnation has told.
    pub run: RunFacts,
    /// Credentials that can't be had from where they come, and why.
    pub troubles: Vec<(String, Trouble)>,
    /// What would allow its refused requests.
    pub proposals: Vec<Proposal>,
    /// Whether the pod that the status speaks of still has a stream: it may be taking its last checkpoint.
    pub is_attached: bool,
    /// The checkpoint that the session goes on from.
    pub checkpoint: CheckpointFacts,
    /// What people have said to it.
    pub input: InputFacts,
    /// What it has spent.
    pub spend: SpendFacts,
    /// Where the forge has the pull requests of the session's repository; `None` when it is on none of the install's.
    pub pulls: Option<Pulls>,
}

/// What Postgres holds of the session's state.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum CheckpointFacts {
    /// Nothing depends on it.
    #[default]
    NotAsked,
    /// The database is away.
    Away(String),
    /// There is none.
    Nothing,
    /// This one.
    Kept(Kept),
}

/// What Postgres holds of what people have said.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum InputFacts {
    /// Nothing depends on it.
    #[default]
    NotAsked,
    /// The database is away.
    Away(String),
    /// The number of the newest; 0 when there is none.
    Newest(i64),
}

/// Which checkpoint a pass depends on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CheckpointWanted {
    /// The newest one of the pods before this incarnation.
    Before(i64),
    /// This one.
    Named(Which),
}

/// The pool, as a session needs it.
#[derive(Clone, Debug, Default)]
pub struct PoolFacts {
    /// Warm pool that new claims name; `None` until one is rendered.
    pub serving_pair: Option<String>,
    /// Sandboxes that wait ready in it.
    pub ready_members: i32,
    /// What to do when none waits.
    pub cold_start: ColdStart,
    /// How many more sessions may hold a sandbox; `None` without a limit.
    pub free: Option<i64>,
    /// How long a pod that had to be started may take.
    pub startup_deadline: Option<Duration>,
    /// Whether it opens hosts without a credential.
    pub opens_hosts: bool,
    /// Admission's words when it refuses the pool's pod.
    pub refused: Option<String>,
    /// Until when the breaker holds claims back.
    pub breaker_open_until: Option<Timestamp>,
}

/// One of the session's claims.
#[derive(Clone, Debug)]
pub struct ClaimFacts {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// The incarnation it was made for.
    pub incarnation: i64,
    /// The pair that it names.
    pub pair: String,
    /// When it was made.
    pub created: Timestamp,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Whether this leader has already given it back, though the watch doesn't show it yet.
    pub given_back: bool,
    /// Where it stands.
    pub phase: ClaimPhase,
}

/// The sandbox of a claim.
#[derive(Clone, Debug)]
pub struct SandboxFacts {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Since when it is ready.
    pub ready_since: Option<Timestamp>,
    /// Warm or cold.
    pub launch_type: Option<LaunchType>,
    /// DNS name, where it has one.
    pub service_fqdn: Option<String>,
}

/// The pod of a sandbox.
#[derive(Clone, Debug)]
pub struct PodFacts {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Whether it is going away: being deleted, failed or completed.
    pub ending: bool,
}

/// The control stream of a pod, its identity proven by TokenReview.
#[derive(Clone, Debug, Default)]
pub struct StreamFacts {
    /// Fingerprint of the key that the sidecar proved.
    pub key: String,
    /// Incarnation whose assignment was pushed on this stream.
    pub assigned: Option<i64>,
    /// Incarnation that the sidecar acknowledged, now or before it reconnected.
    pub acknowledged: Option<i64>,
    /// Incarnation whose harness was released on this stream.
    pub started: Option<i64>,
    /// Why this pod may not serve the session.
    pub refused: Option<String>,
    /// What was granted on this stream.
    pub granted: Option<Granted>,
    /// The harness waits for the input after this one.
    pub waits: Option<u64>,
}

/// What a sidecar was granted last.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Granted {
    /// Of the offer.
    pub digest: [u8; 32],
    /// Of the push.
    pub revision: u64,
    /// Whether the sidecar holds it.
    pub acknowledged: bool,
    /// The credentials, by name.
    pub names: Vec<String>,
    /// When the lease was prolonged last.
    pub prolonged: Instant,
}

/// What the runner told. Its word: it moves phase and result, nothing else.
#[derive(Clone, Debug, Default)]
pub struct RunFacts {
    /// The harness runs.
    pub started: bool,
    /// A checkpoint was restored; SHA-256 of what the disk holds.
    pub restored: Option<Vec<u8>>,
    /// The harness has ended.
    pub exited: Option<Exited>,
    /// Whether Postgres holds everything that was told.
    pub durable: bool,
}

/// How a harness ended.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Exited {
    /// Exit status, or 128 + the signal's number.
    pub code: i32,
    /// What the agent left in `result.md`.
    pub summary: String,
    /// Why it could not be started; empty when it ran.
    pub error: String,
    /// Whether it was told to end: its pod goes, or the session is suspended.
    pub stopped: bool,
    /// The branch that was pushed; empty when none was.
    pub branch: String,
    /// Number of its pull request; 0 when there is none.
    pub pull_request: u64,
    /// The last lines of what it wrote, if it failed.
    pub last_lines: String,
    /// Number of this event: how many there are.
    pub events: i64,
    /// When it arrived.
    pub at: Option<Timestamp>,
}

impl ClaimFacts {
    /// Whether it is on its way out: nothing is planned with it any more.
    pub fn is_leaving(&self) -> bool {
        self.deleting || self.given_back
    }
}

impl Snapshot {
    /// What it may spend.
    pub fn limit(&self) -> Option<Pico> {
        Pico::parse(&self.session.spec.budget.as_ref()?.limit)
    }

    /// Since when requests are refused for the budget that it has now.
    pub fn exhausted(&self) -> Option<Timestamp> {
        let (limit, since) = self.spend.exhausted?;
        (self.limit() == Some(limit)).then_some(since)
    }

    /// The status as last written; empty before the first.
    pub fn status(&self) -> AgentSessionStatus {
        self.session.status.clone().unwrap_or_default()
    }

    /// The newest claim that isn't going away.
    pub fn claim(&self) -> Option<&ClaimFacts> {
        self.claims
            .iter()
            .filter(|claim| !claim.is_leaving())
            .max_by_key(|claim| claim.incarnation)
    }

    /// The incarnation that a new claim would be for.
    pub fn next_incarnation(&self) -> i64 {
        let claimed = self.claims.iter().map(|claim| claim.incarnation).max().unwrap_or(0);
        claimed.max(self.status().incarnation) + 1
    }

    /// Whether the author asks for another run than the one that the status speaks of.
    pub fn new_run_wanted(&self) -> bool {
        let status = self.status();
        status.pinned_generation.is_some() && status.run_id != self.session.spec.task.run_id
    }

    /// Credentials that the session lists and its sidecar holds.
    pub fn credentials_held(&self) -> Vec<&str> {
        let granted = self.stream.as_ref().and_then(|stream| stream.granted.as_ref());
        let names = granted
            .filter(|granted| granted.acknowledged)
            .map_or(&[][..], |granted| &granted.names);
        let listed = self
            .session
            .spec
            .credentials
            .iter()
            .map(|credential| credential.name.as_str());
        listed.filter(|name| names.iter().any(|held| held == name)).collect()
    }

    /// Credentials that the session waits for.
    pub fn credentials_missing(&self) -> Vec<&str> {
        let held = self.credentials_held();
        let required = self
            .session
            .spec
            .credentials
            .iter()
            .filter(|credential| credential.required != Some(false));
        required
            .map(|credential| credential.name.as_str())
            .filter(|name| !held.contains(name))
            .collect()
    }

    /// Whether the harness may begin: what the session and its pool may reach is in place.
    pub fn may_begin(&self) -> bool {
        let open = self.pool.as_ref().is_some_and(|pool| pool.opens_hosts);
        let granted = self.stream.as_ref().and_then(|stream| stream.granted.as_ref());
        let waits = open || !self.session.spec.credentials.is_empty();
        !waits || (granted.is_some_and(|granted| granted.acknowledged) && self.credentials_missing().is_empty())
    }

    /// The value of Flux's annotation that asks for a reconcile.
    pub fn requested_at(&self) -> Option<String> {
        self.session
            .metadata
            .annotations
            .as_ref()?
            .get(label::RECONCILE)
            .cloned()
    }
}
