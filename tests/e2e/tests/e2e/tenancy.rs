//! Two teams: what team A's committer, ServiceAccount, session and forge account try with team B's credential, and where they
//! try to make Berth send a Secret. Each way is refused with words of its own, and B's session doesn't notice.

use anyhow::{Context as _, Result, ensure};
use berth_crds::{CredentialBinding, GitSource, Phase};
use berth_e2e::api::Caller;
use berth_e2e::granted::value;
use berth_e2e::{Granted, PATIENCE, Repository, Scene, Team, cluster, session_yaml};
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::evidence::Desk;

/// Team B, whose session uses its credential, and team A.
struct World {
    a: Team,
    b: Scene,
    secret: String,
    session: Granted,
}

impl World {
    async fn new(purpose: &str) -> Result<Self> {
        let cluster = cluster().await?;
        let (b, secret) = (
            Scene::create(&cluster, &format!("{purpose}-b"), 1, &json!({})).await?,
            value()?,
        );
        b.grant("s", &secret).await?;
        let session = b.start("s", &secret, "").await?;
        let a = Team::create(&cluster, &format!("{purpose}-a")).await?;
        a.policy(json!({ "allow": [{ "name": "all", "hosts": ["*.example.com"] }], "require": { "direct": true } }))
            .await?;
        Ok(Self { a, b, secret, session })
    }

    /// B's session goes on using it, and nobody else has.
    async fn end(self) -> Result<()> {
        self.b.receives(&self.secret).await?;
        let foreign = |seen: &berth_gallery::origin::Seen| !seen.target().starts_with("/granted/s");
        let requests = self.b.outside.origin.requests();
        let leaked = requests
            .iter()
            .find(|seen| foreign(seen) && seen.head.contains(&self.secret));
        ensure!(leaked.is_none(), "the value went elsewhere: {leaked:?}");
        self.a.end_policy().await?;
        self.a.end().await?;
        self.b.end().await
    }

    fn binding(&self, name: &str, source: &Value) -> Value {
        let route = json!({
            "name": "outside", "host": self.b.outside.host, "methods": ["GET"], "addresses": ["10.0.0.0/8"],
            "inject": { "header": { "name": "Authorization", "forms": ["Bearer {}"] } },
        });
        let credential = json!({ "name": name.to_uppercase(), "source": source });
        let spec = json!({
            "credential": credential, "subjects": { "allSessions": true }, "routes": [route], "reason": "e2e",
        });
        json!({ "apiVersion": "berth.dev/v1alpha1", "kind": "CredentialBinding", "metadata": { "name": name }, "spec": spec })
    }

    async fn says(&self, name: &str, reason: &str) -> Result<String> {
        let found = self.a.wait::<CredentialBinding>(name, reason, PATIENCE, |binding| {
            let conditions = binding.status.clone().unwrap_or_default().conditions;
            conditions.iter().any(|it| it.type_ == "Ready" && it.reason == reason)
        });
        let conditions = found.await?.status.unwrap_or_default().conditions;
        let ready = conditions
            .into_iter()
            .find(|it| it.type_ == "Ready")
            .context("a condition")?;
        Ok(ready.message)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_committer_of_one_team_has_no_say_in_another() -> Result<()> {
    let world = World::new("commits").await?;
    let a = &world.a;
    let repository = Repository::create(&a.cluster, &a.namespace).await?;
    let of_secret = json!({ "secretRef": { "name": "s", "key": "token" } });
    let mut wider = world.binding("s", &of_secret);
    wider["metadata"]["namespace"] = world.b.team.namespace.clone().into();
    repository.write("wider.yaml", &wider.to_string())?;
    let policy = json!({
        "apiVersion": "berth.dev/v1alpha1", "kind": "GrantPolicy", "metadata": { "name": "mine" },
        "spec": { "allow": [{ "name": "all", "hosts": ["*.example.com"] }] },
    });
    repository.write("policy.yaml", &policy.to_string())?;
    repository.write("theirs.yaml", &world.binding("theirs", &of_secret).to_string())?;
    let gateway = json!({ "liteLLMKey": { "gateway": "mine" } });
    repository.write("gateway.yaml", &world.binding("gateway", &gateway).to_string())?;
    repository.push("Try")?;
    a.source("source", &repository.url).await?;
    let source = a
        .source_says("source", "two errors", |source: &GitSource| {
            source.status.as_ref().is_some_and(|status| status.errors.len() == 2)
        })
        .await?;
    let errors: Vec<String> = source
        .status
        .unwrap_or_default()
        .errors
        .into_iter()
        .map(|it| it.message)
        .collect();
    let says = |text: &str| errors.iter().any(|error| error.contains(text));
    ensure!(says("a source applies in its own") && says("GrantPolicy"), "{errors:?}");
    // The name of B's Secret is a name in A's namespace.
    let missing = world.says("theirs", "SecretNotFound").await?;
    ensure!(!missing.contains(&world.b.team.namespace), "{missing}");
    world.says("gateway", "GatewayUnknown").await?;
    world.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_account_of_one_team_reaches_nothing_of_another() -> Result<()> {
    let world = World::new("account").await?;
    let (a, b) = (&world.a, &world.b.team);
    let caller = Caller::create(a, "mallory", "berth-edit").await?;
    let me = format!("--as=system:serviceaccount:{}:mallory", a.namespace);
    let in_b = format!("--namespace={}", b.namespace);
    let refused = |arguments: &[&str], words: &str| -> Result<()> {
        let all = [&[me.as_str()], arguments].concat();
        match a.kubectl(&all) {
            Ok(output) => anyhow::bail!("{arguments:?} is allowed: {output}"),
            Err(error) => ensure!(error.to_string().contains(words), "{arguments:?}: {error}"),
        }
        Ok(())
    };
    let pod = world.session.pod.name_any();
    let patch = r#"{"spec":{"subjects":{"sessionNames":null,"allSessions":true}}}"#;
    for attempt in [
        vec!["get", "secret", "s", &in_b],
        vec!["get", "credentialbinding", "s", &in_b],
        vec!["patch", "credentialbinding", "s", &in_b, "--type=merge", "-p", patch],
        vec!["delete", "credentialbinding", "s", &in_b],
        vec!["get", "agentsession", "s", &in_b],
        vec!["exec", &pod, &in_b, "--container=agent", "--", "cat", "stub"],
        vec!["create", "token", "berth-credentials", &in_b, "--audience=berth"],
        // Its own namespace's is not its either.
        vec!["get", "secrets"],
    ] {
        refused(&attempt, "orbidden")?;
    }
    // Team A's own binding, by hand: whoever may edit may not grant.
    let own = world.binding("own", &json!({ "secretRef": { "name": "s", "key": "token" } }));
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), own.to_string())?;
    let manifest = file.path().to_str().context("a path")?;
    a.apply(&own).await?;
    let wider = r#"{"spec":{"subjects":{"allSessions":null,"sessionNames":["x"]},"reason":"mine"}}"#;
    refused(
        &["patch", "credentialbinding", "own", "--type=merge", "-p", wider],
        "grant",
    )?;
    a.kubectl(&["delete", "credentialbinding", "own"])?;
    refused(&["create", "-f", manifest], "grant")?;
    // B's sealed grant on A's binding: nobody but the controller writes it, not even the cluster's administrator.
    a.apply(&own).await?;
    let sealed = b.kubectl(&["get", "credentialbinding", "s", "-o", "jsonpath={.status}"])?;
    let copy = format!(r#"{{"status":{sealed}}}"#);
    let copied = a.kubectl(&[
        "patch",
        "credentialbinding",
        "own",
        "--subresource=status",
        "--type=merge",
        "-p",
        &copy,
    ]);
    ensure!(
        copied.is_err_and(|error| error.to_string().contains("controller")),
        "a status by hand"
    );
    // The API looks at the namespace of the session, and not at the caller's.
    for path in ["s/events", "s/transcript"] {
        let answer = caller.get(b, path).send().await?;
        ensure!(answer.status() == 403, "{path}: {}", answer.status());
    }
    for path in ["s/messages", "s/abort"] {
        let answer = caller.post(b, path).json(&json!({ "text": "echo" })).send().await?;
        ensure!(answer.status() == 403, "{path}: {}", answer.status());
    }
    world.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_of_one_team_has_no_use_for_anothers_stub() -> Result<()> {
    let world = World::new("stubs").await?;
    let (a, b) = (&world.a, &world.b.team);
    let pod = world.session.pod.name_any();
    let stub = b.kubectl(&["exec", &pod, "--container=agent", "--", "cat", "/workspace/stub"])?;
    let stub = stub.trim();
    ensure!(stub.starts_with("stub_"), "{stub}");
    // A's own pool opens B's host: the stub goes there as it is.
    let trust = b.kubectl(&["get", "configmap", "upstream-ca", "-o", "jsonpath={.data}"])?;
    let trust: Value = serde_json::from_str(&trust)?;
    a.create_typed::<k8s_openapi::api::core::v1::ConfigMap>(
        &json!({ "metadata": { "name": "upstream-ca" }, "data": trust }),
    )
    .await?;
    let mut pool = a.pool(1);
    pool["spec"]["caBundleRef"] = json!({ "name": "upstream-ca" });
    let open = json!({ "name": "open", "host": world.b.outside.host, "addresses": ["10.0.0.0/8"] });
    pool["spec"]["egress"] = json!({ "routes": [open] });
    a.warm(&pool).await?;
    let host = &world.b.outside.host;
    let prompt =
        format!("curl -s -o /dev/null -w '%{{http_code}}' -H 'Authorization: Bearer {stub}' https://{host}/from-a");
    a.apply(&serde_json::from_str(&session_yaml("s", &prompt))?).await?;
    let session = a.phase("s", Phase::Succeeded).await?;
    let output = a.output(&session.uid().context("a uid")?).await?;
    ensure!(output.trim() == "200", "{output}");
    let requests = world.b.outside.origin.requests();
    let from_a = requests
        .iter()
        .find(|seen| seen.target() == "/from-a")
        .context("a request")?;
    ensure!(
        from_a.header("authorization") == Some(format!("Bearer {stub}")),
        "{}",
        from_a.head
    );
    world.end().await
}

#[tokio::test]
async fn no_source_leads_berth_to_a_machines_own_addresses() -> Result<()> {
    let team = Team::create(&cluster().await?, "leads").await?;
    for (name, url, words) in [
        ("metadata", "http://169.254.169.254/latest/a.git", "Metadata"),
        ("loopback", "http://127.0.0.1:9090/a/b.git", "Loopback"),
        ("decimal", "http://2130706433:8080/a/b.git", "Loopback"),
        ("mapped", "http://[::ffff:169.254.169.254]/a.git", "Metadata"),
    ] {
        team.source(name, url).await?;
        let failed = |source: &GitSource| {
            let conditions = source.status.clone().unwrap_or_default().conditions;
            conditions
                .iter()
                .any(|it| it.type_ == "Ready" && it.reason == "FetchFailed" && it.message.contains(words))
        };
        team.source_says(name, words, failed).await?;
    }
    team.end().await
}

#[tokio::test]
async fn an_account_of_another_team_approves_nothing() -> Result<()> {
    let desk = Desk::new("foreign").await?;
    let mallory = desk.repository.stranger("mallory").await?;
    let head = desk.ask_for("a", &["GET"])?;
    let number = desk.repository.open(&desk.alice, "a").await?;
    desk.repository.listed(number, &head).await?;
    desk.repository.approve(&mallory, number).await?;
    desk.repository.merge(&desk.alice, number, "merge").await?;
    desk.says("a", "NotEnoughApprovals").await?;
    desk.end().await
}
