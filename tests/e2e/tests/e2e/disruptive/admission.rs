//! What the controller itself sees when an admission policy is gone: it doesn't rely on one.

use anyhow::{Context as _, Result};
use berth_crds::Phase;
use berth_e2e::{Cluster, Team, cluster};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::ListParams;

const POLICY: &str = "validatingadmissionpolicybinding/berth-ephemeral-containers";

/// Runs a command while the policy isn't bound, again and again until admission has noticed.
async fn without_policy(cluster: &Cluster, arguments: &[&str]) -> Result<()> {
    let manifest = cluster.run("kubectl", &["get", POLICY, "--output", "yaml"])?;
    let file = tempfile::NamedTempFile::new()?;
    let kept: Vec<&str> = manifest
        .lines()
        .filter(|line| {
            !["  uid:", "  resourceVersion:", "  creationTimestamp:"]
                .iter()
                .any(|it| line.starts_with(it))
        })
        .collect();
    std::fs::write(file.path(), kept.join("\n"))?;
    cluster.run("kubectl", &["delete", POLICY])?;
    let mut done = cluster.run("kubectl", arguments);
    // An admission plugin's informer has no watch of its own to wait for.
    for _ in 0..50 {
        if done.is_ok() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        done = cluster.run("kubectl", arguments);
    }
    let path = file.path().to_str().context("a path")?;
    cluster.run("kubectl", &["create", "--filename", path])?;
    done.map(drop)
}

#[tokio::test]
async fn a_pod_with_an_ephemeral_container_is_never_bound() -> Result<()> {
    let cluster = cluster().await?;
    let team = Team::with_pool(&cluster, "ephemeral", 1).await?;
    let ours = ListParams::default().labels("berth.dev/pool=pool");
    let pod = team.api::<Pod>().list(&ours).await?.items.pop().context("a warm pod")?;
    let name = pod.name_any();
    let container = r#"{"spec":{"ephemeralContainers":[{"name":"debug","image":"localhost/berth-agent-base:dev",
        "imagePullPolicy":"Never","command":["sleep","600"]}]}}"#;
    let patch = [
        "patch",
        "pod",
        &name,
        "--subresource=ephemeralcontainers",
        "--patch",
        container,
    ];
    let namespace = ["--namespace", &team.namespace];
    without_policy(&cluster, &[&namespace[..], &patch].concat()).await?;

    team.session("s", "true").await?;
    let session = team.phase("s", Phase::Succeeded).await?;
    let status = session.status.context("a status")?;
    let bound = status.sandbox.and_then(|sandbox| sandbox.pod_name);
    assert_ne!(bound.as_deref(), Some(name.as_str()));
    assert_eq!(status.incarnation, 2);
    let selector = "involvedObject.name=s,reason=PodNotAsRendered";
    let events = team.kubectl(&["get", "events", "--field-selector", selector])?;
    assert!(events.contains("ephemeral container"), "{events}");
    team.end().await
}
