//! The four real agent programs in a session's pod: each runs a command that its model asks for, with a key that it never
//! sees. The model is a stand-in (`berth_gallery::played_model`).

use std::time::Duration;

use anyhow::{Context as _, Result};
use berth_crds::Phase;
use berth_e2e::agent::{Agent, CLAUDE_CODE, CODEX, HERMES, KEY, LONGEST, OPEN_CODE, World, is_asked};
use berth_e2e::api::Caller;
use berth_gallery::origin::Seen;
use berth_gallery::played_model;
use kube::ResourceExt;

use crate::interactive::waits;
use crate::resume::row;

/// Waits until a checkpoint has been taken after the agent's command wrote its file.
async fn kept(world: &World, session_uid: &str) -> Result<()> {
    let files = "select coalesce(max((about ->> 'workspace')::int), 0) from checkpoint where session_uid = $1";
    let look = async {
        loop {
            let query = sqlx::query_scalar::<_, i32>(files).bind(session_uid);
            if query.fetch_one(&world.team.cluster.database).await? >= 2 {
                return Ok(());
            }
            // Postgres tells nobody of a row: this is a look every so often, not a wait for its own sake.
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(LONGEST, look).await.context("no checkpoint")?
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
    kept(&world, &uid).await?;
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
    row(team, REMEMBERED, &uid).await?;
    assert_eq!(session.status.map(|status| status.incarnation), Some(2));
    world.team.end_policy().await?;
    world.team.end().await
}

/// Both turns and the message of the second pod.
const REMEMBERED: &str = "select count(*) = 3 from session_event where session_uid = $1 and kind = 'said' \
    and data -> 'told' ->> 'kind' = 'message' and data -> 'told' ->> 'text' like '%first%'";

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
