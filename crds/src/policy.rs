//! GrantPolicy: the credential owner's side of a grant.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use kube::core::Duration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::binding::SessionSelector;
use crate::pool::Confinement;
use crate::schema;

/// What bindings may grant, and what they must prove. Permitted is the union of `allow` over all matching policies
/// minus the union of `deny`; the strictest `require` of all that match holds.
#[derive(Clone, CustomResource, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[kube(
    group = "berth.dev",
    version = "v1alpha1",
    kind = "GrantPolicy",
    plural = "grantpolicies",
    singular = "grantpolicy",
    shortname = "gpol",
    category = "berth",
    status = "GrantPolicyStatus",
    derive = "PartialEq",
    doc = "What bindings may grant, and what they must prove.",
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
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct GrantPolicySpec {
    /// Which bindings this policy speaks of; all when left out.
    #[serde(default, rename = "match", skip_serializing_if = "Option::is_none")]
    pub matches: Option<Match>,

    /// What may be granted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "atomic", "x-kubernetes-validations" = schema::unique_names()))]
    pub allow: Vec<AllowRule>,

    /// What may never be granted; stronger than any `allow`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "atomic", "x-kubernetes-validations" = schema::unique_names()))]
    pub deny: Vec<DenyRule>,

    /// What a binding must prove.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub require: Option<Require>,

    /// What the sessions of each namespace may spend on models together; of all policies that match, each holds. Sessions
    /// there need a budget of their own, and hold the whole of it while they live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<NamespaceBudget>,
}

/// What the sessions of a namespace may spend together.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NamespaceBudget {
    /// US dollars as a decimal string, such as `"50.00"`.
    #[schemars(schema_with = "schema::money")]
    pub limit: String,

    /// How long it has to last.
    pub period: Period,
}

/// A part of the calendar, in UTC.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum Period {
    /// From midnight to midnight.
    Day,
    /// From the first day to the last.
    Month,
}

/// Which bindings a policy speaks of.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Match {
    /// Namespaces by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::namespaces")]
    pub namespaces: Vec<String>,

    /// Namespaces by label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<SessionSelector>,

    /// Repositories that the binding's document stands in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "atomic", "x-kubernetes-validations" = schema::unique_names()))]
    pub repositories: Vec<Repositories>,
}

/// One repository, by what the forge calls it for ever.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Repositories {
    /// Name of the entry, unique in the list.
    #[schemars(schema_with = "schema::item_name")]
    pub name: String,

    /// Name of the forge in the install's configuration.
    #[schemars(schema_with = "schema::dns_name")]
    pub forge: String,

    /// The forge's id of the repository: names can be taken over, ids can't.
    #[serde(rename = "repositoryID")]
    #[schemars(range(min = 1))]
    pub repository_id: i64,

    /// Branch that counts.
    #[schemars(schema_with = "schema::git_ref")]
    pub branch: String,

    /// Folder that the document must stand in; the whole repository when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::repository_folder")]
    pub path: Option<String>,
}

/// What may be granted.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AllowRule {
    /// Name of the rule, unique in the list.
    #[schemars(schema_with = "schema::item_name")]
    pub name: String,

    /// Which credentials, by where their values come from; never by the name that a binding gives them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sources: Option<SourceSet>,

    /// Hosts, exact or `*.example.com` for one label.
    #[schemars(schema_with = "schema::host_patterns")]
    pub hosts: Vec<String>,

    /// Methods; all when left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::methods")]
    pub methods: Vec<String>,

    /// Path patterns; all when left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::paths")]
    pub paths: Vec<String>,
}

/// What may never be granted. What is left out means everything.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DenyRule {
    /// Name of the rule, unique in the list.
    #[schemars(schema_with = "schema::item_name")]
    pub name: String,

    /// Which credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sources: Option<SourceSet>,

    /// Hosts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::host_patterns")]
    pub hosts: Vec<String>,

    /// Methods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::methods")]
    pub methods: Vec<String>,

    /// Path patterns.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::paths")]
    pub paths: Vec<String>,
}

/// Credentials by where their values come from.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceSet {
    /// Secrets, as `name/key`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::secret_keys")]
    pub secrets: Vec<String>,

    /// GitHub App installations, by id.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::ids")]
    pub installations: Vec<i64>,

    /// OAuth 2.0 clients, by client id.
    #[serde(default, rename = "clientIDs", skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::client_ids")]
    pub client_ids: Vec<String>,

    /// LiteLLM gateways whose keys, by their names in the install's configuration.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::gateways")]
    pub gateways: Vec<String>,
}

/// What a binding must prove.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Require {
    /// The author's commit is signed by a person's key.
    #[serde(default, skip_serializing_if = "schema::is_false")]
    pub signed_commits: bool,

    /// The pull request was reviewed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub review: Option<Review>,

    /// Longest time between grant and `expiresAt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub max_duration: Option<Duration>,

    /// Longest lease of a sidecar, 10s to 15m; 60s when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::lease")]
    pub max_lease: Option<Duration>,

    /// Whether the session too must come from git.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "SessionDelivery")]
    pub session_delivery: Option<SessionDelivery>,

    /// The least confinement of the session's pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Confinement")]
    pub min_confined: Option<Confinement>,

    /// Images that the session's pool may run, as prefixes or digests.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::images")]
    pub images: Vec<String>,

    /// What happens to grants whose source can't be looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_stale: Option<OnStale>,

    /// Whether bindings made with kubectl, by someone with verb `grant`, are accepted.
    #[serde(default, skip_serializing_if = "schema::is_false")]
    pub direct: bool,
}

/// How a pull request must have been reviewed.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Review {
    /// How many approvals.
    #[schemars(range(min = 1, max = 10))]
    pub min_approvals: i32,

    /// Teams, one of which each approver must belong to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::teams")]
    pub teams: Vec<String>,

    /// Whether the author's own approval is left out of the count; true when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forbid_self_approval: Option<bool>,
}

/// Where a session must come from.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum SessionDelivery {
    /// From anywhere.
    #[default]
    Any,
    /// From git.
    Git,
}

/// What happens to grants whose source can't be looked at.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OnStale {
    /// After this long.
    #[schemars(schema_with = "schema::duration")]
    pub after: Duration,

    /// Keep or deny.
    pub action: StaleAction,
}

/// Keep or deny.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum StaleAction {
    /// Keep the grants.
    #[default]
    Keep,
    /// Deny them until the source can be looked at again.
    Deny,
}

/// A level of evidence.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum Evidence {
    /// It stands on the branch.
    #[default]
    Branch,
    /// A person's key signed it.
    Signed,
    /// A pull request was reviewed.
    Reviewed,
}

/// What is known of a policy.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GrantPolicyStatus {
    /// Generation of the spec that this status speaks of.
    #[serde(default)]
    pub observed_generation: i64,

    /// The policy's state in conditions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
