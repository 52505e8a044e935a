//! The session's repository: cloned before the harness starts, with a stub of the session's own grant; its branch pushed when
//! it has ended well, and only where the binding lets it.

use anyhow::{Context as _, Result};
use berth_crds::{AgentSession, Phase};
use berth_e2e::origin::{Outside, clusters_own, name, trust};
use berth_e2e::{Repository, Team, User, cluster, session_yaml};
use berth_gallery::cgi;
use berth_gallery::origin::{Authority, Origin};
use kube::ResourceExt;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::clients::{git, repository};

pub(crate) const TOKEN: &str = "fake-token-of-the-forge-0123456789";

/// A repository with one commit on a host outside, which a binding lets sessions push to `agent/*` of.
pub(crate) struct Forge {
    pub(crate) host: String,
    root: TempDir,
    _outside: Outside,
}

impl Forge {
    /// Its certificate is of this authority; the policy is somebody else's.
    pub(crate) async fn beside(team: &Team, authority: &Authority) -> Result<Self> {
        let root = tempfile::tempdir()?;
        repository(root.path())?;
        let host = name(team, "forge");
        let answer = cgi::forge(root.path().to_owned(), &format!("agent:{TOKEN}"));
        let origin = Origin::served(authority, &[&host], &["h2", "http/1.1"], answer).await?;
        let outside = Outside::of(team, "forge", origin).await?;
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
        Ok(Self {
            host,
            root,
            _outside: outside,
        })
    }

    pub(crate) fn url(&self) -> String {
        format!("https://{}/me/mine.git", self.host)
    }

    /// Runs git in the repository.
    pub(crate) fn bare(&self, arguments: &[&str]) -> Result<String> {
        git(&self.root.path().join("me/mine.git"), arguments)
    }
}

/// A team that may use it.
struct World {
    team: Team,
    forge: Forge,
}

impl World {
    async fn create(purpose: &str) -> Result<Self> {
        let team = Team::create(&cluster().await?, purpose).await?;
        let authority = Authority::new()?;
        trust(&team, &authority).await?;
        let host = name(&team, "forge");
        team.policy(json!({ "allow": [{ "name": "all", "hosts": [host] }], "require": { "direct": true } }))
            .await?;
        let forge = Forge::beside(&team, &authority).await?;
        let mut pool = team.pool(0);
        pool["spec"]["caBundleRef"] = json!({ "name": "upstream-ca" });
        team.apply(&pool).await?;
        Ok(Self { team, forge })
    }

    async fn run(&self, name: &str, prompt: &str, branch: &str) -> Result<()> {
        let mut session: Value = serde_json::from_str(&session_yaml(name, prompt))?;
        session["spec"]["credentials"] = json!([{ "name": "FORGE_TOKEN" }]);
        session["spec"]["repository"] = json!({ "url": self.forge.url(), "branch": branch });
        self.team.apply(&session).await.map(drop)
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
        world.forge.bare(&["log", "--format=%s", "agent/work"])?,
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
        world.forge.bare(&["log", "--format=%s", "agent/work"])?,
        "Again\nMore by first\nBegin\n"
    );
    world.run("third", "true", "agent/nothing").await?;
    assert_eq!(branch(&team.phase("third", Phase::Succeeded).await?), None);
    assert!(world.forge.bare(&["rev-parse", "--verify", "agent/nothing"]).is_err());
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
    assert_eq!(world.forge.bare(&["log", "--format=%s", "main"])?, "Begin\n");

    let mut session: Value = serde_json::from_str(&session_yaml("other", "true"))?;
    session["spec"]["credentials"] = json!([{ "name": "FORGE_TOKEN" }]);
    session["spec"]["repository"] = json!({ "url": format!("https://{}/you/yours.git", world.forge.host) });
    team.apply(&session).await?;
    let said = message("other").await?;
    assert!(said.contains("the repository can't be cloned"), "{said}");
    world.team.end_policy().await?;
    world.team.end().await
}

/// A repository on the real forge, an account of the agent's own there, and sessions that open pull requests.
struct Desk {
    team: Team,
    repository: Repository,
    agent: User,
    host: String,
}

impl Desk {
    async fn create() -> Result<Self> {
        let cluster = cluster().await?;
        let team = Team::create(&cluster, "pull").await?;
        let repository = Repository::create(&cluster, &team.namespace).await?;
        repository.write("README", "hello")?;
        repository.push("Begin")?;
        let agent = repository.user("agent").await?;
        trust(&team, &clusters_own(&cluster)?).await?;
        let host = cluster.forge_host.clone();
        team.policy(json!({ "allow": [{ "name": "all", "hosts": [host] }], "require": { "direct": true } }))
            .await?;
        let path = format!("users/{}/tokens", agent.login);
        let wanted = json!({ "name": "agent", "scopes": ["write:repository"] });
        let token = repository.api_as(&agent, "POST", &path, &wanted).await?;
        team.offer("token", token["sha1"].as_str().context("a token")?, &host)
            .await?;
        let mut pool = team.pool(0);
        pool["spec"]["caBundleRef"] = json!({ "name": "upstream-ca" });
        team.apply(&pool).await?;
        Ok(Self {
            team,
            repository,
            agent,
            host,
        })
    }

    /// Grants the sessions pushes to `agent/*`, and whatever else these routes grant.
    async fn grant(&self, credential: &str, sessions: &[&str], others: &[Value]) -> Result<()> {
        let pushes = json!({
            "repos": [self.repository.path], "access": "Write", "refPrefixes": ["refs/heads/agent/"],
        });
        let git = json!({
            "name": "git", "host": self.host, "addresses": ["10.0.0.0/8"], "inject": { "basic": {} }, "git": pushes,
        });
        let routes: Vec<Value> = [git].into_iter().chain(others.iter().cloned()).collect();
        let source = json!({ "secretRef": { "name": "token", "key": "token" } });
        let spec = json!({
            "credential": { "name": credential, "source": source }, "subjects": { "sessionNames": sessions },
            "routes": routes, "reason": "e2e",
        });
        let name = credential.to_lowercase().replace('_', "-");
        let binding = json!({
            "apiVersion": "berth.dev/v1alpha1", "kind": "CredentialBinding", "metadata": { "name": name }, "spec": spec,
        });
        self.team.apply(&binding).await.map(drop)
    }

    async fn run(&self, name: &str, credential: &str, prompt: &str) -> Result<()> {
        let mut session: Value = serde_json::from_str(&session_yaml(name, prompt))?;
        session["spec"]["credentials"] = json!([{ "name": credential }]);
        session["spec"]["repository"] = json!({
            "url": format!("https://{}/{}.git", self.host, self.repository.path),
            "branch": "agent/work", "pullRequest": { "open": true },
        });
        self.team.apply(&session).await.map(drop)
    }
}

#[tokio::test]
async fn the_pull_request_is_the_agents_own() -> Result<()> {
    let desk = Desk::create().await?;
    let (team, repository) = (&desk.team, &desk.repository);
    let pulls = json!({
        "name": "pulls", "host": desk.host, "addresses": ["10.0.0.0/8"], "methods": ["GET", "POST"],
        "paths": [format!("/api/v1/repos/{}/pulls", repository.path)],
        "inject": { "header": { "name": "Authorization", "forms": ["Bearer {}"] } },
    });
    desk.grant("FORGE_TOKEN", &["first", "second"], &[pulls]).await?;
    desk.grant("GIT_ONLY", &["third"], &[]).await?;
    let commit = "git commit -q --allow-empty -m 'Say more' && echo 'Said more.' > result.md";
    desk.run("first", "FORGE_TOKEN", commit).await?;
    let result = |session: AgentSession| session.status.and_then(|status| status.result).context("a result");
    let first = result(team.phase("first", Phase::Succeeded).await?)?;
    let page = format!("https://{}/{}/pulls/1", desk.host, repository.path);
    assert_eq!(
        (first.branch.as_deref(), first.pull_request.as_ref()),
        (Some("agent/work"), Some(&page))
    );
    let pull = repository
        .api("GET", &format!("repos/{}/pulls/1", repository.path), &Value::Null)
        .await?;
    assert_eq!(pull["user"]["login"], desk.agent.login.as_str());
    assert_eq!(
        (&pull["title"], &pull["base"]["ref"]),
        (&"Say more".into(), &"main".into())
    );
    let body = format!("Said more.\n\nOpened by AgentSession {}/first.", team.namespace);
    assert_eq!(pull["body"], body.as_str());

    // One that is open already is the session's.
    desk.run("second", "FORGE_TOKEN", "git commit -q --allow-empty -m 'And more'")
        .await?;
    let second = result(team.phase("second", Phase::Succeeded).await?)?;
    assert_eq!(second.pull_request, Some(page));

    // The right to push is no right to open one.
    desk.run("third", "GIT_ONLY", "git commit -q --allow-empty -m 'Even more'")
        .await?;
    let third = team.condition("third", "Succeeded", "False", "HarnessFailed").await?;
    let conditions = third.status.clone().unwrap_or_default().conditions;
    let message = &conditions
        .iter()
        .find(|it| it.type_ == "Succeeded")
        .context("a condition")?
        .message;
    assert!(
        message.contains("the pull request can't be opened: 403 Forbidden"),
        "{message}"
    );
    assert!(!message.contains("could not be started"), "{message}");
    let third = result(third)?;
    assert_eq!(
        (third.branch.as_deref(), third.pull_request),
        (Some("agent/work"), None)
    );
    team.end_policy().await?;
    desk.team.end().await
}
