//! AgentPool: warm sandboxes of one shape.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, ResourceRequirements, Toleration};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use kube::core::Duration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::harness::Harness;
use crate::schema;

/// Warm sandboxes of one shape, and how sessions use them.
#[derive(Clone, CustomResource, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[kube(
    group = "berth.dev",
    version = "v1alpha1",
    kind = "AgentPool",
    plural = "agentpools",
    shortname = "agpool",
    category = "berth",
    namespaced,
    status = "AgentPoolStatus",
    derive = "PartialEq",
    doc = "Warm sandboxes of one shape, and how sessions use them.",
    selectable = ".spec.harness.kind",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(name = "Harness", type_ = "string", json_path = ".spec.harness.kind"),
    printcolumn(name = "Warm", type_ = "string", json_path = ".status.warm"),
    printcolumn(name = "Sessions", type_ = "integer", json_path = ".status.sessions"),
    printcolumn(name = "Confined", type_ = "string", json_path = ".status.confinement"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        priority = 1
    ),
    printcolumn(name = "Current", type_ = "string", json_path = ".status.current", priority = 1),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
pub struct AgentPoolSpec {
    /// What runs in the agent container.
    pub harness: Harness,

    /// How many sandboxes wait warm.
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: i32,

    /// `Allow` (default) starts a pod when none waits; `Wait` lets the session wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ColdStart")]
    pub cold_start: Option<ColdStart>,

    /// How many sessions may hold a sandbox at once; without a limit when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub max_sessions: Option<i32>,

    /// How long a pod that had to be started may take; 10m when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub startup_deadline: Option<Duration>,

    /// RuntimeClass of the pods, such as `gvisor`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::dns_name")]
    pub runtime_class_name: Option<String>,

    /// Resources of the agent container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,

    /// The agent's working directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<Workspace>,

    /// The model gateway that sessions of this pool use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Gateway>,

    /// What the pods may reach without a credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<PoolEgress>,

    /// What keeps the agent from going round the sidecar: `Fence` (default), `NetworkPolicy` or `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Confinement")]
    pub confinement: Option<Confinement>,

    /// ConfigMap, in this namespace, with certificates (key `ca.crt`) that upstreams are verified with besides the
    /// platform's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_bundle_ref: Option<SecretName>,

    /// Secrets for pulling the agent's image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "atomic"))]
    pub image_pull_secrets: Vec<SecretName>,

    /// Labels of nodes that the pods may run on.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::labels")]
    pub node_selector: BTreeMap<String, String>,

    /// Taints that the pods tolerate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "atomic"))]
    pub tolerations: Vec<Toleration>,

    /// Affinity of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,

    /// PriorityClass of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::dns_name")]
    pub priority_class_name: Option<String>,
}

/// What happens when no warm sandbox waits.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum ColdStart {
    /// Start a pod for the session.
    #[default]
    Allow,
    /// Let the session wait for a warm one.
    Wait,
}

/// What keeps the agent from going round the sidecar.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum Confinement {
    /// Rules in the pod's own network namespace, loaded before the agent starts.
    #[default]
    Fence,
    /// A NetworkPolicy alone: it needs a network plugin that enforces it, and can't tell agent from sidecar.
    NetworkPolicy,
    /// Nothing. For images that are trusted with whatever the pod can reach.
    None,
}

/// The agent's working directory, `/workspace`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Workspace {
    /// Its size; 1Gi when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::quantity")]
    pub storage: Option<Quantity>,
}

/// A model gateway of the install's configuration.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Gateway {
    /// Name of the gateway in the install's configuration.
    #[schemars(schema_with = "schema::dns_name")]
    pub name: String,

    /// Models that sessions may ask it for; all it offers when left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::models")]
    pub models: Vec<String>,
}

/// What the pods may reach without a credential.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolEgress {
    /// Hosts that are open.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "atomic", "x-kubernetes-validations" = schema::unique_names()))]
    pub routes: Vec<EgressRoute>,
}

/// A host that is open without a credential.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EgressRoute {
    /// Name of the route, unique in the list.
    #[schemars(schema_with = "schema::item_name")]
    pub name: String,

    /// Host, exact or `*.example.com` for one label.
    #[schemars(schema_with = "schema::host_pattern")]
    pub host: String,

    /// Ports; 443 when left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::ports")]
    pub ports: Vec<i32>,

    /// Methods; all when left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::methods")]
    pub methods: Vec<String>,

    /// Path patterns; all when left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::paths")]
    pub paths: Vec<String>,

    /// Networks that the host may resolve to although they aren't public, such as `10.0.0.0/8`. Metadata services are
    /// never reached.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::networks")]
    pub addresses: Vec<String>,

    /// Whether an upgrade to WebSocket is allowed.
    #[serde(default, skip_serializing_if = "schema::is_false")]
    pub websocket: bool,

    /// What becomes of a connection: `Terminate` (default), `Passthrough` for programs that pin their server, or
    /// `Plain` for http.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "EgressTls")]
    pub tls: Option<EgressTls>,
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum EgressTls {
    /// TLS ends at the sidecar, which judges each request.
    #[default]
    Terminate,
    /// TLS is passed on unread; only host and port are judged.
    Passthrough,
    /// HTTP without TLS.
    Plain,
}

/// Names a Secret or ConfigMap of the same namespace.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretName {
    /// Its name.
    #[schemars(schema_with = "schema::dns_name")]
    pub name: String,
}

/// What is known of a pool.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentPoolStatus {
    /// Generation of the spec that this status speaks of.
    #[serde(default)]
    pub observed_generation: i64,

    /// The pool's state in conditions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,

    /// Name of the SandboxTemplate and SandboxWarmPool that new claims use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,

    /// Older pairs that still have members, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::pair_names")]
    pub draining: Vec<String>,

    /// SHA-256 of each pair's pod spec as rendered, by the pair's name: what live pods are compared with.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::renderings")]
    pub renderings: BTreeMap<String, String>,

    /// Sandboxes that wait, as `2/3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warm: Option<String>,

    /// Sessions that hold a sandbox of this pool; written when the state changes, not with every session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions: Option<i64>,

    /// What keeps the agent from going round the sidecar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Confinement")]
    pub confinement: Option<Confinement>,

    /// The value of annotation `reconcile.fluxcd.io/requestedAt` that was handled last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handled_reconcile_at: Option<String>,
}
