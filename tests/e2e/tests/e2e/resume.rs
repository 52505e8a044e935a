//! A session outlives its pod: what was kept, how the next pod goes on, and what is said when it can't. The agents' own
//! conversations are in `agents.rs`; here the harness is a shell.

use std::time::Duration;

use anyhow::{Context as _, Result};
use berth_crds::{AgentSession, AgentSessionStatus, Phase};
use berth_e2e::{PATIENCE, Team, cluster, session_yaml};
use kube::ResourceExt;
use serde_json::Value;

/// The first pod writes and waits; the next one shows what it finds, and that a late checkpoint of the first was refused.
pub(crate) const SCRIPT: &str = r#"
if [ -n "$BERTH_RESUMED_FROM" ]; then
    echo "from $BERTH_RESUMED_FROM: $(git log --format=%s), $(cat edited), $(git status --porcelain | tr '\n' ' ')"
    exit 0
fi
git init -q -b main; git config user.name agent; git config user.email agent@example.com
echo cache/ > .gitignore; echo first > edited; git add .; git commit -qm Begin
head -c 3000000 /dev/urandom > noise; git add noise
echo second > edited; echo new > untracked; mkdir cache; echo ignored > cache/file
sleep 600
"#;

pub(crate) fn resuming(prompt: &str) -> Result<Value> {
    let mut session: Value = serde_json::from_str(&session_yaml("s", prompt))?;
    session["spec"]["task"]["onInterrupt"] = "Resume".into();
    Ok(session)
}

fn status(session: &AgentSession) -> AgentSessionStatus {
    session.status.clone().unwrap_or_default()
}

/// Waits for a row; Postgres tells nobody of one, so this looks every so often.
pub(crate) async fn row(team: &Team, query: &'static str, session_uid: &str) -> Result<()> {
    let look = async {
        loop {
            let found = sqlx::query_scalar::<_, bool>(query).bind(session_uid);
            if found.fetch_one(&team.cluster.database).await? {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let found = tokio::time::timeout(PATIENCE, look).await;
    found.with_context(|| format!("no row: {query}"))?
}

pub(crate) const KEPT: &str =
    "select exists (select from checkpoint where session_uid = $1 and (about ->> 'workspace')::int > 20)";

#[tokio::test]
async fn commits_edits_and_new_files_are_there_again_after_a_pod_is_killed() -> Result<()> {
    let team = Team::with_pool(&cluster().await?, "resume", 2).await?;
    team.apply(&resuming(SCRIPT)?).await?;
    let session = team.phase("s", Phase::Running).await?;
    let uid = session.uid().context("a uid")?;
    row(&team, KEPT, &uid).await?;
    let pod = team.pod_of(&session).await?.name_any();
    team.kubectl(&["delete", "pod", &pod, "--grace-period=0", "--force", "--wait=false"])?;

    let session = team.phase("s", Phase::Succeeded).await?;
    let found = status(&session);
    assert_eq!((found.incarnation, found.resumes), (2, 1));
    let resume = found.resume.context("a receipt")?;
    assert_eq!(
        (resume.verdict.as_str(), resume.incarnation),
        ("Complete", 2),
        "{resume:?}"
    );
    assert!(resume.checkpoint.starts_with("1/"), "{resume:?}");
    let printed = team.output_with(&uid, "Begin, second").await?;
    let says = format!(
        "from {}: Begin, second, M edited A noise ?? untracked",
        resume.checkpoint
    );
    assert!(
        printed.replace(" M", "M").replace("A  ", "A ").contains(&says),
        "{printed}"
    );
    team.end().await
}

#[tokio::test]
async fn a_receipt_names_what_was_too_large_to_keep() -> Result<()> {
    let team = Team::with_pool(&cluster().await?, "receipt", 2).await?;
    let cases = [
        ("alone", "", "TranscriptOnly", 0),
        ("beside", "echo small > small;", "Incomplete", 1),
    ];
    for (name, beside, ..) in cases {
        // 130 MiB that take no room on the disk.
        let script =
            format!("[ -z \"$BERTH_RESUMED_FROM\" ] || exit 0; {beside} truncate -s 136314880 huge; sleep 600");
        let mut session = resuming(&script)?;
        session["metadata"]["name"] = name.into();
        team.apply(&session).await?;
    }
    for (name, _, verdict, files) in cases {
        let session = team.phase(name, Phase::Running).await?;
        let uid = session.uid().context("a uid")?;
        let kept =
            "select exists (select from checkpoint where session_uid = $1 and (about ->> 'missingCount')::int = 1)";
        row(&team, kept, &uid).await?;
        let pod = team.pod_of(&session).await?.name_any();
        team.kubectl(&["delete", "pod", &pod, "--grace-period=0", "--force", "--wait=false"])?;
        team.condition(name, "Resumed", "False", verdict).await?;
        let resume = status(&team.phase(name, Phase::Succeeded).await?)
            .resume
            .context("a receipt")?;
        assert_eq!(resume.verdict, verdict, "{resume:?}");
        let says = format!(" {files} files");
        let names = resume.message.contains("1 files were left out: huge") && resume.message.contains(&says);
        assert!(names, "{resume:?}");
    }
    team.end().await
}

#[tokio::test]
async fn a_suspended_session_goes_on_where_it_was() -> Result<()> {
    let team = Team::with_pool(&cluster().await?, "suspend", 1).await?;
    let mut session = resuming(SCRIPT)?;
    team.apply(&session).await?;
    let running = team.phase("s", Phase::Running).await?;
    let uid = running.uid().context("a uid")?;
    row(&team, KEPT, &uid).await?;
    session["spec"]["suspend"] = true.into();
    team.apply(&session).await?;
    team.phase("s", Phase::Suspended).await?;
    team.claims_gone().await?;
    session["spec"]["suspend"] = false.into();
    team.apply(&session).await?;
    let found = status(&team.phase("s", Phase::Succeeded).await?);
    assert_eq!(found.resume.context("a receipt")?.verdict, "Complete");
    team.output_with(&uid, "Begin, second").await?;
    team.end().await
}
