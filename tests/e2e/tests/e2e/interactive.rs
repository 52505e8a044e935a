//! Sessions that stay and are talked to: input is given once and in order, also across a pod's death; an abort ends the turn
//! and not the session.

use std::time::Duration;

use anyhow::{Context as _, Result};
use berth_crds::{AgentSession, Phase};
use berth_e2e::api::Caller;
use berth_e2e::{PATIENCE, Team, cluster, session_yaml};
use kube::ResourceExt;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::resume::row;

fn interactive(prompt: &str) -> Result<Value> {
    let mut session: Value = serde_json::from_str(&session_yaml("s", prompt))?;
    session["spec"]["task"]["mode"] = "Interactive".into();
    session["spec"]["task"]["onInterrupt"] = "Resume".into();
    Ok(session)
}

/// Waits until the harness has done everything up to this input.
pub(crate) async fn waits(team: &Team, after: i64) -> Result<AgentSession> {
    waits_for(team, after, PATIENCE).await
}

/// The same where that may take as long.
pub(crate) async fn waits_for(team: &Team, after: i64, most: Duration) -> Result<AgentSession> {
    let said = format!("up to input {after};");
    let wanted = |session: &AgentSession| {
        let conditions = session.status.as_ref().map(|status| status.conditions.as_slice());
        let mut conditions = conditions.unwrap_or_default().iter();
        conditions.any(|condition| {
            condition.type_ == "WaitingForInput" && condition.status == "True" && condition.message.contains(&said)
        })
    };
    team.wait::<AgentSession>("s", &said, most, wanted).await
}

#[tokio::test]
async fn input_is_given_once_and_in_order_also_in_the_next_pod() -> Result<()> {
    let team = Team::with_pool(&cluster().await?, "talk", 2).await?;
    let caller = Caller::create(&team, "talker", "berth-edit").await?;
    team.apply(&interactive("echo prompt; echo 0 > count")?).await?;
    let session = waits(&team, 0).await?;
    let uid = session.uid().context("a uid")?;
    assert_eq!(caller.say(&team, "s", "echo one; sleep 2; echo 1 > count").await?, 1);
    assert_eq!(
        caller
            .say(&team, "s", "echo two after $(cat count); echo 2 > count")
            .await?,
        2
    );
    let again = || {
        caller
            .post(&team, "s/messages")
            .header("Idempotency-Key", "the-third")
            .json(&json!({ "text": "echo three" }))
    };
    for _ in 0..2 {
        let answer: Value = again().send().await?.error_for_status()?.json().await?;
        assert_eq!(answer["number"], 3);
    }
    waits(&team, 3).await?;
    let kept = "select exists (select from checkpoint where session_uid = $1 and (about ->> 'input')::int = 3 \
        and not (about ->> 'working')::bool)";
    row(&team, kept, &uid).await?;
    let pod = team.pod_of(&session).await?.name_any();
    team.kubectl(&["delete", "pod", &pod, "--grace-period=0", "--force", "--wait=false"])?;
    assert_eq!(caller.say(&team, "s", "echo four after $(cat count)").await?, 4);
    let session = waits(&team, 4).await?;
    let status = session.status.clone().context("a status")?;
    assert_eq!((status.incarnation, status.phase), (2, Some(Phase::Running)));
    let printed = team.output_with(&uid, "four").await?;
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(lines, ["prompt", "one", "two after 1", "three", "four after 2"]);
    let said = "select count(*) from session_event where session_uid = $1 and kind = 'said' and data -> 'told' ->> 'kind' = 'input'";
    let said: i64 = sqlx::query_scalar(said)
        .bind(&uid)
        .fetch_one(&team.cluster.database)
        .await?;
    assert_eq!(said, 4);
    team.end().await
}

#[tokio::test]
async fn an_abort_ends_the_turn_and_not_the_session() -> Result<()> {
    let team = Team::with_pool(&cluster().await?, "abort", 1).await?;
    let caller = Caller::create(&team, "talker", "berth-edit").await?;
    let viewer = Caller::create(&team, "viewer", "berth-view").await?;
    team.apply(&interactive("echo begun; sleep 600")?).await?;
    let session = team.phase("s", Phase::Running).await?;
    let uid = session.uid().context("a uid")?;
    row(
        &team,
        "select exists (select from session_event where session_uid = $1 and kind = 'output')",
        &uid,
    )
    .await?;
    for path in ["s/abort", "s/messages"] {
        let refused = viewer
            .post(&team, path)
            .json(&json!({ "text": "echo no" }))
            .send()
            .await?;
        assert_eq!(refused.status(), StatusCode::FORBIDDEN, "{path}");
    }
    let aborted = caller.post(&team, "s/abort").send().await?;
    assert_eq!(aborted.status(), StatusCode::ACCEPTED);
    waits(&team, 0).await?;
    caller.say(&team, "s", "echo goes on").await?;
    waits(&team, 1).await?;
    assert_eq!(team.output_with(&uid, "goes on").await?, "begun\ngoes on\n");
    for (text, why) in [(" ".to_owned(), "blank"), ("x".repeat(65_537), "long")] {
        let refused = caller
            .post(&team, "s/messages")
            .json(&json!({ "text": text }))
            .send()
            .await?;
        assert_eq!(refused.status(), StatusCode::BAD_REQUEST, "{why}");
    }
    team.session("done", "true").await?;
    let refused = caller
        .post(&team, "done/messages")
        .json(&json!({ "text": "more" }))
        .send()
        .await?;
    assert_eq!(refused.status(), StatusCode::CONFLICT);
    team.end().await
}

#[tokio::test]
async fn one_that_is_idle_gives_its_sandbox_back_and_the_next_input_continues_it() -> Result<()> {
    let team = Team::with_pool(&cluster().await?, "idle", 2).await?;
    let caller = Caller::create(&team, "talker", "berth-edit").await?;
    let mut session = interactive("echo prompt > notes; cat notes")?;
    session["spec"]["lifecycle"] = json!({ "idleSuspendAfter": "3s", "idleReleaseAfter": "1h" });
    team.apply(&session).await?;
    let idle = team.condition("s", "Ready", "True", "Idle").await?;
    let (uid, status) = (idle.uid().context("a uid")?, idle.status.context("a status")?);
    assert_eq!(status.phase, Some(Phase::Suspended));
    team.claims_gone().await?;

    assert_eq!(caller.say(&team, "s", "echo more >> notes; cat notes").await?, 1);
    let session = waits(&team, 1).await?;
    let status = session.status.context("a status")?;
    assert_eq!((status.incarnation, status.resumes), (2, 0));
    assert_eq!(team.output_with(&uid, "more").await?, "prompt\nprompt\nmore\n");

    // It is idle again; an hour is too long for a test.
    team.condition("s", "Ready", "True", "Idle").await?;
    let release = json!({ "spec": { "lifecycle": { "idleReleaseAfter": "4s" } } }).to_string();
    team.kubectl(&["patch", "agentsession", "s", "--type=merge", "--patch", &release])?;
    let over = team.condition("s", "Succeeded", "True", "Released").await?;
    let status = over.status.context("a status")?;
    assert_eq!(
        (status.phase, status.stopped_reason.as_deref()),
        (Some(Phase::Succeeded), Some("Released"))
    );
    team.claims_gone().await?;
    let late = caller
        .post(&team, "s/messages")
        .json(&json!({ "text": "echo late" }))
        .send()
        .await?;
    assert_eq!(late.status(), StatusCode::CONFLICT);
    team.end().await
}
