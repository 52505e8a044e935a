//! A merge grants, a revert revokes, and the agent never has the value.

use std::time::Duration;

use anyhow::{Context as _, Result};
use berth_crds::{AgentSession, CredentialBinding, Phase};
use berth_e2e::origin::Outside;
use berth_e2e::{PATIENCE, Repository, Team, cluster};
use kube::ResourceExt;
use serde_json::{Value, json};

const SECRET: &str = "fake-value-that-no-agent-may-see-2718281828";

/// A namespace with a host outside, a Secret that is offered to it, and a warm pool that trusts it.
async fn team(purpose: &str) -> Result<(Team, Outside)> {
    let team = Team::create(&cluster().await?, purpose).await?;
    let outside = Outside::create(&team).await?;
    team.offer("forge", SECRET, &outside.host).await?;
    let mut pool = team.pool(1);
    pool["spec"]["caBundleRef"] = json!({ "name": "upstream-ca" });
    team.apply(&pool).await?;
    Ok((team, outside))
}

/// Asks the host every fifth of a second, and prints each status and what came back.
fn asking(host: &str) -> String {
    let ask =
        format!(r#"curl -s -w ' status=%{{http_code}}\n' -H "Authorization: Bearer $TOKEN" https://{host}/loop?n=1"#);
    format!("while true; do {ask}; sleep 0.2; done")
}

fn session(name: &str, prompt: &str, required: bool) -> Value {
    let credentials = json!([{ "name": "TOKEN", "required": required }]);
    let spec = json!({ "poolRef": { "name": "pool" }, "task": { "prompt": prompt }, "credentials": credentials });
    json!({ "apiVersion": "berth.dev/v1alpha1", "kind": "AgentSession", "metadata": { "name": name }, "spec": spec })
}

fn binding(host: &str) -> Value {
    let route = json!({
        "name": "loop", "host": host, "methods": ["GET"], "paths": ["/loop"], "addresses": ["10.0.0.0/8"],
        "inject": { "header": { "name": "Authorization", "forms": ["Bearer {}"] } },
    });
    let credential = json!({ "name": "TOKEN", "source": { "secretRef": { "name": "forge", "key": "token" } } });
    let spec = json!({
        "credential": credential, "subjects": { "allSessions": true }, "routes": [route], "reason": "e2e",
    });
    json!({ "apiVersion": "berth.dev/v1alpha1", "kind": "CredentialBinding", "metadata": { "name": "forge" }, "spec": spec })
}

async fn says(team: &Team, reason: &str) -> Result<CredentialBinding> {
    team.wait::<CredentialBinding>("forge", reason, Duration::from_secs(40), |binding| {
        let conditions = binding
            .status
            .as_ref()
            .map(|status| status.conditions.as_slice())
            .unwrap_or_default();
        conditions.iter().any(|it| it.type_ == "Ready" && it.reason == reason)
    })
    .await
}

/// Waits until the agent's newest answer has this status; it asks five times a second.
async fn answers(team: &Team, uid: &str, status: &str, most: Duration) -> Result<String> {
    let wanted = format!("status={status}");
    let answered = team.output_that(uid, &wanted, |output| {
        let last = output.lines().rfind(|line| line.contains("status="));
        last.is_some_and(|line| line.ends_with(&wanted))
    });
    tokio::time::timeout(most, answered)
        .await
        .with_context(|| format!("no answer {status}"))?
}

#[tokio::test]
async fn a_merge_grants_and_a_revert_revokes_while_the_session_runs() -> Result<()> {
    let (team, outside) = team("grant").await?;
    team.policy(json!({ "allow": [{ "name": "outside", "hosts": [outside.host], "methods": ["GET"] }] }))
        .await?;
    let repository = Repository::create(&team.cluster, &team.namespace).await?;
    repository.write("s.yaml", &session("s", &asking(&outside.host), false).to_string())?;
    repository.push("Add a session")?;
    team.source("source", &repository.url).await?;
    let running = team.phase("s", Phase::Running).await?;
    let uid = running.uid().context("a uid")?;
    answers(&team, &uid, "000", PATIENCE).await?; // CONNECT is refused: no route covers the host
    assert!(outside.origin.text().is_empty(), "nothing left before the merge");

    repository.write("binding.yaml", &binding(&outside.host).to_string())?;
    let commit = repository.push("Let it use the forge")?;
    answers(&team, &uid, "200", PATIENCE).await?;
    let active = says(&team, "Granted").await?;
    let grant = active.status.and_then(|status| status.grant).context("a grant")?;
    assert_eq!(grant.commit.as_deref(), Some(commit.as_str()));
    team.condition("s", "CredentialsReady", "True", "CredentialsGranted")
        .await?;
    assert!(
        outside.origin.text().contains(&format!("Bearer {SECRET}")),
        "the host got the value"
    );

    repository.remove("binding.yaml")?;
    repository.push("Take it back")?;
    let output = answers(&team, &uid, "000", PATIENCE).await?;
    assert!(!output.contains(SECRET), "the echo was redacted");
    assert!(output.contains("authorization: Bearer stub_token_"), "{output}");

    let select = "select count(*) from credential_use where session_uid = $1 and path = '/loop' and status = 200 \
        and grants = array[$2] and redactions > 0";
    let uses: i64 = sqlx::query_scalar(select)
        .bind(&uid)
        .bind(&grant.fingerprint)
        .fetch_one(&team.cluster.database)
        .await?;
    assert!(uses > 0, "the uses are on record");
    team.end_policy().await?;
    team.end().await
}

#[tokio::test]
async fn a_binding_by_hand_grants_only_where_a_policy_accepts_it() -> Result<()> {
    let (team, outside) = team("direct").await?;
    team.policy(json!({ "allow": [{ "name": "outside", "hosts": [outside.host] }] }))
        .await?;
    team.apply(&binding(&outside.host)).await?;
    says(&team, "NotInSource").await?;
    team.end_policy().await?;
    team.policy(json!({
        "allow": [{ "name": "outside", "hosts": [outside.host] }], "require": { "direct": true },
    }))
    .await?;
    says(&team, "Granted").await?;
    let ask = format!(
        r#"curl -s -o /dev/null -H "Authorization: Bearer $TOKEN" https://{}/loop"#,
        outside.host
    );
    team.apply(&session("s", &ask, true)).await?;
    team.phase("s", Phase::Succeeded).await?;
    assert!(outside.origin.text().contains(SECRET));
    team.end_policy().await?;
    team.end().await
}

#[tokio::test]
async fn a_session_waits_for_a_credential_that_it_requires_and_is_told_what_is_missing() -> Result<()> {
    let (team, outside) = team("waits").await?;
    team.apply(&session("s", "echo ran > result.md", true)).await?;
    team.phase("s", Phase::Bound).await?;
    team.condition("s", "CredentialsReady", "False", "CredentialsMissing")
        .await?;
    team.policy(json!({
        "allow": [{ "name": "outside", "hosts": [outside.host] }], "require": { "direct": true },
    }))
    .await?;
    team.apply(&binding(&outside.host)).await?;
    let done = team.phase("s", Phase::Succeeded).await?;
    assert_eq!(
        done.status.and_then(|status| status.credentials_summary).as_deref(),
        Some("1/1")
    );
    team.end_policy().await?;
    team.end().await
}

#[tokio::test]
async fn a_secret_is_used_only_as_its_owner_offers_it() -> Result<()> {
    let (team, outside) = team("offers").await?;
    team.policy(json!({
        "allow": [{ "name": "all", "hosts": [outside.host, "other.example.com"] }], "require": { "direct": true },
    }))
    .await?;
    team.apply(&binding("other.example.com")).await?;
    says(&team, "HostNotOffered").await?;
    team.kubectl(&["label", "secret", "forge", "berth.dev/credential-"])?;
    team.apply(&binding(&outside.host)).await?;
    says(&team, "SecretNotOffered").await?;
    team.kubectl(&["label", "secret", "forge", "berth.dev/credential=true"])?;
    says(&team, "Granted").await?;
    team.kubectl(&["delete", "secret", "forge"])?;
    says(&team, "SecretNotFound").await?;
    // The controller itself may read none of it, here or elsewhere.
    let controller = "--as=system:serviceaccount:berth-system:berth-controller";
    let may = team.kubectl(&["auth", "can-i", "get", "secrets", controller]);
    assert!(may.is_err_and(|said| said.to_string().contains("no")));
    team.end_policy().await?;
    team.end().await
}

/// What an agent was refused is proposed on its session, and granted as it stands there.
#[tokio::test]
async fn a_refused_request_says_which_binding_would_allow_it() -> Result<()> {
    let (team, outside) = team("proposal").await?;
    team.policy(json!({
        "allow": [{ "name": "outside", "hosts": [outside.host], "methods": ["GET", "POST"] }], "require": { "direct": true },
    }))
    .await?;
    team.apply(&binding(&outside.host)).await?;
    says(&team, "Granted").await?;
    let ask = format!(
        r#"curl -s -o /dev/null -w 'status=%{{http_code}}\n' -X POST -H "Authorization: Bearer $TOKEN" 'https://{}/issues/7?q=1'"#,
        outside.host
    );
    team.apply(&session("s", &format!("while true; do {ask}; sleep 0.2; done"), true))
        .await?;
    let running = team.phase("s", Phase::Running).await?;
    let uid = running.uid().context("a uid")?;
    answers(&team, &uid, "403", PATIENCE).await?;
    let proposed = |session: &AgentSession| {
        session
            .status
            .as_ref()
            .is_some_and(|status| !status.proposals.is_empty())
    };
    let session = team.wait::<AgentSession>("s", "a proposal", PATIENCE, proposed).await?;
    let proposals = session.status.map(|status| status.proposals).unwrap_or_default();
    let proposal = proposals.first().context("a proposal")?;
    assert_eq!(
        (proposal.method.as_str(), proposal.path.as_str()),
        ("POST", "/issues/7")
    );

    let document: Value = serde_yaml::from_str(&proposal.binding)?;
    team.apply(&document).await?;
    answers(&team, &uid, "200", PATIENCE).await?;
    assert!(outside.origin.text().contains(&format!("Bearer {SECRET}")));
    team.end_policy().await?;
    team.end().await
}
