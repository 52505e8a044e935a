//! Entry point of `berth-runner`: parses, starts logging, dispatches.

use berth_runner::cli::{Cli, Command};
use berth_runner::{harden, install, run};
use clap::Parser;

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    // Standard error is shared with the harness, whose words come first: the runner itself says little.
    let filter = tracing_subscriber::EnvFilter::try_new(&cli.log).unwrap_or_default();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .compact()
        .init();
    match cli.command {
        Command::Install { directory } => Ok(install::install(&directory)?),
        Command::Run(options) => {
            harden::harden()?; // before there is another thread
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let ended = runtime.block_on(run::run(options));
            // A blocked write to a stalled log must not keep the container alive.
            runtime.shutdown_background();
            Ok(ended?)
        }
    }
}
