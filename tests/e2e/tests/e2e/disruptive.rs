//! Faults: replicas, the API server and Postgres go and come back; what was under way ends as if nothing had happened.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use berth_crds::{AgentSession, Phase};
use berth_e2e::{Cluster, PATIENCE, Team, cluster, node};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams};
use kube::runtime::wait::{Condition, await_condition};

mod admission;
mod chart;
mod evidence;
mod ledger;
mod resume;
mod stages;
mod vault;

const SYSTEM: &str = "berth-system";
/// Lines over six seconds: long enough for a fault in between.
const SLOW: &str = "for i in $(seq 1 12); do echo line $i; sleep 0.5; done; echo done > result.md";

fn pods(cluster: &Cluster) -> Api<Pod> {
    Api::namespaced(cluster.client.clone(), SYSTEM)
}

async fn leader(cluster: &Cluster) -> Result<Pod> {
    let active = ListParams::default().labels("berth.dev/active=true");
    pods(cluster).list(&active).await?.items.pop().context("a leader")
}

async fn holder(cluster: &Cluster) -> Result<Option<String>> {
    let leases: Api<Lease> = Api::namespaced(cluster.client.clone(), SYSTEM);
    Ok(leases
        .get("berth-controller")
        .await?
        .spec
        .and_then(|spec| spec.holder_identity))
}

/// Waits until somebody else than `before` holds the Lease.
async fn another_leads(cluster: &Cluster, before: Option<String>) -> Result<()> {
    let leases: Api<Lease> = Api::namespaced(cluster.client.clone(), SYSTEM);
    let changed = move |lease: Option<&Lease>| {
        let holder = lease.and_then(|lease| lease.spec.as_ref()?.holder_identity.clone());
        holder.as_ref().is_some_and(|holder| !holder.is_empty()) && holder != before
    };
    let wait = await_condition(leases, "berth-controller", changed);
    tokio::time::timeout(PATIENCE, wait)
        .await
        .context("nobody took over")??;
    Ok(())
}

/// Waits until the install has this many ready replicas again.
fn settled(cluster: &Cluster) -> Result<()> {
    let rollout = [
        "-n",
        SYSTEM,
        "rollout",
        "status",
        "deployment/berth-controller",
        "--timeout=120s",
    ];
    cluster.run("kubectl", &rollout).map(drop)
}

/// The session ended well in its first incarnation, with one claim ever made, and its twelve lines are there, once.
async fn ran_once(team: &Team, name: &str) -> Result<()> {
    let lines = output_of_one_run(team, name).await?;
    let wanted: Vec<String> = (1..=12).map(|line| format!("line {line}")).collect();
    assert_eq!(lines, wanted, "output of {name}");
    Ok(())
}

/// The lines of a session that ended well in its first incarnation, whose events are all there, one start among them.
async fn output_of_one_run(team: &Team, name: &str) -> Result<Vec<String>> {
    let session = team
        .wait::<AgentSession>(name, "end", Duration::from_mins(3), |session| {
            session.status.as_ref().is_some_and(|status| status.result.is_some())
        })
        .await?;
    let status = session.status.clone().context("a status")?;
    assert_eq!((status.phase, status.incarnation), (Some(Phase::Succeeded), 1));
    let uid = session.uid().context("a uid")?;
    let events = status.result.and_then(|result| result.events).context("a count")?;
    let numbers = recorded(team, &uid, events).await?;
    assert_eq!(numbers, (1..=events).collect::<Vec<i64>>(), "events of {name}");
    let output = "select coalesce(string_agg(convert_from(output, 'UTF8'), '' order by client_seq), ''), \
        count(*) filter (where kind = 'started') from session_event where session_uid = $1 and coalesce(stream, 1) = 1";
    let (output, starts): (String, i64) = sqlx::query_as(output)
        .bind(&uid)
        .fetch_one(&team.cluster.database)
        .await?;
    assert_eq!(starts, 1, "starts of {name}");
    Ok(output.lines().map(str::to_owned).collect())
}

/// Numbers of the session's events once Postgres has as many as there are. Postgres has no watch: it is asked.
async fn recorded(team: &Team, uid: &str, wanted: i64) -> Result<Vec<i64>> {
    let select = "select coalesce(array_agg(client_seq order by client_seq), '{}') from session_event \
        where session_uid = $1";
    let ask = async {
        loop {
            let found: Result<Vec<i64>, _> = sqlx::query_scalar(select)
                .bind(uid)
                .fetch_one(&team.cluster.database)
                .await;
            match found {
                Ok(found) if i64::try_from(found.len()).unwrap_or(0) >= wanted => return found,
                _ => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
    };
    tokio::time::timeout(Duration::from_mins(2), ask)
        .await
        .context("the events didn't arrive in Postgres")
}

#[tokio::test]
async fn a_killed_leader_costs_a_session_nothing() -> Result<()> {
    let cluster = cluster().await?;
    let team = Team::with_pool(&cluster, "kill", 2).await?;
    let (before, active) = (holder(&cluster).await?, leader(&cluster).await?);
    team.session("s", SLOW).await?;
    team.phase("s", Phase::Running).await?;
    node::signal(
        node::process(&active.uid().context("a uid")?, "berth-controller")?,
        "KILL",
    )?;
    another_leads(&cluster, before).await?;
    team.session("late", SLOW).await?;
    ran_once(&team, "s").await?;
    ran_once(&team, "late").await?;
    settled(&cluster)?;
    team.end().await
}

#[tokio::test]
async fn a_leader_that_was_stopped_changes_nothing_when_it_wakes() -> Result<()> {
    let cluster = cluster().await?;
    let team = Team::with_pool(&cluster, "stop", 3).await?;
    let (before, active) = (holder(&cluster).await?, leader(&cluster).await?);
    let stopped = node::process(&active.uid().context("a uid")?, "berth-controller")?;
    team.session("before", SLOW).await?;
    node::signal(stopped, "STOP")?;
    another_leads(&cluster, before).await?;
    team.session("during", SLOW).await?;
    let ran = tokio::try_join!(ran_once(&team, "before"), ran_once(&team, "during"));
    let versions = versions(&team).await?;
    node::signal(stopped, "CONT")?;
    ran?;
    // It ends by itself, since it no longer holds the Lease; the kubelet starts it again.
    let restarted = RestartedSince(restarts(&active));
    let name = active.name_any();
    let wait = await_condition(pods(&cluster), &name, restarted);
    tokio::time::timeout(PATIENCE, wait)
        .await
        .context("the stopped replica goes on")??;
    settled(&cluster)?;
    assert_eq!(
        versions,
        self::versions(&team).await?,
        "the stopped replica wrote something"
    );
    team.end().await
}

async fn versions(team: &Team) -> Result<Vec<Option<String>>> {
    let sessions = team.api::<AgentSession>().list(&ListParams::default()).await?;
    Ok(sessions.iter().map(ResourceExt::resource_version).collect())
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod
        .status
        .as_ref()
        .and_then(|status| status.container_statuses.clone())
        .unwrap_or_default();
    statuses.iter().map(|status| status.restart_count).sum()
}

struct RestartedSince(i32);

impl Condition<Pod> for RestartedSince {
    fn matches_object(&self, pod: Option<&Pod>) -> bool {
        pod.is_some_and(|pod| restarts(pod) > self.0)
    }
}

#[tokio::test]
async fn a_leader_that_is_told_to_end_hands_over_at_once() -> Result<()> {
    let cluster = cluster().await?;
    let team = Team::with_pool(&cluster, "term", 3).await?;
    let (before, active) = (holder(&cluster).await?, leader(&cluster).await?);
    for number in 0..3 {
        team.session(&format!("s-{number}"), SLOW).await?;
    }
    pods(&cluster)
        .delete(&active.name_any(), &DeleteParams::default())
        .await?;
    let began = std::time::Instant::now();
    another_leads(&cluster, before).await?;
    ensure!(
        began.elapsed() < Duration::from_secs(20),
        "the handover took {:?}",
        began.elapsed()
    );
    for number in 0..3 {
        ran_once(&team, &format!("s-{number}")).await?;
    }
    settled(&cluster)?;
    team.end().await
}

#[tokio::test]
async fn a_restart_of_the_api_server_costs_a_session_nothing() -> Result<()> {
    let cluster = cluster().await?;
    let team = Team::with_pool(&cluster, "api", 1).await?;
    team.session("s", SLOW).await?;
    team.phase("s", Phase::Running).await?;
    cluster.process("restart", "kube-apiserver")?;
    ran_once(&team, "s").await?;
    settled(&cluster)?;
    team.end().await
}

#[tokio::test]
async fn without_postgres_sessions_run_and_the_record_follows() -> Result<()> {
    let cluster = cluster().await?;
    let team = Team::with_pool(&cluster, "postgres", 2).await?;
    cluster.process("stop", "postgres")?;
    let ran = run_without_postgres(&cluster, &team).await;
    cluster.process("start", "postgres")?;
    let uid = ran?;
    ran_once(&team, "s").await?;
    assert_eq!(projected(&team, &uid).await?, ("Succeeded".to_owned(), true));
    team.end().await
}

/// The session's row, once Postgres has it: its phase, and whether its object is still there.
async fn projected(team: &Team, uid: &str) -> Result<(String, bool)> {
    let row = "select phase, deleted_at is null from session where uid = $1";
    let ask = async {
        loop {
            let found = sqlx::query_as(row)
                .bind(uid)
                .fetch_optional(&team.cluster.database)
                .await;
            match found {
                Ok(Some(found)) => return found,
                _ => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, ask)
        .await
        .context("the session isn't projected")
}

/// A session binds, runs and ends; then both replicas go and come back, all without Postgres.
async fn run_without_postgres(cluster: &Cluster, team: &Team) -> Result<String> {
    team.session("s", SLOW).await?;
    let session = team.phase("s", Phase::Succeeded).await?;
    pods(cluster)
        .delete_collection(&DeleteParams::default(), &ListParams::default())
        .await?;
    settled(cluster)?;
    session.uid().context("a uid")
}
