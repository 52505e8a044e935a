//! AgentSession: one task for one agent, from commit to result.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use kube::core::Duration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema;

/// One task for one agent. Berth binds a warm sandbox to it, runs the task there and reports here.
/// Berth never deletes an AgentSession: it stays until its author removes it.
#[derive(Clone, CustomResource, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[kube(
    group = "berth.dev",
    version = "v1alpha1",
    kind = "AgentSession",
    plural = "agentsessions",
    shortname = "ags",
    category = "berth",
    namespaced,
    status = "AgentSessionStatus",
    derive = "PartialEq",
    doc = "One task for one agent. Berth binds a warm sandbox to it, runs the task there and reports here.",
    selectable = ".spec.poolRef.name",
    selectable = ".status.sandbox.claimName",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Pool", type_ = "string", json_path = ".spec.poolRef.name"),
    printcolumn(name = "Sandbox", type_ = "string", json_path = ".status.sandbox.name"),
    printcolumn(name = "Creds", type_ = "string", json_path = ".status.credentialsSummary"),
    printcolumn(name = "PR", type_ = "string", json_path = ".status.result.pullRequest"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        priority = 1
    ),
    printcolumn(name = "Commit", type_ = "string", json_path = ".status.source.commit", priority = 1),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
pub struct AgentSessionSpec {
    /// The AgentPool, in this namespace, whose warm sandboxes this session uses.
    pub pool_ref: PoolRef,

    /// What the agent is to do. Pinned when the sandbox is claimed: a later edit takes effect with a new `runID`.
    pub task: Task,

    /// Model that the harness asks for. `OpenCode` and `Hermes` need it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::model")]
    pub model: Option<String>,

    /// Repository that the agent works on: cloned into the workspace before the harness starts, by the session's own grant; its
    /// `branch` is pushed when the harness has ended well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<Repository>,

    /// Configuration for the harness. Never a secret: use a CredentialBinding. Names of proxies, TLS files, loaders
    /// and `BERTH_*` are refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub env: Vec<EnvVar>,

    /// Credentials that this session may use, by the name its process sees. A session gets only what it lists, and
    /// only while a CredentialBinding grants it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub credentials: Vec<CredentialUse>,

    /// What the session may spend on models.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,

    /// When the session is suspended, released and ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifecycle: Option<Lifecycle>,

    /// End the sandbox and keep the session. Credentials are revoked at once.
    #[serde(default, skip_serializing_if = "schema::is_false")]
    pub suspend: bool,
}

/// Names an AgentPool of the same namespace.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolRef {
    /// Name of the AgentPool.
    #[schemars(schema_with = "schema::object_name")]
    pub name: String,
}

/// What the agent is to do.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Task {
    /// The instruction, given to the harness on standard input; to `Hermes` as an argument, at most 128 KiB.
    #[schemars(length(min = 1, max = 65536))]
    pub prompt: String,

    /// `RunToCompletion` (default) ends with the harness; `Interactive` stays and waits for what people say
    /// to it by the API (docs/agents.md).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "TaskMode")]
    pub mode: Option<TaskMode>,

    /// The author's name for this run. A new value runs the task again, with the spec as it is then.
    #[serde(default, rename = "runID", skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::run_id")]
    pub run_id: Option<String>,

    /// What happens when the pod is lost while the harness runs: `Report` (default) ends the run, `Resume` goes on in another
    /// pod from the last checkpoint. A `Custom` harness then gets its prompt again, with `BERTH_RESUMED_FROM` set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "OnInterrupt")]
    pub on_interrupt: Option<OnInterrupt>,

    /// How often a failed task is run again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10))]
    pub retries: Option<i32>,
}

/// How a task ends.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum TaskMode {
    /// The session ends with the harness.
    #[default]
    RunToCompletion,
    /// The session waits for more input.
    Interactive,
}

/// What to do when a pod is lost after the harness started.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum OnInterrupt {
    /// Continue from the last checkpoint in a new pod.
    Resume,
    /// Report the interruption and run nothing again.
    #[default]
    Report,
}

/// Repository that the agent works on.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Repository {
    /// Clone URL, https or http, without user or password.
    #[schemars(schema_with = "schema::http_url")]
    pub url: String,

    /// Branch, tag or commit to start from; the repository's default branch when left out.
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::git_ref")]
    pub reference: Option<String>,

    /// Branch that the session works on and pushes to; gone on with where it is there already. Nothing is pushed when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::git_ref")]
    pub branch: Option<String>,

    /// Whether a pull request is opened for the branch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_request: Option<PullRequest>,
}

/// The pull request that a session opens.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PullRequest {
    /// Whether to open one when the task succeeds: by the session's own credential for the repository, which needs a route
    /// for GET and POST to the forge's list of pull requests. One that is open for the branch already is taken.
    pub open: bool,

    /// Branch that it asks to be merged into; the repository's default branch when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::git_ref")]
    pub base: Option<String>,
}

/// One environment variable of the harness.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = schema::env_rules()))]
pub struct EnvVar {
    /// Name of the variable.
    #[schemars(schema_with = "schema::env_name")]
    pub name: String,

    /// Its value. Not a place for secrets: anyone who may read the session reads it.
    #[schemars(length(max = 4096))]
    pub value: String,
}

/// One credential that a session lists.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CredentialUse {
    /// The credential's name, as in `CredentialBinding.spec.credential.name`.
    #[schemars(schema_with = "schema::env_name")]
    pub name: String,

    /// Whether the session waits for it; true when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub required: Option<bool>,
}

/// What a session may spend.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Budget {
    /// US dollars as a decimal string, such as `"5.00"`.
    #[schemars(schema_with = "schema::money")]
    pub limit: String,
}

/// When a session is suspended, released and ended. Live: an edit takes effect at once.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Lifecycle {
    /// Give the sandbox of an interactive session back once it has waited for input this long; the next input continues it
    /// from its checkpoint. Needs `task.onInterrupt: Resume`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub idle_suspend_after: Option<Duration>,

    /// End an interactive session once it has waited for input this long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub idle_release_after: Option<Duration>,

    /// End the session this long after its sandbox was claimed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub max_duration: Option<Duration>,

    /// Keep the sandbox of a finished task this long, to look at it; 0s when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub release_after_finished: Option<Duration>,
}

/// What is known of a session.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentSessionStatus {
    /// Generation of the spec that this status speaks of.
    #[serde(default)]
    pub observed_generation: i64,

    /// For people only; programs read the conditions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Phase")]
    pub phase: Option<Phase>,

    /// The session's state in conditions; `Ready` says whether the world matches the spec.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,

    /// Which attempt at a pod this is, from 1; 0 before the first.
    #[serde(default)]
    pub incarnation: i64,

    /// How many attempts have failed to bind in a row.
    #[serde(default, skip_serializing_if = "schema::is_zero")]
    pub failed_binds: i64,

    /// When the last attempt was given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failed_bind: Option<Time>,

    /// Generation whose spec this run uses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pinned_generation: Option<i64>,

    /// SHA-256 of the pinned fields, to tell an edit of them from another edit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pinned_spec: Option<String>,

    /// `task.runID` of this run.
    #[serde(default, rename = "runID", skip_serializing_if = "Option::is_none")]
    pub run_id: Option<String>,

    /// The sandbox that serves the session now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<SandboxStatus>,

    /// Credentials granted of those listed, as `3/4`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_summary: Option<String>,

    /// The last checkpoint that a pod continued from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume: Option<Resume>,

    /// How often this run went on in another pod.
    #[serde(default, skip_serializing_if = "schema::is_zero")]
    pub resumes: i64,

    /// Why a session that has begun holds no sandbox, though nothing was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<Paused>,

    /// How the task ended. The runner's word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<SessionResult>,

    /// What the session has spent; written at 50, 80 and 100 % of the budget and when the phase changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spend: Option<Spend>,

    /// Where the session came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceStatus>,

    /// Why the session has no sandbox any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped_reason: Option<String>,

    /// What would allow requests that were refused: the agent's wishes, for a person to judge.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 5), extend("x-kubernetes-list-type" = "atomic"))]
    pub proposals: Vec<Proposal>,

    /// The value of annotation `reconcile.fluxcd.io/requestedAt` that was handled last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handled_reconcile_at: Option<String>,
}

/// Why a session rests, and since when.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Paused {
    /// Why.
    pub reason: PauseReason,

    /// Since when it has had nothing to do.
    pub since: Time,

    /// The budget that it has spent: with another it goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::money")]
    pub limit: Option<String>,
}

/// Why a session rests.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum PauseReason {
    /// It has waited for input longer than `lifecycle.idleSuspendAfter`.
    Idle,
    /// It has spent its budget.
    BudgetExhausted,
}

/// A refused request, and the least binding that would allow it. An agent can be prompted to ask for anything.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Proposal {
    /// When it was seen first.
    pub at: Time,

    /// Name of the credential.
    #[schemars(length(max = 64))]
    pub credential: String,

    /// Method of the request.
    #[schemars(length(max = 20))]
    pub method: String,

    /// Host and port.
    #[schemars(length(max = 262))]
    pub host: String,

    /// Path, without the query.
    #[schemars(length(max = 512))]
    pub path: String,

    /// A CredentialBinding as YAML, to be put into a pull request as it is: one method, one path, one session, one day.
    #[schemars(length(max = 8192))]
    pub binding: String,
}

/// Where a session stands, for people.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
pub enum Phase {
    /// No sandbox is bound yet.
    #[default]
    Pending,
    /// A sidecar holds the assignment; the harness isn't started yet.
    Bound,
    /// The harness runs.
    Running,
    /// The task ended well.
    Succeeded,
    /// The task ended badly, or can't be run.
    Failed,
    /// `spec.suspend` is set, or it has been idle for long.
    Suspended,
    /// It has spent its budget, and goes on with a larger one.
    Paused,
}

impl Phase {
    /// Every phase.
    pub const ALL: &[Self] = &[
        Self::Pending,
        Self::Bound,
        Self::Running,
        Self::Succeeded,
        Self::Failed,
        Self::Suspended,
        Self::Paused,
    ];

    /// The name in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Bound => "Bound",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
            Self::Suspended => "Suspended",
            Self::Paused => "Paused",
        }
    }
}

/// The sandbox of an incarnation.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SandboxStatus {
    /// Name of the SandboxClaim.
    pub claim_name: String,
    /// UID of the SandboxClaim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim_uid: Option<String>,
    /// Name of the Sandbox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// UID of the Sandbox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Name of the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_name: Option<String>,
    /// UID of the pod.
    #[serde(default, rename = "podUID", skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,
    /// Whether the pod was waiting or had to be started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "LaunchType")]
    pub launch_type: Option<LaunchType>,
    /// DNS name of the sandbox, where it has one.
    #[serde(default, rename = "serviceFQDN", skip_serializing_if = "Option::is_none")]
    pub service_fqdn: Option<String>,
    /// SHA-256 of the key that the sidecar proved; another key for this pod is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream_key: Option<String>,
    /// When the claim was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claimed_at: Option<Time>,
    /// When the sidecar acknowledged the assignment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound_at: Option<Time>,
    /// When the harness was released.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
}

/// How a sandbox came to be.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LaunchType {
    /// A waiting pod was adopted.
    Warm,
    /// A pod was started for this session.
    Cold,
}

impl LaunchType {
    /// The name in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Warm => "warm",
            Self::Cold => "cold",
        }
    }
}

/// A checkpoint that was restored.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Resume {
    /// The incarnation that goes on from it.
    pub incarnation: i64,
    /// The incarnation that took it, a slash, and its number there.
    #[schemars(length(max = 64))]
    pub checkpoint: String,
    /// `Complete`, `TranscriptOnly` or `Incomplete`; empty until the runner says what it has restored.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 64))]
    pub verdict: String,
    /// What was restored, and what wasn't by name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 4096))]
    pub message: String,
    /// When.
    pub at: Time,
}

/// How a task ended.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionResult {
    /// What the agent left in `result.md`, at most 4 KiB of it. The agent's word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
    /// Exit status of the harness, or 128 + the signal's number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// URL of the pull request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_request: Option<String>,
    /// Branch that was pushed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// Number of the last event of the run, so that missing ones can be counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events: Option<i64>,
    /// When the task ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Time>,
}

/// What a session has spent.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Spend {
    /// US dollars as a decimal string: by what the session's sidecars saw, and for requests whose answers didn't say by what the
    /// gateway says.
    pub usd: String,
    /// What the session's gateways say, asked once it has been quiet for 20 s.
    #[serde(default, rename = "gatewayUSD", skip_serializing_if = "Option::is_none")]
    pub gateway_usd: Option<String>,
    /// By how much that is more than what the sidecars saw, or less: `-0.0100`. What a request may have cost at most counts as
    /// seen.
    #[serde(default, rename = "differenceUSD", skip_serializing_if = "Option::is_none")]
    pub difference_usd: Option<String>,
}

/// The commit that an object came from. Says where to look; proves nothing.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceStatus {
    /// URL of the repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// Path of the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The last commit that changed the document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// The author that the commit names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
}

impl SourceStatus {
    /// Reads the provenance annotations, `None` when there are none.
    pub fn from_annotations(annotations: &BTreeMap<String, String>) -> Option<Self> {
        let get = |key: &str| annotations.get(key).cloned();
        let found = Self {
            repository: get(crate::label::REPOSITORY),
            path: get(crate::label::PATH),
            commit: get(crate::label::COMMIT),
            author: get(crate::label::AUTHOR),
        };
        (found != Self::default()).then_some(found)
    }
}
