//! Protocols beyond a request and its answer, in a session's pod: gRPC, WebSocket, events, and cargo's registry, which is
//! told a token bare. The clients are Debian's; their environment is all that they know.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use berth_e2e::origin::{Outside, name, trust};
use berth_e2e::{Team, cluster};
use berth_gallery::origin::{Authority, Origin};
use berth_gallery::{crates, rpc};
use futures::{SinkExt as _, StreamExt as _};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};

use crate::clients::{grant, run};

const SECRET: &str = "fake-value-of-every-protocol-012345";
const EVENTS: usize = 16;

/// Each line says what it found; nothing ends the others.
const SCRIPT: &str = r#"
cd /workspace
try() { name=$1; shift; if "$@" >"$name.out" 2>&1; then cat "$name.out"; echo "$name works"; else echo "$name fails: $(tail -c 600 "$name.out")"; fi; }
try call python3 /clients/live.py call "$CALL:443"
try chat python3 /clients/live.py chat "https://$CHAT/"
try events python3 /clients/live.py events "https://$EVENTS/"
mkdir -p user/src; : >user/src/lib.rs; printf '%s' "$MANIFEST" >user/Cargo.toml
try cargo env CARGO_REGISTRIES_FAKE_TOKEN="$CARGO_TOKEN" CARGO_REGISTRIES_FAKE_INDEX="sparse+https://$CRATES/index/" \
  cargo fetch --manifest-path user/Cargo.toml --config "registry.global-credential-providers=['cargo:token']"
"#;

/// Says what it was told, and the value that it got.
async fn chat(authority: &Authority, host: &str) -> Result<Origin> {
    let config = authority.server(&[host], &["http/1.1"])?;
    Origin::raw(config, |stream, _log| async move {
        let value = Arc::new(Mutex::new(String::new()));
        let kept = Arc::clone(&value);
        #[expect(clippy::result_large_err, reason = "the library's own signature")]
        let look = move |request: &Request, response: Response| {
            let header = request.headers().get("authorization");
            let header = header.and_then(|header| header.to_str().ok());
            header.unwrap_or_default().clone_into(&mut kept.lock());
            Ok(response)
        };
        let Ok(mut socket) = tokio_tungstenite::accept_hdr_async(stream, look).await else {
            return;
        };
        while let Some(Ok(message)) = socket.next().await {
            let Message::Text(said) = message else { continue };
            let value = value.lock().clone();
            for answer in [format!("you said {said}, "), format!("and I know {value}")] {
                drop(socket.send(Message::text(answer)).await);
            }
        }
    })
    .await
}

/// Some seconds of events, the last with the value that it got.
async fn events(authority: &Authority, host: &str) -> Result<Origin> {
    let config = authority.server(&[host], &["http/1.1"])?;
    Origin::raw(config, |mut stream, log| async move {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
                return;
            }
        }
        log.lock().extend_from_slice(&request);
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";
        drop(stream.write_all(head.as_bytes()).await);
        for number in 1..=EVENTS {
            tokio::time::sleep(Duration::from_millis(250)).await; // that they come apart is what is looked at
            drop(
                stream
                    .write_all(format!("data: {number} {SECRET}\n\n").as_bytes())
                    .await,
            );
        }
        drop(stream.shutdown().await);
    })
    .await
}

async fn bind(team: &Team, [call, chat, events, crates]: [&str; 4]) -> Result<()> {
    let hosts = [call, chat, events, crates];
    team.policy(json!({ "allow": [{ "name": "all", "hosts": hosts }], "require": { "direct": true } }))
        .await?;
    team.offer("token", SECRET, &hosts.join(",")).await?;
    let route = |name: &str, host: &str, form: &str, more: Value| {
        let header = json!({ "header": { "name": "Authorization", "forms": [form] } });
        let mut route = json!({ "name": name, "host": host, "addresses": ["10.0.0.0/8"], "inject": header });
        for (field, value) in more.as_object().into_iter().flatten() {
            route[field] = value.clone();
        }
        route
    };
    let source = json!({ "secretRef": { "name": "token", "key": "token" } });
    let routes = [
        route(
            "call",
            call,
            "Bearer {}",
            json!({ "methods": ["POST"], "paths": ["/fake.Say/Back"] }),
        ),
        route(
            "chat",
            chat,
            "Bearer {}",
            json!({ "methods": ["GET"], "paths": ["/"], "websocket": true }),
        ),
        route(
            "events",
            events,
            "Bearer {}",
            json!({ "methods": ["GET"], "paths": ["/"] }),
        ),
    ];
    grant(team, "token", &json!({ "name": "TOKEN", "source": source }), &routes).await?;
    let routes = [route(
        "crates",
        crates,
        "{}",
        json!({ "methods": ["GET"], "paths": ["/index/**", "/dl/**"] }),
    )];
    grant(
        team,
        "cargo",
        &json!({ "name": "CARGO_TOKEN", "source": source }),
        &routes,
    )
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_sockets_events_and_registries_work_from_a_pod() -> Result<()> {
    let cluster = cluster().await?;
    cluster.add(&["clients"])?;
    let team = Team::create(&cluster, "protocols").await?;
    let (authority, folder) = (Authority::new()?, tempfile::tempdir()?);
    trust(&team, &authority).await?;
    let hosts = ["call", "chat", "events", "crates"].map(|short| name(&team, short));
    let hosts = hosts.each_ref().map(String::as_str);
    let registry = crates::registry(folder.path(), SECRET)?;
    let call = Outside::of(
        &team,
        "call",
        Origin::served(&authority, &[hosts[0]], &["h2"], rpc::back).await?,
    )
    .await?;
    let _chat = Outside::of(&team, "chat", chat(&authority, hosts[1]).await?).await?;
    let events = Outside::of(&team, "events", events(&authority, hosts[2]).await?).await?;
    let crates = Outside::of(&team, "crates", Origin::http1(&authority, &[hosts[3]], registry).await?).await?;
    bind(&team, hosts).await?;

    let env = [
        ("CALL", hosts[0]),
        ("CHAT", hosts[1]),
        ("EVENTS", hosts[2]),
        ("CRATES", hosts[3]),
        ("MANIFEST", crates::MANIFEST),
    ];
    let printed = run(&team, SCRIPT, &env, &["TOKEN", "CARGO_TOKEN"]).await?;
    for client in ["call", "chat", "events", "cargo"] {
        let works = printed.lines().any(|line| line == format!("{client} works"));
        assert!(works, "{client}: {printed}");
    }
    assert!(!printed.contains(SECRET), "{printed}");
    let says = |what: &str| printed.contains(what);
    assert!(says("chat you said hello, and I know Bearer stub_"), "{printed}");
    assert!(
        says(&format!("{EVENTS} events, apart, data: {EVENTS} stub_")),
        "{printed}"
    );
    // Lengths within a message stay as they are.
    assert!(says("REDACTED"), "{printed}");
    let bearer = format!("authorization: Bearer {SECRET}");
    let got = |outside: &Outside| outside.origin.text().to_lowercase().contains(&bearer.to_lowercase());
    assert!(got(&events), "{}", events.origin.text());
    assert!(
        call.origin.requests().iter().any(|seen| seen.head.contains(&bearer)),
        "{printed}"
    );
    let fetched = crates.origin.requests();
    assert!(
        fetched.iter().any(|seen| seen.target() == "/dl/fake/0.1.0/download"),
        "{printed}"
    );
    team.end_policy().await?;
    team.end().await
}
