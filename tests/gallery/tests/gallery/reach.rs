//! Which hosts, ports and addresses can be reached at all.

use std::net::IpAddr;

use anyhow::Result;
use berth_egress::policy::Policy;
use berth_gallery::agent;
use berth_gallery::dns::NameServer;
use berth_gallery::origin::{Authority, Origin, echo};
use berth_gallery::policy::{self, HOST, SECRET, STUB};
use berth_gallery::scene::Scene;
use berth_gallery::sidecar::Sidecar;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

/// The rules that a policy breaks.
fn broken(policy: &Value) -> Result<Vec<String>> {
    let policy: Policy = serde_json::from_value(policy.clone())?;
    let findings = berth_egress::lint::lint(&policy);
    Ok(findings
        .iter()
        .map(|finding| finding.rule.as_str().to_owned())
        .collect())
}

/// THREAT: 05
/// THREAT: 06
#[test]
fn no_route_covers_names_of_many_owners() -> Result<()> {
    for host in [
        "*.cloudfront.net",
        "*.s3.amazonaws.com",
        "**.amazonaws.com",
        "*.github.io",
        "*.herokuapp.com",
        "*.azurewebsites.net",
        "*.com",
        "**.co.uk",
        "*",
        "*.*.example.com",
        "api*.example.com",
        "*.127.0.0.1",
    ] {
        let policy = policy::bearer(443, &json!({ "host": host }));
        assert_eq!(broken(&policy)?, ["wildcard"], "{host}");
    }
    Ok(())
}

/// THREAT: 06
#[tokio::test]
async fn a_wildcard_is_whole_labels_and_never_its_apex() -> Result<()> {
    let authority = Authority::new()?;
    let policy = policy::of(
        &[policy::credential("TOKEN", STUB)],
        &[
            policy::route("one", "*.one.example.com", 443, &json!({})),
            policy::route("any", "**.any.example.com", 443, &json!({})),
            policy::route("exact", "exact.example.com", 443, &json!({})),
        ],
    );
    let sidecar = Sidecar::start(&authority, &policy.to_string(), &[], &[("token", SECRET)]).await?;
    for (host, expected) in [
        ("a.one.example.com", 200),
        ("a.b.one.example.com", 403),
        ("one.example.com", 403),
        ("evil-one.example.com", 403),
        ("a.one.example.com.evil.com", 403),
        ("a.any.example.com", 200),
        ("a.b.any.example.com", 200),
        ("any.example.com", 403),
        ("many.example.com", 403),
        ("exact.example.com", 200),
        ("a.exact.example.com", 403),
        ("evil-exact.example.com", 403),
        ("127.0.0.1", 403),
    ] {
        let (answer, _) = agent::connect(sidecar.proxy, &format!("{host}:443")).await?;
        assert_eq!(answer.status, expected, "{host}");
    }
    Ok(())
}

/// A sidecar whose names this server answers; `addresses` are those that the route names.
async fn asking(server: &NameServer, port: u16, host: &str, addresses: &[&str], cluster: &str) -> Result<Sidecar> {
    let authority = Authority::new()?;
    let policy = policy::of(
        &[policy::credential("TOKEN", STUB)],
        &[policy::route("api", host, port, &json!({ "addresses": addresses }))],
    );
    Sidecar::asking(
        &authority,
        &policy.to_string(),
        server.address,
        &[cluster.parse()?],
        &[("token", SECRET)],
    )
    .await
}

async fn reaches(sidecar: &Sidecar, host: &str, port: u16) -> Result<(u16, String)> {
    let place = format!("{host}:{port}");
    let request = format!("GET / HTTP/1.1\r\nHost: {place}\r\nAuthorization: Bearer {STUB}\r\n\r\n");
    let answer = agent::send(sidecar, &place, &request).await?;
    Ok((answer.status, answer.text()))
}

/// THREAT: 11
#[tokio::test]
async fn every_answer_of_a_name_server_is_vetted_each_time() -> Result<()> {
    let authority = Authority::new()?;
    let origin = Origin::http1(&authority, &[HOST], echo()).await?;
    let port = origin.address.port();
    let server = NameServer::start(&[(
        HOST,
        &[
            &["127.0.0.1"],
            &["10.1.2.3"],
            &["127.0.0.1", "10.1.2.3"],
            &["127.0.0.1", "::1"],
            &["127.0.0.1"],
        ],
    )])
    .await?;
    let policy = policy::bearer(port, &json!({}));
    let values = [("token", SECRET)];
    let sidecar = Sidecar::asking(&authority, &policy.to_string(), server.address, &[], &values).await?;
    // Each tunnel dials anew: the connection before was closed by the origin, or isn't of this key.
    let close = |place: &str| {
        format!("GET / HTTP/1.1\r\nHost: {place}\r\nAuthorization: Bearer {STUB}\r\nX-Nothing: 1\r\n\r\n")
    };
    let place = format!("{HOST}:{port}");
    let mut statuses = Vec::new();
    for _ in 0..5 {
        statuses.push(agent::send(&sidecar, &place, &close(&place)).await?.status);
        sidecar.shared.upstream.pool().forget(|_route| true);
    }
    assert_eq!(statuses, [200, 502, 502, 502, 200]);
    assert_eq!(origin.connections(), 2);
    Ok(())
}

/// THREAT: 12
#[tokio::test]
async fn metadata_services_are_reached_by_no_policy() -> Result<()> {
    for host in ["metadata.google.internal", "METADATA.google.internal."] {
        assert_eq!(
            broken(&policy::bearer(80, &json!({ "host": host })))?,
            ["host"],
            "{host}"
        );
    }
    let addresses = [
        "169.254.169.254",
        "169.254.170.2",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "fd00:ec2::254",
        "fd20:ce::254",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::",
    ];
    for address in addresses {
        let server = NameServer::start(&[("evil.example.com", &[&[address]])]).await?;
        let named = [
            "169.254.0.0/16",
            "100.64.0.0/10",
            "168.63.129.16/32",
            "192.0.0.0/24",
            "fd00::/8",
            "64:ff9b::/96",
        ];
        let sidecar = asking(&server, 443, "evil.example.com", &named, "198.18.0.0/15").await?;
        let (status, said) = reaches(&sidecar, "evil.example.com", 443).await?;
        assert!(status == 502 && said.contains("Metadata"), "{address}: {said}");
    }
    Ok(())
}

/// THREAT: 13
#[tokio::test]
async fn addresses_that_are_not_public_need_a_route_that_names_them() -> Result<()> {
    let own = own_address()?;
    let own = own.to_string();
    let table: [(&str, &[&str], &str); 9] = [
        ("10.1.2.3", &[], "Private"),
        ("192.168.1.1", &["10.0.0.0/8"], "Private"),
        ("127.0.0.1", &[], "Loopback"),
        ("::1", &[], "Loopback"),
        ("0.0.0.0", &["0.0.0.0/8"], "Unspecified"),
        ("198.18.5.5", &[], "Cluster"), // the cluster's network of this test
        ("169.254.7.7", &[], "LinkLocal"),
        ("100.64.0.1", &[], "CarrierNat"),
        (&own, &["0.0.0.0/1", "128.0.0.0/1"], "Own"),
    ];
    for (address, named, class) in table {
        let server = NameServer::start(&[("evil.example.com", &[&[address]])]).await?;
        let sidecar = asking(&server, 443, "evil.example.com", named, "198.18.0.0/15").await;
        let (status, said) = match sidecar {
            Ok(sidecar) => reaches(&sidecar, "evil.example.com", 443).await?,
            Err(error) => (502, format!("{error:#}")), // the linter refuses routes that open everything
        };
        assert!(
            status == 502 && (said.contains(class) || class == "Own"),
            "{address}: {said}"
        );
    }
    Ok(())
}

/// The pod's own address isn't reached even by a route that names its network.
/// THREAT: 13
#[tokio::test]
async fn a_route_to_the_pod_itself_leads_nowhere() -> Result<()> {
    let own = own_address()?;
    let server = NameServer::start(&[("self.example.com", &[&[&own.to_string()]])]).await?;
    let network = format!("{own}/24");
    let sidecar = asking(&server, 443, "self.example.com", &[&network], "198.18.0.0/15").await?;
    let (status, said) = reaches(&sidecar, "self.example.com", 443).await?;
    assert!(status == 502 && said.contains("Own"), "{said}");
    Ok(())
}

/// By the route that the machine would take; nothing is sent.
fn own_address() -> Result<IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    socket.connect("192.0.2.1:9")?;
    Ok(socket.local_addr()?.ip())
}

/// THREAT: 14
#[tokio::test]
async fn a_name_is_asked_for_as_it_is_and_nothing_below_it() -> Result<()> {
    let server = NameServer::start(&[]).await?;
    let sidecar = asking(&server, 443, "api.example.com", &[], "198.18.0.0/15").await?;
    let (status, said) = reaches(&sidecar, "api.example.com", 443).await?;
    assert!(status == 502 && said.contains("resolve"), "{said}");
    let mut asked = server.asked();
    asked.dedup();
    assert_eq!(asked, ["api.example.com"]);
    Ok(())
}

/// THREAT: 15
#[tokio::test]
async fn a_port_is_a_part_of_every_route() -> Result<()> {
    let authority = Authority::new()?;
    let policy = policy::bearer(443, &json!({ "ports": null }));
    let sidecar = Sidecar::start(&authority, &policy.to_string(), &[HOST], &[("token", SECRET)]).await?;
    for (port, expected) in [
        (443, 200),
        (22, 403),
        (25, 403),
        (80, 403),
        (5432, 403),
        (6443, 403),
        (8443, 403),
    ] {
        let (answer, _) = agent::connect(sidecar.proxy, &format!("{HOST}:{port}")).await?;
        assert_eq!(answer.status, expected, "{port}");
    }
    Ok(())
}

/// THREAT: 16
#[tokio::test]
async fn what_is_not_tls_ends_the_tunnel() -> Result<()> {
    let scene = Scene::echo().await?;
    let beginnings: [&[u8]; 5] = [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\0\0\0\x08\x04\xd2\x16\x2f",
        b"\x16\x03\x01\0\x05hello",
    ];
    for bytes in beginnings {
        let (_, mut stream) = agent::connect(scene.sidecar.proxy, &scene.place).await?;
        stream.write_all(bytes).await?;
        let rest = agent::rest(&mut stream).await?;
        // Nothing, or a TLS alert.
        assert!(rest.len() <= 7, "{bytes:?}: {rest:?}");
    }
    assert_eq!(scene.origin.connections(), 0);
    Ok(())
}

/// THREAT: 16
#[tokio::test]
async fn another_protocol_within_tls_gets_no_further() -> Result<()> {
    let scene = Scene::echo().await?;
    for bytes in [
        "SSH-2.0-OpenSSH_9.6\r\n",
        "\0\0\0\u{8}\u{4}",
        "EHLO me\r\n",
        "*1\r\n$4\r\nPING\r\n",
    ] {
        let mut stream = scene.tunnel().await?;
        stream.write_all(bytes.as_bytes()).await?;
        stream.write_all(b"\r\n\r\n").await?;
        let rest = String::from_utf8_lossy(&agent::rest(&mut stream).await?).into_owned();
        assert!(
            rest.is_empty() || rest.starts_with("HTTP/1.1 400 "),
            "{bytes:?}: {rest}"
        );
    }
    assert_eq!(scene.origin.requests().len(), 0);
    Ok(())
}
