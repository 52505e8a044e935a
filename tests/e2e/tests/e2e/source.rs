//! From a commit to a session: what a branch declares is applied, what is wrong is said, what left goes.

use std::time::Duration;

use anyhow::{Context as _, Result};
use berth_crds::{AgentSession, GitSource, Phase};
use berth_e2e::hook::{follow, webhook};
use berth_e2e::{PATIENCE, Repository, Team, cluster, session_yaml};
use kube::ResourceExt;
use kube::api::ListParams;

async fn team_with_repository(purpose: &str) -> Result<(Team, Repository)> {
    let team = Team::create(&cluster().await?, purpose).await?;
    let repository = Repository::create(&team.cluster, &team.namespace).await?;
    Ok((team, repository))
}

fn reason(source: &GitSource) -> &str {
    let conditions = source
        .status
        .as_ref()
        .map(|status| status.conditions.as_slice())
        .unwrap_or_default();
    conditions
        .iter()
        .find(|it| it.type_ == "Ready")
        .map(|it| it.reason.as_str())
        .unwrap_or_default()
}

fn handled(source: &GitSource, commit: &str) -> bool {
    let attempted = source
        .status
        .as_ref()
        .and_then(|status| status.last_attempted_revision.clone());
    attempted.is_some_and(|attempted| attempted.ends_with(commit))
}

/// Waits until the source has handled this commit.
async fn handles(team: &Team, commit: &str) -> Result<GitSource> {
    team.source_says("source", "the commit", |source| handled(source, commit))
        .await
}

fn errors(source: &GitSource) -> Vec<String> {
    let errors = source
        .status
        .as_ref()
        .map(|status| status.errors.clone())
        .unwrap_or_default();
    errors
        .iter()
        .map(|error| format!("{} {}", error.at, error.message))
        .collect()
}

async fn sessions(team: &Team) -> Result<Vec<String>> {
    Ok(team
        .api::<AgentSession>()
        .list(&ListParams::default())
        .await?
        .iter()
        .map(ResourceExt::name_any)
        .collect())
}

#[tokio::test]
async fn a_commit_becomes_a_session_that_says_where_it_comes_from() -> Result<()> {
    let (team, repository) = team_with_repository("push").await?;
    repository.write("agents/pool.yaml", &team.pool(1).to_string())?;
    repository.write("agents/s.yaml", &session_yaml("s", "echo from git > result.md"))?;
    let commit = repository.push("Add a session")?;
    team.source("source", &repository.url).await?;
    let session = team.phase("s", Phase::Succeeded).await?;
    let source = session
        .status
        .clone()
        .and_then(|status| status.source)
        .context("a source")?;
    let told = (
        source.commit.as_deref(),
        source.path.as_deref(),
        source.repository.as_deref(),
    );
    assert_eq!(
        told,
        (
            Some(commit.as_str()),
            Some("agents/s.yaml"),
            Some(repository.url.as_str())
        )
    );
    assert_eq!(source.author.as_deref(), Some("Alice Example <alice@example.com>"));
    let source = handles(&team, &commit).await?;
    assert_eq!(
        (
            reason(&source),
            source.status.as_ref().and_then(|status| status.applied_objects)
        ),
        ("Applied", Some(2))
    );

    // A later commit that touches another file keeps what the session says.
    repository.write("README.md", "hello")?;
    let later = repository.push("Say hello")?;
    handles(&team, &later).await?;
    let session = team.api::<AgentSession>().get("s").await?;
    assert_eq!(session.annotations().get("berth.dev/commit"), Some(&commit));
    team.end().await
}

#[tokio::test]
async fn the_quickstart_runs_as_it_is_committed() -> Result<()> {
    let (team, repository) = team_with_repository("quickstart").await?;
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/quickstart/repository");
    for entry in std::fs::read_dir(folder)? {
        let file = entry?;
        repository.write(
            &file.file_name().to_string_lossy(),
            &std::fs::read_to_string(file.path())?,
        )?;
    }
    repository.push("Add the quickstart")?;
    team.source("source", &repository.url).await?;
    let session = team.phase("hello", Phase::Succeeded).await?;
    let summary = session
        .status
        .and_then(|status| status.result)
        .and_then(|result| result.summary);
    assert!(summary.context("a summary")?.contains("Say in one sentence"));
    team.end().await
}

#[tokio::test]
async fn a_webhook_is_quicker_than_the_interval_and_needs_its_signature() -> Result<()> {
    let (team, repository) = team_with_repository("webhook").await?;
    repository.write("pool.yaml", &team.pool(0).to_string())?;
    let first = repository.push("Add a pool")?;
    follow(&team, &repository, "1h").await?;
    handles(&team, &first).await?;

    repository.write("s.yaml", &session_yaml("s", "true"))?;
    repository.push("Add a session")?;
    let quick = Duration::from_secs(15);
    team.wait::<AgentSession>("s", "session", quick, |_| true)
        .await
        .context("the interval is an hour")?;
    let unsigned = webhook(&team)?;
    let answer = reqwest::Client::new()
        .post(&unsigned)
        .header("x-hub-signature-256", "sha256=00")
        .body("{}")
        .send()
        .await?;
    assert_eq!(answer.status(), 403);
    team.end().await
}

#[tokio::test]
async fn a_bad_file_says_where_and_stops_no_other() -> Result<()> {
    let (team, repository) = team_with_repository("bad").await?;
    repository.write("pool.yaml", &team.pool(0).to_string())?;
    repository.write("good.yaml", &session_yaml("good", "true"))?;
    repository.write("broken.yaml", "kind: AgentSession\nspec: [1, 2\n")?;
    repository.write("twice-a.yaml", &session_yaml("twice", "true"))?;
    repository.write("twice-b.yaml", &session_yaml("twice", "true"))?;
    repository.write("foreign.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n")?;
    let elsewhere = "apiVersion: berth.dev/v1alpha1\nkind: AgentSession\nmetadata:\n  name: x\n  namespace: other\n";
    repository.write("elsewhere.yaml", elsewhere)?;
    repository.write(
        "policy.yaml",
        "apiVersion: berth.dev/v1alpha1\nkind: GrantPolicy\nmetadata: {name: x}\n",
    )?;
    let owned = "apiVersion: berth.dev/v1alpha1\nkind: AgentSession\nmetadata:\n  name: x\n  ownerReferences: []\n";
    repository.write("owned.yaml", owned)?;
    let unknown = session_yaml("unknown", "true").replace("\"prompt\"", "\"prompts\"");
    repository.write("unknown.yaml", &unknown)?;
    let commit = repository.push("Add good and bad")?;
    team.source("source", &repository.url).await?;

    let source = handles(&team, &commit).await?;
    let found = errors(&source);
    for (at, words) in [
        ("broken.yaml:", "not YAML"),
        ("elsewhere.yaml:5:3 ", "metadata.namespace"),
        ("owned.yaml:5:3 ", "metadata.ownerReferences"),
        ("policy.yaml:2:1 ", "isn't applied from git"),
        ("twice-a.yaml:1:", "twice-b.yaml:1:"),
        ("twice-b.yaml:1:", "twice-a.yaml:1:"),
        ("unknown.yaml:1:", "prompts"),
    ] {
        assert!(
            found.iter().any(|error| error.starts_with(at) && error.contains(words)),
            "{at}{words}: {found:#?}"
        );
    }
    let status = source.status.clone().context("a status")?;
    assert_eq!(
        (found.len(), status.skipped_documents, reason(&source)),
        (7, Some(1), "AppliedWithErrors")
    );
    team.phase("good", Phase::Succeeded).await?;
    let events = team.kubectl(&["get", "events", "--field-selector", "involvedObject.kind=GitSource"])?;
    assert!(events.contains("owned.yaml:5:3"), "{events}");

    // The file is mended: the error goes.
    repository.write("broken.yaml", &session_yaml("broken", "true"))?;
    let mended = repository.push("Mend it")?;
    let source = handles(&team, &mended).await?;
    assert!(errors(&source).iter().all(|error| !error.starts_with("broken.yaml")));
    team.end().await
}

#[tokio::test]
async fn drift_is_taken_back_only_where_git_owns_the_field() -> Result<()> {
    let (team, repository) = team_with_repository("drift").await?;
    repository.write("s.yaml", &session_yaml("s", "echo git"))?;
    let commit = repository.push("Add a session")?;
    team.source("source", &repository.url).await?;
    handles(&team, &commit).await?;
    team.wait::<AgentSession>("s", "session", PATIENCE, |_| true).await?;
    let patch = r#"{"metadata":{"labels":{"mine":"stays"}},"spec":{"model":"stays","task":{"prompt":"echo drift"}}}"#;
    team.kubectl(&["patch", "agentsession", "s", "--type=merge", "-p", patch])?;
    team.wait::<AgentSession>("s", "git's prompt", PATIENCE, |session| {
        session.spec.task.prompt == "echo git" && session.metadata.generation.unwrap_or(0) >= 3
    })
    .await?;
    let session = team.api::<AgentSession>().get("s").await?;
    assert_eq!(
        (
            session.spec.model.as_deref(),
            session.labels().get("mine").map(String::as_str)
        ),
        (Some("stays"), Some("stays"))
    );
    team.end().await
}

#[tokio::test]
async fn another_owners_object_is_never_fought_over() -> Result<()> {
    let (team, repository) = team_with_repository("owned").await?;
    team.session("by-hand", "echo hand").await?;
    let flux = session_yaml("by-flux", "echo flux").replace(
        "\"name\":\"by-flux\"",
        "\"name\":\"by-flux\",\"labels\":{\"kustomize.toolkit.fluxcd.io/name\":\"apps\"}",
    );
    team.apply(&serde_json::from_str(&flux)?).await?;
    for name in ["by-hand", "by-flux"] {
        repository.write(&format!("{name}.yaml"), &session_yaml(name, "echo git"))?;
    }
    let commit = repository.push("Claim what others own")?;
    team.source("source", &repository.url).await?;
    let found = errors(&handles(&team, &commit).await?);
    assert!(found.iter().any(|error| error.contains("OwnedBy nobody")), "{found:?}");
    assert!(
        found
            .iter()
            .any(|error| error.contains("OwnedBy Flux Kustomization apps")),
        "{found:?}"
    );
    assert_eq!(
        team.api::<AgentSession>().get("by-hand").await?.spec.task.prompt,
        "echo hand"
    );
    team.end().await
}

#[tokio::test]
async fn what_leaves_the_branch_goes_and_a_landslide_waits_for_a_person() -> Result<()> {
    let (team, repository) = team_with_repository("prune").await?;
    for number in 0..12 {
        repository.write(
            &format!("s-{number:02}.yaml"),
            &session_yaml(&format!("s-{number:02}"), "true"),
        )?;
    }
    let first = repository.push("Add twelve")?;
    team.source("source", &repository.url).await?;
    handles(&team, &first).await?;
    repository.remove("s-00.yaml")?;
    let second = repository.push("Remove one")?;
    handles(&team, &second).await?;
    assert_eq!(sessions(&team).await?.len(), 11);

    repository.git(&["rm", "--quiet", "*.yaml"])?;
    let emptied = repository.push("Remove all")?;
    let source = handles(&team, &emptied).await?;
    assert_eq!((reason(&source), sessions(&team).await?.len()), ("PruneGuard", 11));
    team.kubectl(&[
        "annotate",
        "gitsource",
        "source",
        &format!("berth.dev/approve-prune={emptied}"),
    ])?;
    team.source_says("source", "approval", |source| reason(source) == "Applied")
        .await?;
    assert_eq!(sessions(&team).await?, Vec::<String>::new());
    team.end().await
}

#[tokio::test]
async fn a_repository_of_one_file_can_be_emptied() -> Result<()> {
    let (team, repository) = team_with_repository("emptied").await?;
    repository.write("s.yaml", &session_yaml("s", "true"))?;
    let first = repository.push("Add one")?;
    team.source("source", &repository.url).await?;
    handles(&team, &first).await?;
    repository.remove("s.yaml")?;
    let second = repository.push("Remove it")?;
    handles(&team, &second).await?;
    assert_eq!(sessions(&team).await?, Vec::<String>::new());
    team.end().await
}

#[tokio::test]
async fn a_crafted_repository_hurts_its_own_source_alone() -> Result<()> {
    let (team, repository) = team_with_repository("crafted").await?;
    repository.write("good.yaml", &session_yaml("good", "true"))?;
    std::os::unix::fs::symlink("/etc/passwd", repository.folder().join("link.yaml"))?;
    repository.write("large.yaml", &format!("# {}", "x".repeat((1 << 20) + 1)))?;
    repository.push("Add odd files")?;
    let here = repository.git(&["rev-parse", "HEAD"])?;
    let submodule = format!("160000,{},module", here.trim());
    repository.git(&["update-index", "--add", "--cacheinfo", &submodule])?;
    repository.git(&["commit", "--quiet", "--message", "Add a submodule"])?;
    repository.git(&["push", "--quiet", "origin", "HEAD:main"])?;
    let commit = repository.git(&["rev-parse", "HEAD"])?.trim().to_owned();
    team.source("source", &repository.url).await?;
    let found = errors(&handles(&team, &commit).await?);
    for (path, words) in [
        ("link.yaml", "symbolic links"),
        ("large.yaml", "1048576"),
        ("module", "submodules"),
    ] {
        assert!(
            found
                .iter()
                .any(|error| error.starts_with(path) && error.contains(words)),
            "{path}: {found:?}"
        );
    }
    assert_eq!(sessions(&team).await?, ["good"]);
    team.end().await
}

/// Pushes a commit of sixty thousand files, all of them one blob.
fn push_wide(repository: &Repository) -> Result<()> {
    repository.write("empty", "")?;
    repository.push("Begin")?;
    let blob = repository.git(&["rev-parse", "HEAD:empty"])?;
    let lines: Vec<String> = (0..60_000)
        .map(|number| format!("100644 blob {}\tf{number:05}\n", blob.trim()))
        .collect();
    let listing = repository.folder().join(".git/listing");
    std::fs::write(&listing, lines.concat())?;
    let made = std::process::Command::new("git")
        .arg("-C")
        .arg(repository.folder())
        .args(["mktree"])
        .stdin(std::fs::File::open(&listing)?)
        .output()?;
    let tree = String::from_utf8(made.stdout)?;
    let commit = repository.git(&["commit-tree", tree.trim(), "-m", "Sixty thousand files"])?;
    repository.git(&[
        "push",
        "--quiet",
        "--force",
        "origin",
        &format!("{}:refs/heads/main", commit.trim()),
    ])?;
    Ok(())
}

/// Pushes a small pack of a large file and of its difference to a larger one. A hundred other files keep the forge from
/// unpacking it, so that it is served as it is.
fn push_deltas(repository: &Repository) -> Result<()> {
    for (name, size) in [("one", 120 << 20), ("two", (120 << 20) + 1)] {
        std::fs::File::create(repository.folder().join(name))?.set_len(size)?;
    }
    for number in 0..100 {
        repository.write(&format!("small/{number}"), &number.to_string())?;
    }
    repository.git(&["add", "--all"])?;
    repository.git(&["commit", "--quiet", "--message", "Add zeros"])?;
    repository.git(&["repack", "-adfq", "--window=2"])?;
    repository.git(&["push", "--quiet", "origin", "HEAD:main"]).map(drop)
}

/// Waits until a source can't be fetched for a reason that holds this word.
async fn refuses(team: &Team, word: &str) -> Result<()> {
    let refused = |source: &GitSource| {
        let conditions = source
            .status
            .as_ref()
            .map(|status| status.conditions.clone())
            .unwrap_or_default();
        conditions
            .iter()
            .any(|it| it.reason == "FetchFailed" && it.message.contains(word))
    };
    team.source_says("source", "refusal", refused).await.map(drop)
}

#[tokio::test]
async fn a_wide_tree_and_a_bomb_of_deltas_hurt_their_own_sources_alone() -> Result<()> {
    let (wide, files) = team_with_repository("wide").await?;
    let (bomb, deltas) = team_with_repository("bomb").await?;
    let (team, repository) = team_with_repository("unhurt").await?;
    push_wide(&files)?;
    push_deltas(&deltas)?;
    repository.write("pool.yaml", &team.pool(0).to_string())?;
    let first = repository.push("Add a pool")?;
    team.source("source", &repository.url).await?;
    handles(&team, &first).await?;

    wide.source("source", &files.url).await?;
    bomb.source("source", &deltas.url).await?;
    repository.write("s.yaml", &session_yaml("s", "true"))?;
    let commit = repository.push("Add a session meanwhile")?;
    let (applied, (), ()) = tokio::try_join!(
        handles(&team, &commit),
        refuses(&wide, "50000"),
        refuses(&bomb, "memory")
    )?;
    assert_eq!(reason(&applied), "Applied");
    team.phase("s", Phase::Succeeded).await?;
    for team in [wide, bomb, team] {
        team.end().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_source_without_its_account_says_what_to_bind() -> Result<()> {
    let (team, repository) = team_with_repository("account").await?;
    team.kubectl(&["delete", "rolebinding", "berth-sync"])?;
    repository.write("s.yaml", &session_yaml("s", "true"))?;
    repository.push("Add a session")?;
    team.source("source", &repository.url).await?;
    let source = team
        .source_says("source", "refusal", |source| reason(source) == "SyncForbidden")
        .await?;
    assert!(
        errors(&source)[0].contains("bind ClusterRole berth-sync"),
        "{:?}",
        errors(&source)
    );
    team.end().await
}

#[tokio::test]
async fn an_unknown_branch_or_host_is_said_and_tried_again() -> Result<()> {
    let (team, repository) = team_with_repository("branch").await?;
    team.source("source", &repository.url).await?;
    team.source_says("source", "failure", |source| reason(source) == "FetchFailed")
        .await?;
    repository.write("s.yaml", &session_yaml("s", "true"))?;
    let commit = repository.push("Add the branch")?;
    handles(&team, &commit).await?;
    team.end().await
}
