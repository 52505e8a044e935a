//! A repository on the real forge, over its API and git's own protocol.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::Cluster;

/// A repository and a clone of it.
pub struct Repository {
    /// URL that a GitSource names.
    pub url: String,
    /// `owner/name` on the forge.
    pub path: String,
    clone: TempDir,
    forge: String,
    login: (String, String),
    http: reqwest::Client,
}

impl Repository {
    /// Makes a public repository of this name, with an empty first commit on `main`.
    pub async fn create(cluster: &Cluster, name: &str) -> Result<Self> {
        let (user, password) = &cluster.forge_login;
        let repository = Self {
            url: format!("{}/{user}/{name}.git", cluster.forge),
            path: format!("{user}/{name}"),
            clone: tempfile::tempdir()?,
            forge: cluster.forge.clone(),
            login: cluster.forge_login.clone(),
            http: reqwest::Client::new(),
        };
        repository
            .api("POST", "user/repos", &json!({ "name": name, "default_branch": "main" }))
            .await?;
        let remote = repository.url.replacen("://", &format!("://{user}:{password}@"), 1);
        repository.git(&["init", "--quiet", "--initial-branch=main"])?;
        repository.git(&["remote", "add", "origin", &remote])?;
        Ok(repository)
    }

    /// Calls the forge's API as the administrator.
    pub async fn api(&self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let url = format!("{}/api/v1/{path}", self.forge);
        let request = self
            .http
            .request(method.parse()?, &url)
            .basic_auth(&self.login.0, Some(&self.login.1));
        let answer = request
            .header("content-type", "application/json")
            .body(body.to_string())
            .send()
            .await?;
        let (status, text) = (answer.status(), answer.text().await?);
        if !status.is_success() {
            bail!("{method} {url}: {status} {text}");
        }
        Ok(serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    /// Folder of the clone.
    pub fn folder(&self) -> &Path {
        self.clone.path()
    }

    /// Writes a file in the clone.
    pub fn write(&self, path: &str, text: &str) -> Result<()> {
        let file = self.folder().join(path);
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder)?;
        }
        Ok(std::fs::write(file, text)?)
    }

    /// Removes a file in the clone.
    pub fn remove(&self, path: &str) -> Result<()> {
        Ok(std::fs::remove_file(self.folder().join(path))?)
    }

    /// Commits everything and pushes it; gives the commit.
    pub fn push(&self, subject: &str) -> Result<String> {
        self.git(&["add", "--all"])?;
        self.git(&["commit", "--quiet", "--allow-empty", "--message", subject])?;
        self.git(&["push", "--quiet", "--force", "origin", "HEAD:main"])?;
        Ok(self.git(&["rev-parse", "HEAD"])?.trim().to_owned())
    }

    /// Runs git in the clone.
    pub fn git(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new("git");
        command.arg("-C").arg(self.folder()).args([
            "-c",
            "user.name=Alice Example",
            "-c",
            "user.email=alice@example.com",
        ]);
        command.args(["-c", "commit.gpgsign=false"]).args(arguments);
        let output = command
            .env("GIT_TERMINAL_PROMPT", "0")
            .output()
            .context("git can't be run")?;
        if !output.status.success() {
            bail!(
                "git {}: {}",
                arguments.first().unwrap_or(&""),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}
