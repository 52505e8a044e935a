//! A registry's login: Basic at the token service, which answers with a bearer token ("Token Authentication
//! Specification" of the CNCF distribution project). The agent has a stub of either.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use berth_gallery::agent;
use berth_gallery::origin::{Authority, Origin, Seen, ok};
use berth_gallery::policy::{self, SECRET, STUB};
use berth_gallery::sidecar::Sidecar;
use berth_sidecar::vault::{Holder, Offer, Value};
use secrecy::SecretString;
use serde_json::{Value as Json, json};

const REGISTRY: &str = "registry.example.com";
const SERVICE: &str = "auth.example.com";
const USER: &str = "fake-robot";
const TOKEN: &str = "fake-minted-token-0123456789abcdef";

/// Both parts of a registry; what the agent sends is answered as the specification says.
fn answer(seen: &Seen) -> Option<Vec<u8>> {
    let authorization = seen.header("authorization").unwrap_or_default();
    let login = format!("Basic {}", BASE64_STANDARD.encode(format!("{USER}:{SECRET}")));
    if seen.target().starts_with("/token") && authorization == login {
        let body = json!({ "token": TOKEN, "access_token": TOKEN, "expires_in": 300 });
        return ok(body.to_string());
    }
    if seen.target().starts_with("/v2/") && authorization == format!("Bearer {TOKEN}") {
        return ok(format!("tags, for {authorization}"));
    }
    let challenge = format!("Bearer realm=\"https://{SERVICE}/token\",service=\"{REGISTRY}\"");
    let head = format!("HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: {challenge}\r\nContent-Length: 0\r\n\r\n");
    Some(head.into_bytes())
}

fn routes(port: u16) -> [Json; 2] {
    let endpoint = json!({
        "methods": ["GET"], "paths": ["/token"], "tokens": "Endpoint", "minting": true, "inject": { "basic": {} },
    });
    let minted = json!({ "methods": ["GET"], "paths": ["/v2/**"], "tokens": "Minted" });
    [
        policy::route("token", SERVICE, port, &endpoint),
        policy::route("registry", REGISTRY, port, &minted),
    ]
}

#[tokio::test]
async fn a_login_is_exchanged_for_a_token_that_the_agent_never_has() -> Result<()> {
    let authority = Authority::new()?;
    let origin = Origin::http1(&authority, &[REGISTRY, SERVICE], Arc::new(answer)).await?;
    let port = origin.address.port();
    let policy = policy::of(&[policy::credential("TOKEN", STUB)], &routes(port));
    let hosts = [REGISTRY, SERVICE];
    let sidecar = Sidecar::start(&authority, &policy.to_string(), &hosts, &[("token", SECRET)]).await?;
    let value = Value {
        secret: SecretString::from(SECRET),
        holder: Holder::User(USER.to_owned()),
        grant: Arc::from("fake-grant"),
        until: None,
    };
    sidecar.offer(Offer {
        policy: serde_json::from_value(policy)?,
        values: HashMap::from([("TOKEN".to_owned(), value)]),
        ..Offer::nothing()
    });
    let (registry, service) = (format!("{REGISTRY}:{port}"), format!("{SERVICE}:{port}"));
    let get = |place: &str, path: &str, authorization: &str| {
        format!("GET {path} HTTP/1.1\r\nHost: {place}\r\nAuthorization: {authorization}\r\n\r\n")
    };
    let basic = format!("Basic {}", BASE64_STANDARD.encode(format!("whoever:{STUB}")));
    let minted = agent::send(&sidecar, &service, &get(&service, "/token?service=r", &basic)).await?;
    assert_eq!(minted.status, 200, "{}", minted.text());
    assert!(!minted.text().contains(TOKEN), "{}", minted.text());
    let body: Json = serde_json::from_slice(&minted.body)?;
    let stub = body["token"].as_str().context("no token")?;
    assert!(stub.starts_with(STUB), "{stub}");
    let tags = agent::send(
        &sidecar,
        &registry,
        &get(&registry, "/v2/app/tags/list", &format!("Bearer {stub}")),
    )
    .await?;
    assert_eq!(tags.status, 200, "{}", tags.text());
    assert!(
        tags.text().starts_with("tags") && !tags.text().contains(TOKEN),
        "{}",
        tags.text()
    );

    let before = origin.requests().len();
    for (place, path, authorization) in [
        (&registry, "/v2/app/tags/list", format!("Bearer {STUB}")),
        (&registry, "/v2/app/tags/list", basic.clone()),
        (&service, "/token", format!("Bearer {stub}")),
        (
            &registry,
            "/v2/app/tags/list",
            format!("Bearer {STUB}.{}", "a".repeat(32)),
        ),
    ] {
        let refused = agent::send(&sidecar, place, &get(place, path, &authorization)).await?;
        assert_eq!(refused.status, 403, "{place} {authorization}: {}", refused.text());
    }
    assert_eq!(origin.requests().len(), before);
    Ok(())
}
