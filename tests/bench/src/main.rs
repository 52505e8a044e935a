//! Benchmarks on the running local cluster.
//!
//! In: the environment that `tests/cluster/cluster env` prints. Out: a table, and the same rows in
//! `target/bench/NAME.json`. Never restarts or changes what is installed: works in a namespace of its own.

mod audit;
mod follow;
mod report;
mod sessions;

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::Parser;

/// Measures Berth on the running local cluster.
#[derive(Parser)]
struct Arguments {
    /// The benchmark.
    name: Option<String>,
    /// Names the benchmarks.
    #[arg(long)]
    list: bool,
    /// Serial rounds of a benchmark.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    n: u32,
    /// State folder of the cluster, where its audit log is.
    #[arg(long, env = "BERTH_CLUSTER_DIR")]
    cluster_dir: PathBuf,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if arguments.list {
        println!("sessions   bare SandboxClaims beside AgentSessions, on one warm pool");
        return Ok(());
    }
    match arguments.name.context("name a benchmark; --list names them")?.as_str() {
        "sessions" => {
            let rows = sessions::measure(arguments.n, &arguments.cluster_dir.join("audit/audit.log")).await?;
            report::publish("sessions", &rows)
        }
        other => bail!("no benchmark is called {other}; --list names them"),
    }
}
