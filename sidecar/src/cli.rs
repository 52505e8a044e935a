//! The command line; the only place that reads the environment.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use berth_egress::authority::Host;
use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;

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
    /// Serves an agent by a policy file, without Kubernetes.
    Serve(Standalone),
    /// Says what is wrong with a policy file.
    Check {
        /// The policy, YAML.
        #[arg(long)]
        policy: PathBuf,
    },
    /// Says which rule decides about a request, and why the others don't.
    Explain(Explained),
    /// Prints what a program has to find in its environment: stubs, proxy and certificates, as lines for a shell.
    Stubs {
        /// The policy, YAML.
        #[arg(long)]
        policy: PathBuf,
        /// The directory that `serve` writes its certificates to.
        #[arg(long)]
        handoff: PathBuf,
        /// Where `serve` listens.
        #[arg(long, default_value = "127.0.0.1:14322")]
        proxy_address: SocketAddr,
    },
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

/// How to run in a pod.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// The stream to the controller.
    #[command(flatten)]
    pub control: Control,
    /// Where it stands.
    #[command(flatten)]
    pub place: Place,
}

/// The stream to the controller.
#[derive(Args, Clone, Debug)]
pub struct Control {
    /// URL of the control stream.
    #[arg(long, env = "BERTH_CONTROL_URL")]
    pub control_url: String,
    /// File with the CA certificate that it is verified by.
    #[arg(long, env = "BERTH_CONTROL_CA")]
    pub control_ca: PathBuf,
    /// File with the pod's projected token of audience `berth`.
    #[arg(long, env = "BERTH_TOKEN_FILE")]
    pub token_file: PathBuf,
}

/// Where a sidecar stands.
#[derive(Args, Clone, Debug)]
pub struct Place {
    /// Directory that the agent reads: the runner's socket, certificates.
    #[arg(long, env = "BERTH_HANDOFF")]
    pub handoff: PathBuf,
    /// Directory that only the sidecar sees: the certificate authority's key, and what isn't told yet.
    #[arg(long, env = "BERTH_STATE")]
    pub state: PathBuf,
    /// Directory on disk that only the sidecar sees, for pushes of git while they are judged; the state's when left out.
    #[arg(long, env = "BERTH_SPOOL")]
    pub spool: Option<PathBuf>,
    /// Where the proxy listens.
    #[arg(long, default_value = "127.0.0.1:14322")]
    pub proxy_address: SocketAddr,
    /// Where redirected connections arrive.
    #[arg(long, default_value = "127.0.0.1:14323")]
    pub transparent_address: SocketAddr,
    /// File with certificates (PEM) that upstreams are verified by, besides the public ones. Repeatable.
    #[arg(long = "upstream-ca", env = "BERTH_UPSTREAM_CA", value_delimiter = ',')]
    pub upstream_ca: Vec<PathBuf>,
    /// Network of the cluster, which no request reaches unless its route names it. Repeatable.
    #[arg(long, env = "BERTH_CLUSTER_CIDR", value_delimiter = ',')]
    pub cluster_cidr: Vec<IpNet>,
    /// Address of a host, `HOST=ADDRESS`, instead of asking name servers; vetted like all others. Repeatable.
    #[arg(long)]
    pub resolve: Vec<Fixed>,
    /// Address of a name server, `IP` or `IP:PORT`, instead of the machine's. Repeatable.
    #[arg(long, env = "BERTH_NAME_SERVER", value_delimiter = ',', value_parser = name_server)]
    pub name_server: Vec<SocketAddr>,
}

fn name_server(text: &str) -> Result<SocketAddr, String> {
    let address = text.parse::<IpAddr>().map(|address| SocketAddr::new(address, DNS_PORT));
    address
        .or_else(|_with_port| text.parse())
        .map_err(|_neither| format!("{text}: write IP or IP:PORT"))
}

/// A host with its address.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fixed {
    /// The host.
    pub host: Host,
    /// Its address.
    pub address: IpAddr,
}

impl FromStr for Fixed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (host, address) = text
            .split_once('=')
            .ok_or("write HOST=ADDRESS, such as api.example.com=192.0.2.1")?;
        Ok(Self {
            host: Host::parse(host).map_err(|error| format!("{host}: {error}"))?,
            address: address.parse().map_err(|error| format!("{address}: {error}"))?,
        })
    }
}

/// How to run without Kubernetes.
#[derive(Args, Clone, Debug)]
pub struct Standalone {
    /// The policy, YAML; read again when it changes.
    #[arg(long, required_unless_present = "legacy_env")]
    pub policy: Option<PathBuf>,
    /// Instead of a file: the variables `REAL_*`, `HOST_*` and `EGRESS_*` of the LiteLLM Agent Platform.
    #[arg(long, conflicts_with = "policy")]
    pub legacy_env: bool,
    /// File that uses of credentials are written to, a line of JSON each; `-` is standard output.
    #[arg(long, default_value = "-")]
    pub audit: PathBuf,
    /// Where it stands.
    #[command(flatten)]
    pub place: Place,
}

/// A request to be explained.
#[derive(Args, Clone, Debug)]
pub struct Explained {
    /// The policy, YAML.
    #[arg(long)]
    pub policy: PathBuf,
    /// Method of the request.
    pub method: String,
    /// Its URL.
    pub url: String,
    /// A header of it, `Name: value`. Repeatable.
    #[arg(long = "header", short = 'H')]
    pub headers: Vec<String>,
}

/// RFC 1035 §4.2.
const DNS_PORT: u16 = 53;

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
    fn a_name_server_is_an_address_with_or_without_port() {
        let table = [
            ("192.0.2.1", Some("192.0.2.1:53")),
            ("192.0.2.1:5353", Some("192.0.2.1:5353")),
            ("2001:db8::1", Some("[2001:db8::1]:53")),
            ("[2001:db8::1]:5353", Some("[2001:db8::1]:5353")),
            ("dns.example.com", None),
        ];
        for (text, expected) in table {
            assert_eq!(
                name_server(text).ok().map(|address| address.to_string()).as_deref(),
                expected,
                "{text}"
            );
        }
    }

    #[test]
    fn the_listeners_default_to_the_ports_that_the_fence_knows() {
        let line = "berth-sidecar run --control-url u --control-ca c --token-file t --handoff h --state s";
        let cli = Cli::try_parse_from(line.split(' ')).unwrap();
        let Command::Run(options) = cli.command else {
            panic!("not run")
        };
        assert_eq!(
            (
                options.place.proxy_address.port(),
                options.place.transparent_address.port()
            ),
            (PROXY_PORT, TRANSPARENT_PORT)
        );
    }
}
