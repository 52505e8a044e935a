//! What the pod is bound to, as it is kept over restarts of the container.

use std::collections::BTreeMap;

use berth_protocol::{control, handoff};
use serde::{Deserialize, Serialize};

use super::gate::Gate;

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

/// The part of an assignment that the agent's side may see: all of it is configuration.
pub fn for_runner(assigned: control::Assignment) -> handoff::Assignment {
    let task = assigned.task.unwrap_or_default();
    handoff::Assignment {
        namespace: assigned.namespace,
        name: assigned.name,
        incarnation: assigned.incarnation,
        prompt: task.prompt,
        interactive: task.interactive,
        run_id: task.run_id,
        model: assigned.model,
        env: assigned.env.into_iter().collect(),
        command: assigned.command,
        repository: assigned.repository.map(|repository| handoff::Repository {
            url: repository.url,
            r#ref: repository.r#ref,
            branch: repository.branch,
        }),
    }
}
