//! IO: the session's repository, by the image's own git: cloned before the first turn, its branch pushed when a turn ended
//! well, and its pull request opened. It goes through the vault as everything does; the credential is a stub that git is
//! given by a helper.

use std::path::Path;

use berth_protocol::handoff::{Assignment, PullRequest, Repository};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::harness::{Launch, environment};
use crate::pull_request::{Proposal, open};
use crate::reap::Reaper;
use crate::start::start;

/// The repository of a session, in its workspace.
#[derive(Clone, Copy)]
pub struct Checkout<'a> {
    reaper: &'a Reaper,
    assignment: &'a Assignment,
    repository: &'a Repository,
    workspace: &'a Path,
}

/// What became of a turn's commits.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Published {
    /// The branch that has them; empty when there is nothing to push.
    pub branch: String,
    /// Number of its pull request; 0 when there is none.
    pub pull_request: u64,
    /// Why it isn't pushed, or has no pull request; empty when nothing failed.
    pub error: String,
}

/// What git can't do, in its own words.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {why}")]
pub struct GitError {
    what: &'static str,
    why: String,
}

impl<'a> Checkout<'a> {
    /// `None` for a session without a repository.
    pub fn of(reaper: &'a Reaper, assignment: &'a Assignment, workspace: &'a Path) -> Option<Self> {
        let repository = assignment.repository.as_ref()?;
        Some(Self {
            reaper,
            assignment,
            repository,
            workspace,
        })
    }

    /// Clones into the empty workspace. A branch that is there already is gone on with.
    pub async fn clone(&self) -> Result<(), GitError> {
        let Repository { url, r#ref, branch, .. } = self.repository;
        let cloning = "the repository can't be cloned";
        self.git(cloning, &["clone", "--quiet", "--no-checkout", "--", url, "."])
            .await?;
        let from = "the repository has no such ref";
        match r#ref.as_str() {
            "" => self.git(from, &["reset", "--quiet", "--hard"]).await?,
            r#ref => self.git(from, &["checkout", "--quiet", r#ref, "--"]).await?,
        };
        if branch.is_empty() {
            return Ok(());
        }
        let there = format!("refs/remotes/origin/{branch}");
        let known = self.git("", &["rev-parse", "--verify", "--quiet", &there]).await;
        let start = if known.is_ok() { there.as_str() } else { "HEAD" };
        let make = ["checkout", "--quiet", "--no-track", "-B", branch, start, "--"];
        self.git("the branch can't be made", &make).await.map(drop)
    }

    /// Pushes what was committed to the session's branch, and opens the pull request that is wanted for it.
    pub async fn publish(&self, summary: &str) -> Published {
        let mut published = Published::default();
        match self.push().await {
            Ok(Some(branch)) => published.branch = branch,
            Ok(None) => return published,
            Err(error) => {
                published.error = error.to_string();
                return published;
            }
        }
        if let Some(wanted) = &self.repository.pull_request {
            match self.propose(wanted, summary).await {
                Ok(number) => published.pull_request = number,
                Err(error) => published.error = error,
            }
        }
        published
    }

    /// Gives the branch, `None` when nothing was committed. The agent may have pushed it already.
    async fn push(&self) -> Result<Option<String>, GitError> {
        let branch = self.repository.branch.as_str();
        if branch.is_empty() {
            return Ok(None);
        }
        let pushing = "the branch can't be pushed";
        let new = ["rev-list", "--count", "HEAD", "--not", "--remotes=origin"];
        if self.git(pushing, &new).await?.trim() == "0" {
            let there = format!("refs/remotes/origin/{branch}");
            let pushed = ["merge-base", "--is-ancestor", "HEAD", &there];
            let is_pushed = self.git("", &pushed).await.is_ok();
            return Ok(is_pushed.then(|| branch.to_owned()));
        }
        let to = format!("HEAD:refs/heads/{branch}");
        self.git(pushing, &["push", "--quiet", "origin", &to]).await?;
        Ok(Some(branch.to_owned()))
    }

    /// The pull request's number. 0 for a branch that holds nothing new.
    async fn propose(&self, wanted: &PullRequest, summary: &str) -> Result<u64, String> {
        let reading = "the pull request can't be written";
        let git = async |arguments: &[&str]| self.git(reading, arguments).await.map_err(|error| error.to_string());
        let base = match wanted.base.as_str() {
            "" => {
                let head = git(&["rev-parse", "--abbrev-ref", "origin/HEAD"]).await?;
                head.trim().trim_start_matches("origin/").to_owned()
            }
            base => base.to_owned(),
        };
        let range = format!("refs/remotes/origin/{base}..HEAD");
        let subjects = git(&["log", "--format=%s", &range, "--"]).await?;
        if subjects.is_empty() {
            return Ok(0);
        }
        let proposal = self.proposal(base, &subjects, summary);
        let opened = open(self.assignment, wanted, &proposal).await;
        opened.map_err(|error| error.to_string())
    }

    /// In the words of its commit where there is one alone, as `gh pr create --fill` does it, else by the branch's name.
    fn proposal(&self, base: String, subjects: &str, summary: &str) -> Proposal {
        let Assignment { namespace, name, .. } = self.assignment;
        let head = self.repository.branch.clone();
        let mut lines = subjects.lines();
        let title = match (lines.next(), lines.next()) {
            (Some(only), None) => only.to_owned(),
            _ => head.clone(),
        };
        let body = format!("{}\n\nOpened by AgentSession {namespace}/{name}.", summary.trim_end());
        Proposal {
            head,
            base,
            title,
            body: body.trim().to_owned(),
        }
    }

    async fn git(&self, what: &'static str, arguments: &[&str]) -> Result<String, GitError> {
        let command = ["git"].iter().chain(arguments).map(|word| (*word).to_owned());
        let mut env = environment(self.assignment, self.workspace);
        env.insert("GIT_TERMINAL_PROMPT".to_owned(), "0".to_owned());
        let launch = Launch {
            command: command.collect(),
            env,
            ..Launch::default()
        };
        let failed = |why: String| GitError { what, why };
        let git = start(self.reaper, &launch, self.workspace).map_err(|error| failed(error.error))?;
        let (out, err) = tokio::join!(head(git.stdout), head(git.stderr));
        match git.ended.await {
            Ok(0) => Ok(out),
            _ => Err(failed(err.trim().to_owned())),
        }
    }
}

/// The first [`WORDS_MAX`] bytes; the rest is read and let go of.
async fn head(mut from: impl AsyncRead + Unpin) -> String {
    let mut words = Vec::new();
    drop((&mut from).take(WORDS_MAX).read_to_end(&mut words).await);
    drop(tokio::io::copy(&mut from, &mut tokio::io::sink()).await);
    String::from_utf8_lossy(&words).into_owned()
}

/// The sidecar cuts an error to 1 KiB.
const WORDS_MAX: u64 = 4 << 10;
