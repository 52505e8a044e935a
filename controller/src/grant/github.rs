//! IO: installation tokens of GitHub Apps, narrowed to the repositories and permissions that a binding names. Minted
//! ahead of their end, once for all sessions of a binding, and revoked at GitHub when the binding grants no more.
//!
//! Requests and answers are those of GitHub's documentation ("Create an installation access token for an app",
//! "Revoke an installation access token", "Generating a JSON Web Token for a GitHub App"); GitHub itself can't be
//! reached from the tests, which play its part by those documents.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use berth_crds::GitHubApp;
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use parking_lot::Mutex;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, RequestBuilder, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::watch::Name;

/// The tokens that were minted.
pub struct GitHub {
    http: Client,
    api: Url,
    tokens: Mutex<HashMap<Name, Held>>,
    /// Bindings whose token is being minted: one at a time for each.
    minting: Mutex<HashSet<Name>>,
}

/// A token, and what it was minted for.
#[derive(Clone)]
struct Held {
    app: GitHubApp,
    /// Version of the Secret with the App's key.
    version: String,
    token: Token,
}

/// An installation token.
#[derive(Clone, Debug)]
pub struct Token {
    /// Its value.
    pub value: SecretString,
    /// When it ends.
    pub expires: Timestamp,
    /// When the next one is asked for.
    pub renew: Timestamp,
}

/// There is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The key isn't one.
    #[error("the App's private key can't be read: it is the PEM file that GitHub gave")]
    Key(#[source] jsonwebtoken::errors::Error),
    /// GitHub can't be reached.
    #[error("failed to reach {host}")]
    Reach {
        /// The API's host.
        host: String,
        /// Why.
        source: reqwest::Error,
    },
    /// GitHub says no.
    #[error("{host} refuses a token: {status}{message}")]
    Refused {
        /// The API's host.
        host: String,
        /// Status of the answer.
        status: StatusCode,
        /// What it says, after a colon.
        message: String,
    },
    /// The answer isn't as documented.
    #[error("{host} answers something else than a token")]
    Answer {
        /// The API's host.
        host: String,
        /// Why.
        source: reqwest::Error,
    },
    /// The token may do other things than were asked for.
    #[error("{host} gave a token that isn't narrowed to what was asked for")]
    Wider {
        /// The API's host.
        host: String,
    },
}

/// No client could be made.
#[derive(Debug, thiserror::Error)]
#[error("failed to make a client of the GitHub API")]
pub struct ClientError(#[source] reqwest::Error);

/// The App as itself, for ten minutes at most.
#[derive(Serialize)]
struct Claims {
    iat: i64,
    exp: i64,
    iss: String,
}

#[derive(Serialize)]
struct Wanted<'a> {
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    repositories: &'a [String],
    #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    permissions: &'a std::collections::BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Minted {
    token: SecretString,
    expires_at: Timestamp,
    #[serde(default)]
    permissions: HashMap<String, String>,
    #[serde(default)]
    repository_selection: String,
}

#[derive(Deserialize)]
struct Told {
    #[serde(default)]
    message: String,
}

impl GitHub {
    /// At this API, trusting these certificates besides the public ones.
    pub fn new(api: Url, ca: Option<&str>) -> Result<Self, ClientError> {
        let mut builder = Client::builder()
            .user_agent("berth-controller")
            .https_only(true)
            .redirect(Policy::none())
            .timeout(TIMEOUT);
        let certificates = ca.map(|pem| Certificate::from_pem_bundle(pem.as_bytes())).transpose();
        for certificate in certificates.map_err(ClientError)?.into_iter().flatten() {
            builder = builder.add_root_certificate(certificate);
        }
        Ok(Self {
            http: builder.build().map_err(ClientError)?,
            api,
            tokens: Mutex::default(),
            minting: Mutex::default(),
        })
    }

    /// Host of the API: the owner of the App's key has to offer it to that host too.
    pub fn host(&self) -> &str {
        self.api.host_str().unwrap_or_default()
    }

    /// The token of a binding, as it is held while it lasts for a while.
    pub fn held(&self, binding: &Name, app: &GitHubApp, version: &str, now: Timestamp) -> Option<Token> {
        let tokens = self.tokens.lock();
        let held = tokens.get(binding)?;
        let lasts = Duration::try_from(held.token.expires.duration_since(now)).is_ok_and(|left| left > AHEAD);
        (held.app == *app && held.version == version && lasts).then(|| held.token.clone())
    }

    /// Mints a token for a binding and holds it. The one before is revoked a while later, as sessions still use it.
    pub async fn mint(
        &self,
        (binding, version): (&Name, &str),
        app: &GitHubApp,
        key: &SecretString,
        now: Timestamp,
    ) -> Result<Token, TokenError> {
        let jwt = jwt(app.app_id, key, now).map_err(TokenError::Key)?;
        let wanted = Wanted {
            repositories: &app.repositories,
            permissions: &app.permissions,
        };
        let path = format!("app/installations/{}/access_tokens", app.installation_id);
        let request = self.http.post(self.url(&path)).json(&wanted);
        let answer = self.send(authorized(request, &jwt)).await?;
        let minted: Minted = answer.json().await.map_err(|source| TokenError::Answer {
            host: self.host().to_owned(),
            source,
        })?;
        if !is_narrow(&minted, app) {
            return Err(TokenError::Wider {
                host: self.host().to_owned(),
            });
        }
        let token = Token {
            value: minted.token,
            expires: minted.expires_at,
            renew: minted.expires_at.checked_sub(AHEAD).unwrap_or(now),
        };
        let held = Held {
            app: app.clone(),
            version: version.to_owned(),
            token: token.clone(),
        };
        self.tokens.lock().insert(binding.clone(), held);
        Ok(token)
    }

    /// Whether a token may be minted for a binding now: none is being minted.
    pub fn begins(&self, binding: &Name) -> bool {
        self.minting.lock().insert(binding.clone())
    }

    /// It was minted, or wasn't.
    pub fn ends(&self, binding: &Name) {
        self.minting.lock().remove(binding);
    }

    /// Takes out the tokens of a namespace's bindings that grant no more.
    pub fn retire(&self, namespace: &str, grants: impl Fn(&Name) -> bool) -> Vec<Token> {
        let mut tokens = self.tokens.lock();
        let over = tokens.extract_if(|name, _| name.namespace == namespace && !grants(name));
        over.map(|(_, held)| held.token).collect()
    }

    /// Revokes a token at GitHub.
    pub async fn revoke(&self, token: &Token) -> Result<(), TokenError> {
        let request = self.http.delete(self.url("installation/token"));
        self.send(authorized(request, &token.value)).await.map(drop)
    }

    fn url(&self, path: &str) -> Url {
        let mut url = self.api.clone();
        url.set_path(&format!("{}/{path}", self.api.path().trim_end_matches('/')));
        url
    }

    async fn send(&self, request: RequestBuilder) -> Result<reqwest::Response, TokenError> {
        let host = || self.host().to_owned();
        let answer = request
            .send()
            .await
            .map_err(|source| TokenError::Reach { host: host(), source })?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let told = answer
            .json::<Told>()
            .await
            .map_or_else(|_not_json| String::new(), |told| told.message);
        let message: String = told
            .chars()
            .filter(|letter| !letter.is_control())
            .take(MESSAGE_MAX)
            .collect();
        Err(TokenError::Refused {
            host: host(),
            status,
            message: if message.is_empty() {
                message
            } else {
                format!(": {message}")
            },
        })
    }
}

fn authorized(request: RequestBuilder, token: &SecretString) -> RequestBuilder {
    let request = request
        .header(ACCEPT, "application/vnd.github+json")
        .header("x-github-api-version", API_VERSION);
    match HeaderValue::from_str(&format!("Bearer {}", token.expose_secret())) {
        Ok(mut value) => {
            value.set_sensitive(true);
            request.header(AUTHORIZATION, value)
        }
        Err(_unsendable) => request, // GitHub will say that it lacks one
    }
}

/// Signed by the App's key; from a minute ago, as clocks differ.
fn jwt(app_id: i64, key: &SecretString, now: Timestamp) -> Result<SecretString, jsonwebtoken::errors::Error> {
    let now = now.as_second();
    let claims = Claims {
        iat: now - 60,
        exp: now + 540,
        iss: app_id.to_string(),
    };
    let key = EncodingKey::from_rsa_pem(key.expose_secret().as_bytes())?;
    jsonwebtoken::encode(&Header::new(Algorithm::RS256), &claims, &key).map(SecretString::from)
}

/// GitHub says what a token may do; it must be no more than was asked for. `metadata: read` comes with every token.
fn is_narrow(minted: &Minted, app: &GitHubApp) -> bool {
    let repositories = app.repositories.is_empty() || minted.repository_selection == "selected";
    let asked = |(name, level): (&String, &String)| {
        let implied = name == "metadata" && level == "read";
        let wanted = app.permissions.get(name).map(String::as_str);
        implied || wanted == Some(level.as_str()) || wanted == Some("write")
    };
    repositories && (app.permissions.is_empty() || minted.permissions.iter().all(asked))
}

/// One request of the API.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Tokens last an hour; a new one is minted this long before (research/vault-proxy.md §5.3).
pub const AHEAD: Duration = Duration::from_mins(10);
/// Of GitHub's words in a status.
const MESSAGE_MAX: usize = 200;
/// The documented version that this is written by.
const API_VERSION: &str = "2022-11-28";
