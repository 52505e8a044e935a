//! GitSource: the branch that sessions, pools and bindings of a namespace come from.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use kube::core::Duration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema;

/// A branch of a git repository. Its AgentSessions, AgentPools and CredentialBindings are applied in this namespace.
#[derive(Clone, CustomResource, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[kube(
    group = "berth.dev",
    version = "v1alpha1",
    kind = "GitSource",
    plural = "gitsources",
    shortname = "gsrc",
    category = "berth",
    namespaced,
    status = "GitSourceStatus",
    derive = "PartialEq",
    doc = "A branch of a git repository. Its AgentSessions, AgentPools and CredentialBindings are applied in this namespace.",
    selectable = ".spec.url",
    printcolumn(name = "URL", type_ = "string", json_path = ".spec.url"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason"
    ),
    printcolumn(name = "Applied", type_ = "integer", json_path = ".status.appliedObjects"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Revision",
        type_ = "string",
        json_path = ".status.lastAppliedRevision",
        priority = 1
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
pub struct GitSourceSpec {
    /// Clone URL: https, http or ssh. User and password belong into the Secret.
    #[schemars(schema_with = "schema::git_url")]
    pub url: String,

    /// What of the repository is followed.
    #[serde(rename = "ref")]
    pub reference: GitRef,

    /// Paths that are read, as globs such as `agents/**`; every `*.yaml`, `*.yml` and `*.json` when left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::globs")]
    pub include: Vec<String>,

    /// Paths that are not read, as globs; stronger than `include`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::globs")]
    pub exclude: Vec<String>,

    /// How often the branch is looked at; 30s when left out. At least 5s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::interval")]
    pub interval: Option<Duration>,

    /// Secret with Flux's keys: `username` and `password`, `bearerToken`, `ca.crt`, `identity` and `known_hosts`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<LocalSecretRef>,

    /// A push event that asks for a look before the interval is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<Webhook>,

    /// What a tip must prove to be used at all. It adds requirements; it is never evidence for a grant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<Verify>,

    /// `Apply` (default), or `Observe` when Flux or Argo CD applies and Berth only looks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "SourceMode")]
    pub mode: Option<SourceMode>,

    /// Delete what has left the branch. False leaves sessions and pools alone; bindings that left go at once, always.
    #[serde(default, skip_serializing_if = "schema::is_false")]
    pub prune: bool,

    /// Look no more at the branch. Never keeps a grant alive.
    #[serde(default, skip_serializing_if = "schema::is_false")]
    pub suspend: bool,
}

/// What of a repository is followed.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GitRef {
    /// Name of the branch.
    #[schemars(schema_with = "schema::git_ref")]
    pub branch: String,
}

/// Names a Secret of the same namespace.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LocalSecretRef {
    /// Name of the Secret.
    #[schemars(schema_with = "schema::dns_name")]
    pub name: String,
}

/// A push event's shared secret.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Webhook {
    /// Secret whose key `token` the forge signs its events with.
    pub secret_ref: LocalSecretRef,
}

/// What a tip must prove to be used.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verify {
    /// Secret with SSH public keys (`*.sshpub`), as Flux's.
    pub secret_ref: LocalSecretRef,
}

/// Who applies what a source holds.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum SourceMode {
    /// Berth does.
    #[default]
    Apply,
    /// Flux or Argo CD does; Berth only looks.
    Observe,
}

/// What is known of a source.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GitSourceStatus {
    /// Generation of the spec that this status speaks of.
    #[serde(default)]
    pub observed_generation: i64,

    /// The source's state in conditions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,

    /// The tip that was applied last, as `main@sha1:…` (Flux's form).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_applied_revision: Option<String>,

    /// The tip that was looked at last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_attempted_revision: Option<String>,

    /// When the tip last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_changed_at: Option<Time>,

    /// When the branch last left the tip that it had: evidence from before counts for nothing new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewound_at: Option<Time>,

    /// Objects of the tip that are applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied_objects: Option<i64>,

    /// Documents and objects of the tip with an error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_objects: Option<i64>,

    /// Documents of kinds that aren't Berth's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped_documents: Option<i64>,

    /// The first 20 errors.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20), extend("x-kubernetes-list-type" = "atomic"))]
    pub errors: Vec<SourceError>,

    /// Path of the webhook on the controller's HTTP port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook_path: Option<String>,

    /// The value of annotation `reconcile.fluxcd.io/requestedAt` that was handled last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handled_reconcile_at: Option<String>,
}

/// One document or object that could not be applied.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceError {
    /// Where: `path:line:column`.
    pub at: String,
    /// Kind and name, where the document says them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// What is wrong and what to do.
    pub message: String,
}
