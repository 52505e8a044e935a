//! A session's own key of a model gateway: made when it may use it, spent through its stub, gone with it. The gateway is a
//! stand-in of LiteLLM (`berth_gallery::litellm_stand_in`, which says why), where `bin/up` tells the controller it is.

use std::time::Duration;

use anyhow::{Context as _, Result};
use berth_crds::{AgentSession, Phase};
use berth_e2e::origin::{clusters_own, expose, name, trust};
use berth_e2e::{PATIENCE, Team, cluster};
use berth_gallery::litellm_stand_in::{COST, Fault, LiteLlmStandIn, UNTOLD};
use kube::ResourceExt;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

/// What `bin/up` configures.
pub(crate) const GATEWAY: &str = "e2e";
pub(crate) const NAMESPACE: &str = "e2e-gateway";

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

    /// What a session has spent: of all keys of the gateway that were ever its, and by the record, once that has all of it.
    async fn spent(&self, session_uid: &str) -> Result<(f64, f64)> {
        let asked = self.stand_in.origin.requests();
        let calls = asked.iter().filter(|seen| seen.target() == "/v1/chat/completions");
        let calls = calls.filter(|seen| seen.header("x-litellm-session-id").as_deref() == Some(session_uid));
        let at_gateway = f64::from(u32::try_from(calls.count())?) * COST;
        let sum = "select count(*) filter (where cost is null), coalesce(sum(cost), 0)::float8 / 1e12 from credential_use \
            where session_uid = $1 and verdict = 'allowed'";
        let look = async {
            loop {
                let query = sqlx::query_as(sum).bind(session_uid);
                let (open, recorded): (i64, f64) = query.fetch_one(&self.team.cluster.database).await?;
                if open == 0 && recorded > at_gateway - 1e-9 {
                    return Ok((at_gateway, recorded));
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(PATIENCE, look)
            .await
            .context("the record isn't complete")?
    }

    /// Waits until the gateway has this many keys.
    async fn has_keys(&self, count: usize) -> Result<()> {
        let look = async {
            while self.stand_in.keys().len() != count {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let found = tokio::time::timeout(PATIENCE, look).await;
        found.with_context(|| format!("{:?} instead of {count} keys", self.stand_in.keys()))
    }
}

/// One after the other, as there is one gateway.
pub(crate) static TURN: Mutex<()> = Mutex::const_new(());

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_session_spends_stays_within_its_budget() -> Result<()> {
    let _turn = TURN.lock().await;
    let scene = Scene::create("budget").await?;
    let (team, host) = (&scene.team, &scene.host);
    // Each may cost 0.0254 dollars at most and does cost 0.01; fifty come at once.
    let ask = format!(
        "curl -s -w ' status=%{{http_code}}\\n' https://{host}/v1/chat/completions \
        -H \"Authorization: Bearer $OPENAI_API_KEY\" -d '{{\"model\": \"gpt-fake\", \"max_tokens\": 20, \"messages\": []}}'"
    );
    let prompt = format!(
        "ask() {{ {ask}; }}; echo life >> lives\n\
        if [ -n \"$BERTH_RESUMED_FROM\" ]; then ask > more; cat more lives; exit; fi\n\
        for i in $(seq 50); do ask > said.$i & done; wait; cat said.*; echo asked; sleep 600"
    );
    let spec = json!({
        "poolRef": { "name": "pool" }, "task": { "prompt": prompt, "onInterrupt": "Resume" },
        "credentials": [{ "name": "OPENAI_API_KEY" }], "budget": { "limit": "0.10" },
    });
    team.apply(&json!({
        "apiVersion": "berth.dev/v1alpha1", "kind": "AgentSession", "metadata": { "name": "b" }, "spec": spec,
    }))
    .await?;
    let broke = team
        .condition("b", "BudgetExhausted", "True", "BudgetExhausted")
        .await?;
    let broke = team
        .phase("b", Phase::Paused)
        .await
        .with_context(|| format!("{:?}", broke.status))?;
    let uid = broke.uid().context("a uid")?;
    team.claims_gone().await?;
    let output = team.output_with(&uid, "asked").await?;
    let passed = output.matches("status=200").count();
    assert!(
        (4..=10).contains(&passed) && passed + output.matches("status=402").count() == 50,
        "{output}"
    );
    assert!(output.contains("the budget of this session is 0.1000 USD"), "{output}");
    let spent = scene.spent(&uid).await?;
    assert!(
        spent.0 < 0.1001 && (spent.0 - spent.1).abs() < 1e-9,
        "at the gateway and in the record: {spent:?}"
    );
    let shown: f64 = broke
        .status
        .and_then(|status| status.spend)
        .context("what was spent")?
        .usd
        .parse()?;
    assert!((shown - spent.0).abs() < 1e-3, "{shown} of {spent:?}");

    // Not a cent more of the same budget; with a larger one it goes on where it was.
    let raise = json!({ "spec": { "budget": { "limit": "0.20" } } }).to_string();
    team.kubectl(&["patch", "agentsession", "b", "--type=merge", "--patch", &raise])?;
    let over = team.phase("b", Phase::Succeeded).await?;
    let status = over.status.context("a status")?;
    assert_eq!((status.incarnation, status.resumes, status.paused), (2, 0, None));
    let output = team.output_with(&uid, "life\nlife\n").await?;
    assert!(output.ends_with("status=200\nlife\nlife\n"), "{output}");
    let after = scene.spent(&uid).await?;
    assert!(
        (after.0 - spent.0 - COST).abs() < 1e-9 && (after.0 - after.1).abs() < 1e-9,
        "{after:?}"
    );
    scene.team.end_policy().await?;
    scene.team.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_answer_does_not_tell_is_settled_by_the_gateways_figure() -> Result<()> {
    let _turn = TURN.lock().await;
    let scene = Scene::create("figure").await?;
    let team = &scene.team;
    let ask = |user: &str| {
        format!(
            "curl -s -w ' status=%{{http_code}}\\n' https://{}/v1/chat/completions -H \"Authorization: Bearer $OPENAI_API_KEY\" \
            -d '{{\"model\": \"gpt-fake\", \"max_tokens\": 20, \"user\": \"{user}\", \"messages\": []}}'",
            scene.host
        )
    };
    // One may cost 0.0271 at most and keeps that, so that there is no room for another; both do cost 0.01.
    let prompt = format!(
        "{}; until [ -e go ]; do sleep 0.2; done; {}",
        ask(UNTOLD),
        ask("somebody")
    );
    let spec = json!({
        "poolRef": { "name": "pool" }, "task": { "prompt": prompt }, "budget": { "limit": "0.05" },
        "credentials": [{ "name": "OPENAI_API_KEY" }],
    });
    team.apply(&json!({
        "apiVersion": "berth.dev/v1alpha1", "kind": "AgentSession", "metadata": { "name": "f" }, "spec": spec,
    }))
    .await?;
    let session = team.phase("f", Phase::Running).await?;
    let uid = session.uid().context("a uid")?;
    team.output_with(&uid, "status=200").await?;
    let (_, reserved) = scene.spent(&uid).await?;
    assert!(reserved > 0.025, "{reserved}");
    let says = |gateway: &'static str| {
        move |session: &AgentSession| {
            let spend = session.status.as_ref().and_then(|status| status.spend.as_ref());
            spend.is_some_and(|spend| spend.gateway_usd.as_deref() == Some(gateway))
        }
    };
    let told = team
        .wait::<AgentSession>("f", "the gateway's figure", PATIENCE, says("0.0100"))
        .await?;
    let spend = told.status.and_then(|status| status.spend).context("what was spent")?;
    let difference: f64 = spend.difference_usd.context("a difference")?.parse()?;
    assert!(
        spend.usd == "0.0100" && (difference - (COST - reserved)).abs() < 2e-4,
        "{} {difference}",
        spend.usd
    );
    let pod = team.pod_of(&session).await?.name_any();
    team.kubectl(&["exec", &pod, "--container", "agent", "--", "touch", "/workspace/go"])?;
    let over = team.phase("f", Phase::Succeeded).await?;
    let output = team.output(&uid).await?;
    assert!(output.matches("status=200").count() == 2, "{output} {:?}", over.status);

    // It is asked about once more when it is over; then its key goes.
    let told = team
        .wait::<AgentSession>("f", "the last figure", PATIENCE, says("0.0200"))
        .await?;
    let spend = told.status.and_then(|status| status.spend).context("what was spent")?;
    assert_eq!(spend.usd, "0.0200");
    scene.has_keys(0).await?;
    let row = "select said, told, estimated, lost from gateway_figure where session_uid = $1";
    let (said, told, estimated, lost): (i64, i64, i64, i64) =
        sqlx::query_as(row).bind(&uid).fetch_one(&team.cluster.database).await?;
    assert_eq!((said, told, lost), (20_000_000_000, 10_000_000_000, 0));
    assert!(estimated > 25_000_000_000, "{estimated}");
    scene.team.end_policy().await?;
    scene.team.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_of_a_namespace_spend_its_budget_together() -> Result<()> {
    let _turn = TURN.lock().await;
    let scene = Scene::create("purse").await?;
    let team = &scene.team;
    let purse = json!({ "spec": { "budget": { "limit": "0.15", "period": "Day" } } }).to_string();
    let policy = [
        "patch",
        "grantpolicy",
        &team.namespace,
        "--type=merge",
        "--patch",
        &purse,
    ];
    team.kubectl(&policy)?;
    let apply = async |name: &str, budget: Value, after: &str| {
        let ask = format!(
            "curl -s -w ' status=%{{http_code}}\\n' https://{}/v1/chat/completions -H \"Authorization: Bearer \
            $OPENAI_API_KEY\" -d '{{\"model\": \"gpt-fake\", \"max_tokens\": 20, \"messages\": []}}'; {after}",
            scene.host
        );
        let spec = json!({
            "poolRef": { "name": "pool" }, "task": { "prompt": ask }, "budget": budget,
            "credentials": [{ "name": "OPENAI_API_KEY" }],
        });
        let session = json!({
            "apiVersion": "berth.dev/v1alpha1", "kind": "AgentSession", "metadata": { "name": name }, "spec": spec,
        });
        team.apply(&session).await
    };
    apply(
        "one",
        json!({ "limit": "0.10" }),
        "until [ -e stop ]; do sleep 0.2; done",
    )
    .await?;
    let one = team.phase("one", Phase::Running).await?;
    let uid = one.uid().context("a uid")?;
    team.output_with(&uid, "status=200").await?;
    assert!((scene.spent(&uid).await?.1 - COST).abs() < 1e-9);

    // It has spent 0.01 and holds 0.09 more.
    apply("two", json!({ "limit": "0.10" }), "").await?;
    apply("none", Value::Null, "").await?;
    for (name, says) in [("two", "no more than 0.0500"), ("none", "set spec.budget.limit")] {
        let waits = team
            .condition(name, "CredentialsReady", "False", "NamespaceBudget")
            .await?;
        let conditions = waits.status.context("a status")?.conditions;
        let said = conditions
            .iter()
            .any(|it| it.type_ == "CredentialsReady" && it.message.contains(says));
        assert!(said, "{name}: {conditions:?}");
    }
    let pod = team.pod_of(&one).await?.name_any();
    team.kubectl(&["exec", &pod, "--container", "agent", "--", "touch", "/workspace/stop"])?;
    team.phase("one", Phase::Succeeded).await?;
    let two = team.phase("two", Phase::Succeeded).await?;
    let uid = two.uid().context("a uid")?;
    let output = team.output(&uid).await?;
    assert!(output.contains("status=200"), "{output}");
    assert!((scene.spent(&uid).await?.1 - COST).abs() < 1e-9);
    scene.team.end_policy().await?;
    scene.team.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_spends_a_key_of_its_own_that_goes_with_it() -> Result<()> {
    let _turn = TURN.lock().await;
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
    let uid = session.uid().context("a uid")?;
    let output = scene.team.output_with(&uid, "status=200").await?;
    scene.has_keys(1).await?;
    let (key, row) = scene.stand_in.keys().pop_first().context("a key")?;
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
    let found = tokio::time::timeout(PATIENCE, look).await;
    found.with_context(|| format!("blocked={blocked} was never told"))
}
