//! Many sessions that print at once: how late a reader of the API has each line, and whether it has all.

use std::time::Duration;

use anyhow::{Context as _, Result};
use berth_e2e::api::Caller;
use berth_e2e::{Team, cluster, session_yaml};
use futures::future::try_join_all;
use jiff::Timestamp;
use serde_json::Value;

use super::warm;
use crate::report::{Row, percentile};

/// Lines of a session, five a second.
const LINES: usize = 150;
/// From the first session to the first line: by then all are bound, and each has its reader.
const BEGIN: Duration = Duration::from_secs(75);

pub(super) async fn measure(at_once: u16) -> Result<Vec<Row>> {
    let team = Team::with_pool(&cluster().await?, "streams", 0).await?;
    let mut pool = team.pool(0);
    pool["spec"]["harness"]["command"] = serde_json::json!(["bash", "-s"]);
    team.apply(&pool).await?;
    warm(&team, "pool", at_once).await?;
    let caller = Caller::create(&team, "reader", "berth-view").await?;
    let begin = (Timestamp::now() + BEGIN).as_second();
    // Bash waits by a pipe on which nothing comes: four hundred new processes a second would be most of what is measured.
    let script = format!(
        "exec 9<> <(:); sleep $(({begin} - EPOCHSECONDS)); \
         for i in $(seq {LINES}); do echo ${{EPOCHREALTIME/./}}; read -rt 0.2 -u 9; done; true"
    );
    let names: Vec<String> = (0..at_once).map(|i| format!("s{i}")).collect();
    for name in &names {
        team.apply(&serde_json::from_str(&session_yaml(name, &script))?).await?;
    }
    let lags = try_join_all(names.iter().map(async |name| read(&team, &caller, name).await)).await?;
    team.end().await?;
    let lags: Vec<Duration> = lags.into_iter().flatten().collect();
    let all = LINES * usize::from(at_once);
    let figure = |what: &str| format!("{at_once} sessions print at once: {what}");
    let lag = |percent: usize| {
        Row::new(
            figure(&format!("a line's lag, p{percent}")),
            percentile(&lags, percent),
            "ms",
        )
    };
    let lost = u32::try_from(all - lags.len().min(all))?;
    Ok(vec![
        lag(50),
        lag(99).at_most(250.0),
        Row::new(figure("lines lost"), lost.into(), "lines").at_most(0.0),
    ])
}

/// Follows a session to its end; gives how late each line was.
async fn read(team: &Team, caller: &Caller, name: &str) -> Result<Vec<Duration>> {
    let path = format!("{name}/events");
    let mut answer = loop {
        let answer = caller.get(team, &path).send().await?;
        if answer.status() != 404 {
            break answer.error_for_status()?;
        }
        tokio::time::sleep(Duration::from_millis(100)).await; // the controller hasn't seen it yet
    };
    let (mut lags, mut rest, mut line) = (Vec::new(), String::new(), String::new());
    while let Some(piece) = answer.chunk().await.context("the stream broke")? {
        let now = Timestamp::now();
        rest.push_str(&String::from_utf8_lossy(&piece));
        while let Some((message, after)) = rest.split_once("\n\n") {
            let data = message.lines().find_map(|line| line.strip_prefix("data: "));
            let data: Value = data
                .and_then(|data| serde_json::from_str(data).ok())
                .unwrap_or_default();
            line.push_str(data["text"].as_str().unwrap_or_default());
            rest = after.to_owned();
        }
        while let Some((first, after)) = line.split_once('\n') {
            if let Ok(printed) = first.trim().parse() {
                lags.push(super::between(Timestamp::from_microsecond(printed)?, now));
            }
            line = after.to_owned();
        }
    }
    Ok(lags)
}
