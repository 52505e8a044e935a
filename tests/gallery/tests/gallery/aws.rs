//! AWS signatures (row 67): the agent signs with stubs, the origin sees what the real key has signed, and only for what
//! is granted. Both ends are computed by AWS's own crate.

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use berth_gallery::agent;
use berth_gallery::aws::{Key, Request, Signing, verify};
use berth_gallery::origin::{Authority, Origin, echo};
use berth_gallery::policy::{self, HOST};
use berth_gallery::scene::Scene;
use berth_gallery::sidecar::Sidecar;
use berth_protocol::environment;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(crate) const REGION: &str = "eu-west-1";
pub(crate) const STUB: &str = "stub_fake_access_key_0123456789";
pub(crate) const SECRET_STUB: &str = "stub_fake_secret_key_9876543210";
const OTHER_STUB: &str = "stub_fake_other_key_01234567890";
const OTHER_SECRET_STUB: &str = "stub_fake_other_secret_98765432";

const AGENT: Key<'static> = Key {
    id: STUB,
    secret: SECRET_STUB,
    token: None,
};
pub(crate) const REAL: Key<'static> = Key {
    id: "FAKEREALACCESSKEY000",
    secret: "fake-real-secret-access-key-0123456789ab",
    token: None,
};
pub(crate) const TOKEN: &str = "fake-real-session-token-0123456789";
const VALUES: [(&str, &str); 3] = [("id", REAL.id), ("secret", REAL.secret), ("session", TOKEN)];

fn credential(name: &str, (stub, secret): (&str, &str), temporary: bool) -> Value {
    let mut source = json!({ "accessKey": { "file": "id" }, "secretKey": { "file": "secret" } });
    if temporary {
        source["sessionToken"] = json!({ "file": "session" });
    }
    json!({ "name": name, "stub": stub, "secretStub": secret, "source": { "aws": source } })
}

fn route(name: &str, host: &str, port: u16, inject: &Value) -> Value {
    let inject = json!({ "credential": "AWS_ACCESS_KEY_ID", "inject": { "awsSigV4": inject } });
    policy::route(name, host, port, &inject)
}

/// Two keys, and a route that signs with the first.
fn policy_of(port: u16, inject: &Value, temporary: bool) -> Value {
    let keys = [
        credential("AWS_ACCESS_KEY_ID", (STUB, SECRET_STUB), temporary),
        credential("OTHER", (OTHER_STUB, OTHER_SECRET_STUB), false),
    ];
    let other = json!({ "credential": "OTHER", "inject": { "awsSigV4": { "region": REGION, "services": ["s3"] } } });
    let other = policy::route("other", "other.example.com", port, &other);
    policy::of(&keys, &[route("aws", HOST, port, inject), other])
}

async fn scene(inject: &Value, temporary: bool) -> Result<Scene> {
    let authority = Authority::new()?;
    let origin = Origin::http1(&authority, &[HOST], echo()).await?;
    around(authority, origin, inject, temporary).await
}

pub(crate) async fn around(authority: Authority, origin: Origin, inject: &Value, temporary: bool) -> Result<Scene> {
    let policy = policy_of(origin.address.port(), inject, temporary);
    let sidecar = Sidecar::start(&authority, &policy.to_string(), &[HOST, "other.example.com"], &VALUES).await?;
    let place = format!("{HOST}:{}", origin.address.port());
    Ok(Scene {
        authority,
        origin,
        sidecar,
        place,
    })
}

fn injection() -> Value {
    json!({ "region": REGION, "services": ["s3", "dynamodb", "lambda"], "presigned": true })
}

fn request<'a>(scene: &'a Scene, method: &'a str, target: &'a str) -> Request<'a> {
    Request {
        method,
        place: &scene.place,
        target,
        headers: Vec::new(),
        body: b"",
    }
}

/// Of the empty body.
const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
/// Of `body`.
const HASH: &str = "230d8358dc8e8890b4c58deeb62912ee2f20357ae92a5cc861b98e68fe31acb5";

/// Everything that an agent may sign, one of each kind: the service, and the request.
fn kinds(scene: &Scene) -> Vec<(&'static str, Request<'_>)> {
    let with = |method, target, headers: &[(&'static str, &'static str)], body: &'static str| Request {
        headers: headers.to_vec(),
        body: body.as_bytes(),
        ..request(scene, method, target)
    };
    let sha = "x-amz-content-sha256";
    let form = [
        ("content-type", "application/x-amz-json-1.0"),
        ("x-amz-target", "DynamoDB_20120810.ListTables"),
    ];
    let streamed = [
        (sha, "STREAMING-UNSIGNED-PAYLOAD-TRAILER"),
        ("content-encoding", "aws-chunked"),
        ("x-amz-decoded-content-length", "4"),
        ("x-amz-trailer", "x-amz-checksum-crc32"),
    ];
    let chunks = "4\r\nbody\r\n0\r\nx-amz-checksum-crc32:qeM0Pg==\r\n\r\n";
    let arn = "/2015-03-31/functions/arn%3Aaws%3Alambda%3Afake/invocations";
    vec![
        (
            "s3",
            with(
                "GET",
                "/bucket/a%20key%24?list-type=2&prefix=a%2Fb&delimiter=",
                &[(sha, EMPTY)],
                "",
            ),
        ),
        (
            "s3",
            with("GET", "/bucket//a/%28x%29/b", &[(sha, "UNSIGNED-PAYLOAD")], ""),
        ),
        (
            "s3",
            with("PUT", "/bucket/key", &[(sha, HASH), ("x-amz-acl", "private")], "body"),
        ),
        (
            "s3",
            with(
                "PUT",
                "/bucket/key",
                &[(sha, "UNSIGNED-PAYLOAD"), ("content-md5", "hBotaJrOa9FhFEdNPCLG/A==")],
                "body",
            ),
        ),
        ("s3", with("PUT", "/bucket/key", &streamed, chunks)),
        ("dynamodb", with("POST", "/", &form, "{}")),
        (
            "lambda",
            with("POST", arn, &[("accept-encoding", "gzip")], "{\"a\": 1}"),
        ),
    ]
}

/// THREAT: 67
#[tokio::test]
async fn the_origin_sees_a_signature_by_the_real_key_and_the_agent_never_the_key() -> Result<()> {
    for (agents, temporary) in [(None, false), (Some(STUB), false), (None, true), (Some(STUB), true)] {
        let scene = scene(&injection(), temporary).await?;
        let agent = Key { token: agents, ..AGENT };
        let real = Key {
            token: temporary.then_some(TOKEN),
            ..REAL
        };
        for (number, (service, request)) in kinds(&scene).into_iter().enumerate() {
            let response = scene
                .send(&request.signed(&agent, &Signing::now(REGION, service))?)
                .await?;
            ensure!(
                response.status == 200,
                "{request:?}: {} {}",
                response.head,
                response.text()
            );
            let seen = scene.origin.requests().pop().context("nothing arrived")?;
            assert_eq!(scene.origin.requests().len(), number + 1);
            verify(&seen, &real, REGION, service).with_context(|| format!("{request:?}"))?;
            let sent = format!("{}{}", seen.head, String::from_utf8_lossy(&seen.body));
            assert!(!sent.contains("stub_"), "{sent}");
            let came = format!("{}{}", response.head, response.text());
            assert!(
                !came.contains(REAL.id) && !came.contains(REAL.secret) && !came.contains(TOKEN),
                "{came}"
            );
        }
        let audit = scene.sidecar.audit_text()?;
        assert_eq!(audit.matches("\"use\"").count(), kinds(&scene).len(), "{audit}");
        assert!(!audit.contains(REAL.id) && !audit.contains(REAL.secret));
    }
    Ok(())
}

/// THREAT: 67
#[tokio::test]
async fn a_presigned_url_is_the_real_keys_for_a_minute_where_a_route_takes_it() -> Result<()> {
    let scene = scene(&injection(), true).await?;
    let agent = Key {
        token: Some(STUB),
        ..AGENT
    };
    let real = Key {
        token: Some(TOKEN),
        ..REAL
    };
    let signing = Signing {
        presigned: Some(Duration::from_hours(1)),
        ..Signing::now(REGION, "s3")
    };
    let text = request(&scene, "GET", "/bucket/key?x-id=GetObject").signed(&agent, &signing)?;
    let response = scene.send(&text).await?;
    assert_eq!(response.status, 200, "{}", response.text());
    let seen = scene.origin.requests().pop().context("nothing arrived")?;
    verify(&seen, &real, REGION, "s3")?;
    assert!(
        seen.target().contains("X-Amz-Expires=60&") && !seen.target().contains("stub_"),
        "{}",
        seen.target()
    );
    let changed = text.replace("/bucket/key", "/bucket/others");
    let old = Signing {
        at: signing.at - Duration::from_hours(2),
        ..signing.clone()
    };
    let old = request(&scene, "GET", "/bucket/key").signed(&agent, &old)?;
    for text in [changed, old] {
        refused(&scene, &text, "signature").await?;
    }
    assert_eq!(scene.origin.requests().len(), 1);
    Ok(())
}

/// Nothing of it arrives, and the answer says why.
async fn refused(scene: &Scene, text: &str, reason: &str) -> Result<()> {
    let before = scene.origin.requests().len();
    let response = scene.send(text).await?;
    ensure!(response.status == 403, "{reason}: {}", response.head);
    ensure!(response.text().contains(reason), "{reason}: {}", response.text());
    ensure!(scene.origin.requests().len() == before, "{reason}: it arrived");
    Ok(())
}

/// What was signed, changed afterwards; and what is said of each.
fn changes(good: &str) -> Vec<(String, &'static str)> {
    vec![
        (
            good.replace("x-amz-acl: private", "x-amz-acl: public-read"),
            "doesn't fit",
        ),
        (good.replace("/bucket/key", "/bucket/other"), "doesn't fit"),
        (good.replace("/bucket/key", "/bucket/key?acl"), "doesn't fit"),
        (good.replace("PUT /", "DELETE /"), "doesn't fit"),
        (good.replace(EMPTY, HASH), "doesn't fit"),
        (
            good.replace("x-amz-acl:", "x-amz-grant-full-control: everybody\r\nx-amz-acl:"),
            "x-amz- headers",
        ),
        (good.replace("AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256"), "4A"),
        (good.replace("x-amz-acl:", "x-amz-region-set: *\r\nx-amz-acl:"), "4A"),
        (
            good.replace("x-amz-acl:", &format!("x-note: {SECRET_STUB}\r\nx-amz-acl:")),
            "placeholder",
        ),
        (good.replace("x-amz-acl:", "Range: bytes=0-1\r\nx-amz-acl:"), "range"),
    ]
}

/// THREAT: 67
#[tokio::test]
async fn a_signature_is_worth_nothing_for_anything_else() -> Result<()> {
    let scene = scene(&json!({ "region": REGION, "services": ["s3"] }), false).await?;
    let base = Request {
        headers: vec![("x-amz-content-sha256", EMPTY), ("x-amz-acl", "private")],
        ..request(&scene, "PUT", "/bucket/key")
    };
    let here = Signing::now(REGION, "s3");
    let good = base.signed(&AGENT, &here)?;
    let elsewhere = |region, service| base.signed(&AGENT, &Signing::now(region, service));
    let other = Key {
        id: OTHER_STUB,
        secret: OTHER_SECRET_STUB,
        ..AGENT
    };
    let guessed = Key { secret: STUB, ..AGENT };
    let foreign = Key {
        token: Some("a-token-of-somebody-else"),
        ..AGENT
    };
    let at = |at: SystemTime| base.signed(&AGENT, &Signing { at, ..here.clone() });
    let quarter = Duration::from_mins(16);
    let presigned = Signing {
        presigned: Some(Duration::from_mins(1)),
        ..here.clone()
    };
    let chunked = Request {
        headers: vec![("x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD")],
        ..base.clone()
    };
    let table = [
        (elsewhere("us-east-1", "s3")?, "region"),
        (elsewhere(REGION, "iam")?, "service"),
        (base.signed(&other, &here)?, "placeholder"),
        (base.signed(&guessed, &here)?, "doesn't fit"),
        (base.signed(&foreign, &here)?, "session token"),
        (at(here.at - quarter)?, "15 minutes"),
        (at(here.at + quarter)?, "15 minutes"),
        (
            request(&scene, "GET", "/bucket/key").signed(&AGENT, &presigned)?,
            "presigned",
        ),
        (chunked.signed(&AGENT, &here)?, "chunks"),
    ];
    for (text, reason) in table.into_iter().chain(changes(&good)) {
        refused(&scene, &text, reason).await?;
    }
    assert!(!scene.sidecar.audit_text()?.contains("\"use\""), "a refusal is no use");
    let response = scene.send(&good).await?;
    assert_eq!(
        response.status,
        200,
        "what they were made of is good: {}",
        response.text()
    );
    Ok(())
}

/// THREAT: 67
#[tokio::test]
async fn a_signature_for_one_host_is_none_for_another() -> Result<()> {
    let authority = Authority::new()?;
    let hosts = [HOST, "second.example.com"];
    let origin = Origin::http1(&authority, &hosts, echo()).await?;
    let port = origin.address.port();
    let inject = json!({ "region": REGION, "services": ["s3"] });
    let keys = [credential("AWS_ACCESS_KEY_ID", (STUB, SECRET_STUB), false)];
    let policy = policy::of(
        &keys,
        &[route("a", HOST, port, &inject), route("b", hosts[1], port, &inject)],
    );
    let sidecar = Sidecar::start(&authority, &policy.to_string(), &hosts, &VALUES).await?;
    let (one, two) = (format!("{HOST}:{port}"), format!("{}:{port}", hosts[1]));
    let request = Request {
        method: "GET",
        place: &one,
        target: "/key",
        headers: vec![("x-amz-content-sha256", EMPTY)],
        body: b"",
    };
    let text = request.signed(&AGENT, &Signing::now(REGION, "s3"))?;
    assert_eq!(agent::send(&sidecar, &one, &text).await?.status, 200);
    let replayed = agent::send(&sidecar, &two, &text.replace(&one, &two)).await?;
    assert_eq!(replayed.status, 403);
    assert!(replayed.text().contains("doesn't fit"), "{}", replayed.text());
    let misnamed = agent::send(&sidecar, &two, &text).await?;
    assert_eq!(misnamed.status, 421);
    let (unknown, _) = agent::connect(sidecar.proxy, &format!("third.example.com:{port}")).await?;
    assert_eq!(unknown.status, 403);
    assert_eq!(origin.requests().len(), 1);
    Ok(())
}

/// THREAT: 67
#[tokio::test]
async fn a_body_that_nobody_hashed_is_held_within_bounds() -> Result<()> {
    let scene = scene(&injection(), false).await?;
    let body = vec![b'a'; 3 << 20];
    let large = Request {
        body: &body,
        ..request(&scene, "POST", "/")
    };
    let text = large.signed(&AGENT, &Signing::now(REGION, "dynamodb"))?;
    assert_eq!(scene.send(&text).await?.status, 200);
    let altered = text.replacen("\r\n\r\na", "\r\n\r\nb", 1);
    let response = scene.send(&altered).await?;
    assert_eq!(response.status, 403, "{}", response.text());
    let head = text.split_once("\r\n\r\n").context("no head")?.0;
    let endless = head.replace(
        &format!("Content-Length: {}", body.len()),
        &format!("Content-Length: {}", 11 << 20),
    );
    let response = scene.send(&format!("{endless}\r\n\r\n")).await?;
    assert_eq!(response.status, 413, "{}", response.text());
    assert_eq!(scene.origin.requests().len(), 1);
    Ok(())
}

/// Answers of the endpoint that stands in for a container service's.
async fn endpoint(scene: &Scene, host: &str, more: &str) -> Result<(u16, Value)> {
    let mut stream = TcpStream::connect(scene.sidecar.proxy).await?;
    let path = environment::AWS_PATH;
    let request = format!("GET {path}{more}\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    let status = text.split(' ').nth(1).context("no status")?.parse()?;
    let body = text.split_once("\r\n\r\n").context("no body")?.1;
    Ok((status, serde_json::from_str(body)?))
}

/// THREAT: 67
#[tokio::test]
async fn the_container_endpoint_gives_stubs_to_the_session_alone() -> Result<()> {
    let scene = scene(&injection(), true).await?;
    let good = format!("AWS_ACCESS_KEY_ID HTTP/1.1\r\nAuthorization: {STUB}");
    let (status, body) = endpoint(&scene, "127.0.0.1:14322", &good).await?;
    assert_eq!(status, 200);
    assert_eq!(
        (&body["AccessKeyId"], &body["SecretAccessKey"]),
        (&json!(STUB), &json!(SECRET_STUB))
    );
    assert_eq!(body["Token"], STUB);
    for (host, more) in [
        ("127.0.0.1", "AWS_ACCESS_KEY_ID HTTP/1.1".to_owned()),
        (
            "127.0.0.1",
            format!("AWS_ACCESS_KEY_ID HTTP/1.1\r\nAuthorization: {OTHER_STUB}"),
        ),
        ("127.0.0.1", format!("UNKNOWN HTTP/1.1\r\nAuthorization: {STUB}")),
        ("rebound.example.com", good.clone()),
    ] {
        let (status, body) = endpoint(&scene, host, &more).await?;
        assert!(status == 403 || status == 400, "{host} {more}: {status}");
        assert!(!body.to_string().contains("stub_"), "{body}");
    }
    Ok(())
}
