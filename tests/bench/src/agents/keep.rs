//! What checkpoints cost: Claude Code works for a while in a session that is resumed when its pod is lost, and the same in
//! one that isn't. The processor's time is the runner's, which takes them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use berth_crds::{AgentSession, Phase};
use berth_e2e::agent::{CLAUDE_CODE, World};
use berth_e2e::node;
use berth_gallery::played_model;
use kube::ResourceExt;

use super::PATIENCE;
use crate::report::Row;

/// Requests of a session; each writes a little, and takes as long as a quick command does.
const TURNS: u32 = 20;
/// A chunk is in the record for two checkpoints, which are ten seconds apart.
const SAMPLE: Duration = Duration::from_millis(500);

/// What one session cost.
struct Cost {
    processor: Duration,
    /// Compressed chunks that were ever in the record.
    chunks: u64,
    /// Its events.
    events: u64,
    took: Duration,
}

pub(super) async fn measure() -> Result<Vec<Row>> {
    let world = World::with_model(&CLAUDE_CODE, played_model::answer(), &[]).await?;
    let without = one(&world, "report").await?;
    let with = one(&world, "resume").await?;
    world.team.end_policy().await?;
    world.team.end().await?;
    let a_turn = |cost: &Cost| cost.processor.as_secs_f64() * 1e3 / f64::from(TURNS);
    let kib = |bytes: u64| f64::from(u32::try_from(bytes / 64).unwrap_or(u32::MAX)) / 16.0;
    let hours = with.took.as_secs_f64() / 3_600.0;
    Ok(vec![
        Row::new(
            format!("runner's processor time a turn (n={TURNS})"),
            a_turn(&with),
            "ms",
        )
        .beside("without checkpoints", a_turn(&without)),
        Row::new(
            "checkpoints, bytes stored a turn",
            kib(with.chunks) / f64::from(TURNS),
            "KiB",
        ),
        Row::new(
            "Postgres, checkpoints of a session-hour",
            kib(with.chunks) / hours / 1_024.0,
            "MiB",
        ),
        Row::new(
            "Postgres, events of a session-hour",
            kib(with.events) / hours / 1_024.0,
            "MiB",
        ),
    ])
}

/// A session of this name, which is its policy too.
async fn one(world: &World, name: &str) -> Result<Cost> {
    let team = &world.team;
    let prompt = format!("Run `seq 1 2000 >> notes; sleep 2` {TURNS} times");
    let mut session = world.session(&prompt);
    session["metadata"]["name"] = name.into();
    let policy = if name == "resume" { "Resume" } else { "Report" };
    session["spec"]["task"]["onInterrupt"] = policy.into();
    // Until the last look at the runner.
    session["spec"]["lifecycle"] = serde_json::json!({ "releaseAfterFinished": "1m" });
    team.apply(&session).await?;
    let session = team.phase(name, Phase::Running).await?;
    let (uid, began) = (session.uid().context("a uid")?, Instant::now());
    let pod = team.pod_of(&session).await?;
    let runner = node::process(&pod.uid().context("a uid")?, "berth-runner")?;
    let before = node::processor_time(runner)?;
    let mut chunks: BTreeMap<String, u64> = BTreeMap::new();
    let look = "select encode(hash, 'hex'), octet_length(data) from checkpoint_chunk where session_uid = $1";
    let end = Instant::now() + PATIENCE;
    loop {
        let found: Vec<(String, i32)> = sqlx::query_as(look)
            .bind(&uid)
            .fetch_all(&team.cluster.database)
            .await?;
        chunks.extend(
            found
                .into_iter()
                .map(|(hash, bytes)| (hash, bytes.unsigned_abs().into())),
        );
        let now = team.api::<AgentSession>().get(name).await?;
        if now.status.and_then(|status| status.phase) == Some(Phase::Succeeded) {
            break;
        }
        if Instant::now() > end {
            bail!("session {name} didn't end within {} s", PATIENCE.as_secs());
        }
        tokio::time::sleep(SAMPLE).await; // of what comes and goes meanwhile
    }
    let took = began.elapsed();
    let processor = node::processor_time(runner)?.saturating_sub(before);
    let events = "select coalesce(sum(pg_column_size(e)), 0)::bigint from session_event e where session_uid = $1";
    let events = team.cluster.number(events, &[&uid]).await?.unwrap_or_default();
    Ok(Cost {
        processor,
        chunks: chunks.values().sum(),
        events: events.unsigned_abs(),
        took,
    })
}
