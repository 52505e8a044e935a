//! Benchmarks: of sessions on the running local cluster, and of the proxy beside its peers on this machine.
//!
//! In: for sessions, the environment that `tests/cluster/cluster env` prints; for the proxy, the peers that
//! `peers/install` keeps. Out: a table, and the same rows in `target/bench/NAME.json`. Never restarts or changes what is
//! installed: works in a namespace, and in a directory, of its own.

#[cfg(feature = "cluster")]
mod agents;
#[cfg(feature = "cluster")]
mod audit;
mod docs;
#[cfg(feature = "cluster")]
mod follow;
#[cfg(feature = "cluster")]
mod grants;
#[cfg(feature = "proxy")]
mod proxy;
mod report;
#[cfg(feature = "cluster")]
mod reviewed;
#[cfg(feature = "cluster")]
mod sessions;
#[cfg(feature = "cluster")]
mod swarm;

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::Parser;

/// Measures Berth.
#[derive(Parser)]
struct Arguments {
    /// The benchmark.
    name: Option<String>,
    /// Names the benchmarks.
    #[arg(long)]
    list: bool,
    /// Rounds: 60 serial ones of `sessions`, 50 of `grants`, 3 of `swarm`, of `agents` and of each scenario of `proxy` unless said otherwise.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    n: Option<u32>,
    /// Rounds of a pool's worth of sessions at once.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Sessions of `agents` that print at once.
    #[arg(long, default_value_t = 80, value_parser = clap::value_parser!(u16).range(1..=500))]
    at_once: u16,
    /// One part of `agents` alone.
    #[cfg(feature = "cluster")]
    #[arg(long)]
    part: Option<agents::Part>,
    /// Minutes of `idle`.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=60))]
    minutes: u32,
    /// State folder of the cluster, where its audit log is.
    #[arg(long, env = "BERTH_CLUSTER_DIR")]
    cluster_dir: Option<PathBuf>,
    #[cfg(feature = "proxy")]
    #[command(flatten)]
    proxy: proxy::Options,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if arguments.list {
        println!("sessions   bare SandboxClaims beside AgentSessions, on one warm pool");
        println!("idle       what Berth asks for beside a thousand finished sessions");
        println!("grants     from a merge to the first permitted call, and from its revert to the first refused one");
        println!("swarm      five hundred sessions that one binding is for, and a thousand bindings beside it");
        println!("agents     the four agent programs: first request, turns, resume, streams, beside bare pods");
        println!("proxy      the sidecar beside hudsucker, Envoy, mitmproxy and no proxy, without a cluster");
        println!("docs       writes the figures of the last `proxy` into docs/benchmarks.md and its plot");
        return Ok(());
    }
    match arguments
        .name
        .as_deref()
        .context("name a benchmark; --list names them")?
    {
        #[cfg(feature = "cluster")]
        "sessions" => {
            let log = audit_log(arguments.cluster_dir)?;
            let rows = sessions::measure(arguments.n.unwrap_or(60), arguments.rounds, &log).await?;
            report::publish("sessions", &rows)
        }
        #[cfg(feature = "cluster")]
        "idle" => {
            let log = audit_log(arguments.cluster_dir)?;
            report::publish("idle", &sessions::measure_idle(arguments.minutes, &log).await?)
        }
        #[cfg(feature = "cluster")]
        "grants" => report::publish("grants", &grants::measure(arguments.n.unwrap_or(50)).await?),
        #[cfg(feature = "cluster")]
        "swarm" => report::publish("swarm", &swarm::measure(arguments.n.unwrap_or(3)).await?),
        #[cfg(feature = "cluster")]
        "agents" => report::publish(
            "agents",
            &agents::measure(arguments.n.unwrap_or(3), arguments.at_once, arguments.part).await?,
        ),
        #[cfg(feature = "proxy")]
        "proxy" => report::publish(
            "proxy",
            &proxy::measure(&arguments.proxy, arguments.n.unwrap_or(3)).await?,
        ),
        "docs" => docs::write(),
        #[cfg(feature = "proxy")]
        proxy::ORIGIN => proxy::serve_origin().await,
        other => bail!("no benchmark is called {other}; --list names them"),
    }
}

#[cfg(feature = "cluster")]
fn audit_log(cluster: Option<PathBuf>) -> Result<PathBuf> {
    Ok(cluster.context("BERTH_CLUSTER_DIR isn't set")?.join("audit/audit.log"))
}
