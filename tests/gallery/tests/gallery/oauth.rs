//! An agent that runs an OAuth 2.0 flow itself, with the stub of its client's secret.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use berth_gallery::agent::{self, Response};
use berth_gallery::oauth::{AuthorizationServer, CLIENT, CLIENT_SECRET, REFRESH_TOKEN};
use berth_gallery::origin::{Authority, Origin, Seen, always, ok};
use berth_gallery::policy;
use berth_gallery::sidecar::Sidecar;
use berth_sidecar::vault::{Holder, Offer, Value as Held};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::SecretString;
use serde_json::{Value, json};

const LOGIN: &str = "login.example.com";
const API: &str = "api.example.com";
const STUB: &str = "stub_fake_client_0123456789abcdef";

/// A token endpoint, an API that its tokens are for, and the sidecar before both.
struct Flow {
    sidecar: Sidecar,
    login: u16,
    api: u16,
}

/// The client's secret in `inject` at the token endpoint, its tokens as bearer at the API.
fn policy(login: u16, api: u16, inject: &Value) -> Value {
    let credential = json!({ "credential": "CLIENT" });
    let mut token = policy::route("token", LOGIN, login, &credential);
    token["inject"] = inject.clone();
    token["tokens"] = json!("Endpoint");
    token["paths"] = json!(["/token", "/revoke"]);
    let mut minted = policy::route("api", API, api, &credential);
    minted["tokens"] = json!("Minted");
    policy::of(&[policy::credential("CLIENT", STUB)], &[token, minted])
}

fn in_body() -> Value {
    json!({ "body": { "name": "client_secret" } })
}

impl Flow {
    async fn new(authority: &Authority, (login, api): (u16, u16), inject: &Value) -> Result<Self> {
        let policy = policy(login, api, inject).to_string();
        let sidecar = Sidecar::start(authority, &policy, &[LOGIN, API], &[("client", CLIENT_SECRET)]).await?;
        Ok(Self { sidecar, login, api })
    }

    /// With a stand-in of a token endpoint that answers this to everything, as no right server does, and an API that
    /// echoes.
    async fn answering(answer: Vec<u8>) -> Result<(Self, [Origin; 2])> {
        let authority = Authority::new()?;
        let stand_in = Origin::http1(&authority, &[LOGIN], always(answer)).await?;
        let api = Origin::http1(&authority, &[API], berth_gallery::origin::echo()).await?;
        let ports = (stand_in.address.port(), api.address.port());
        Ok((Self::new(&authority, ports, &in_body()).await?, [stand_in, api]))
    }

    async fn post(&self, path: &str, header: &str, form: &[(&str, &str)]) -> Result<Response> {
        let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        // A stub is written as it is: it has no character that a form would encode.
        let plain = |value: &str| {
            if value.starts_with("stub") {
                value.to_owned()
            } else {
                encode(value)
            }
        };
        let form: Vec<String> = form
            .iter()
            .map(|(name, value)| format!("{name}={}", plain(value)))
            .collect();
        let (form, place) = (form.join("&"), format!("{LOGIN}:{}", self.login));
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: {place}\r\nContent-Type: application/x-www-form-urlencoded\r\n\
             Content-Length: {}\r\n{header}\r\n{form}",
            form.len()
        );
        agent::send(&self.sidecar, &place, &request).await
    }

    async fn token(&self, form: &[(&str, &str)]) -> Result<Response> {
        let client = [("client_id", CLIENT), ("client_secret", STUB)];
        self.post("/token", "", &[&client, form].concat()).await
    }

    async fn call(&self, bearer: &str) -> Result<Response> {
        let place = format!("{API}:{}", self.api);
        let request = format!("GET /me HTTP/1.1\r\nHost: {place}\r\nAuthorization: Bearer {bearer}\r\n\r\n");
        agent::send(&self.sidecar, &place, &request).await
    }
}

fn text(response: &Response, name: &str) -> Result<String> {
    let json: Value = serde_json::from_slice(&response.body)?;
    let text = json[name].as_str().map(str::to_owned);
    text.with_context(|| format!("no {name} in {}", response.text()))
}

fn json_answer(body: &Value) -> Vec<u8> {
    let body = body.to_string();
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// THREAT: 36
/// Against a real server: whatever the agent holds is a stub, and the server sees what it gave.
#[tokio::test]
async fn an_agent_runs_its_flow_and_never_holds_a_token() -> Result<()> {
    let authority = Authority::new()?;
    let Some(server) = AuthorizationServer::start(&authority, &[LOGIN, API]).await? else {
        return Ok(());
    };
    let flow = Flow::new(&authority, (server.port, server.port), &in_body()).await?;
    let given = flow.token(&[("grant_type", "client_credentials")]).await?;
    assert_eq!(given.status, 200, "{}", given.text());
    let stub = text(&given, "access_token")?;
    assert!(stub.starts_with(STUB), "{}", given.text());
    assert_eq!(flow.call(&stub).await?.status, 200);
    // The API echoes what it was sent: that comes back as the stub.
    assert_eq!(text(&flow.call(&stub).await?, "sent")?, format!("Bearer {stub}"));
    // A made-up stub of the right form is nobody's.
    let made_up = format!("{STUB}.{}", "a".repeat(32));
    let refused = flow.call(&made_up).await?;
    assert!(
        refused.status == 403 && refused.text().contains("isn't known"),
        "{}",
        refused.text()
    );
    // The client's own secret isn't exchanged as a bearer.
    assert_eq!(flow.call(STUB).await?.status, 403);
    let revoked = flow
        .post(
            "/revoke",
            "",
            &[("client_id", CLIENT), ("client_secret", STUB), ("token", &stub)],
        )
        .await?;
    assert_eq!(revoked.status, 200, "{}", revoked.text());
    assert_eq!(flow.call(&stub).await?.status, 401);
    let invalid = flow.token(&[("grant_type", "password")]).await?;
    assert_eq!(
        (invalid.status, text(&invalid, "error")?.as_str()),
        (400, "unsupported_grant_type")
    );
    Ok(())
}

/// THREAT: 36
/// A refresh token rotates from stub to stub; the client proves itself by Basic.
#[tokio::test]
async fn a_refresh_token_is_exchanged_back_at_its_endpoint_alone() -> Result<()> {
    let authority = Authority::new()?;
    let Some(server) = AuthorizationServer::start(&authority, &[LOGIN, API]).await? else {
        return Ok(());
    };
    let flow = Flow::new(&authority, (server.port, server.port), &json!({ "basic": {} })).await?;
    let id = utf8_percent_encode(CLIENT, NON_ALPHANUMERIC);
    let basic = format!(
        "Authorization: Basic {}\r\n",
        BASE64_STANDARD.encode(format!("{id}:{STUB}"))
    );
    let refresh = |token: String| {
        let (flow, basic) = (&flow, &basic);
        async move {
            flow.post(
                "/token",
                basic,
                &[("grant_type", "refresh_token"), ("refresh_token", &token)],
            )
            .await
        }
    };
    // The first one was given to the agent by somebody else.
    let given = refresh(REFRESH_TOKEN.to_owned()).await?;
    assert_eq!(given.status, 200, "{}", given.text());
    let first = text(&given, "refresh_token")?;
    let second = text(&refresh(first.clone()).await?, "refresh_token")?;
    assert!(first.starts_with(STUB) && second.starts_with(STUB) && first != second);
    // It was spent: the server knows the token behind the stub.
    assert_eq!(text(&refresh(first).await?, "error")?, "invalid_grant");
    // At the API it is a token like any other, and of no use there.
    assert_eq!(flow.call(&second).await?.status, 401);
    Ok(())
}

/// THREAT: 36
#[tokio::test]
async fn an_answer_that_cannot_be_read_is_not_passed_on() -> Result<()> {
    let token = "fake-new-token-0123456789";
    let head = |more: &str, body: &str| {
        let length = body.len();
        format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n{more}\r\n{body}").into_bytes()
    };
    let large = json!({ "access_token": token, "more": "x".repeat(64 << 10) });
    for answer in [
        head("Content-Type: text/plain\r\n", token),
        head("Content-Type: application/json\r\n", &json!(token).to_string()),
        head(
            "Content-Type: application/json\r\n",
            &format!("{{\"access_token\":\"{token}\""),
        ),
        head(
            "Content-Type: application/json\r\n",
            &json!({ "access_token": { "value": token } }).to_string(),
        ),
        head(
            "Content-Type: application/json\r\nContent-Encoding: identity\r\n",
            &json!({ "token": token }).to_string(),
        ),
        head(
            "Content-Type: application/json\r\n",
            &json!({ "access_token": "short" }).to_string(),
        ),
        json_answer(&large),
        format!("HTTP/1.1 302 Found\r\nLocation: https://{API}/#access_token={token}\r\nContent-Length: 0\r\n\r\n")
            .into(),
    ] {
        let (flow, [stand_in, _api]) = Flow::answering(answer.clone()).await?;
        let given = flow.token(&[("grant_type", "client_credentials")]).await?;
        let what = String::from_utf8_lossy(&answer).into_owned();
        assert!(
            given.status == 502 && given.text().contains("token"),
            "{what}: {}",
            given.text()
        );
        assert!(stand_in.text().contains("fake-client-secret"), "it was asked");
        assert!(!given.head.contains(token) && !given.text().contains(token), "{what}");
    }
    Ok(())
}

/// THREAT: 36
/// A token isn't known until it was given; from then on it is redacted in every form.
#[tokio::test]
async fn a_token_does_not_come_back_by_another_way() -> Result<()> {
    let token = "fake-new-token-0123456789";
    let answer = json!({ "access_token": token, "note": format!("your token is {token}"), "expires_in": 60 });
    let (flow, _origins) = Flow::answering(json_answer(&answer)).await?;
    let given = flow.token(&[("grant_type", "client_credentials")]).await?;
    assert!(!given.text().contains(token), "{}", given.text());
    assert_eq!(flow.sidecar.audit()?[0]["use"]["credentials"], json!(["CLIENT"]));
    assert!(!flow.sidecar.audit_text()?.contains(token));
    let stub = text(&given, "access_token")?;
    assert_eq!(text(&given, "note")?, format!("your token is {stub}"));
    let echoed = flow.call(&stub).await?;
    assert!(
        echoed.text().contains(&stub) && !echoed.text().contains(token),
        "{}",
        echoed.text()
    );
    Ok(())
}

/// THREAT: 36
/// What the agent got dies with the grant that it was asked for under, and there is only so much of it.
#[tokio::test]
async fn minted_tokens_are_bounded_and_end_with_their_grant() -> Result<()> {
    let authority = Authority::new()?;
    let count = std::sync::atomic::AtomicUsize::new(0);
    let answer = Arc::new(move |_seen: &Seen| {
        let number = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        ok(json!({ "access_token": format!("fake-new-token-{number:06}") }).to_string())
    });
    let login = Origin::http1(&authority, &[LOGIN], answer).await?;
    let api = Origin::http1(&authority, &[API], berth_gallery::origin::echo()).await?;
    let (login, api_port) = (login.address.port(), api.address.port());
    let flow = Flow::new(&authority, (login, api_port), &in_body()).await?;
    let grant = |fingerprint: &str| -> Result<Offer> {
        let held = Held {
            holder: Holder::None,
            secret: SecretString::from(CLIENT_SECRET),
            grant: fingerprint.into(),
            until: None,
        };
        Ok(Offer {
            policy: serde_json::from_value(policy(login, api_port, &in_body()))?,
            values: [("CLIENT".to_owned(), held)].into(),
            ..Offer::nothing()
        })
    };
    flow.sidecar.offer(grant("one")?);
    let form = [("grant_type", "client_credentials")];
    let stub = text(&flow.token(&form).await?, "access_token")?;
    flow.sidecar.offer(grant("one")?);
    assert_eq!(flow.call(&stub).await?.status, 200, "it goes on with its grant");
    flow.sidecar.offer(grant("two")?);
    assert_eq!(flow.call(&stub).await?.status, 403, "another grant is another client");
    let mut given = 0;
    while flow.token(&form).await?.status == 200 {
        given += 1;
        assert!(given < 1_000, "there is no bound");
    }
    assert_eq!(given, 128);
    assert!(!api.text().contains(CLIENT_SECRET));
    Ok(())
}

/// A sidecar without a controller asks for a token itself, and keeps what rotates.
#[tokio::test]
async fn a_sidecar_by_a_file_asks_for_tokens_itself() -> Result<()> {
    let authority = Authority::new()?;
    let Some(server) = AuthorizationServer::start(&authority, &[LOGIN, API]).await? else {
        return Ok(());
    };
    let port = server.port;
    let mut client = policy::credential("CLIENT", STUB);
    client["source"] = json!({ "oauth2": {
        "tokenURL": format!("https://{LOGIN}:{port}/token"),
        "clientID": CLIENT,
        "clientSecret": { "file": "secret" },
        "refreshToken": { "file": "refresh" },
        "addresses": ["127.0.0.0/8"],
    } });
    let routes = [policy::route("api", API, port, &json!({ "credential": "CLIENT" }))];
    let policy = policy::of(&[client], &routes).to_string();
    let mut refresh = REFRESH_TOKEN.to_owned();
    for _ in 0..2 {
        let values = [("secret", CLIENT_SECRET), ("refresh", refresh.as_str())];
        let sidecar = Sidecar::start(&authority, &policy, &[LOGIN, API], &values).await?;
        let rotated = std::fs::read_to_string(sidecar.file("refresh"))?;
        assert!(rotated != refresh && !rotated.is_empty());
        refresh = rotated;
        let flow = Flow {
            sidecar,
            login: port,
            api: port,
        };
        assert_eq!(text(&flow.call(STUB).await?, "sent")?, format!("Bearer {STUB}"));
    }
    // A client that is refused has no value, and says so.
    let values = [("secret", "fake-wrong-secret"), ("refresh", "fake-spent-token")];
    let sidecar = Sidecar::start(&authority, &policy, &[LOGIN, API], &values).await?;
    let flow = Flow {
        sidecar,
        login: port,
        api: port,
    };
    let refused = flow.call(STUB).await?;
    assert!(
        refused.status == 403 && refused.text().contains("no value"),
        "{}",
        refused.text()
    );
    Ok(())
}
