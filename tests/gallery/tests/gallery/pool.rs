//! What is kept between requests: leaves, upstream connections, sessions of TLS.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use berth_gallery::agent;
use berth_gallery::origin::{Authority, Origin, Seen, ok};
use berth_gallery::policy::{self, HOST, SECRET, STUB};
use berth_gallery::scene::Scene;
use berth_gallery::sidecar::Sidecar;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::json;
use tokio::time::{advance, pause, resume};

const OTHER_STUB: &str = "stub_fake_other_0123456789abcdef";

/// The certificate that a tunnel is answered with.
async fn leaf(sidecar: &Sidecar, host: &str) -> Result<Vec<u8>> {
    let stream = agent::tunnel(sidecar, &format!("{host}:443"), host, &["http/1.1"]).await?;
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    Ok(certificates[0].to_vec())
}

/// THREAT: 42
#[tokio::test]
async fn leaves_are_made_for_hosts_of_a_route_and_kept_within_bounds() -> Result<()> {
    let authority = Authority::new()?;
    let policy = policy::of(
        &[policy::credential("TOKEN", STUB)],
        &[policy::route("any", "*.any.example.com", 443, &json!({}))],
    );
    let sidecar = Sidecar::start(&authority, &policy.to_string(), &[], &[("token", SECRET)]).await?;
    // No rule, no tunnel, no leaf.
    let (answer, _) = agent::connect(sidecar.proxy, "www.example.com:443").await?;
    assert_eq!(answer.status, 403);
    // One is used again as long as it is kept, and doesn't outlive as many others as are kept.
    let first = leaf(&sidecar, "h0.any.example.com").await?;
    assert_eq!(leaf(&sidecar, "h0.any.example.com").await?, first);
    let mut leaves = Vec::new();
    for number in 1..700 {
        turn().await;
        leaves.push(leaf(&sidecar, &format!("h{number}.any.example.com")).await?);
    }
    let mut made_again = 0;
    for (number, before) in (1..).zip(&leaves).step_by(10) {
        turn().await;
        made_again += usize::from(leaf(&sidecar, &format!("h{number}.any.example.com")).await? != *before);
    }
    assert!(made_again > 0);
    Ok(())
}

/// Lets the clock go on until another new host has its turn (row 42).
async fn turn() {
    pause();
    advance(Duration::from_millis(100)).await;
    resume();
}

/// THREAT: 43
#[tokio::test]
async fn upstream_connections_are_shared_by_one_grant_only() -> Result<()> {
    let authority = Authority::new()?;
    let answer = Arc::new(|seen: &Seen| ok(seen.header("authorization").unwrap_or_default()));
    let origin = Origin::http1(&authority, &[HOST], answer).await?;
    let port = origin.address.port();
    let policy = policy::of(
        &[
            policy::credential("TOKEN", STUB),
            policy::credential("OTHER", OTHER_STUB),
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
    for _ in 0..3 {
        for (path, stub) in [
            ("/api/x", Some(STUB)),
            ("/other/x", Some(OTHER_STUB)),
            ("/open/x", None),
            ("/api/x", None),
        ] {
            let stub = stub.map_or_else(String::new, |stub| format!("Authorization: Bearer {stub}\r\n"));
            let request = format!("GET {path} HTTP/1.1\r\nHost: {place}\r\n{stub}\r\n");
            assert_eq!(agent::send(&sidecar, &place, &request).await?.status, 200);
        }
    }
    // One for each of the two grants and one for requests without.
    assert_eq!(origin.connections(), 3);
    Ok(())
}

/// THREAT: 43
#[tokio::test]
async fn a_connection_is_not_kept_over_a_change_of_its_grant() -> Result<()> {
    let scene = Scene::echo().await?;
    for round in 1..=3 {
        assert_eq!(scene.get("/").await?.status, 200);
        assert_eq!(scene.origin.connections(), round);
        std::fs::write(scene.sidecar.file("token"), format!("{SECRET}-{round}"))?;
        scene
            .sidecar
            .adopt(&policy::bearer(scene.origin.address.port(), &json!({})).to_string())?;
    }
    Ok(())
}

/// THREAT: 43
#[tokio::test]
async fn an_upstream_is_verified_by_its_own_name() -> Result<()> {
    let authority = Authority::new()?;
    let stranger = Authority::new()?;
    let names = ["other.example.com"];
    let wrong_name = Origin::http1(&authority, &names, berth_gallery::origin::echo()).await?;
    let wrong_signer = Origin::http1(&stranger, &[HOST], berth_gallery::origin::echo()).await?;
    for origin in [wrong_name, wrong_signer] {
        let scene = Scene::around(Authority::new()?, origin, &json!({})).await?;
        let answer = scene.get("/").await?;
        assert!(
            answer.status == 502 && answer.text().contains("verify"),
            "{}",
            answer.text()
        );
        assert!(scene.origin.bytes().is_empty());
    }
    Ok(())
}

/// THREAT: 56
#[tokio::test]
async fn an_authority_is_of_one_session_and_its_key_is_not_the_agents() -> Result<()> {
    let (one, two) = (Scene::echo().await?, Scene::echo().await?);
    assert_ne!(std::fs::read(one.sidecar.ca())?, std::fs::read(two.sidecar.ca())?);
    // A leaf of one session isn't trusted in another.
    let (_, stream) = agent::connect(one.sidecar.proxy, &one.place).await?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(agent::tls(&two.sidecar.ca(), &["http/1.1"])?));
    assert!(connector.connect(HOST.try_into()?, stream).await.is_err());
    let certificate = CertificateDer::from_pem_file(one.sidecar.ca())?;
    // basicConstraints: an authority, and no other below it.
    let limited = [0x30, 0x06, 0x01, 0x01, 0xff, 0x02, 0x01, 0x00];
    assert!(certificate.windows(limited.len()).any(|window| window == limited));
    Ok(())
}

/// THREAT: 46
#[tokio::test]
async fn what_the_agent_can_read_holds_no_key_and_no_secret() -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let scene = Scene::echo().await?;
    scene.get("/").await?;
    let mut files = 0;
    for entry in std::fs::read_dir(scene.sidecar.handoff())? {
        let path = entry?.path();
        if path.is_file() {
            let text = String::from_utf8_lossy(&std::fs::read(&path)?).into_owned();
            assert!(
                !text.contains("PRIVATE") && !text.contains(SECRET),
                "{}",
                path.display()
            );
            files += 1;
        }
    }
    assert!(files > 0);
    for entry in std::fs::read_dir(scene.sidecar.state())? {
        let path = entry?.path();
        let mode = std::fs::metadata(&path)?.permissions().mode();
        assert_eq!(mode & 0o077, 0, "{}: {mode:o}", path.display());
    }
    Ok(())
}
