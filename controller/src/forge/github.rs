//! Pure: GitHub, by its REST API's documentation (version 2022-11-28): "List pull requests associated with a commit",
//! "Get a pull request", "List reviews for a pull request", "List commits on a pull request", "Get repository
//! permissions for a user", "Get team membership for a user". Checked against the answers documented there, and not
//! against GitHub itself.
//!
//! The first of these knows merged pull requests of commits on a repository's default branch alone.

use jiff::Timestamp;
use serde::Deserialize;
use url::Url;

use super::dialect::{Dialect, Made, PAGE, Said, read};
use super::{Judgement, Pull, User};

/// GitHub, GitHub Enterprise Server.
pub struct GitHub;

#[derive(Deserialize)]
struct Repository {
    id: i64,
}

#[derive(Deserialize)]
struct Account {
    login: String,
    #[serde(default, rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct Branch {
    #[serde(rename = "ref")]
    name: String,
    sha: String,
    repo: Option<Repository>,
}

#[derive(Deserialize)]
struct Listed {
    number: u64,
    merged_at: Option<Timestamp>,
    merge_commit_sha: Option<String>,
}

#[derive(Deserialize)]
struct PullRequest {
    number: u64,
    html_url: String,
    merged_at: Option<Timestamp>,
    merge_commit_sha: Option<String>,
    user: Account,
    merged_by: Option<Account>,
    base: Branch,
    head: Branch,
}

#[derive(Deserialize)]
struct PullReview {
    user: Option<Account>,
    state: String,
    commit_id: Option<String>,
}

#[derive(Deserialize)]
struct Commit {
    sha: String,
    author: Option<Person>,
    committer: Option<Person>,
}

/// An account, or the empty object that stands for none.
#[derive(Deserialize)]
struct Person {
    login: Option<String>,
}

#[derive(Deserialize)]
struct Permission {
    permission: String,
}

#[derive(Deserialize)]
struct Membership {
    state: String,
}

fn user(account: Account) -> User {
    User {
        machine: account.kind == "Bot",
        login: account.login,
    }
}

impl Dialect for GitHub {
    fn api(&self, url: &Url) -> Url {
        let mut api = url.clone();
        if url.host_str() == Some("github.com") {
            if api.set_host(Some("api.github.com")).is_ok() {
                api.set_path("");
            }
        } else {
            api.set_path("/api/v3");
        }
        api
    }

    fn pull_pages(&self) -> &'static str {
        "pull"
    }

    fn authorization(&self) -> &'static str {
        "Bearer"
    }

    fn accept(&self) -> &'static str {
        "application/vnd.github+json"
    }

    fn read_repository(&self, body: &[u8]) -> serde_json::Result<i64> {
        read::<Repository>(body).map(|repository| repository.id)
    }

    fn pulls_of(&self, path: &str, commit: &str) -> String {
        format!("repos/{path}/commits/{commit}/pulls?per_page={PAGE}")
    }

    fn read_pulls_of(&self, body: &[u8]) -> serde_json::Result<Vec<(u64, Option<String>)>> {
        let mut all: Vec<Listed> = read(body)?;
        all.sort_by_key(|pull| pull.merged_at.is_none());
        // Of one that isn't merged this is a trial merge.
        let merge = |pull: &Listed| pull.merge_commit_sha.clone().filter(|_| pull.merged_at.is_some());
        Ok(all.iter().map(|pull| (pull.number, merge(pull))).collect())
    }

    fn read_pull(&self, body: &[u8]) -> serde_json::Result<Pull> {
        let pull = read::<PullRequest>(body)?;
        Ok(Pull {
            number: pull.number,
            url: pull.html_url,
            merge_commit: pull.merge_commit_sha.filter(|_| pull.merged_at.is_some()),
            merged_at: pull.merged_at,
            head: pull.head.sha,
            base: pull.base.name,
            base_repository: pull.base.repo.map(|repository| repository.id).unwrap_or_default(),
            author: user(pull.user),
            merger: pull.merged_by.map(user),
            ..Pull::default()
        })
    }

    fn reviews(&self, path: &str, number: u64, page: usize) -> String {
        format!("repos/{path}/pulls/{number}/reviews?per_page={PAGE}&page={page}")
    }

    fn read_reviews(&self, body: &[u8]) -> serde_json::Result<(usize, Vec<Said>)> {
        let all: Vec<PullReview> = read(body)?;
        let count = all.len();
        let said = all.into_iter().filter_map(|review| {
            let judgement = match review.state.as_str() {
                "APPROVED" => Judgement::Approved,
                "CHANGES_REQUESTED" => Judgement::Refused,
                "DISMISSED" => Judgement::Withdrawn,
                _ => return None,
            };
            Some(Said {
                user: user(review.user?),
                judgement,
                commit: review.commit_id.unwrap_or_default(),
                may_write: None,
            })
        });
        Ok((count, said.collect()))
    }

    fn commits(&self, path: &str, number: u64, page: usize) -> String {
        format!("repos/{path}/pulls/{number}/commits?per_page={PAGE}&page={page}")
    }

    fn read_commits(&self, body: &[u8]) -> serde_json::Result<Vec<Made>> {
        let all: Vec<Commit> = read(body)?;
        let made = all.into_iter().map(|commit| Made {
            commit: commit.sha,
            by: [commit.author, commit.committer]
                .into_iter()
                .flatten()
                .filter_map(|person| person.login)
                .collect(),
        });
        Ok(made.collect())
    }

    fn read_permission(&self, body: &[u8]) -> serde_json::Result<bool> {
        read::<Permission>(body).map(|it| ["write", "admin"].contains(&it.permission.as_str()))
    }

    fn find_team(&self, _organization: &str, _team: &str) -> Option<String> {
        None
    }

    fn read_team(&self, _team: &str, _body: &[u8]) -> serde_json::Result<Option<String>> {
        Ok(None)
    }

    fn membership(&self, organization: &str, team: &str, _id: Option<&str>, user: &str) -> String {
        format!("orgs/{organization}/teams/{team}/memberships/{user}")
    }

    fn read_membership(&self, body: &[u8]) -> serde_json::Result<bool> {
        read::<Membership>(body).map(|membership| membership.state == "active")
    }
}

#[cfg(test)]
mod tests;
