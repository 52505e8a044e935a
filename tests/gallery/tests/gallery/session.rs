//! Sessions beside each other: what one may use another can't.

use anyhow::Result;
use berth_gallery::agent;
use berth_gallery::origin::{Authority, Origin, echo};
use berth_gallery::policy::{self, HOST, SECRET, STUB};
use berth_gallery::sidecar::Sidecar;
use serde_json::json;

/// THREAT: 62
/// A stub is worth something in its own session only: nothing in a request says which session it is of.
#[tokio::test]
async fn a_stub_of_another_session_is_text() -> Result<()> {
    let authority = Authority::new()?;
    let origin = Origin::http1(&authority, &[HOST], echo()).await?;
    let port = origin.address.port();
    let other_stub = "stub_fake_other_0123456789abcdef";
    let place = format!("{HOST}:{port}");
    let of = |stub: &str| {
        policy::of(
            &[policy::credential("TOKEN", stub)],
            &[policy::route("api", HOST, port, &json!({}))],
        )
    };
    let one = Sidecar::start(&authority, &of(STUB).to_string(), &[HOST], &[("token", SECRET)]).await?;
    let two = "another-fake-secret-0123456789";
    let two = Sidecar::start(&authority, &of(other_stub).to_string(), &[HOST], &[("token", two)]).await?;
    for (sidecar, stub) in [(&one, other_stub), (&two, STUB)] {
        let request = format!("GET / HTTP/1.1\r\nHost: {place}\r\nAuthorization: Bearer {stub}\r\n\r\n");
        agent::send(sidecar, &place, &request).await?;
    }
    assert!(!origin.text().contains(SECRET) && !origin.text().contains("another-fake-secret"));
    Ok(())
}

/// THREAT: 61
/// The listeners are of this pod alone.
#[tokio::test]
async fn the_listeners_are_on_loopback() -> Result<()> {
    let authority = Authority::new()?;
    let policy = policy::bearer(443, &json!({}));
    let sidecar = Sidecar::start(&authority, &policy.to_string(), &[], &[("token", SECRET)]).await?;
    assert!(sidecar.proxy.ip().is_loopback() && sidecar.transparent.ip().is_loopback());
    Ok(())
}
