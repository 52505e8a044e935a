//! What the platform team wrote down of its forges (chart value `forges`); tokens and certificates stand in files of
//! their own, so that a rotation needs no restart. Never a tenant's: a forge that a tenant runs proves nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::de::Error;
use serde::{Deserialize, Deserializer};
use url::Url;

use super::dialect::Dialect;
use super::{gitea::Gitea, github::GitHub};
use crate::grant::evidence::review::small;

/// One forge.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Forge {
    /// What policies call it (`spec.match.repositories[].forge`).
    pub name: String,
    /// Which API it has.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// Where its repositories are cloned from, without any of them.
    #[serde(deserialize_with = "url")]
    pub url: Url,
    /// Its API, where that isn't at the usual place.
    #[serde(default, rename = "apiURL", deserialize_with = "optional_url")]
    pub api_url: Option<Url>,
    /// File with a token that may read repositories, pull requests and teams.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
    /// File with a token that may write comments and commit statuses; without it nothing is said on pull requests.
    #[serde(default)]
    pub feedback_token_file: Option<PathBuf>,
    /// File with certificates (PEM) that it is verified by besides the public ones.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Users whose credentials sessions may use: their approvals and merges count for nothing.
    #[serde(default)]
    pub agents: BTreeSet<String>,
    /// Teams that policies name, where the forge isn't to be asked for them.
    #[serde(default)]
    pub teams: BTreeMap<String, BTreeSet<String>>,
    /// SSH keys that it signs merges with: they prove no person.
    #[serde(default)]
    pub machine_keys: Vec<String>,
}

/// Which API a forge has.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
pub enum Kind {
    /// Gitea, Forgejo.
    Gitea,
    /// GitHub, GitHub Enterprise Server.
    GitHub,
}

/// The forges of an install.
#[derive(Clone, Debug, Default)]
pub struct Forges(Vec<Forge>);

/// Why the configuration can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// There is no such file.
    #[error("failed to read the forges' configuration")]
    Read(#[source] std::io::Error),
    /// It isn't as it should be.
    #[error("the forges' configuration can't be used")]
    Parse(#[source] serde_json::Error),
    /// A forge can't be used.
    #[error("forge {name}: {why}")]
    Forge {
        /// Which.
        name: String,
        /// Why.
        why: &'static str,
    },
}

/// A repository on one of them.
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Place {
    /// Name of the forge.
    pub forge: String,
    /// `owner/name`.
    pub path: String,
}

/// Where the pull requests of a repository are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pulls {
    /// Where the API lists and takes them: Gitea's and GitHub's have the same path there.
    pub api: String,
    /// Where people look at them; a slash and the number follow.
    pub page: String,
}

fn url<'de, D: Deserializer<'de>>(text: D) -> Result<Url, D::Error> {
    String::deserialize(text)?.parse().map_err(D::Error::custom)
}

fn optional_url<'de, D: Deserializer<'de>>(text: D) -> Result<Option<Url>, D::Error> {
    let text = Option::<String>::deserialize(text)?.filter(|text| !text.is_empty());
    text.map(|text| text.parse()).transpose().map_err(D::Error::custom)
}

impl Forges {
    /// Reads the file.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read(file).map_err(ConfigError::Read)?;
        Self::new(serde_json::from_slice(&text).map_err(ConfigError::Parse)?)
    }

    /// These ones.
    pub fn new(forges: Vec<Forge>) -> Result<Self, ConfigError> {
        let mut names = BTreeSet::new();
        for forge in &forges {
            let web = |url: &Url| ["https", "http"].contains(&url.scheme()) && url.host_str().is_some();
            let checks = [
                (!names.insert(&forge.name), "two have this name"),
                (!web(&forge.url), "url is no http or https URL"),
                (
                    !forge.api_url.as_ref().is_none_or(web),
                    "apiURL is no http or https URL",
                ),
                (
                    !forge.url.username().is_empty() || forge.url.password().is_some(),
                    "the token belongs into its Secret",
                ),
            ];
            if let Some((_, why)) = checks.iter().find(|(wrong, _)| *wrong) {
                let name = forge.name.clone();
                return Err(ConfigError::Forge { name, why });
            }
        }
        Ok(Self(forges))
    }

    /// The forge of this name.
    pub fn named(&self, name: &str) -> Option<&Forge> {
        self.0.iter().find(|forge| forge.name == name)
    }

    /// Which repository of which forge a clone URL names. Only an exact spelling counts.
    pub fn place(&self, url: &str) -> Option<Place> {
        let url = Url::parse(url).ok()?;
        let found = |forge: &Forge| {
            let same = forge.url.scheme() == url.scheme()
                && forge.url.host() == url.host()
                && forge.url.port_or_known_default() == url.port_or_known_default();
            let under = forge.url.path().trim_end_matches('/');
            let path = url.path().strip_prefix(under).filter(|_| same)?.strip_prefix('/')?;
            let path = path.strip_suffix(".git").unwrap_or(path);
            let mut parts = path.split('/');
            let plain = |part: &str| {
                !part.is_empty()
                    && part
                        .bytes()
                        .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
                    && !part.starts_with('.')
            };
            let two = parts.next().is_some_and(plain) && parts.next().is_some_and(plain) && parts.next().is_none();
            two.then(|| Place {
                forge: forge.name.clone(),
                path: path.to_owned(),
            })
        };
        self.0.iter().find_map(found)
    }

    /// Where the pull requests of a clone URL's repository are.
    pub fn pulls(&self, url: &str) -> Option<Pulls> {
        let place = self.place(url)?;
        let forge = self.named(&place.forge)?;
        let (api, page) = (forge.api(), forge.dialect().pull_pages());
        let trimmed = |url: &Url| url.as_str().trim_end_matches('/').to_owned();
        Some(Pulls {
            api: format!("{}/repos/{}/pulls", trimmed(&api), place.path),
            page: format!("{}/{}/{page}", trimmed(&forge.url), place.path),
        })
    }

    /// Keys that no person has.
    pub fn machine_keys(&self) -> Vec<String> {
        self.0.iter().flat_map(|forge| forge.machine_keys.clone()).collect()
    }

    /// Users of a forge whose credentials sessions may use, in small letters.
    pub fn agents(&self, name: &str) -> BTreeSet<String> {
        let agents = self.named(name).into_iter().flat_map(|forge| &forge.agents);
        agents.map(|agent| small(agent)).collect()
    }

    /// The forges by name, each with its host.
    pub fn hosts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|forge| (forge.name.as_str(), forge.url.host_str().unwrap_or_default()))
    }
}

impl Forge {
    /// How it is spoken to.
    pub fn dialect(&self) -> &'static dyn Dialect {
        match self.kind {
            Kind::Gitea => &Gitea,
            Kind::GitHub => &GitHub,
        }
    }

    /// Its API.
    pub fn api(&self) -> Url {
        self.api_url.clone().unwrap_or_else(|| self.dialect().api(&self.url))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forge(name: &str, url: &str) -> Forge {
        serde_json::from_value(serde_json::json!({"name": name, "type": "Gitea", "url": url})).unwrap()
    }

    #[test]
    fn a_repository_is_found_by_its_exact_url_alone() {
        let forges = Forges::new(vec![
            forge("main", "https://git.example.com"),
            forge("sub", "http://host.example.com:3000/forge/"),
        ])
        .unwrap();
        let found = |url: &str| forges.place(url).map(|place| format!("{} {}", place.forge, place.path));
        let cases = [
            ("https://git.example.com/a/b.git", Some("main a/b")),
            ("https://git.example.com:443/a/b", Some("main a/b")),
            ("http://host.example.com:3000/forge/a/b.git", Some("sub a/b")),
            ("http://host.example.com:3000/a/b.git", None),
            ("http://git.example.com/a/b.git", None),
            ("https://git.example.com.evil.example.com/a/b.git", None),
            ("https://git.example.com:8443/a/b.git", None),
            ("https://git.example.com/a/b/c.git", None),
            ("https://git.example.com/a", None),
            ("https://git.example.com/a/%62", None),
            ("https://git.example.com/../a/..git", None),
        ];
        for (url, expected) in cases {
            assert_eq!(found(url).as_deref(), expected, "{url}");
        }
    }

    #[test]
    fn pull_requests_are_where_the_kind_of_forge_has_them() {
        let hub = serde_json::json!({"name": "hub", "type": "GitHub", "url": "https://github.com"});
        let forges = Forges::new(vec![
            forge("main", "https://git.example.com/forge/"),
            serde_json::from_value(hub).unwrap(),
        ])
        .unwrap();
        let pulls = |url: &str| forges.pulls(url).map(|pulls| (pulls.api, pulls.page));
        let pair = |api: &str, page: &str| Some((api.to_owned(), page.to_owned()));
        assert_eq!(
            pulls("https://git.example.com/forge/a/b.git"),
            pair(
                "https://git.example.com/forge/api/v1/repos/a/b/pulls",
                "https://git.example.com/forge/a/b/pulls"
            )
        );
        assert_eq!(
            pulls("https://github.com/a/b"),
            pair("https://api.github.com/repos/a/b/pulls", "https://github.com/a/b/pull")
        );
        assert_eq!(pulls("https://elsewhere.example.com/a/b"), None);
    }

    #[test]
    fn a_configuration_that_cannot_be_used_says_why() {
        let refused = |forges| Forges::new(forges).unwrap_err().to_string();
        assert_eq!(
            refused(vec![forge("a", "ssh://git.example.com")]),
            "forge a: url is no http or https URL"
        );
        assert_eq!(
            refused(vec![forge("a", "https://u:p@git.example.com")]),
            "forge a: the token belongs into its Secret"
        );
        let twice = vec![
            forge("a", "https://git.example.com"),
            forge("a", "https://git2.example.com"),
        ];
        assert_eq!(refused(twice), "forge a: two have this name");
    }
}
