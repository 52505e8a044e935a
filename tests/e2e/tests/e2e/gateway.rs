//! A session's own key of a model gateway: made when it may use it, spent through its stub, gone with it. The gateway is a
//! stand-in of LiteLLM (`berth_gallery::litellm_stand_in`, which says why), where `bin/up` tells the controller it is.

use std::time::Duration;

use anyhow::{Context as _, Result};
use berth_crds::{AgentSession, Phase};
use berth_e2e::origin::{clusters_own, expose, name, trust};
use berth_e2e::{Team, cluster};
use berth_gallery::litellm_stand_in::{Fault, LiteLlmStandIn};
use kube::ResourceExt;
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// What `bin/up` configures.
const GATEWAY: &str = "e2e";
const NAMESPACE: &str = "e2e-gateway";

/// The gateway, and a team that may use it.
struct Scene {
    team: Team,
    host: String,
    stand_in: LiteLlmStandIn,
    _exposed: JoinSet<()>,
}

impl Scene {
    async fn create(purpose: &str) -> Result<Self> {
        let cluster = cluster().await?;
        let (team, lasting) = (
            Team::create(&cluster, purpose).await?,
            Team::lasting(&cluster, NAMESPACE).await?,
        );
        let (authority, host) = (clusters_own(&cluster)?, name(&lasting, "gateway"));
        trust(&team, &authority).await?;
        let stand_in = LiteLlmStandIn::start(&authority, &[&host]).await?;
        let exposed = expose(&lasting, "gateway", stand_in.origin.address).await?;
        let mut pool = team.pool(1);
        pool["spec"]["caBundleRef"] = json!({ "name": "upstream-ca" });
        team.apply(&pool).await?;
        let sources = json!({ "gateways": [GATEWAY] });
        let allow = json!([{ "name": "models", "sources": sources, "hosts": [host] }]);
        team.policy(json!({ "allow": allow, "require": { "direct": true } }))
            .await?;
        let scene = Self {
            team,
            host,
            stand_in,
            _exposed: exposed,
        };
        scene.bind().await?;
        Ok(scene)
    }

    async fn bind(&self) -> Result<()> {
        let route = json!({
            "name": "models", "host": self.host, "methods": ["POST"], "addresses": ["10.0.0.0/8"],
            "inject": { "header": { "name": "Authorization", "forms": ["Bearer {}"] } },
        });
        let source = json!({ "liteLLMKey": { "gateway": GATEWAY, "models": ["gpt-fake"] } });
        let credential = json!({ "name": "OPENAI_API_KEY", "stub": { "prefix": "sk-" }, "source": source });
        let spec = json!({
            "credential": credential, "subjects": { "allSessions": true }, "routes": [route], "reason": "e2e",
        });
        let binding = json!({
            "apiVersion": "berth.dev/v1alpha1", "kind": "CredentialBinding", "metadata": { "name": "models" }, "spec": spec,
        });
        self.team.apply(&binding).await.map(drop)
    }

    async fn session(&self, name: &str, after: &str) -> Result<()> {
        let ask = format!(
            "curl -s -w ' status=%{{http_code}}\\n' https://{}/v1/chat/completions \
            -H \"Authorization: Bearer $OPENAI_API_KEY\" -H 'x-litellm-session-id: another-session' \
            -H 'x-litellm-tags: free' -d '{{\"model\": \"gpt-fake\", \"messages\": []}}'",
            self.host
        );
        let credentials = json!([{ "name": "OPENAI_API_KEY" }]);
        let task = json!({ "prompt": format!("echo \"key=$OPENAI_API_KEY\"; {ask}; {after}") });
        let spec = json!({ "poolRef": { "name": "pool" }, "task": task, "credentials": credentials });
        let session = json!({
            "apiVersion": "berth.dev/v1alpha1", "kind": "AgentSession", "metadata": { "name": name }, "spec": spec,
        });
        self.team.apply(&session).await.map(drop)
    }

    /// Waits until the gateway has this many keys.
    async fn has_keys(&self, count: usize) -> Result<()> {
        let look = async {
            while self.stand_in.keys().len() != count {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let found = tokio::time::timeout(ASKED, look).await;
        found.with_context(|| format!("{:?} instead of {count} keys", self.stand_in.keys()))
    }
}

/// What a session printed, once that has this.
async fn printed(team: &Team, session: &AgentSession, text: &str) -> Result<String> {
    let uid = session.uid().context("a uid")?;
    let look = async {
        loop {
            let output = team.output(&uid).await?;
            if output.contains(text) {
                return Ok::<_, anyhow::Error>(output);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let found = tokio::time::timeout(ASKED, look).await;
    found.with_context(|| format!("nothing of {text} is printed"))?
}

/// One after the other, as there is one gateway.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_spends_a_key_of_its_own_that_goes_with_it() -> Result<()> {
    let scene = Scene::create("gateway").await?;
    scene.session("s", "until [ -e stop ]; do sleep 0.2; done").await?;
    let running = scene.team.phase("s", Phase::Running).await?;
    let key = spends(&scene, &running).await?;
    is_blocked_while_suspended(&scene, &key).await?;
    let pod = scene.team.pod_of(&running).await?.name_any();
    let stop = ["exec", &pod, "--container", "agent", "--", "touch", "/workspace/stop"];
    scene.team.kubectl(&stop)?;
    scene.team.phase("s", Phase::Succeeded).await?;
    scene.has_keys(0).await?;
    waits_while_the_gateway_is_away(&scene).await?;
    scene.team.end_policy().await?;
    scene.team.end().await
}

/// Gives the key, which the gateway alone has seen.
async fn spends(scene: &Scene, session: &AgentSession) -> Result<String> {
    let output = printed(&scene.team, session, "status=200").await?;
    scene.has_keys(1).await?;
    let (key, row) = scene.stand_in.keys().pop_first().context("a key")?;
    let uid = session.uid().context("a uid")?;
    assert_eq!(
        (&row["metadata"]["session_uid"], &row["models"]),
        (&json!(uid), &json!(["gpt-fake"]))
    );
    assert!(output.contains("key=sk-") && output.contains("played"), "{output}");
    assert!(!output.contains(&key), "the agent never has the key");
    let asked = scene.stand_in.origin.requests();
    let call = asked.iter().find(|seen| seen.target() == "/v1/chat/completions");
    let call = call.context("a call")?;
    assert_eq!(call.header("authorization"), Some(format!("Bearer {key}")));
    assert_eq!(call.header("x-litellm-session-id"), Some(uid));
    assert!(
        !call.head.contains("another-session") && call.header("x-litellm-tags").is_none(),
        "{}",
        call.head
    );
    Ok(key)
}

/// Granted no more, the key is blocked, with what it has spent; granted again it is the same one.
async fn is_blocked_while_suspended(scene: &Scene, key: &str) -> Result<()> {
    for suspended in [true, false] {
        let patch = json!({ "spec": { "suspend": suspended } }).to_string();
        let change = [
            "patch",
            "credentialbinding",
            "models",
            "--type=merge",
            "--patch",
            &patch,
        ];
        scene.team.kubectl(&change)?;
        is_blocked(scene, key, suspended).await?;
    }
    scene.has_keys(1).await
}

/// A session waits, is told why, and goes on when the gateway is back.
async fn waits_while_the_gateway_is_away(scene: &Scene) -> Result<()> {
    scene.stand_in.fails_with(Some(Fault::Broken));
    scene.session("t", "true").await?;
    let told = scene
        .team
        .condition("t", "CredentialsReady", "False", "GatewayUnreachable")
        .await?;
    let conditions = told.status.map(|status| status.conditions).unwrap_or_default();
    let said = conditions.iter().find(|it| it.type_ == "CredentialsReady");
    let said = said.map(|it| it.message.clone()).unwrap_or_default();
    assert!(said.contains("gateway e2e fails: 500"), "{said}");
    scene.stand_in.fails_with(None);
    scene.team.phase("t", Phase::Succeeded).await?;
    scene.has_keys(0).await
}

async fn is_blocked(scene: &Scene, key: &str, blocked: bool) -> Result<()> {
    let is = || {
        scene
            .stand_in
            .keys()
            .get(key)
            .is_some_and(|row| row.get("blocked") == Some(&Value::from(blocked)))
    };
    let look = async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let found = tokio::time::timeout(ASKED, look).await;
    found.with_context(|| format!("blocked={blocked} was never told"))
}

/// A look at the bindings, and a request to the gateway; after a failure the first back-off.
const ASKED: Duration = Duration::from_secs(40);
