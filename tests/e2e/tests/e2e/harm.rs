//! Sessions whose agents do harm: each ends with a reason, and harms nobody else.

use std::time::Duration;

use anyhow::{Context as _, Result};
use berth_crds::{AgentSession, Phase};
use berth_e2e::{Team, cluster};
use kube::ResourceExt;
use serde_json::json;

/// A pool whose pods have little.
async fn small(purpose: &str) -> Result<Team> {
    let team = Team::create(&cluster().await?, purpose).await?;
    let mut pool = team.pool_named("small", 0);
    pool["spec"]["resources"] = json!({ "limits": { "memory": "128Mi", "cpu": "1" } });
    pool["spec"]["workspace"] = json!({ "storage": "128Mi" });
    team.apply(&pool).await?;
    Ok(team)
}

/// Waits until a session has failed; gives what it says.
async fn fails(team: &Team, name: &str) -> Result<String> {
    let failed = |session: &AgentSession| {
        session
            .status
            .as_ref()
            .is_some_and(|status| status.phase == Some(Phase::Failed))
    };
    let session = team.wait::<AgentSession>(name, "its failure", HARM, failed).await?;
    let conditions = session.status.unwrap_or_default().conditions;
    let ended = conditions
        .into_iter()
        .find(|it| it.type_ == "Succeeded")
        .context("a condition")?;
    Ok(format!("{}: {}", ended.reason, ended.message))
}

#[tokio::test]
async fn who_leaks_memory_or_fills_its_disk_ends_with_a_reason() -> Result<()> {
    let team = small("harm").await?;
    let leak = r#"perl -e 'my @kept; push @kept, "x" x 1_000_000 while 1'"#;
    team.session_of("small", "leaks", leak, &json!({})).await?;
    let fill = "head -c 400000000 /dev/zero > big; sleep 600";
    team.session_of("small", "fills", fill, &json!({})).await?;
    // Somebody who does neither, meanwhile.
    team.apply(&team.pool(0)).await?;
    team.session("neighbour", "echo unharmed > result.md").await?;
    team.phase("neighbour", Phase::Succeeded).await?;
    let leaked = fails(&team, "leaks").await?;
    assert!(
        leaked.starts_with("HarnessFailed: ") && (leaked.contains("137") || leaked.contains("restarted")),
        "{leaked}"
    );
    let filled = fails(&team, "fills").await?;
    assert!(
        filled.starts_with("Interrupted: ") || filled.starts_with("HarnessFailed: "),
        "{filled}"
    );
    team.end().await
}

#[tokio::test]
async fn who_is_deaf_or_forks_is_gone_when_it_is_suspended() -> Result<()> {
    let team = small("deaf").await?;
    let deaf = "trap '' TERM INT HUP; for i in $(seq 200); do (trap '' TERM; sleep 600) & done; echo deaf; wait";
    team.session_of("small", "deaf", deaf, &json!({})).await?;
    let runs = |session: &AgentSession| {
        session
            .status
            .as_ref()
            .is_some_and(|status| status.phase == Some(Phase::Running))
    };
    let running = team.wait("deaf", "a start beside floods", HARM, runs).await?;
    let pod = team.pod_of(&running).await?;
    let suspend = json!({ "spec": { "suspend": true } }).to_string();
    team.kubectl(&["patch", "agentsession", "deaf", "--type=merge", "--patch", &suspend])?;
    team.phase("deaf", Phase::Suspended).await?;
    team.claims_gone().await?;
    // The pod has ten seconds, and its last words.
    let name = format!("pod/{}", pod.name_any());
    team.kubectl(&["wait", "--for=delete", &name, "--timeout=40s"])?;
    team.end().await
}

#[tokio::test]
async fn a_flood_of_output_drowns_nobody() -> Result<()> {
    let team = small("flood").await?;
    let flood = "head -c 300000000 /dev/zero | tr '\\0' x | fold -w 200; echo swum > result.md";
    team.session_of("small", "floods", flood, &json!({})).await?;
    let runs = |session: &AgentSession| {
        session
            .status
            .as_ref()
            .is_some_and(|status| status.phase == Some(Phase::Running))
    };
    team.wait("floods", "a start", HARM, runs).await?;
    team.apply(&team.pool(0)).await?;
    team.session("neighbour", "echo dry > result.md").await?;
    team.phase("neighbour", Phase::Succeeded).await?;
    let ended = |session: &AgentSession| {
        session
            .status
            .as_ref()
            .is_some_and(|status| status.phase == Some(Phase::Succeeded))
    };
    let session = team.wait::<AgentSession>("floods", "its end", HARM, ended).await?;
    let uid = session.uid().context("a uid")?;
    let result = session.status.and_then(|status| status.result).context("a result")?;
    assert_eq!(result.summary.as_deref(), Some("swum\n"));
    // What isn't in the record is counted there.
    let sums = "select coalesce(sum(octet_length(output)), 0)::bigint, \
        coalesce(sum((data ->> 'bytes')::bigint) filter (where kind = 'gap'), 0)::bigint \
        from session_event where session_uid = $1";
    let all = async {
        loop {
            let query = sqlx::query_as(sums).bind(&uid);
            let (kept, lost): (i64, i64) = query.fetch_one(&team.cluster.database).await?;
            if kept + lost >= 300_000_000 {
                return Ok::<_, anyhow::Error>(());
            }
            tokio::time::sleep(Duration::from_millis(500)).await; // Postgres has no watch
        }
    };
    tokio::time::timeout(HARM, all)
        .await
        .context("the record isn't complete")??;
    team.end().await
}

/// A kubelet looks at disks every ten seconds or so.
const HARM: Duration = Duration::from_mins(4);
