//! The four real agent programs at the real LiteLLM, each with a key of its session's own. The model behind it is a
//! stand-in (`berth_gallery::played_model`) and so are LiteLLM's key routes (`berth_e2e::litellm`).

use anyhow::{Context as _, Result};
use berth_crds::AgentSession;
use berth_e2e::agent::{AGENTS, Agent, LONGEST};
use berth_e2e::litellm::LiteLlm;
use berth_e2e::origin::{clusters_own, expose, name, trust};
use berth_e2e::{Team, cluster};
use berth_gallery::origin::Origin;
use berth_gallery::played_model;
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::gateway::{GATEWAY, NAMESPACE, TURN};
use crate::resume::row;

/// A binding that gives a session's own key to this variable.
fn binding(variable: &str, host: &str) -> Value {
    let route = json!({
        "name": "models", "host": host, "methods": ["GET", "POST"], "paths": ["/v1/**"], "addresses": ["10.0.0.0/8"],
        "inject": { "header": { "name": "Authorization", "forms": ["Bearer {}"] } },
    });
    let source = json!({ "liteLLMKey": { "gateway": GATEWAY, "models": ["played"] } });
    let credential = json!({ "name": variable, "stub": { "prefix": "sk-" }, "source": source });
    let name = variable.to_lowercase().replace('_', "-");
    json!({
        "apiVersion": "berth.dev/v1alpha1", "kind": "CredentialBinding", "metadata": { "name": name },
        "spec": { "credential": credential, "subjects": { "allSessions": true }, "routes": [route], "reason": "e2e" },
    })
}

/// A pool of this program, and a session of it with a budget, that has a command run.
async fn begin(team: &Team, agent: &Agent, host: &str) -> Result<()> {
    let mut pool = team.pool_named(agent.image, 0);
    pool["spec"]["caBundleRef"] = json!({ "name": "upstream-ca" });
    pool["spec"]["harness"] = json!({ "kind": agent.kind, "image": format!("localhost/berth-{}:dev", agent.image) });
    team.apply(&pool).await?;
    let (variable, path) = agent.address;
    let spec = json!({
        "poolRef": { "name": agent.image }, "model": "played", "credentials": [{ "name": agent.key }],
        "task": { "prompt": "Run `echo \"$((6 * 7)) of it\" | tee answer`" }, "budget": { "limit": "5.00" },
        "env": [{ "name": variable, "value": format!("https://{host}{path}") }],
    });
    team.apply(&json!({
        "apiVersion": "berth.dev/v1alpha1", "kind": "AgentSession", "metadata": { "name": agent.image }, "spec": spec,
    }))
    .await
    .map(drop)
}

/// The program did what its model wanted, and the record says to the cent what LiteLLM reckons.
async fn ended(team: &Team, agent: &Agent, gateway: &LiteLlm) -> Result<()> {
    let has = |session: &AgentSession| {
        let result = session.status.as_ref().and_then(|status| status.result.as_ref());
        result.is_some_and(|result| result.exit_code.is_some())
    };
    let session = team.wait::<AgentSession>(agent.image, "its end", LONGEST, has).await?;
    let uid = session.uid().context("a uid")?;
    let printed = team.output(&uid).await?;
    let result = session.status.and_then(|status| status.result).context("a result")?;
    assert_eq!(result.exit_code, Some(0), "{}: {printed}", agent.image);
    let summary = result.summary.unwrap_or_default();
    let wanted = summary.contains(played_model::DONE) && summary.contains("42 of it");
    assert!(wanted, "{}: {summary}", agent.image);

    let settled = "select count(*) > 0 and count(*) filter (where cost is null) = 0 from credential_use \
        where session_uid = $1 and verdict = 'allowed' and method = 'POST'";
    row(team, settled, &uid).await?;
    let sum = "select coalesce(sum(cost), 0)::float8 / 1e12 from credential_use where session_uid = $1";
    let recorded: f64 = sqlx::query_scalar(sum)
        .bind(&uid)
        .fetch_one(&team.cluster.database)
        .await?;
    let keys = gateway.keys().await?;
    let key = keys.iter().find(|key| key.metadata["session_uid"] == json!(uid));
    let key = key.with_context(|| format!("no key of {} in {keys:?}", agent.image))?;
    assert!(
        key.answers > 0 && key.spend > 0.0 && (key.spend - recorded).abs() < 1e-9,
        "{}: {recorded} in the record, at LiteLLM {key:?}",
        agent.image
    );
    // Berth has asked LiteLLM itself, which says the same.
    let asked = |session: &AgentSession| {
        let spend = session.status.as_ref().and_then(|status| status.spend.as_ref());
        spend.is_some_and(|spend| spend.difference_usd.as_deref() == Some("0.0000"))
    };
    team.wait::<AgentSession>(agent.image, "LiteLLM's figure", LONGEST, asked)
        .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_agent_spends_a_key_of_its_own_at_the_real_litellm() -> Result<()> {
    let _turn = TURN.lock().await;
    let cluster = cluster().await?;
    cluster.add(&["litellm"])?;
    cluster.add(&["agents"])?;
    let (team, lasting) = (
        Team::create(&cluster, "litellm").await?,
        Team::lasting(&cluster, NAMESPACE).await?,
    );
    let (authority, host) = (clusters_own(&cluster)?, name(&lasting, "gateway"));
    trust(&team, &authority).await?;
    let model = Origin::http1(&authority, &["localhost"], played_model::answer()).await?;
    let model_url = format!("https://localhost:{}/v1", model.address.port());
    let gateway = LiteLlm::start(&authority, &host, &model_url).await?;
    let _exposed = expose(&lasting, "gateway", gateway.address).await?;
    let allow = json!([{ "name": "models", "sources": { "gateways": [GATEWAY] }, "hosts": [host] }]);
    team.policy(json!({ "allow": allow, "require": { "direct": true } }))
        .await?;
    for variable in ["ANTHROPIC_AUTH_TOKEN", "OPENAI_API_KEY"] {
        team.apply(&binding(variable, &host)).await?;
    }
    for agent in AGENTS {
        begin(&team, agent, &host).await?;
    }
    for agent in AGENTS {
        ended(&team, agent, &gateway).await?;
    }
    team.end_policy().await?;
    team.end().await
}
