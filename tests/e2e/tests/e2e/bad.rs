//! Agents that can't work: each session ends with a reason and its program's last words, and nothing is tried for ever.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use berth_crds::{AgentSession, Phase};
use berth_e2e::agent::{AGENTS, Agent, CLAUDE_CODE, CODEX, HERMES, LONGEST, OPEN_CODE, World};
use berth_e2e::{Team, cluster};
use berth_gallery::origin::Answer;
use berth_gallery::played_model;
use serde_json::{Value, json};

/// Waits until the session has failed; gives what its condition `Succeeded` says.
async fn fails(team: &Team, name: &str) -> Result<String> {
    let failed = |session: &AgentSession| {
        let phase = session.status.as_ref().and_then(|status| status.phase);
        phase == Some(Phase::Failed)
    };
    let session = team.wait::<AgentSession>(name, "its failure", LONGEST, failed).await?;
    let conditions = session.status.context("a status")?.conditions;
    let said = conditions.into_iter().find(|it| it.type_ == "Succeeded");
    let said = said.context("a condition")?;
    Ok(format!("{}: {}", said.reason, said.message))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_the_image_lacks_is_named() -> Result<()> {
    let team = Team::create(&cluster().await?, "lacking").await?;
    for agent in AGENTS {
        let mut pool = team.pool_named(agent.image, 0);
        pool["spec"]["harness"] = json!({ "kind": agent.kind, "image": "localhost/berth-agent-base:dev" });
        team.apply(&pool).await?;
        let spec = json!({
            "poolRef": { "name": agent.image }, "task": { "prompt": "hello" }, "model": "played",
        });
        team.apply(&json!({
            "apiVersion": "berth.dev/v1alpha1", "kind": "AgentSession", "metadata": { "name": agent.image }, "spec": spec,
        }))
        .await?;
    }
    for agent in AGENTS {
        let said = fails(&team, agent.image).await?;
        assert!(
            said.starts_with("HarnessFailed: ") && said.contains("there is no such program in the image"),
            "{said}"
        );
    }
    team.end().await
}

/// The provider's own words about a model that it doesn't have are what people read.
async fn an_unknown_model_is_named(agent: &'static Agent) -> Result<()> {
    let answer = played_model::answer();
    let refuses: Answer = Arc::new(move |seen| {
        let asked: Value = serde_json::from_slice(&seen.body).unwrap_or_default();
        if asked["model"] != json!("nonesuch") {
            return answer(seen);
        }
        let error = json!({ "type": "error", "error": {
            "type": "not_found_error", "code": "model_not_found", "message": "model nonesuch isn't one of ours",
        } });
        let body = error.to_string();
        let head = "HTTP/1.1 404 Not Found\r\nContent-Type: application/json";
        Some(format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes())
    });
    let world = World::with_model(agent, refuses, &[]).await?;
    let mut session = world.session("hello");
    session["spec"]["model"] = "nonesuch".into();
    world.team.apply(&session).await?;
    let said = fails(&world.team, "s").await?;
    assert!(
        said.starts_with("HarnessFailed: ") && said.contains("nonesuch"),
        "{said}"
    );
    world.team.end_policy().await?;
    world.team.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claude_code_says_that_a_model_is_unknown() -> Result<()> {
    an_unknown_model_is_named(&CLAUDE_CODE).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn codex_says_that_a_model_is_unknown() -> Result<()> {
    an_unknown_model_is_named(&CODEX).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hermes_says_that_a_model_is_unknown() -> Result<()> {
    an_unknown_model_is_named(&HERMES).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opencode_says_that_a_model_is_unknown() -> Result<()> {
    an_unknown_model_is_named(&OPEN_CODE).await
}
