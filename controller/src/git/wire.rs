//! What `run` and its child `fetch` say to each other: one JSON request on standard input, one answer on standard
//! output.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::declared::Declarations;
use crate::check::Report;
use crate::grant::fingerprint::Fingerprint;

/// One source to fetch. Holds that source's credentials and no other's.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Request {
    /// Clone URL, https or http, without credentials.
    pub url: String,
    /// Branch to follow.
    pub branch: String,
    /// Bare repository of this source.
    pub folder: PathBuf,
    /// Namespace of the source.
    pub namespace: String,
    /// Globs of files that are read.
    pub include: Vec<String>,
    /// Globs of files that are not.
    pub exclude: Vec<String>,
    /// How to log in.
    pub login: Login,
    /// Networks that the server may be in although git servers usually aren't.
    #[serde(default)]
    pub networks: Vec<IpNet>,
    /// Certificates to trust besides the platform's, PEM.
    pub ca: Option<String>,
    /// The tip that the caller holds already: what it declares isn't sent again.
    pub held: Option<String>,
    /// The tip seen before, to tell whether the branch was rewound.
    pub before: Option<String>,
    /// Not the tip is wanted but what commits of a pull request say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inspect: Option<Inspect>,
    /// Not the tip is wanted but what a pull request would change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preview: Option<Preview>,
}

/// A pull request whose changes are wanted.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Preview {
    /// Its number: its commits stand under `refs/pull/<number>/head`.
    pub pull: u64,
    /// Its head.
    pub head: String,
    /// The commit that its merge made, once it is merged.
    pub merge: Option<String>,
}

/// Commits of a pull request whose documents are wanted.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Inspect {
    /// Number of the pull request: its commits stand under `refs/pull/<number>/head`.
    pub pull: u64,
    /// The commit on the branch that the merge made.
    pub merge: String,
    /// Its head, and heads that were reviewed.
    pub commits: Vec<String>,
    /// The bindings that are asked about.
    pub names: BTreeSet<String>,
}

/// What commits of a pull request say.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Inspected {
    /// By commit; one that isn't to be had is left out.
    pub heads: BTreeMap<String, Head>,
    /// What the merge joined to the branch: its parents but the first. Empty for a squash or a rebase.
    pub joined: Vec<String>,
}

/// What one head of a pull request says of bindings, by their names.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Head {
    /// At that commit.
    pub here: BTreeMap<String, Fingerprint>,
    /// Where it had left the branch: what a reviewer was not shown as new.
    pub before: BTreeMap<String, Fingerprint>,
}

/// How to log in to a git server.
#[derive(Clone, Default, Deserialize, Serialize)]
pub enum Login {
    /// Not at all.
    #[default]
    None,
    /// HTTP Basic.
    Basic {
        /// User name.
        username: String,
        /// Password or token.
        password: String,
    },
    /// A bearer token.
    Bearer(String),
}

impl std::fmt::Debug for Login {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::None => "None",
            Self::Basic { .. } => "Basic",
            Self::Bearer(_) => "Bearer",
        })
    }
}

/// The child's answer.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub enum Answer {
    /// The branch's tip.
    Tip(Tip),
    /// Commits of a pull request.
    Inspected(Inspected),
    /// What a pull request changes.
    Previewed(Report),
    /// It couldn't be had, in words for the author of the GitSource.
    Failed(String),
}

/// A branch's tip and what it holds.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Tip {
    /// The commit.
    pub commit: String,
    /// Whether it isn't a descendant of the tip seen before.
    pub rewound: bool,
    /// What it declares; `None` when the caller holds this tip already.
    pub declarations: Option<Declarations>,
}
