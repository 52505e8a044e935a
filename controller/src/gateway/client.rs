//! IO: LiteLLM's key routes, asked as its admin. Shapes and refusals are those of its source
//! (litellm/proxy/management_endpoints/key_management_endpoints.py, 1.110); the tests play its part by that, as its database
//! engine comes from no package registry.
//!
//! Admin key and certificates are read for each conversation. What a gateway says of itself reaches statuses: no key stands
//! in it.

use std::sync::Arc;

use berth_crds::Reason;
use berth_outbound::endpoint::EndpointError;
use berth_outbound::identity::Roots;
use berth_outbound::post::{Ask, Caller, PostError};
use berth_protocol::budget::Price;
use berth_protocol::money::Pico;
use http::header::{HeaderValue, InvalidHeaderValue};
use http::{Method, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::config::Gateway;
use super::key::{self, Wanted};
use super::price;
use crate::context::NotLeading;
use crate::grant::oauth2::ask::Leads;

/// A gateway that does nothing.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// Another replica leads.
    #[error("this replica doesn't lead")]
    NotLeading(#[from] NotLeading),
    /// Admin key or certificates can't be read.
    #[error("the {what} of gateway {gateway} can't be read: the Secret that chart value gateways names has to hold it")]
    File {
        /// Which gateway.
        gateway: String,
        /// Which file.
        what: &'static str,
    },
    /// Its URL can't be used.
    #[error("the URL of gateway {gateway}")]
    Url {
        /// Which gateway.
        gateway: String,
        /// Why.
        source: EndpointError,
    },
    /// The admin key can't be sent.
    #[error("the admin key of gateway {gateway} isn't one word of text")]
    AdminKey {
        /// Which gateway.
        gateway: String,
        /// Why.
        source: InvalidHeaderValue,
    },
    /// It can't be reached.
    #[error("gateway {gateway} can't be asked")]
    Reach {
        /// Which gateway.
        gateway: String,
        /// Why.
        source: PostError,
    },
    /// It can't answer.
    #[error("gateway {gateway} fails: {status}{said}")]
    Fails {
        /// Which gateway.
        gateway: String,
        /// Status of the answer.
        status: StatusCode,
        /// Its words, after a colon.
        said: String,
    },
    /// It doesn't take the admin key, or that may not do this.
    #[error(
        "gateway {gateway} doesn't accept its admin key: {status}{said}; correct the Secret that chart value gateways names"
    )]
    Forbidden {
        /// Which gateway.
        gateway: String,
        /// Status of the answer.
        status: StatusCode,
        /// Its words, after a colon.
        said: String,
    },
    /// It says no.
    #[error(
        "gateway {gateway} refuses: {status}{said}; see the binding's models, the session's budget, and the gateway's limits for keys"
    )]
    Refused {
        /// Which gateway.
        gateway: String,
        /// Status of the answer.
        status: StatusCode,
        /// Its words, after a colon.
        said: String,
    },
    /// It isn't LiteLLM, or another than is known.
    #[error("gateway {gateway} answers something else than LiteLLM to {route}")]
    Answer {
        /// Which gateway.
        gateway: String,
        /// What was asked for.
        route: &'static str,
    },
}

impl GatewayError {
    /// For programs.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Forbidden { .. } | Self::Refused { .. } => Reason::GatewayRefused,
            _ => Reason::GatewayUnreachable,
        }
    }
}

/// One conversation with a gateway.
pub struct Asking<'a> {
    caller: &'a Caller,
    gateway: &'a Gateway,
    leads: &'a Leads<'a>,
    admin: SecretString,
    roots: Option<Arc<Roots>>,
}

impl<'a> Asking<'a> {
    /// With the admin key and the certificates as they are now. A former leader asks nothing.
    pub async fn begin(caller: &'a Caller, gateway: &'a Gateway, leads: &'a Leads<'a>) -> Result<Self, GatewayError> {
        let file = |what| {
            let gateway = gateway.name.clone();
            GatewayError::File { gateway, what }
        };
        let admin = tokio::fs::read_to_string(&gateway.admin_key_file).await;
        let admin = admin.map_err(|_unsaid| file("admin key"))?.trim().to_owned();
        if admin.is_empty() {
            return Err(file("admin key"));
        }
        let roots = match &gateway.ca_file {
            None => None,
            Some(path) => {
                let pem = tokio::fs::read(path).await.map_err(|_unsaid| file("certificates"))?;
                let roots = Roots::parse(&pem).map_err(|_unsaid| file("certificates"))?;
                Some(Arc::new(roots))
            }
        };
        Ok(Self {
            caller,
            gateway,
            leads,
            admin: SecretString::from(admin),
            roots,
        })
    }

    /// Sees to it that the key is there and good for what it is to be. One that is there already, of an earlier leader or
    /// an earlier incarnation, is taken up: LiteLLM refuses its alias then, and knows the value.
    pub async fn keep(&self, wanted: &Wanted, value: &SecretString, is_there: bool) -> Result<(), GatewayError> {
        if is_there && self.update(&key::update(wanted, value), value).await? {
            return Ok(());
        }
        let made = self.send("/key/generate", &key::generate(wanted, value), value).await;
        match made {
            Ok(answer) => self.confirm(answer.as_ref(), value, "/key/generate"),
            Err(refusal @ GatewayError::Refused { .. }) => {
                if self.update(&key::update(wanted, value), value).await? {
                    Ok(())
                } else {
                    Err(refusal)
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Keeps the key from being used; what it has spent stays known. Whether it was there.
    pub async fn block(&self, value: &SecretString) -> Result<bool, GatewayError> {
        self.update(&key::block(value), value).await
    }

    /// Deletes keys, those that are there.
    pub async fn delete(&self, aliases: &[String]) -> Result<(), GatewayError> {
        let nothing = SecretString::default();
        self.send("/key/delete", &key::delete(aliases), &nothing).await?;
        Ok(()) // 404 says that none is there any more
    }

    /// Aliases of all keys that begin with this.
    pub async fn aliases(&self, prefix: &str) -> Result<Vec<String>, GatewayError> {
        let mut found = Vec::new();
        for page in 1..=PAGES_MAX {
            let route = format!("/key/aliases?page={page}&size={PAGE}&search={prefix}");
            let answer = self.ask(Method::GET, &route, None, &SecretString::default()).await?;
            let read = answer.and_then(|answer| {
                let aliases = answer.get("aliases")?.as_array()?.clone();
                // Releases that don't know of pages give all at once.
                let pages = answer.get("total_pages").and_then(Value::as_u64).unwrap_or(1);
                Some((aliases, pages))
            });
            let (aliases, pages) = read.ok_or_else(|| self.answer("/key/aliases"))?;
            let aliases = aliases.iter().filter_map(Value::as_str);
            found.extend(aliases.filter(|alias| alias.starts_with(prefix)).map(str::to_owned));
            if page >= pages {
                break;
            }
        }
        Ok(found)
    }

    /// What a key has spent; `None` for one that isn't there. It is named by the hash that LiteLLM has of it: a URL stands in logs.
    pub async fn spent(&self, value: &SecretString) -> Result<Option<Pico>, GatewayError> {
        let hash = hex::encode(Sha256::digest(value.expose_secret()));
        let route = format!("/key/info?key={hash}");
        let Some(answer) = self.ask(Method::GET, &route, None, value).await? else {
            return Ok(None);
        };
        let spent = answer.get("info").and_then(|info| info.get("spend")?.as_f64());
        let spent = spent.and_then(Pico::from_dollars);
        spent.map(Some).ok_or_else(|| self.answer("/key/info"))
    }

    /// What its models cost.
    pub async fn prices(&self) -> Result<Vec<Price>, GatewayError> {
        let answer = self
            .ask(Method::GET, "/model/info", None, &SecretString::default())
            .await?;
        let read = answer.as_ref().and_then(price::read);
        read.ok_or_else(|| self.answer("/model/info"))
    }

    /// Whether there was such a key.
    async fn update(&self, body: &Value, value: &SecretString) -> Result<bool, GatewayError> {
        match self.send("/key/update", body, value).await? {
            None => Ok(false),
            answer => self.confirm(answer.as_ref(), value, "/key/update").map(|()| true),
        }
    }

    /// Both routes answer with the key that they were about.
    fn confirm(&self, answer: Option<&Value>, value: &SecretString, route: &'static str) -> Result<(), GatewayError> {
        let named = answer.and_then(|answer| answer.get("key")?.as_str());
        if named == Some(value.expose_secret()) {
            Ok(())
        } else {
            Err(self.answer(route))
        }
    }

    async fn send(&self, route: &str, body: &Value, value: &SecretString) -> Result<Option<Value>, GatewayError> {
        self.ask(Method::POST, route, Some(body), value).await
    }

    /// `None` for a key that isn't there.
    async fn ask(
        &self,
        method: Method,
        route: &str,
        body: Option<&Value>,
        value: &SecretString,
    ) -> Result<Option<Value>, GatewayError> {
        (self.leads)()?;
        let gateway = || self.gateway.name.clone();
        let endpoint = self.gateway.endpoint(route).map_err(|source| GatewayError::Url {
            gateway: gateway(),
            source,
        })?;
        let bearer = format!("Bearer {}", self.admin.expose_secret());
        let mut bearer = HeaderValue::try_from(bearer).map_err(|source| GatewayError::AdminKey {
            gateway: gateway(),
            source,
        })?;
        bearer.set_sensitive(true);
        let answer = self.caller.ask(Ask {
            method,
            endpoint: &endpoint,
            authorization: Some(bearer),
            content: body.map(|body| ("application/json", body.to_string())),
            networks: &self.gateway.addresses,
            roots: self.roots.clone(),
        });
        let answer = answer.await.map_err(|source| GatewayError::Reach {
            gateway: gateway(),
            source,
        })?;
        let said = serde_json::from_slice::<Value>(&answer.body).ok();
        self.judge(answer.status, said, value)
    }

    fn judge(
        &self,
        status: StatusCode,
        said: Option<Value>,
        value: &SecretString,
    ) -> Result<Option<Value>, GatewayError> {
        let gateway = self.gateway.name.clone();
        let error = said.as_ref().and_then(|said| said.get("error"));
        let words = error
            .and_then(|error| error.get("message")?.as_str())
            .unwrap_or_default();
        let said_of = || words_of(words, [&self.admin, value]);
        match status {
            status if status.is_success() => match said {
                Some(answer) => Ok(Some(answer)),
                None => Err(self.answer("a key route")),
            },
            // Another server than LiteLLM has no such route, and says so in other words.
            StatusCode::NOT_FOUND if error.is_some() => Ok(None),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let said = said_of();
                Err(GatewayError::Forbidden { gateway, status, said })
            }
            StatusCode::NOT_FOUND => Err(self.answer("a key route")),
            status if status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS => {
                let said = said_of();
                Err(GatewayError::Refused { gateway, status, said })
            }
            status => {
                let said = said_of();
                Err(GatewayError::Fails { gateway, status, said })
            }
        }
    }

    fn answer(&self, route: &'static str) -> GatewayError {
        GatewayError::Answer {
            gateway: self.gateway.name.clone(),
            route,
        }
    }
}

/// A gateway's words, as far as people may read them: of a line's length, and nothing that could be a key.
fn words_of(words: &str, secrets: [&SecretString; 2]) -> String {
    let tells = |secret: &&SecretString| {
        let secret = secret.expose_secret();
        !secret.is_empty() && words.contains(secret)
    };
    if words.is_empty() || secrets.iter().any(tells) {
        return String::new();
    }
    let mut told = String::new();
    let mut rest = words;
    while let Some(at) = rest.find("sk-") {
        let (before, after) = rest.split_at(at);
        told.push_str(before);
        told.push_str("sk-…");
        let is_of_key = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        rest = after.trim_start_matches(is_of_key);
    }
    told.push_str(rest);
    let told: String = told.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    format!(": {}", berth_crds::condition::cut(&told, WORDS_MAX))
}

/// Of a page of aliases; LiteLLM gives no more.
const PAGE: usize = 100;
/// Twenty thousand keys; what is beyond them is found once those are fewer.
const PAGES_MAX: u64 = 200;
/// Two lines.
const WORDS_MAX: usize = 240;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_is_told_in_a_gateways_words() {
        let secret = |text: &str| SecretString::from(text.to_owned());
        let (admin, value) = (secret("fake-admin-key"), secret("sk-fakefakefake"));
        let told = |words: &str| words_of(words, [&admin, &value]);
        assert_eq!(told(""), "");
        assert_eq!(told("max_budget is over max limit"), ": max_budget is over max limit");
        assert_eq!(told("bad key sk-ab_C-9, sk-x.\nNo."), ": bad key sk-…, sk-…. No.");
        assert_eq!(told("you sent fake-admin-key"), "");
        assert_eq!(told("you sent sk-fakefakefake"), "");
        assert!(told(&"long ".repeat(100)).len() <= 2 + WORDS_MAX);
    }
}
