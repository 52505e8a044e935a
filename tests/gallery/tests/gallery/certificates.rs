//! Certificates that the sidecar shows in the agent's place, and roots of one route.

use std::sync::Arc;

use anyhow::Result;
use berth_gallery::agent::{self, Response};
use berth_gallery::origin::{Answer, Authority, Origin, Seen, echo, ok};
use berth_gallery::policy::{self, HOST, STUB};
use berth_gallery::sidecar::Sidecar;
use rcgen::{CertificateParams, date_time_ymd};
use serde_json::{Value, json};

const OTHER_HOST: &str = "other.example.com";
const OTHER_STUB: &str = "stub_fake_other_0123456789abcdef";

/// A client's certificate with its key, as a credential has them.
fn client(authority: &Authority, change: impl FnOnce(&mut CertificateParams)) -> Result<(Vec<u8>, String)> {
    let (certificate, key) = authority.issue(&["agent.example.com"], change)?;
    Ok((
        certificate.der().to_vec(),
        format!("{}{}", certificate.pem(), key.serialize_pem()),
    ))
}

fn shown(name: &str, port: u16, change: &Value) -> Value {
    let mut route = policy::route(name, HOST, port, change);
    route["inject"] = json!({ "clientCertificate": {} });
    route
}

async fn get(sidecar: &Sidecar, port: u16, path: &str) -> Result<Response> {
    let place = format!("{HOST}:{port}");
    agent::send(
        sidecar,
        &place,
        &format!("GET {path} HTTP/1.1\r\nHost: {place}\r\n\r\n"),
    )
    .await
}

/// Says whose certificate it saw.
fn by_certificate() -> Answer {
    Arc::new(|seen: &Seen| ok(if seen.certificate.is_some() { "known" } else { "nobody" }))
}

/// THREAT: 57
#[tokio::test]
async fn an_upstream_that_wants_a_certificate_is_shown_it() -> Result<()> {
    let (servers, clients) = (Authority::new()?, Authority::new()?);
    let (certificate, pem) = client(&clients, |_as_it_is| {})?;
    let origin = Origin::http1_over(servers.server_of(&clients, &[HOST], &["http/1.1"])?, echo()).await?;
    let port = origin.address.port();
    let policy = policy::of(
        &[policy::credential("TOKEN", STUB)],
        &[
            shown("private", port, &json!({ "paths": ["/private/**"] })),
            policy::open("open", HOST, port, &json!({ "paths": ["/open/**"] })),
        ],
    );
    let sidecar = Sidecar::start(&servers, &policy.to_string(), &[HOST], &[("token", &pem)]).await?;
    for _ in 0..2 {
        assert_eq!(get(&sidecar, port, "/private/x").await?.status, 200);
        // A path without the credential has none to show, on no connection that was opened with it.
        assert_eq!(get(&sidecar, port, "/open/x").await?.status, 502);
        assert_eq!(get(&sidecar, port, "/elsewhere").await?.status, 403);
    }
    let seen = origin.requests();
    assert_eq!(seen.len(), 2);
    assert!(seen.iter().all(|seen| seen.certificate.as_ref() == Some(&certificate)));
    let trail = sidecar.audit_text()?;
    assert!(trail.contains("/private/x") && !trail.contains("PRIVATE KEY"));
    Ok(())
}

/// THREAT: 57
/// HTTP/2 as well; what a host speaks is asked without the certificate.
#[tokio::test]
async fn a_certificate_goes_with_http2() -> Result<()> {
    let (servers, clients) = (Authority::new()?, Authority::new()?);
    let (_, pem) = client(&clients, |_as_it_is| {})?;
    let config = servers.server_of(&clients, &[HOST], &["h2", "http/1.1"])?;
    let origin = Origin::served_over(config, |_request| async {
        Ok(http::Response::new(agent::full("known")))
    })
    .await?;
    let port = origin.address.port();
    let policy = policy::of(
        &[policy::credential("TOKEN", STUB)],
        &[shown("private", port, &json!({}))],
    );
    let sidecar = Sidecar::start(&servers, &policy.to_string(), &[HOST], &[("token", &pem)]).await?;
    let place = format!("{HOST}:{port}");
    let mut sender = agent::http2(&sidecar, &place).await?;
    let request = http::Request::get(format!("https://{place}/")).body(agent::full(""))?;
    assert_eq!(sender.send_request(request).await?.status(), 200);
    assert_eq!(get(&sidecar, port, "/").await?.status, 200);
    Ok(())
}

/// THREAT: 43
/// THREAT: 57
#[tokio::test]
async fn connections_are_shared_by_one_certificate_only() -> Result<()> {
    let (servers, clients) = (Authority::new()?, Authority::new()?);
    let ((_, first), (_, second)) = (client(&clients, |_as_it_is| {})?, client(&clients, |_as_it_is| {})?);
    let verifier = servers.server_of(&clients, &[HOST], &["http/1.1"])?;
    let origin = Origin::http1_over(verifier, by_certificate()).await?;
    let port = origin.address.port();
    let policy = policy::of(
        &[policy::credential("TOKEN", STUB)],
        &[shown("private", port, &json!({}))],
    )
    .to_string();
    let sidecar = Sidecar::start(&servers, &policy, &[HOST], &[("token", &first)]).await?;
    let mut certificates = Vec::new();
    for pem in [&first, &second, &first] {
        std::fs::write(sidecar.file("token"), pem)?;
        sidecar.adopt(&policy)?;
        for _ in 0..2 {
            assert_eq!(get(&sidecar, port, "/").await?.text(), "known");
        }
        certificates.push(origin.requests().pop().and_then(|seen| seen.certificate));
    }
    assert!(certificates[0] != certificates[1] && certificates[0] == certificates[2]);
    assert_eq!(origin.connections(), 3);
    Ok(())
}

/// THREAT: 57
#[tokio::test]
async fn a_certificate_that_cannot_be_shown_is_refused_with_its_reason() -> Result<()> {
    let authority = Authority::new()?;
    let (_, good) = client(&authority, |_as_it_is| {})?;
    let (_, other) = client(&authority, |_as_it_is| {})?;
    let (_, over) = client(&authority, |parameters| {
        parameters.not_after = date_time_ymd(2020, 1, 1);
    })?;
    let (_, early) = client(&authority, |parameters| {
        parameters.not_before = date_time_ymd(2100, 1, 1);
        parameters.not_after = date_time_ymd(2101, 1, 1);
    })?;
    let (chain, key) = good.split_at(good.find("-----BEGIN PRIVATE").unwrap_or_default());
    let (_, other_key) = other.split_at(other.find("-----BEGIN PRIVATE").unwrap_or_default());
    let policy = policy::of(
        &[policy::credential("TOKEN", STUB)],
        &[shown("private", 443, &json!({}))],
    )
    .to_string();
    for (pem, reason) in [
        (over, "isn't valid any more"),
        (early, "isn't valid yet"),
        (format!("{chain}{other_key}"), "isn't the certificate's"),
        (chain.to_owned(), "no private key"),
        (key.to_owned(), "no certificate chain"),
        ("no PEM at all".to_owned(), "no certificate chain"),
    ] {
        let error = Sidecar::start(&authority, &policy, &[HOST], &[("token", &pem)])
            .await
            .err();
        let error = error.map(|error| format!("{error:#}")).unwrap_or_default();
        assert!(
            error.contains(reason) && !error.contains("PRIVATE"),
            "{error}: {reason}"
        );
    }
    Ok(())
}

/// THREAT: 43
/// Two routes of one host, each with its own roots: what verifies one says nothing of the other.
#[tokio::test]
async fn a_route_is_verified_by_its_own_roots() -> Result<()> {
    let (public, private) = (Authority::new()?, Authority::new()?);
    let origin = Origin::http1(&private, &[HOST, OTHER_HOST], echo()).await?;
    let port = origin.address.port();
    let ca = |name: &str, path: &str, ca: &str| {
        let change = json!({ "paths": [path], "ca": ca, "credential": name });
        policy::route(name, HOST, port, &change)
    };
    let policy = policy::of(
        &[
            policy::credential("TOKEN", STUB),
            policy::credential("OTHER", OTHER_STUB),
        ],
        &[
            ca("TOKEN", "/private/**", &private.pem),
            ca("OTHER", "/public/**", &public.pem),
            policy::open("open", HOST, port, &json!({ "paths": ["/open/**"] })),
            policy::open(
                "open-private",
                HOST,
                port,
                &json!({ "paths": ["/open-private/**"], "ca": private.pem }),
            ),
        ],
    );
    let values = [("token", policy::SECRET), ("other", "another-fake-secret-0123456789")];
    let sidecar = Sidecar::start(&public, &policy.to_string(), &[HOST], &values).await?;
    let place = format!("{HOST}:{port}");
    for _ in 0..2 {
        for (path, stub, status) in [
            ("/private/x", STUB, 200),
            ("/public/x", OTHER_STUB, 502),
            ("/open/x", "", 502),
            ("/open-private/x", "", 200),
        ] {
            let stub = if stub.is_empty() {
                String::new()
            } else {
                format!("Authorization: Bearer {stub}\r\n")
            };
            let request = format!("GET {path} HTTP/1.1\r\nHost: {place}\r\n{stub}\r\n");
            assert_eq!(agent::send(&sidecar, &place, &request).await?.status, status, "{path}");
        }
    }
    assert!(!origin.text().contains("another-fake-secret"));
    Ok(())
}
