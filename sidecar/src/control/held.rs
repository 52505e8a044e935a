//! What the pod is bound to, as it is kept over restarts of the container.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use berth_protocol::{control, environment, handoff};
use serde::{Deserialize, Serialize};

use super::gate::Gate;
use super::relay;
use crate::listen::PROXY_PORT;

/// Everything that outlives this process.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Held {
    /// What of the leaders was seen.
    pub gate: Gate,
    /// The one incarnation that this pod serves; `None` while it is warm.
    pub bound: Option<Bound>,
}

/// The incarnation that a pod serves.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Bound {
    /// UID of the session.
    pub session_uid: String,
    /// Which attempt at it.
    pub incarnation: u64,
    /// What the runner gets.
    pub assignment: handoff::Assignment,
    /// Grows when the assignment is replaced, which happens only before the start.
    pub version: u64,
    /// How far it is.
    pub stage: Stage,
    /// Whether the controller has ended it.
    pub suspended: bool,
    /// Whether `started` has been told.
    pub started_told: bool,
    /// Violations told; see [`super::bond`] for the limit.
    pub violations: u32,
    /// What the agent has in place of each credential; it outlives the process, as the agent's environment does.
    #[serde(default)]
    pub stubs: BTreeMap<String, String>,
    /// State changes that aren't acknowledged yet, by number: protobuf in base64. They outlive the process.
    pub states: BTreeMap<u64, String>,
}

/// How far an incarnation is. It only ever moves on.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub enum Stage {
    /// The controller has assigned it.
    Assigned,
    /// The controller has released the harness.
    Released,
    /// A runner was told to start it: from here on no runner is told so again.
    Started,
    /// Its end was told.
    Over,
}

impl Bound {
    /// A fresh assignment.
    pub fn new(assigned: control::Assignment) -> Self {
        Self {
            session_uid: assigned.session_uid.clone(),
            incarnation: assigned.incarnation,
            stubs: assigned.stubs.clone().into_iter().collect(),
            assignment: for_runner(assigned),
            version: 1,
            stage: Stage::Assigned,
            suspended: false,
            started_told: false,
            violations: 0,
            states: BTreeMap::new(),
        }
    }

    /// Whether the message is about this incarnation of this session.
    pub fn is(&self, assigned: &control::Assignment) -> bool {
        self.session_uid == assigned.session_uid && self.incarnation == assigned.incarnation
    }
}

/// The part of an assignment that the agent's side may see: all of it is configuration. What an author sets can't take
/// the place of the proxy's variables or of a stub; the schema refuses it, and so does the order here.
pub fn for_runner(assigned: control::Assignment) -> handoff::Assignment {
    let task = assigned.task.unwrap_or_default();
    let proxy = SocketAddr::from(([127, 0, 0, 1], PROXY_PORT));
    let mut env: BTreeMap<String, String> = assigned.env.into_iter().collect();
    env.extend(environment::of(HANDOFF, proxy));
    env.extend(assigned.stubs);
    handoff::Assignment {
        namespace: assigned.namespace,
        name: assigned.name,
        incarnation: assigned.incarnation,
        prompt: task.prompt,
        interactive: task.interactive,
        run_id: task.run_id,
        model: assigned.model,
        env,
        command: assigned.command,
        repository: assigned.repository.map(|repository| handoff::Repository {
            url: repository.url,
            r#ref: repository.r#ref,
            branch: repository.branch,
            credential: repository.credential,
            pull_request: repository.pull_request.map(|wanted| handoff::PullRequest {
                api: wanted.api,
                base: wanted.base,
            }),
        }),
        restore: assigned.restore.map(relay::restore),
        checkpoints: assigned.checkpoints,
    }
}

/// Where the agent's container has the `handoff` volume (DESIGN §6).
const HANDOFF: &str = "/berth/handoff";
