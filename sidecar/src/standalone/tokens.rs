//! IO: access tokens that a sidecar without a controller asks for, by the same rules as the controller does: vetted
//! addresses, no redirects, renewed ahead of their end, tried again after a back-off.

use std::collections::HashMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use berth_egress::policy::{ClientAuthentication, Kept, OAuth2, Policy, Source};
use berth_outbound::dial::Dialer;
use berth_outbound::endpoint::Endpoint;
use berth_outbound::oauth2::{self, Authentication, Client, Flow, renewal};
use berth_outbound::post::Caller;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;
use tokio::time::{Instant, sleep_until};

use super::{file, variable};
use crate::clock::Boottime;
use crate::vault::{Holder, Offer, Value};

/// The tokens of a policy, by their credentials.
pub struct Tokens {
    dialer: Dialer,
    held: HashMap<String, Held>,
}

/// One of them.
struct Held {
    client: OAuth2,
    token: Option<(SecretString, Boottime)>,
    next: Instant,
    tries: u32,
    /// A refresh token that couldn't be written, and a digest of the one that it replaces.
    rotated: Option<(Print, SecretString)>,
}

type Print = [u8; 32];

/// Whether a client can be asked for at all.
pub(super) fn check(client: &OAuth2) -> Result<(), String> {
    if client.client_secret.is_none() && client.refresh_token.is_none() {
        return Err("source.oauth2 needs one of clientSecret and refreshToken".to_owned());
    }
    let endpoint = Endpoint::parse(&client.token_url);
    endpoint.map(drop).map_err(|error| format!("tokenURL: {error}"))
}

impl Tokens {
    /// None yet.
    pub fn new(dialer: Dialer) -> Self {
        Self {
            dialer,
            held: HashMap::new(),
        }
    }

    /// Waits until a token is to be asked for.
    pub async fn due(&self) {
        match self.held.values().map(|held| held.next).min() {
            Some(next) => sleep_until(next).await,
            None => std::future::pending().await,
        }
    }

    /// Asks for what is due of a policy whose files are in `base`, and forgets what isn't of it.
    pub async fn ask(&mut self, policy: &Policy, base: &Path) {
        let clients = policy
            .credentials
            .iter()
            .filter_map(|credential| match &credential.source {
                Some(Source::OAuth2(client)) => Some((credential.name.as_str(), &**client)),
                _ => None,
            });
        let clients: HashMap<&str, &OAuth2> = clients.collect();
        self.held
            .retain(|name, held| clients.get(name.as_str()) == Some(&&held.client));
        for (name, client) in clients {
            let held = self.held.entry(name.to_owned()).or_insert_with(|| Held::new(client));
            if held.next <= Instant::now() {
                held.renew(&self.dialer, name, base).await;
            }
        }
    }

    /// The offer, with the tokens that there are.
    pub fn filled(&self, mut offer: Offer) -> Offer {
        for (name, held) in &self.held {
            if let Some((secret, until)) = &held.token {
                let value = Value {
                    secret: secret.clone(),
                    holder: Holder::None,
                    grant: "file".into(),
                    until: Some(*until),
                };
                offer.values.insert(name.clone(), value);
            }
        }
        offer
    }
}

/// There is no token.
struct Refused {
    message: String,
    is_final: bool,
}

impl Held {
    fn new(client: &OAuth2) -> Self {
        Self {
            client: client.clone(),
            token: None,
            next: Instant::now(),
            tries: 0,
            rotated: None,
        }
    }

    async fn renew(&mut self, dialer: &Dialer, name: &str, base: &Path) {
        let jitter = rand::random();
        let wait = match self.token(dialer, base).await {
            Ok((token, lasts)) => {
                self.token = Some((token, Boottime::now().after(lasts)));
                self.tries = 0;
                renewal::renewed_after(lasts, jitter)
            }
            Err(Refused { message, is_final }) => {
                tracing::error!(credential = name, error = message, "no token");
                let wait = renewal::pause(self.tries, is_final, jitter);
                self.tries = self.tries.saturating_add(1);
                wait
            }
        };
        self.next = Instant::now() + wait;
    }

    async fn token(&mut self, dialer: &Dialer, base: &Path) -> Result<(SecretString, Duration), Refused> {
        let final_ = |message: String| Refused {
            message,
            is_final: true,
        };
        let secret = self.client.client_secret.as_ref();
        let client = Client {
            token: Endpoint::parse(&self.client.token_url).map_err(|error| final_(error.to_string()))?,
            id: self.client.client_id.clone(),
            secret: secret.map(|kept| read(kept, base)).transpose().map_err(final_)?,
            authentication: match self.client.client_authentication {
                ClientAuthentication::Basic => Authentication::Basic,
                ClientAuthentication::Body => Authentication::Body,
            },
            scopes: self.client.scopes.clone(),
        };
        let refresh = self.client.refresh_token.as_ref();
        let stands = refresh.map(|kept| read(kept, base)).transpose().map_err(final_)?;
        let flow = match &stands {
            None => Flow::ClientCredentials,
            Some(stands) => Flow::Refresh(self.current(stands)),
        };
        let caller = Caller::new(dialer.clone(), self.client.addresses.clone());
        let issued = oauth2::token(&caller, &client, &flow).await.map_err(|error| Refused {
            message: crate::chain(&error),
            is_final: error.is_final(),
        })?;
        if let (Some(stands), Some(rotated)) = (stands, issued.refresh) {
            self.keep(&stands, rotated, base);
        }
        let lasts = renewal::lasts(issued.lasts).map_err(|short| final_(short.to_string()))?;
        Ok((issued.access, lasts))
    }

    fn current(&self, stands: &SecretString) -> SecretString {
        let rotated = self.rotated.as_ref().filter(|(replaces, _)| *replaces == print(stands));
        rotated.map_or_else(|| stands.clone(), |(_, token)| token.clone())
    }

    /// Writes a rotated refresh token where the one before stands. What can't be written is kept as long as the process.
    fn keep(&mut self, stands: &SecretString, rotated: SecretString, base: &Path) {
        let written = match &self.client.refresh_token {
            Some(Kept::File(path)) => write(&base.join(path), &rotated),
            _ => Err(io::Error::other(
                "a variable can't be written; keep the refresh token in a file",
            )),
        };
        self.rotated = match written {
            Ok(()) => None,
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the rotated refresh token isn't written; it is lost with this process"
                );
                Some((print(stands), rotated))
            }
        };
    }
}

fn read(kept: &Kept, base: &Path) -> Result<SecretString, String> {
    match kept {
        Kept::File(path) => file(&base.join(path)),
        Kept::Env(name) => variable(name),
    }
}

/// As a whole or not at all, for its owner alone.
fn write(path: &PathBuf, token: &SecretString) -> io::Result<()> {
    let directory = path.parent().unwrap_or_else(|| Path::new("."));
    let mut new = NamedTempFile::new_in(directory)?;
    new.write_all(token.expose_secret().as_bytes())?;
    new.as_file().sync_all()?;
    new.persist(path).map(drop).map_err(|error| error.error)
}

fn print(token: &SecretString) -> Print {
    Sha256::digest(token.expose_secret()).into()
}
