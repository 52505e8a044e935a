//! Pure: the pod of a pool (DESIGN §6).
//!
//! `berth-fence` and `berth-runner` run first and exit; `berth-sidecar` is a native sidecar, the only container that holds the
//! token, the control CA and `vault-state`; `agent` starts last. What differs between sessions is never in here.

use std::collections::BTreeMap;

use berth_crds::{AgentPoolSpec, Confinement, Harness, HarnessKind};
use berth_protocol::AUDIENCE;
use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapVolumeSource, Container, EmptyDirVolumeSource, EnvVar, ExecAction, KeyToPath,
    LocalObjectReference, PodSecurityContext, PodSpec, Probe, ProjectedVolumeSource, ResourceRequirements,
    SeccompProfile, SecurityContext, ServiceAccountTokenProjection, Volume, VolumeMount, VolumeProjection,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::settings::Settings;

/// Name of the fence's container. Admission refuses to exec into every container whose name begins with `berth-`.
pub const FENCE: &str = "berth-fence";
/// Name of the container that brings the runner.
pub const RUNNER: &str = "berth-runner";
/// Name of the sidecar's container.
pub const SIDECAR: &str = "berth-sidecar";
/// Name of the agent's container.
pub const AGENT: &str = "agent";
/// ServiceAccount of the pods, without any right.
pub const AGENT_ACCOUNT: &str = "berth-agent";
/// ConfigMap with the control stream's CA, in each namespace with a pool.
pub const CA_CONFIG_MAP: &str = "berth-ca";

const SIDECAR_UID: i64 = 1337;
const AGENT_UID: i64 = 1000;
/// A projected token's shortest life is 600 s; an hour keeps the kubelet quiet, and the token dies with the pod.
const TOKEN_SECONDS: i64 = 3600;

/// The pod spec of a pool.
pub fn pod_spec(pool: &AgentPoolSpec, settings: &Settings) -> PodSpec {
    let mut init = vec![runner(settings), sidecar(pool, settings)];
    if pool.confinement.unwrap_or_default() == Confinement::Fence {
        init.insert(0, fence(pool, settings));
    }
    PodSpec {
        init_containers: Some(init),
        containers: vec![agent(pool, settings)],
        volumes: Some(volumes(pool)),
        service_account_name: Some(AGENT_ACCOUNT.to_owned()),
        automount_service_account_token: Some(false),
        share_process_namespace: Some(false),
        enable_service_links: Some(false),
        dns_policy: Some("ClusterFirst".to_owned()),
        restart_policy: Some("Always".to_owned()),
        termination_grace_period_seconds: Some(10),
        runtime_class_name: pool.runtime_class_name.clone(),
        security_context: Some(pod_security()),
        image_pull_secrets: pull_secrets(pool),
        node_selector: some_map(&pool.node_selector),
        tolerations: Some(pool.tolerations.clone()).filter(|all| !all.is_empty()),
        affinity: pool.affinity.clone(),
        priority_class_name: pool.priority_class_name.clone(),
        ..PodSpec::default()
    }
}

fn pod_security() -> PodSecurityContext {
    PodSecurityContext {
        fs_group: Some(AGENT_UID),
        seccomp_profile: Some(SeccompProfile {
            type_: "RuntimeDefault".to_owned(),
            ..SeccompProfile::default()
        }),
        ..PodSecurityContext::default()
    }
}

/// Loads the owner rules before anything of the agent runs, and exits.
fn fence(pool: &AgentPoolSpec, settings: &Settings) -> Container {
    let gvisor = is_gvisor(pool);
    let mode = if gvisor { "iptables-legacy" } else { "nft" };
    let mut capabilities = vec!["NET_ADMIN".to_owned()];
    if gvisor {
        capabilities.push("NET_RAW".to_owned());
    }
    Container {
        name: FENCE.to_owned(),
        image: Some(settings.sidecar_image.clone()),
        image_pull_policy: Some(settings.image_pull_policy.clone()),
        command: Some(words(&["berth-sidecar", "fence", "--mode", mode])),
        security_context: Some(SecurityContext {
            run_as_user: Some(0),
            run_as_non_root: Some(false),
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(!gvisor), // iptables-legacy takes a lock under /run
            capabilities: Some(Capabilities {
                add: Some(capabilities),
                drop: Some(words(&["ALL"])),
            }),
            ..SecurityContext::default()
        }),
        resources: Some(resources("10m", "16Mi", "64Mi")),
        ..Container::default()
    }
}

/// gVisor's own network stack has no nft; its legacy iptables works (research/local-cluster.md §4).
fn is_gvisor(pool: &AgentPoolSpec) -> bool {
    pool.runtime_class_name
        .as_deref()
        .is_some_and(|name| ["gvisor", "runsc"].contains(&name))
}

/// Copies the runner into the volume that the agent's container sees read-only.
fn runner(settings: &Settings) -> Container {
    Container {
        name: RUNNER.to_owned(),
        image: Some(settings.runner_image.clone()),
        image_pull_policy: Some(settings.image_pull_policy.clone()),
        command: Some(words(&["berth-runner", "install", "/berth/bin"])),
        volume_mounts: Some(vec![mount("berth-bin", "/berth/bin", false)]),
        security_context: Some(unprivileged(AGENT_UID, true)),
        resources: Some(resources("10m", "16Mi", "64Mi")),
        ..Container::default()
    }
}

fn sidecar(pool: &AgentPoolSpec, settings: &Settings) -> Container {
    let (mut env, mut mounts) = (sidecar_environment(settings), sidecar_mounts());
    if pool.ca_bundle_ref.is_some() {
        env.push(variable("BERTH_UPSTREAM_CA", "/berth/upstream-ca/ca.crt"));
        mounts.push(mount("upstream-ca", "/berth/upstream-ca", true));
    }
    Container {
        name: SIDECAR.to_owned(),
        image: Some(settings.sidecar_image.clone()),
        image_pull_policy: Some(settings.image_pull_policy.clone()),
        restart_policy: Some("Always".to_owned()),
        command: Some(words(&["berth-sidecar", "run"])),
        env: Some(env),
        volume_mounts: Some(mounts),
        startup_probe: Some(Probe {
            exec: Some(ExecAction {
                command: Some(words(&["berth-sidecar", "ready"])),
            }),
            period_seconds: Some(1),
            failure_threshold: Some(60),
            timeout_seconds: Some(5),
            ..Probe::default()
        }),
        security_context: Some(unprivileged(SIDECAR_UID, true)),
        resources: Some(resources("20m", "24Mi", "128Mi")),
        ..Container::default()
    }
}

fn sidecar_environment(settings: &Settings) -> Vec<EnvVar> {
    let mut env = vec![
        variable("BERTH_CONTROL_URL", &settings.control_url),
        variable("BERTH_CONTROL_CA", "/berth/control-ca/ca.crt"),
        variable("BERTH_TOKEN_FILE", "/berth/token/token"),
        variable("BERTH_HANDOFF", "/berth/handoff"),
        variable("BERTH_STATE", "/berth/vault-state"),
        variable("BERTH_SPOOL", "/berth/spool"),
    ];
    if !settings.cluster_cidrs.is_empty() {
        env.push(variable("BERTH_CLUSTER_CIDR", &settings.cluster_cidrs.join(",")));
    }
    env
}

fn sidecar_mounts() -> Vec<VolumeMount> {
    vec![
        mount("handoff", "/berth/handoff", false),
        mount("vault-state", "/berth/vault-state", false),
        mount("spool", "/berth/spool", false),
        mount("token", "/berth/token", true),
        mount("control-ca", "/berth/control-ca", true),
    ]
}

fn agent(pool: &AgentPoolSpec, settings: &Settings) -> Container {
    Container {
        name: AGENT.to_owned(),
        image: Some(pool.harness.image.clone()),
        image_pull_policy: Some(settings.image_pull_policy.clone()),
        command: Some(agent_command(&pool.harness)),
        working_dir: Some("/workspace".to_owned()),
        volume_mounts: Some(vec![
            mount("berth-bin", "/berth/bin", true),
            mount("handoff", "/berth/handoff", true),
            mount("workspace", "/workspace", false),
        ]),
        security_context: Some(unprivileged(AGENT_UID, false)),
        resources: pool.resources.clone(),
        ..Container::default()
    }
}

fn agent_command(harness: &Harness) -> Vec<String> {
    let mut command = words(&[
        "/berth/bin/berth-runner",
        "run",
        "--handoff",
        "/berth/handoff",
        "--workspace",
        "/workspace",
    ]);
    // Left out for `Custom`, whose pods were rendered before there were others.
    if let Some(program) = program(harness.kind) {
        command.extend(words(&["--harness", program]));
    }
    command.push("--".to_owned());
    command.extend(harness.command.iter().cloned());
    command
}

/// A kind as the runner's command line names it; its own command is the runner's to know.
fn program(kind: HarnessKind) -> Option<&'static str> {
    match kind {
        HarnessKind::ClaudeCode => Some("claude-code"),
        HarnessKind::Codex => Some("codex"),
        HarnessKind::Hermes => Some("hermes"),
        HarnessKind::OpenCode => Some("opencode"),
        HarnessKind::Custom => None,
    }
}

fn volumes(pool: &AgentPoolSpec) -> Vec<Volume> {
    let storage = pool.workspace.as_ref().and_then(|workspace| workspace.storage.clone());
    let upstream_ca = pool.ca_bundle_ref.as_ref();
    let upstream_ca = upstream_ca.map(|reference| config_map("upstream-ca", &reference.name));
    let mut volumes = vec![
        empty_dir("berth-bin", None, Some("64Mi")),
        empty_dir("handoff", Some("Memory"), Some("1Mi")),
        empty_dir("vault-state", Some("Memory"), Some("32Mi")),
        // One push of git at a time, 512 MiB of it at most, while it is judged.
        empty_dir("spool", None, Some("1Gi")),
        Volume {
            name: "workspace".to_owned(),
            empty_dir: Some(EmptyDirVolumeSource {
                medium: None,
                size_limit: Some(storage.unwrap_or_else(|| Quantity("1Gi".to_owned()))),
            }),
            ..Volume::default()
        },
        token_volume(),
        config_map("control-ca", CA_CONFIG_MAP),
    ];
    volumes.extend(upstream_ca);
    volumes
}

/// `ca.crt` of a ConfigMap.
fn config_map(volume: &str, name: &str) -> Volume {
    Volume {
        name: volume.to_owned(),
        config_map: Some(ConfigMapVolumeSource {
            name: name.to_owned(),
            items: Some(vec![KeyToPath {
                key: "ca.crt".to_owned(),
                path: "ca.crt".to_owned(),
                mode: None,
            }]),
            default_mode: Some(DEFAULT_MODE),
            optional: None,
        }),
        ..Volume::default()
    }
}

/// The token of audience `berth`: the kubelet alone mints it, for this pod alone, and only the sidecar mounts it.
fn token_volume() -> Volume {
    let token = ServiceAccountTokenProjection {
        audience: Some(AUDIENCE.to_owned()),
        expiration_seconds: Some(TOKEN_SECONDS),
        path: "token".to_owned(),
    };
    Volume {
        name: "token".to_owned(),
        projected: Some(ProjectedVolumeSource {
            default_mode: Some(DEFAULT_MODE),
            sources: Some(vec![VolumeProjection {
                service_account_token: Some(token),
                ..VolumeProjection::default()
            }]),
        }),
        ..Volume::default()
    }
}

/// 0644, as the API server would write it.
const DEFAULT_MODE: i32 = 0o644;

fn empty_dir(name: &str, medium: Option<&str>, size: Option<&str>) -> Volume {
    Volume {
        name: name.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource {
            medium: medium.map(str::to_owned),
            size_limit: size.map(|size| Quantity(size.to_owned())),
        }),
        ..Volume::default()
    }
}

fn unprivileged(user: i64, read_only_root: bool) -> SecurityContext {
    SecurityContext {
        run_as_user: Some(user),
        run_as_group: Some(user),
        run_as_non_root: Some(true),
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(read_only_root),
        capabilities: Some(Capabilities {
            add: None,
            drop: Some(words(&["ALL"])),
        }),
        ..SecurityContext::default()
    }
}

fn resources(cpu: &str, memory: &str, memory_limit: &str) -> ResourceRequirements {
    let quantity = |text: &str| Quantity(text.to_owned());
    let requests = [
        ("cpu".to_owned(), quantity(cpu)),
        ("memory".to_owned(), quantity(memory)),
    ];
    let limits = [("memory".to_owned(), quantity(memory_limit))];
    ResourceRequirements {
        requests: Some(BTreeMap::from(requests)),
        limits: Some(BTreeMap::from(limits)),
        ..ResourceRequirements::default()
    }
}

fn pull_secrets(pool: &AgentPoolSpec) -> Option<Vec<LocalObjectReference>> {
    let secrets: Vec<LocalObjectReference> = pool
        .image_pull_secrets
        .iter()
        .map(|secret| LocalObjectReference {
            name: secret.name.clone(),
        })
        .collect();
    Some(secrets).filter(|all| !all.is_empty())
}

fn some_map(map: &BTreeMap<String, String>) -> Option<BTreeMap<String, String>> {
    Some(map.clone()).filter(|map| !map.is_empty())
}

fn mount(name: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    }
}

fn variable(name: &str, value: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value: Some(value.to_owned()),
        value_from: None,
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runner_is_told_which_program_it_starts() {
        let kinds = [
            (HarnessKind::ClaudeCode, vec!["--harness", "claude-code", "--", "x"]),
            (HarnessKind::Codex, vec!["--harness", "codex", "--", "x"]),
            (HarnessKind::Hermes, vec!["--harness", "hermes", "--", "x"]),
            (HarnessKind::OpenCode, vec!["--harness", "opencode", "--", "x"]),
            (HarnessKind::Custom, vec!["--", "x"]),
        ];
        for (kind, tail) in kinds {
            let harness = Harness {
                kind,
                command: words(&["x"]),
                ..Harness::default()
            };
            assert_eq!(agent_command(&harness)[6..], tail, "{kind:?}");
        }
    }
}
