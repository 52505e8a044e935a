//! Faults while a session goes on in another pod.

use anyhow::{Context as _, Result};
use berth_crds::{AgentSession, Phase};
use berth_e2e::{Cluster, Team, cluster};
use kube::ResourceExt;
use kube::api::DeleteParams;

use super::{leader, pods, settled};
use crate::resume::{KEPT, SCRIPT, resuming, row};

/// A session of which something is kept, whose pod is gone.
async fn lost(cluster: &Cluster, purpose: &str, before: impl Fn() -> Result<()>) -> Result<(Team, String)> {
    let team = Team::with_pool(cluster, purpose, 2).await?;
    team.apply(&resuming(SCRIPT)?).await?;
    let session = team.phase("s", Phase::Running).await?;
    let uid = session.uid().context("a uid")?;
    row(&team, KEPT, &uid).await?;
    before()?;
    let pod = team.pod_of(&session).await?.name_any();
    team.kubectl(&["delete", "pod", &pod, "--grace-period=0", "--force", "--wait=false"])?;
    Ok((team, uid))
}

/// It went on once, with everything.
fn check(session: &AgentSession, printed: &str) {
    let status = session.status.clone().unwrap_or_default();
    let verdict = status.resume.map(|resume| resume.verdict);
    assert_eq!(
        (status.incarnation, verdict.as_deref()),
        (2, Some("Complete")),
        "{printed}"
    );
    assert_eq!(printed.matches("Begin, second").count(), 1, "{printed}");
}

#[tokio::test]
async fn a_restore_waits_for_postgres() -> Result<()> {
    let cluster = cluster().await?;
    let (team, uid) = lost(&cluster, "away", || cluster.process("stop", "postgres")).await?;
    let waits = team.condition("s", "Ready", "False", "StoreUnavailable").await;
    cluster.process("start", "postgres")?;
    waits?;
    let session = team.phase("s", Phase::Succeeded).await?;
    check(&session, &team.output_with(&uid, "Begin, second").await?);
    team.end().await
}

#[tokio::test]
async fn a_leader_that_dies_meanwhile_costs_nothing() -> Result<()> {
    let cluster = cluster().await?;
    let (team, uid) = lost(&cluster, "heir", || Ok(())).await?;
    let gone = leader(&cluster).await?.name_any();
    pods(&cluster)
        .delete(&gone, &DeleteParams::default().grace_period(0))
        .await?;
    let session = team.phase("s", Phase::Succeeded).await?;
    check(&session, &team.output_with(&uid, "Begin, second").await?);
    settled(&cluster)?;
    team.end().await
}
