//! A pool under gVisor: another kernel for the agent, the same fence. The first run builds gVisor, for minutes.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use berth_crds::{AgentSession, Phase};
use berth_e2e::granted::value;
use berth_e2e::node::Arrivals;
use berth_e2e::{Scene, Team, cluster};
use serde_json::json;

use crate::guarantees::network;

/// What the agent reaches, and whose kernel it sees.
const LOOK: &str = r#"(
    code=$(curl -s -o /dev/null -w '%{http_code}' http://api.example.com/); echo "proxy $code"
    curl -s -o /dev/null --noproxy '*' --max-time 5 -w 'direct %{http_code}\n' http://10.99.0.1:3000/ || echo "direct refused"
    curl -sk --noproxy '*' --max-time 5 https://10.96.0.1/version > /dev/null && echo "api reached" || echo "api refused"
    getent hosts example.com > /dev/null && echo "dns reached" || echo "dns refused"
    dmesg | grep -q gVisor && echo "gVisor" || echo "no gVisor"
) > result.md 2>&1"#;

#[tokio::test]
async fn a_pool_under_gvisor_binds_a_session_behind_its_fence() -> Result<()> {
    let cluster = cluster().await?;
    cluster.add(&["gvisor"])?;
    let team = Team::create(&cluster, "gvisor").await?;
    let mut pool = team.pool(1);
    pool["spec"]["runtimeClassName"] = "gvisor".into();
    let warm = team.warm(&pool).await?;
    let conditions = warm.status.map(|status| status.conditions).unwrap_or_default();
    let confined = berth_crds::condition::find(&conditions, berth_crds::ConditionType::Confined);
    let confined = confined.map(|it| (it.status.as_str(), it.reason.as_str()));
    assert_eq!(confined, Some(("True", "Fenced")));

    team.session("s", LOOK).await?;
    let ended =
        |session: &AgentSession| session.status.as_ref().and_then(|status| status.phase) == Some(Phase::Succeeded);
    let session = team
        .wait::<AgentSession>("s", "success", Duration::from_mins(2), ended)
        .await?;
    let status = session.status.context("a status")?;
    assert_eq!(status.incarnation, 1);
    let summary = status.result.and_then(|result| result.summary).context("a summary")?;
    let said: Vec<&str> = summary.lines().collect();
    assert_eq!(
        said,
        ["proxy 403", "direct 403", "api refused", "dns refused", "gVisor"]
    );
    team.end().await
}

/// Its own network knows neither nft nor the node's rules: the ways out are counted by the node, as under runc.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_else_leaves_a_pod_under_gvisor() -> Result<()> {
    let cluster = cluster().await?;
    cluster.add(&["gvisor"])?;
    let (scene, secret) = (
        Scene::create(&cluster, "fenced", 1, &json!({ "runtimeClassName": "gvisor" })).await?,
        value()?,
    );
    scene.grant("s", &secret).await?;
    let session = scene.start("s", &secret, &network::kinds()).await?;
    let arrivals = Arrivals::count(&session.address()?)?;
    let arguments = arrivals.arguments()?;
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let tried = session.agent(OUT, &arguments, "")?;
    ensure!(tried.len() > 20, "{tried:#?}");
    let open = arrivals.ways(&tried)?;
    ensure!(open.is_empty(), "{open:?} left the pod: {tried:#?}");
    arrivals.none_beyond()?;
    let kinds = session.shell("cat /workspace/kinds")?;
    let known = |kind: &str| network::KINDS.iter().any(|known| kind.starts_with(known));
    let unknown: Vec<&str> = kinds.lines().filter(|kind| !known(kind)).collect();
    ensure!(unknown.is_empty(), "sockets of these kinds can be made: {unknown:?}");
    scene.end().await
}

const OUT: &str = include_str!("guarantees/agent/out.pl");
