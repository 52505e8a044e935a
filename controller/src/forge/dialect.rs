//! Pure: how one kind of forge is spoken to. Paths are below its API; an answer is the body of a 200.

use std::collections::BTreeSet;

use serde::de::DeserializeOwned;
use url::Url;

use super::{Judgement, Pull, User};

/// A review as the forge lists it: whether its user may write is asked apart where the forge doesn't say.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Said {
    /// Whose.
    pub user: User,
    /// What it says.
    pub judgement: Judgement,
    /// The head that it speaks of.
    pub commit: String,
    /// Whether that user may write; `None` where the list doesn't tell.
    pub may_write: Option<bool>,
}

/// A commit, and the users that the forge takes for its author and committer.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Made {
    /// The commit.
    pub commit: String,
    /// By whom.
    pub by: BTreeSet<String>,
}

/// A kind of forge.
pub trait Dialect: Send + Sync {
    /// Where its API usually is.
    fn api(&self, url: &Url) -> Url;

    /// Below a repository's page: where people look at its pull requests.
    fn pull_pages(&self) -> &'static str;

    /// Scheme of the `Authorization` header.
    fn authorization(&self) -> &'static str;

    /// Media type that is asked for.
    fn accept(&self) -> &'static str;

    /// A repository, `owner/name`.
    fn repository(&self, path: &str) -> String {
        format!("repos/{path}")
    }

    /// The forge's id of it.
    fn read_repository(&self, body: &[u8]) -> serde_json::Result<i64>;

    /// Pull requests that brought a commit.
    fn pulls_of(&self, path: &str, commit: &str) -> String;

    /// Number and merge commit of each, merged ones first.
    fn read_pulls_of(&self, body: &[u8]) -> serde_json::Result<Vec<(u64, Option<String>)>>;

    /// A pull request.
    fn pull(&self, path: &str, number: u64) -> String {
        format!("repos/{path}/pulls/{number}")
    }

    /// What it says, without its reviews and commits.
    fn read_pull(&self, body: &[u8]) -> serde_json::Result<Pull>;

    /// A page, counted from 1, of its reviews.
    fn reviews(&self, path: &str, number: u64, page: usize) -> String;

    /// How many the page has, and those that say yes or no, oldest first.
    fn read_reviews(&self, body: &[u8]) -> serde_json::Result<(usize, Vec<Said>)>;

    /// A page of its commits.
    fn commits(&self, path: &str, number: u64, page: usize) -> String;

    /// The page.
    fn read_commits(&self, body: &[u8]) -> serde_json::Result<Vec<Made>>;

    /// Whether a user may write to a repository.
    fn permission(&self, path: &str, user: &str) -> String {
        format!("repos/{path}/collaborators/{user}/permission")
    }

    /// Whether the user may.
    fn read_permission(&self, body: &[u8]) -> serde_json::Result<bool>;

    /// Where the id of a team is found, if memberships are asked for by id.
    fn find_team(&self, organization: &str, team: &str) -> Option<String>;

    /// The id of the team of this name.
    fn read_team(&self, team: &str, body: &[u8]) -> serde_json::Result<Option<String>>;

    /// Whether a user is in a team: 404 says no.
    fn membership(&self, organization: &str, team: &str, id: Option<&str>, user: &str) -> String;

    /// What another answer says.
    fn read_membership(&self, body: &[u8]) -> serde_json::Result<bool>;
}

/// The body, as a type.
pub fn read<T: DeserializeOwned>(body: &[u8]) -> serde_json::Result<T> {
    serde_json::from_slice(body)
}

/// Items of a page: what both kinds of forge give without being configured otherwise.
pub const PAGE: usize = 50;
