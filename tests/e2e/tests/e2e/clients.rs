//! Clients as Debian ships them, in a session's pod: nobody tells them of proxy, certificates or credential but the
//! environment that the session gives its harness.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use berth_crds::AgentSession;
use berth_e2e::origin::{Outside, name, trust};
use berth_e2e::{Team, cluster};
use berth_gallery::aws::{self, Key};
use berth_gallery::cgi;
use berth_gallery::origin::{Answer, Authority, Origin, Seen, echo, ok};
use kube::ResourceExt;
use serde_json::{Value, json};

const SECRET: &str = "fake-value-of-every-client-0123456789";
const KEY: Key<'_> = Key {
    id: "AKIAFAKE0123456789AB",
    secret: "fake/secret+access/key/0123456789abcdefgh",
    token: None,
};

/// Each line says what it found; nothing ends the others.
const SCRIPT: &str = r#"
cd /workspace; git config --global user.name agent; git config --global user.email agent@example.com
try() { name=$1; shift; if "$@" >"$name.out" 2>&1; then echo "$name works"; else echo "$name fails: $(tail -c 300 "$name.out")"; fi; }
try curl curl -sSf -H "Authorization: Bearer $TOKEN" "$PLACE/curl"
try python python3 /clients/ask.py "$PLACE/python/"
try node node /clients/ask.js "$PLACE/node"
try npm npm view @fake/package --json "--registry=$PLACE/npm/" "--//${PLACE#https://}/npm/:_authToken=$TOKEN" --fetch-retries=0
try pip pip download --no-deps --no-cache-dir -d wheels --index-url "https://any:$TOKEN@${PLACE#https://}/pip/simple" fake
try go /clients/ask "$PLACE/go"
try java java -cp /clients Ask "$PLACE/java"
try aws aws --endpoint-url "$PLACE/aws" --region test-1 s3api list-buckets
try clone git clone -q "https://agent:$FORGE_TOKEN@${FORGE#https://}/me/mine.git" mine
try noise sh -c 'cd mine && head -c 200000000 /dev/urandom > noise && git -c core.compression=0 add . && git commit -qm Noise'
try push git -C mine -c core.compression=0 push -q origin HEAD:refs/heads/agent/noise
try main git -C mine push -q origin HEAD:refs/heads/main
"#;

/// What clients want to read of a registry and of object storage; else the request.
fn answers() -> Answer {
    let echo = echo();
    Arc::new(move |seen| match seen.target() {
        "/aws" => ok("<ListAllMyBucketsResult><Buckets/></ListAllMyBucketsResult>"),
        "/npm/@fake%2Fpackage" => ok(json!({ "name": "@fake/package" }).to_string()),
        _ => echo(seen),
    })
}

pub(crate) fn git(folder: &Path, arguments: &[&str]) -> Result<String> {
    let identity = ["-c", "user.name=Fake", "-c", "user.email=fake@example.com"];
    let output = Command::new("git")
        .current_dir(folder)
        .args(identity)
        .args(arguments)
        .output()?;
    ensure!(
        output.status.success(),
        "git {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// A bare repository `ROOT/me/mine.git` with one commit.
pub(crate) fn repository(root: &Path) -> Result<()> {
    std::fs::create_dir_all(root.join("work"))?;
    git(root, &["init", "-q", "--bare", "-b", "main", "me/mine.git"])?;
    git(&root.join("me/mine.git"), &["config", "http.receivepack", "true"])?;
    let work = root.join("work");
    git(&work, &["init", "-q", "-b", "main"])?;
    std::fs::write(work.join("README"), "fake")?;
    git(&work, &["add", "."])?;
    git(&work, &["commit", "-qm", "Begin"])?;
    git(&work, &["push", "-q", "../me/mine.git", "main"]).map(drop)
}

fn route(name: &str, host: &str, more: &Value) -> Value {
    let mut route = json!({ "name": name, "host": host, "addresses": ["10.0.0.0/8"] });
    for (field, value) in more.as_object().into_iter().flatten() {
        route[field] = value.clone();
    }
    route
}

async fn bind(team: &Team, places: [&str; 2]) -> Result<()> {
    let [outside, forge] = places;
    let header = json!({ "header": { "name": "Authorization", "forms": ["Bearer {}"] } });
    let basic = json!({ "basic": {} });
    let pushes = json!({ "repos": ["me/mine"], "access": "Write", "refPrefixes": ["refs/heads/agent/"] });
    let routes = [
        route(
            "index",
            outside,
            &json!({ "methods": ["GET"], "paths": ["/pip/**"], "inject": basic }),
        ),
        route(
            "others",
            outside,
            &json!({ "methods": ["GET", "POST"], "paths": ["/curl", "/python/**", "/node", "/npm/**", "/go", "/java"], "inject": header }),
        ),
    ];
    let git = route("git", forge, &json!({ "inject": basic, "git": pushes }));
    team.policy(json!({ "allow": [{ "name": "all", "hosts": places }], "require": { "direct": true } }))
        .await?;
    team.offer("token", SECRET, &places.join(",")).await?;
    let source = json!({ "secretRef": { "name": "token", "key": "token" } });
    grant(team, "token", &json!({ "name": "TOKEN", "source": source }), &routes).await?;
    // Not the same: one that may push to some refs must not write otherwise.
    grant(
        team,
        "forge",
        &json!({ "name": "FORGE_TOKEN", "source": source }),
        &[git],
    )
    .await?;
    let data = json!({ "stringData": { "id": KEY.id, "secret": KEY.secret } });
    team.offer_as("aws", outside, data).await?;
    let source = json!({ "awsSigV4": {
        "accessKeyRef": { "name": "aws", "key": "id" }, "secretKeyRef": { "name": "aws", "key": "secret" },
        "region": "test-1", "services": ["s3"],
    } });
    let buckets = json!({ "methods": ["GET"], "paths": ["/aws"], "inject": { "awsSigV4": {} } });
    let credential = json!({ "name": "AWS_ACCESS_KEY_ID", "source": source });
    grant(team, "aws", &credential, &[route("buckets", outside, &buckets)]).await
}

pub(crate) async fn grant(team: &Team, name: &str, credential: &Value, routes: &[Value]) -> Result<()> {
    let spec = json!({
        "credential": credential, "subjects": { "allSessions": true }, "routes": routes, "reason": "e2e",
    });
    team.apply(&json!({
        "apiVersion": "berth.dev/v1alpha1", "kind": "CredentialBinding", "metadata": { "name": name }, "spec": spec,
    }))
    .await
    .map(drop)
}

/// A session of the clients' image that runs a script with these variables and credentials; gives what it printed.
pub(crate) async fn run(team: &Team, script: &str, env: &[(&str, &str)], credentials: &[&str]) -> Result<String> {
    let mut pool = team.pool(0);
    pool["spec"]["caBundleRef"] = json!({ "name": "upstream-ca" });
    pool["spec"]["harness"]["image"] = "localhost/berth-clients:dev".into();
    team.apply(&pool).await?;
    let env: Vec<Value> = env
        .iter()
        .map(|(name, value)| json!({ "name": name, "value": value }))
        .collect();
    let credentials: Vec<Value> = credentials.iter().map(|name| json!({ "name": name })).collect();
    let spec = json!({
        "poolRef": { "name": "pool" }, "task": { "prompt": script }, "credentials": credentials, "env": env,
    });
    team.apply(&json!({
        "apiVersion": "berth.dev/v1alpha1", "kind": "AgentSession", "metadata": { "name": "s" }, "spec": spec,
    }))
    .await?;
    let ended = |session: &AgentSession| {
        let result = session.status.as_ref().and_then(|status| status.result.as_ref());
        result.is_some_and(|result| result.exit_code.is_some())
    };
    let session = team
        .wait::<AgentSession>("s", "its end", Duration::from_mins(5), ended)
        .await?;
    team.output(&session.uid().context("a uid")?).await
}

/// The host got the real values from each client.
fn check(seen: &[Seen], printed: &str) -> Result<()> {
    let basic = format!("Basic {}", BASE64_STANDARD.encode(format!("any:{SECRET}")));
    let bearer = format!("Bearer {SECRET}");
    let places = [
        ("/curl", &bearer),
        ("/python/urllib", &bearer),
        ("/python/requests", &bearer),
        ("/python/httpx", &bearer),
        ("/node", &bearer),
        ("/npm/@fake%2Fpackage", &bearer),
        ("/pip/simple/fake/", &basic),
        ("/go", &bearer),
        ("/java", &bearer),
    ];
    for (place, value) in places {
        let request = seen.iter().find(|seen| seen.target() == place);
        let request = request.with_context(|| format!("no {place}: {printed}"))?;
        assert_eq!(request.header("authorization").as_ref(), Some(value), "{place}");
    }
    let signed = seen.iter().find(|seen| seen.target().starts_with("/aws"));
    aws::verify(signed.context("a signed request")?, &KEY, "test-1", "s3")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_every_language_use_a_credential_from_a_pod() -> Result<()> {
    let cluster = cluster().await?;
    cluster.add(&["clients"])?;
    let team = Team::create(&cluster, "clients").await?;
    let (authority, root) = (Authority::new()?, tempfile::tempdir()?);
    trust(&team, &authority).await?;
    repository(root.path())?;
    let places = [name(&team, "outside"), name(&team, "forge")];
    let [host, forge] = [&*places[0], &*places[1]];
    let origin = Origin::http1(&authority, &[host], answers()).await?;
    let outside = Outside::of(&team, "outside", origin).await?;
    let answer = cgi::forge(root.path().to_owned(), &format!("agent:{SECRET}"));
    let origin = Origin::served(&authority, &[forge], &["h2", "http/1.1"], answer).await?;
    let _forge = Outside::of(&team, "forge", origin).await?;
    bind(&team, [host, forge]).await?;

    let (place, forge_url) = (format!("https://{host}"), format!("https://{forge}"));
    let env = [("PLACE", place.as_str()), ("FORGE", forge_url.as_str())];
    let printed = run(&team, SCRIPT, &env, &["TOKEN", "FORGE_TOKEN", "AWS_ACCESS_KEY_ID"]).await?;
    check(&outside.origin.requests(), &printed)?;
    for client in ["curl", "python", "node", "npm", "go", "java", "aws", "clone", "push"] {
        let works = printed.lines().any(|line| line == format!("{client} works"));
        assert!(works, "{client}: {printed}");
    }
    let refused = printed.contains("main fails") && printed.contains("refs/heads/agent/");
    assert!(refused, "a push elsewhere: {printed}");
    let noise = git(
        &root.path().join("me/mine.git"),
        &["cat-file", "-s", "agent/noise:noise"],
    )?;
    assert_eq!(noise.trim(), "200000000");
    assert!(!printed.contains(SECRET) && !printed.contains(KEY.id), "{printed}");
    team.end_policy().await?;
    team.end().await
}
