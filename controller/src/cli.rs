//! Command line and environment: the one place that reads either.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use jiff::Timestamp;

use crate::grant::permit::DefaultPolicy;

/// Keeps agent sessions in lockstep with git.
#[derive(Debug, Parser)]
#[command(name = "berth-controller", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// How to log.
    #[command(flatten)]
    pub log: Log,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve: reconcile while holding the Lease, stand by otherwise.
    Run(Box<Run>),
    /// Bring the database's schema up to date, as its owner.
    Migrate(Migrate),
    /// Vet a commit as a GitSource would read it, without a cluster; for the CI of a team's repository. Exit code 0:
    /// nothing is wrong; 1: something is; 2: it can't be read.
    Check(Check),
    /// Read what was granted: whether nobody has tampered with it, and who let a session use something.
    #[command(subcommand)]
    Audit(Audit),
    /// Fetch one source: a request on standard input, an answer on standard output. Started by `run`.
    Fetch,
}

/// How to log.
#[derive(Clone, Debug, Args)]
pub struct Log {
    /// Filter, in tracing's syntax.
    #[arg(long, env = "BERTH_LOG", default_value = "info", global = true)]
    pub log: String,
    /// Format of a line.
    #[arg(long, env = "BERTH_LOG_FORMAT", default_value = "json", global = true)]
    pub log_format: LogFormat,
}

/// Format of a line of the log.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Pretty,
}

/// `check`.
#[derive(Clone, Debug, Args)]
pub struct Check {
    /// The repository, or a folder within it.
    #[arg(default_value = ".")]
    pub repository: PathBuf,
    /// What is vetted.
    #[arg(long, default_value = "HEAD")]
    pub revision: String,
    /// What the grants are compared with, such as `origin/main`.
    #[arg(long)]
    pub base: Option<String>,
    /// Namespace of the GitSource.
    #[arg(long, default_value = "default")]
    pub namespace: String,
    /// As `spec.include` of the GitSource. Repeatable.
    #[arg(long)]
    pub include: Vec<String>,
    /// As `spec.exclude` of the GitSource. Repeatable.
    #[arg(long)]
    pub exclude: Vec<String>,
}

/// `run`.
#[derive(Clone, Debug, Args)]
pub struct Run {
    /// Namespace that Berth runs in.
    #[arg(long, env = "BERTH_NAMESPACE")]
    pub namespace: String,
    /// Name of this pod.
    #[arg(long, env = "BERTH_POD_NAME")]
    pub pod_name: String,
    /// Image of the sidecar and of the fence.
    #[arg(long, env = "BERTH_SIDECAR_IMAGE")]
    pub sidecar_image: String,
    /// Image that the runner is copied from.
    #[arg(long, env = "BERTH_RUNNER_IMAGE")]
    pub runner_image: String,
    /// `Always`, `IfNotPresent` or `Never`.
    #[arg(long, env = "BERTH_IMAGE_PULL_POLICY", default_value = "IfNotPresent",
        value_parser = ["Always", "IfNotPresent", "Never"])]
    pub image_pull_policy: String,
    /// URL of the control stream, as pods reach it.
    #[arg(long, env = "BERTH_CONTROL_URL")]
    pub control_url: String,
    /// What bindings may grant where no GrantPolicy says `allow`.
    #[arg(long, env = "BERTH_DEFAULT_POLICY", default_value = "deny")]
    pub default_policy: DefaultPolicyArg,
    /// Network of the cluster, which no session reaches unless a route names it. Repeatable.
    #[arg(long, env = "BERTH_CLUSTER_CIDRS", value_delimiter = ',')]
    pub cluster_cidrs: Vec<String>,
    /// The GitHub API that installation tokens are minted at.
    #[arg(long, env = "BERTH_GITHUB_API", default_value = "https://api.github.com")]
    pub github_api: url::Url,
    /// File with certificates (PEM) that it is verified by besides the public ones.
    #[arg(long, env = "BERTH_GITHUB_CA")]
    pub github_ca: Option<PathBuf>,
    /// File that describes the forges whose word counts as evidence (JSON; the chart writes it).
    #[arg(long, env = "BERTH_FORGES")]
    pub forges: Option<PathBuf>,
    /// File that describes the model gateways that sessions get keys of (JSON; the chart writes it).
    #[arg(long, env = "BERTH_GATEWAYS")]
    pub gateways: Option<PathBuf>,
    /// File with people's SSH keys, in the format of allowed signers (ssh-keygen(1)).
    #[arg(long, env = "BERTH_SIGNERS")]
    pub signers: Option<PathBuf>,
    /// File with certificates (PEM) that token endpoints are verified by besides the public ones. Repeatable.
    #[arg(long, env = "BERTH_TOKEN_CA", value_delimiter = ',')]
    pub token_ca: Vec<PathBuf>,
    /// Network that token endpoints may be in although it isn't public. Repeatable.
    #[arg(long, env = "BERTH_TOKEN_NETWORKS", value_delimiter = ',')]
    pub token_networks: Vec<ipnet::IpNet>,
    /// Network that git servers may be in although they usually aren't, such as 127.0.0.0/8. Repeatable.
    #[arg(long, env = "BERTH_GIT_NETWORKS", value_delimiter = ',')]
    pub git_networks: Vec<ipnet::IpNet>,
    /// Days that the record keeps what a session said and used after its object is gone, 31 at least; 0 keeps it for ever.
    #[arg(long, env = "BERTH_RETENTION_DAYS", default_value_t = 90)]
    pub retention_days: u32,
    /// PostgreSQL of the record; without it no record is kept.
    #[arg(long, env = "BERTH_DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<String>,
    /// Health and webhooks.
    #[arg(long, env = "BERTH_HTTP_ADDRESS", default_value = "0.0.0.0:8080")]
    pub http_address: SocketAddr,
    /// Control streams.
    #[arg(long, env = "BERTH_CONTROL_ADDRESS", default_value = "0.0.0.0:8443")]
    pub control_address: SocketAddr,
    /// The API.
    #[arg(long, env = "BERTH_API_ADDRESS", default_value = "0.0.0.0:8444")]
    pub api_address: SocketAddr,
    /// Metrics.
    #[arg(long, env = "BERTH_METRICS_ADDRESS", default_value = "0.0.0.0:9090")]
    pub metrics_address: SocketAddr,
    /// Folder for clones.
    #[arg(long, env = "BERTH_CACHE_DIR", default_value = "/var/cache/berth")]
    pub cache_dir: PathBuf,
}

/// `audit`.
#[derive(Clone, Debug, Subcommand)]
pub enum Audit {
    /// Check the chain of each namespace. Exit code 0: nothing is wrong; 1: something is; 2: it can't be read.
    Verify(AuditVerify),
    /// Say who let a session use what it used. Exit code 1: nothing is found.
    Who(AuditWho),
}

/// `audit verify`.
#[derive(Clone, Debug, Args)]
pub struct AuditVerify {
    /// PostgreSQL of the record.
    #[arg(long, env = "BERTH_DATABASE_URL", hide_env_values = true)]
    pub database_url: String,
    /// One namespace; all when left out.
    #[arg(long)]
    pub namespace: Option<String>,
    /// Last rows as an earlier call printed them (`--print-heads`), kept where nobody with the database's rights can change
    /// them. Repeatable.
    #[arg(long)]
    pub heads: Vec<PathBuf>,
    /// Print the last rows for a later call, as JSON.
    #[arg(long)]
    pub print_heads: bool,
}

/// `audit who`.
#[derive(Clone, Debug, Args)]
pub struct AuditWho {
    /// PostgreSQL of the record.
    #[arg(long, env = "BERTH_DATABASE_URL", hide_env_values = true)]
    pub database_url: String,
    /// Namespace of the session.
    #[arg(long)]
    pub namespace: String,
    /// Name of the session.
    #[arg(long)]
    pub session: String,
    /// Only uses of this host.
    #[arg(long)]
    pub host: Option<String>,
    /// Only uses from this time on, RFC 3339: `2026-11-25T13:00:00Z`.
    #[arg(long)]
    pub since: Option<Timestamp>,
    /// Only uses before this time.
    #[arg(long)]
    pub until: Option<Timestamp>,
    /// As JSON, a document a line.
    #[arg(long)]
    pub json: bool,
}

/// `migrate`.
#[derive(Clone, Debug, Args)]
pub struct Migrate {
    /// PostgreSQL as the owner of the schema; without it there is nothing to do.
    #[arg(long, env = "BERTH_MIGRATE_DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<String>,
}

/// What bindings may grant where no GrantPolicy says `allow`.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum DefaultPolicyArg {
    /// Nothing.
    Deny,
    /// Everything: for trying Berth out.
    Allow,
}

impl From<DefaultPolicyArg> for DefaultPolicy {
    fn from(argument: DefaultPolicyArg) -> Self {
        match argument {
            DefaultPolicyArg::Deny => Self::Deny,
            DefaultPolicyArg::Allow => Self::Allow,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
