//! What a pull request is told on the real forge: before it is merged what it grants and takes away, afterwards when that was in
//! force; one comment of Berth's own, and a commit status.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use berth_e2e::{Repository, session_yaml};
use serde_json::{Value, json};

use crate::evidence::{Desk, binding};

/// Waits until Berth's comment on a pull request says all of this.
async fn said(repository: &Repository, number: u64, wanted: &[&str]) -> Result<String> {
    let path = format!("repos/{}/issues/{number}/comments", repository.path);
    let mut last = String::new();
    for _ in 0..TRIES {
        last = ours(&repository.api("GET", &path, &Value::Null).await?)?;
        if wanted.iter().all(|wanted| last.contains(wanted)) {
            return Ok(last);
        }
        tokio::time::sleep(BETWEEN).await; // a forge has no watch
    }
    bail!("pull request {number} says {last:?}, not {wanted:?}")
}

/// The text of the one comment that is Berth's; empty when there is none.
fn ours(comments: &Value) -> Result<String> {
    let comments = comments.as_array().context("comments")?;
    let mut ours = comments
        .iter()
        .filter(|comment| comment["user"]["login"] == "berth-admin");
    let first = ours.next().and_then(|comment| comment["body"].as_str());
    assert!(ours.next().is_none(), "it speaks once: {comments:?}");
    Ok(first.unwrap_or_default().to_owned())
}

/// State and description of Berth's commit status.
async fn status(repository: &Repository, commit: &str) -> Result<(String, String)> {
    let path = format!("repos/{}/commits/{commit}/statuses", repository.path);
    for _ in 0..TRIES {
        let statuses = repository.api("GET", &path, &Value::Null).await?;
        let first = statuses.as_array().and_then(|all| all.first());
        if let Some(first) = first {
            let text = |field: &str| first[field].as_str().unwrap_or_default().to_owned();
            assert!(text("context").starts_with("berth/e2e-"), "{first}");
            return Ok((text("status"), text("description")));
        }
        tokio::time::sleep(BETWEEN).await;
    }
    bail!("{commit} has no status")
}

#[tokio::test]
async fn a_pull_request_is_told_what_it_grants_and_when_it_did() -> Result<()> {
    let desk = Desk::new("feedback").await?;
    let (team, repository) = (&desk.team, &desk.repository);
    let mut session: Value = serde_json::from_str(&session_yaml("s", "true"))?;
    session["spec"]["credentials"] = json!([{ "name": "A", "required": false }]);
    team.apply(&session).await?;

    let head = desk.ask_for("a", &["GET", "PUT"])?;
    let number = repository.open(&desk.alice, "a").await?;
    // Somebody else's words aren't touched, whatever they look like.
    let marker = format!("<!-- berth.dev/feedback {}/source -->", team.namespace);
    let comments = format!("repos/{}/issues/{number}/comments", repository.path);
    let copied = json!({ "body": format!("{marker}\nApproved by Berth") });
    let copied = repository.api_as(&desk.bob, "POST", &comments, &copied).await?;
    let text = said(repository, number, &["grants 1", "`a`", "matches 1 session now: `s`"]).await?;
    assert!(text.starts_with(&marker), "{text}");
    for part in [
        "look at: never expires",
        "methods that write",
        "1 approving review by people who had no part in it",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(
        status(repository, &head).await?,
        ("success".to_owned(), "grants 1".to_owned())
    );

    repository.approve(&desk.bob, number).await?;
    repository.merge(&desk.bob, number, "merge").await?;
    said(
        repository,
        number,
        &[
            "Since the merge",
            "- `a`: active ",
            " s after the merge, for 0 sessions",
        ],
    )
    .await?;

    repository.git(&["checkout", "--quiet", "-B", "revert"])?;
    repository.remove("a.yaml")?;
    repository.push_as(&desk.alice, "revert", "Take it back")?;
    let revert = repository.open(&desk.alice, "revert").await?;
    said(repository, revert, &["revokes 1"]).await?;
    repository.merge(&desk.bob, revert, "squash").await?;
    said(repository, revert, &["- `a`: revoked ", " s after the merge"]).await?;

    let path = format!("repos/{}/issues/comments/{}", repository.path, copied["id"]);
    let copied = repository.api("GET", &path, &Value::Null).await?;
    assert_eq!(copied["body"], format!("{marker}\nApproved by Berth"));
    desk.end().await
}

#[tokio::test]
async fn a_strangers_pull_request_is_told_how_many_sessions_and_not_which() -> Result<()> {
    let desk = Desk::new("stranger").await?;
    let (team, repository) = (&desk.team, &desk.repository);
    let mut session: Value = serde_json::from_str(&session_yaml("secret-work", "true"))?;
    session["spec"]["credentials"] = json!([{ "name": "A", "required": false }]);
    team.apply(&session).await?;
    let eve = repository.stranger("eve").await?;
    let asks = binding("a", &["GET"]).to_string();
    let number = repository.ask_from_fork(&eve, "a.yaml", &asks).await?;
    let text = said(repository, number, &["grants 1", "matches 1 session now"]).await?;
    assert!(!text.contains("secret-work"), "{text}");
    desk.end().await
}

#[tokio::test]
async fn what_is_wrong_is_said_and_what_is_no_business_of_berths_is_not() -> Result<()> {
    let desk = Desk::new("wrong").await?;
    let repository = &desk.repository;
    repository.git(&["checkout", "--quiet", "-B", "broken"])?;
    repository.write(
        "broken.yaml",
        "apiVersion: berth.dev/v1alpha1\nkind: CredentialBinding\nmetadata: {name: `x}\n",
    )?;
    let head = repository.push_as(&desk.alice, "broken", "Break it")?;
    let broken = repository.open(&desk.alice, "broken").await?;
    said(
        repository,
        broken,
        &["changes no grant, and 1 problem is in it", "`broken.yaml:3:"],
    )
    .await?;
    let (state, description) = status(repository, &head).await?;
    assert_eq!(state, "failure");
    assert!(
        description.starts_with("1 problem, first at broken.yaml:3:"),
        "{description}"
    );

    repository.git(&["checkout", "--quiet", "--force", "-B", "other", "main"])?;
    repository.write("README.md", "more")?;
    let head = repository.push_as(&desk.alice, "other", "Write more")?;
    let other = repository.open(&desk.alice, "other").await?;
    assert_eq!(
        status(repository, &head).await?,
        ("success".to_owned(), "changes no grant".to_owned())
    );
    let none = repository
        .api(
            "GET",
            &format!("repos/{}/issues/{other}/comments", repository.path),
            &Value::Null,
        )
        .await?;
    assert_eq!(ours(&none)?, "");
    desk.end().await
}

/// A source is looked at every five seconds or so, a merge every two.
const TRIES: usize = 120;
const BETWEEN: Duration = Duration::from_millis(250);
