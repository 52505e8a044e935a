//! What is granted while Postgres is away.

use std::time::Duration;

use anyhow::Result;
use berth_e2e::granted::value;
use berth_e2e::{PATIENCE, Scene, cluster};
use kube::ResourceExt;
use serde_json::json;

use crate::ledger::{row, rows, verified};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_grant_waits_for_postgres_and_a_revocation_does_not() -> Result<()> {
    let cluster = cluster().await?;
    let (scene, secret, later) = (
        Scene::create(&cluster, "written", 1, &json!({})).await?,
        value()?,
        value()?,
    );
    let team = &scene.team;
    scene.grant("s", &secret).await?;
    let session = scene.start("s", &secret, "").await?;
    cluster.process("stop", "postgres")?;
    let without = async {
        scene.receives(&secret).await?; // what was granted before stands
        let waits = scene.grant("t", &later);
        let shown = team.wait::<berth_crds::CredentialBinding>("t", "that it waits", PATIENCE, |binding| {
            let conditions = binding
                .status
                .as_ref()
                .map(|status| status.conditions.as_slice())
                .unwrap_or_default();
            conditions
                .iter()
                .any(|condition| condition.message.contains("until Postgres has written it down"))
        });
        tokio::select! {
            granted = waits => anyhow::bail!("granted without a row: {granted:?}"),
            shown = shown => shown.map(drop)?,
        }
        team.kubectl(&["delete", "credentialbinding", "s"])?;
        let pod = session.pod.name_any();
        let refused = async {
            // No route covers the host any more, so the agent's connection is refused.
            while !team
                .kubectl(&["logs", &pod, "--container", "agent", "--tail=3"])?
                .contains("status=000")
            {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Ok(())
        };
        tokio::time::timeout(Duration::from_secs(15), refused).await?
    };
    let without = without.await;
    cluster.process("start", "postgres")?;
    without?;
    row(team, "revoked").await?;
    let written = rows(team).await?;
    let actions: Vec<(&str, &str)> = written
        .iter()
        .map(|(action, binding)| (action.as_str(), binding.as_str()))
        .collect();
    assert!(
        actions.contains(&("granted", "t")) && actions.contains(&("revoked", "s")),
        "{actions:?}"
    );
    assert!(verified(team, None, false).await?.is_good);
    scene.end().await
}
