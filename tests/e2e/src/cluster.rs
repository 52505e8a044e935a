//! The running cluster: clients and addresses.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use kube::Client;
use kube::config::{Config, KubeConfigOptions};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

/// The running cluster.
#[derive(Clone)]
pub struct Cluster {
    /// As the cluster's administrator.
    pub client: Client,
    /// Berth's database, as its application user.
    pub database: PgPool,
    /// Its URL.
    pub database_url: String,
    /// The same as the schema's owner.
    pub owner_database_url: String,
    /// Folder of the cluster's state.
    pub folder: PathBuf,
    /// Base URL of the forge.
    pub forge: String,
    /// The forge's host as pods reach it, over TLS by the cluster's own authority.
    pub forge_host: String,
    /// Administrator of the forge, and the password.
    pub forge_login: (String, String),
}

/// Connects to the cluster that the environment names.
pub async fn cluster() -> Result<Cluster> {
    // Tests of one process share a provider; the second install says that there is one.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let config = Config::from_kubeconfig(&KubeConfigOptions::default()).await.context(
        "no kubeconfig: run the tests \
        with bin/test e2e, or inside tests/cluster/cluster shell",
    )?;
    Ok(Cluster {
        client: Client::try_from(config)?,
        database: PgPoolOptions::new()
            .max_connections(2)
            .connect_lazy(&variable("BERTH_DATABASE_URL")?)?,
        database_url: variable("BERTH_DATABASE_URL")?,
        owner_database_url: variable("BERTH_OWNER_DATABASE_URL")?,
        folder: variable("BERTH_CLUSTER_DIR")?.into(),
        forge: variable("BERTH_GITEA_URL")?,
        forge_host: variable("BERTH_FORGE_URL")?.trim_start_matches("https://").to_owned(),
        forge_login: (variable("BERTH_GITEA_USER")?, variable("BERTH_GITEA_PASSWORD")?),
    })
}

impl Cluster {
    /// Stops, starts or restarts one of the cluster's processes, as `tests/cluster/cluster` names it.
    pub fn process(&self, verb: &str, name: &str) -> Result<()> {
        self.tool(&[verb, name])
    }

    /// Adds a set that not every test needs, as `tests/cluster/cluster add` names it. What is there isn't made again.
    pub fn add(&self, set: &[&str]) -> Result<()> {
        self.tool(&[&["add"], set].concat())
    }

    fn tool(&self, arguments: &[&str]) -> Result<()> {
        self.run(concat!(env!("CARGO_MANIFEST_DIR"), "/../cluster/cluster"), arguments)
            .map(drop)
    }

    /// The number that a query of the record gives; its parameters are text.
    pub async fn number(&self, query: &'static str, parameters: &[&str]) -> Result<Option<i64>> {
        let mut query = sqlx::query_scalar(query);
        for parameter in parameters {
            query = query.bind((*parameter).to_owned());
        }
        Ok(query.fetch_one(&self.database).await?)
    }

    /// Runs a program with the environment that this process has, such as kubectl; gives standard output.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let output = Command::new(program)
            .args(arguments)
            .output()
            .with_context(|| format!("{program} can't be run"))?;
        let (out, err) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        if !output.status.success() {
            bail!("{program} {}: {err}{out}", arguments.join(" "));
        }
        Ok(out.into_owned())
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the tests' one place that reads the environment"
)]
fn variable(name: &str) -> Result<String> {
    std::env::var(name).with_context(|| format!("{name} isn't set: run the tests with bin/test e2e"))
}
