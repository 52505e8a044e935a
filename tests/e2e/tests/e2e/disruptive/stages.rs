//! One fault of the active replica hits four sessions, each at another stage: not claimed yet, claimed and not bound,
//! running, finished and not released.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use berth_crds::{AgentSession, Phase};
use berth_e2e::{Cluster, Team, audit, cluster, node};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{DeleteParams, DynamicObject, ListParams};
use kube::runtime::wait::await_condition;
use serde_json::json;

use super::{RestartedSince, SLOW, another_leads, holder, leader, pods, ran_once, restarts, settled};

/// Three sessions under way and what holds one of them between claim and bound.
struct Stages {
    team: Team,
    /// Sidecar of the only warm sandbox of pool `held`; it is stopped, so that it acknowledges nothing.
    sidecar: u32,
}

impl Stages {
    async fn reach(cluster: &Cluster, purpose: &str) -> Result<Self> {
        let team = Team::with_pool(cluster, purpose, 3).await?;
        team.warm(&team.pool_named("held", 1)).await?;
        let held = ListParams::default().labels("berth.dev/pool=held");
        let pod = team.api::<Pod>().list(&held).await?.items.pop().context("a warm pod")?;
        let sidecar = node::process(&pod.uid().context("a uid")?, "berth-sidecar")?;

        let keep = json!({ "releaseAfterFinished": "10s" });
        team.session_of("pool", "releasing", SLOW, &keep).await?;
        team.phase("releasing", Phase::Succeeded).await?;
        team.session("running", SLOW).await?;
        team.phase("running", Phase::Running).await?;
        node::signal(sidecar, "STOP")?;
        team.session_of("held", "binding", SLOW, &json!({})).await?;
        let adopted = await_condition(team.claims(), "binding-1", is_ready);
        tokio::time::timeout(Duration::from_secs(10), adopted)
            .await
            .context("no sandbox was adopted")??;
        Ok(Self { team, sidecar })
    }

    /// Each session is still where the fault is to find it.
    async fn stand(&self) -> Result<()> {
        let sessions = self.team.api::<AgentSession>();
        let (running, binding) = (sessions.get("running").await?, sessions.get("binding").await?);
        let phase = running.status.and_then(|status| status.phase);
        let bound = binding.status.and_then(|status| status.sandbox);
        let releasing = self.team.claims().get_opt("releasing-1").await?;
        let kept = releasing.is_some_and(|claim| claim.metadata.deletion_timestamp.is_none());
        let stand = phase == Some(Phase::Running) && bound.is_none() && kept;
        ensure!(
            stand,
            "too late: running is {phase:?}, binding has {bound:?}, releasing is kept: {kept}"
        );
        Ok(())
    }

    /// After the fault: every session runs once, and every claim was made once and is given back.
    async fn converge(&self) -> Result<()> {
        for name in ["releasing", "running", "binding", "unclaimed"] {
            ran_once(&self.team, name).await?;
        }
        self.team.claims_gone().await?;
        let requests = audit::requests(&self.team.cluster, &self.team.namespace, "sandboxclaims")?;
        let made = requests
            .iter()
            .filter(|request| request.verb == "create" && request.code() == 201);
        assert_eq!(made.count(), 4, "{requests:#?}");
        Ok(())
    }
}

fn is_ready(claim: Option<&DynamicObject>) -> bool {
    let conditions = claim.and_then(|claim| claim.data["status"]["conditions"].as_array());
    let ready = |it: &serde_json::Value| it["type"] == "Ready" && it["status"] == "True";
    conditions.into_iter().flatten().any(ready)
}

async fn survives(signal: &str) -> Result<()> {
    let cluster = cluster().await?;
    let stages = Stages::reach(&cluster, &format!("stage-{}", signal.to_lowercase())).await?;
    let (before, active) = (holder(&cluster).await?, leader(&cluster).await?);
    let process = node::process(&active.uid().context("a uid")?, "berth-controller")?;
    stages.stand().await?;
    node::signal(process, signal)?;
    stages.team.session("unclaimed", SLOW).await?;
    node::signal(stages.sidecar, "CONT")?;
    another_leads(&cluster, before).await?;
    let converged = stages.converge().await;
    if signal == "STOP" {
        node::signal(process, "CONT")?;
    }
    converged?;
    heal(&cluster, &active).await?;
    stages.team.end().await
}

/// The faulted replica comes back; then a new pod replaces it, whose restarts the kubelet doesn't put off.
async fn heal(cluster: &Cluster, faulted: &Pod) -> Result<()> {
    let name = faulted.name_any();
    let back = await_condition(pods(cluster), &name, RestartedSince(restarts(faulted)));
    tokio::time::timeout(Duration::from_mins(2), back)
        .await
        .context("the faulted replica doesn't come back")??;
    settled(cluster)?;
    pods(cluster).delete(&name, &DeleteParams::default()).await?;
    settled(cluster)
}

#[tokio::test]
async fn a_kill_at_any_stage_costs_nothing() -> Result<()> {
    survives("KILL").await
}

#[tokio::test]
async fn a_stop_at_any_stage_costs_nothing() -> Result<()> {
    survives("STOP").await
}

#[tokio::test]
async fn an_end_at_any_stage_costs_nothing() -> Result<()> {
    survives("TERM").await
}
