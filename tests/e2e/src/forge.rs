//! A repository on the real forge, over its API and git's own protocol.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use jiff::Timestamp;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::Cluster;

/// Somebody who works on the forge.
#[derive(Clone, Debug)]
pub struct User {
    /// Login name.
    pub login: String,
    password: String,
}

impl User {
    fn email(&self) -> String {
        format!("{}@example.com", self.login)
    }
}

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

    /// Calls the forge's API as somebody.
    pub async fn api_as(&self, user: &User, method: &str, path: &str, body: &Value) -> Result<Value> {
        let url = format!("{}/api/v1/{path}", self.forge);
        let request = self.http.request(method.parse()?, &url);
        let request = request.basic_auth(&user.login, Some(&user.password));
        let request = request.header("content-type", "application/json");
        let answer = request.body(body.to_string()).send().await?;
        let (status, text) = (answer.status(), answer.text().await?);
        if !status.is_success() {
            bail!("{method} {url} as {}: {status} {text}", user.login);
        }
        Ok(serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    /// Makes a user of the forge.
    pub async fn stranger(&self, name: &str) -> Result<User> {
        let user = User {
            login: format!("{}-{name}", self.path.rsplit('/').next().unwrap_or_default()),
            password: format!("fake-{:x}", Timestamp::now().as_nanosecond()),
        };
        let made = json!({
            "username": user.login, "email": user.email(), "password": user.password, "must_change_password": false,
        });
        self.api("POST", "admin/users", &made).await?;
        Ok(user)
    }

    /// Makes a user who may write to the repository.
    pub async fn user(&self, name: &str) -> Result<User> {
        let user = self.stranger(name).await?;
        let path = format!("repos/{}/collaborators/{}", self.path, user.login);
        self.api("PUT", &path, &json!({ "permission": "write" })).await?;
        Ok(user)
    }

    /// Commits everything as somebody, and pushes it to a branch; gives the commit.
    pub fn push_as(&self, user: &User, branch: &str, subject: &str) -> Result<String> {
        self.git(&["add", "--all"])?;
        let (name, email) = (
            format!("user.name={}", user.login),
            format!("user.email={}", user.email()),
        );
        let commit = [
            "-c",
            &name,
            "-c",
            &email,
            "commit",
            "--quiet",
            "--allow-empty",
            "--message",
            subject,
        ];
        self.git(&commit)?;
        let login = format!("://{}:{}@", user.login, user.password);
        let remote = self.url.replacen("://", &login, 1);
        self.git(&[
            "push",
            "--quiet",
            "--force",
            &remote,
            &format!("HEAD:refs/heads/{branch}"),
        ])?;
        Ok(self.git(&["rev-parse", "HEAD"])?.trim().to_owned())
    }

    /// Opens a pull request of a branch against `main`; gives its number.
    pub async fn open(&self, user: &User, branch: &str) -> Result<u64> {
        let body = json!({ "head": branch, "base": "main", "title": branch });
        let path = format!("repos/{}/pulls", self.path);
        // The forge learns of a pushed branch beside the push.
        for _ in 0..MERGE_TRIES {
            match self.api_as(user, "POST", &path, &body).await {
                Err(error) if error.to_string().contains("404") => tokio::time::sleep(MERGE_WAIT).await,
                other => return other?["number"].as_u64().context("a number"),
            }
        }
        bail!("no pull request can be opened of {branch}")
    }

    /// A stranger's fork with one more file on branch `ask`, and the pull request that asks for it; gives its number.
    pub async fn ask_from_fork(&self, user: &User, file: &str, text: &str) -> Result<u64> {
        let fork = format!("repos/{}/forks", self.path);
        self.api_as(user, "POST", &fork, &json!({})).await?;
        let name = self.path.rsplit('/').next().unwrap_or_default();
        let content = base64::prelude::BASE64_STANDARD.encode(text);
        let written = json!({ "content": content, "message": "Ask", "branch": "main", "new_branch": "ask" });
        let path = format!("repos/{}/{name}/contents/{file}", user.login);
        self.api_as(user, "POST", &path, &written).await?;
        self.open(user, &format!("{}:ask", user.login)).await
    }

    /// Waits until the forge has seen a pushed commit through: it lists it as one of the pull request's, has it as the head, and
    /// has looked whether it can be merged. It does all that beside the push, and neither an approval nor a merge waits
    /// for it.
    pub async fn listed(&self, number: u64, commit: &str) -> Result<()> {
        let pull = format!("repos/{}/pulls/{number}", self.path);
        for _ in 0..MERGE_TRIES {
            let commits = self
                .api("GET", &format!("{pull}/commits?files=false"), &Value::Null)
                .await?;
            let now = self.api("GET", &pull, &Value::Null).await?;
            let mut commits = commits.as_array().into_iter().flatten();
            let is_head = now["head"]["sha"] == commit && now["mergeable"] == true;
            if commits.any(|it| it["sha"] == commit) && is_head {
                return Ok(());
            }
            tokio::time::sleep(MERGE_WAIT).await;
        }
        bail!("pull request {number} doesn't list {commit}")
    }

    /// Approves the head that it has now.
    pub async fn approve(&self, user: &User, number: u64) -> Result<()> {
        let path = format!("repos/{}/pulls/{number}/reviews", self.path);
        self.api_as(user, "POST", &path, &json!({ "event": "APPROVED" }))
            .await
            .map(drop)
    }

    /// Merges it as `merge`, `squash` or `rebase`, and fetches what came of it; gives the branch's commit.
    pub async fn merge(&self, user: &User, number: u64, style: &str) -> Result<String> {
        self.merged(user, number, style).await?;
        self.follow()
    }

    /// The same without fetching it; gives when the forge said that it is done.
    pub async fn merged(&self, user: &User, number: u64, style: &str) -> Result<Timestamp> {
        let path = format!("repos/{}/pulls/{number}/merge", self.path);
        // The forge looks whether it can be merged beside the request that opened it.
        for _ in 0..MERGE_TRIES {
            match self.api_as(user, "POST", &path, &json!({ "Do": style })).await {
                Err(error) if error.to_string().contains("405") => tokio::time::sleep(MERGE_WAIT).await,
                other => {
                    other?;
                    return Ok(Timestamp::now());
                }
            }
        }
        bail!("pull request {number} can't be merged")
    }

    /// Brings the clone to the branch's tip.
    pub fn follow(&self) -> Result<String> {
        self.git(&["fetch", "--quiet", "origin", "main"])?;
        self.git(&["checkout", "--quiet", "--force", "-B", "main", "FETCH_HEAD"])?;
        Ok(self.git(&["rev-parse", "HEAD"])?.trim().to_owned())
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

/// Seconds, for a forge that is busy.
const MERGE_TRIES: usize = 50;
const MERGE_WAIT: std::time::Duration = std::time::Duration::from_millis(200);
