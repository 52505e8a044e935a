//! Narrow typed views of agent-sandbox's four kinds.

use std::collections::BTreeMap;

use k8s_openapi::api::networking::v1::{NetworkPolicyEgressRule, NetworkPolicyIngressRule};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, OwnerReference, Time};
use kube::CustomResource;
use kube::api::ObjectMeta;
use serde::{Deserialize, Serialize};

/// Spec of a SandboxClaim, as far as we write it.
#[derive(Clone, CustomResource, Debug, Default, Deserialize, PartialEq, Serialize)]
#[kube(
    group = "extensions.agents.x-k8s.io",
    version = "v1beta1",
    kind = "SandboxClaim",
    namespaced,
    schema = "disabled",
    status = "SandboxClaimStatus",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct SandboxClaimSpec {
    /// The warm pool that the sandbox is taken from.
    pub warm_pool_ref: NameRef,
    /// When it ends by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifecycle: Option<ClaimLifecycle>,
    /// Put on the adopted pod, live. Never `env` or volumes: they would force a cold start (DESIGN §1.5).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub additional_pod_metadata: Option<PodMetadata>,
}

/// Names an object of the same namespace.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct NameRef {
    /// Its name.
    pub name: String,
}

/// When a claim ends by itself, even while we are down.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimLifecycle {
    /// At this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shutdown_time: Option<Time>,
    /// What is done then; we always write `Delete`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shutdown_policy: Option<String>,
}

/// Labels and annotations of a pod.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct PodMetadata {
    /// Labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// Status of a SandboxClaim, as far as we read it.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SandboxClaimStatus {
    /// `Ready` and, once terminal, `Finished`.
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// The sandbox that serves the claim.
    #[serde(default)]
    pub sandbox: Option<ClaimedSandbox>,
}

/// The sandbox that serves a claim.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimedSandbox {
    /// Its name.
    #[serde(default)]
    pub name: Option<String>,
}

/// Spec of a Sandbox: we read none of it.
#[derive(Clone, CustomResource, Debug, Default, Deserialize, PartialEq, Serialize)]
#[kube(
    group = "agents.x-k8s.io",
    version = "v1beta1",
    kind = "Sandbox",
    plural = "sandboxes",
    namespaced,
    schema = "disabled",
    status = "SandboxStatus",
    derive = "PartialEq"
)]
pub struct SandboxSpec {}

/// Status of a Sandbox, as far as we read it.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SandboxStatus {
    /// `Ready`, `Suspended`, `Finished`.
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// DNS name, where a Service was asked for.
    #[serde(default, rename = "serviceFQDN")]
    pub service_fqdn: Option<String>,
}

/// Spec of a SandboxTemplate, as we write it; what somebody has taken out of one is read as empty.
#[derive(Clone, CustomResource, Debug, Default, Deserialize, PartialEq, Serialize)]
#[kube(
    group = "extensions.agents.x-k8s.io",
    version = "v1beta1",
    kind = "SandboxTemplate",
    namespaced,
    schema = "disabled",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase", default)]
pub struct SandboxTemplateSpec {
    /// Metadata and spec of the pods. The spec is JSON as rendered: the schema embeds all of Kubernetes' PodSpec.
    pub pod_template: PodTemplate,
    /// Rules that replace agent-sandbox's own.
    pub network_policy: TemplateNetworkPolicy,
    /// `Managed`.
    pub network_policy_management: String,
    /// `Disallowed`: a claim may not bring variables.
    pub env_vars_injection_policy: String,
    /// `Disallowed`: a claim may not bring volumes.
    pub volume_claim_templates_policy: String,
}

/// Metadata and spec of a template's pods.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct PodTemplate {
    /// Labels and annotations; never a key that a claim sets.
    pub metadata: PodMetadata,
    /// The rendered pod spec.
    pub spec: serde_json::Value,
}

/// Rules of the NetworkPolicy that agent-sandbox makes for a template.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct TemplateNetworkPolicy {
    /// What may reach the pods.
    pub ingress: Vec<NetworkPolicyIngressRule>,
    /// What the pods may reach.
    pub egress: Vec<NetworkPolicyEgressRule>,
}

/// Spec of a SandboxWarmPool.
#[derive(Clone, CustomResource, Debug, Default, Deserialize, PartialEq, Serialize)]
#[kube(
    group = "extensions.agents.x-k8s.io",
    version = "v1beta1",
    kind = "SandboxWarmPool",
    namespaced,
    schema = "disabled",
    status = "SandboxWarmPoolStatus",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct SandboxWarmPoolSpec {
    /// How many sandboxes wait.
    pub replicas: i32,
    /// The template they are made of.
    pub sandbox_template_ref: NameRef,
}

/// Status of a SandboxWarmPool, as far as we read it.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SandboxWarmPoolStatus {
    /// Unclaimed sandboxes.
    #[serde(default)]
    pub replicas: i32,
    /// Of those, the ready ones.
    #[serde(default)]
    pub ready_replicas: i32,
}

/// UID of the owner that controls the object, if it is of that kind.
pub fn controller_uid<'a>(meta: &'a ObjectMeta, kind: &str) -> Option<&'a str> {
    controller(meta)
        .filter(|owner| owner.kind == kind)
        .map(|owner| owner.uid.as_str())
}

/// The owner that controls the object.
pub fn controller(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references
        .iter()
        .flatten()
        .find(|owner| owner.controller == Some(true))
}
