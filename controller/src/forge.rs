//! PULL REQUEST → FACTS. What a forge of the install's configuration says of a commit: adapters for Gitea (and Forgejo)
//! and GitHub behind one trait, [`dialect::Dialect`], which is pure: where to ask, and what an answer means. [`client`]
//! does the asking, the same for all; [`config`] is what the platform team wrote down.
//!
//! Gitea's adapter is proven against Gitea itself (tests/e2e), GitHub's against the answers in its public documentation.

use std::collections::BTreeSet;

use jiff::Timestamp;

pub mod config;

pub mod dialect;
pub mod gitea;
pub mod github;

pub mod client;
pub mod desk;

/// A pull request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pull {
    /// Its number.
    pub number: u64,
    /// Its page.
    pub url: String,
    /// When it was merged, if it was.
    pub merged_at: Option<Timestamp>,
    /// The commit that the merge made: of a rebase the last.
    pub merge_commit: Option<String>,
    /// Its head.
    pub head: String,
    /// The branch that it was opened against.
    pub base: String,
    /// The forge's id of the repository with that branch.
    pub base_repository: i64,
    /// Who opened it.
    pub author: User,
    /// Who merged it.
    pub merger: Option<User>,
    /// Its commits.
    pub commits: BTreeSet<String>,
    /// Users that the forge takes for authors or committers of its commits.
    pub committers: BTreeSet<String>,
    /// Its reviews, oldest first; comments are left out.
    pub reviews: Vec<Review>,
}

/// A user of a forge.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct User {
    /// Login name.
    pub login: String,
    /// Whether the forge says that it is no person.
    pub machine: bool,
}

/// One review.
#[derive(Clone, Debug, PartialEq)]
pub struct Review {
    /// Whose.
    pub user: User,
    /// What it says.
    pub judgement: Judgement,
    /// The head that it speaks of.
    pub commit: String,
    /// Whether that user may write to the repository: anybody may review a public one.
    pub may_write: bool,
}

/// What a review says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Judgement {
    /// Yes.
    Approved,
    /// Not like this.
    Refused,
    /// It said something once, and was dismissed.
    Withdrawn,
}
