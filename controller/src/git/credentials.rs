//! Reads a namespace's Secrets as its ServiceAccount `berth-credentials`: never with the controller's own rights, which
//! know no Secret outside its own namespace (DESIGN §9).

use berth_crds::{GitSource, LocalSecretRef};
use k8s_openapi::api::core::v1::Secret;
use kube::api::Api;
use kube::config::Config;
use kube::{Client, ResourceExt};

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

/// A client that acts as a ServiceAccount of a namespace and as nobody else.
pub fn impersonate(config: &Config, namespace: &str, account: &str, engine: bool) -> Result<Client, kube::Error> {
    let mut config = config.clone();
    let user = format!("system:serviceaccount:{namespace}:{account}");
    let mut header = |name: &'static str, value: &str| {
        let value = http::HeaderValue::from_str(value).map_err(|error| kube::Error::HttpError(error.into()))?;
        config.headers.push((http::HeaderName::from_static(name), value));
        Ok::<(), kube::Error>(())
    };
    header("impersonate-user", &user)?;
    if engine {
        // `berth.dev/engine`, as a header can say it.
        header("impersonate-extra-berth.dev%2fengine", "true")?;
    }
    Client::try_from(config)
}

/// What a source's Secret says: a login and certificates, under Flux's keys.
pub async fn login(config: &Config, source: &GitSource) -> Result<(Login, Option<String>), CredentialsError> {
    let Some(reference) = &source.spec.secret_ref else {
        return Ok((Login::None, None));
    };
    let secret = read(config, source, reference).await?;
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
pub async fn webhook(config: &Config, source: &GitSource) -> Result<Option<Vec<u8>>, CredentialsError> {
    let Some(webhook) = &source.spec.webhook else {
        return Ok(None);
    };
    let secret = read(config, source, &webhook.secret_ref).await?;
    let token = secret
        .data
        .and_then(|mut data| data.remove("token"))
        .map(|value| value.0);
    let token = token.filter(|token| !token.is_empty());
    token.map(Some).ok_or_else(|| CredentialsError::Keys {
        name: webhook.secret_ref.name.clone(),
        keys: "token",
    })
}

async fn read(config: &Config, source: &GitSource, reference: &LocalSecretRef) -> Result<Secret, CredentialsError> {
    let failed = |error: kube::Error| CredentialsError::Read {
        name: reference.name.clone(),
        why: error.to_string(),
    };
    let namespace = source.namespace().unwrap_or_default();
    let client = impersonate(config, &namespace, ACCOUNT, false).map_err(failed)?;
    let api: Api<Secret> = Api::namespaced(client, &namespace);
    api.get(&reference.name).await.map_err(failed)
}

/// ServiceAccount, in each namespace, that reads the Secrets that its owner offers.
pub const ACCOUNT: &str = "berth-credentials";
