//! Faults while a credential is in use: they cost its user no answer, and the right ends when it is taken back.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use berth_e2e::granted::{Granted, Scene, value};
use berth_e2e::{PATIENCE, cluster, node};
use kube::ResourceExt;
use kube::api::DeleteParams;
use serde_json::json;

use super::{another_leads, holder, leader, settled};

/// DESIGN §2 and issue 5: whatever becomes of the leader, a revocation arrives within this time.
const REVOKED: Duration = Duration::from_secs(15);

/// Asks with the credential, and is served.
fn is_served(scene: &Scene, granted: &Granted) -> Result<()> {
    let (status, said) = asks(scene, granted)?;
    ensure!(status == "200", "{said}");
    Ok(())
}

/// Status of one request with the credential, and all that came.
fn asks(scene: &Scene, granted: &Granted) -> Result<(String, String)> {
    let url = format!("https://{}/granted/s", scene.outside.host);
    let said = granted.curl(&format!(r#"-H "Authorization: Bearer $(cat stub)" {url}"#))?;
    let status = said.lines().rev().find_map(|line| line.strip_prefix("status="));
    Ok((status.context("no status")?.to_owned(), said))
}

/// Deletes the binding, and waits until a request is refused; 000: the tunnel itself is.
async fn revoked(scene: &Scene, granted: &Granted) -> Result<()> {
    scene.team.kubectl(&["delete", "credentialbinding", "s"])?;
    let refused = async {
        while !["403", "000"].contains(&asks(scene, granted)?.0.as_str()) {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok(())
    };
    tokio::time::timeout(REVOKED, refused).await.context("it may go on")?
}

/// Two workers: the host outside answers while a request is waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leader_costs_no_answer_and_its_successor_revokes() -> Result<()> {
    let cluster = cluster().await?;
    let scene = Scene::create(&cluster, "killed", 1, &json!({})).await?;
    let value = value()?;
    scene.grant("s", &value).await?;
    let granted = scene.start("s", &value, "").await?;
    let before = holder(&cluster).await?;
    let pid = node::process(&leader(&cluster).await?.uid().context("a uid")?, "berth-controller")?;
    node::signal(pid, "KILL")?;
    // A lease of the grants outlasts the change.
    for _ in 0..10 {
        is_served(&scene, &granted)?;
    }
    another_leads(&cluster, before).await?;
    is_served(&scene, &granted)?;
    revoked(&scene, &granted).await?;
    settled(&cluster)?;
    scene.end().await
}

/// Two workers: the host outside answers while a request is waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_stopped_when_it_should_revoke_is_overtaken() -> Result<()> {
    let cluster = cluster().await?;
    let scene = Scene::create(&cluster, "stopped", 1, &json!({})).await?;
    let value = value()?;
    scene.grant("s", &value).await?;
    let granted = scene.start("s", &value, "").await?;
    let stopped = leader(&cluster).await?;
    let pid = node::process(&stopped.uid().context("a uid")?, "berth-controller")?;
    node::signal(pid, "STOP")?;
    let refused = revoked(&scene, &granted).await;
    // It wakes up, is no leader any more, and grants nothing.
    node::signal(pid, "CONT")?;
    refused?;
    for _ in 0..10 {
        assert_ne!(asks(&scene, &granted)?.0, "200");
    }
    settled(&cluster)?;
    scene.end().await
}

#[tokio::test]
async fn a_pod_that_is_lost_leaves_a_gap_in_the_record() -> Result<()> {
    let cluster = cluster().await?;
    let scene = Scene::create(&cluster, "gap", 1, &json!({})).await?;
    let value = value()?;
    scene.grant("s", &value).await?;
    let granted = scene.start("s", &value, "").await?;
    let pods = scene.team.api::<k8s_openapi::api::core::v1::Pod>();
    let now = DeleteParams::default().grace_period(0);
    // A sidecar that has a moment left completes its trail.
    cluster.run("kill", &["-KILL", &granted.sidecar()?.to_string()])?;
    pods.delete(&granted.pod.name_any(), &now).await?;
    let select = "select count(*) from credential_use where session_uid = $1 and verdict = 'gap'";
    let told = async {
        while sqlx::query_scalar::<_, i64>(select)
            .bind(&granted.uid)
            .fetch_one(&cluster.database)
            .await?
            == 0
        {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok::<_, anyhow::Error>(())
    };
    tokio::time::timeout(PATIENCE, told)
        .await
        .context("no gap is told of")??;
    scene.end().await
}
