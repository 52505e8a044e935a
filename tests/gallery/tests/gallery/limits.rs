//! Agents that wait, and many of them at once.

use std::time::Duration;

use anyhow::Result;
use berth_gallery::agent;
use berth_gallery::origin::{Authority, Origin, echo};
use berth_gallery::policy::{self, HOST};
use berth_gallery::process::Process;
use berth_gallery::scene::Scene;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, pause};

/// THREAT: 40
/// The clock stands still until everybody waits, and then jumps to whatever ends first.
#[tokio::test]
async fn silence_ends_in_every_phase() -> Result<()> {
    let phases: [(&str, &[u8], bool, u64); 6] = [
        ("before CONNECT", b"", false, 60),
        (
            "within CONNECT",
            b"CONNECT api.example.com:443 HTTP/1.1\r\nHo",
            false,
            60,
        ),
        ("after CONNECT", b"", true, 10),
        ("within a handshake", b"\x16\x03\x01\x02\0\x01\0\x01", true, 10),
        (
            "within a redirected handshake",
            b"\x16\x03\x01\x02\0\x01\0\x01",
            false,
            60,
        ),
        (
            "within a redirected head",
            b"GET / HTTP/1.1\r\nHost: api.exa",
            false,
            60,
        ),
    ];
    for (phase, bytes, connects, seconds) in phases {
        let scene = Scene::echo().await?;
        let mut stream = if connects {
            agent::connect(scene.sidecar.proxy, &scene.place).await?.1
        } else if phase.contains("redirected") {
            TcpStream::connect(scene.sidecar.transparent).await?
        } else {
            TcpStream::connect(scene.sidecar.proxy).await?
        };
        stream.write_all(bytes).await?;
        ends_within(&mut stream, phase, seconds).await?;
    }
    Ok(())
}

/// THREAT: 40
#[tokio::test]
async fn silence_within_a_request_ends_too() -> Result<()> {
    for bytes in ["", "GET / HTTP/1.1\r\nHost: api.exa"] {
        let scene = Scene::echo().await?;
        let mut stream = scene.tunnel().await?;
        stream.write_all(bytes.as_bytes()).await?;
        ends_within(&mut stream, "a request", 60).await?;
    }
    Ok(())
}

async fn ends_within<S: tokio::io::AsyncRead + Unpin>(stream: &mut S, phase: &str, seconds: u64) -> Result<()> {
    pause();
    let began = Instant::now();
    let mut rest = Vec::new();
    let _ = AsyncReadExt::read_to_end(stream, &mut rest).await; // however it ends
    let took = began.elapsed();
    tokio::time::resume();
    assert!(took <= Duration::from_secs(seconds + 1), "{phase}: {took:?}");
    assert!(took >= Duration::from_secs(5), "{phase}: {took:?}");
    Ok(())
}

/// THREAT: 40
/// THREAT: 65
#[tokio::test]
async fn a_tunnel_in_which_nothing_moves_ends_within_an_hour() -> Result<()> {
    for (line, more, body) in [
        ("GET /silent", "", ""),
        ("POST /slow", "Content-Length: 1000\r\n", "a part of it"),
    ] {
        let authority = Authority::new()?;
        let config = authority.server(&[HOST], &["http/1.1"])?;
        let origin = Origin::raw(config, |mut stream, log| async move {
            let mut read = [0; 4096];
            while let Ok(count @ 1..) = stream.read(&mut read).await {
                log.lock().extend_from_slice(&read[..count]);
            }
        });
        let scene = Scene::around(authority, origin.await?, &json!({})).await?;
        let mut stream = scene.tunnel().await?;
        stream
            .write_all(format!("{}{body}", scene.head(line, more)).as_bytes())
            .await?;
        agent::within(async {
            while !scene
                .origin
                .text()
                .contains(if body.is_empty() { "GET /silent" } else { body })
            {
                tokio::task::yield_now().await;
            }
            Ok(())
        })
        .await?;
        pause();
        let began = Instant::now();
        drop(stream.read_to_end(&mut Vec::new()).await);
        let took = began.elapsed();
        tokio::time::resume();
        let hour = Duration::from_hours(1);
        // The clock jumps on while the end of the connection is on its way, from one timer of the sidecar to the next: by
        // hours where a machine is busy.
        assert!(took <= hour * 24, "{line}: {took:?}");
        assert!(took >= hour / 2, "{line}: {took:?}");
    }
    Ok(())
}

/// THREAT: 42
#[tokio::test]
async fn an_agent_that_thinks_up_hosts_is_slowed() -> Result<()> {
    let authority = Authority::new()?;
    let origin = Origin::http1(&authority, &[HOST], echo()).await?;
    let scene = Scene::around(authority, origin, &json!({ "host": "*.example.com" })).await?;
    let port = scene.origin.address.port();
    let mut refused = 0;
    for number in 0..100 {
        let host = format!("h{number}.example.com");
        let tunnel = agent::tunnel(&scene.sidecar, &format!("{host}:{port}"), &host, &["http/1.1"]).await;
        refused += usize::from(tunnel.is_err());
    }
    assert!(refused > 0, "each got its certificate");
    tokio::time::sleep(Duration::from_millis(200)).await; // what the bucket asks for
    assert_eq!(
        scene.get("/").await?.status,
        200,
        "known or not, a host is served again"
    );
    Ok(())
}

/// THREAT: 41
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_without_descriptors_works_again_when_it_has_some() -> Result<()> {
    let authority = Authority::new()?;
    let origin = Origin::http1(&authority, &[HOST], echo()).await?;
    let policy = policy::bearer(origin.address.port(), &json!({}));
    let program = env!("CARGO_BIN_EXE_gallery-sidecar");
    let process = Process::start(program, &authority, &policy.to_string(), Some(256), &[]).await?;
    let mut streams = Vec::new();
    for _ in 0..320 {
        streams.push(TcpStream::connect(process.proxy).await?);
    }
    drop(streams);
    let place = format!("{HOST}:{}", origin.address.port());
    let (answer, _) = agent::within(agent::connect(process.proxy, &place)).await?;
    assert_eq!(answer.status, 200);
    Ok(())
}

/// Tunnels whose handshake stands and that wait, for which memory is the limit.
const TUNNELS: usize = 1_000;

/// THREAT: 41
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_idle_tunnels_cost_little_and_the_next_one_works() -> Result<()> {
    let authority = Authority::new()?;
    let origin = Origin::http1(&authority, &[HOST], echo()).await?;
    let port = origin.address.port();
    let policy = policy::bearer(port, &json!({}));
    let program = env!("CARGO_BIN_EXE_gallery-sidecar");
    let process = Process::start(program, &authority, &policy.to_string(), None, &[]).await?;
    let place = format!("{HOST}:{port}");
    let before = process.peak()?;
    let mut tunnels = Vec::new();
    for _ in 0..TUNNELS {
        tunnels.push(agent::tunnel_through(process.proxy, &process.ca(), &place, HOST, &["http/1.1"]).await?);
    }
    let each = (process.peak()? - before) * 1024 / TUNNELS as u64;
    assert!(each < 64 << 10, "{each} bytes");
    let last = tunnels.last_mut().expect("there are some");
    let request = format!("GET / HTTP/1.1\r\nHost: {place}\r\n\r\n");
    assert_eq!(agent::exchange(last, request.as_bytes()).await?.status, 200);
    Ok(())
}

/// THREAT: 40
/// THREAT: 41
/// One connection more than may be at once waits until another ends.
#[tokio::test]
async fn connections_beyond_the_limit_wait() -> Result<()> {
    let scene = Scene::echo().await?;
    let mut held = Vec::new();
    for _ in 0..1_024 {
        held.push(TcpStream::connect(scene.sidecar.proxy).await?);
    }
    let waits = agent::connect(scene.sidecar.proxy, &scene.place);
    let ends = async {
        tokio::task::yield_now().await;
        drop(held);
    };
    let (answer, ()) = tokio::join!(agent::within(waits), ends);
    assert_eq!(answer?.0.status, 200);
    Ok(())
}
