//! The process: its environment, its memory, its sockets.

use std::sync::Arc;

use anyhow::Result;
use berth_gallery::agent;
use berth_gallery::origin::{Authority, Origin, echo};
use berth_gallery::policy::{self, HOST, SECRET, STUB};
use berth_gallery::process::Process;
use serde_json::json;

/// THREAT: 64
/// THREAT: opensandbox-env
#[tokio::test]
async fn variables_turn_nothing_round() -> Result<()> {
    let authority = Authority::new()?;
    let origin = Origin::http1(&authority, &[HOST], echo()).await?;
    let elsewhere = Origin::plain(Arc::new(|_seen| None)).await?;
    let policy = policy::bearer(origin.address.port(), &json!({}));
    let keys = tempfile::NamedTempFile::new()?;
    let proxy = format!("http://{}", elsewhere.address);
    let environment = [
        ("SSLKEYLOGFILE", keys.path().to_str().unwrap_or_default()),
        ("HTTPS_PROXY", &proxy),
        ("https_proxy", &proxy),
        ("ALL_PROXY", &proxy),
        ("SSL_CERT_FILE", "/nonexistent"),
        ("RES_OPTIONS", "ndots:15"),
        ("LOCALDOMAIN", "evil.example.com"),
    ];
    let program = env!("CARGO_BIN_EXE_gallery-sidecar");
    let process = Process::start(program, &authority, &policy.to_string(), None, &environment).await?;
    let place = format!("{HOST}:{}", origin.address.port());
    let mut stream = agent::tunnel_through(process.proxy, &process.ca(), &place, HOST, &["http/1.1"]).await?;
    let request = format!("GET / HTTP/1.1\r\nHost: {place}\r\nAuthorization: Bearer {STUB}\r\n\r\n");
    assert_eq!(agent::exchange(&mut stream, request.as_bytes()).await?.status, 200);
    assert_eq!(elsewhere.connections(), 0);
    assert_eq!(std::fs::read(keys.path())?, b"");
    Ok(())
}

/// THREAT: 44
#[tokio::test]
async fn no_secret_stands_in_environment_or_arguments() -> Result<()> {
    let authority = Authority::new()?;
    let policy = policy::bearer(443, &json!({}));
    let program = env!("CARGO_BIN_EXE_gallery-sidecar");
    let process = Process::start(program, &authority, &policy.to_string(), None, &[]).await?;
    for file in ["environ", "cmdline"] {
        let text = String::from_utf8_lossy(&std::fs::read(process.proc()?.join(file))?).into_owned();
        assert!(!text.contains(SECRET), "{file}");
    }
    Ok(())
}

/// THREAT: 48
#[tokio::test]
async fn no_socket_is_reached_without_a_file() -> Result<()> {
    let authority = Authority::new()?;
    let policy = policy::bearer(443, &json!({}));
    let program = env!("CARGO_BIN_EXE_gallery-sidecar");
    let process = Process::start(program, &authority, &policy.to_string(), None, &[]).await?;
    let mut own = Vec::new();
    for entry in std::fs::read_dir(process.proc()?.join("fd"))? {
        if let Ok(target) = std::fs::read_link(entry?.path()) {
            own.extend(
                target
                    .to_string_lossy()
                    .strip_prefix("socket:[")
                    .map(|inode| inode.trim_end_matches(']').to_owned()),
            );
        }
    }
    let sockets = std::fs::read_to_string(process.proc()?.join("net/unix"))?;
    for line in sockets.lines().skip(1) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_own = fields.get(6).is_some_and(|inode| own.iter().any(|own| own == inode));
        assert!(
            !is_own || fields.get(7).is_none_or(|path| !path.starts_with('@')),
            "{line}"
        );
    }
    Ok(())
}

/// THREAT: 53
/// No proxy, no way out: a killed sidecar leaves its agent a refused connection.
#[tokio::test]
async fn a_killed_sidecar_lets_nothing_through() -> Result<()> {
    let authority = Authority::new()?;
    let origin = Origin::http1(&authority, &[HOST], echo()).await?;
    let policy = policy::bearer(origin.address.port(), &json!({}));
    let program = env!("CARGO_BIN_EXE_gallery-sidecar");
    let process = Process::start(program, &authority, &policy.to_string(), None, &[]).await?;
    let place = format!("{HOST}:{}", origin.address.port());
    let mut open = agent::tunnel_through(process.proxy, &process.ca(), &place, HOST, &["http/1.1"]).await?;
    let proxy = process.proxy;
    process.kill().await?;
    assert!(agent::rest(&mut open).await?.is_empty());
    assert!(agent::connect(proxy, &place).await.is_err());
    assert!(origin.requests().is_empty());
    Ok(())
}
