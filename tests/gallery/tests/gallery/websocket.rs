//! WebSocket: the upgrade, and the frames of an upstream that was given a credential.

use anyhow::Result;
use berth_gallery::agent;
use berth_gallery::origin::{Authority, Origin, echo};
use berth_gallery::policy::{HOST, SECRET, STUB};
use berth_gallery::scene::Scene;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const ASK: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Extensions: permessage-deflate\r\n";

/// A frame as a server writes it.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap();
    let mut bytes = vec![first];
    if let Ok(short @ 0..=125) = u8::try_from(payload.len()) {
        bytes.push(short);
    } else {
        bytes.push(126);
        bytes.extend(length.to_be_bytes());
    }
    bytes.extend(payload);
    bytes
}

/// The messages of short frames that are complete.
fn messages(mut bytes: &[u8]) -> Vec<String> {
    let (mut messages, mut message) = (Vec::new(), Vec::new());
    while let [first, length, rest @ ..] = bytes {
        let Some((payload, rest)) = rest.split_at_checked(usize::from(*length)) else {
            break;
        };
        message.extend(payload);
        if first & 0x80 != 0 {
            messages.push(String::from_utf8_lossy(&std::mem::take(&mut message)).into_owned());
        }
        bytes = rest;
    }
    messages
}

/// An origin that agrees, sends these bytes, and keeps what it gets until the end.
async fn scene(head: &'static str, sent: Vec<u8>) -> Result<Scene> {
    let authority = Authority::new()?;
    let config = authority.server(&[HOST], &["http/1.1"])?;
    let origin = Origin::raw(config, move |mut stream, log| {
        let sent = sent.clone();
        async move {
            let mut read = Vec::new();
            while !read.ends_with(b"\r\n\r\n") {
                if stream.read_buf(&mut read).await.unwrap_or(0) == 0 {
                    return;
                }
            }
            log.lock().extend_from_slice(&read);
            let _ = stream.write_all(head.as_bytes()).await;
            let _ = stream.write_all(&sent).await;
            let mut read = [0; 4096];
            while let Ok(count @ 1..) = stream.read(&mut read).await {
                log.lock().extend_from_slice(&read[..count]);
                let _ = stream.write_all(&frame(0x82, &read[..count])).await;
            }
        }
    });
    Scene::around(authority, origin.await?, &json!({ "websocket": true })).await
}

const AGREED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                      Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// THREAT: 37
#[tokio::test]
async fn frames_pass_and_secrets_in_them_do_not() -> Result<()> {
    let split = [
        frame(0x01, &SECRET.as_bytes()[..9]),
        frame(0x80, &SECRET.as_bytes()[9..]),
    ]
    .concat();
    let sent = [
        frame(0x81, format!("a {SECRET} b").as_bytes()),
        split,
        frame(0x82, SECRET.as_bytes()),
    ]
    .concat();
    let scene = scene(AGREED, sent).await?;
    let mut stream = scene.tunnel().await?;
    stream.write_all(scene.head("GET /chat", ASK).as_bytes()).await?;
    let answer = agent::within(agent::read_head(&mut stream)).await?;
    assert_eq!(answer.status, 101, "{}", answer.head);
    assert!(scene.origin.text().contains(SECRET));
    assert!(!scene.origin.text().contains("permessage-deflate"));
    // What the agent sends is relayed, and what comes back is read frame by frame.
    let question = format!("a question with {SECRET}");
    stream.write_all(question.as_bytes()).await?;
    let expected = [
        format!("a {STUB} b"),
        STUB.to_owned(),
        STUB.to_owned(),
        format!("a question with {STUB}"),
    ];
    let mut read = Vec::new();
    agent::within(async {
        while messages(&read).len() < expected.len() {
            anyhow::ensure!(stream.read_buf(&mut read).await? > 0, "it ended");
        }
        Ok(())
    })
    .await?;
    assert_eq!(messages(&read), expected);
    assert!(scene.origin.text().ends_with(&question));
    Ok(())
}

/// THREAT: 37
#[tokio::test]
async fn frames_that_cannot_be_read_end_it() -> Result<()> {
    let masked = [vec![0x81, 0x80 | 4, 0, 0, 0, 0], b"fake".to_vec()].concat();
    let table = [
        ("a compressed frame", frame(0xc1, SECRET.as_bytes())),
        ("a reserved bit", frame(0xa1, SECRET.as_bytes())),
        ("an unknown opcode", frame(0x83, SECRET.as_bytes())),
        ("a masked frame", masked),
        ("a ping with a secret", frame(0x89, SECRET.as_bytes())),
        (
            "a close with a secret",
            frame(0x88, &[&[3, 232], SECRET.as_bytes()].concat()),
        ),
        ("a fragment of nothing", frame(0x80, SECRET.as_bytes())),
        ("no frame", SECRET.as_bytes().to_vec()),
    ];
    for (name, sent) in table {
        let scene = scene(AGREED, sent).await?;
        let mut stream = scene.tunnel().await?;
        stream.write_all(scene.head("GET /chat", ASK).as_bytes()).await?;
        assert_eq!(
            agent::within(agent::read_head(&mut stream)).await?.status,
            101,
            "{name}"
        );
        let rest = String::from_utf8_lossy(&agent::rest(&mut stream).await?).into_owned();
        assert!(!rest.contains("fake"), "{name}: {rest}");
    }
    Ok(())
}

/// THREAT: 37
#[tokio::test]
async fn an_upgrade_needs_its_route_and_its_upstream() -> Result<()> {
    let refused = Scene::echo().await?;
    let answer = refused.send(&refused.head("GET /chat", ASK)).await?;
    assert_eq!(answer.status, 403);
    assert!(refused.origin.requests().is_empty());
    // An upstream that doesn't agree.
    let plain = Scene::new(echo(), &json!({ "websocket": true })).await?;
    assert_eq!(plain.send(&plain.head("GET /chat", ASK)).await?.status, 200);
    // One that agrees though nobody asked.
    let sent = scene(AGREED, SECRET.as_bytes().to_vec()).await?;
    let text = sent.raw(&sent.head("GET /chat", "")).await?;
    assert!(!text.contains(SECRET) && !text.starts_with("HTTP/1.1 101"), "{text}");
    // The agent may not decide for the upstream: the request's rest isn't sent before the answer.
    let sent = scene("HTTP/1.1 400 No\r\nContent-Length: 0\r\n\r\n", Vec::new()).await?;
    let more = format!("{ASK}\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n");
    let text = sent.raw(&sent.head("GET /chat", &more)).await?;
    assert!(
        text.starts_with("HTTP/1.1 400") && !sent.origin.text().contains("smuggled"),
        "{text}"
    );
    Ok(())
}
