//! IO: what is written on a forge's pull requests: one comment of our own on each, and a commit status. Both kinds of forge
//! have these requests at the same paths (Gitea's `/swagger.v1.json`; GitHub: "List pull requests", "Create an issue
//! comment", "Update an issue comment", "Create a commit status", "Get the authenticated user").

use jiff::Timestamp;
use reqwest::Method;
use serde::Deserialize;
use serde_json::json;

use super::client::{Asking, ForgeError};
use super::config::Forge;

/// A conversation with the right to write.
pub struct Desk<'a>(Asking<'a>);

/// A pull request in a list.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct Listed {
    /// Its number.
    pub number: u64,
    /// Who opened it.
    pub user: Account,
    /// Where its commits are.
    pub head: Branch,
    /// Where it is to be merged into.
    pub base: Branch,
    /// When it was merged.
    pub merged_at: Option<Timestamp>,
    /// The commit that its merge made; before that GitHub names one that it tried.
    pub merge_commit_sha: Option<String>,
}

/// A user.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
pub struct Account {
    /// Login name.
    pub login: String,
}

/// A branch as it is now.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
pub struct Branch {
    /// Its name.
    #[serde(rename = "ref")]
    pub name: String,
    /// Its commit.
    pub sha: String,
}

/// A comment on a pull request.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
pub struct Comment {
    /// The forge's number for it.
    pub id: u64,
    /// Whose it is.
    pub user: Account,
    /// What it says.
    pub body: String,
}

/// What a commit status says.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct CommitStatus {
    /// Whether nothing stands against a merge.
    pub good: bool,
    /// One line, at most 140 characters.
    pub description: String,
    /// Whose status it is, among others of the commit.
    pub context: String,
}

impl<'a> Desk<'a> {
    /// `None` on a forge where nothing is to be written.
    pub async fn begin(forge: &'a Forge) -> Result<Option<Self>, ForgeError> {
        let Some(token) = &forge.feedback_token_file else {
            return Ok(None);
        };
        Asking::with(forge, Some(token)).await.map(|asking| Some(Self(asking)))
    }

    /// Whose token it is.
    pub async fn me(&self) -> Result<String, ForgeError> {
        let what = "whose the feedback token is";
        let body = self.0.found("user", what).await?;
        let account: Account = self.0.read(serde_json::from_slice(&body), what)?;
        Ok(account.login)
    }

    /// Pull requests against a branch, those that changed last first: open ones, or closed ones. At most [`LISTED`].
    pub async fn pulls(&self, path: &str, branch: &str, open: bool) -> Result<Vec<Listed>, ForgeError> {
        let state = if open { "open" } else { "closed" };
        let what = format!("{state} pull requests of {path}");
        // `sort` has other words on Gitea, which takes any it doesn't know for its own default.
        let sort = "sort=updated&direction=desc";
        let query = format!("repos/{path}/pulls?state={state}&{sort}&limit={LISTED}&per_page={LISTED}");
        let body = self.0.found(&query, &what).await?;
        let all: Vec<Listed> = self.0.read(serde_json::from_slice(&body), &what)?;
        Ok(all.into_iter().filter(|pull| pull.base.name == branch).collect())
    }

    /// Whether a user may write to the repository.
    pub async fn may_write(&self, path: &str, user: &str) -> Result<bool, ForgeError> {
        self.0.may_write(path, user).await
    }

    /// The first hundred comments: ours was among the first.
    pub async fn comments(&self, path: &str, number: u64) -> Result<Vec<Comment>, ForgeError> {
        let what = format!("comments of pull request {number}");
        let query = format!("repos/{path}/issues/{number}/comments?limit=100&per_page=100");
        let body = self.0.found(&query, &what).await?;
        self.0.read(serde_json::from_slice(&body), &what)
    }

    /// Says something, or says it anew in a comment that was said before.
    pub async fn say(&self, path: &str, number: u64, before: Option<u64>, text: &str) -> Result<(), ForgeError> {
        let what = format!("a comment on pull request {number}");
        let body = json!({ "body": text });
        let written = match before {
            None => {
                let to = format!("repos/{path}/issues/{number}/comments");
                self.0.write(Method::POST, &to, &body, &what).await
            }
            Some(id) => {
                let to = format!("repos/{path}/issues/comments/{id}");
                self.0.write(Method::PATCH, &to, &body, &what).await
            }
        };
        written.map(drop)
    }

    /// Sets the status of a commit.
    pub async fn status(&self, path: &str, commit: &str, status: &CommitStatus) -> Result<(), ForgeError> {
        let what = format!("the status of {commit}");
        let body = json!({
            "state": if status.good { "success" } else { "failure" },
            "description": status.description, "context": status.context,
        });
        let to = format!("repos/{path}/statuses/{commit}");
        self.0.write(Method::POST, &to, &body, &what).await.map(drop)
    }
}

/// A page of either forge.
const LISTED: usize = 50;
