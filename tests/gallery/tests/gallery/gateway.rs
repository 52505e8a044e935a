//! Model gateways: an agent spends its own session's key, and says nothing of whose requests they are.

use anyhow::Result;
use berth_gallery::agent;
use berth_gallery::origin::{Authority, Origin, echo};
use berth_gallery::policy::{self, HOST, SECRET, STUB};
use berth_gallery::scene::Scene;
use berth_gallery::sidecar::Sidecar;
use serde_json::{Value, json};

/// As the controller writes it for a LiteLLM key.
fn own() -> Value {
    json!({ "headers": { "dropPrefixes": ["x-litellm-"], "set": { "x-litellm-session-id": "this-session" } } })
}

/// What LiteLLM would book on somebody else, and settings that are the gateway's.
const FORGED: &str = "X-LiteLLM-Session-Id: another-session\r\nx-litellm-trace-id: another-session\r\n\
    X-Litellm-Tags: free\r\nx-litellm-disable-callbacks: all\r\nx-litellm-session-id: and-a-second\r\n";

#[tokio::test]
async fn what_an_agent_says_of_the_gateways_headers_never_arrives() -> Result<()> {
    let scene = Scene::new(echo(), &own()).await?;
    scene.send(&scene.head("POST /v1/messages", FORGED)).await?;
    // Without a stub just the same: the gateway would take what it says.
    scene.send(&scene.bare("POST /v1/messages", FORGED)).await?;
    let requests = scene.origin.requests();
    assert_eq!(requests.len(), 2);
    for seen in &requests {
        let theirs: Vec<&str> = seen
            .head
            .lines()
            .filter(|line| line.to_lowercase().starts_with("x-litellm-"))
            .collect();
        assert_eq!(theirs, ["x-litellm-session-id: this-session"], "{}", seen.head);
    }
    assert!(requests[0].head.contains(SECRET) && !requests[1].head.contains(SECRET));
    Ok(())
}

#[tokio::test]
async fn a_connection_header_does_not_take_the_sidecars_own_off() -> Result<()> {
    let scene = Scene::new(echo(), &own()).await?;
    let nominated = "Connection: x-litellm-session-id\r\nX-LiteLLM-Session-Id: another-session\r\n";
    scene.send(&scene.head("POST /v1/messages", nominated)).await?;
    let seen = scene.origin.requests().remove(0);
    assert_eq!(seen.header("x-litellm-session-id").as_deref(), Some("this-session"));
    Ok(())
}

/// LiteLLM takes its key in a header of the same prefix too.
#[tokio::test]
async fn a_key_in_a_header_of_that_prefix_is_still_exchanged() -> Result<()> {
    let authority = Authority::new()?;
    let origin = Origin::http1(&authority, &[HOST], echo()).await?;
    let (port, place) = (origin.address.port(), format!("{HOST}:{}", origin.address.port()));
    let mut change = own();
    change["inject"] = json!({ "header": { "name": "x-litellm-api-key" } });
    let policy = policy::bearer(port, &change);
    let sidecar = Sidecar::start(&authority, &policy.to_string(), &[HOST], &[("token", SECRET)]).await?;
    let request = format!("GET /v1/models HTTP/1.1\r\nHost: {place}\r\nX-Litellm-Api-Key: {STUB}\r\n{FORGED}\r\n");
    agent::send(&sidecar, &place, &request).await?;
    let seen = origin.requests().remove(0);
    assert_eq!(seen.header("x-litellm-api-key").as_deref(), Some(SECRET));
    assert!(
        !seen.head.contains("another-session") && !seen.head.contains("free"),
        "{}",
        seen.head
    );
    Ok(())
}
