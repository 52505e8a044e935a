//! What a team has the four agent programs do, in one session each: work in a repository, be refused, lose its model for
//! half a minute. The model is a stand-in (`berth_gallery::played_model`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use berth_crds::AgentSession;
use berth_e2e::agent::{Agent, CLAUDE_CODE, CODEX, HERMES, KEY, LONGEST, OPEN_CODE, World};
use berth_e2e::api::Caller;
use berth_e2e::granted::value;
use berth_e2e::{Granted, PATIENCE};
use berth_gallery::origin::Answer;
use berth_gallery::played_model;
use kube::ResourceExt;
use serde_json::json;

use crate::guarantees::secrets;
use crate::interactive::waits_for;
use crate::repository::{Forge, TOKEN};

/// A session that is talked to, and what it talks about.
struct Errand {
    world: World,
    forge: Forge,
    caller: Caller,
    is_away: Arc<AtomicBool>,
    said: i64,
}

impl Errand {
    /// Its first errand is to push a commit.
    async fn begin(agent: &'static Agent) -> Result<(Self, AgentSession)> {
        let is_away = Arc::new(AtomicBool::new(false));
        let (away, model) = (Arc::clone(&is_away), played_model::answer());
        let answer: Answer = Arc::new(move |seen| (!away.load(Ordering::Relaxed)).then(|| model(seen)).flatten());
        let world = World::with_model(agent, answer, &["forge"]).await?;
        let forge = Forge::beside(&world.team, &world.authority).await?;
        let caller = Caller::create(&world.team, "talker", "berth-edit").await?;
        let work = "cat README && echo more >> README && git commit -qam Work && git push -q origin HEAD && git log -1 --format=%s-is-done";
        let mut session = world.session(&format!("Run `{work}`"));
        session["spec"]["task"]["mode"] = "Interactive".into();
        session["spec"]["task"]["onInterrupt"] = "Resume".into();
        session["spec"]["repository"] = json!({ "url": forge.url(), "branch": "agent/work" });
        let credentials = session["spec"]["credentials"].as_array_mut().context("credentials")?;
        credentials.push(json!({ "name": "FORGE_TOKEN" }));
        world.team.apply(&session).await?;
        let session = waits_for(&world.team, 0, LONGEST).await?;
        let errand = Self {
            world,
            forge,
            caller,
            is_away,
            said: 0,
        };
        Ok((errand, session))
    }

    /// Has a command run, and waits until the agent waits again.
    async fn run(&mut self, command: &str) -> Result<()> {
        self.said += 1;
        let text = format!("Run `{command}`");
        ensure!(self.caller.say(&self.world.team, "s", &text).await? == self.said);
        waits_for(&self.world.team, self.said, LONGEST).await.map(drop)
    }

    /// Waits until the record has a message of the agent's with these words.
    async fn tells(&self, session: &AgentSession, words: &[&str]) -> Result<()> {
        let look = async {
            loop {
                let told = self.world.told(session).await?;
                let texts = told.iter().filter_map(|told| told["text"].as_str());
                let mut texts = texts.filter(|text| text.starts_with(played_model::DONE));
                if texts.any(|text| words.iter().all(|word| text.contains(word))) {
                    return Ok::<_, anyhow::Error>(());
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        match tokio::time::timeout(PATIENCE, look).await {
            Ok(told) => told,
            Err(_) => anyhow::bail!("nothing of {words:?} in {:#?}", self.world.told(session).await?),
        }
    }

    fn subjects(&self) -> Result<String> {
        self.forge.bare(&["log", "--format=%s", "agent/work"])
    }
}

async fn it_is_sent_on_errands(agent: &'static Agent) -> Result<()> {
    let (mut errand, session) = Errand::begin(agent).await?;
    errand.tells(&session, &["fake", "Work-is-done"]).await?;
    assert_eq!(errand.subjects()?, "Work\nBegin\n");

    // A token in the workspace isn't pushed, and the agent is told which line.
    let token = format!("ghp_{}", "fake".repeat(9));
    let leak = format!(
        "echo token={token} > leak; git add leak; git commit -qm Leak; git push origin HEAD 2>&1; git reset -q --hard HEAD~1"
    );
    errand.run(&leak).await?;
    errand.tells(&session, &["leak:1"]).await?;
    assert_eq!(errand.subjects()?, "Work\nBegin\n");

    // Without its model for half a minute it is the same session afterwards, whatever its program made of that turn.
    errand.is_away.store(true, Ordering::Relaxed);
    errand.said += 1;
    errand.caller.say(&errand.world.team, "s", "Run `echo lost`").await?;
    tokio::time::sleep(Duration::from_secs(30)).await; // as long as the outage is
    errand.is_away.store(false, Ordering::Relaxed);
    waits_for(&errand.world.team, errand.said, LONGEST).await?;
    errand.run("echo it goes on in $(git log -1 --format=%s)").await?;
    errand.tells(&session, &["it goes on in Work"]).await?;

    // Neither its key nor the forge's token is anywhere in its container.
    let granted = Granted::of(&errand.world.team, &session).await?;
    let plant = value()?;
    // By hand: two of the programs end what a command leaves behind.
    let planting = secrets::plant(&plant).replace("sleep 600 &", "sleep 600 > /dev/null 2>&1 &");
    let planting = format!("cd /workspace; {planting}");
    let (team, pod) = (&errand.world.team, granted.pod.name_any());
    team.kubectl(&["exec", &pod, "--container", "agent", "--", "sh", "-c", &planting])?;
    for secret in [KEY, TOKEN] {
        let found = secrets::search(&granted, secret, &plant)?;
        secrets::sidecar_memory_is_not_the_agents(&granted, secret, &found)?;
    }

    // Taken back while it runs: it is refused, and the agent hears why.
    let suspend = json!({ "spec": { "suspend": true } }).to_string();
    team.kubectl(&[
        "patch",
        "credentialbinding",
        "forge",
        "--type=merge",
        "--patch",
        &suspend,
    ])?;
    team.condition("s", "CredentialsReady", "False", "CredentialsMissing")
        .await?;
    errand
        .run("git commit -q --allow-empty -m More; git push origin HEAD 2>&1")
        .await?;
    errand.tells(&session, &["403"]).await?;
    assert_eq!(errand.subjects()?, "Work\nBegin\n");
    errand.world.team.end_policy().await?;
    errand.world.team.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claude_code_is_sent_on_errands() -> Result<()> {
    it_is_sent_on_errands(&CLAUDE_CODE).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn codex_is_sent_on_errands() -> Result<()> {
    it_is_sent_on_errands(&CODEX).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hermes_is_sent_on_errands() -> Result<()> {
    it_is_sent_on_errands(&HERMES).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opencode_is_sent_on_errands() -> Result<()> {
    it_is_sent_on_errands(&OPEN_CODE).await
}
