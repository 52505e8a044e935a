//! The four agent programs, and a team whose pool runs one of them in front of a model.

use std::time::Duration;

use anyhow::{Context as _, Result};
use berth_crds::AgentSession;
use berth_gallery::origin::{Answer, Authority, Origin, Seen};
use berth_gallery::played_model;
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::origin::{Outside, name, trust};
use crate::{Team, cluster};

/// The model's key, which no agent ever has.
pub const KEY: &str = "sk-fake-key-of-the-played-model-0123456789";

/// How an agent program is told of its model.
pub struct Agent {
    /// Of its pool.
    pub kind: &'static str,
    /// `localhost/berth-IMAGE:dev`.
    pub image: &'static str,
    /// The variable with the model's address, and what follows the host in it.
    pub address: (&'static str, &'static str),
    /// The variable with the key's stub.
    pub key: &'static str,
}

/// All of them.
pub const AGENTS: [&Agent; 4] = [&CLAUDE_CODE, &CODEX, &HERMES, &OPEN_CODE];

/// Anthropic's.
pub const CLAUDE_CODE: Agent = Agent {
    kind: "ClaudeCode",
    image: "claude-code",
    address: ("ANTHROPIC_BASE_URL", ""),
    key: "ANTHROPIC_AUTH_TOKEN",
};
/// OpenAI's.
pub const CODEX: Agent = openai("Codex", "codex");
/// Nous Research's.
pub const HERMES: Agent = openai("Hermes", "hermes");
/// opencode.
pub const OPEN_CODE: Agent = openai("OpenCode", "opencode");

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
pub struct World {
    /// The team.
    pub team: Team,
    /// Its program.
    pub agent: &'static Agent,
    /// Its model.
    pub model: Outside,
    /// Who vouches for the model, and for what else its pods trust.
    pub authority: Authority,
}

impl World {
    /// With the played model.
    pub async fn create(agent: &'static Agent) -> Result<Self> {
        Self::with_model(agent, played_model::answer(), &[]).await
    }

    /// With this model, and a policy that permits these names of the team's too.
    pub async fn with_model(agent: &'static Agent, model: Answer, others: &[&str]) -> Result<Self> {
        let cluster = cluster().await?;
        cluster.add(&["agents", agent.image])?;
        let team = Team::create(&cluster, agent.image).await?;
        let authority = Authority::new()?;
        trust(&team, &authority).await?;
        let host = name(&team, "model");
        let origin = Origin::http1(&authority, &[&host], model).await?;
        let model = Outside::of(&team, "model", origin).await?;
        let mut hosts: Vec<String> = others.iter().map(|short| name(&team, short)).collect();
        hosts.push(host.clone());
        team.policy(json!({ "allow": [{ "name": "all", "hosts": hosts }], "require": { "direct": true } }))
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
        Ok(Self {
            team,
            agent,
            model,
            authority,
        })
    }

    /// Session `s` of its pool.
    pub fn session(&self, prompt: &str) -> Value {
        let (variable, path) = self.agent.address;
        let spec = json!({
            "poolRef": { "name": "pool" }, "task": { "prompt": prompt }, "model": "played",
            "credentials": [{ "name": self.agent.key }],
            "env": [{ "name": variable, "value": format!("https://{}{path}", self.model.host) }],
        });
        json!({ "apiVersion": "berth.dev/v1alpha1", "kind": "AgentSession", "metadata": { "name": "s" }, "spec": spec })
    }

    /// Waits until the session's program has ended; gives the session and what it printed.
    pub async fn ended(&self) -> Result<(AgentSession, String)> {
        let ended = |session: &AgentSession| {
            let result = session.status.as_ref().and_then(|status| status.result.as_ref());
            result.is_some_and(|result| result.exit_code.is_some())
        };
        let session = self.team.wait::<AgentSession>("s", "its end", LONGEST, ended).await?;
        let printed = self.team.output(&session.uid().context("a uid")?).await?;
        Ok((session, printed))
    }

    /// What the program told of its work, in order.
    pub async fn told(&self, session: &AgentSession) -> Result<Vec<Value>> {
        let select =
            "select data -> 'told' from session_event where session_uid = $1 and kind = 'said' order by client_seq";
        let query = sqlx::query_scalar(select).bind(session.uid().context("a uid")?);
        Ok(query.fetch_all(&self.team.cluster.database).await?)
    }
}

/// Whether a request is one to the model.
pub fn is_asked(seen: &Seen) -> bool {
    ["/v1/messages", "/v1/responses", "/v1/chat/completions"]
        .iter()
        .any(|path| seen.target().split('?').next() == Some(*path))
}

/// Hermes takes 24 s for its first run, says research; a cold pod comes before.
pub const LONGEST: Duration = Duration::from_mins(3);
