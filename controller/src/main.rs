//! Parses the command line and dispatches.

use std::process::ExitCode;

use berth_controller::cli::{Audit, Check, Cli, Command};
use berth_controller::{audit, check, git, run, store, telemetry};
use clap::Parser;

fn main() -> ExitCode {
    let cli = Cli::parse();
    telemetry::start(&cli.log);
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        tracing::error!("another TLS provider is installed");
        return ExitCode::FAILURE;
    }
    let done = match cli.command {
        Command::Run(args) => block_on(run::run(*args)),
        Command::Migrate(args) => block_on(migrate(args.database_url)),
        Command::Fetch => return git::child::run(),
        Command::Check(args) => return check(&args),
        Command::Audit(args) => return audit(args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "stopped");
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "a command for people")]
fn check(args: &Check) -> ExitCode {
    match check::check(args) {
        Ok(report) => {
            println!("{report}");
            ExitCode::from(u8::from(!report.errors.is_empty()))
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "a command for people")]
fn audit(args: Audit) -> ExitCode {
    let run = async move {
        match args {
            Audit::Verify(args) => audit::verify(&args).await,
            Audit::Who(args) => audit::who(&args).await,
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let told = runtime
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(run));
    match told {
        Ok(told) => {
            println!("{}", told.text);
            ExitCode::from(u8::from(!told.is_good))
        }
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::from(2)
        }
    }
}

fn block_on(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(work)
}

async fn migrate(url: Option<String>) -> anyhow::Result<()> {
    let Some(url) = url else {
        tracing::info!("no database is configured; nothing to migrate");
        return Ok(());
    };
    match store::migrate(&url).await? {
        store::Migrated::Done => tracing::info!("the schema is up to date"),
        store::Migrated::Unreachable => tracing::warn!("the database doesn't answer; the controller migrates later"),
    }
    Ok(())
}
