//! Pure: the objects that a pool is rendered into, in full.

use std::collections::BTreeMap;

use berth_crds::{AgentPool, label};
use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use k8s_openapi::api::networking::v1::{NetworkPolicyEgressRule, NetworkPolicyPeer, NetworkPolicyPort};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::ObjectMeta;
use kube::{Resource, ResourceExt};

use super::pair::Rendering;
use super::pod::{AGENT_ACCOUNT, CA_CONFIG_MAP};
use crate::sandbox::kind::{
    NameRef, PodMetadata, PodTemplate, SandboxTemplateSpec, SandboxWarmPoolSpec, TemplateNetworkPolicy,
};
use crate::sandbox::{SandboxTemplate, SandboxWarmPool};
use crate::settings::Settings;

/// The template of a pair. Its annotation keeps the rendering, whose hash stands in the pool's status.
pub fn template(pool: &AgentPool, rendering: &Rendering, settings: &Settings) -> SandboxTemplate {
    let annotations = BTreeMap::from([(label::RENDERED.to_owned(), rendering.json.clone())]);
    SandboxTemplate {
        metadata: ObjectMeta {
            annotations: Some(annotations),
            ..metadata(pool, rendering)
        },
        spec: SandboxTemplateSpec {
            pod_template: PodTemplate {
                metadata: PodMetadata {
                    labels: labels(pool, rendering),
                    annotations: BTreeMap::new(),
                },
                spec: serde_json::from_str(&rendering.json).unwrap_or_default(),
            },
            network_policy: TemplateNetworkPolicy {
                ingress: vec![],
                egress: vec![control(settings), dns()],
            },
            network_policy_management: "Managed".to_owned(),
            env_vars_injection_policy: "Disallowed".to_owned(),
            volume_claim_templates_policy: "Disallowed".to_owned(),
        },
    }
}

/// The warm pool of a pair.
pub fn warm_pool(pool: &AgentPool, rendering: &Rendering, replicas: i32) -> SandboxWarmPool {
    SandboxWarmPool {
        metadata: metadata(pool, rendering),
        spec: SandboxWarmPoolSpec {
            replicas,
            sandbox_template_ref: NameRef {
                name: rendering.pair.clone(),
            },
        },
        status: None,
    }
}

/// ServiceAccount of the pods: no right, no token mounted by itself.
pub fn service_account(namespace: &str) -> ServiceAccount {
    ServiceAccount {
        metadata: named(namespace, AGENT_ACCOUNT),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}

/// The CA that sidecars verify the control stream with.
pub fn ca_config_map(namespace: &str, bundle: &str) -> ConfigMap {
    ConfigMap {
        metadata: named(namespace, CA_CONFIG_MAP),
        data: Some(BTreeMap::from([("ca.crt".to_owned(), bundle.to_owned())])),
        ..ConfigMap::default()
    }
}

fn named(namespace: &str, name: &str) -> ObjectMeta {
    let labels = BTreeMap::from([("app.kubernetes.io/managed-by".to_owned(), "berth".to_owned())]);
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(namespace.to_owned()),
        labels: Some(labels),
        ..ObjectMeta::default()
    }
}

fn metadata(pool: &AgentPool, rendering: &Rendering) -> ObjectMeta {
    ObjectMeta {
        name: Some(rendering.pair.clone()),
        namespace: pool.namespace(),
        labels: Some(labels(pool, rendering)),
        owner_references: Some(vec![owner(pool)]),
        ..ObjectMeta::default()
    }
}

fn labels(pool: &AgentPool, rendering: &Rendering) -> BTreeMap<String, String> {
    BTreeMap::from([
        (label::POOL.to_owned(), pool.name_any()),
        (
            label::POOL_HASH.to_owned(),
            rendering.sha256.get(..8).unwrap_or_default().to_owned(),
        ),
    ])
}

fn owner(pool: &AgentPool) -> OwnerReference {
    OwnerReference {
        api_version: AgentPool::api_version(&()).into_owned(),
        kind: AgentPool::kind(&()).into_owned(),
        name: pool.name_any(),
        uid: pool.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// The sidecar reaches the controller.
fn control(settings: &Settings) -> NetworkPolicyEgressRule {
    NetworkPolicyEgressRule {
        to: Some(vec![NetworkPolicyPeer {
            namespace_selector: Some(selector("kubernetes.io/metadata.name", &settings.namespace)),
            pod_selector: Some(selector("app.kubernetes.io/name", "berth-controller")),
            ip_block: None,
        }]),
        ports: Some(vec![port("TCP", i32::from(berth_protocol::CONTROL_PORT))]),
    }
}

/// The sidecar resolves names; the fence keeps the agent from it.
fn dns() -> NetworkPolicyEgressRule {
    NetworkPolicyEgressRule {
        to: Some(vec![NetworkPolicyPeer {
            namespace_selector: Some(selector("kubernetes.io/metadata.name", "kube-system")),
            pod_selector: Some(selector("k8s-app", "kube-dns")),
            ip_block: None,
        }]),
        ports: Some(vec![port("UDP", 53), port("TCP", 53)]),
    }
}

fn selector(key: &str, value: &str) -> LabelSelector {
    LabelSelector {
        match_labels: Some(BTreeMap::from([(key.to_owned(), value.to_owned())])),
        match_expressions: None,
    }
}

fn port(protocol: &str, number: i32) -> NetworkPolicyPort {
    NetworkPolicyPort {
        protocol: Some(protocol.to_owned()),
        port: Some(IntOrString::Int(number)),
        end_port: None,
    }
}
