//! The sidecar as a process of its own, so that a test can measure and limit it: `berth-sidecar serve`, which says where
//! it listens.

use std::io::Write as _;

use berth_sidecar::cli::Standalone;
use berth_sidecar::{run, standalone};
use clap::Parser;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    options: Standalone,
}

fn main() -> anyhow::Result<()> {
    let options = Cli::parse().options;
    run::runtime()?.block_on(async {
        let (mut serving, _proxy) = standalone::start(&options).await?;
        let mut output = std::io::stdout();
        writeln!(output, "{}", serving.proxy_address)?;
        output.flush()?;
        serving.parts.join_next().await;
        Ok(())
    })
}
