//! A pod is deleted: how long until its agent asks its model again, with more and more to restore.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use berth_crds::Phase;
use berth_e2e::Team;
use berth_e2e::agent::{CLAUDE_CODE, World};
use berth_gallery::played_model;
use jiff::Timestamp;
use kube::ResourceExt;

use super::{Asked, PATIENCE, asked_after, bare, between, timed, told, warm};
use crate::report::{Row, percentile};

/// Of the workspace, in MiB.
const SIZES: [u64; 3] = [1, 50, 250];
const BARE: u32 = 3;

pub(super) async fn measure() -> Result<Vec<Row>> {
    let (model, asked) = timed(played_model::answer());
    let world = World::with_model(&CLAUDE_CODE, model, &[]).await?;
    let mut starts = Vec::new();
    for round in 0..BARE {
        starts.push(bare::start(&world.team, &format!("bare{round}"), CLAUDE_CODE.image)?);
    }
    let floor = percentile(&starts, 50);
    let mut rows = vec![Row::new(format!("a bare pod's start, p50 (n={BARE})"), floor, "ms")];
    for size in SIZES {
        rows.extend(one(&world, &asked, size, floor).await?);
    }
    world.team.end_policy().await?;
    world.team.end().await?;
    Ok(rows)
}

async fn one(world: &World, asked: &Asked, size: u64, floor: f64) -> Result<Vec<Row>> {
    let team = &world.team;
    warm(team, "pool", 1).await?;
    // A file of more than 128 MiB isn't kept.
    let half = (size << 20) / 2;
    let prompt = format!(
        "Run `for i in 1 2; do head -c {half} /dev/urandom > state$i; done; touch begun && sleep 600`. Later run `ls`."
    );
    let name = format!("s{size}");
    let mut session = world.session(&prompt);
    session["metadata"]["name"] = name.clone().into();
    session["spec"]["task"]["onInterrupt"] = "Resume".into();
    team.apply(&session).await?;
    let session = team.phase(&name, Phase::Running).await?;
    let uid = session.uid().context("a uid")?;
    kept(team, &uid, size).await?;
    warm(team, "pool", 1).await?;
    let pod = team.pod_of(&session).await?.name_any();
    let deleted = Timestamp::now();
    team.kubectl(&["delete", "pod", &pod, "--grace-period=0", "--force", "--wait=false"])?;
    let asked = asked_after(asked, deleted).await?;
    let session = team.phase(&name, Phase::Succeeded).await?;
    let resume = session.status.and_then(|status| status.resume).context("a receipt")?;
    anyhow::ensure!(resume.verdict == "Complete", "{resume:?}");
    let restored = told(team, &uid, "restored", 2).await?;
    let started = told(team, &uid, "started", 2).await?;
    let row = |what: &str, from: Timestamp, to: Timestamp| {
        let took = percentile(&[between(from, to)], 100);
        Row::new(format!("resume with {size} MiB: {what}"), took, "ms")
    };
    let whole = row("deleted to the agent's request", deleted, asked);
    let added = Row::new(
        format!("resume with {size} MiB: restored, beyond a bare start"),
        row("", deleted, restored).value - floor,
        "ms",
    );
    Ok(vec![
        whole,
        row("deleted to restored", deleted, restored),
        row("restored to the program's start", restored, started),
        row("its start to its request", started, asked),
        if size == 1 { added.at_most(1_000.0) } else { added },
    ])
}

/// Waits until a checkpoint of so many MiB is in the record.
async fn kept(team: &Team, uid: &str, size: u64) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    let enough = i64::try_from(size << 20)?;
    while Instant::now() < end {
        let most = "select max(bytes) from checkpoint where session_uid = $1";
        let bytes = team.cluster.number(most, &[uid]).await?;
        if bytes.is_some_and(|bytes| bytes >= enough) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    bail!("no checkpoint of {size} MiB")
}
