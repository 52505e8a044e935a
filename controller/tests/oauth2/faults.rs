//! Stand-ins for what no right server does.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use berth_controller::grant::oauth2::OAuth2;
use berth_crds::OAuth2 as Spec;
use berth_gallery::oauth::CLIENT_SECRET;
use berth_gallery::origin::{Authority, Origin, always};
use serde_json::{Value, json};

use super::api::Secret;
use super::{LOGIN, ask, caller, spec};

/// Nothing that was sent or received is in an error, and no redirect is followed with a Secret.
#[tokio::test]
async fn what_a_server_does_wrong_is_an_error_without_its_words() -> Result<()> {
    let authority = Authority::new()?;
    let elsewhere = Origin::http1(&authority, &[LOGIN], berth_gallery::origin::echo()).await?;
    for (answered, expected, is_final) in wrong(elsewhere.address.port()) {
        let what = String::from_utf8_lossy(answered.get(..60).unwrap_or(&answered)).into_owned();
        let stand_in = Origin::http1(&authority, &[LOGIN], always(answered)).await?;
        let oauth2 = OAuth2::new(caller(&authority, &["127.0.0.0/8"], &[])?);
        let secret = Secret::new(&[("secret", CLIENT_SECRET)]).await?;
        let spec = Spec {
            scopes: vec!["read".to_owned()],
            ..spec(stand_in.address.port())
        };
        let refusal = ask(&oauth2, &secret, &spec).await.err().context(what.clone())?;
        assert!(refusal.message.contains(expected), "{what}: {}", refusal.message);
        assert!(!refusal.message.contains("fake-"), "{what}: {}", refusal.message);
        assert_eq!(refusal.is_final, is_final, "{what}");
        assert_eq!(stand_in.requests().len(), 1, "{what}");
    }
    assert!(elsewhere.bytes().is_empty());
    Ok(())
}

/// An endpoint that never answers is waited for 20 s, which pass at once here.
#[tokio::test]
async fn a_server_that_does_not_answer_is_given_up() -> Result<()> {
    let authority = Authority::new()?;
    let config = authority.server(&[LOGIN], &["http/1.1"])?;
    let arrived = Arc::new(tokio::sync::Notify::new());
    let told = Arc::clone(&arrived);
    let stand_in = Origin::raw(config, move |mut stream, _log| {
        let told = Arc::clone(&told);
        async move {
            drop(berth_gallery::agent::read_request(&mut stream).await);
            told.notify_one();
            std::future::pending::<()>().await;
        }
    })
    .await?;
    let oauth2 = OAuth2::new(caller(&authority, &["127.0.0.0/8"], &[])?);
    let secret = Secret::new(&[("secret", CLIENT_SECRET)]).await?;
    let spec = spec(stand_in.address.port());
    let (result, ()) = tokio::join!(ask(&oauth2, &secret, &spec), async {
        arrived.notified().await;
        tokio::time::pause();
    });
    let refusal = result.err().context("given up")?;
    assert_eq!(refusal.message, format!("{LOGIN} didn't answer within 20 s"));
    assert!(!refusal.is_final);
    Ok(())
}

/// What is answered, what is said of it, and whether it takes a change to try again.
fn wrong(elsewhere: u16) -> Vec<(Vec<u8>, &'static str, bool)> {
    let location = format!("Location: https://{LOGIN}:{elsewhere}/token\r\n");
    let echo = format!("{{\"error\":\"{CLIENT_SECRET}\",\"error_description\":\"{CLIENT_SECRET}\"}}");
    let token = |more: &Value| {
        let mut token = json!({ "access_token": "fake-access-token-0", "token_type": "Bearer" });
        token
            .as_object_mut()
            .into_iter()
            .for_each(|token| token.extend(more.as_object().cloned().unwrap_or_default()));
        token.to_string()
    };
    vec![
        (answer(500, "", CLIENT_SECRET), "refuses a token: 500", false),
        (
            answer(503, "", "{\"error\":\"temporarily_unavailable\"}"),
            "503 Service Unavailable: temporarily_unavailable",
            false,
        ),
        (answer(400, "", &echo), "refuses a token: 400 Bad Request", false),
        (
            answer(200, "", "{\"error\":\"invalid_grant\"}"),
            "200 OK: invalid_grant",
            true,
        ),
        (
            answer(307, &location, ""),
            "answers with a redirect (307 Temporary Redirect)",
            true,
        ),
        (
            answer(200, "", CLIENT_SECRET),
            "answers with something else than a token",
            true,
        ),
        (
            answer(200, "", &"x".repeat(100 << 10)),
            "answers with more than 64 KiB",
            false,
        ),
        (
            answer(200, "", &token(&json!({ "token_type": "mac" }))),
            "another type than Bearer",
            true,
        ),
        (
            answer(200, "", &token(&json!({ "scope": "read admin" }))),
            "a scope that wasn't asked for (admin)",
            true,
        ),
        (
            answer(200, "", &token(&json!({ "access_token": "a b" }))),
            "visible ASCII",
            true,
        ),
    ]
}

pub(crate) fn answer(status: u16, more: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n{more}\r\n{body}").into_bytes()
}
