//! Pools: blue/green, what admission refuses, what a pool says of itself.

use std::time::Duration;

use anyhow::{Context as _, Result};
use berth_crds::{AgentPool, Phase};
use berth_e2e::{Team, cluster};
use k8s_openapi::api::core::v1::Namespace;
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

fn current(pool: &AgentPool) -> Option<String> {
    pool.status.as_ref().and_then(|status| status.current.clone())
}

#[tokio::test]
async fn a_change_drains_the_old_pair_and_leaves_bound_sessions_alone() -> Result<()> {
    let team = Team::with_pool(&cluster().await?, "roll", 1).await?;
    team.session("old", "echo started; sleep 600").await?;
    let bound = team.phase("old", Phase::Running).await?;
    let before = current(&team.api::<AgentPool>().get("pool").await?).context("a current pair")?;

    let mut pool = team.pool(1);
    pool["spec"]["resources"] = json!({ "requests": { "cpu": "15m" } });
    team.apply(&pool).await?;
    let rolled = team
        .wait::<AgentPool>("pool", "new pair", Duration::from_mins(2), |pool| {
            current(pool).is_some_and(|name| name != before)
        })
        .await?;
    let draining = rolled.status.map(|status| status.draining).unwrap_or_default();
    assert_eq!(
        draining,
        [before],
        "the old pair stays while a session holds its sandbox"
    );
    assert_eq!(
        team.pod_of(&bound).await?.uid(),
        team.pod_of(&team.phase("old", Phase::Running).await?).await?.uid()
    );

    team.session("new", "true").await?;
    team.phase("new", Phase::Succeeded).await?;
    team.kubectl(&["delete", "agentsession", "old"])?;
    team.wait::<AgentPool>("pool", "end of the old pair", Duration::from_mins(2), |pool| {
        pool.status.as_ref().is_some_and(|status| status.draining.is_empty())
    })
    .await?;
    team.end().await
}

#[tokio::test]
async fn a_namespace_that_refuses_the_pod_is_quoted() -> Result<()> {
    let team = Team::create(&cluster().await?, "refused").await?;
    let namespaces: Api<Namespace> = Api::all(team.cluster.client.clone());
    let enforce = json!({ "metadata": { "labels": { "pod-security.kubernetes.io/enforce": "restricted" } } });
    namespaces
        .patch(&team.namespace, &PatchParams::default(), &Patch::Merge(&enforce))
        .await?;
    team.apply(&team.pool(1)).await?;
    let stalled = |pool: &AgentPool| {
        let conditions = pool
            .status
            .as_ref()
            .map(|status| status.conditions.clone())
            .unwrap_or_default();
        conditions
            .iter()
            .any(|it| it.type_ == "Stalled" && it.message.contains("PodSecurity") && it.message.contains("fence"))
    };
    team.wait::<AgentPool>("pool", "refusal", Duration::from_secs(30), stalled)
        .await?;
    team.end().await
}

#[tokio::test]
async fn a_fenced_pool_says_that_it_is_confined() -> Result<()> {
    let team = Team::create(&cluster().await?, "confined").await?;
    team.apply(&team.pool(0)).await?;
    let confined = |pool: &AgentPool| {
        let conditions = pool
            .status
            .as_ref()
            .map(|status| status.conditions.clone())
            .unwrap_or_default();
        conditions
            .iter()
            .any(|it| (it.type_.as_str(), it.status.as_str(), it.reason.as_str()) == ("Confined", "True", "Fenced"))
    };
    team.wait::<AgentPool>("pool", "Confined", Duration::from_secs(30), confined)
        .await?;
    team.end().await
}
