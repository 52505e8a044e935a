//! IO: one token of one client. Its Secrets are read, its token endpoint asked, and a rotated refresh token written back.

use berth_crds::{ClientAuthentication, KeyRef, OAuth2 as Spec};
use berth_outbound::oauth2::{self, Authentication, Client as OAuthClient, Flow, Issued, TokenError};
use kube::Client;
use secrecy::{ExposeSecret, SecretString};

use super::rotation::Key;
use super::{Endpoints, For, Minted, OAuth2, Refusal};
use crate::context::{Clock, NotLeading};
use crate::grant::secrets::{self, Read, ValueError, WriteError};
use crate::telemetry::chain;

/// Whether this process leads.
pub type Leads<'a> = dyn Fn() -> Result<(), NotLeading> + Sync + 'a;

/// Asks for tokens.
pub struct Asker<'a> {
    /// What is held.
    pub oauth2: &'a OAuth2,
    /// As the namespace's `berth-credentials`.
    pub client: &'a Client,
    /// A former leader would spend a refresh token that the leader still needs.
    pub leads: &'a Leads<'a>,
    /// When a failed write is tried again.
    pub clock: Clock,
}

impl Asker<'_> {
    /// A token for a client.
    pub async fn ask(&self, key: &Key, wanted: &For) -> Result<Minted, Refusal> {
        let oauth = oauth_client(self.client, &key.0, &wanted.spec).await?;
        let Some(refresh) = &wanted.spec.refresh_token_ref else {
            let issued = self.token(&oauth, &Flow::ClientCredentials).await?;
            return Ok(minted(issued, None));
        };
        let read = read(self.client, &key.0, refresh).await?;
        let stands = text(&read.value);
        let sent = self.oauth2.rotations.lock().current(key, &stands);
        let mut issued = self.token(&oauth, &Flow::Refresh(sent.clone())).await?;
        let rotated = issued.refresh.take();
        let Some(rotated) = rotated.filter(|new| new.expose_secret() != sent.expose_secret()) else {
            return Ok(minted(issued, None));
        };
        self.oauth2.rotations.lock().rotated(key.clone(), &stands, rotated);
        let written = self.write_back(key, refresh).await;
        let written = written.map(|new| wanted.version.replace(&read.version, &new));
        Ok(minted(issued, written))
    }

    async fn token(&self, oauth: &OAuthClient, flow: &Flow) -> Result<Issued, Refusal> {
        (self.leads)().map_err(|error| Refusal {
            message: chain(&error),
            is_final: false,
        })?;
        let issued = oauth2::token(&self.oauth2.caller, oauth, flow).await;
        issued.map_err(|error: TokenError| Refusal {
            message: chain(&error),
            is_final: error.is_final(),
        })
    }

    /// Writes a rotated refresh token into its Secret, if that holds what it replaces; gives the Secret's new version.
    /// What fails is remembered, and said on the binding.
    pub async fn write_back(&self, key: &Key, refresh: &KeyRef) -> Option<String> {
        let rotations = &self.oauth2.rotations;
        let mut tries = WRITES_MAX;
        loop {
            tries -= 1;
            let why = match secrets::read(self.client, &key.0, &refresh.name, &refresh.key).await {
                Err(error) => chain(&error),
                Ok(read) => {
                    let rotated = rotations.lock().unwritten(key, &text(&read.value))?;
                    let place = (key.0.as_str(), refresh.name.as_str(), refresh.key.as_str());
                    let value = rotated.expose_secret().as_bytes();
                    match secrets::write(self.client, place, &read, value).await {
                        Ok(version) => {
                            rotations.lock().written(key);
                            return Some(version);
                        }
                        Err(WriteError::Overtaken { .. }) if tries > 0 => continue,
                        Err(error) => chain(&error),
                    }
                }
            };
            tracing::warn!(
                secret.namespace = key.0,
                secret.name = refresh.name,
                error = why,
                "a rotated refresh token isn't written back; it is lost with this process"
            );
            rotations.lock().failed(key, why, self.clock.now());
            return None;
        }
    }
}

/// The client, with its secret.
pub(super) async fn oauth_client(client: &Client, namespace: &str, spec: &Spec) -> Result<OAuthClient, Refusal> {
    let endpoints = Endpoints::of(spec).map_err(|(field, error)| Refusal {
        message: format!("{field}: {error}"),
        is_final: true,
    })?;
    let secret = match &spec.client_secret_ref {
        Some(key) => Some(text(&read(client, namespace, key).await?.value)),
        None => None,
    };
    Ok(OAuthClient {
        token: endpoints.token,
        id: spec.client_id.clone(),
        secret,
        authentication: match spec.client_authentication.unwrap_or_default() {
            ClientAuthentication::Basic => Authentication::Basic,
            ClientAuthentication::Body => Authentication::Body,
        },
        scopes: spec.scopes.clone(),
    })
}

fn minted(issued: Issued, written: Option<String>) -> Minted {
    Minted {
        value: issued.access,
        lasts: issued.lasts,
        written,
    }
}

async fn read(client: &Client, namespace: &str, key: &KeyRef) -> Result<Read, Refusal> {
    let read = secrets::read(client, namespace, &key.name, &key.key).await;
    read.map_err(|error| Refusal {
        is_final: matches!(error, ValueError::Unusable { .. }),
        message: chain(&error),
    })
}

/// `kubectl create secret --from-file` keeps the line end of the file.
fn text(value: &[u8]) -> SecretString {
    let text = String::from_utf8_lossy(value);
    SecretString::from(text.trim_end_matches(['\r', '\n']))
}

/// Somebody else writes the Secret too; not for ever.
const WRITES_MAX: u32 = 3;
