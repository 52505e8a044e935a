//! What a credential is exchanged for, and where.

use std::sync::Arc;

use anyhow::Result;
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use berth_gallery::agent;
use berth_gallery::origin::{Authority, Origin, echo, ok};
use berth_gallery::policy::{self, HOST, SECRET, STUB};
use berth_gallery::scene::Scene;
use berth_gallery::sidecar::Sidecar;
use parking_lot::Mutex;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

const OTHER_STUB: &str = "stub_fake_other_0123456789abcdef";
const OTHER_SECRET: &str = "another-fake-secret-0123456789";

#[tokio::test]
async fn the_stub_is_exchanged_on_the_wire_and_taken_out_of_the_answer() -> Result<()> {
    let scene = Scene::echo().await?;
    let response = scene.get("/user").await?;
    assert_eq!(response.status, 200, "{}", response.head);
    assert!(
        scene
            .origin
            .text()
            .contains(&format!("authorization: Bearer {SECRET}\r\n")),
        "{}",
        scene.origin.text()
    );
    assert!(!scene.origin.text().contains(STUB));
    assert!(
        response.text().contains(&format!("Bearer {STUB}")),
        "{}",
        response.text()
    );
    assert!(!response.text().contains(SECRET));
    let uses = scene.sidecar.audit()?;
    assert_eq!(uses[0]["use"]["path"], "/user");
    Ok(())
}

/// THREAT: 01
/// THREAT: 02
#[tokio::test]
async fn a_stub_is_worth_something_only_where_its_route_is() -> Result<()> {
    let authority = Authority::new()?;
    let hosts = ["a.example.com", "b.example.com", "open.example.com"];
    let mut origins = Vec::new();
    for host in hosts {
        origins.push(Origin::http1(&authority, &[host], echo()).await?);
    }
    let port = |index: usize| origins[index].address.port();
    let policy = policy::of(
        &[
            policy::credential("TOKEN", STUB),
            policy::credential("OTHER", OTHER_STUB),
        ],
        &[
            policy::route("a", hosts[0], port(0), &json!({})),
            policy::route("b", hosts[1], port(1), &json!({ "credential": "OTHER" })),
            policy::open("open", hosts[2], port(2), &json!({})),
        ],
    );
    let values = [("token", SECRET), ("other", OTHER_SECRET)];
    let sidecar = Sidecar::start(&authority, &policy.to_string(), &hosts, &values).await?;
    for (stub, owner) in [(STUB, 0), (OTHER_STUB, 1)] {
        for (index, host) in hosts.into_iter().enumerate() {
            let place = format!("{host}:{}", port(index));
            let before = origins[index].requests().len();
            let request = format!("GET / HTTP/1.1\r\nHost: {place}\r\nAuthorization: Bearer {stub}\r\n\r\n");
            let answer = agent::send(&sidecar, &place, &request).await?;
            let expected = if index == owner { (200, 1) } else { (403, 0) };
            let found = (answer.status, origins[index].requests().len() - before);
            assert_eq!(found, expected, "{stub} to {host}");
        }
    }
    let all: String = origins.iter().map(Origin::text).collect();
    assert!(!all.contains(STUB) && !all.contains(OTHER_STUB));
    assert!(!origins[1].text().contains(SECRET) && !origins[0].text().contains(OTHER_SECRET));
    Ok(())
}

/// THREAT: 01
/// Where no credential is known the stub is refused all the same, over plain HTTP too.
#[tokio::test]
async fn a_stub_in_plain_http_is_refused() -> Result<()> {
    let authority = Authority::new()?;
    let origin = Origin::plain(echo()).await?;
    let tls = Origin::http1(&authority, &[HOST], echo()).await?;
    let port = origin.address.port();
    let policy = policy::of(
        &[policy::credential("TOKEN", STUB)],
        &[
            policy::route("api", HOST, tls.address.port(), &json!({})),
            policy::open("plain", HOST, port, &json!({ "tls": "Plain" })),
        ],
    );
    let scene = Scene::with(authority, tls, &policy).await?;
    for (header, expected) in [("X-Nothing: 1", 200), (&*format!("Authorization: Bearer {STUB}"), 403)] {
        let mut stream = tokio::net::TcpStream::connect(scene.sidecar.proxy).await?;
        let request = format!("GET http://{HOST}:{port}/ HTTP/1.1\r\nHost: {HOST}:{port}\r\n{header}\r\n\r\n");
        assert_eq!(
            agent::exchange(&mut stream, request.as_bytes()).await?.status,
            expected,
            "{header}"
        );
    }
    assert_eq!(origin.requests().len(), 1);
    Ok(())
}

/// THREAT: 23
#[tokio::test]
async fn a_value_that_would_break_the_request_is_never_taken() -> Result<()> {
    let authority = Authority::new()?;
    for (value, said) in [
        ("fake-secret\r\nX-Injected: 1", "control character"),
        ("fake-secret-0123\x00456789", "control character"),
        ("fake-secret-0123\n\n", "control character"),
        ("short", "shorter"),
        ("", "empty"),
        (STUB, "stub"),
    ] {
        let policy = policy::bearer(443, &json!({}));
        let started = Sidecar::start(&authority, &policy.to_string(), &[HOST], &[("token", value)]).await;
        let error = format!("{:#}", started.err().expect(value));
        assert!(error.contains(said), "{value:?}: {error}");
        assert!(value.len() < 6 || value == STUB || !error.contains(value), "{error}");
    }
    Ok(())
}

/// THREAT: 25
#[tokio::test]
async fn a_query_is_no_surface_of_a_header_credential() -> Result<()> {
    let scene = Scene::new(echo(), &json!({ "paths": ["/ok"] })).await?;
    for (line, expected) in [
        (format!("GET /ok?access_token={STUB}"), 403),
        (format!("GET /ok?a=1&access_token={STUB}&b=2"), 403),
        (format!("GET /ok?{STUB}=1"), 403),
        ("GET /other?path=/ok".to_owned(), 403),
        ("GET /ok?path=/other".to_owned(), 200),
    ] {
        assert_eq!(scene.send(&scene.bare(&line, "")).await?.status, expected, "{line}");
    }
    assert_eq!(scene.origin.requests().len(), 1);
    Ok(())
}

/// THREAT: 25
#[tokio::test]
async fn a_query_credential_stands_in_its_parameter_once() -> Result<()> {
    let query = json!({ "inject": { "query": { "name": "key" } } });
    let scene = Scene::new(echo(), &query).await?;
    for (line, expected) in [
        (format!("GET /?a=b&key={STUB}&c=%64"), 200),
        (format!("GET /?key={STUB}&key=x"), 400),
        (format!("GET /?key=x&key={STUB}"), 400),
        (format!("GET /?%6bey=x&key={STUB}"), 400),
        (format!("GET /?key=x{STUB}"), 403),
        (format!("GET /?other={STUB}"), 403),
    ] {
        let answer = scene.send(&scene.bare(&line, "")).await?;
        assert_eq!(answer.status, expected, "{line}");
        assert!(!answer.text().contains(SECRET));
    }
    let targets: Vec<String> = scene
        .origin
        .requests()
        .iter()
        .map(|seen| seen.target().to_owned())
        .collect();
    assert_eq!(targets, [format!("/?a=b&key={SECRET}&c=%64")]);
    Ok(())
}

/// THREAT: 27
#[tokio::test]
async fn other_spellings_of_a_stub_are_never_exchanged() -> Result<()> {
    let scene = Scene::echo().await?;
    let percent = utf8_percent_encode(STUB, NON_ALPHANUMERIC).to_string();
    let all: Vec<String> = STUB.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let all = all.concat();
    let twice = all.replace('%', "%25");
    let basic = BASE64_STANDARD.encode(format!("x:{STUB}"));
    let refused = [
        format!("Authorization: Bearer {STUB}x"),
        format!("Authorization: bearer {STUB}"),
        format!("Authorization: Bearer  {STUB}"),
        format!("Authorization: Bearer {}", STUB.to_uppercase()),
        format!("Authorization: Bearer {percent}"),
        format!("Authorization: Bearer {all}"),
        format!("Authorization: Bearer {twice}"),
        format!("Authorization: Basic {basic}"),
        format!(
            "Authorization: Basic {}",
            BASE64_URL_SAFE_NO_PAD.encode(format!("{STUB}:"))
        ),
        format!("X-Token: {STUB}"),
        format!("Cookie: a={STUB}"),
        format!("X-{STUB}: 1"),
    ];
    for header in refused {
        let answer = scene.send(&scene.bare("GET /", &format!("{header}\r\n"))).await?;
        assert_eq!(answer.status, 403, "{header}");
    }
    for line in [
        format!("GET /{STUB}"),
        format!("GET /{all}"),
        format!("GET /?x={twice}"),
    ] {
        assert_eq!(scene.send(&scene.bare(&line, "")).await?.status, 403, "{line}");
    }
    assert_eq!(scene.origin.requests().len(), 0);
    // What is looked for nowhere is exchanged nowhere: it leaves as it is, worthless.
    let hex: Vec<String> = STUB.bytes().map(|byte| format!("{byte:02x}")).collect();
    let hex = hex.concat();
    assert_eq!(
        scene
            .send(&scene.bare("GET /", &format!("X-Token: {hex}\r\n")))
            .await?
            .status,
        200
    );
    assert!(scene.origin.text().contains(&hex) && !scene.origin.text().contains(SECRET));
    Ok(())
}

/// THREAT: 33
#[tokio::test]
async fn what_one_request_stores_another_cannot_read() -> Result<()> {
    let stored = Arc::new(Mutex::new(String::new()));
    let answer = {
        let stored = Arc::clone(&stored);
        Arc::new(move |seen: &berth_gallery::origin::Seen| {
            if seen.head.starts_with("POST") {
                stored.lock().clone_from(&seen.head);
                return ok("stored");
            }
            ok(&*stored.lock())
        })
    };
    let scene = Scene::new(answer, &json!({})).await?;
    // A body isn't a surface: it passes as it is, a stub in it too.
    let gist = format!("{{\"content\":\"{STUB}\"}}");
    let more = format!("X-Amz-Meta-Note: hello\r\nContent-Length: {}\r\n", gist.len());
    let request = format!("{}{gist}", scene.head("POST /gists", &more));
    assert_eq!(scene.send(&request).await?.status, 200);
    assert_eq!(scene.origin.requests()[0].body, gist.as_bytes());
    // Without any credential in the request: the values of the whole host are looked for.
    let answer = scene.send(&scene.bare("GET /gists/1", "")).await?;
    assert!(stored.lock().contains(SECRET));
    assert!(
        answer.text().contains("x-amz-meta-note: hello") && !answer.text().contains(SECRET),
        "{}",
        answer.text()
    );
    Ok(())
}

/// THREAT: 33
/// A strict leak: what an upstream publishes on a host without the credential isn't looked for there.
#[tokio::test]
async fn what_an_upstream_publishes_elsewhere_is_read_there() -> Result<()> {
    let authority = Authority::new()?;
    let origin = Origin::http1(&authority, &[HOST], echo()).await?;
    let raw = Origin::http1(&authority, &["raw.example.com"], Arc::new(|_seen| ok(SECRET))).await?;
    let policy = policy::of(
        &[policy::credential("TOKEN", STUB)],
        &[
            policy::route("api", HOST, origin.address.port(), &json!({})),
            policy::open("raw", "raw.example.com", raw.address.port(), &json!({})),
        ],
    );
    let hosts = [HOST, "raw.example.com"];
    let sidecar = Sidecar::start(&authority, &policy.to_string(), &hosts, &[("token", SECRET)]).await?;
    let place = format!("raw.example.com:{}", raw.address.port());
    let answer = agent::send(&sidecar, &place, &format!("GET / HTTP/1.1\r\nHost: {place}\r\n\r\n")).await?;
    assert_eq!(answer.text(), SECRET);
    Ok(())
}

/// THREAT: 57
#[tokio::test]
async fn what_cannot_be_seen_carries_no_credential() -> Result<()> {
    let authority = Authority::new()?;
    for tls in ["Passthrough", "Plain"] {
        let policy = policy::bearer(443, &json!({ "tls": tls }));
        let started = Sidecar::start(&authority, &policy.to_string(), &[HOST], &[("token", SECRET)]).await;
        let error = format!("{:#}", started.err().expect(tls));
        assert!(error.contains("credential"), "{error}");
    }
    Ok(())
}

/// THREAT: 57
#[tokio::test]
async fn a_pinned_client_reaches_its_server_through_a_passed_tunnel() -> Result<()> {
    let authority = Authority::new()?;
    let origin = Origin::http1(&authority, &[HOST], echo()).await?;
    let route = policy::open(
        "pinned",
        HOST,
        origin.address.port(),
        &json!({ "tls": "Passthrough", "methods": null, "paths": null }),
    );
    let policy = policy::of(&[], &[route]);
    let scene = Scene::with(authority, origin, &policy).await?;
    // The authority that it trusts is the origin's, not the session's.
    let pinned = scene.sidecar.handoff().join("pinned.crt");
    std::fs::write(&pinned, &scene.authority.pem)?;
    for (name, expected) in [(HOST, true), ("evil.example.com", false)] {
        let (_, stream) = agent::connect(scene.sidecar.proxy, &scene.place).await?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(agent::tls(&pinned, &["http/1.1"])?));
        let stream = connector.connect(name.try_into()?, stream).await;
        assert_eq!(stream.is_ok(), expected, "{name}");
        if let Ok(mut stream) = stream {
            assert_eq!(
                agent::exchange(&mut stream, scene.bare("GET /", "").as_bytes())
                    .await?
                    .status,
                200
            );
        }
    }
    Ok(())
}

/// The other surfaces, as the upstream sees them.
#[tokio::test]
async fn every_surface_is_exchanged_where_it_stands() -> Result<()> {
    let basic = |secret: &str| format!("Basic {}", BASE64_STANDARD.encode(format!("git:{secret}")));
    let json_body = json!({ "inject": { "body": { "name": "/a/key" } } });
    let table: [(Value, String, String, String); 4] = [
        (
            json!({ "inject": { "basic": {} } }),
            format!("Authorization: {}\r\n\r\n", basic(STUB)),
            format!("authorization: {}\r\n", basic(SECRET)),
            basic(SECRET),
        ),
        (
            json!({ "inject": { "header": { "name": "x-api-key" } } }),
            format!("X-Api-Key: {STUB}\r\n\r\n"),
            format!("x-api-key: {SECRET}\r\n"),
            SECRET.to_owned(),
        ),
        (
            json_body,
            format!(
                "Content-Type: application/json\r\nContent-Length: 54\r\n\r\n{{\"a\":{{\"key\":\"{STUB}\"}},\"b\":1}}"
            ),
            format!("{{\"a\":{{\"key\":\"{SECRET}\"}},\"b\":1}}"),
            SECRET.to_owned(),
        ),
        (
            json!({ "inject": { "body": { "name": "key" } } }),
            format!("Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 40\r\n\r\na=b&key={STUB}"),
            format!("a=b&key={SECRET}"),
            SECRET.to_owned(),
        ),
    ];
    for (change, rest, expected, secret) in table {
        let scene = Scene::new(echo(), &change).await?;
        let place = &scene.place;
        let answer = scene
            .send(&format!("POST / HTTP/1.1\r\nHost: {place}\r\n{rest}"))
            .await?;
        assert_eq!(answer.status, 200, "{change}: {}", answer.text());
        assert!(
            scene.origin.text().contains(&expected),
            "{change}: {}",
            scene.origin.text()
        );
        assert!(!answer.text().contains(&secret), "{change}: {}", answer.text());
    }
    Ok(())
}
