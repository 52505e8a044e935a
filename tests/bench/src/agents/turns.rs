//! What the vault and the runner add to each request to the model, and to each token of a stream: Claude Code in a session
//! beside the same in a bare pod.

use std::time::Duration;

use anyhow::{Context as _, Result};
use berth_crds::{AgentSession, Phase};
use berth_e2e::Team;
use berth_e2e::agent::{CLAUDE_CODE, KEY, World};
use berth_e2e::origin::{expose, name};
use berth_gallery::agent::read_request;
use berth_gallery::origin::Origin;
use berth_gallery::played_model;
use jiff::Timestamp;
use kube::ResourceExt;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use super::{Asked, bare, between, timed};
use crate::report::{Row, percentile};

/// Requests of a session.
const TURNS: usize = 20;
/// Of a stream, one each [`PACE`].
const TOKENS: usize = 500;
const PACE: Duration = Duration::from_millis(10);

pub(super) async fn measure(n: u32) -> Result<Vec<Row>> {
    let (model, asked) = timed(played_model::answer());
    let world = World::with_model(&CLAUDE_CODE, model, &["tokens"]).await?;
    let team = &world.team;
    let prompt = format!("Run `true` {TURNS} times");
    let mut with = Vec::new();
    for round in 0..n {
        let began = Timestamp::now();
        let mut session = world.session(&prompt);
        session["metadata"]["name"] = format!("s{round}").into();
        team.apply(&session).await?;
        team.phase(&format!("s{round}"), Phase::Succeeded).await?;
        with.extend(gaps(&asked, began));
    }
    bare::start(team, "bare", CLAUDE_CODE.image)?;
    let command = format!(
        "cd /workspace; export ANTHROPIC_BASE_URL=https://{} {}={KEY}; printf %s '{prompt}' | claude -p --output-format stream-json \
        --verbose --permission-mode bypassPermissions --model played",
        world.model.host, CLAUDE_CODE.key
    );
    let mut without = Vec::new();
    for _ in 0..n {
        let began = Timestamp::now();
        bare::run(team, "bare", &command)?;
        without.extend(gaps(&asked, began));
    }
    let (tokens, bare_tokens) = tokens(&world).await?;
    world.team.end_policy().await?;
    world.team.end().await?;
    let rows = |what: &str, with: &[Duration], without: &[Duration]| {
        let n = with.len();
        let row = |percent: usize| {
            let (value, floor) = (percentile(with, percent), percentile(without, percent));
            Row::new(format!("{what}, p{percent} (n={n})"), value, "ms").beside("bare pod", floor)
        };
        [row(50), row(99)]
    };
    let mut all = Vec::from(rows("claude-code: an answer to the next request", &with, &without));
    all.extend(rows("a token of a stream, written to read", &tokens, &bare_tokens));
    Ok(all)
}

/// From each answer to the next request of the same conversation.
fn gaps(asked: &Asked, since: Timestamp) -> Vec<Duration> {
    let asked = asked.lock();
    let these: Vec<_> = asked.iter().filter(|(at, _)| *at > since).collect();
    let pairs = these.iter().zip(these.iter().skip(1));
    pairs
        .map(|((_, answered), (next, _))| between(*answered, *next))
        .collect()
}

/// How long each token of a stream took to the agent's container, through the vault and without it.
async fn tokens(world: &World) -> Result<(Vec<Duration>, Vec<Duration>)> {
    let team = &world.team;
    let host = name(team, "tokens");
    let config = world.authority.server(&[&host], &["http/1.1"])?;
    let origin = Origin::raw(config, |mut stream, _| async move {
        let _ = async {
            read_request(&mut stream).await?;
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";
            stream.write_all(head.as_bytes()).await?;
            for _ in 0..TOKENS {
                tokio::time::sleep(PACE).await; // a model's own pace
                let token = format!("data: {}\n\n", Timestamp::now().as_microsecond());
                stream.write_all(token.as_bytes()).await?;
                stream.flush().await?;
            }
            stream.shutdown().await?;
            anyhow::Ok(())
        }
        .await; // the reader may be gone
    });
    let origin = origin.await?;
    let _exposed = expose(team, "tokens", origin.address).await?;
    team.offer("tokens", KEY, &host).await?;
    let source = json!({ "secretRef": { "name": "tokens", "key": "token" } });
    let route = json!({
        "name": "tokens", "host": host, "addresses": ["10.0.0.0/8"], "methods": ["GET"],
        "inject": { "header": { "name": "Authorization", "forms": ["Bearer {}"] } },
    });
    let spec = json!({
        "credential": { "name": "TOKENS", "source": source }, "subjects": { "allSessions": true },
        "routes": [route], "reason": "bench",
    });
    team.apply(&json!({
        "apiVersion": "berth.dev/v1alpha1", "kind": "CredentialBinding", "metadata": { "name": "tokens" }, "spec": spec,
    }))
    .await?;
    // The clock of the shell, in microseconds, at each line.
    let read = format!(
        "curl -sN -H \"Authorization: Bearer $TOKENS\" https://{host}/ | while read -r _ at; do \
        now=${{EPOCHREALTIME/./}}; [ -z \"$at\" ] || echo $((now - at)); done"
    );
    let mut pool = team.pool_named("shell", 0);
    pool["spec"]["caBundleRef"] = json!({ "name": "upstream-ca" });
    pool["spec"]["harness"]["command"] = json!(["bash", "-s"]);
    team.apply(&pool).await?;
    let spec = json!({
        "poolRef": { "name": "shell" }, "task": { "prompt": read }, "credentials": [{ "name": "TOKENS" }],
    });
    let session: Value = json!({
        "apiVersion": "berth.dev/v1alpha1", "kind": "AgentSession", "metadata": { "name": "tokens" }, "spec": spec,
    });
    team.apply(&session).await?;
    let session: AgentSession = team.phase("tokens", Phase::Succeeded).await?;
    let with = delays(&team.output(&session.uid().context("a uid")?).await?)?;
    let without = delays(&shell(team, &read)?)?;
    Ok((with, without))
}

fn shell(team: &Team, read: &str) -> Result<String> {
    bare::run(team, "bare", &format!("export TOKENS=none; {read}"))
}

fn delays(printed: &str) -> Result<Vec<Duration>> {
    let delays: Vec<Duration> = printed
        .lines()
        .filter_map(|line| line.trim().parse().ok())
        .map(Duration::from_micros)
        .collect();
    anyhow::ensure!(delays.len() == TOKENS, "{} of {TOKENS} tokens came", delays.len());
    Ok(delays)
}
