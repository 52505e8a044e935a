//! IO: asks a forge about the commit that brought something. Every number of requests, every answer and every wait has
//! a bound; no redirect is followed, and the token goes to the configured API alone.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, Method, Response, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use url::Url;

use super::config::Forge;
use super::dialect::{PAGE, Said};
use super::{Judgement, Pull, Review};
use crate::grant::evidence::review::small;

/// What a forge says of a commit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Told {
    /// Its id of the repository.
    pub repository: i64,
    /// The pull request that brought the commit.
    pub pull: Option<Pull>,
    /// Of the teams that were asked about, the approvers who are in them, in small letters.
    pub teams: BTreeMap<String, BTreeSet<String>>,
}

/// A forge that says nothing.
#[derive(Debug, thiserror::Error)]
pub enum ForgeError {
    /// Token or certificates can't be read.
    #[error("the {what} of forge {forge} can't be read")]
    File {
        /// Which forge.
        forge: String,
        /// Which file.
        what: &'static str,
    },
    /// No client could be made.
    #[error("failed to make a client of forge {forge}")]
    Client {
        /// Which forge.
        forge: String,
        /// Why.
        source: reqwest::Error,
    },
    /// It can't be reached.
    #[error("forge {forge} can't be reached")]
    Reach {
        /// Which forge.
        forge: String,
        /// Why.
        source: reqwest::Error,
    },
    /// It wants to be asked less often.
    #[error("forge {forge} wants no more requests for {} s", wait.as_secs())]
    Limited {
        /// Which forge.
        forge: String,
        /// For how long.
        wait: Duration,
    },
    /// It says no.
    #[error("forge {forge} refuses {what}: {status}; its token has to be allowed it")]
    Refused {
        /// Which forge.
        forge: String,
        /// What was asked for.
        what: String,
        /// Status of the answer.
        status: StatusCode,
    },
    /// It says something that isn't documented.
    #[error("forge {forge} answers something else than is documented for {what}")]
    Answer {
        /// Which forge.
        forge: String,
        /// What was asked for.
        what: String,
    },
    /// There is more of it than is looked at.
    #[error("forge {forge} has more than {} of {what}", PAGES_MAX * PAGE)]
    Many {
        /// Which forge.
        forge: String,
        /// Of what.
        what: String,
    },
}

/// One conversation with a forge.
pub struct Asking<'a> {
    forge: &'a Forge,
    http: Client,
    token: Option<SecretString>,
    api: Url,
}

impl<'a> Asking<'a> {
    /// With the token that reads, and the certificates, as they are now.
    pub async fn begin(forge: &'a Forge) -> Result<Self, ForgeError> {
        Self::with(forge, forge.token_file.as_ref()).await
    }

    /// With another token.
    pub async fn with(forge: &'a Forge, token: Option<&PathBuf>) -> Result<Self, ForgeError> {
        let name = || forge.name.clone();
        let read = async |file: Option<&PathBuf>, what| match file {
            None => Ok(None),
            Some(file) => tokio::fs::read_to_string(file)
                .await
                .map(Some)
                .map_err(|_unsaid| ForgeError::File { forge: name(), what }),
        };
        let token = read(token, "token").await?;
        let ca = read(forge.ca_file.as_ref(), "certificates").await?;
        let mut builder = Client::builder()
            .user_agent("berth-controller")
            .redirect(Policy::none())
            .timeout(TIMEOUT);
        let made = |source| ForgeError::Client { forge: name(), source };
        let certificates = ca.map(|pem| Certificate::from_pem_bundle(pem.as_bytes())).transpose();
        for certificate in certificates.map_err(made)?.into_iter().flatten() {
            builder = builder.add_root_certificate(certificate);
        }
        Ok(Self {
            forge,
            http: builder.build().map_err(made)?,
            token: token.map(|token| SecretString::from(token.trim().to_owned())),
            api: forge.api(),
        })
    }

    /// Its id of a repository.
    pub async fn repository(&self, path: &str) -> Result<i64, ForgeError> {
        let dialect = self.forge.dialect();
        let what = format!("repository {path}");
        let body = self.found(&dialect.repository(path), &what).await?;
        self.read(dialect.read_repository(&body), &what)
    }

    /// The pull request that brought the first of these commits, which follow each other, and who is in these teams.
    pub async fn about(&self, path: &str, line: &[String], teams: &BTreeSet<String>) -> Result<Told, ForgeError> {
        let mut told = Told {
            repository: self.repository(path).await?,
            ..Told::default()
        };
        let Some(number) = self.number(path, line).await? else {
            return Ok(told);
        };
        let dialect = self.forge.dialect();
        let what = format!("pull request {number}");
        let body = self.found(&dialect.pull(path, number), &what).await?;
        let mut pull = self.read(dialect.read_pull(&body), &what)?;
        self.commits(path, &mut pull).await?;
        pull.reviews = self.reviews(path, number).await?;
        let approvers: BTreeSet<&str> = pull
            .reviews
            .iter()
            .filter(|review| review.judgement == Judgement::Approved)
            .map(|review| review.user.login.as_str())
            .collect();
        for team in teams {
            told.teams.insert(team.clone(), self.members(team, &approvers).await?);
        }
        told.pull = Some(pull);
        Ok(told)
    }

    /// One that was merged as one of the commits, or else any that the forge names for the first.
    async fn number(&self, path: &str, line: &[String]) -> Result<Option<u64>, ForgeError> {
        let dialect = self.forge.dialect();
        let mut other = None;
        for commit in line {
            let what = format!("the pull request of {commit}");
            let Some(body) = self.get(&dialect.pulls_of(path, commit), &what).await? else {
                continue;
            };
            let pulls = self.read(dialect.read_pulls_of(&body), &what)?;
            let ours = |merge: &Option<String>| merge.as_ref().is_some_and(|merge| line.contains(merge));
            if let Some((number, _)) = pulls.iter().find(|(_, merge)| ours(merge)) {
                return Ok(Some(*number));
            }
            other = other.or_else(|| pulls.first().map(|(number, _)| *number));
        }
        Ok(other)
    }

    async fn commits(&self, path: &str, pull: &mut Pull) -> Result<(), ForgeError> {
        let dialect = self.forge.dialect();
        let what = format!("commits of pull request {}", pull.number);
        for page in 1..=PAGES_MAX {
            let body = self.found(&dialect.commits(path, pull.number, page), &what).await?;
            let made = self.read(dialect.read_commits(&body), &what)?;
            let count = made.len();
            for made in made {
                pull.commits.insert(made.commit);
                pull.committers.extend(made.by);
            }
            if count < PAGE {
                return Ok(());
            }
        }
        Err(self.many(what))
    }

    async fn reviews(&self, path: &str, number: u64) -> Result<Vec<Review>, ForgeError> {
        let (dialect, mut all) = (self.forge.dialect(), Vec::new());
        let what = format!("reviews of pull request {number}");
        for page in 1..=PAGES_MAX {
            let body = self.found(&dialect.reviews(path, number, page), &what).await?;
            let (count, said) = self.read(dialect.read_reviews(&body), &what)?;
            all.extend(said);
            if count < PAGE {
                return self.with_rights(path, all).await;
            }
        }
        Err(self.many(what))
    }

    async fn with_rights(&self, path: &str, said: Vec<Said>) -> Result<Vec<Review>, ForgeError> {
        let (mut rights, mut reviews) = (BTreeMap::<String, bool>::new(), Vec::new());
        for said in said {
            let login = said.user.login.clone();
            let known = said.may_write.or_else(|| rights.get(&login).copied());
            let may_write = match known {
                Some(may_write) => may_write,
                None if said.judgement != Judgement::Approved => false,
                None => self.may_write(path, &login).await?,
            };
            rights.insert(login, may_write);
            reviews.push(Review {
                user: said.user,
                judgement: said.judgement,
                commit: said.commit,
                may_write,
            });
        }
        Ok(reviews)
    }

    /// Whether a user may write to a repository.
    pub async fn may_write(&self, path: &str, user: &str) -> Result<bool, ForgeError> {
        let dialect = self.forge.dialect();
        let what = format!("what {user} may do");
        if !is_plain(user) {
            return Ok(false);
        }
        match self.get(&dialect.permission(path, user), &what).await? {
            Some(body) => self.read(dialect.read_permission(&body), &what),
            None => Ok(false),
        }
    }

    /// Who of these is in a team: by the configuration where it names the team, else by the forge.
    async fn members(&self, team: &str, users: &BTreeSet<&str>) -> Result<BTreeSet<String>, ForgeError> {
        let small_users = users.iter().map(|user| small(user));
        if let Some(members) = self.forge.teams.get(team) {
            let members: BTreeSet<String> = members.iter().map(|member| small(member)).collect();
            return Ok(small_users.filter(|user| members.contains(user)).collect());
        }
        let Some((organization, name)) = team
            .split_once('/')
            .filter(|(one, other)| is_plain(one) && is_plain(other))
        else {
            return Ok(BTreeSet::new());
        };
        let dialect = self.forge.dialect();
        let what = format!("team {team}");
        let id = match dialect.find_team(organization, name) {
            None => None,
            Some(search) => {
                let Some(body) = self.get(&search, &what).await? else {
                    return Ok(BTreeSet::new());
                };
                let Some(id) = self.read(dialect.read_team(name, &body), &what)? else {
                    return Ok(BTreeSet::new());
                };
                Some(id)
            }
        };
        let mut members = BTreeSet::new();
        for user in users.iter().filter(|user| is_plain(user)) {
            let answer = self
                .get(&dialect.membership(organization, name, id.as_deref(), user), &what)
                .await?;
            let body = answer.as_deref();
            if let Some(body) = body
                && self.read(dialect.read_membership(body), &what)?
            {
                members.insert(small(user));
            }
        }
        Ok(members)
    }

    /// What has to be there.
    pub(super) async fn found(&self, path: &str, what: &str) -> Result<Vec<u8>, ForgeError> {
        let found = self.get(path, what).await?;
        found.ok_or_else(|| self.refused(what, StatusCode::NOT_FOUND))
    }

    /// The body of an answer; `None` for 404.
    async fn get(&self, path: &str, what: &str) -> Result<Option<Vec<u8>>, ForgeError> {
        self.request(Method::GET, path, None, what).await
    }

    /// Writes something that has to have its place.
    pub(super) async fn write(
        &self,
        method: Method,
        path: &str,
        body: &Value,
        what: &str,
    ) -> Result<Vec<u8>, ForgeError> {
        let written = self.request(method, path, Some(body), what).await?;
        written.ok_or_else(|| self.refused(what, StatusCode::NOT_FOUND))
    }

    async fn request(
        &self,
        method: Method,
        path: &str,
        body_of: Option<&Value>,
        what: &str,
    ) -> Result<Option<Vec<u8>>, ForgeError> {
        let unusable = || ForgeError::Answer {
            forge: self.forge.name.clone(),
            what: what.to_owned(),
        };
        let base = self.api.as_str().trim_end_matches('/');
        let url = Url::parse(&format!("{base}/{path}")).map_err(|_unsaid| unusable())?;
        let reach = |source| ForgeError::Reach {
            forge: self.forge.name.clone(),
            source,
        };
        let mut request = self.http.request(method, url);
        request = request.header(ACCEPT, self.forge.dialect().accept());
        if let Some(body) = body_of {
            request = request.json(body);
        }
        if let Some(token) = &self.token {
            let value = format!("{} {}", self.forge.dialect().authorization(), token.expose_secret());
            let mut value = HeaderValue::from_str(&value).map_err(|_unsaid| ForgeError::File {
                forge: self.forge.name.clone(),
                what: "token",
            })?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        let mut answer = request.send().await.map_err(reach)?;
        let status = answer.status();
        if let Some(wait) = limited(status, answer.headers()) {
            return Err(ForgeError::Limited {
                forge: self.forge.name.clone(),
                wait,
            });
        }
        match status {
            StatusCode::NOT_FOUND => Ok(None),
            StatusCode::NO_CONTENT => Ok(Some(Vec::new())),
            StatusCode::OK | StatusCode::CREATED => {
                let body = body(&mut answer).await.map_err(reach)?;
                body.map(Some).ok_or_else(unusable)
            }
            status => Err(self.refused(what, status)),
        }
    }

    fn refused(&self, what: &str, status: StatusCode) -> ForgeError {
        ForgeError::Refused {
            forge: self.forge.name.clone(),
            what: what.to_owned(),
            status,
        }
    }

    fn many(&self, what: String) -> ForgeError {
        ForgeError::Many {
            forge: self.forge.name.clone(),
            what,
        }
    }

    pub(super) fn read<T>(&self, answer: serde_json::Result<T>, what: &str) -> Result<T, ForgeError> {
        // The error may quote what the forge said.
        answer.map_err(|_unsaid| ForgeError::Answer {
            forge: self.forge.name.clone(),
            what: what.to_owned(),
        })
    }
}

/// The whole body; `None` for one that is longer than any documented answer.
async fn body(answer: &mut Response) -> Result<Option<Vec<u8>>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        body.extend_from_slice(&chunk);
        if body.len() > BODY_MAX {
            return Ok(None);
        }
    }
    Ok(Some(body))
}

/// For how long a forge wants to be left alone: 429, or GitHub's 403 ("Rate limits for the REST API").
fn limited(status: StatusCode, headers: &HeaderMap) -> Option<Duration> {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<u64>().ok();
    let after = number(RETRY_AFTER.as_str()).map(Duration::from_secs);
    let none_left = number("x-ratelimit-remaining") == Some(0);
    let limited = match status {
        StatusCode::TOO_MANY_REQUESTS => true,
        StatusCode::FORBIDDEN => after.is_some() || none_left,
        _ => false,
    };
    limited.then(|| after.unwrap_or(LIMITED).clamp(LIMITED_MIN, LIMITED_MAX))
}

/// Put into a path as it is.
fn is_plain(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    !name.is_empty() && !name.starts_with('.') && name.bytes().all(plain)
}

/// One request.
const TIMEOUT: Duration = Duration::from_secs(10);
/// A page of fifty commits with their messages and files has a few hundred kilobytes.
const BODY_MAX: usize = 4 << 20;
/// GitHub lists 250 commits of a pull request and no more.
const PAGES_MAX: usize = 5;
/// Where a forge doesn't say how long; GitHub's documentation asks for a minute.
const LIMITED: Duration = Duration::from_mins(1);
const LIMITED_MIN: Duration = Duration::from_secs(1);
/// GitHub's budget is made anew every hour.
const LIMITED_MAX: Duration = Duration::from_hours(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| ((*name).parse().unwrap(), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn a_limit_is_told_from_a_refusal() {
        type Case = (u16, &'static [(&'static str, &'static str)], Option<u64>);
        let cases: [Case; 6] = [
            (403, &[], None),
            (403, &[("x-ratelimit-remaining", "12")], None),
            (403, &[("x-ratelimit-remaining", "0")], Some(60)),
            (403, &[("retry-after", "5")], Some(5)),
            (429, &[], Some(60)),
            (429, &[("retry-after", "86400")], Some(3600)),
        ];
        for (status, pairs, seconds) in cases {
            let found = limited(StatusCode::from_u16(status).unwrap(), &headers(pairs));
            assert_eq!(found, seconds.map(Duration::from_secs), "{status} {pairs:?}");
        }
    }

    #[test]
    fn a_name_that_is_no_part_of_a_path_is_asked_for_nowhere() {
        for name in ["", "..", "a/b", "a?b", "a%2fb", "å"] {
            assert!(!is_plain(name), "{name}");
        }
        assert!(is_plain("bob-1_x.y"));
    }
}
