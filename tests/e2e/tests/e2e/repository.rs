//! The session's repository: cloned before the harness starts, with a stub of the session's own grant; its branch pushed when
//! it has ended well, and only where the binding lets it.

use anyhow::{Context as _, Result};
use berth_crds::{AgentSession, Phase};
use berth_e2e::origin::{Outside, name, trust};
use berth_e2e::{Team, cluster, session_yaml};
use berth_gallery::cgi;
use berth_gallery::origin::{Authority, Origin};
use kube::ResourceExt;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::clients::{git, repository};

const TOKEN: &str = "fake-token-of-the-forge-0123456789";

/// A team that may push to `agent/*` of a repository with one commit.
struct World {
    team: Team,
    root: TempDir,
    host: String,
    _forge: Outside,
}

impl World {
    async fn create(purpose: &str) -> Result<Self> {
        let team = Team::create(&cluster().await?, purpose).await?;
        let (authority, root) = (Authority::new()?, tempfile::tempdir()?);
        trust(&team, &authority).await?;
        repository(root.path())?;
        let host = name(&team, "forge");
        let answer = cgi::forge(root.path().to_owned(), &format!("agent:{TOKEN}"));
        let origin = Origin::served(&authority, &[&host], &["h2", "http/1.1"], answer).await?;
        let forge = Outside::of(&team, "forge", origin).await?;
        team.policy(json!({ "allow": [{ "name": "all", "hosts": [host] }], "require": { "direct": true } }))
            .await?;
        team.offer("token", TOKEN, &host).await?;
        let pushes = json!({ "repos": ["me/mine"], "access": "Write", "refPrefixes": ["refs/heads/agent/"] });
        let route = json!({
            "name": "git", "host": host, "addresses": ["10.0.0.0/8"], "inject": { "basic": {} }, "git": pushes,
        });
        let source = json!({ "secretRef": { "name": "token", "key": "token" } });
        let spec = json!({
            "credential": { "name": "FORGE_TOKEN", "source": source }, "subjects": { "allSessions": true },
            "routes": [route], "reason": "e2e",
        });
        team.apply(&json!({
            "apiVersion": "berth.dev/v1alpha1", "kind": "CredentialBinding", "metadata": { "name": "forge" }, "spec": spec,
        }))
        .await?;
        let mut pool = team.pool(0);
        pool["spec"]["caBundleRef"] = json!({ "name": "upstream-ca" });
        team.apply(&pool).await?;
        Ok(Self {
            team,
            root,
            host,
            _forge: forge,
        })
    }

    async fn run(&self, name: &str, prompt: &str, branch: &str) -> Result<()> {
        let mut session: Value = serde_json::from_str(&session_yaml(name, prompt))?;
        session["spec"]["credentials"] = json!([{ "name": "FORGE_TOKEN" }]);
        let url = format!("https://{}/me/mine.git", self.host);
        session["spec"]["repository"] = json!({ "url": url, "branch": branch });
        self.team.apply(&session).await.map(drop)
    }

    fn bare(&self, arguments: &[&str]) -> Result<String> {
        git(&self.root.path().join("me/mine.git"), arguments)
    }
}

fn branch(session: &AgentSession) -> Option<String> {
    session.status.clone()?.result?.branch
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_cloned_and_the_branch_is_pushed() -> Result<()> {
    let world = World::create("repository").await?;
    let team = &world.team;
    let work = "cat README; echo more > more; git add more; git commit -qm \"More by $(git config user.name)\"";
    world.run("first", work, "agent/work").await?;
    let session = team.phase("first", Phase::Succeeded).await?;
    assert_eq!(branch(&session).as_deref(), Some("agent/work"));
    assert_eq!(
        world.bare(&["log", "--format=%s", "agent/work"])?,
        "More by first\nBegin\n"
    );
    let printed = team.output(&session.uid().context("a uid")?).await?;
    assert!(printed.starts_with("fake") && !printed.contains(TOKEN), "{printed}");

    // Another session goes on with the branch; one that commits nothing pushes nothing.
    world
        .run("second", "cat more; git commit -q --allow-empty -m Again", "agent/work")
        .await?;
    let session = team.phase("second", Phase::Succeeded).await?;
    assert_eq!(branch(&session).as_deref(), Some("agent/work"));
    assert_eq!(
        world.bare(&["log", "--format=%s", "agent/work"])?,
        "Again\nMore by first\nBegin\n"
    );
    world.run("third", "true", "agent/nothing").await?;
    assert_eq!(branch(&team.phase("third", Phase::Succeeded).await?), None);
    assert!(world.bare(&["rev-parse", "--verify", "agent/nothing"]).is_err());
    world.team.end_policy().await?;
    world.team.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_git_cannot_do_is_said_in_its_words() -> Result<()> {
    let world = World::create("refused").await?;
    let team = &world.team;
    let message = async |name: &str| -> Result<String> {
        let session = team.condition(name, "Succeeded", "False", "HarnessFailed").await?;
        let conditions = session.status.unwrap_or_default().conditions;
        let condition = conditions.into_iter().find(|condition| condition.type_ == "Succeeded");
        Ok(condition.context("a condition")?.message)
    };
    world.run("main", "git commit -q --allow-empty -m Mine", "main").await?;
    let said = message("main").await?;
    assert!(
        said.contains("the branch can't be pushed") && said.contains("refs/heads/agent/"),
        "{said}"
    );
    assert_eq!(world.bare(&["log", "--format=%s", "main"])?, "Begin\n");

    let mut session: Value = serde_json::from_str(&session_yaml("other", "true"))?;
    session["spec"]["credentials"] = json!([{ "name": "FORGE_TOKEN" }]);
    session["spec"]["repository"] = json!({ "url": format!("https://{}/you/yours.git", world.host) });
    team.apply(&session).await?;
    let said = message("other").await?;
    assert!(said.contains("the repository can't be cloned"), "{said}");
    world.team.end_policy().await?;
    world.team.end().await
}
