//! The command line; the only place that reads the environment.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// The container beside the agent.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Cli {
    /// What is logged to standard error.
    #[arg(long, env = "BERTH_LOG", default_value = "info", global = true)]
    pub log: String,
    /// How it is logged.
    #[arg(long, env = "BERTH_LOG_FORMAT", default_value = "pretty", global = true)]
    pub log_format: LogFormat,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// How logs look.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Pretty,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serves the agent and holds the control stream.
    Run(Options),
    /// Exits 0 once the control stream is attached: the startup probe.
    Ready {
        /// The `vault-state` volume.
        #[arg(long, env = "BERTH_STATE")]
        state: PathBuf,
    },
    /// Loads the rules that leave the agent no way but through the sidecar.
    Fence {
        /// By which program.
        #[arg(long)]
        mode: FenceMode,
    },
}

/// How the fence is loaded.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum FenceMode {
    /// nftables, for an ordinary kernel.
    Nft,
    /// The older iptables, for gVisor's own network stack.
    IptablesLegacy,
}

/// How to run.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// URL of the control stream.
    #[arg(long, env = "BERTH_CONTROL_URL")]
    pub control_url: String,
    /// File with the CA certificate that it is verified by.
    #[arg(long, env = "BERTH_CONTROL_CA")]
    pub control_ca: PathBuf,
    /// File with the pod's projected token of audience `berth`.
    #[arg(long, env = "BERTH_TOKEN_FILE")]
    pub token_file: PathBuf,
    /// Directory for the runner's socket.
    #[arg(long, env = "BERTH_HANDOFF")]
    pub handoff: PathBuf,
    /// Directory that only this container sees and that lives as long as the pod.
    #[arg(long, env = "BERTH_STATE")]
    pub state: PathBuf,
    /// Where the proxy listens.
    #[arg(long, default_value = "127.0.0.1:14322")]
    pub proxy_address: SocketAddr,
    /// Where redirected connections arrive.
    #[arg(long, default_value = "127.0.0.1:14323")]
    pub transparent_address: SocketAddr,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::listen::{PROXY_PORT, TRANSPARENT_PORT};

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_listeners_default_to_the_ports_that_the_fence_knows() {
        let line = "berth-sidecar run --control-url u --control-ca c --token-file t --handoff h --state s";
        let cli = Cli::try_parse_from(line.split(' ')).unwrap();
        let Command::Run(options) = cli.command else {
            panic!("not run")
        };
        assert_eq!(
            (options.proxy_address.port(), options.transparent_address.port()),
            (PROXY_PORT, TRANSPARENT_PORT)
        );
    }
}
