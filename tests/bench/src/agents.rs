//! Benchmark `agents`: the four real programs, before a played model (`berth_gallery::played_model`), on the running cluster.
//!
//! In: a cluster with Berth and its forge. Out: rows. Everything is on this machine's one clock: the commit is when `git push`
//! came back, a request when the model had it, a start or a restore when the pod said so. What the pod says is in the
//! record. `bare` is the same image in a pod without Berth.

mod bare;
mod first;
mod keep;
mod resume;
mod stream;
mod turns;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use berth_crds::AgentPool;
use berth_e2e::Team;
use berth_e2e::agent::{AGENTS, is_asked};
use berth_gallery::origin::Answer;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::json;

use crate::report::Row;

/// A part of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub(crate) enum Part {
    /// Commits to first requests.
    First,
    /// Requests and tokens.
    Turns,
    /// Pods that are deleted.
    Resume,
    /// What checkpoints cost.
    Keep,
    /// Many sessions that print at once.
    Stream,
}

/// Measures `n` rounds of each kind, and `at_once` sessions that stream; or one part of that.
pub(crate) async fn measure(n: u32, at_once: u16, only: Option<Part>) -> Result<Vec<Row>> {
    let is_wanted = |part: Part| only.is_none_or(|only| only == part);
    let mut rows = Vec::new();
    for agent in AGENTS.into_iter().filter(|_| is_wanted(Part::First)) {
        rows.extend(shown(first::measure(agent, n).await?));
    }
    if is_wanted(Part::Turns) {
        rows.extend(shown(turns::measure(n).await?));
    }
    if is_wanted(Part::Resume) {
        rows.extend(shown(resume::measure().await?));
    }
    if is_wanted(Part::Keep) {
        rows.extend(shown(keep::measure().await?));
    }
    if is_wanted(Part::Stream) {
        rows.extend(shown(stream::measure(at_once).await?));
    }
    Ok(rows)
}

/// A quarter of an hour is long to wait for the first figure.
fn shown(rows: Vec<Row>) -> Vec<Row> {
    for row in &rows {
        eprintln!("{}: {:.2} {}", row.figure, row.value, row.unit);
    }
    rows
}

/// When a model was asked, and when it had its answer ready.
type Asked = Arc<Mutex<Vec<(Timestamp, Timestamp)>>>;

/// The model, with its times.
fn timed(model: Answer) -> (Answer, Asked) {
    let asked = Asked::default();
    let kept = Arc::clone(&asked);
    let timed: Answer = Arc::new(move |seen| {
        let began = Timestamp::now();
        let answer = model(seen);
        if is_asked(seen) {
            kept.lock().push((began, Timestamp::now()));
        }
        answer
    });
    (timed, asked)
}

/// When the model was asked first after that.
async fn asked_after(asked: &Asked, after: Timestamp) -> Result<Timestamp> {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if let Some((at, _)) = asked.lock().iter().find(|(at, _)| *at > after) {
            return Ok(*at);
        }
        tokio::time::sleep(Duration::from_millis(20)).await; // the time itself is what the model noted
    }
    bail!("nobody asked the model within {} s", PATIENCE.as_secs())
}

/// When a pod of a session told this first; the record follows in its own time.
async fn told(team: &Team, uid: &str, kind: &str, incarnation: i64) -> Result<Timestamp> {
    let when = "select (extract(epoch from min(at)) * 1000000)::bigint from session_event \
        where session_uid = $1 and kind = $2 and incarnation = $3::bigint";
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        let parameters = [uid, kind, &incarnation.to_string()];
        if let Some(micros) = team.cluster.number(when, &parameters).await? {
            return Ok(Timestamp::from_microsecond(micros)?);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    bail!("no {kind} of {uid} in the record")
}

/// Waits until the pool has this many sandboxes, all warm.
async fn warm(team: &Team, name: &str, replicas: u16) -> Result<()> {
    let patch = json!({ "spec": { "replicas": replicas } }).to_string();
    team.kubectl(&["patch", "agentpool", name, "--type=merge", "--patch", &patch])?;
    let wanted = format!("{replicas}/{replicas}");
    let is_warm = |pool: &AgentPool| {
        pool.status
            .as_ref()
            .is_some_and(|status| status.warm.as_ref() == Some(&wanted))
    };
    team.wait::<AgentPool>(name, "a warm pool", FILL, is_warm)
        .await
        .map(drop)
}

fn between(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

const PATIENCE: Duration = Duration::from_mins(3);
/// Two cores start a hundred pods in some minutes.
const FILL: Duration = Duration::from_mins(8);
