//! Minutes in which nothing changes: what Berth asks of the API server beside many finished sessions.
//!
//! In: a cluster with Berth. Out: rows. The sessions are objects like others; that each has run is played: its status is
//! the one of a session that really has, written as the controller.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use berth_crds::{AgentSession, Phase};
use berth_e2e::{Team, cluster, session_yaml};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kube::api::PostParams;
use kube::config::{Config, KubeConfigOptions};
use kube::{Api, Client, ResourceExt as _};

use super::resident;
use crate::audit::{self, BERTH};
use crate::report::Row;

/// Finished sessions in the namespace.
const SESSIONS: usize = 1000;
/// Requests under way while they are made.
const AT_ONCE: usize = 8;
/// What the making has set off comes to rest.
const REST: Duration = Duration::from_secs(30);

/// Looks on for some minutes.
pub(crate) async fn measure(minutes: u32, log: &Path) -> Result<Vec<Row>> {
    let cluster = cluster().await?;
    let team = Team::with_pool(&cluster, "idle", 1).await?;
    let rows = rows(&team, minutes, log).await;
    team.end().await?;
    rows
}

async fn rows(team: &Team, minutes: u32, log: &Path) -> Result<Vec<Row>> {
    team.apply(&serde_json::from_str(&session_yaml("model", "true"))?)
        .await?;
    let finished = team
        .wait::<AgentSession>("model", "Succeeded", Duration::from_mins(2), |session| {
            session
                .status
                .as_ref()
                .is_some_and(|status| status.phase == Some(Phase::Succeeded))
        })
        .await?;
    let mut config = Config::from_kubeconfig(&KubeConfigOptions::default()).await?;
    config.auth_info.impersonate = Some(BERTH.to_owned());
    let as_berth: Api<AgentSession> = Api::namespaced(Client::try_from(config)?, &team.namespace);
    let names = (0..SESSIONS).map(|i| format!("finished{i}"));
    let made = stream::iter(names.map(|name| play(team, &as_berth, &finished, name)));
    made.buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await?;
    // What is measured is the time itself: nothing is waited for.
    tokio::time::sleep(REST).await;
    let since = std::fs::metadata(log)?.len();
    tokio::time::sleep(Duration::from_mins(minutes.into())).await;
    let asked = audit::requests(log, since)?;
    let memory = resident(&team.cluster).await?;
    let figure = |what: &str| format!("{minutes} idle minutes, {SESSIONS} finished sessions: {what}");
    let leases = asked.iter().filter(|it| it.resource == "leases").count();
    let watches = asked.iter().filter(|it| it.verb == "watch").count();
    let others: Vec<_> = asked
        .iter()
        .filter(|it| it.resource != "leases" && it.verb != "watch")
        .collect();
    for other in &others {
        eprintln!("asked: {} {} {}", other.verb, other.resource, other.name);
    }
    Ok(vec![
        Row::new(figure("other requests"), count(others.len()), "requests").at_most(0.0),
        Row::new(figure("of the Lease"), count(leases), "requests"),
        Row::new(figure("watches opened again"), count(watches), "requests"),
        Row::new(figure("resident"), memory, "MiB"),
    ])
}

/// A session that waits for a pool which isn't there, and then has finished.
async fn play(team: &Team, as_berth: &Api<AgentSession>, finished: &AgentSession, name: String) -> Result<()> {
    let mut session: AgentSession = serde_json::from_str(&session_yaml(&name, "true"))?;
    "absent".clone_into(&mut session.spec.pool_ref.name);
    team.api::<AgentSession>()
        .create(&PostParams::default(), &session)
        .await?;
    loop {
        let mut current = as_berth.get(&name).await?;
        current.status.clone_from(&finished.status);
        match as_berth.replace_status(&name, &PostParams::default(), &current).await {
            Ok(_) => return Ok(()),
            // The controller has said meanwhile that the pool is missing.
            Err(kube::Error::Api(answer)) if answer.code == 409 => {}
            Err(error) => return Err(error).with_context(|| format!("{} can't be played", current.name_any())),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn count(of: usize) -> f64 {
    of as f64
}
