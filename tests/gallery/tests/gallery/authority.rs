//! Where a request says it goes: `CONNECT`, the name in the handshake, `Host`, the target.

use std::sync::Arc;

use anyhow::Result;
use berth_gallery::agent::{self, tls};
use berth_gallery::policy::{HOST, STUB};
use berth_gallery::scene::Scene;
use rustls::ClientConfig;
use rustls::client::{EchGreaseConfig, EchMode};
use rustls::crypto::aws_lc_rs::{self, hpke};
use rustls_pki_types::ServerName;
use rustls_pki_types::pem::PemObject;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// The status of a request over these three names; 0 when the tunnel or the handshake ends before.
async fn status(scene: &Scene, connect: &str, name: &str, host: &str) -> Result<u16> {
    let (answer, stream) = agent::connect(scene.sidecar.proxy, connect).await?;
    if answer.status != 200 {
        return Ok(answer.status);
    }
    let connector = TlsConnector::from(Arc::new(tls(&scene.sidecar.ca(), &["http/1.1"])?));
    let Ok(mut stream) = connector.connect(ServerName::try_from(name.to_owned())?, stream).await else {
        return Ok(0);
    };
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {STUB}\r\n\r\n");
    Ok(agent::exchange(&mut stream, request.as_bytes()).await?.status)
}

/// THREAT: 03
/// THREAT: iron-proxy-248
#[tokio::test]
async fn connect_handshake_and_host_name_the_same_or_nothing_leaves() -> Result<()> {
    let scene = Scene::echo().await?;
    let port = scene.origin.address.port();
    let place = |host: &str| format!("{host}:{port}");
    let names = [
        "api.example.com",
        "API.example.COM",
        "api.example.com.",
        "evil.example.com",
    ];
    for connect in names {
        for sni in ["api.example.com", "API.example.com", "evil.example.com"] {
            for host in names {
                let same = |name: &str| name.trim_end_matches('.').eq_ignore_ascii_case(HOST);
                let expected = match (same(connect), same(sni), same(host)) {
                    (false, _, _) => 403,
                    (true, false, _) => 0,
                    (true, true, false) => 421,
                    (true, true, true) => 200,
                };
                let found = status(&scene, &place(connect), sni, &place(host)).await?;
                assert_eq!(found, expected, "CONNECT {connect}, SNI {sni}, Host {host}");
            }
        }
    }
    let other_port = status(&scene, &place(HOST), HOST, &format!("{HOST}:{}", port ^ 1)).await?;
    assert_eq!(
        (other_port, status(&scene, &place(HOST), HOST, HOST).await?),
        (421, 421)
    );
    assert!(!scene.origin.text().contains("evil"));
    Ok(())
}

/// THREAT: 04
#[tokio::test]
async fn an_absolute_target_in_a_tunnel_is_held_to_it() -> Result<()> {
    let scene = Scene::echo().await?;
    let place = &scene.place;
    let table = [
        (format!("GET https://{place}/same"), 200),
        ("GET https://evil.example.com/other".to_owned(), 421),
        (format!("GET http://{place}/downgrade"), 421),
        (format!("GET https://user@{place}/userinfo"), 400),
        (format!("CONNECT {place}"), 400),
    ];
    for (line, expected) in table {
        let answer = scene.send(&scene.head(&line, "")).await?;
        assert_eq!(answer.status, expected, "{line}: {}", answer.head);
    }
    let seen: Vec<String> = scene
        .origin
        .requests()
        .iter()
        .map(|seen| seen.target().to_owned())
        .collect();
    assert_eq!(seen, ["/same"]);
    Ok(())
}

/// THREAT: 07
/// THREAT: srt-nul
#[tokio::test]
async fn odd_bytes_in_a_host_are_refused_before_policy() -> Result<()> {
    let scene = Scene::echo().await?;
    let long = format!("{}.example.com", "a.".repeat(130));
    let hosts = [
        "evil.com\0.example.com",
        "api.example.com%00.evil.com",
        "api.example.com%2eevil.com",
        "user@api.example.com",
        "api.example.com#.evil.com",
        "api.example.com\\.evil.com",
        "api example.com",
        "api..example.com",
        "-api.example.com",
        "api_x.example.com",
        &long,
        "",
    ];
    for host in hosts {
        let connect = agent::connect(scene.sidecar.proxy, &format!("{host}:443")).await;
        assert_eq!(connect?.0.status, 400, "CONNECT {host:?}");
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {STUB}\r\n\r\n");
        assert_eq!(scene.send(&request).await?.status, 400, "Host {host:?}");
    }
    assert_eq!(scene.origin.connections(), 0);
    Ok(())
}

/// THREAT: 08
#[tokio::test]
async fn international_names_come_as_a_labels_or_not_at_all() -> Result<()> {
    let scene = Scene::echo().await?;
    for (host, expected) in [
        ("аpi.example.com", 400), // a Cyrillic letter
        ("xn--pi-7kc.example.com", 403),
        ("xn--a.example.com", 400),
        ("xn--api-.example.com", 400),
        ("ａpi.example.com", 400),
    ] {
        let (answer, _) = agent::connect(scene.sidecar.proxy, &format!("{host}:443")).await?;
        assert_eq!(answer.status, expected, "{host}");
    }
    Ok(())
}

/// THREAT: 09
#[tokio::test]
async fn spellings_of_one_host_are_one_host() -> Result<()> {
    let scene = Scene::echo().await?;
    let port = scene.origin.address.port();
    for (connect, expected) in [
        (format!("{HOST}:{port}"), 200),
        (format!("API.Example.Com:{port}"), 200),
        (format!("{HOST}.:{port}"), 200),
        (format!("{HOST}..:{port}"), 400),
        (format!("{HOST}:0{port}"), 400),
        (format!("{HOST}:+{port}"), 400),
        (format!("{HOST}:"), 400),
        (HOST.to_owned(), 400),
        (format!("[::1]:{port}"), 403),
        (format!("[fe80::1%25eth0]:{port}"), 400),
        (format!("[::1%lo]:{port}"), 400),
        (format!("[0:0:0:0:0:0:0:1]:{port}"), 400),
    ] {
        let (answer, _) = agent::connect(scene.sidecar.proxy, &connect).await?;
        assert_eq!(answer.status, expected, "{connect}");
    }
    Ok(())
}

/// THREAT: 10
#[tokio::test]
async fn an_address_has_one_spelling() -> Result<()> {
    let scene = Scene::echo().await?;
    let malformed = [
        "0x7f.1",
        "0x7f000001",
        "2130706433",
        "127.1",
        "127.0.1",
        "0177.0.0.1",
        "127.0.0.01",
        "127.0.0.1.1",
        "0",
        "0x0",
        "1.",
        "127.0.0.0x1",
        "00000177.1",
        "4294967295",
        "256.1.1.1",
        "[::FFFF:7f00:1",
        "[::ffff:127.0.0.1]x",
        "[::ffff:7f00:1]",
        "[0::1]",
        "[::0001]",
        "[1::2::3]",
        "[64:ff9b::127.0.0.1]",
        "[v1.fe80]",
        "[]",
    ];
    for host in malformed {
        let (answer, _) = agent::connect(scene.sidecar.proxy, &format!("{host}:443")).await?;
        assert_eq!(answer.status, 400, "{host}");
    }
    // Well written, but no route is for them, whatever they carry.
    let unknown = [
        "127.0.0.1",
        "10.0.0.1",
        "0.0.0.0",
        "255.255.255.255",
        "[::]",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "[2001:0:7f00:1::]",
        "[2001::80ff:fffe]",
        "[fe80::1]",
        "[fc00::1]",
    ];
    for host in unknown {
        let (answer, _) = agent::connect(scene.sidecar.proxy, &format!("{host}:443")).await?;
        assert!([400, 403].contains(&answer.status), "{host}: {}", answer.status);
    }
    assert_eq!(scene.origin.connections(), 0);
    Ok(())
}

/// THREAT: 17
#[tokio::test]
async fn a_missing_server_name_is_fine_and_a_hidden_one_must_agree() -> Result<()> {
    let scene = Scene::echo().await?;
    let mut without = tls(&scene.sidecar.ca(), &["http/1.1"])?;
    without.enable_sni = false;
    for (name, config, expected) in [
        (HOST, without, true),
        (HOST, greasing(&scene)?, true),
        ("evil.example.com", greasing(&scene)?, false),
    ] {
        let (_, stream) = agent::connect(scene.sidecar.proxy, &scene.place).await?;
        let connector = TlsConnector::from(Arc::new(config));
        let stream = connector.connect(ServerName::try_from(name.to_owned())?, stream).await;
        assert_eq!(stream.is_ok(), expected, "{name}");
        if let Ok(mut stream) = stream {
            let answer = agent::exchange(&mut stream, scene.head("GET /", "").as_bytes()).await?;
            assert_eq!(answer.status, 200);
        }
    }
    Ok(())
}

/// Sends an Encrypted ClientHello extension that nobody can read.
fn greasing(scene: &Scene) -> Result<ClientConfig> {
    let suite = hpke::ALL_SUPPORTED_SUITES[0];
    let (key, _) = suite.generate_key_pair()?;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(rustls_pki_types::CertificateDer::from_pem_file(scene.sidecar.ca())?)?;
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let config = config.with_ech(EchMode::Grease(EchGreaseConfig::new(suite, key)))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// THREAT: 03
/// The port that the fence redirects to believes the handshake, and holds each request to it.
#[tokio::test]
async fn a_redirected_connection_goes_where_its_handshake_says() -> Result<()> {
    let scene = Scene::echo().await?;
    let stream = TcpStream::connect(scene.sidecar.transparent).await?;
    let connector = TlsConnector::from(Arc::new(tls(&scene.sidecar.ca(), &["http/1.1"])?));
    // Its port is 443, which no route of this policy is for.
    assert!(connector.connect(ServerName::try_from(HOST)?, stream).await.is_err());
    assert_eq!(scene.origin.connections(), 0);
    Ok(())
}
