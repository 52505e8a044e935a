//! The command line; the only place that reads the environment.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::harness::Kind;

/// Entry process of the agent container.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Cli {
    /// What is logged to standard error.
    #[arg(long, env = "BERTH_LOG", default_value = "warn", global = true)]
    pub log: String,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Copies this program to DIRECTORY/berth-runner.
    Install {
        /// An existing directory.
        directory: PathBuf,
    },
    /// Waits for a session, runs its harness, reports.
    Run(Options),
}

/// How to run.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Directory with the sidecar's socket.
    #[arg(long)]
    pub handoff: PathBuf,
    /// Directory that the harness works in.
    #[arg(long)]
    pub workspace: PathBuf,
    /// Which agent program the harness is.
    #[arg(long, value_enum, default_value_t)]
    pub harness: Kind,
    /// Home of the agent's user, where its program keeps its files.
    #[arg(long, env = "HOME", default_value = "/home/agent")]
    pub home: PathBuf,
    /// The harness, unless the assignment names one.
    #[arg(last = true)]
    pub command: Vec<String>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_harness_command_may_be_absent_and_keeps_its_dashes() {
        let parse = |tail: &[&str]| {
            let head = ["berth-runner", "run", "--handoff", "h", "--workspace", "w"];
            let cli = Cli::try_parse_from(head.iter().chain(tail)).unwrap();
            let Command::Run(options) = cli.command else {
                panic!("not run")
            };
            assert_eq!(options.harness, Kind::Custom);
            options.command
        };
        assert_eq!(parse(&["--", "sh", "-c", "x"]), ["sh", "-c", "x"]);
        assert!(parse(&["--"]).is_empty());
        assert!(parse(&[]).is_empty());
    }

    #[test]
    fn pools_name_the_harness_as_the_controller_renders_it() {
        // controller/src/pool/pod.rs has the same names.
        let kinds = [
            ("claude-code", Kind::ClaudeCode),
            ("codex", Kind::Codex),
            ("hermes", Kind::Hermes),
            ("opencode", Kind::OpenCode),
        ];
        for (name, kind) in kinds {
            assert_eq!(<Kind as clap::ValueEnum>::from_str(name, false), Ok(kind));
        }
    }
}
