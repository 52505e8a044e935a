//! Pushes by git itself, through the sidecar, to `git http-backend`: what passes, and what git prints of what doesn't.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use anyhow::{Result, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use berth_gallery::agent::{self, Body, full};
use berth_gallery::cgi;
use berth_gallery::origin::{Authority, Origin};
use berth_gallery::policy::{HOST, SECRET, STUB};
use berth_gallery::scene::Scene;
use http::Response;
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// A forge with one empty repository, and an agent's clone of it.
struct Forge {
    scene: Scene,
    directory: TempDir,
}

/// What git did.
struct Done {
    success: bool,
    printed: String,
}

impl Forge {
    async fn new(change: &Value) -> Result<Self> {
        Self::speaking("http/1.1", change).await
    }

    async fn speaking(protocol: &'static str, change: &Value) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let authority = Authority::new()?;
        let root = directory.path().join("forge");
        let origin = serve(&authority, protocol, root.clone()).await?;
        let mut route = json!({
            "methods": null,
            "paths": null,
            "inject": { "basic": {} },
            "git": { "repos": ["me/mine"], "access": "Write", "refPrefixes": ["refs/heads/agent/", "refs/tags/agent/"] },
        });
        for (name, value) in change.as_object().into_iter().flatten() {
            route[name] = value.clone();
        }
        let scene = Scene::around(authority, origin, &route).await?;
        let forge = Self { scene, directory };
        std::fs::create_dir_all(forge.repository())?;
        std::fs::create_dir_all(forge.clone())?;
        forge
            .good(&forge.repository(), &["init", "--quiet", "--bare", "."])
            .await?;
        forge
            .good(&forge.clone(), &["init", "--quiet", "--initial-branch=agent/work", "."])
            .await?;
        let url = format!("https://agent:{STUB}@{}/me/mine.git", forge.scene.place);
        forge.git(&["remote", "add", "origin", &url]).await?;
        forge.commit("README.md", b"hello\n", "begin").await?;
        Ok(forge)
    }

    fn repository(&self) -> PathBuf {
        self.directory.path().join("forge/me/mine.git")
    }

    fn clone(&self) -> PathBuf {
        self.directory.path().join("clone")
    }

    async fn commit(&self, path: &str, content: &[u8], message: &str) -> Result<()> {
        let file = self.clone().join(path);
        if let Some(directory) = file.parent() {
            std::fs::create_dir_all(directory)?;
        }
        std::fs::write(file, content)?;
        self.git(&["add", "--all"]).await?;
        self.git(&["commit", "--quiet", "--message", message]).await?;
        Ok(())
    }

    async fn run(&self, directory: &Path, arguments: &[&str]) -> Result<Done> {
        let proxy = format!("http://{}", self.scene.sidecar.proxy);
        let output = Command::new("git")
            .args(arguments)
            .current_dir(directory)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", self.directory.path())
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_AUTHOR_NAME", "agent")
            .env("GIT_AUTHOR_EMAIL", "agent@example.com")
            .env("GIT_COMMITTER_NAME", "agent")
            .env("GIT_COMMITTER_EMAIL", "agent@example.com")
            .env("HTTPS_PROXY", proxy)
            .env("GIT_SSL_CAINFO", self.scene.sidecar.ca())
            .stdin(Stdio::null())
            .output()
            .await?;
        let printed = [output.stdout, output.stderr].concat();
        Ok(Done {
            success: output.status.success(),
            printed: String::from_utf8_lossy(&printed).into_owned(),
        })
    }

    async fn good(&self, directory: &Path, arguments: &[&str]) -> Result<String> {
        let done = self.run(directory, arguments).await?;
        ensure!(done.success, "git {arguments:?}: {}", done.printed);
        Ok(done.printed.trim().to_owned())
    }

    /// In the clone, and it works.
    async fn git(&self, arguments: &[&str]) -> Result<String> {
        self.good(&self.clone(), arguments).await
    }

    /// Pushes what may be pushed.
    async fn push(&self, arguments: &[&str]) -> Result<String> {
        self.git(&[&["push", "origin"], arguments].concat()).await
    }

    /// Pushes what may not be pushed; gives what git prints. Nothing of it may have reached the forge.
    async fn refused(&self, arguments: &[&str]) -> Result<String> {
        let (before, posts) = (self.refs().await?, self.posts());
        let done = self
            .run(&self.clone(), &[&["push", "origin"], arguments].concat())
            .await?;
        ensure!(!done.success, "it was pushed: {}", done.printed);
        ensure!(
            self.refs().await? == before && self.posts() == posts,
            "the forge has seen it: {}",
            done.printed
        );
        ensure!(!done.printed.contains(SECRET), "the message leaks: {}", done.printed);
        Ok(done.printed)
    }

    async fn refs(&self) -> Result<String> {
        self.good(
            &self.repository(),
            &["for-each-ref", "--format=%(refname) %(objectname)"],
        )
        .await
    }

    /// Pushes that reached the forge, but for the empty ones by which git tries whether it may.
    fn posts(&self) -> usize {
        let requests = self.scene.origin.requests();
        let pushes = requests
            .iter()
            .filter(|seen| seen.head.starts_with("POST") && seen.target().ends_with("git-receive-pack"));
        pushes
            .filter(|seen| seen.header("content-length").as_deref() != Some("4"))
            .count()
    }
}

async fn serve(authority: &Authority, protocol: &'static str, root: PathBuf) -> Result<Origin> {
    let password = BASE64_STANDARD.encode(format!("agent:{SECRET}"));
    let expected = Arc::new(format!("Basic {password}"));
    Origin::served(authority, &[HOST], &[protocol], move |request| {
        let (root, expected) = (root.clone(), Arc::clone(&expected));
        async move {
            let given = request
                .headers()
                .get(AUTHORIZATION)
                .map(|given| given.as_bytes().to_vec());
            if given.as_deref() != Some(expected.as_bytes()) {
                let refused = Response::builder()
                    .status(401)
                    .header(WWW_AUTHENTICATE, "Basic realm=\"forge\"");
                return Ok(refused.body(full(""))?);
            }
            let response = cgi::git(&root, request).await?;
            Ok(response.map(|body| -> Body { body.map_err(|never| match never {}).boxed_unsync() }))
        }
    })
    .await
}

/// Put together here, so that no scanner takes this file for a leak.
fn token() -> String {
    format!("gh{}_{}", 'p', "Fake".repeat(9))
}

/// Lines that don't compress away.
fn noise(seed: u64, lines: usize) -> Vec<u8> {
    let mut state = seed;
    let mut line = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        format!("{state:016x}\n")
    };
    (0..lines).flat_map(|_| line().into_bytes()).collect()
}

/// THREAT: 26
#[tokio::test]
async fn an_agent_pushes_to_its_own_refs() -> Result<()> {
    let forge = Forge::new(&json!({})).await?;
    forge.push(&["agent/work"]).await?;
    let content = noise(1, 2000);
    forge.commit("src/data.txt", &content, "more").await?;
    forge.push(&["agent/work"]).await?;
    // A delta to what the forge has already would be thin.
    forge
        .commit("src/data.txt", &[content.as_slice(), b"changed\n"].concat(), "change")
        .await?;
    forge.push(&["agent/work"]).await?;
    let head = forge.git(&["rev-parse", "HEAD"]).await?;
    assert_eq!(forge.refs().await?, format!("refs/heads/agent/work {head}"));
    forge.good(&forge.repository(), &["fsck", "--strict"]).await?;
    assert_eq!(forge.push(&["agent/work"]).await?, "Everything up-to-date");
    // Other branches, tags, force and deletion.
    forge.push(&["HEAD~1:refs/heads/agent/other"]).await?;
    forge
        .git(&["tag", "--annotate", "--message", "first", "agent/v1"])
        .await?;
    forge.push(&["agent/v1"]).await?;
    forge.git(&["reset", "--quiet", "--hard", "HEAD~1"]).await?;
    forge.push(&["--force", "agent/work"]).await?;
    forge.push(&["--delete", "agent/other"]).await?;
    let refs = forge.refs().await?;
    assert!(
        !refs.contains("agent/other") && refs.contains("refs/tags/agent/v1"),
        "{refs}"
    );
    // And fetches.
    let url = forge.git(&["remote", "get-url", "origin"]).await?;
    forge
        .git(&["clone", "--quiet", "--branch", "agent/work", &url, "../again"])
        .await?;
    assert!(!forge.scene.origin.text().contains(STUB));
    Ok(())
}

#[tokio::test]
async fn a_large_push_passes_in_chunks() -> Result<()> {
    let forge = Forge::new(&json!({})).await?;
    forge
        .commit("a.bin", &noise(1, 600_000), "a file that is looked at in parts")
        .await?;
    forge.push(&["agent/work"]).await?;
    let heads: Vec<String> = forge
        .scene
        .origin
        .requests()
        .into_iter()
        .map(|seen| seen.head)
        .collect();
    assert!(
        heads
            .iter()
            .any(|head| head.starts_with("POST") && head.contains("content-length: 4\r\n")),
        "no probe"
    );
    forge.good(&forge.repository(), &["fsck", "--strict"]).await?;
    Ok(())
}

#[tokio::test]
async fn http2_is_no_other() -> Result<()> {
    let forge = Forge::speaking("h2", &json!({})).await?;
    forge
        .commit("a.bin", &noise(1, 200_000), "more than a buffer of git")
        .await?;
    forge.push(&["agent/work"]).await?;
    forge.good(&forge.repository(), &["fsck", "--strict"]).await?;
    forge.commit("b", token().as_bytes(), "x").await?;
    let printed = forge.refused(&["agent/work"]).await?;
    assert!(printed.contains("remote: b:1 holds a GitHub token"), "{printed}");
    let requests = forge.scene.origin.requests();
    assert!(requests.iter().all(|seen| seen.head.contains("HTTP/2.0")));
    Ok(())
}

/// THREAT: 26
#[tokio::test]
async fn other_refs_are_refused_and_git_says_so() -> Result<()> {
    let forge = Forge::new(&json!({})).await?;
    forge.push(&["agent/work"]).await?;
    forge
        .good(&forge.repository(), &["branch", "main", "agent/work"])
        .await?;
    forge.commit("b", b"b\n", "more").await?;
    for arguments in [
        &["HEAD:refs/heads/main"][..],
        &["--force", "HEAD:refs/heads/main"],
        &["--delete", "main"],
        &["HEAD:refs/heads/agent"],
        &["HEAD:refs/tags/v1"],
        &["HEAD:refs/heads/agent/ok", "HEAD:refs/heads/main"],
    ] {
        let printed = forge.refused(arguments).await?;
        assert!(
            printed.contains("remote rejected") && printed.contains("no rule allows this session"),
            "{printed}"
        );
        assert!(
            printed.contains("remote: This session may push to refs that begin with refs/heads/agent/"),
            "{printed}"
        );
    }
    let printed = forge
        .refused(&["HEAD:refs/heads/agent/ok", "HEAD:refs/heads/main"])
        .await?;
    assert!(
        printed.contains("agent/ok (not pushed, since another ref of this push is refused)"),
        "{printed}"
    );
    let audit = forge.scene.sidecar.audit_text()?;
    assert!(!audit.contains(SECRET));
    Ok(())
}

#[tokio::test]
async fn secrets_are_blocked_wherever_they_are() -> Result<()> {
    let forge = Forge::new(&json!({})).await?;
    forge.push(&["agent/work"]).await?;
    let token = token();
    let blocked = async |what: &str, arguments: &[&str]| -> Result<()> {
        let printed = forge.refused(arguments).await?;
        ensure!(
            printed.contains(what) && printed.contains("remote rejected"),
            "{what}: {printed}"
        );
        ensure!(!printed.contains(&token), "the message leaks: {printed}");
        forge.git(&["reset", "--quiet", "--hard", "origin/agent/work"]).await?;
        Ok(())
    };
    forge
        .commit("config/app.yaml", format!("a: 1\nb: {token}\n").as_bytes(), "x")
        .await?;
    blocked("config/app.yaml:2 holds a GitHub token", &["agent/work"]).await?;

    // Taken out again, but in the history.
    forge.commit("config/app.yaml", SECRET.as_bytes(), "x").await?;
    forge.commit("config/app.yaml", b"clean\n", "x").await?;
    blocked(
        "config/app.yaml:1 holds the real value of a credential",
        &["agent/work"],
    )
    .await?;

    forge.commit("stub", format!("\n\n{STUB}").as_bytes(), "x").await?;
    blocked("stub:3 holds the stub of a credential", &["agent/work"]).await?;

    let base = noise(7, 3000);
    forge.commit("big.txt", &base, "x").await?;
    forge
        .commit(
            "big.txt",
            &[&base[..17 * 1000], token.as_bytes(), b"\n", &base[17 * 1000..]].concat(),
            "y",
        )
        .await?;
    forge.git(&["repack", "-adq"]).await?;
    blocked("big.txt:1001 holds a GitHub token", &["agent/work"]).await?;

    forge.commit("c", b"c\n", &format!("a message\n\nwith {token}")).await?;
    blocked("holds a GitHub token", &["agent/work"]).await?;

    forge.commit(&format!("d/{token}.txt"), b"d\n", "x").await?;
    blocked("the name of a file in d/ holds a GitHub token", &["agent/work"]).await?;

    forge
        .git(&["tag", "--annotate", "--message", &format!("is {token}"), "agent/v1"])
        .await?;
    blocked("holds a GitHub token", &["agent/v1"]).await?;

    // git itself prints the name here.
    let printed = forge.refused(&[&format!("HEAD:refs/heads/agent/{token}")]).await?;
    assert!(
        printed.contains("the name of a ref, or what is sent with it, holds a GitHub token"),
        "{printed}"
    );

    // Of its own, and so not held whole.
    forge
        .commit(
            "large.bin",
            &[noise(1, 600_000), token.clone().into_bytes()].concat(),
            "x",
        )
        .await?;
    blocked("large.bin:600001 holds a GitHub token", &["agent/work"]).await?;
    assert!(!forge.scene.sidecar.audit_text()?.contains(&token));
    Ok(())
}

#[tokio::test]
async fn ci_definitions_are_refused_unless_the_route_says_so() -> Result<()> {
    let workflow = b"on: push\n";
    let forge = Forge::new(&json!({})).await?;
    forge.push(&["agent/work"]).await?;
    forge.commit(".github/workflows/ci.yml", workflow, "x").await?;
    let printed = forge.refused(&["agent/work"]).await?;
    assert!(
        printed.contains(".github/workflows") && printed.contains("protectedPaths: Allow"),
        "{printed}"
    );
    forge.git(&["reset", "--quiet", "--hard", "origin/agent/work"]).await?;
    forge.commit("CODEOWNERS", b"* @agent\n", "x").await?;
    assert!(
        forge
            .refused(&["agent/work"])
            .await?
            .contains("CODEOWNERS is protected")
    );

    let forge = Forge::new(&json!({ "protectedPaths": "Allow" })).await?;
    forge.commit(".github/workflows/ci.yml", workflow, "x").await?;
    forge.push(&["agent/work"]).await?;
    Ok(())
}

#[tokio::test]
async fn what_a_source_reads_from_the_repository_is_refused_too() -> Result<()> {
    let git = json!({ "repos": ["me/mine"], "access": "Write", "protect": ["fleet/**"] });
    let forge = Forge::new(&json!({ "git": git })).await?;
    forge.commit("src/main.rs", b"fn main() {}\n", "x").await?;
    forge.push(&["agent/work"]).await?;
    forge
        .commit("fleet/grant.yaml", b"kind: CredentialBinding\n", "x")
        .await?;
    let printed = forge.refused(&["agent/work"]).await?;
    assert!(printed.contains("fleet/grant.yaml is protected"), "{printed}");
    Ok(())
}

/// THREAT: 26
#[tokio::test]
async fn a_push_is_judged_however_it_is_spelled() -> Result<()> {
    let forge = Forge::new(&json!({})).await?;
    let basic = BASE64_STANDARD.encode(format!("agent:{STUB}"));
    for path in [
        "/me/mine.git/git%2Dreceive-pack",
        "/me/mine.git/x/../git-receive%2dpack",
        "/me/mine/git-receive-pac%6B",
    ] {
        let line = format!("POST {path}");
        let more = format!("Authorization: Basic {basic}\r\nContent-Length: 4\r\n");
        let request = format!("{}0000", forge.scene.bare(&line, &more));
        let answer = forge.scene.send(&request).await?;
        assert!(
            answer.status == 403 || answer.status == 400,
            "{path}: {}",
            answer.status
        );
    }
    assert!(
        !forge
            .scene
            .origin
            .requests()
            .iter()
            .any(|seen| seen.head.starts_with("POST"))
    );
    Ok(())
}

#[tokio::test]
async fn a_push_ends_with_its_grant() -> Result<()> {
    let forge = Forge::new(&json!({})).await?;
    let basic = BASE64_STANDARD.encode(format!("agent:{STUB}"));
    let more = format!("Authorization: Basic {basic}\r\nContent-Length: 100000\r\nExpect: 100-continue\r\n");
    let head = forge.scene.bare("POST /me/mine.git/git-receive-pack", &more);
    let mut stream = forge.scene.tunnel().await?;
    stream.write_all(head.as_bytes()).await?;
    let first = agent::within(agent::read_head(&mut stream)).await?;
    assert_eq!(first.status, 100); // it is being spooled
    stream.write_all(b"0000").await?;
    forge.scene.sidecar.adopt("{}")?;
    let answer = agent::read(&mut stream).await?;
    assert_eq!(answer.status, 403, "{}", answer.text());
    assert!(answer.text().contains("has ended"), "{}", answer.text());
    Ok(())
}

/// A signed push and push options aren't offered, so git doesn't try them.
#[tokio::test]
async fn what_cannot_be_judged_is_not_offered() -> Result<()> {
    let forge = Forge::new(&json!({})).await?;
    forge
        .good(&forge.repository(), &["config", "receive.advertisePushOptions", "true"])
        .await?;
    forge
        .good(&forge.repository(), &["config", "receive.certNonceSeed", "fake"])
        .await?;
    let printed = forge.refused(&["--push-option=x", "agent/work"]).await?;
    assert!(printed.contains("does not support push options"), "{printed}");
    let printed = forge.refused(&["--signed", "agent/work"]).await?;
    assert!(printed.contains("does not support --signed push"), "{printed}");
    forge.push(&["agent/work"]).await?;
    Ok(())
}
