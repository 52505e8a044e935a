//! Pure: Gitea and Forgejo, by the API description that each serves (`/swagger.v1.json`); proven against Gitea itself.

use jiff::Timestamp;
use serde::Deserialize;
use url::Url;

use super::dialect::{Dialect, Made, PAGE, Said, read};
use super::{Judgement, Pull, User};

/// Gitea, Forgejo.
pub struct Gitea;

#[derive(Deserialize)]
struct Repository {
    id: i64,
}

#[derive(Deserialize)]
struct Account {
    login: String,
}

#[derive(Deserialize)]
struct Branch {
    #[serde(rename = "ref")]
    name: String,
    sha: String,
    repo_id: i64,
}

#[derive(Deserialize)]
struct PullRequest {
    number: u64,
    html_url: String,
    #[serde(default)]
    merged: bool,
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
    #[serde(default)]
    commit_id: String,
    #[serde(default)]
    official: bool,
    #[serde(default)]
    dismissed: bool,
}

#[derive(Deserialize)]
struct Commit {
    sha: String,
    author: Option<Account>,
    committer: Option<Account>,
}

#[derive(Deserialize)]
struct Permission {
    permission: String,
}

#[derive(Deserialize)]
struct Teams {
    #[serde(default)]
    data: Vec<Team>,
}

#[derive(Deserialize)]
struct Team {
    id: i64,
    name: String,
}

fn user(account: Account) -> User {
    User {
        login: account.login,
        machine: false,
    }
}

impl Dialect for Gitea {
    fn api(&self, url: &Url) -> Url {
        let mut api = url.clone();
        api.set_path(&format!("{}/api/v1", url.path().trim_end_matches('/')));
        api
    }

    fn pull_pages(&self) -> &'static str {
        "pulls"
    }

    fn authorization(&self) -> &'static str {
        "token"
    }

    fn accept(&self) -> &'static str {
        "application/json"
    }

    fn read_repository(&self, body: &[u8]) -> serde_json::Result<i64> {
        read::<Repository>(body).map(|repository| repository.id)
    }

    fn pulls_of(&self, path: &str, commit: &str) -> String {
        format!("repos/{path}/commits/{commit}/pull")
    }

    fn read_pulls_of(&self, body: &[u8]) -> serde_json::Result<Vec<(u64, Option<String>)>> {
        read::<PullRequest>(body).map(|pull| vec![(pull.number, pull.merge_commit_sha)])
    }

    fn read_pull(&self, body: &[u8]) -> serde_json::Result<Pull> {
        let pull = read::<PullRequest>(body)?;
        Ok(Pull {
            number: pull.number,
            url: pull.html_url,
            merged_at: pull.merged_at.filter(|_| pull.merged),
            merge_commit: pull.merge_commit_sha,
            head: pull.head.sha,
            base: pull.base.name,
            base_repository: pull.base.repo_id,
            author: user(pull.user),
            merger: pull.merged_by.map(user),
            ..Pull::default()
        })
    }

    fn reviews(&self, path: &str, number: u64, page: usize) -> String {
        format!("repos/{path}/pulls/{number}/reviews?limit={PAGE}&page={page}")
    }

    fn read_reviews(&self, body: &[u8]) -> serde_json::Result<(usize, Vec<Said>)> {
        let all: Vec<PullReview> = read(body)?;
        let count = all.len();
        let said = all.into_iter().filter_map(|review| {
            let judgement = match review.state.as_str() {
                "APPROVED" if review.dismissed => Judgement::Withdrawn,
                "APPROVED" => Judgement::Approved,
                "REQUEST_CHANGES" => Judgement::Refused,
                _ => return None,
            };
            Some(Said {
                user: user(review.user?),
                judgement,
                commit: review.commit_id,
                // Gitea's own word for a reviewer with the right to write, or of the branch protection's list.
                may_write: Some(review.official),
            })
        });
        Ok((count, said.collect()))
    }

    fn commits(&self, path: &str, number: u64, page: usize) -> String {
        format!("repos/{path}/pulls/{number}/commits?verification=false&files=false&limit={PAGE}&page={page}")
    }

    fn read_commits(&self, body: &[u8]) -> serde_json::Result<Vec<Made>> {
        let all: Vec<Commit> = read(body)?;
        let made = all.into_iter().map(|commit| Made {
            commit: commit.sha,
            by: [commit.author, commit.committer]
                .into_iter()
                .flatten()
                .map(|account| account.login)
                .collect(),
        });
        Ok(made.collect())
    }

    fn read_permission(&self, body: &[u8]) -> serde_json::Result<bool> {
        read::<Permission>(body).map(|it| ["write", "admin", "owner"].contains(&it.permission.as_str()))
    }

    fn find_team(&self, organization: &str, team: &str) -> Option<String> {
        Some(format!("orgs/{organization}/teams/search?q={team}"))
    }

    fn read_team(&self, team: &str, body: &[u8]) -> serde_json::Result<Option<String>> {
        let teams: Teams = read(body)?;
        let found = teams
            .data
            .into_iter()
            .find(|found| found.name.eq_ignore_ascii_case(team));
        Ok(found.map(|team| team.id.to_string()))
    }

    fn membership(&self, _organization: &str, _team: &str, id: Option<&str>, user: &str) -> String {
        format!("teams/{}/members/{user}", id.unwrap_or_default())
    }

    fn read_membership(&self, _body: &[u8]) -> serde_json::Result<bool> {
        Ok(true)
    }
}
