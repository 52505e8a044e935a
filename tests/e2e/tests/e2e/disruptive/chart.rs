//! The charts on a cluster that is in use: upgraded, uninstalled and installed again, installed by context.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use berth_crds::{AgentSession, Phase};
use berth_e2e::{Cluster, Team, cluster};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::Value;

use super::{SYSTEM, output_of_one_run, recorded};

/// Says a line every 0.2 s until it is told to stop.
const UNTIL_STOPPED: &str = "i=0; until [ -e stop ]; do i=$((i + 1)); echo line $i; sleep 0.2; done";
/// How long a bound session may be without its stream (issue's point 5).
const AWAY_MAX: f64 = 5.0;

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

fn helm(cluster: &Cluster, arguments: &[&str]) -> Result<String> {
    cluster.run("helm", &[&["--namespace", SYSTEM], arguments].concat())
}

fn chart(name: &str) -> String {
    root().join("charts").join(name).display().to_string()
}

/// A session that runs, and the pod that it runs in.
async fn running(cluster: &Cluster, purpose: &str) -> Result<(Team, Pod)> {
    let team = Team::with_pool(cluster, purpose, 1).await?;
    team.session("s", UNTIL_STOPPED).await?;
    let session = team.phase("s", Phase::Running).await?;
    let pod = team.pod_of(&session).await?;
    Ok((team, pod))
}

/// Ends the session's command, and fails unless it was one run in that pod whose lines all arrived, once.
async fn ends_as_one_run(team: &Team, pod: &Pod) -> Result<AgentSession> {
    team.kubectl(&[
        "exec",
        &pod.name_any(),
        "--container",
        "agent",
        "--",
        "touch",
        "/workspace/stop",
    ])?;
    let lines = output_of_one_run(team, "s").await?;
    let wanted: Vec<String> = (1..=lines.len()).map(|line| format!("line {line}")).collect();
    assert_eq!(lines, wanted);
    let session = team.api::<AgentSession>().get("s").await?;
    let sandbox = session.status.clone().and_then(|status| status.sandbox);
    assert_eq!(sandbox.and_then(|sandbox| sandbox.pod_uid), pod.uid());
    Ok(session)
}

/// The longest time between two events of the session that Postgres got one after the other.
async fn longest_silence(team: &Team, uid: &str, events: i64) -> Result<f64> {
    recorded(team, uid, events).await?;
    let select = "select extract(epoch from max(gap))::float8 from (select received_at - lag(received_at) \
        over (order by client_seq) as gap from session_event where session_uid = $1) as gaps";
    Ok(sqlx::query_scalar(select)
        .bind(uid)
        .fetch_one(&team.cluster.database)
        .await?)
}

#[tokio::test]
async fn an_upgrade_leaves_a_bound_session_without_its_stream_for_seconds() -> Result<()> {
    let cluster = cluster().await?;
    let (team, pod) = running(&cluster, "upgrade").await?;
    let upgrade = [
        "upgrade",
        "berth",
        &chart("berth"),
        "--reuse-values",
        "--set=log.format=pretty",
    ];
    helm(&cluster, &[&upgrade[..], &["--wait", "--timeout=3m"]].concat())?;
    let ran = ends_as_one_run(&team, &pod).await;
    helm(&cluster, &["rollback", "berth", "--wait", "--timeout=3m"])?;
    let session = ran?;
    let uid = session.uid().context("a uid")?;
    let result = session.status.and_then(|status| status.result);
    let events = result.and_then(|result| result.events).context("a count")?;
    let silence = longest_silence(&team, &uid, events).await?;
    ensure!(silence <= AWAY_MAX, "the stream was away for {silence} s");
    team.end().await
}

/// What stays in the release's namespace: who leads and the control stream's CA, for the next install, people's keys, and the Secrets
/// that were there before.
const KEPT: [&str; 7] = [
    "configmap/berth-signers",
    "lease.coordination.k8s.io/berth-controller",
    "secret/berth-control-tls",
    "secret/berth-database",
    "secret/berth-database-owner",
    "secret/berth-forge",
    "secret/berth-gateway",
];

/// Everything in the release's namespace, and everything cluster-wide that bears Berth's name.
fn berths(cluster: &Cluster) -> Result<Vec<String>> {
    let kubernetes = ["configmap/kube-root-ca.crt", "serviceaccount/default"];
    let inside = names(cluster, "--namespaced=true", &["--namespace", SYSTEM])?;
    let outside = names(cluster, "--namespaced=false", &[])?;
    let inside = inside.into_iter().filter(|name| !kubernetes.contains(&name.as_str()));
    let named =
        |name: &String| name.contains("/berth") && !name.starts_with("namespace/") && !name.contains("/berth-cluster:");
    let mut found: Vec<String> = inside.chain(outside.into_iter().filter(named)).collect();
    found.sort();
    Ok(found)
}

/// Names of all objects of all kinds; Events tell of what is gone.
fn names(cluster: &Cluster, scope: &str, namespace: &[&str]) -> Result<Vec<String>> {
    let kinds = cluster.run("kubectl", &["api-resources", "--verbs=list", "--output=name", scope])?;
    let kinds: Vec<&str> = kinds.lines().filter(|kind| !kind.starts_with("events")).collect();
    let kinds = kinds.join(",");
    let get = ["get", &kinds, "--output=name", "--ignore-not-found"];
    let found = cluster.run("kubectl", &[&get[..], namespace].concat())?;
    Ok(found.lines().map(str::to_owned).collect())
}

/// Waits until the garbage collector has taken what hung on the chart's objects. All kinds together have no watch.
async fn only_kept(cluster: &Cluster) -> Result<()> {
    let mut left = berths(cluster)?;
    for _ in 0..30 {
        if left == KEPT {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        left = berths(cluster)?;
    }
    bail!("left in the cluster: {left:#?}")
}

/// The five kinds.
fn kinds(cluster: &Cluster) -> Result<usize> {
    let all = cluster.run("kubectl", &["get", "customresourcedefinitions", "--output=name"])?;
    Ok(all.lines().filter(|name| name.ends_with(".berth.dev")).count())
}

#[tokio::test]
async fn an_uninstall_keeps_what_runs_and_an_install_takes_it_up_again() -> Result<()> {
    let cluster = cluster().await?;
    let (team, pod) = running(&cluster, "uninstall").await?;
    let before = berths(&cluster)?;
    let values = tempfile::NamedTempFile::new()?;
    let said = helm(&cluster, &["get", "values", "berth", "--output=json"])?;
    std::fs::write(values.path(), said)?;
    let path = values.path().to_str().context("a path")?;

    let uninstalled = uninstall(&cluster, &team, &pod).await;
    let again = ["upgrade", "--install", "--wait", "--timeout=3m"];
    helm(&cluster, &[&again[..], &["berth-crds", &chart("berth-crds")]].concat())?;
    helm(
        &cluster,
        &[&again[..], &["berth", &chart("berth"), "--values", path]].concat(),
    )?;
    uninstalled?;
    ends_as_one_run(&team, &pod).await?;
    let unnamed = |names: Vec<String>| -> Vec<String> {
        let of_pods = [
            "pod/",
            "replicaset.apps/",
            "endpoints",
            "secret/sh.helm",
            "deployment",
            "lease",
        ];
        names
            .into_iter()
            .filter(|name| !of_pods.iter().any(|it| name.starts_with(it)))
            .collect()
    };
    assert_eq!(unnamed(berths(&cluster)?), unnamed(before));
    team.end().await
}

async fn uninstall(cluster: &Cluster, team: &Team, pod: &Pod) -> Result<()> {
    helm(cluster, &["uninstall", "berth", "berth-crds", "--wait", "--timeout=3m"])?;
    cluster.run(
        "kubectl",
        &[
            "--namespace",
            SYSTEM,
            "wait",
            "pods",
            "--all",
            "--for=delete",
            "--timeout=60s",
        ],
    )?;
    only_kept(cluster).await?;
    assert_eq!(kinds(cluster)?, 5);
    let session = team.api::<AgentSession>().get("s").await?;
    assert_eq!(session.status.and_then(|status| status.phase), Some(Phase::Running));
    let still = team.api::<Pod>().get(&pod.name_any()).await?;
    assert_eq!((still.uid(), &still.metadata.deletion_timestamp), (pod.uid(), &None));
    Ok(())
}

/// Revision of the release, which each install counts up.
fn revision(cluster: &Cluster) -> Result<u64> {
    let said: Value = serde_json::from_str(&helm(cluster, &["status", "berth", "--output=json"])?)?;
    said["version"].as_u64().context("a revision")
}

/// `bin/up` with this kubeconfig and nothing that says where the local cluster is.
fn up(kubeconfig: &str, arguments: &[&str]) -> Result<(bool, String)> {
    let output = Command::new(root().join("bin/up"))
        .args(arguments)
        .env("KUBECONFIG", kubeconfig)
        .env("BERTH_CLUSTER_DIR", "/nonexistent")
        .output()?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
}

#[tokio::test]
async fn bin_up_installs_into_the_cluster_that_a_context_names() -> Result<()> {
    let cluster = cluster().await?;
    let file = tempfile::NamedTempFile::new()?;
    let path = file.path().to_str().context("a path")?;
    let config = cluster.run("kubectl", &["config", "view", "--raw", "--flatten", "--minify"])?;
    std::fs::write(file.path(), config)?;
    let kubectl = |arguments: &[&str]| cluster.run("kubectl", &[&["--kubeconfig", path, "config"], arguments].concat());
    let current = kubectl(&["current-context"])?;
    kubectl(&["rename-context", current.trim(), "elsewhere"])?;
    // The context that is used where none is named leads nowhere.
    kubectl(&["set-cluster", "nowhere", "--server=https://127.0.0.1:1"])?;
    kubectl(&["set-context", "nowhere", "--cluster=nowhere"])?;
    kubectl(&["use-context", "nowhere"])?;

    let before = revision(&cluster)?;
    let (well, said) = up(path, &["--context", "elsewhere", "--", "--reuse-values"])?;
    ensure!(well, "{said}");
    assert_eq!(revision(&cluster)?, before + 1);
    let (well, said) = up(path, &["--context", "missing", "--", "--reuse-values"])?;
    ensure!(!well && said.contains("missing"), "{said}");
    assert_eq!(revision(&cluster)?, before + 1);
    Ok(())
}
