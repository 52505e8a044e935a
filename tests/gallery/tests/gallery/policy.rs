//! What ends, and what is written down.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use berth_gallery::agent;
use berth_gallery::origin::{Authority, Origin, echo};
use berth_gallery::policy::{self, HOST, SECRET, STUB};
use berth_gallery::scene::Scene;
use berth_sidecar::clock::Boottime;
use berth_sidecar::vault::{Holder, Offer, Value};
use bytes::Bytes;
use http::Request;
use http::header::AUTHORIZATION;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use secrecy::SecretString;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::UnboundedReceiverStream;

/// How soon a stream ends with its grant (DESIGN §7).
const SOON: Duration = Duration::from_secs(2);
const HOUR: Duration = Duration::from_hours(1);

/// An origin that keeps every stream open: it answers `/events` and `/chat` at once and uploads never.
async fn open_ended() -> Result<Scene> {
    let authority = Authority::new()?;
    let config = authority.server(&[HOST], &["http/1.1"])?;
    let origin = Origin::raw(config, |mut stream, log| async move {
        let Ok(head) = agent::read_request(&mut stream).await else {
            return;
        };
        log.lock().extend_from_slice(b"<begin>");
        let answer: &[u8] = match head.split(' ').nth(1) {
            Some("/chat") => b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
            Some("/events") => b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\na\n\n\r\n",
            _ => b"",
        };
        let _ = stream.write_all(answer).await;
        let mut read = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut read).await {
            log.lock().extend_from_slice(&read[..count]);
        }
        log.lock().extend_from_slice(b"<end>");
    });
    let origin = origin.await?;
    Scene::around(authority, origin, &json!({ "websocket": true })).await
}

const ASK: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// Revoking does, and so does the end of a lease.
#[derive(Clone, Copy, Debug)]
enum End {
    Revoked,
    Lapsed,
    Replaced,
}

impl End {
    /// Makes it happen.
    fn bring(self, scene: &Scene) -> Result<()> {
        let port = scene.origin.address.port();
        let policy = policy::bearer(port, &json!({ "websocket": true }));
        match self {
            Self::Revoked => scene.sidecar.adopt(&json!({}).to_string())?,
            Self::Lapsed => scene.sidecar.offer(offer(&policy, Some(Boottime::now()))?),
            Self::Replaced => {
                std::fs::write(scene.sidecar.file("token"), format!("{SECRET}-new"))?;
                scene.sidecar.adopt(&policy.to_string())?;
            }
        }
        Ok(())
    }
}

fn offer(policy: &serde_json::Value, lease: Option<Boottime>) -> Result<Offer> {
    let value = Value {
        secret: SecretString::from(SECRET),
        holder: Holder::None,
        grant: Arc::from("fake-grant"),
        until: None,
    };
    Ok(Offer {
        policy: serde_json::from_value(policy.clone())?,
        values: HashMap::from([("TOKEN".to_owned(), value)]),
        lease,
        ..Offer::nothing()
    })
}

/// THREAT: 63
#[tokio::test]
async fn open_streams_end_with_their_grant() -> Result<()> {
    for end in [End::Revoked, End::Lapsed, End::Replaced] {
        for (line, more, body) in [
            ("GET /events", "", ""),
            ("GET /chat", ASK, ""),
            ("POST /upload", "Content-Length: 1000000\r\n", "a slow upload"),
            ("GET /silent", "", ""),
        ] {
            let scene = open_ended().await?;
            let mut stream = scene.tunnel().await?;
            stream
                .write_all(format!("{}{body}", scene.head(line, more)).as_bytes())
                .await?;
            match line {
                "GET /events" | "GET /chat" => drop(agent::within(agent::read_head(&mut stream)).await?),
                "POST /upload" => until_origin_has(&scene, body).await?,
                _ => until_origin_has(&scene, "<begin>").await?,
            }
            let began = Instant::now();
            end.bring(&scene)?;
            let ends = async {
                match line {
                    "GET /silent" => agent::read(&mut stream)
                        .await
                        .map(|answer| assert_eq!(answer.status, 502)),
                    _ => agent::rest(&mut stream).await.map(drop),
                }
            };
            timeout(SOON, ends)
                .await
                .with_context(|| format!("{line} goes on, {end:?}"))??;
            until_origin_has(&scene, "<end>")
                .await
                .with_context(|| format!("{line} goes on upstream, {end:?}"))?;
            assert!(began.elapsed() < SOON, "{line}, {end:?}");
        }
    }
    Ok(())
}

async fn until_origin_has(scene: &Scene, text: &str) -> Result<()> {
    agent::within(async {
        while !scene.origin.text().contains(text) {
            tokio::task::yield_now().await;
        }
        Ok(())
    })
    .await
}

/// THREAT: 63
#[tokio::test]
async fn an_http_2_stream_ends_with_its_grant() -> Result<()> {
    let authority = Authority::new()?;
    let origin = Origin::served(&authority, &[HOST], &["h2"], |request: Request<_>| async move {
        match request.uri().path() {
            "/silent" => return std::future::pending().await,
            // Answered once the upload is over, however it ends.
            "/upload" => {
                return request
                    .into_body()
                    .collect()
                    .await
                    .map(|_| unreachable!("it never ends well"))?;
            }
            _ => {}
        }
        let (sender, receiver) = mpsc::unbounded_channel::<Result<Frame<Bytes>, std::convert::Infallible>>();
        sender.send(Ok(Frame::data(Bytes::from_static(b"a\n"))))?;
        tokio::spawn(async move { sender.closed().await });
        let body = StreamBody::new(UnboundedReceiverStream::new(receiver));
        Ok(http::Response::new(body.map_err(|never| match never {}).boxed_unsync()))
    });
    let origin = origin.await?;
    let scene = Scene::around(authority, origin, &json!({})).await?;
    let mut sender = agent::http2(&scene.sidecar, &scene.place).await?;
    let request = |path: &str| {
        let request = Request::get(format!("https://{}{path}", scene.place));
        request
            .header(AUTHORIZATION, format!("Bearer {STUB}"))
            .body(agent::full(""))
    };
    let mut events = agent::within(async { Ok(sender.send_request(request("/events")?).await?) }).await?;
    assert!(events.frame().await.context("it ended")?.is_ok());
    let silent = sender.send_request(request("/silent")?);
    let silent = tokio::spawn(silent);
    let (part, body) = mpsc::unbounded_channel::<Result<Frame<Bytes>>>();
    part.send(Ok(Frame::data(Bytes::from_static(b"a slow upload"))))?;
    let upload = Request::post(format!("https://{}/upload", scene.place));
    let upload = upload.header(AUTHORIZATION, format!("Bearer {STUB}"));
    let upload = upload.body(StreamBody::new(UnboundedReceiverStream::new(body)).boxed_unsync())?;
    let upload = tokio::spawn(sender.send_request(upload));
    agent::within(async {
        while scene.origin.requests().len() < 3 {
            tokio::task::yield_now().await;
        }
        Ok(())
    })
    .await?;
    scene.sidecar.adopt(&json!({}).to_string())?;
    let ended = timeout(SOON, events.frame()).await?;
    assert!(ended.is_none_or(|frame| frame.is_err()));
    for waiting in [silent, upload] {
        let answer = timeout(SOON, waiting).await???;
        assert_eq!(answer.status(), 502);
    }
    drop(part); // was held open: the upload hasn't ended by itself
    Ok(())
}

/// THREAT: 63
#[tokio::test]
async fn a_stream_that_may_drain_goes_on_for_that_long_and_no_request_joins_it() -> Result<()> {
    const DRAIN: Duration = Duration::from_secs(1);
    let scene = open_ended().await?;
    let route = json!({ "name": "binding/api", "websocket": true });
    let policy = policy::bearer(scene.origin.address.port(), &route);
    let draining = |drain| -> Result<Offer> {
        let drains = HashMap::from([("binding/api".to_owned(), drain)]);
        Ok(Offer {
            drains,
            ..offer(&policy, None)?
        })
    };
    let braked = || Offer {
        cut: vec!["binding".to_owned()],
        ..Offer::nothing()
    };
    // It drains; it would, and the brake is pulled; it does, and the brake is pulled then.
    for (drain, then) in [
        (DRAIN, vec![Offer::nothing()]),
        (HOUR, vec![braked()]),
        (HOUR, vec![Offer::nothing(), braked()]),
    ] {
        scene.sidecar.offer(draining(drain)?);
        let mut stream = scene.tunnel().await?;
        stream.write_all(scene.head("GET /events", "").as_bytes()).await?;
        drop(agent::within(agent::read_head(&mut stream)).await?);
        let began = Instant::now();
        for offer in then {
            scene.sidecar.offer(offer);
        }
        assert!(scene.tunnel().await.is_err(), "a new connection is refused at once");
        drop(
            timeout(DRAIN + SOON, agent::rest(&mut stream))
                .await
                .context("it goes on")??,
        );
        let least = if drain == DRAIN { DRAIN } else { Duration::ZERO };
        assert!(began.elapsed() >= least, "{:?}", began.elapsed());
    }
    Ok(())
}

/// THREAT: 63
#[tokio::test]
async fn a_lease_that_is_over_allows_nothing_and_one_that_is_prolonged_does() -> Result<()> {
    let scene = Scene::echo().await?;
    let policy = policy::bearer(scene.origin.address.port(), &json!({}));
    let hour = Duration::from_hours(1);
    for (lease, expected) in [
        (None, 200),
        (Some(Boottime::now()), 403),
        (Some(Boottime::now().after(hour)), 200),
    ] {
        scene.sidecar.offer(offer(&policy, lease)?);
        assert_eq!(scene.get("/").await?.status, expected);
        // Not even without the stub: the route stands on the grant.
        assert_eq!(scene.send(&scene.bare("GET /", "")).await?.status, expected);
    }
    Ok(())
}

/// THREAT: 63
#[tokio::test]
async fn an_offer_that_is_wrong_in_one_place_is_right_in_the_others() -> Result<()> {
    let scene = Scene::echo().await?;
    let port = scene.origin.address.port();
    // A file is taken as a whole or not at all.
    let wrong = policy::of(
        &[policy::credential("TOKEN", STUB)],
        &[
            policy::route("api", HOST, port, &json!({})),
            policy::route("wide", "*.com", 443, &json!({})),
        ],
    );
    assert!(scene.sidecar.adopt(&wrong.to_string()).is_err());
    assert!(scene.sidecar.adopt("routes: [").is_err());
    assert_eq!(scene.get("/").await?.status, 200);
    // A controller's snapshot loses what is wrong in it, and only that.
    scene.sidecar.offer(offer(&wrong, None)?);
    assert_eq!(scene.get("/").await?.status, 200);
    let (answer, _) = agent::connect(scene.sidecar.proxy, "evil.com:443").await?;
    assert_eq!(answer.status, 403);
    // A revocation beside something that is wrong is taken.
    let revoked = policy::of(&[], &[policy::open("wide", "*.com", 443, &json!({}))]);
    scene.sidecar.offer(offer(&revoked, None)?);
    let (answer, _) = agent::connect(scene.sidecar.proxy, &scene.place).await?;
    assert_eq!(answer.status, 403);
    Ok(())
}

/// THREAT: 58
#[tokio::test]
async fn the_trail_is_lines_of_json_without_secrets() -> Result<()> {
    let scene = Scene::echo().await?;
    let long = "a".repeat(4_000);
    for path in [
        "/%1b%5b31mred",
        "/x%0d%0a{\"use\":1}",
        "/%E2%80%AEx",
        "/ok?token=fake-query-value",
        &format!("/{long}"),
    ] {
        scene.get(path).await?;
    }
    let _ = agent::connect(scene.sidecar.proxy, "evil\u{1b}[31m.example.com:443").await;
    let _ = agent::connect(scene.sidecar.proxy, "evil.example.com:443").await;
    let text = scene.sidecar.audit_text()?;
    for hidden in [SECRET, STUB, "fake-query-value", "\u{1b}", "\u{202e}"] {
        assert!(!text.contains(hidden), "{hidden:?}: {text}");
    }
    let rows = scene.sidecar.audit()?;
    let uses: Vec<_> = rows.iter().filter_map(|row| row.get("use")).collect();
    let numbers: Vec<_> = uses.iter().map(|used| used["number"].as_u64()).collect();
    assert_eq!(numbers, (1..=uses.len() as u64).map(Some).collect::<Vec<_>>());
    assert!(uses.iter().any(|used| used["path"] == "/ok"), "{text}");
    assert!(
        uses.iter()
            .all(|used| used["path"].as_str().is_some_and(|path| path.len() <= 4_096))
    );
    Ok(())
}

/// THREAT: 68
/// What an agent may make a sidecar tell of its wishes: five, each once, without a query, a stub or a secret in it. What
/// becomes of them is `controller/src/session/proposal.rs`.
#[tokio::test]
async fn an_unmet_need_is_told_five_times_at_most() -> Result<()> {
    let authority = Authority::new()?;
    let origin = Origin::http1(&authority, &[HOST], echo()).await?;
    let scene = Scene::around(authority, origin, &json!({ "methods": ["GET"], "paths": ["/ok"] })).await?;
    for number in (0..20).chain(0..20) {
        let request = scene.bare(
            &format!("DELETE /elsewhere/{number}?q=fake-query-value"),
            &format!("Authorization: Bearer {STUB}\r\n"),
        );
        assert_eq!(scene.send(&request).await?.status, 403);
    }
    // A stub in the path isn't where a route could take it.
    let request = scene.bare(&format!("GET /in/{STUB}"), "");
    assert_eq!(scene.send(&request).await?.status, 403);
    // A use is in the file before its request leaves, and with it what came before.
    let used = scene.bare("GET /ok", &format!("Authorization: Bearer {STUB}\r\n"));
    assert_eq!(scene.send(&used).await?.status, 200);
    let rows = scene.sidecar.audit()?;
    let unmet: Vec<_> = rows.iter().filter_map(|row| row.get("unmet")).collect();
    let paths: Vec<_> = unmet.iter().filter_map(|unmet| unmet["path"].as_str()).collect();
    assert_eq!(
        paths,
        [
            "/elsewhere/0",
            "/elsewhere/1",
            "/elsewhere/2",
            "/elsewhere/3",
            "/elsewhere/4"
        ]
    );
    assert!(
        unmet
            .iter()
            .all(|unmet| unmet["credential"] == "TOKEN" && unmet["method"] == "DELETE")
    );
    let text = scene.sidecar.audit_text()?;
    for hidden in [SECRET, STUB, "fake-query-value"] {
        assert!(!text.contains(hidden), "{hidden:?}: {text}");
    }
    Ok(())
}

/// THREAT: 60
#[tokio::test]
async fn a_refusal_tells_nothing_about_others() -> Result<()> {
    let scene = Scene::echo().await?;
    let mut said = Vec::new();
    for host in [
        "unknown.example.com",
        "metadata.google.internal",
        "10.0.0.1",
        "xn--pi-7kc.example.com",
    ] {
        let authority = format!("{host}:443");
        let (answer, mut stream) = agent::connect(scene.sidecar.proxy, &authority).await?;
        let length: usize = berth_gallery::origin::header(&answer.head, "content-length")
            .context("no length")?
            .parse()?;
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        let text = format!("{}{}", answer.head, String::from_utf8(body)?);
        let lines = text
            .lines()
            .filter(|line| !line.starts_with("date:") && !line.starts_with("content-length:"));
        said.push(lines.collect::<Vec<_>>().join("\n").replace(&authority, "HOST"));
    }
    said.dedup();
    assert_eq!(said.len(), 1, "{said:#?}");
    // A stub that exists, in a wrong place, and one that doesn't: the first is refused, as stubs are public.
    let unknown = scene
        .send(&scene.bare("GET /", "X-Token: stub_fake_unknown_0123456789abcd\r\n"))
        .await?;
    assert_eq!(unknown.status, 200);
    Ok(())
}

/// THREAT: 59
#[tokio::test]
async fn the_proxys_port_tells_the_agent_nothing_but_that_it_lives() -> Result<()> {
    let scene = Scene::echo().await?;
    for (path, expected) in [
        ("/healthz", 200),
        ("/metrics", 400),
        ("/keys", 400),
        ("/interceptions", 400),
        ("/", 400),
    ] {
        let mut stream = tokio::net::TcpStream::connect(scene.sidecar.proxy).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", scene.sidecar.proxy);
        assert_eq!(
            agent::exchange(&mut stream, request.as_bytes()).await?.status,
            expected,
            "{path}"
        );
    }
    Ok(())
}
