//! What comes back: copies of a secret in every form that an upstream may write it, and answers that hide it.

use std::io::Write as _;
use std::sync::Arc;

use anyhow::Result;
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use berth_egress::policy::Policy;
use berth_gallery::agent;
use berth_gallery::origin::{Answer, Authority, Origin, Seen, always, echo, ok};
use berth_gallery::policy::{self, HOST, SECRET, STUB};
use berth_gallery::scene::Scene;
use berth_gallery::sidecar::Sidecar;
use compression_codecs::core::Level;
use compression_codecs::core::util::{PartialBuffer, WriteBuffer};
use compression_codecs::zstd::params::CParameter;
use compression_codecs::{EncodeV2, GzipEncoder, ZlibEncoder, ZstdEncoder};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

/// An answer with these header lines and this body, its length said.
fn answer(head: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let head = format!("HTTP/1.1 200 OK\r\n{head}Content-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn encode(coding: &str, data: &[u8]) -> Vec<u8> {
    match coding {
        "gzip" => drive(&mut GzipEncoder::new(Level::Default.into()), data),
        "deflate" => drive(&mut ZlibEncoder::new(Level::Default.into()), data),
        "zstd" => drive(&mut ZstdEncoder::new(CParameter::quality(Level::Default)), data),
        "br" => {
            let mut writer = brotli::CompressorWriter::new(Vec::new(), 4096, 5, 22);
            writer.write_all(data).unwrap();
            writer.into_inner()
        }
        other => panic!("{other}"),
    }
}

fn drive(encoder: &mut dyn EncodeV2, data: &[u8]) -> Vec<u8> {
    let mut room = vec![0; data.len() + 4096];
    let mut output = WriteBuffer::new_initialized(&mut room);
    let mut input = PartialBuffer::new(data);
    while !input.unwritten().is_empty() {
        encoder.encode(&mut input, &mut output).unwrap();
    }
    assert!(encoder.finish(&mut output).unwrap());
    output.written().to_vec()
}

/// THREAT: 28
#[tokio::test]
async fn a_secret_comes_back_nowhere_in_an_answer() -> Result<()> {
    let table = [
        (
            "a header",
            format!("HTTP/1.1 200 OK\r\nX-Echo: {SECRET}\r\nContent-Length: 0\r\n\r\n"),
        ),
        (
            "the name of a header",
            format!("HTTP/1.1 200 OK\r\nX-{SECRET}: 1\r\nContent-Length: 0\r\n\r\n"),
        ),
        (
            "the reason",
            format!("HTTP/1.1 200 {SECRET}\r\nContent-Length: 0\r\n\r\n"),
        ),
        (
            "the body of an error",
            format!("HTTP/1.1 401 No\r\nContent-Length: {}\r\n\r\n{SECRET}", SECRET.len()),
        ),
        (
            "a challenge",
            format!("HTTP/1.1 401 No\r\nWWW-Authenticate: Bearer realm=\"{SECRET}\"\r\nContent-Length: 0\r\n\r\n"),
        ),
        (
            "a trailer",
            format!(
                "HTTP/1.1 200 OK\r\nTrailer: x-echo\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-echo: {SECRET}\r\n\r\n"
            ),
        ),
        (
            "an informational answer",
            format!("HTTP/1.1 103 Early Hints\r\nLink: <{SECRET}>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        ),
        (
            "a chunk extension",
            format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x={SECRET}\r\nok\r\n0\r\n\r\n"),
        ),
        ("an answer until the end", format!("HTTP/1.0 200 OK\r\n\r\n{SECRET}")),
        (
            "a cookie",
            "HTTP/1.1 200 OK\r\nSet-Cookie: session=granted-by-nobody\r\nContent-Length: 0\r\n\r\n".to_owned(),
        ),
        (
            "an offer to go round",
            "HTTP/1.1 200 OK\r\nAlt-Svc: h3=\":443\"\r\nContent-Length: 0\r\n\r\n".to_owned(),
        ),
    ];
    for (place, bytes) in table {
        let once: Answer = Arc::new(move |seen| {
            let closes = bytes.starts_with("HTTP/1.0");
            // An HTTP/1.0 answer ends with its connection: the second request doesn't come.
            (!closes || !seen.head.is_empty()).then(|| bytes.clone().into_bytes())
        });
        let scene = Scene::new(once, &json!({})).await?;
        let more = "TE: trailers\r\nConnection: close, te\r\n";
        let request = scene.head("GET /", more);
        let text = if place == "an answer until the end" {
            until_the_end().await?
        } else {
            scene.raw(&request).await?
        };
        assert!(text.starts_with("HTTP/1.1 "), "{place}: {text}");
        assert!(!text.to_lowercase().contains(SECRET), "{place}: {text}");
        for hidden in ["granted-by-nobody", "h3="] {
            assert!(!text.contains(hidden), "{place}: {text}");
        }
    }
    Ok(())
}

/// What the agent gets of an answer that its connection's end ends.
async fn until_the_end() -> Result<String> {
    let authority = Authority::new()?;
    let config = authority.server(&[HOST], &["http/1.1"])?;
    let origin = Origin::raw(config, |mut stream, _log| async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).await; // a request of this test comes in one piece
        let _ = stream
            .write_all(format!("HTTP/1.0 200 OK\r\n\r\n{SECRET}").as_bytes())
            .await;
        let _ = stream.shutdown().await;
    });
    let scene = Scene::around(authority, origin.await?, &json!({})).await?;
    scene.raw(&scene.head("GET /", "")).await
}

/// THREAT: 29
/// THREAT: ob-955
#[tokio::test]
async fn a_secret_comes_back_in_no_encoding() -> Result<()> {
    let secret = "fake \"s&cret<1>/+ü~0123456789";
    let escaped = serde_json::to_string(secret)?;
    let html = secret
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;");
    let hex = |upper: bool| -> String {
        let digits = secret.bytes().map(|byte| {
            if upper {
                format!("{byte:02X}")
            } else {
                format!("{byte:02x}")
            }
        });
        digits.collect()
    };
    let percent = utf8_percent_encode(secret, RESERVED).to_string();
    let mut forms = vec![
        secret.to_owned(),
        escaped.trim_matches('"').to_owned(),
        escaped.trim_matches('"').replace('ü', "\\u00fc"),
        html.clone(),
        html.replace("&quot;", "&#34;"),
        hex(true),
        hex(false),
        percent.clone(),
        percent.to_lowercase(),
        secret.to_lowercase(),
        BASE64_STANDARD.encode(format!("x:{secret}")),
        BASE64_STANDARD.encode(format!("git:{secret}")),
        BASE64_STANDARD.encode(format!("{secret}:")),
    ];
    for shift in 0..3 {
        let shifted = [&b"aaa"[..shift], secret.as_bytes(), b"the end"].concat();
        forms.push(BASE64_STANDARD.encode(&shifted));
        forms.push(BASE64_URL_SAFE_NO_PAD.encode(&shifted));
    }
    let authority = Authority::new()?;
    let (body, sent) = (forms.join("\n"), forms.join("\n"));
    let origin = Origin::http1(&authority, &[HOST], Arc::new(move |_seen| Some(answer("", &sent)))).await?;
    let policy = policy::bearer(origin.address.port(), &json!({ "inject": { "basic": {} } }));
    let sidecar = Sidecar::start(&authority, &policy.to_string(), &[HOST], &[("token", secret)]).await?;
    let place = format!("{HOST}:{}", origin.address.port());
    let answer = agent::send(&sidecar, &place, &format!("GET / HTTP/1.1\r\nHost: {place}\r\n\r\n")).await?;
    assert_eq!(answer.text().lines().count(), body.lines().count(), "{}", answer.text());
    for (form, line) in forms.iter().zip(answer.text().lines()) {
        assert!(
            line != form && (line.contains(STUB) || line.contains("REDACTED") || changed(form, line)),
            "{form}: {line}"
        );
    }
    Ok(())
}

/// THREAT: 29
/// Rust's `NON_ALPHANUMERIC` and old PHP encode what RFC 3986 leaves alone.
#[tokio::test]
async fn a_secret_does_not_come_back_with_every_symbol_encoded() -> Result<()> {
    let form = utf8_percent_encode(SECRET, NON_ALPHANUMERIC).to_string();
    let sent = form.clone();
    let scene = Scene::new(Arc::new(move |_seen| ok(&sent)), &json!({})).await?;
    assert!(!scene.get("/").await?.text().contains(&form));
    Ok(())
}

/// All but RFC 3986's unreserved characters.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Whether the middle, where the secret is, was overwritten.
fn changed(form: &str, line: &str) -> bool {
    form.len() == line.len()
        && form
            .bytes()
            .zip(line.bytes())
            .filter(|(before, after)| before != after)
            .count()
            > 20
}

/// THREAT: 30
#[tokio::test]
async fn a_secret_comes_back_in_no_pieces() -> Result<()> {
    let text = format!("before {SECRET} after {SECRET}{SECRET} and fake-secret-value-01");
    let expected = text.replace(SECRET, STUB);
    for size in [1, 2, 7, SECRET.len() - 1, SECRET.len() + 1] {
        let mut bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        for chunk in text.as_bytes().chunks(size) {
            bytes.extend(format!("{:x}\r\n", chunk.len()).bytes());
            bytes.extend(chunk);
            bytes.extend(b"\r\n");
        }
        bytes.extend(b"0\r\n\r\n");
        let scene = Scene::new(always(bytes), &json!({})).await?;
        assert_eq!(scene.get("/").await?.text(), expected, "chunks of {size}");
    }
    Ok(())
}

/// THREAT: 30
/// THREAT: 31
#[tokio::test]
async fn a_secret_comes_back_in_no_coding() -> Result<()> {
    let text = format!("before {SECRET} after");
    let plain = text.as_bytes();
    let table = [
        ("gzip", encode("gzip", plain)),
        ("x-gzip", encode("gzip", plain)),
        ("deflate", encode("deflate", plain)),
        ("br", encode("br", plain)),
        ("zstd", encode("zstd", plain)),
        ("gzip, br", encode("br", &encode("gzip", plain))),
        ("identity", plain.to_vec()),
    ];
    for (label, body) in table {
        let scene = Scene::new(
            always(answer(&format!("Content-Encoding: {label}\r\n"), body)),
            &json!({}),
        )
        .await?;
        let answer = scene
            .send(&scene.head("GET /", "Accept-Encoding: gzip, br\r\n"))
            .await?;
        assert_eq!(
            (answer.status, answer.text()),
            (200, text.replace(SECRET, STUB)),
            "{label}"
        );
        assert!(
            label == "identity" || !answer.head.contains("content-encoding"),
            "{}",
            answer.head
        );
        assert_eq!(
            scene.origin.requests()[0].header("accept-encoding").as_deref(),
            Some("identity")
        );
    }
    Ok(())
}

/// THREAT: 31
/// THREAT: CVE-2026-101998
#[tokio::test]
async fn an_answer_that_cannot_be_read_is_dropped_and_not_passed() -> Result<()> {
    let text = format!("before {SECRET} {}", "after ".repeat(1_000));
    let gzip = encode("gzip", text.as_bytes());
    let with = |label: &str, body: &[u8]| answer(&format!("Content-Encoding: {label}\r\n"), body);
    let broken = |head: &str| [format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n").as_bytes(), text.as_bytes()].concat();
    let chunk = format!("{:x}\r\n{text}", text.len());
    let table: Vec<(&str, Vec<u8>)> = vec![
        ("an unknown coding", with("compress", &gzip)),
        ("a coding by another name", with("rot13", text.as_bytes())),
        ("a wrong label", with("gzip", text.as_bytes())),
        ("a wrong label the other way", with("br", &gzip)),
        ("a truncated stream", with("gzip", &gzip[..gzip.len() / 2])),
        (
            "bytes after the end",
            with("gzip", &[&gzip[..], SECRET.as_bytes()].concat()),
        ),
        ("four codings", with("gzip, gzip, gzip, gzip", &gzip)),
        ("a length that is never reached", broken("Content-Length: 100000")),
        (
            "a chunk that is never reached",
            broken("Transfer-Encoding: chunked").replace_chunk(&chunk, "\r\nffff\r\nfake-secret"),
        ),
        (
            "a chunk that is none",
            broken("Transfer-Encoding: chunked").replace_chunk(&chunk, "\r\nzz\r\n"),
        ),
        (
            "a charset",
            answer("Content-Type: text/plain; charset=utf-16le\r\n", utf16(SECRET)),
        ),
        (
            "two lengths",
            [
                b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 40\r\n\r\n",
                SECRET.as_bytes(),
            ]
            .concat(),
        ),
    ];
    for (name, bytes) in table {
        let authority = Authority::new()?;
        let config = authority.server(&[HOST], &["http/1.1"])?;
        let origin = Origin::raw(config, move |mut stream, _log| {
            let bytes = bytes.clone();
            async move {
                use tokio::io::{AsyncReadExt, AsyncWriteExt};
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await; // a request of this test comes in one piece
                let _ = stream.write_all(&bytes).await;
                let _ = stream.shutdown().await;
            }
        });
        let scene = Scene::around(authority, origin.await?, &json!({})).await?;
        let text = scene.raw(&scene.head("GET /", "")).await?;
        assert!(!text.contains(SECRET) && !text.contains("f\0a\0k\0e"), "{name}: {text}");
        assert!(!text.contains("fake-secret") || text.contains(STUB), "{name}: {text}");
        let ended = text.starts_with("HTTP/1.1 502") || !text.ends_with("\r\n0\r\n\r\n");
        assert!(ended, "{name} came as if it were whole: {text}");
    }
    Ok(())
}

trait ReplaceChunk {
    fn replace_chunk(self, chunk: &str, after: &str) -> Self;
}

impl ReplaceChunk for Vec<u8> {
    /// The same head, another body.
    fn replace_chunk(self, chunk: &str, after: &str) -> Self {
        let end = self.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
        [&self[..end], chunk.as_bytes(), after.as_bytes()].concat()
    }
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// THREAT: 32
#[tokio::test]
async fn a_secret_is_not_asked_for_in_halves() -> Result<()> {
    // An origin that would serve any range.
    let ranged: Answer = Arc::new(|seen: &Seen| {
        let whole = format!("secret={SECRET}");
        let Some(range) = seen.header("range") else {
            return Some(answer("Accept-Ranges: bytes\r\n", whole));
        };
        let (from, to) = range.trim_start_matches("bytes=").split_once('-')?;
        let piece = whole.get(from.parse().ok()?..=to.parse().ok()?)?;
        let head = format!(
            "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {from}-{to}/{}\r\n",
            whole.len()
        );
        Some(format!("{head}Content-Length: {}\r\n\r\n{piece}", piece.len()).into_bytes())
    });
    let scene = Scene::new(ranged, &json!({})).await?;
    for more in ["Range: bytes=0-19\r\n", "range: bytes=20-30\r\nIf-Range: \"x\"\r\n"] {
        let answer = scene.send(&scene.head("GET /", more)).await?;
        assert_eq!((answer.status, answer.text()), (200, format!("secret={STUB}")));
        assert!(!answer.head.contains("accept-ranges"));
    }
    assert!(!scene.origin.text().to_lowercase().contains("range:"));
    // One that sends a part unasked.
    let part = format!(
        "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-9/40\r\nContent-Length: 10\r\n\r\n{}",
        &SECRET[..10]
    );
    let scene = Scene::new(always(part), &json!({})).await?;
    let answer = scene.get("/").await?;
    assert!(
        answer.status == 502 && !answer.text().contains(&SECRET[..10]),
        "{}",
        answer.text()
    );
    Ok(())
}

/// THREAT: 34
#[tokio::test]
async fn a_redirect_is_told_and_never_followed() -> Result<()> {
    let location = format!("https://evil.example.com/?token={SECRET}");
    let bytes = format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n");
    let scene = Scene::new(always(bytes), &json!({})).await?;
    let answer = scene.get("/").await?;
    assert_eq!(answer.status, 302);
    assert!(
        answer.head.contains(&format!("https://evil.example.com/?token={STUB}")),
        "{}",
        answer.head
    );
    assert_eq!(scene.origin.requests().len(), 1);
    let (answer, _) = agent::connect(scene.sidecar.proxy, "evil.example.com:443").await?;
    assert_eq!(answer.status, 403);
    Ok(())
}

/// THREAT: 35
/// A strict leak: data goes wherever requests may go.
#[tokio::test]
async fn data_leaves_to_a_host_that_is_allowed() -> Result<()> {
    let scene = Scene::echo().await?;
    let data = "-----BEGIN EVERYTHING THE AGENT CAN READ-----";
    let request = format!(
        "{}{data}",
        scene.head("POST /gists", &format!("Content-Length: {}\r\n", data.len()))
    );
    assert_eq!(scene.send(&request).await?.status, 200);
    assert!(scene.origin.text().contains(data));
    Ok(())
}

/// THREAT: 36
#[test]
fn known_token_endpoints_need_a_word() -> Result<()> {
    for (host, methods, path) in [
        ("api.github.com", "POST", "/app/installations/*/access_tokens"),
        ("api.github.com", "POST", "/**"),
        ("github.com", "POST", "/login/oauth/access_token"),
        ("gitlab.com", "POST", "/oauth/token"),
        ("sts.eu-west-1.amazonaws.com", "POST", "/"),
        ("oauth2.googleapis.com", "POST", "/token"),
        ("registry.npmjs.org", "POST", "/-/npm/v1/tokens"),
    ] {
        for (minting, expected) in [(Value::Null, vec!["minting"]), (json!(true), vec![])] {
            let change = json!({ "host": host, "methods": [methods], "paths": [path], "minting": minting });
            let policy: Policy = serde_json::from_value(policy::bearer(443, &change))?;
            let findings = berth_egress::lint::lint(&policy);
            let rules: Vec<&str> = findings.iter().map(|finding| finding.rule.as_str()).collect();
            assert_eq!(rules, expected, "{methods} {host}{path}");
        }
    }
    Ok(())
}

/// THREAT: 36
/// THREAT: onecli-token
/// A strict leak: a token that an unknown endpoint has just made is no secret that anybody knows of.
#[tokio::test]
async fn a_token_that_is_made_on_the_way_comes_through() -> Result<()> {
    let scene = Scene::new(
        Arc::new(|_seen| ok("{\"access_token\":\"fake-new-token-0123\"}")),
        &json!({}),
    )
    .await?;
    assert!(scene.get("/oauth/token").await?.text().contains("fake-new-token-0123"));
    Ok(())
}

/// THREAT: 65
#[tokio::test]
async fn a_bomb_is_defused() -> Result<()> {
    let zeros = vec![0; 64 << 20];
    for coding in ["gzip", "zstd", "br"] {
        let bomb = encode(coding, &zeros);
        let scene = Scene::new(
            always(answer(&format!("Content-Encoding: {coding}\r\n"), &bomb)),
            &json!({}),
        )
        .await?;
        let text = scene.raw(&scene.head("GET /", "")).await?;
        assert!(
            text.len() < 8 << 20 && !text.ends_with("\r\n0\r\n\r\n"),
            "{coding}: {} bytes",
            text.len()
        );
    }
    Ok(())
}

/// THREAT: 28
/// The values of a host are looked for in every answer of it, whatever the request carried.
#[tokio::test]
async fn another_routes_secret_of_the_host_does_not_come_back_either() -> Result<()> {
    let authority = Authority::new()?;
    let origin = Origin::http1(&authority, &[HOST], echo()).await?;
    let port = origin.address.port();
    let policy = policy::of(
        &[
            policy::credential("TOKEN", STUB),
            policy::credential("OTHER", "stub_fake_other_0123456789abcdef"),
        ],
        &[
            policy::route("api", HOST, port, &json!({ "paths": ["/api/**"] })),
            policy::route(
                "other",
                HOST,
                port,
                &json!({ "paths": ["/other/**"], "credential": "OTHER" }),
            ),
            policy::open("open", HOST, port, &json!({ "paths": ["/open/**"] })),
        ],
    );
    let values = [("token", SECRET), ("other", "another-fake-secret-0123456789")];
    let sidecar = Sidecar::start(&authority, &policy.to_string(), &[HOST], &values).await?;
    let place = format!("{HOST}:{port}");
    for path in ["/open/x", "/api/x", "/other/x"] {
        let request = format!("GET {path}?echo={SECRET} HTTP/1.1\r\nHost: {place}\r\n\r\n");
        let answer = agent::send(&sidecar, &place, &request).await?;
        assert!(
            answer.status == 200 && !answer.text().contains(SECRET),
            "{path}: {}",
            answer.text()
        );
    }
    Ok(())
}
