//! The four real agent programs in a session's pod: each runs a command that its model asks for, with a key that it never
//! sees. The model is a stand-in (`berth_gallery::played_model`).

use std::time::Duration;

use anyhow::{Context as _, Result};
use berth_crds::{AgentSession, Phase};
use berth_e2e::api::Caller;
use berth_e2e::origin::{Outside, name, trust};
use berth_e2e::{Team, cluster};
use berth_gallery::origin::{Authority, Origin, Seen};
use berth_gallery::played_model;
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::interactive::waits;
use crate::resume::row;

const KEY: &str = "sk-fake-key-of-the-played-model-0123456789";

/// How an agent program is told of its model.
struct Agent {
    /// Of its pool.
    kind: &'static str,
    /// `localhost/berth-IMAGE:dev`.
    image: &'static str,
    /// The variable with the model's address, and what follows the host in it.
    address: (&'static str, &'static str),
    /// The variable with the key's stub.
    key: &'static str,
}

const CLAUDE_CODE: Agent = Agent {
    kind: "ClaudeCode",
    image: "claude-code",
    address: ("ANTHROPIC_BASE_URL", ""),
    key: "ANTHROPIC_AUTH_TOKEN",
};
const CODEX: Agent = openai("Codex", "codex");
const HERMES: Agent = openai("Hermes", "hermes");
const OPEN_CODE: Agent = openai("OpenCode", "opencode");

const fn openai(kind: &'static str, image: &'static str) -> Agent {
    let (address, key) = (("OPENAI_BASE_URL", "/v1"), "OPENAI_API_KEY");
    Agent {
        kind,
        image,
        address,
        key,
    }
}

/// A team whose pool runs an agent program, and the model that it may use.
struct World {
    team: Team,
    agent: &'static Agent,
    model: Outside,
}

impl World {
    async fn create(agent: &'static Agent) -> Result<Self> {
        let cluster = cluster().await?;
        cluster.add(&["agents", agent.image])?;
        let team = Team::create(&cluster, agent.image).await?;
        let authority = Authority::new()?;
        trust(&team, &authority).await?;
        let host = name(&team, "model");
        let origin = Origin::http1(&authority, &[&host], played_model::answer()).await?;
        let model = Outside::of(&team, "model", origin).await?;
        team.policy(json!({ "allow": [{ "name": "all", "hosts": [host] }], "require": { "direct": true } }))
            .await?;
        team.offer("key", KEY, &host).await?;
        let source = json!({ "secretRef": { "name": "key", "key": "token" } });
        let route = json!({
            "name": "model", "host": host, "addresses": ["10.0.0.0/8"], "methods": ["GET", "POST"], "paths": ["/v1/**"],
            "inject": { "header": { "name": "Authorization", "forms": ["Bearer {}"] } },
        });
        let spec = json!({
            "credential": { "name": agent.key, "source": source }, "subjects": { "allSessions": true },
            "routes": [route], "reason": "e2e",
        });
        team.apply(&json!({
            "apiVersion": "berth.dev/v1alpha1", "kind": "CredentialBinding", "metadata": { "name": "model" }, "spec": spec,
        }))
        .await?;
        let mut pool = team.pool(0);
        pool["spec"]["caBundleRef"] = json!({ "name": "upstream-ca" });
        pool["spec"]["harness"] = json!({
            "kind": agent.kind, "image": format!("localhost/berth-{}:dev", agent.image),
        });
        team.apply(&pool).await?;
        Ok(Self { team, agent, model })
    }

    fn session(&self, prompt: &str) -> Value {
        let (variable, path) = self.agent.address;
        let spec = json!({
            "poolRef": { "name": "pool" }, "task": { "prompt": prompt }, "model": "played",
            "credentials": [{ "name": self.agent.key }],
            "env": [{ "name": variable, "value": format!("https://{}{path}", self.model.host) }],
        });
        json!({ "apiVersion": "berth.dev/v1alpha1", "kind": "AgentSession", "metadata": { "name": "s" }, "spec": spec })
    }

    /// Waits until the session's program has ended; gives the session and what it printed.
    async fn ended(&self) -> Result<(AgentSession, String)> {
        let ended = |session: &AgentSession| {
            let result = session.status.as_ref().and_then(|status| status.result.as_ref());
            result.is_some_and(|result| result.exit_code.is_some())
        };
        let session = self.team.wait::<AgentSession>("s", "its end", AGENT, ended).await?;
        let printed = self.team.output(&session.uid().context("a uid")?).await?;
        Ok((session, printed))
    }

    /// Waits until a checkpoint has been taken after the agent's command wrote its file.
    async fn kept(&self, session_uid: &str) -> Result<()> {
        let files = "select coalesce(max((about ->> 'workspace')::int), 0) from checkpoint where session_uid = $1";
        let look = async {
            loop {
                let query = sqlx::query_scalar::<_, i32>(files).bind(session_uid);
                if query.fetch_one(&self.team.cluster.database).await? >= 2 {
                    return Ok(());
                }
                // Postgres tells nobody of a row: this is a look every so often, not a wait for its own sake.
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        tokio::time::timeout(AGENT, look).await.context("no checkpoint")?
    }

    /// What the program told of its work, in order.
    async fn told(&self, session: &AgentSession) -> Result<Vec<Value>> {
        let select =
            "select data -> 'told' from session_event where session_uid = $1 and kind = 'said' order by client_seq";
        let query = sqlx::query_scalar(select).bind(session.uid().context("a uid")?);
        Ok(query.fetch_all(&self.team.cluster.database).await?)
    }
}

fn is_asked(seen: &Seen) -> bool {
    ["/v1/messages", "/v1/responses", "/v1/chat/completions"]
        .iter()
        .any(|path| seen.target().starts_with(path))
}

async fn a_command_is_run(agent: &'static Agent) -> Result<()> {
    let world = World::create(agent).await?;
    let prompt = format!("Run `echo \"$((6 * 7)) of ${}\" | tee answer`", agent.key);
    world.team.apply(&world.session(&prompt)).await?;
    let (session, printed) = world.ended().await?;
    let result = session.status.as_ref().and_then(|status| status.result.clone());
    let result = result.context("a result")?;
    assert_eq!(result.exit_code, Some(0), "{printed}");
    let summary = result.summary.unwrap_or_default();
    assert!(
        summary.starts_with(played_model::DONE) && summary.contains("42 of"),
        "{summary}"
    );

    let requests = world.model.origin.requests();
    let asked: Vec<&Seen> = requests.iter().filter(|seen| is_asked(seen)).collect();
    assert!(asked.len() >= 2, "{}", asked.len());
    for seen in asked {
        assert_eq!(seen.header("authorization"), Some(format!("Bearer {KEY}")));
        assert!(
            !String::from_utf8_lossy(&seen.body).contains(KEY),
            "a prompt with the key"
        );
    }
    assert!(!printed.contains(KEY) && !summary.contains(KEY), "{printed}");

    let told = world.told(&session).await?;
    let kinds: Vec<&str> = told.iter().filter_map(|told| told["kind"].as_str()).collect();
    // Hermes tells its last words alone.
    let wanted: &[&str] = match agent.kind {
        "Hermes" => &["message", "result"],
        _ => &["session", "toolCall", "toolResult", "message", "usage", "result"],
    };
    for kind in wanted {
        assert!(kinds.contains(kind), "no {kind}: {kinds:?} {printed}");
    }
    world.team.end_policy().await?;
    world.team.end().await
}

/// The pod is deleted while the agent's command runs; the next one goes on with the conversation and the files.
async fn it_goes_on_in_another_pod(agent: &'static Agent) -> Result<()> {
    let world = World::create(agent).await?;
    let prompt = "Run `echo remembered > note && touch begun && sleep 600`. Later run `cat note`.";
    let mut session = world.session(prompt);
    session["spec"]["task"]["onInterrupt"] = "Resume".into();
    world.team.apply(&session).await?;
    let session = world.team.phase("s", Phase::Running).await?;
    let uid = session.uid().context("a uid")?;
    world.kept(&uid).await?;
    let pod = world.team.pod_of(&session).await?.name_any();
    world.team.kubectl(&["delete", "pod", &pod, "--wait=false"])?;

    let (session, printed) = world.ended().await?;
    let status = session.status.clone().context("a status")?;
    let result = status.result.context("a result")?;
    assert_eq!((result.exit_code, status.incarnation), (Some(0), 2), "{printed}");
    let summary = result.summary.unwrap_or_default();
    assert!(
        summary.starts_with(played_model::DONE) && summary.contains("remembered"),
        "{summary}"
    );
    let resume = status.resume.context("a receipt")?;
    assert_eq!(
        (resume.verdict.as_str(), resume.incarnation),
        ("Complete", 2),
        "{resume:?}"
    );
    let resumed = status.conditions.iter().find(|condition| condition.type_ == "Resumed");
    let resumed = resumed.context("a condition")?;
    assert_eq!((resumed.status.as_str(), resumed.reason.as_str()), ("True", "Complete"));
    assert!(resumed.message.contains("sha256"), "{}", resumed.message);
    world.team.end_policy().await?;
    world.team.end().await
}

/// A second turn in the same pod, and a third in the next one, know what the first was told.
async fn it_is_talked_to(agent: &'static Agent) -> Result<()> {
    let world = World::create(agent).await?;
    let team = &world.team;
    let caller = Caller::create(team, "talker", "berth-edit").await?;
    let mut session = world.session("Run `echo first | tee note`. Later run `cat note`.");
    session["spec"]["task"]["mode"] = "Interactive".into();
    session["spec"]["task"]["onInterrupt"] = "Resume".into();
    team.apply(&session).await?;
    let session = waits(team, 0).await?;
    let uid = session.uid().context("a uid")?;
    caller
        .say(team, "s", "You are in no new pod, do what comes later.")
        .await?;
    waits(team, 1).await?;
    row(team, KEPT_WAITING, &uid).await?;
    let pod = team.pod_of(&session).await?.name_any();
    team.kubectl(&["delete", "pod", &pod, "--grace-period=0", "--force", "--wait=false"])?;
    caller
        .say(team, "s", "Now you are in a new pod, do what comes later.")
        .await?;
    let session = waits(team, 2).await?;
    let told = world.told(&session).await?;
    let printed = team.output(&uid).await?;
    let messages = told.iter().filter(|told| told["kind"] == "message");
    let remembered = messages.filter(|told| told["text"].as_str().is_some_and(|text| text.contains("first")));
    assert_eq!(remembered.count(), 3, "{told:?} {printed}");
    assert_eq!(session.status.map(|status| status.incarnation), Some(2));
    world.team.end_policy().await?;
    world.team.end().await
}

const KEPT_WAITING: &str = "select exists (select from checkpoint where session_uid = $1 \
    and (about ->> 'input')::int = 1 and not (about ->> 'working')::bool)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claude_code_is_talked_to() -> Result<()> {
    it_is_talked_to(&CLAUDE_CODE).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn codex_is_talked_to() -> Result<()> {
    it_is_talked_to(&CODEX).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opencode_is_talked_to() -> Result<()> {
    it_is_talked_to(&OPEN_CODE).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hermes_is_talked_to() -> Result<()> {
    it_is_talked_to(&HERMES).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claude_code_goes_on_in_another_pod() -> Result<()> {
    it_goes_on_in_another_pod(&CLAUDE_CODE).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn codex_goes_on_in_another_pod() -> Result<()> {
    it_goes_on_in_another_pod(&CODEX).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opencode_goes_on_in_another_pod() -> Result<()> {
    it_goes_on_in_another_pod(&OPEN_CODE).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hermes_goes_on_in_another_pod() -> Result<()> {
    it_goes_on_in_another_pod(&HERMES).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claude_code_works_with_a_key_it_never_sees() -> Result<()> {
    a_command_is_run(&CLAUDE_CODE).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn codex_works_with_a_key_it_never_sees() -> Result<()> {
    a_command_is_run(&CODEX).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hermes_works_with_a_key_it_never_sees() -> Result<()> {
    a_command_is_run(&HERMES).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opencode_works_with_a_key_it_never_sees() -> Result<()> {
    a_command_is_run(&OPEN_CODE).await
}

/// Hermes takes 24 s for its first run, says research; a cold pod comes before.
const AGENT: Duration = Duration::from_mins(3);
