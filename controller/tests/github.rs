//! Installation tokens, against a stand-in of GitHub's API over TLS: GitHub can't be reached from where the tests run.
//! It plays the two documented routes ("Create an installation access token for an app", "Revoke an installation access
//! token") and checks the App's JWT as documented ("Generating a JSON Web Token for a GitHub App").

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use berth_controller::grant::github::{AHEAD, GitHub, TokenError};
use berth_controller::watch::Name;
use berth_crds::{GitHubApp, KeyRef};
use berth_gallery::origin::{Authority, Origin, Seen};
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use rcgen::{KeyPair, PKCS_RSA_SHA256, RsaKeySize};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

/// The stand-in, and a client of it.
struct Forge {
    stand_in: Origin,
    github: GitHub,
    key: KeyPair,
}

impl Forge {
    /// Answers every request for a token with this status and body.
    async fn answering(status: u16, body: Value) -> Result<Self> {
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        let authority = Authority::new()?;
        let answer = move |seen: &Seen| {
            let (status, body) = if seen.head.starts_with("DELETE") {
                (204, String::new())
            } else {
                (status, body.to_string())
            };
            let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n", body.len());
            Some(format!("{head}Content-Type: application/json\r\n\r\n{body}").into_bytes())
        };
        let stand_in = Origin::http1(&authority, &["localhost"], Arc::new(answer)).await?;
        let api = format!("https://localhost:{}/api/v3", stand_in.address.port());
        Ok(Self {
            github: GitHub::new(api.parse()?, Some(&authority.pem))?,
            stand_in,
            key: KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)?,
        })
    }

    async fn mint(&self, now: Timestamp) -> Result<berth_controller::grant::github::Token, TokenError> {
        let key = SecretString::from(self.key.serialize_pem());
        self.github.mint((&binding(), "1"), &app(), &key, now).await
    }
}

fn binding() -> Name {
    Name {
        namespace: "team-a".to_owned(),
        name: "forge".to_owned(),
    }
}

fn app() -> GitHubApp {
    GitHubApp {
        app_id: 7,
        installation_id: 42,
        private_key_ref: KeyRef {
            name: "app".to_owned(),
            key: "key.pem".to_owned(),
        },
        repositories: vec!["repo".to_owned()],
        permissions: BTreeMap::from([("contents".to_owned(), "read".to_owned())]),
    }
}

fn minted(expires: Timestamp, permissions: &Value) -> Value {
    json!({
        "token": "ghs_fake_0123456789abcdef", "expires_at": expires, "permissions": permissions,
        "repository_selection": "selected",
    })
}

#[tokio::test]
async fn a_token_is_narrowed_held_and_revoked() -> Result<()> {
    let now = Timestamp::now();
    let expires = now + jiff::SignedDuration::from_hours(1);
    let forge = Forge::answering(201, minted(expires, &json!({ "contents": "read", "metadata": "read" }))).await?;
    let token = forge.mint(now).await?;
    assert_eq!(token.value.expose_secret(), "ghs_fake_0123456789abcdef");

    let seen = forge.stand_in.requests();
    let request = seen.first().context("a request")?;
    assert!(
        request
            .head
            .starts_with("POST /api/v3/app/installations/42/access_tokens HTTP/1.1\r\n"),
        "{}",
        request.head
    );
    let asked: Value = serde_json::from_slice(&request.body)?;
    assert_eq!(
        asked,
        json!({ "repositories": ["repo"], "permissions": { "contents": "read" } })
    );
    let bearer = request.header("authorization").context("a bearer")?;
    let jwt = bearer.strip_prefix("Bearer ").context("a JWT")?;
    let key = DecodingKey::from_rsa_pem(forge.key.public_key_pem().as_bytes())?;
    let claims = jsonwebtoken::decode::<Value>(jwt, &key, &Validation::new(Algorithm::RS256))?.claims;
    assert_eq!(claims["iss"], "7");
    let lasts = claims["exp"]
        .as_i64()
        .zip(claims["iat"].as_i64())
        .map(|(exp, iat)| exp - iat);
    assert!(
        lasts.is_some_and(|lasts| lasts <= 600),
        "GitHub takes ten minutes at most: {claims}"
    );

    let held = |now| forge.github.held(&binding(), &app(), "1", now);
    assert!(held(now).is_some());
    assert!(held(expires - AHEAD).is_none(), "a new one is minted ahead of the end");
    assert!(
        forge.github.held(&binding(), &app(), "2", now).is_none(),
        "another key, another token"
    );

    let over = forge.github.retire("team-a", |_| false);
    assert_eq!(over.len(), 1);
    forge.github.revoke(over.first().context("a token")?).await?;
    let seen = forge.stand_in.requests();
    let last = seen.last().context("a request")?;
    assert!(
        last.head.starts_with("DELETE /api/v3/installation/token HTTP/1.1\r\n"),
        "{}",
        last.head
    );
    assert_eq!(
        last.header("authorization").as_deref(),
        Some("Bearer ghs_fake_0123456789abcdef")
    );
    Ok(())
}

#[tokio::test]
async fn a_wider_token_a_refusal_and_a_bad_key_are_errors_that_say_why() -> Result<()> {
    let now = Timestamp::now();
    let wider = Forge::answering(201, minted(now, &json!({ "contents": "write" }))).await?;
    assert!(matches!(wider.mint(now).await, Err(TokenError::Wider { .. })));
    assert!(wider.github.held(&binding(), &app(), "1", now).is_none());

    let refused = Forge::answering(404, json!({ "message": "Not Found" })).await?;
    let error = refused.mint(now).await.err().context("an error")?;
    assert_eq!(error.to_string(), "localhost refuses a token: 404 Not Found: Not Found");

    let key = SecretString::from("not a key");
    let error = refused.github.mint((&binding(), "1"), &app(), &key, now).await.err();
    assert!(matches!(error, Some(TokenError::Key(_))));
    Ok(())
}
