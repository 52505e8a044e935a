//! An OAuth 2.0 authorization server, run as a process of its own: the protocol is oauthlib's, a library of Python that
//! others run their servers with (`pip install oauthlib`).

use std::process::Stdio;

use anyhow::{Context as _, Result};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::origin::Authority;

/// A running server.
pub struct AuthorizationServer {
    /// Where it listens, on loopback.
    pub port: u16,
    _child: Child,
    _directory: TempDir,
}

impl AuthorizationServer {
    /// For one client and one refresh token. `None`, and a word of it, where Python hasn't got oauthlib;
    /// `BERTH_TEST_PYTHON` names another Python.
    pub async fn start(authority: &Authority, names: &[&str]) -> Result<Option<Self>> {
        let python = std::env::var_os("BERTH_TEST_PYTHON").unwrap_or_else(|| "python3".into());
        let found = Command::new(&python)
            .args(["-c", "import oauthlib"])
            .stderr(Stdio::null())
            .status()
            .await;
        if !found.is_ok_and(|status| status.success()) {
            println!("skipped: Python's oauthlib isn't installed");
            return Ok(None);
        }
        let directory = tempfile::tempdir()?;
        let at = |name: &str| directory.path().join(name);
        let (certificate, key) = authority.issue(names, |_as_it_is| {})?;
        std::fs::write(at("tls.crt"), certificate.pem())?;
        std::fs::write(at("tls.key"), key.serialize_pem())?;
        let mut child = Command::new(&python)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/oauth/server.py"))
            .args([at("tls.crt"), at("tls.key")])
            .args([CLIENT, CLIENT_SECRET, REFRESH_TOKEN])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let output = child.stdout.take().context("no output")?;
        let port = BufReader::new(output).lines().next_line().await?;
        Ok(Some(Self {
            port: port.context("the server ended")?.parse()?,
            _child: child,
            _directory: directory,
        }))
    }
}

/// The one client, with a character that has to be encoded.
pub const CLIENT: &str = "berth client";
/// Its secret.
pub const CLIENT_SECRET: &str = "fake-client-secret/+0123456789";
/// The first refresh token; each works once.
pub const REFRESH_TOKEN: &str = "fake-refresh-token-0123456789";
