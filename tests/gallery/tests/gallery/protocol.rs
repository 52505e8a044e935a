//! HTTP itself: framing, hop-by-hop headers, methods, versions. Each request that was judged arrives as one request.

use anyhow::Result;
use berth_gallery::agent;
use berth_gallery::frames::{self, CONTINUATION, END_HEADERS, END_STREAM, GOAWAY, HEADERS, RST_STREAM, SETTINGS};
use berth_gallery::origin::{Origin, always, echo, ok};
use berth_gallery::policy::{HOST, SECRET, STUB};
use berth_gallery::scene::Scene;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: api.example.com\r\n\r\n";

/// What follows the head's first lines, and how it may be answered. `SMUGGLED` is another request.
const FRAMINGS: [(&str, &str, &[u16]); 22] = [
    (
        "CL and TE",
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nSMUGGLED",
        &[200],
    ),
    (
        "TE and CL",
        "Transfer-Encoding: chunked\r\nContent-Length: 999\r\n\r\n0\r\n\r\nSMUGGLED",
        &[200],
    ),
    (
        "two lengths",
        "Content-Length: 0\r\nContent-Length: 55\r\n\r\nSMUGGLED",
        &[400],
    ),
    ("a list of lengths", "Content-Length: 0, 55\r\n\r\nSMUGGLED", &[400]),
    ("a signed length", "Content-Length: +5\r\n\r\nSMUGGLED", &[400]),
    ("a hexadecimal length", "Content-Length: 0x5\r\n\r\nSMUGGLED", &[400]),
    ("a negative length", "Content-Length: -1\r\n\r\nSMUGGLED", &[400]),
    (
        "a huge length",
        "Content-Length: 99999999999999999999999\r\n\r\n",
        &[400],
    ),
    (
        "a coding that isn't final",
        "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\nSMUGGLED",
        &[400],
    ),
    (
        "an unknown coding",
        "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\nSMUGGLED",
        &[400],
    ),
    ("identity", "Transfer-Encoding: identity\r\n\r\nSMUGGLED", &[400]),
    (
        "two codings",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\nSMUGGLED",
        &[400],
    ),
    (
        "a vertical tab",
        "Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\nSMUGGLED",
        &[400],
    ),
    (
        "space before the colon",
        "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\nSMUGGLED",
        &[400],
    ),
    (
        "a folded line",
        "X-A: b\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nSMUGGLED",
        &[400],
    ),
    ("a NUL", "X-A: b\0c\r\n\r\n", &[400]),
    ("a bare CR", "X-A: b\rX-B: c\r\n\r\n", &[400]),
    ("a bare LF", "X-A: b\nX-B: c\r\n\r\n", &[200]),
    ("a name with a space", "X A: b\r\n\r\n", &[400]),
    ("an empty name", ": b\r\n\r\n", &[400]),
    (
        "a bad chunk size",
        "Transfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\nSMUGGLED",
        &[200, 400, 502],
    ),
    (
        "a chunk extension",
        "Transfer-Encoding: chunked\r\n\r\n1;a=\"b\r\n\"\r\na\r\n0\r\n\r\n",
        &[200, 400, 502],
    ),
];

/// THREAT: 18
/// THREAT: openshell-352
#[tokio::test]
async fn a_request_arrives_as_one_request() -> Result<()> {
    for (name, rest, statuses) in FRAMINGS {
        let rest = rest.replace("SMUGGLED", SMUGGLED);
        let scene = Scene::new(always(ok("fine").unwrap_or_default()), &json!({ "paths": ["/ok"] })).await?;
        let request = format!(
            "POST /ok HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {STUB}\r\n{rest}",
            scene.place
        );
        let answers = agent::converse(&mut scene.tunnel().await?, request.as_bytes()).await?;
        let first = answers.first().map_or(0, |answer| answer.status);
        assert!(first == 0 || statuses.contains(&first), "{name}: {first}");
        let fine = answers.iter().filter(|answer| answer.status == 200).count();
        let requests = scene.origin.requests();
        assert!(
            fine <= requests.len() && requests.len() <= 1,
            "{name}: {}",
            scene.origin.text()
        );
        for seen in &requests {
            assert_eq!(seen.target(), "/ok", "{name}");
            let framing = [seen.header("content-length"), seen.header("transfer-encoding")];
            assert!(framing.iter().flatten().count() <= 1, "{name}: {}", seen.head);
            assert!(
                !seen.head.replace("\r\n", "").contains(['\r', '\n', '\0']),
                "{name}: {}",
                seen.head
            );
        }
    }
    Ok(())
}

/// THREAT: 18
#[tokio::test]
async fn a_coding_over_http_1_0_is_refused() -> Result<()> {
    let scene = Scene::echo().await?;
    let request = format!(
        "POST /ok HTTP/1.0\r\nHost: {}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{SMUGGLED}",
        scene.place
    );
    let answers = agent::converse(&mut scene.tunnel().await?, request.as_bytes()).await?;
    assert!(answers.iter().all(|answer| answer.status == 400), "{answers:?}");
    assert!(scene.origin.requests().is_empty());
    Ok(())
}

/// THREAT: 66
#[tokio::test]
async fn pipelined_requests_are_judged_one_by_one() -> Result<()> {
    let scene = Scene::new(echo(), &json!({ "paths": ["/ok/*"] })).await?;
    let paths = ["/ok/1", "/secret", "/ok/2", "/ok/3"];
    let requests: String = paths
        .iter()
        .map(|path| scene.head(&format!("GET {path}"), ""))
        .collect();
    let answers = agent::converse(&mut scene.tunnel().await?, requests.as_bytes()).await?;
    let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses, [200, 403, 200, 200]);
    for (answer, path) in [(0, "/ok/1"), (2, "/ok/2"), (3, "/ok/3")] {
        assert!(answers[answer].text().starts_with(&format!("GET {path} ")));
    }
    Ok(())
}

/// THREAT: 20
#[tokio::test]
async fn no_header_takes_another_off() -> Result<()> {
    let scene = Scene::echo().await?;
    let more = "Connection: authorization, x-private, host, close\r\nX-Private: 1\r\nKeep-Alive: 5\r\n\
                Proxy-Authorization: Basic Zm9v\r\nProxy-Connection: keep-alive\r\nTE: gzip\r\nUpgrade: h2c\r\n\
                HTTP2-Settings: AAMAAABkAAQAAP__\r\nTrailer: x-t\r\n";
    let answer = scene.send(&scene.head("GET /", more)).await?;
    assert!([200, 400].contains(&answer.status), "{}", answer.head);
    for seen in scene.origin.requests() {
        // The credential is put in afterwards, or the whole request isn't exchanged; never a request half of it.
        let value = seen.header("authorization");
        assert!(
            value.is_none() || value.as_deref() == Some(&format!("Bearer {SECRET}")),
            "{}",
            seen.head
        );
        for name in [
            "connection",
            "x-private",
            "keep-alive",
            "proxy-authorization",
            "te",
            "upgrade",
            "http2-settings",
        ] {
            assert_eq!(seen.header(name), None, "{}", seen.head);
        }
        assert_eq!(seen.header("host"), Some(scene.place.clone()));
    }
    Ok(())
}

/// THREAT: 21
#[tokio::test]
async fn a_credential_header_comes_once_by_any_spelling() -> Result<()> {
    let scene = Scene::echo().await?;
    for (more, expected) in [
        ("AUTHORIZATION: Bearer other\r\n", 400),
        ("authorization: Bearer other\r\n", 400),
        ("authorization:\r\n", 400),
        ("Authorization : Bearer other\r\n", 400),
        ("Authorization_: Bearer other\r\n", 200),
    ] {
        let answer = scene.send(&scene.head("GET /", more)).await?;
        assert_eq!(answer.status, expected, "{more}");
    }
    let answer = scene
        .send(&scene.bare("GET /", &format!("aUTHORIZATION: Bearer {STUB}\r\n")))
        .await?;
    assert_eq!(answer.status, 200);
    for seen in scene.origin.requests() {
        assert_eq!(
            seen.head.to_lowercase().matches("\r\nauthorization:").count(),
            1,
            "{}",
            seen.head
        );
    }
    Ok(())
}

/// THREAT: 22
#[tokio::test]
async fn nothing_overrides_method_or_path() -> Result<()> {
    let scene = Scene::echo().await?;
    let names = [
        "X-HTTP-Method-Override",
        "X-HTTP-Method",
        "X-Method-Override",
        "X-Original-URL",
        "X-Rewrite-URL",
        "X-Forwarded-Host",
        "X-Forwarded-Prefix",
        "Forwarded",
    ];
    let more: Vec<String> = names.iter().map(|name| format!("{name}: /secret\r\n")).collect();
    let more = more.concat();
    assert_eq!(scene.send(&scene.head("GET /", &more)).await?.status, 200);
    assert!(!scene.origin.text().contains("/secret"), "{}", scene.origin.text());
    Ok(())
}

/// THREAT: 28
/// THREAT: 38
#[tokio::test]
async fn methods_that_reflect_or_tunnel_are_refused() -> Result<()> {
    let scene = Scene::echo().await?;
    for line in [
        "TRACE /",
        "TRACK /",
        "DEBUG /",
        "trace /",
        "CONNECT api.example.com:443",
        "PRI *",
    ] {
        let answer = scene.send(&scene.head(line, "")).await?;
        assert!([400, 403, 421].contains(&answer.status), "{line}: {}", answer.status);
    }
    assert!(scene.origin.requests().is_empty());
    Ok(())
}

/// THREAT: 38
#[tokio::test]
async fn other_upgrades_than_websocket_are_refused() -> Result<()> {
    let scene = Scene::new(echo(), &json!({ "websocket": true })).await?;
    for protocol in ["TLS/1.0", "IRC/6.9", "h2", "connect-udp"] {
        let more = format!("Connection: upgrade\r\nUpgrade: {protocol}\r\n");
        assert_eq!(scene.send(&scene.head("GET /", &more)).await?.status, 400, "{protocol}");
    }
    // curl offers this and goes on without.
    let more = "Connection: upgrade, http2-settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n";
    assert_eq!(scene.send(&scene.head("GET /", more)).await?.status, 200);
    assert!(!scene.origin.text().to_lowercase().contains("upgrade"));
    // The preface of HTTP/2 on a plain port.
    let mut stream = tokio::net::TcpStream::connect(scene.sidecar.proxy).await?;
    stream.write_all(&frames::preface()).await?;
    let rest = agent::rest(&mut stream).await?;
    assert!(
        rest.is_empty() || rest.starts_with(b"HTTP/1.1 400"),
        "{}",
        String::from_utf8_lossy(&rest)
    );
    Ok(())
}

/// An HTTP/2 tunnel by hand, its preface sent.
async fn by_hand(scene: &Scene) -> Result<agent::Tls> {
    let mut stream = agent::tunnel(&scene.sidecar, &scene.place, HOST, &["h2"]).await?;
    stream.write_all(&frames::preface()).await?;
    Ok(stream)
}

/// Sends one request of these fields over HTTP/2, and waits until it is answered or refused.
async fn over_http2(scene: &Scene, pairs: &[(&str, &str)], body: &[u8]) -> Result<()> {
    let mut stream = by_hand(scene).await?;
    let end = if body.is_empty() { END_STREAM } else { 0 };
    let mut bytes = frames::frame(HEADERS, END_HEADERS | end, 1, &frames::fields(pairs));
    if !body.is_empty() {
        bytes.extend(frames::frame(frames::DATA, END_STREAM, 1, body));
    }
    stream.write_all(&bytes).await?;
    let mut read = Vec::new();
    let over = |read: &[u8]| {
        frames::kinds(read)
            .iter()
            .any(|kind| [HEADERS, RST_STREAM, GOAWAY].contains(kind))
    };
    agent::within(async {
        while !over(&read) && stream.read_buf(&mut read).await.is_ok_and(|count| count > 0) {}
        Ok(())
    })
    .await
}

/// Fields of requests that mean two things, or something that isn't built.
fn splitting(place: &str) -> Vec<Vec<(&str, &str)>> {
    let with = |name, value| {
        vec![
            (":method", "GET"),
            (":scheme", "https"),
            (":authority", place),
            (":path", "/"),
            (name, value),
        ]
    };
    let path = |path| {
        vec![
            (":method", "GET"),
            (":scheme", "https"),
            (":authority", place),
            (":path", path),
        ]
    };
    vec![
        with("x-a", "b\r\nx-injected: 1"),
        with("x-a", "b\nc"),
        with("x-a", "b\0c"),
        with("x-a: b\r\nx-injected", "1"),
        with("transfer-encoding", "chunked"),
        with("connection", "close"),
        with("Upper", "1"),
        with("host", "evil.example.com"),
        with("content-length", "5"),
        path("/ HTTP/1.1\r\nHost: x\r\n\r\nGET /smuggled"),
        path("/a b"),
        path("https://evil.example.com/"),
        vec![(":method", "CONNECT"), (":authority", place)],
        vec![
            (":method", "CONNECT"),
            (":protocol", "websocket"),
            (":scheme", "https"),
            (":authority", place),
            (":path", "/"),
        ],
        vec![
            (":method", "GET"),
            (":scheme", "https"),
            (":authority", "evil.example.com"),
            (":path", "/"),
        ],
        vec![
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", place),
            (":path", "/"),
        ],
        vec![
            (":method", "GET\r\n"),
            (":scheme", "https"),
            (":authority", place),
            (":path", "/"),
        ],
    ]
}

/// THREAT: 19
/// THREAT: 38
#[tokio::test]
async fn fields_that_would_split_a_request_never_leave() -> Result<()> {
    let authority = berth_gallery::origin::Authority::new()?;
    let origin = Origin::served(&authority, &[HOST], &["h2"], |_request| async {
        Ok(http::Response::new(agent::full("fine")))
    });
    let origin = origin.await?;
    let scene = Scene::around(authority, origin, &json!({})).await?;
    let place = scene.place.clone();
    for pairs in splitting(&place) {
        over_http2(&scene, &pairs, b"").await?;
        assert!(
            scene.origin.requests().is_empty(),
            "{pairs:?}: {:?}",
            scene.origin.requests()
        );
    }
    let path = |path| {
        vec![
            (":method", "GET"),
            (":scheme", "https"),
            (":authority", &*place),
            (":path", path),
        ]
    };
    let good = path("/good");
    over_http2(&scene, &good, b"").await?;
    assert_eq!(scene.origin.requests().len(), 1);
    // More body than it says.
    let mut long = path("/long");
    long.extend([("content-length", "1")]);
    over_http2(&scene, &long, SMUGGLED.as_bytes()).await?;
    assert!(
        !scene
            .origin
            .requests()
            .iter()
            .any(|seen| seen.head.contains("smuggled"))
    );
    Ok(())
}

/// THREAT: 19
#[tokio::test]
async fn http_2_is_never_translated() -> Result<()> {
    let scene = Scene::echo().await?;
    let mut sender = agent::http2(&scene.sidecar, &scene.place).await?;
    let request = http::Request::get(format!("https://{}/", scene.place)).body(agent::full(""))?;
    let answer = sender.send_request(request).await?;
    assert_eq!(answer.status(), 502);
    assert!(scene.origin.requests().is_empty());
    Ok(())
}

/// THREAT: 39
#[tokio::test]
async fn floods_of_frames_end_the_connection() -> Result<()> {
    let scene = Scene::echo().await?;
    let place = scene.place.clone();
    let get = frames::fields(&[
        (":method", "GET"),
        (":scheme", "https"),
        (":authority", &place),
        (":path", "/"),
    ]);
    let resets = |count: u32| {
        (0..count).flat_map(|index| {
            let stream = 2 * index + 1;
            let mut bytes = frames::frame(HEADERS, END_HEADERS | END_STREAM, stream, &get);
            bytes.extend(frames::frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]));
            bytes
        })
    };
    let endless =
        (0..4_000).flat_map(|_| frames::frame(CONTINUATION, 0, 1, &frames::fields(&[("x-a", &"a".repeat(1_000))])));
    let large: Vec<(String, String)> = (0..100)
        .map(|index| (format!("x-{index}"), "a".repeat(1_000)))
        .collect();
    let mut large: Vec<(&str, &str)> = large.iter().map(|(name, value)| (&**name, &**value)).collect();
    large.splice(
        0..0,
        [
            (":method", "GET"),
            (":scheme", "https"),
            (":authority", &*place),
            (":path", "/"),
        ],
    );
    let large: Vec<u8> = frames::fields(&large);
    let mut pieces = large.chunks(16_000);
    let mut one_large = frames::frame(HEADERS, END_STREAM, 1, pieces.next().unwrap_or_default());
    let pieces: Vec<&[u8]> = pieces.collect();
    for (index, piece) in pieces.iter().enumerate() {
        let flags = if index + 1 == pieces.len() { END_HEADERS } else { 0 };
        one_large.extend(frames::frame(CONTINUATION, flags, 1, piece));
    }
    let settings = (0..20_000).flat_map(|_| frames::frame(SETTINGS, 0, 0, &[]));
    let floods: [(&str, Vec<u8>, bool); 4] = [
        ("rapid reset", resets(5_000).collect(), true),
        (
            "CONTINUATION",
            frames::frame(HEADERS, END_STREAM, 1, &get)
                .into_iter()
                .chain(endless)
                .collect(),
            true,
        ),
        ("a large head", one_large, false),
        ("SETTINGS", settings.collect(), false),
    ];
    for (name, bytes, goes_away) in floods {
        let mut stream = by_hand(&scene).await?;
        let (mut reader, mut writer) = tokio::io::split(&mut stream);
        let (rest, ()) = tokio::join!(agent::rest(&mut reader), async {
            let _ = writer.write_all(&bytes).await; // it is closed meanwhile
            let _ = writer.shutdown().await;
        });
        let kinds = frames::kinds(&rest?);
        assert!(!goes_away || kinds.contains(&GOAWAY), "{name}: {kinds:?}");
        // The next tunnel works.
        assert_eq!(scene.get("/").await?.status, 200, "{name}");
    }
    assert!(scene.origin.requests().iter().all(|seen| seen.target() == "/"));
    Ok(())
}
