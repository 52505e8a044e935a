//! Reads a namespace's Secrets as its ServiceAccount `berth-credentials`: never with the controller's own rights, which
//! know no Secret outside its own namespace (DESIGN §9).

use std::collections::HashMap;
use std::time::{Duration, Instant};

use berth_crds::{GitSource, LocalSecretRef, label};
use k8s_openapi::api::core::v1::Secret;
use kube::api::Api;
use kube::config::Config;
use kube::{Client, ResourceExt};
use parking_lot::Mutex;

use super::wire::Login;

/// A Secret couldn't be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// It couldn't be read.
    #[error("Secret {name} can't be read as ServiceAccount {ACCOUNT}: {why}")]
    Read {
        /// Name of the Secret.
        name: String,
        /// What the API server said.
        why: String,
    },
    /// It lacks what is needed.
    #[error("Secret {name} has none of the keys {keys}")]
    Keys {
        /// Name of the Secret.
        name: String,
        /// What was looked for.
        keys: &'static str,
    },
}

/// A webhook's shared secret, and when it was read.
type Token = (Vec<u8>, Instant);

/// Acts as ServiceAccounts of namespaces.
pub struct Accounts {
    config: Config,
    /// One client an account: a client of its own for each request would be a connection for each.
    clients: Mutex<HashMap<(String, &'static str), Client>>,
    /// Webhooks' shared secrets as read lately, so that a flood of forged deliveries is none of requests.
    tokens: Mutex<HashMap<(String, String), Token>>,
}

impl Accounts {
    /// Accounts by way of the controller's own configuration.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            clients: Mutex::default(),
            tokens: Mutex::default(),
        }
    }

    /// A client that acts as a ServiceAccount of a namespace and as nobody else.
    pub fn client(&self, namespace: &str, account: &'static str) -> Result<Client, kube::Error> {
        let key = (namespace.to_owned(), account);
        if let Some(client) = self.clients.lock().get(&key) {
            return Ok(client.clone());
        }
        let client = impersonate(&self.config, namespace, account)?;
        let mut clients = self.clients.lock();
        if clients.len() >= KEPT_MAX {
            clients.clear();
        }
        clients.insert(key, client.clone());
        Ok(client)
    }

    /// What a source's Secret says: a login and certificates, under Flux's keys.
    pub async fn login(&self, source: &GitSource) -> Result<(Login, Option<String>), CredentialsError> {
        let Some(reference) = &source.spec.secret_ref else {
            return Ok((Login::None, None));
        };
        let secret = self.read(source, reference).await?;
        let text = |key: &str| {
            let value = secret.data.as_ref().and_then(|data| data.get(key))?;
            String::from_utf8(value.0.clone())
                .ok()
                .map(|text| text.trim_end().to_owned())
        };
        let login = match (text("bearerToken"), text("username"), text("password")) {
            (Some(token), ..) => Login::Bearer(token),
            (None, username, Some(password)) => Login::Basic {
                username: username.unwrap_or_default(),
                password,
            },
            _ => Login::None,
        };
        let ca = text("ca.crt").or_else(|| text("caFile"));
        if matches!(login, Login::None) && ca.is_none() {
            return Err(CredentialsError::Keys {
                name: reference.name.clone(),
                keys: "username and password, bearerToken, ca.crt",
            });
        }
        Ok((login, ca))
    }

    /// The shared secret of a source's webhook; `None` when it has none.
    pub async fn webhook(&self, source: &GitSource) -> Result<Option<Vec<u8>>, CredentialsError> {
        let Some(webhook) = &source.spec.webhook else {
            return Ok(None);
        };
        let key = (source.namespace().unwrap_or_default(), webhook.secret_ref.name.clone());
        let kept = self
            .tokens
            .lock()
            .get(&key)
            .filter(|(_, at)| at.elapsed() < TOKEN_KEPT)
            .map(|(token, _)| token.clone());
        if kept.is_some() {
            return Ok(kept);
        }
        let secret = self.read(source, &webhook.secret_ref).await?;
        let token = secret
            .data
            .and_then(|mut data| data.remove("token"))
            .map(|value| value.0);
        let token = token
            .filter(|token| !token.is_empty())
            .ok_or_else(|| CredentialsError::Keys {
                name: webhook.secret_ref.name.clone(),
                keys: "token",
            })?;
        let mut tokens = self.tokens.lock();
        tokens.retain(|_, (_, at)| at.elapsed() < TOKEN_KEPT);
        if tokens.len() < KEPT_MAX {
            tokens.insert(key, (token.clone(), Instant::now()));
        }
        Ok(Some(token))
    }

    async fn read(&self, source: &GitSource, reference: &LocalSecretRef) -> Result<Secret, CredentialsError> {
        let failed = |error: kube::Error| CredentialsError::Read {
            name: reference.name.clone(),
            why: error.to_string(),
        };
        let namespace = source.namespace().unwrap_or_default();
        let client = self.client(&namespace, ACCOUNT).map_err(failed)?;
        let api: Api<Secret> = Api::namespaced(client, &namespace);
        api.get(&reference.name).await.map_err(failed)
    }
}

/// Who applies from git says so, and nobody else may (the chart's admission policies).
fn impersonate(config: &Config, namespace: &str, account: &str) -> Result<Client, kube::Error> {
    let mut config = config.clone();
    let user = format!("system:serviceaccount:{namespace}:{account}");
    let mut header = |name: &'static str, value: &str| {
        let value = http::HeaderValue::from_str(value).map_err(|error| kube::Error::HttpError(error.into()))?;
        config.headers.push((http::HeaderName::from_static(name), value));
        Ok::<(), kube::Error>(())
    };
    header("impersonate-user", &user)?;
    if account == label::SYNC_ACCOUNT {
        // `berth.dev/engine`, as a header can say it.
        header("impersonate-extra-berth.dev%2fengine", "true")?;
    }
    Client::try_from(config)
}

/// ServiceAccount, in each namespace, that reads the Secrets that its owner offers.
pub const ACCOUNT: &str = "berth-credentials";
/// How long a changed token of a webhook may go unnoticed.
const TOKEN_KEPT: Duration = Duration::from_secs(30);
/// Two accounts in each of a hundred namespaces.
const KEPT_MAX: usize = 256;
