//! Programs that agents use, as they are: each is skipped, and says so, where the machine hasn't got it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use berth_gallery::agent;
use berth_gallery::cgi;
use berth_gallery::origin::{Authority, Origin, Seen, ok};
use berth_gallery::policy::{self, HOST, SECRET, STUB};
use berth_gallery::scene::Scene;
use http::header::AUTHORIZATION;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::json;
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::timeout;

/// Runs a program behind the sidecar, as the agent's container would. `None` when it isn't there.
pub(super) async fn run(scene: &Scene, program: &str, arguments: &[&str]) -> Result<Option<Output>> {
    run_with(scene, &[], program, arguments).await
}

/// The same with further environment.
pub(super) async fn run_with(
    scene: &Scene,
    more: &[(&str, &str)],
    program: &str,
    arguments: &[&str],
) -> Result<Option<Output>> {
    let home = tempfile::tempdir()?;
    let found = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .await;
    if found.is_err() {
        skip(program);
        return Ok(None);
    }
    let ca = scene.sidecar.handoff();
    let environment = berth_protocol::environment::of(&ca.to_string_lossy(), scene.sidecar.proxy);
    let output = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("PATH", path())
        .env("HOME", home.path())
        .env("TOKEN", STUB)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_TERMINAL_PROMPT", "0")
        .envs(environment)
        .envs(more.iter().copied())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(PATIENCE, output)
        .await
        .with_context(|| format!("{program} hangs"))?;
    Ok(Some(output?))
}

fn path() -> OsString {
    std::env::var_os("PATH").unwrap_or_default()
}

#[expect(clippy::print_stderr, reason = "a test that is left out says so")]
pub(super) fn skip(program: &str) {
    eprintln!("skipped: {program} isn't on this machine");
}

pub(super) fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// An origin that says by HTTP/2 or HTTP/1.1 what it got in `Authorization`.
pub(super) async fn telling(protocols: &[&str]) -> Result<Scene> {
    let authority = Authority::new()?;
    let origin = Origin::served(
        &authority,
        &[HOST],
        protocols,
        |request: Request<Incoming>| async move {
            let value = request.headers().get(AUTHORIZATION).cloned();
            let value = value
                .and_then(|value| value.to_str().map(str::to_owned).ok())
                .unwrap_or_default();
            let body = request.into_body().collect().await?.to_bytes();
            Ok(Response::new(agent::full(format!(
                "{value} and {} bytes\n",
                body.len()
            ))))
        },
    );
    let origin = origin.await?;
    Scene::around(authority, origin, &json!({})).await
}

pub(super) fn is_exchanged(scene: &Scene, output: &Output) -> Result<()> {
    let text = text(output);
    ensure!(output.status.success(), "{text}");
    ensure!(text.contains(&format!("Bearer {STUB}")), "{text}");
    ensure!(!text.contains(SECRET), "{text}");
    let requests = scene.origin.requests();
    ensure!(
        requests
            .iter()
            .any(|seen| seen.head.contains(&format!("authorization: Bearer {SECRET}"))),
        "{requests:?}"
    );
    Ok(())
}

/// git reads and writes 20 MB several times, on a busy machine and without optimization.
const PATIENCE: Duration = Duration::from_mins(2);

#[tokio::test]
async fn curl_is_served_by_either_protocol() -> Result<()> {
    for (option, protocols) in [
        ("--http1.1", vec!["http/1.1"]),
        ("--http2", vec!["h2", "http/1.1"]),
        ("-#", vec!["http/1.1"]),
    ] {
        let scene = telling(&protocols).await?;
        let url = format!("https://{}/", scene.place);
        let header = format!("Authorization: Bearer {STUB}");
        let upload = "x".repeat(100_000);
        let arguments = ["-sS", "--fail", option, "-H", &header, "--data-binary", &upload, &url];
        let Some(output) = run(&scene, "curl", &arguments).await? else {
            return Ok(());
        };
        is_exchanged(&scene, &output)?;
        ensure!(text(&output).contains("and 100000 bytes"), "{}", text(&output));
    }
    Ok(())
}

#[tokio::test]
async fn curl_is_told_why_it_is_refused() -> Result<()> {
    let scene = telling(&["http/1.1"]).await?;
    let Some(output) = run(&scene, "curl", &["-sS", "-D-", "https://evil.example.com/"]).await? else {
        return Ok(());
    };
    assert!(!output.status.success());
    assert!(text(&output).contains("403"), "{}", text(&output));
    Ok(())
}

#[tokio::test]
async fn python_is_served() -> Result<()> {
    let scene = telling(&["h2", "http/1.1"]).await?;
    let url = format!("https://{}/", scene.place);
    let plain = format!(
        "import os, urllib.request as u\n\
         r = u.Request('{url}', headers={{'Authorization': 'Bearer ' + os.environ['TOKEN']}})\n\
         print(u.urlopen(r).read().decode())"
    );
    let Some(output) = run(&scene, "python3", &["-c", &plain]).await? else {
        return Ok(());
    };
    is_exchanged(&scene, &output)?;
    let missing = run(&scene, "python3", &["-c", "import requests"]).await?;
    if missing.is_none_or(|output| !output.status.success()) {
        skip("python3 requests");
        return Ok(());
    }
    let requests = format!(
        "import os, requests\n\
         s = requests.Session()\n\
         for n in range(3):\n\
         \x20 r = s.post('{url}', data=iter([b'a' * 1000] * 10), headers={{'Authorization': 'Bearer ' + os.environ['TOKEN']}})\n\
         \x20 assert r.status_code == 200, r.text\n\
         print(r.text)"
    );
    let output = run(&scene, "python3", &["-c", &requests])
        .await?
        .context("it was there")?;
    is_exchanged(&scene, &output)
}

#[tokio::test]
async fn node_is_served() -> Result<()> {
    let scene = telling(&["h2", "http/1.1"]).await?;
    // Node's own client knows no proxy before version 24; this is what its libraries do.
    let program = format!(
        "const http = require('http'), tls = require('tls'), https = require('https');\n\
         const [, , host, port] = process.argv.concat(['', '']);\n\
         const proxy = new URL(process.env.HTTPS_PROXY);\n\
         const request = http.request({{ host: proxy.hostname, port: proxy.port, method: 'CONNECT', path: '{}' }});\n\
         request.on('connect', (response, socket) => {{\n\
           const secure = tls.connect({{ socket, servername: '{HOST}', ALPNProtocols: ['http/1.1'] }}, () => {{\n\
             const options = {{ createConnection: () => secure, host: '{HOST}', path: '/',\n\
               headers: {{ host: '{}', authorization: 'Bearer ' + process.env.TOKEN }} }};\n\
             https.get(options, answer => answer.on('data', data => console.log(String(data))).on('end', () => process.exit(0)));\n\
           }});\n\
         }});\n\
         request.end();",
        scene.place, scene.place
    );
    let Some(output) = run(&scene, "node", &["-e", &program]).await? else {
        return Ok(());
    };
    is_exchanged(&scene, &output)
}

#[tokio::test]
async fn npm_reads_a_registry() -> Result<()> {
    let authority = Authority::new()?;
    let answer = Arc::new(|seen: &Seen| ok(json!({ "name": "@fake/package", "seen": seen.target() }).to_string()));
    let origin = Origin::http1(&authority, &[HOST], answer).await?;
    let scene = Scene::around(authority, origin, &json!({ "methods": ["GET"] })).await?;
    let registry = format!("--registry=https://{}/", scene.place);
    let token = format!("--//{}/:_authToken={STUB}", scene.place);
    let arguments = [
        "view",
        "@fake/package",
        "--json",
        &registry,
        &token,
        "--fetch-retries=0",
    ];
    let Some(output) = run(&scene, "npm", &arguments).await? else {
        return Ok(());
    };
    let requests = scene.origin.requests();
    let seen = requests
        .iter()
        .find(|seen| seen.target().contains("fake"))
        .with_context(|| text(&output))?;
    // A scoped name: the slash within it stays encoded.
    assert_eq!(seen.target(), "/@fake%2Fpackage", "{}", text(&output));
    assert_eq!(
        seen.header("authorization").as_deref(),
        Some(&*format!("Bearer {SECRET}"))
    );
    Ok(())
}

/// A forge: `git http-backend` behind HTTP Basic.
async fn forge(root: PathBuf, protocols: &[&str], access: &str) -> Result<Scene> {
    let authority = Authority::new()?;
    let answer = cgi::forge(root, &format!("agent:{SECRET}"));
    let origin = Origin::served(&authority, &[HOST], protocols, answer).await?;
    let git = json!({
        "methods": null,
        "paths": null,
        "inject": { "basic": { "username": "agent" } },
        "git": { "repos": ["me/mine"], "access": access },
    });
    let policy = policy::bearer(origin.address.port(), &git);
    Scene::with(authority, origin, &policy).await
}

/// A bare repository with one commit, `ROOT/me/mine.git`.
fn repository(root: &Path) -> Result<()> {
    let bare = root.join("me/mine.git");
    std::fs::create_dir_all(&bare)?;
    git(&bare, &["init", "-q", "--bare", "-b", "main"])?;
    git(&bare, &["config", "http.receivepack", "true"])?;
    let work = root.join("work");
    std::fs::create_dir_all(&work)?;
    git(&work, &["init", "-q", "-b", "main"])?;
    std::fs::write(work.join("README"), "a fake repository\n")?;
    git(&work, &["add", "."])?;
    git(&work, &["commit", "-q", "-m", "Begin"])?;
    git(&work, &["push", "-q", &bare.to_string_lossy(), "main"])
}

/// git on this machine, without any proxy.
fn git(directory: &Path, arguments: &[&str]) -> Result<()> {
    let identity = ["-c", "user.name=Fake", "-c", "user.email=fake@example.com"];
    let output = std::process::Command::new("git")
        .current_dir(directory)
        .args(identity)
        .args(arguments)
        .output()?;
    ensure!(output.status.success(), "git {arguments:?}: {}", text(&output));
    Ok(())
}

/// A commit with a file that no compression makes smaller.
fn commit_random(clone: &Path, bytes: usize) -> Result<()> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    let random: Vec<u8> = words.take(bytes / 8).flatten().collect();
    std::fs::write(clone.join("random"), random)?;
    git(clone, &["config", "core.compression", "0"])?;
    git(clone, &["add", "."])?;
    git(clone, &["commit", "-q", "-m", "Add noise"])
}

/// A clone through the sidecar; `None` without git.
async fn clone(scene: &Scene, into: &TempDir) -> Result<Option<Output>> {
    let url = format!("https://agent:{STUB}@{}/me/mine.git", scene.place);
    run(
        scene,
        "git",
        &["clone", "-q", &url, &into.path().join("clone").to_string_lossy()],
    )
    .await
}

/// THREAT: 66
/// git asks without a credential first, is answered 401, and comes again with the stub; its push is 20 MB in chunks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn git_clones_and_pushes() -> Result<()> {
    for protocols in [vec!["http/1.1"], vec!["h2", "http/1.1"]] {
        let (root, into) = (tempfile::tempdir()?, tempfile::tempdir()?);
        repository(root.path())?;
        let scene = forge(root.path().to_owned(), &protocols, "Write").await?;
        let Some(output) = clone(&scene, &into).await? else {
            return Ok(());
        };
        ensure!(output.status.success(), "{}", text(&output));
        let clone = into.path().join("clone");
        commit_random(&clone, 20 << 20)?;
        let at = clone.to_string_lossy().into_owned();
        let output = run(&scene, "git", &["-C", &at, "push", "-q", "origin", "main:agent"])
            .await?
            .context("it was there")?;
        ensure!(output.status.success(), "{}", text(&output));
        git(&root.path().join("me/mine.git"), &["rev-parse", "agent"])?;
        let seen = scene.origin.requests();
        assert!(
            seen.iter()
                .any(|seen| seen.head.starts_with("POST ") && seen.target().ends_with("/git-receive-pack"))
        );
        assert!(seen[0].header("authorization").is_none());
        assert!(
            !seen
                .iter()
                .any(|seen| seen.head.contains(&BASE64_STANDARD.encode(format!("agent:{STUB}"))))
        );
    }
    Ok(())
}

/// THREAT: 26
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn git_does_not_push_where_it_may_read() -> Result<()> {
    let (root, into) = (tempfile::tempdir()?, tempfile::tempdir()?);
    repository(root.path())?;
    let scene = forge(root.path().to_owned(), &["http/1.1"], "Read").await?;
    let Some(output) = clone(&scene, &into).await? else {
        return Ok(());
    };
    ensure!(output.status.success(), "{}", text(&output));
    let clone = into.path().join("clone");
    commit_random(&clone, 1 << 10)?;
    let at = clone.to_string_lossy().into_owned();
    let output = run(&scene, "git", &["-C", &at, "push", "-q", "origin", "main:agent"])
        .await?
        .context("it was there")?;
    assert!(!output.status.success());
    assert!(text(&output).contains("403"), "{}", text(&output));
    assert!(
        !scene
            .origin
            .requests()
            .iter()
            .any(|seen| seen.head.contains("receive-pack"))
    );
    Ok(())
}
