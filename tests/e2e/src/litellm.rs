//! The real LiteLLM in front of a model; its four key routes alone are played (tests/litellm/stand_in_keys.py says why).

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result};
use berth_gallery::litellm_stand_in::ADMIN;
use berth_gallery::origin::Authority;
use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// A running LiteLLM; it ends with this.
pub struct LiteLlm {
    /// Where it listens, on loopback.
    pub address: SocketAddr,
    url: String,
    http: reqwest::Client,
    log: TempDir,
    _process: Child,
}

/// A key that was ever made.
#[derive(Clone, Debug, Deserialize)]
pub struct Key {
    /// What whoever made it said about it.
    pub metadata: Value,
    /// What LiteLLM reckons for its answers, in dollars.
    pub spend: f64,
    /// How many those were.
    pub answers: u32,
}

/// Keys, as the stand-in shows them.
#[derive(Debug, Deserialize)]
struct Keys {
    live: Vec<Key>,
    ended: Vec<Key>,
}

impl LiteLlm {
    /// Starts it as `host`, in front of a model at `model_url` whose certificate is this authority's too.
    pub async fn start(authority: &Authority, host: &str, model_url: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let (certificate, key) = authority.issue(&[host], |_| {})?;
        let file = |name: &str| folder.path().join(name);
        for (name, text) in [
            ("tls.crt", certificate.pem()),
            ("tls.key", key.serialize_pem()),
            ("ca.crt", authority.pem.clone()),
        ] {
            std::fs::write(file(name), text)?;
        }
        // Free a moment ago; LiteLLM can't be given a socket, nor say which port it took.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let log = std::fs::File::create(file("log"))?;
        let process = Command::new("litellm")
            .args(["--host", "127.0.0.1", "--port", &address.port().to_string()])
            .args([
                "--config",
                concat!(env!("CARGO_MANIFEST_DIR"), "/../litellm/config.yaml"),
            ])
            .arg("--ssl_certfile_path")
            .arg(file("tls.crt"))
            .arg("--ssl_keyfile_path")
            .arg(file("tls.key"))
            .env("SSL_CERT_FILE", file("ca.crt"))
            .env("PLAYED_MODEL_URL", model_url)
            .env("LITELLM_MASTER_KEY", ADMIN)
            .env("LITELLM_LOCAL_MODEL_COST_MAP", "True") // it would ask for the newest prices
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdout(Stdio::from(log.try_clone()?))
            .stderr(Stdio::from(log))
            .kill_on_drop(true)
            .spawn()
            .context("litellm can't be started")?;
        let http = reqwest::Client::builder()
            .resolve(host, address)
            .add_root_certificate(reqwest::Certificate::from_pem(authority.pem.as_bytes())?)
            .build()?;
        let started = Self {
            address,
            url: format!("https://{host}:{}", address.port()),
            http,
            log: folder,
            _process: process,
        };
        started.answers().await?;
        Ok(started)
    }

    /// Waits until it says that it is ready. Nothing tells when: this looks every so often.
    async fn answers(&self) -> Result<()> {
        let ready = format!("{}/health/readiness", self.url);
        let look = async {
            while !self
                .http
                .get(&ready)
                .send()
                .await
                .is_ok_and(|it| it.status().is_success())
            {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        if tokio::time::timeout(STARTED, look).await.is_err() {
            anyhow::bail!("LiteLLM doesn't answer: {}", self.printed()?);
        }
        Ok(())
    }

    /// What it printed.
    pub fn printed(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.log.path().join("log"))?)
    }

    /// Every key that was ever made.
    pub async fn keys(&self) -> Result<Vec<Key>> {
        let asked = self.http.get(format!("{}/stand-in/keys", self.url)).bearer_auth(ADMIN);
        let keys: Keys = asked.send().await?.error_for_status()?.json().await?;
        Ok([keys.live, keys.ended].concat())
    }
}

/// It takes some fifteen seconds alone on two cores.
const STARTED: Duration = Duration::from_mins(2);
