//! A session's life: bound warm, run, ended, lost, suspended, run again.

use std::time::Duration;

use anyhow::{Context as _, Result};
use berth_crds::{AgentSession, LaunchType, Phase};
use berth_e2e::{Repository, Team, audit, cluster, node, session_yaml};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::DeleteParams;
use serde_json::{Value, json};

/// The session's manifest with more fields in its spec.
fn session_with(name: &str, prompt: &str, more: &Value) -> Result<Value> {
    let mut session: Value = serde_json::from_str(&session_yaml(name, prompt))?;
    merge(&mut session["spec"], more);
    Ok(session)
}

fn merge(into: &mut Value, more: &Value) {
    for (key, value) in more.as_object().into_iter().flatten() {
        match &mut into[key] {
            old @ Value::Object(_) => merge(old, value),
            old => *old = value.clone(),
        }
    }
}

fn incarnation(session: &AgentSession) -> i64 {
    session.status.as_ref().map_or(0, |status| status.incarnation)
}

#[tokio::test]
async fn a_session_is_bound_warm_runs_and_is_recorded() -> Result<()> {
    let team = Team::with_pool(&cluster().await?, "run", 1).await?;
    let keep = json!({ "lifecycle": { "releaseAfterFinished": "5m" } });
    let prompt = "echo hello from $BERTH_SESSION; echo trouble >&2; echo all done > result.md";
    team.apply(&session_with("s", prompt, &keep)?).await?;
    let session = team.phase("s", Phase::Succeeded).await?;

    let status = session.status.clone().context("a status")?;
    let result = status.result.context("a result")?;
    assert_eq!(
        (result.exit_code, result.summary.as_deref()),
        (Some(0), Some("all done\n"))
    );
    let sandbox = status.sandbox.context("a sandbox")?;
    assert_eq!((sandbox.launch_type, status.incarnation), (Some(LaunchType::Warm), 1));
    let pod = sandbox.pod_name.context("a pod")?;
    let logs = team.kubectl(&["logs", &pod, "--container", "agent"])?;
    assert!(logs.contains("hello from s") && logs.contains("trouble"), "{logs}");
    let table = team.kubectl(&["get", "agentsessions"])?;
    assert!(
        table.contains("Succeeded") && table.lines().all(|line| line.len() <= 100),
        "{table}"
    );

    let uid = session.uid().context("a uid")?;
    let output = "select coalesce(string_agg(convert_from(output, 'UTF8'), '' order by client_seq), '') \
        from session_event where session_uid = $1 and stream = 1";
    let output: String = sqlx::query_scalar(output)
        .bind(&uid)
        .fetch_one(&team.cluster.database)
        .await?;
    assert_eq!(output, "hello from s\n");
    let numbers = "select array_agg(client_seq order by client_seq) from session_event where session_uid = $1";
    let numbers: Vec<i64> = sqlx::query_scalar(numbers)
        .bind(&uid)
        .fetch_one(&team.cluster.database)
        .await?;
    assert_eq!(numbers, (1..=result.events.context("a count")?).collect::<Vec<i64>>());
    team.end().await
}

#[tokio::test]
async fn a_command_that_fails_says_its_exit_status() -> Result<()> {
    let team = Team::with_pool(&cluster().await?, "fail", 1).await?;
    team.session("s", "exit 7").await?;
    let session = team.condition("s", "Succeeded", "False", "HarnessFailed").await?;
    let status = session.status.context("a status")?;
    assert_eq!(
        (status.phase, status.result.and_then(|result| result.exit_code)),
        (Some(Phase::Failed), Some(7))
    );
    team.end().await
}

#[tokio::test]
async fn a_pool_without_warm_sandboxes_starts_one_and_says_cold() -> Result<()> {
    let team = Team::create(&cluster().await?, "cold").await?;
    team.apply(&team.pool(0)).await?;
    team.session("s", "true").await?;
    let session = team.phase("s", Phase::Succeeded).await?;
    let launch = session
        .status
        .and_then(|status| status.sandbox)
        .and_then(|sandbox| sandbox.launch_type);
    assert_eq!(launch, Some(LaunchType::Cold));
    team.end().await
}

#[tokio::test]
async fn a_pod_lost_after_the_start_is_reported_and_never_run_again_silently() -> Result<()> {
    let team = Team::with_pool(&cluster().await?, "lost", 2).await?;
    team.session("s", "sleep 600").await?;
    let session = team.phase("s", Phase::Running).await?;
    let pod = team.pod_of(&session).await?;
    team.api::<Pod>()
        .delete(&pod.name_any(), &DeleteParams::default().grace_period(0))
        .await?;
    let session = team.condition("s", "Succeeded", "False", "Interrupted").await?;
    assert_eq!(
        (
            session.status.as_ref().and_then(|status| status.phase),
            incarnation(&session)
        ),
        (Some(Phase::Failed), 1)
    );

    // A new run is the author's word, and gets the next incarnation.
    team.apply(&session_with(
        "s",
        "echo again",
        &json!({ "task": { "runID": "two" } }),
    )?)
    .await?;
    let session = team.phase("s", Phase::Succeeded).await?;
    assert_eq!(incarnation(&session), 2);
    team.end().await
}

#[tokio::test]
async fn a_sandbox_deleted_under_a_bound_session_is_reported() -> Result<()> {
    let team = Team::with_pool(&cluster().await?, "sandbox", 1).await?;
    team.session("s", "sleep 600").await?;
    let session = team.phase("s", Phase::Running).await?;
    let sandbox = session
        .status
        .and_then(|status| status.sandbox)
        .and_then(|sandbox| sandbox.name)
        .context("a name")?;
    // Admission lets nobody delete it but Berth, agent-sandbox and the collectors: the test acts as agent-sandbox.
    let account = "--as=system:serviceaccount:agent-sandbox-system:agent-sandbox-controller";
    team.kubectl(&["delete", "sandbox", &sandbox, "--wait=false", account])?;
    team.condition("s", "Succeeded", "False", "Interrupted").await?;
    team.end().await
}

#[tokio::test]
async fn a_suspended_session_gives_its_sandbox_back() -> Result<()> {
    let team = Team::with_pool(&cluster().await?, "suspend", 1).await?;
    team.session("s", "sleep 600").await?;
    team.phase("s", Phase::Running).await?;
    team.apply(&session_with("s", "sleep 600", &json!({ "suspend": true }))?)
        .await?;
    team.condition("s", "Ready", "True", "Suspended").await?;
    let left = team.claims().list(&kube::api::ListParams::default()).await?;
    assert!(
        left.items
            .iter()
            .all(|claim| claim.metadata.deletion_timestamp.is_some())
    );
    team.end().await
}

#[tokio::test]
async fn an_edit_of_a_running_task_waits_for_a_new_run() -> Result<()> {
    let team = Team::with_pool(&cluster().await?, "pinned", 2).await?;
    team.session("s", "echo first > result.md; sleep 600").await?;
    team.phase("s", Phase::Running).await?;
    team.session("s", "echo second > result.md").await?;
    let session = team.condition("s", "SpecPinned", "True", "SpecEdited").await?;
    assert_eq!(
        session.status.as_ref().and_then(|status| status.pinned_generation),
        Some(1)
    );
    let again = session_with("s", "echo second > result.md", &json!({ "task": { "runID": "two" } }))?;
    team.apply(&again).await?;
    let session = team.phase("s", Phase::Succeeded).await?;
    let summary = session
        .status
        .clone()
        .and_then(|status| status.result)
        .and_then(|result| result.summary);
    assert_eq!((summary.as_deref(), incarnation(&session)), (Some("second\n"), 2));
    team.end().await
}

#[tokio::test]
async fn a_session_made_again_under_its_name_is_another_session() -> Result<()> {
    let team = Team::with_pool(&cluster().await?, "again", 2).await?;
    team.session("s", "echo first > result.md; sleep 600").await?;
    let first = team.phase("s", Phase::Running).await?;
    team.api::<AgentSession>().delete("s", &DeleteParams::default()).await?;
    team.session("s", "echo second > result.md").await?;
    let second = team.phase("s", Phase::Succeeded).await?;
    assert_ne!(first.uid(), second.uid());
    let summary = second
        .status
        .and_then(|status| status.result)
        .and_then(|result| result.summary);
    assert_eq!(summary.as_deref(), Some("second\n"));
    team.end().await
}

/// What the session says of its success.
fn succeeded(session: &AgentSession) -> Result<&str> {
    let status = session.status.as_ref().context("a status")?;
    let condition = status.conditions.iter().find(|it| it.type_ == "Succeeded");
    Ok(&condition.context("a condition")?.message)
}

#[tokio::test]
async fn what_a_harness_said_at_last_stands_on_the_session() -> Result<()> {
    let team = Team::with_pool(&cluster().await?, "words", 0).await?;
    let token = format!("ghp_{}", "fake".repeat(9));
    let prompt = format!("echo begins; echo \"model nope isn't known\" >&2; echo key={token} >&2; exit 3");
    team.session("s", &prompt).await?;
    let session = team.condition("s", "Succeeded", "False", "HarnessFailed").await?;
    let message = succeeded(&session)?;
    let begins = "the harness ended with exit status 3; its last words: model nope isn't known\n[a line with";
    assert!(message.starts_with(begins) && !message.contains(&token), "{message}");

    // A program that isn't in the image.
    let mut pool = team.pool_named("absent", 0);
    pool["spec"]["harness"]["command"] = json!(["claude-of-another-image"]);
    team.apply(&pool).await?;
    team.session_of("absent", "t", "true", &json!({})).await?;
    let session = team.condition("t", "Succeeded", "False", "HarnessFailed").await?;
    let message = succeeded(&session)?;
    assert!(
        message.contains("could not be started") && message.contains("claude-of-another-image"),
        "{message}"
    );
    team.end().await
}

#[tokio::test]
async fn what_comes_later_is_said_and_never_ignored() -> Result<()> {
    let team = Team::create(&cluster().await?, "later").await?;
    team.apply(&team.pool(0)).await?;
    let more = json!({ "task": { "prompt": "true", "retries": 2 } });
    team.apply(&session_with("s", "true", &more)?).await?;
    let session = team.condition("s", "Stalled", "True", "NotImplemented").await?;
    let status = serde_json::to_string(&session.status)?;
    assert!(status.contains("spec.task.retries"), "{status}");

    let repository = json!({
        "url": "https://forge.example.com/a/b.git", "branch": "agent/a", "pullRequest": { "open": true },
    });
    let more = json!({ "repository": repository });
    team.apply(&session_with("elsewhere", "true", &more)?).await?;
    let session = team.condition("elsewhere", "Stalled", "True", "ForgeUnknown").await?;
    let status = serde_json::to_string(&session.status)?;
    assert!(status.contains("on no forge of this install"), "{status}");
    team.end().await
}

#[tokio::test]
async fn a_session_without_its_pool_waits_for_it() -> Result<()> {
    let team = Team::create(&cluster().await?, "poolless").await?;
    team.session("s", "true").await?;
    team.condition("s", "Ready", "False", "PoolNotFound").await?;
    team.apply(&team.pool(0)).await?;
    team.phase("s", Phase::Succeeded).await?;
    team.end().await
}

#[tokio::test]
async fn a_session_that_takes_too_long_is_ended() -> Result<()> {
    let team = Team::with_pool(&cluster().await?, "slow", 1).await?;
    team.apply(&session_with(
        "s",
        "sleep 600",
        &json!({ "lifecycle": { "maxDuration": "5s" } }),
    )?)
    .await?;
    team.condition("s", "Succeeded", "False", "TimedOut").await?;
    team.end().await
}

#[tokio::test]
async fn the_agent_is_fenced_in_and_its_proxy_denies() -> Result<()> {
    let team = Team::with_pool(&cluster().await?, "fence", 1).await?;
    let prompt = r#"
        code=$(curl -s -o /dev/null -w '%{http_code}' http://api.example.com/); echo "proxy $code"
        curl -s -o /dev/null --noproxy '*' --max-time 5 -w 'direct %{http_code}\n' http://10.99.0.1:3000/ || echo "direct refused"
        curl -sk --noproxy '*' --max-time 5 https://10.96.0.1/version > /dev/null && echo "api reached" || echo "api refused"
        getent hosts example.com > /dev/null && echo "dns reached" || echo "dns refused"
    "#;
    team.session("s", &format!("({prompt}) > result.md 2>&1")).await?;
    let session = team.phase("s", Phase::Succeeded).await?;
    let summary = session
        .status
        .and_then(|status| status.result)
        .and_then(|result| result.summary)
        .context("a summary")?;
    let said: Vec<&str> = summary.lines().collect();
    assert_eq!(said, ["proxy 403", "direct 403", "api refused", "dns refused"]);
    team.end().await
}

#[tokio::test]
async fn a_sidecar_that_never_acknowledges_is_given_up_for_the_next_incarnation() -> Result<()> {
    let team = Team::with_pool(&cluster().await?, "frozen", 1).await?;
    let pods = team
        .api::<Pod>()
        .list(&kube::api::ListParams::default().labels("berth.dev/pool=pool"))
        .await?;
    let pod = pods.items.first().context("a warm pod")?;
    let sidecar = node::process(&pod.uid().context("a uid")?, "berth-sidecar")?;
    node::signal(sidecar, "STOP")?;
    team.session("s", "true").await?;
    // On a busy machine the next pod may be late too, and the one after it serves.
    let ended = |session: &AgentSession| {
        session
            .status
            .as_ref()
            .is_some_and(|status| status.phase == Some(Phase::Succeeded))
    };
    let session = team
        .wait::<AgentSession>("s", "success", Duration::from_mins(2), ended)
        .await?;
    let sandbox = session
        .status
        .as_ref()
        .and_then(|status| status.sandbox.clone())
        .context("a sandbox")?;
    let incarnation = incarnation(&session);
    assert!(incarnation >= 2, "the frozen pod didn't serve");
    assert_eq!(sandbox.claim_name, format!("s-{incarnation}"));
    assert_ne!(sandbox.pod_name, pod.metadata.name);
    team.end().await
}

#[tokio::test]
async fn a_claim_is_given_back_once() -> Result<()> {
    let team = Team::with_pool(&cluster().await?, "once", 3).await?;
    for number in 0..9 {
        team.session(&format!("s-{number}"), "true").await?;
    }
    for number in 0..9 {
        team.phase(&format!("s-{number}"), Phase::Succeeded).await?;
    }
    team.claims_gone().await?;
    let requests = audit::requests(&team.cluster, &team.namespace, "sandboxclaims")?;
    let mut deleted: Vec<(&str, u16)> = requests
        .iter()
        .filter(|request| request.verb == "delete")
        .map(|request| (request.name(), request.code()))
        .collect();
    deleted.sort_unstable();
    let wanted: Vec<(String, u16)> = (0..9).map(|number| (format!("s-{number}-1"), 200)).collect();
    let wanted: Vec<(&str, u16)> = wanted.iter().map(|(name, code)| (name.as_str(), *code)).collect();
    assert_eq!(deleted, wanted);
    team.end().await
}

#[tokio::test]
async fn a_namespace_with_bound_sessions_and_a_source_ends_promptly_and_is_forgotten() -> Result<()> {
    let cluster = cluster().await?;
    let team = Team::with_pool(&cluster, "doomed", 2).await?;
    let repository = Repository::create(&cluster, &team.namespace).await?;
    for name in ["a", "b"] {
        repository.write(&format!("{name}.yaml"), &session_yaml(name, "sleep 600"))?;
    }
    repository.push("Add two sessions")?;
    team.source("source", &repository.url).await?;
    for name in ["a", "b"] {
        team.phase(name, Phase::Running).await?;
    }
    let namespace = team.namespace.clone();
    let began = std::time::Instant::now();
    cluster.run(
        "kubectl",
        &["delete", "namespace", &namespace, "--wait", "--timeout=120s"],
    )?;
    let took = began.elapsed();
    assert!(took < Duration::from_mins(1), "{took:?}");

    // What still fails for it would be tried again, at growing intervals; another team's session takes its time first.
    let gone = jiff::Timestamp::now().to_string();
    let other = Team::with_pool(&cluster, "beside", 1).await?;
    other.session("s", "sleep 5").await?;
    other.phase("s", Phase::Succeeded).await?;
    let selector = [
        "-n",
        "berth-system",
        "logs",
        "-l",
        "app.kubernetes.io/name=berth-controller",
    ];
    let since = format!("--since-time={gone}");
    let said = cluster.run("kubectl", &[&selector[..], &["--tail=-1", &since]].concat())?;
    let of_it: Vec<&str> = said.lines().filter(|line| line.contains(&namespace)).collect();
    assert!(of_it.is_empty(), "{of_it:#?}");
    other.end().await
}

#[tokio::test]
async fn many_sessions_at_once_all_end_well() -> Result<()> {
    let team = Team::create(&cluster().await?, "many").await?;
    let mut pool = team.pool(5);
    pool["spec"]["coldStart"] = "Wait".into();
    team.apply(&pool).await?;
    for number in 0..50 {
        team.session(&format!("s-{number}"), "echo $BERTH_SESSION > result.md")
            .await?;
    }
    for number in 0..50 {
        let name = format!("s-{number}");
        let session = team
            .wait::<AgentSession>(&name, "end", Duration::from_mins(5), |session| {
                session.status.as_ref().and_then(|status| status.phase) == Some(Phase::Succeeded)
            })
            .await?;
        let summary = session
            .status
            .and_then(|status| status.result)
            .and_then(|result| result.summary);
        assert_eq!(summary, Some(format!("{name}\n")));
    }
    team.end().await
}
