//! The sidecar as a process of its own: its memory is its own, and so are its limits and its environment.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::origin::Authority;
use crate::policy::{HOST, SECRET};
use crate::sidecar;

/// A running process.
pub struct Process {
    /// Where its proxy listens.
    pub proxy: SocketAddr,
    child: Child,
    directory: TempDir,
}

impl Process {
    /// Runs `program` (of this package) with this policy. `limit` is of open files; `environment` is added.
    pub async fn start(
        program: &str,
        authority: &Authority,
        policy: &str,
        limit: Option<u32>,
        environment: &[(&str, &str)],
    ) -> Result<Self> {
        let directory = sidecar::lay_out(authority, policy, &[("token", SECRET)])?;
        let files = limit.map_or_else(String::new, |limit| format!("ulimit -n {limit}; "));
        let mut child = Command::new("sh")
            .args(["-c", &format!("{files}exec \"$0\" \"$@\"")])
            .arg(program)
            .args(sidecar::arguments(&directory))
            .args(["--resolve", &format!("{HOST}=127.0.0.1")])
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let output = child.stdout.take().context("no output")?;
        let address = BufReader::new(output).lines().next_line().await?;
        Ok(Self {
            proxy: address.context("the sidecar ended")?.parse()?,
            child,
            directory,
        })
    }

    /// The session's authority, as the agent finds it.
    pub fn ca(&self) -> PathBuf {
        self.directory.path().join("handoff/ca.crt")
    }

    /// A file beside the policy.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Ends it at once.
    pub async fn kill(mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }

    /// Of `/proc/PID`.
    pub fn proc(&self) -> Result<PathBuf> {
        Ok(Path::new("/proc").join(self.child.id().context("the sidecar ended")?.to_string()))
    }

    /// The most memory that it has held so far, in KiB.
    pub fn peak(&self) -> Result<u64> {
        let status = std::fs::read_to_string(self.proc()?.join("status"))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .context("no VmHWM")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }
}
