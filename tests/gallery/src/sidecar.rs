//! The sidecar as it stands beside an agent, with a policy from a file.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use berth_sidecar::cli::Standalone;
use berth_sidecar::proxy::Proxy;
use berth_sidecar::run::Serving;
use berth_sidecar::standalone;
use berth_sidecar::vault::Offer;
use clap::Parser;
use ipnet::IpNet;
use tempfile::TempDir;

use crate::origin::Authority;

/// A running sidecar.
pub struct Sidecar {
    /// Where its proxy listens.
    pub proxy: SocketAddr,
    /// Where redirected connections arrive.
    pub transparent: SocketAddr,
    /// What its connections share.
    pub shared: Arc<Proxy>,
    directory: TempDir,
    _serving: Serving,
}

impl Sidecar {
    /// With this policy (YAML); `hosts` are found on loopback, `values` are files beside the policy.
    pub async fn start(authority: &Authority, policy: &str, hosts: &[&str], values: &[(&str, &str)]) -> Result<Self> {
        let directory = lay_out(authority, policy, values)?;
        let hosts = hosts
            .iter()
            .flat_map(|host| ["--resolve".to_owned(), format!("{host}=127.0.0.1")]);
        let options = parse(&directory, hosts)?;
        let (serving, shared) = standalone::start(&options).await?;
        Ok(Self::of(serving, shared, directory))
    }

    /// With this policy, and names that are resolved by this name server; nothing of the cluster's networks is reached.
    pub async fn asking(
        authority: &Authority,
        policy: &str,
        name_server: SocketAddr,
        cluster: &[IpNet],
        values: &[(&str, &str)],
    ) -> Result<Self> {
        let directory = lay_out(authority, policy, values)?;
        let more = ["--name-server".to_owned(), name_server.to_string()].into_iter();
        let networks = cluster
            .iter()
            .flat_map(|network| ["--cluster-cidr".to_owned(), network.to_string()]);
        let options = parse(&directory, more.chain(networks))?;
        let (serving, shared) = standalone::start(&options).await?;
        Ok(Self::of(serving, shared, directory))
    }

    fn of(serving: Serving, shared: Arc<Proxy>, directory: TempDir) -> Self {
        Self {
            proxy: serving.proxy_address,
            transparent: serving.transparent_address,
            shared,
            directory,
            _serving: serving,
        }
    }

    /// What the agent can read.
    pub fn handoff(&self) -> PathBuf {
        self.directory.path().join("handoff")
    }

    /// What only the sidecar can read.
    pub fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// A file beside the policy.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The audit trail, as it is written.
    pub fn audit_text(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.directory.path().join("audit"))?)
    }

    /// The session's authority, as the agent finds it.
    pub fn ca(&self) -> PathBuf {
        self.directory.path().join("handoff/ca.crt")
    }

    /// Another policy from now on.
    pub fn adopt(&self, policy: &str) -> Result<()> {
        let path = self.directory.path().join("policy.yaml");
        std::fs::write(&path, policy)?;
        standalone::adopt(&self.shared, standalone::load(&path)?);
        Ok(())
    }

    /// A policy with values and times, as a controller gives it.
    pub fn offer(&self, offer: Offer) {
        standalone::adopt(&self.shared, offer);
    }

    /// The audit trail so far, a JSON object a line.
    pub fn audit(&self) -> Result<Vec<serde_json::Value>> {
        Ok(self
            .audit_text()?
            .lines()
            .map(serde_json::from_str)
            .collect::<Result<_, _>>()?)
    }
}

/// A directory with what the sidecar reads.
pub(crate) fn lay_out(authority: &Authority, policy: &str, values: &[(&str, &str)]) -> Result<TempDir> {
    let directory = tempfile::tempdir()?;
    let at = |name: &str| directory.path().join(name);
    std::fs::write(at("upstream.crt"), &authority.pem)?;
    std::fs::write(at("policy.yaml"), policy)?;
    for (name, value) in values {
        std::fs::write(at(name), value)?;
    }
    Ok(directory)
}

/// The command line of a sidecar in such a directory.
pub(crate) fn arguments(directory: &TempDir) -> Vec<String> {
    let at = |name: &str| directory.path().join(name).to_string_lossy().into_owned();
    let pairs = [
        ("--policy", at("policy.yaml")),
        ("--audit", at("audit")),
        ("--handoff", at("handoff")),
        ("--state", at("state")),
        ("--upstream-ca", at("upstream.crt")),
        ("--proxy-address", "127.0.0.1:0".to_owned()),
        ("--transparent-address", "127.0.0.1:0".to_owned()),
    ];
    pairs
        .into_iter()
        .flat_map(|(name, value)| [name.to_owned(), value])
        .collect()
}

fn parse(directory: &TempDir, more: impl Iterator<Item = String>) -> Result<Standalone> {
    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Standalone,
    }
    let line = ["gallery".to_owned()]
        .into_iter()
        .chain(arguments(directory))
        .chain(more);
    Ok(Line::try_parse_from(line)?.options)
}
