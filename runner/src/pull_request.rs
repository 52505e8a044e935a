//! IO: opens the pull request of a session's branch. It goes through the vault with the session's own stub, so the forge
//! sees the agent's identity and never Berth's: what it opens, it can't also be counted to approve (DESIGN §4).

use std::time::Duration;

use berth_protocol::handoff::{Assignment, PullRequest};
use reqwest::{Certificate, Client, Proxy, Response, StatusCode, Url};
use serde_json::{Value, json};

use crate::harness::PROXY;

/// What is to be merged, in words.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Proposal {
    /// Branch with the changes.
    pub head: String,
    /// Branch that they are to be merged into.
    pub base: String,
    /// One line.
    pub title: String,
    /// What the agent says of it, and who it was.
    pub body: String,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The session has nothing to show the forge.
    #[error(
        "the pull request can't be opened: the session lists no credential for the repository; it needs one with a route \
         for GET and POST to {0}"
    )]
    NoCredential(String),
    /// No client could be made, or the forge can't be reached.
    #[error("the pull request can't be opened: {0}")]
    Reach(#[from] reqwest::Error),
    /// The forge, or the vault in its place, says no.
    #[error("the pull request can't be opened: {status}: {said}")]
    Refused {
        /// Status of the answer.
        status: StatusCode,
        /// Its own words.
        said: String,
    },
}

/// Opens it, or finds the one that is open already; gives its number.
pub async fn open(assignment: &Assignment, wanted: &PullRequest, proposal: &Proposal) -> Result<u64, PullError> {
    let repository = assignment.repository.as_ref();
    let stub = repository.and_then(|repository| assignment.env.get(&repository.credential));
    let stub = stub.ok_or_else(|| PullError::NoCredential(wanted.api.clone()))?;
    let client = client(assignment)?;
    let Proposal {
        head,
        base,
        title,
        body,
    } = proposal;
    let asked = json!({ "head": head, "base": base, "title": title, "body": body });
    let (mut status, mut text);
    let mut tries = 0;
    loop {
        let answer = client.post(&wanted.api).bearer_auth(stub).json(&asked).send().await?;
        (status, text) = (answer.status(), words(answer).await);
        tries += 1;
        // Gitea learns of a pushed branch a moment after the push, and says 404 until then.
        if status != StatusCode::NOT_FOUND || tries >= TRIES {
            break;
        }
        tokio::time::sleep(BETWEEN_TRIES).await;
    }
    if status.is_success()
        && let Some(number) = number(&text)
    {
        return Ok(number);
    }
    // Gitea says 409 for one that is there already, GitHub 422.
    if [StatusCode::CONFLICT, StatusCode::UNPROCESSABLE_ENTITY].contains(&status)
        && let Some(number) = find(&client, wanted, stub, proposal).await?
    {
        return Ok(number);
    }
    Err(PullError::Refused {
        status,
        said: said(&text),
    })
}

fn client(assignment: &Assignment) -> reqwest::Result<Client> {
    // Another part of this process may have been first; it is the same provider.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let bundle = assignment
        .env
        .get("SSL_CERT_FILE")
        .map(std::fs::read)
        .and_then(Result::ok);
    let certificates = Certificate::from_pem_bundle(&bundle.unwrap_or_default())?;
    Client::builder()
        .user_agent("berth-runner")
        .proxy(Proxy::all(PROXY)?)
        .redirect(reqwest::redirect::Policy::none())
        .timeout(TIMEOUT)
        .tls_certs_only(certificates)
        .build()
}

/// GitHub lists those of the head alone, Gitea the newest of all.
async fn find(
    client: &Client,
    wanted: &PullRequest,
    stub: &str,
    Proposal { head, base, .. }: &Proposal,
) -> Result<Option<u64>, PullError> {
    let owner = wanted.api.rsplit('/').nth(2).unwrap_or_default();
    let head_of = format!("{owner}:{head}");
    let query = [
        ("state", "open"),
        ("head", &head_of),
        ("limit", "50"),
        ("per_page", "50"),
    ];
    let Ok(url) = Url::parse_with_params(&wanted.api, &query) else {
        return Ok(None); // the first request would have failed
    };
    let answer = client.get(url).bearer_auth(stub).send().await?;
    Ok(of_branches(&words(answer).await, head, base))
}

/// The number of the listed pull request that is between these branches.
fn of_branches(list: &str, head: &str, base: &str) -> Option<u64> {
    let list: Vec<Value> = serde_json::from_str(list).ok()?;
    let named = |pull: &Value, end: &str, branch: &str| pull[end]["ref"] == branch;
    let found = list
        .iter()
        .find(|pull| named(pull, "head", head) && named(pull, "base", base));
    found?["number"].as_u64()
}

fn number(pull: &str) -> Option<u64> {
    serde_json::from_str::<Value>(pull).ok()?["number"].as_u64()
}

/// What a refusal says: a forge's `message`, the vault's `reason`, else its first words.
fn said(text: &str) -> String {
    let parsed: Value = serde_json::from_str(text).unwrap_or_default();
    let named = ["message", "reason"].into_iter().find_map(|name| parsed[name].as_str());
    let message = named.unwrap_or(text);
    message.chars().take(SAID_MAX).collect()
}

/// At most [`ANSWER_MAX`] bytes: what is longer is no answer that is known here.
async fn words(mut answer: Response) -> String {
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = answer.chunk().await {
        body.extend_from_slice(&chunk);
        if body.len() > ANSWER_MAX {
            return String::new();
        }
    }
    String::from_utf8_lossy(&body).into_owned()
}

/// For a branch that the forge doesn't know yet: 10 s.
const TRIES: u32 = 20;
const BETWEEN_TRIES: Duration = Duration::from_millis(500);
/// One request.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Fifty pull requests with their repositories have some hundred kilobytes.
const ANSWER_MAX: usize = 4 << 20;
/// The sidecar cuts an error to 1 KiB.
const SAID_MAX: usize = 500;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_open_already_is_known_by_both_of_its_branches() {
        let pull = |number: u64, head: &str, base: &str| json!({ "number": number, "head": { "ref": head }, "base": { "ref": base } });
        let list = json!([
            pull(3, "agent/a", "next"),
            pull(2, "agent/b", "main"),
            pull(1, "agent/a", "main")
        ]);
        assert_eq!(of_branches(&list.to_string(), "agent/a", "main"), Some(1));
        assert_eq!(of_branches(&list.to_string(), "agent/c", "main"), None);
        assert_eq!(of_branches("<html>", "agent/a", "main"), None);
    }

    #[test]
    fn a_refusal_is_told_in_its_own_words() {
        assert_eq!(said(r#"{"message": "no such branch"}"#), "no such branch");
        assert_eq!(said(r#"{"error": "denied", "reason": "no grant"}"#), "no grant");
        assert_eq!(said("Bad gateway"), "Bad gateway");
        assert_eq!(said(&"x".repeat(9_000)).len(), SAID_MAX);
    }
}
