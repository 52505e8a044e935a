//! Requests of an OAuth 2.0 client to its authorization server: client credentials (RFC 6749 §4.4), refresh (§6),
//! revocation (RFC 7009). No error holds anything that was sent, nor anything that was received but for a code that the
//! RFCs define.

use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::StatusCode;
use http::header::HeaderValue;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::{ExposeSecret, SecretString};

use self::answer::Unusable;
use crate::endpoint::Endpoint;
use crate::post::{Answer, Caller, PostError};

pub mod answer;
pub mod renewal;

/// A client, as its authorization server knows it.
#[derive(Clone, Debug)]
pub struct Client {
    /// Its token endpoint.
    pub token: Endpoint,
    /// Its id.
    pub id: String,
    /// Its secret; none for a public client.
    pub secret: Option<SecretString>,
    /// How it proves who it is.
    pub authentication: Authentication,
    /// What it asks for; the server's default when there are none.
    pub scopes: Vec<String>,
}

/// How a client with a secret proves who it is (RFC 6749 §2.3.1).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Authentication {
    /// HTTP Basic, which every server understands.
    #[default]
    Basic,
    /// In the form.
    Body,
}

/// What a token is asked for with.
#[derive(Clone, Debug)]
pub enum Flow {
    /// The client itself.
    ClientCredentials,
    /// A refresh token.
    Refresh(SecretString),
}

/// What a token endpoint gave.
#[derive(Debug)]
pub struct Issued {
    /// The access token.
    pub access: SecretString,
    /// How long it lasts; what the server doesn't say.
    pub lasts: Option<Duration>,
    /// A refresh token that replaces the one that was sent.
    pub refresh: Option<SecretString>,
}

/// There is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The endpoint can't be reached.
    #[error(transparent)]
    Post(#[from] PostError),
    /// The server says no.
    #[error("{host} refuses a token: {status}{}", said(*.code))]
    Refused {
        /// The endpoint's host.
        host: String,
        /// Of the answer.
        status: StatusCode,
        /// Of RFC 6749 §5.2, when it is one of those.
        code: Option<&'static str>,
    },
    /// It leads elsewhere.
    #[error("{host} answers with a redirect ({status}), which isn't followed: name the endpoint that it leads to")]
    Redirect {
        /// The endpoint's host.
        host: String,
        /// Of the answer.
        status: StatusCode,
    },
    /// The answer isn't a token that can be used.
    #[error("{host} answers with {source}")]
    Answer {
        /// The endpoint's host.
        host: String,
        /// Which.
        source: Unusable,
    },
    /// A client's id or secret that no header holds.
    #[error("the client's id or secret can't be sent")]
    Unsendable,
}

impl TokenError {
    /// Whether asking again without a change is of no use.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Refused { code, .. } => code.is_some_and(|code| !TEMPORARY.contains(&code)),
            Self::Answer { .. } | Self::Redirect { .. } | Self::Unsendable => true,
            Self::Post(_) => false,
        }
    }
}

/// Asks for a token.
pub async fn token(caller: &Caller, client: &Client, flow: &Flow) -> Result<Issued, TokenError> {
    let (authorization, mut form) = authenticated(client)?;
    match flow {
        Flow::ClientCredentials => add(&mut form, "grant_type", "client_credentials"),
        Flow::Refresh(token) => {
            add(&mut form, "grant_type", "refresh_token");
            add(&mut form, "refresh_token", token.expose_secret());
        }
    }
    if !client.scopes.is_empty() {
        add(&mut form, "scope", &client.scopes.join(" "));
    }
    let answer = caller.post(&client.token, authorization, form).await?;
    check(&client.token, &answer)?;
    answer::issued(&answer.body, &client.scopes).map_err(|source| TokenError::Answer {
        host: client.token.host(),
        source,
    })
}

/// Revokes an access token where the server offers that. Servers answer 200 for tokens that they don't know as well.
pub async fn revoke(
    caller: &Caller,
    client: &Client,
    endpoint: &Endpoint,
    token: &SecretString,
) -> Result<(), TokenError> {
    let (authorization, mut form) = authenticated(client)?;
    add(&mut form, "token", token.expose_secret());
    add(&mut form, "token_type_hint", "access_token");
    let answer = caller.post(endpoint, authorization, form).await?;
    check(endpoint, &answer)
}

fn check(endpoint: &Endpoint, answer: &Answer) -> Result<(), TokenError> {
    let (host, status) = (endpoint.host(), answer.status);
    let code = answer::error_code(&answer.body);
    if status.is_redirection() {
        Err(TokenError::Redirect { host, status })
    } else if status.is_success() && !answer::is_error(&answer.body) {
        Ok(())
    } else {
        Err(TokenError::Refused { host, status, code })
    }
}

/// The client's proof: a header, and the beginning of a form.
fn authenticated(client: &Client) -> Result<(Option<HeaderValue>, String), TokenError> {
    let mut form = String::new();
    match (&client.secret, client.authentication) {
        (Some(secret), Authentication::Basic) => {
            let pair = format!("{}:{}", encoded(&client.id), encoded(secret.expose_secret()));
            let value = HeaderValue::try_from(format!("Basic {}", BASE64_STANDARD.encode(pair)));
            let mut value = value.map_err(|_unsendable| TokenError::Unsendable)?;
            value.set_sensitive(true);
            return Ok((Some(value), form));
        }
        (Some(secret), Authentication::Body) => {
            add(&mut form, "client_id", &client.id);
            add(&mut form, "client_secret", secret.expose_secret());
        }
        (None, _) => add(&mut form, "client_id", &client.id),
    }
    Ok((None, form))
}

fn add(form: &mut String, name: &str, value: &str) {
    if !form.is_empty() {
        form.push('&');
    }
    form.push_str(name);
    form.push('=');
    form.push_str(&encoded(value));
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, VALUE).to_string()
}

fn said(code: Option<&'static str>) -> String {
    code.map_or_else(String::new, |code| format!(": {code}"))
}

/// Everything but RFC 3986's unreserved characters.
const VALUE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// Codes that go by themselves.
const TEMPORARY: [&str; 3] = ["server_error", "slow_down", "temporarily_unavailable"];

#[cfg(test)]
mod tests {
    use super::*;

    fn client(authentication: Authentication) -> Client {
        Client {
            token: Endpoint::parse("https://login.example.com/token").unwrap(),
            id: "an id".to_owned(),
            secret: Some(SecretString::from("fake:secret/+é")),
            authentication,
            scopes: Vec::new(),
        }
    }

    #[test]
    fn id_and_secret_are_encoded_before_they_are_joined() {
        let (header, form) = authenticated(&client(Authentication::Basic)).unwrap();
        let header = header.unwrap();
        let pair = header.to_str().unwrap().strip_prefix("Basic ").unwrap();
        assert_eq!(
            BASE64_STANDARD.decode(pair).unwrap(),
            b"an%20id:fake%3Asecret%2F%2B%C3%A9"
        );
        assert!(header.is_sensitive() && form.is_empty());
    }

    #[test]
    fn a_secret_in_the_body_is_in_no_header() {
        let (header, form) = authenticated(&client(Authentication::Body)).unwrap();
        assert!(header.is_none());
        assert_eq!(form, "client_id=an%20id&client_secret=fake%3Asecret%2F%2B%C3%A9");
    }
}
