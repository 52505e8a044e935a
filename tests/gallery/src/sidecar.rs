//! The sidecar as it stands beside an agent, with a policy from a file.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use berth_egress::address::Vetting;
use berth_sidecar::audit::Audit;
use berth_sidecar::audit::sink::Sink;
use berth_sidecar::cli::{Fixed, Place, Standalone};
use berth_sidecar::proxy::Proxy;
use berth_sidecar::run::{self, Serving};
use berth_sidecar::standalone;
use berth_sidecar::upstream::Upstream;
use berth_sidecar::upstream::dial::Dialer;
use berth_sidecar::upstream::resolve::Resolver;
use berth_sidecar::upstream::tls::UpstreamTls;
use berth_sidecar::vault::Offer;
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
        let resolve: Result<Vec<Fixed>, String> =
            hosts.iter().map(|host| format!("{host}=127.0.0.1").parse()).collect();
        let place = Place {
            resolve: resolve.map_err(anyhow::Error::msg)?,
            ..place(directory.path())
        };
        Self::run(directory, place).await
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
        let place = Place {
            name_server: vec![name_server],
            cluster_cidr: cluster.to_vec(),
            ..place(directory.path())
        };
        let policy = standalone::load(&directory.path().join("policy.yaml"))?;
        for directory in [&place.handoff, &place.state] {
            std::fs::create_dir_all(directory)?;
        }
        let audit = Arc::new(Audit::new(Sink::lines(&directory.path().join("audit"))?));
        let vetting = Vetting {
            cluster: cluster.to_vec(),
            own: Vec::new(),
        };
        let resolver = Resolver::asking(&place.name_server, HashMap::new(), vetting)?;
        let upstream = Upstream::new(Dialer::new(resolver, UpstreamTls::new(&place.upstream_ca)?));
        let proxy = Proxy {
            upstream,
            ..run::build(&place, audit)?
        };
        let shared = Arc::new(proxy);
        standalone::adopt(&shared, policy);
        let serving = run::serve(&place, &shared).await?;
        Ok(Self::of(serving, shared, directory))
    }

    async fn run(directory: TempDir, place: Place) -> Result<Self> {
        let options = Standalone {
            policy: directory.path().join("policy.yaml"),
            audit: directory.path().join("audit"),
            place,
        };
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

fn lay_out(authority: &Authority, policy: &str, values: &[(&str, &str)]) -> Result<TempDir> {
    let directory = tempfile::tempdir()?;
    let at = |name: &str| directory.path().join(name);
    std::fs::write(at("upstream.crt"), &authority.pem)?;
    std::fs::write(at("policy.yaml"), policy)?;
    for (name, value) in values {
        std::fs::write(at(name), value)?;
    }
    Ok(directory)
}

fn place(directory: &Path) -> Place {
    let nowhere: SocketAddr = ([127, 0, 0, 1], 0).into();
    Place {
        handoff: directory.join("handoff"),
        state: directory.join("state"),
        proxy_address: nowhere,
        transparent_address: nowhere,
        upstream_ca: vec![directory.join("upstream.crt")],
        cluster_cidr: Vec::new(),
        resolve: Vec::new(),
        name_server: Vec::new(),
    }
}
