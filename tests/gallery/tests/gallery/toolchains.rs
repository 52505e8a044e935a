//! Languages' own clients and package managers, as they are; see `clients` for the rest.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use berth_gallery::origin::{Authority, Origin, Seen, ok};
use berth_gallery::policy::{HOST, SECRET, STUB};
use berth_gallery::scene::Scene;
use berth_gallery::{crates, rpc};
use serde_json::json;

use crate::clients::{is_exchanged, run, run_with, skip, telling, text};

/// A file with this text in a folder of its own.
fn file(folder: &Path, name: &str, text: impl AsRef<[u8]>) -> Result<String> {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().context("it has a folder")?)?;
    std::fs::write(&path, text)?;
    Ok(path.to_string_lossy().into_owned())
}

/// Makes something without any proxy; `false` when the program isn't there.
fn make(folder: &Path, program: &str, arguments: &[&str]) -> Result<bool> {
    let Ok(output) = Command::new(program).args(arguments).current_dir(folder).output() else {
        skip(program);
        return Ok(false);
    };
    ensure!(output.status.success(), "{program} {arguments:?}: {}", text(&output));
    Ok(true)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn java_is_served() -> Result<()> {
    let (scene, folder) = (telling(&["h2", "http/1.1"]).await?, tempfile::tempdir()?);
    let program = file(folder.path(), "Ask.java", include_str!("toolchains/Ask.java"))?;
    let url = format!("https://{}/", scene.place);
    let Some(output) = run(&scene, "java", &[&program, &url]).await? else {
        return Ok(());
    };
    is_exchanged(&scene, &output)?;
    let said = text(&output);
    ensure!(
        said.contains("and 0 bytes") && said.contains("and 100000 bytes"),
        "{said}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn go_is_served() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let source = file(folder.path(), "ask.go", include_str!("toolchains/ask.go"))?;
    if !make(folder.path(), "go", &["build", "-o", "ask", &source])? {
        return Ok(());
    }
    for (protocols, version) in [(vec!["h2", "http/1.1"], "HTTP/2.0"), (vec!["http/1.1"], "HTTP/1.1")] {
        let scene = telling(&protocols).await?;
        let url = format!("https://{}/", scene.place);
        let program = folder.path().join("ask");
        let output = run(&scene, &program.to_string_lossy(), &[&url])
            .await?
            .context("it was made")?;
        is_exchanged(&scene, &output)?;
        ensure!(
            text(&output).contains(version) && text(&output).contains("and 100000 bytes"),
            "{}",
            text(&output)
        );
    }
    Ok(())
}

/// A registry that wants a token: cargo sends it bare, first for its settings, then for the index and the package.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cargo_reads_a_registry() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (authority, answer) = (Authority::new()?, crates::registry(folder.path(), SECRET)?);
    let origin = Origin::http1(&authority, &[HOST], answer).await?;
    let bare = json!({ "inject": { "header": { "name": "authorization", "forms": ["{}"] } } });
    let scene = Scene::around(authority, origin, &bare).await?;
    let index = format!("sparse+https://{}/index/", scene.place);
    let manifest = file(folder.path(), "user/Cargo.toml", crates::MANIFEST)?;
    file(folder.path(), "user/src/lib.rs", "")?;
    let index = format!("registries.fake.index='{index}'");
    let provider = "registry.global-credential-providers=['cargo:token']";
    let arguments = [
        "fetch",
        "--manifest-path",
        &manifest,
        "--config",
        &index,
        "--config",
        provider,
    ];
    // The programs themselves: rustup's stand-ins look for them at home.
    let rustc = Path::new(env!("CARGO")).with_file_name("rustc");
    let rustc = rustc.to_string_lossy();
    let more = [("CARGO_REGISTRIES_FAKE_TOKEN", STUB), ("RUSTC", &*rustc)];
    let output = run_with(&scene, &more, env!("CARGO"), &arguments)
        .await?
        .context("cargo runs this")?;
    ensure!(output.status.success(), "{}", text(&output));
    let targets: Vec<String> = scene
        .origin
        .requests()
        .iter()
        .map(|seen| seen.target().to_owned())
        .collect();
    ensure!(
        targets.iter().any(|target| target == "/dl/fake/0.1.0/download"),
        "{targets:?}"
    );
    Ok(())
}

/// A package of no code.
const WHEEL: &str = "import sys, zipfile\n\
    w = zipfile.ZipFile(sys.argv[1], 'w')\n\
    w.writestr('fake.py', '')\n\
    w.writestr('fake-1.0.dist-info/METADATA', 'Metadata-Version: 2.1\\nName: fake\\nVersion: 1.0\\n')\n\
    w.writestr('fake-1.0.dist-info/WHEEL', 'Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')\n\
    w.writestr('fake-1.0.dist-info/RECORD', '')\n\
    w.close()\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pip_reads_an_index() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let name = "fake-1.0-py3-none-any.whl";
    let path = folder.path().join(name).to_string_lossy().into_owned();
    if !make(folder.path(), "python3", &["-c", WHEEL, &path])? {
        return Ok(());
    }
    let (wheel, expected) = (
        std::fs::read(&path)?,
        format!("Basic {}", BASE64_STANDARD.encode(format!("agent:{SECRET}"))),
    );
    let authority = Authority::new()?;
    let answer = Arc::new(move |seen: &Seen| {
        if seen.header("authorization") != Some(expected.clone()) {
            let refusal = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"index\"\r\n";
            return Some(format!("{refusal}Content-Length: 0\r\n\r\n").into_bytes());
        }
        if seen.target().starts_with("/simple/") {
            let page = format!("<!DOCTYPE html><a href=\"/files/{name}\">{name}</a>");
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\n\r\n",
                page.len()
            );
            return Some((head + &page).into_bytes());
        }
        ok(&wheel)
    });
    let origin = Origin::http1(&authority, &[HOST], answer).await?;
    let basic = json!({ "inject": { "basic": { "username": "agent" } } });
    let scene = Scene::around(authority, origin, &basic).await?;
    let index = format!("https://agent:{STUB}@{}/simple/", scene.place);
    let into = folder.path().join("into").to_string_lossy().into_owned();
    let arguments = [
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--no-cache-dir",
        "--retries=0",
        "--index-url",
        &index,
        "-d",
        &into,
        "fake",
    ];
    let output = run(&scene, "python3", &arguments)
        .await?
        .context("it made the package")?;
    ensure!(output.status.success(), "{}", text(&output));
    ensure!(
        std::fs::read(Path::new(&into).join(name))? == std::fs::read(&path)?,
        "another file came"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn httpx_is_served() -> Result<()> {
    let scene = telling(&["h2", "http/1.1"]).await?;
    let missing = run(&scene, "python3", &["-c", "import httpx"]).await?;
    if missing.is_none_or(|output| !output.status.success()) {
        skip("python3 httpx");
        return Ok(());
    }
    let program = format!(
        "import os, httpx\n\
         bearer = {{'Authorization': 'Bearer ' + os.environ['TOKEN']}}\n\
         print(httpx.post('https://{}/', content=b'a' * 100000, headers=bearer).text)",
        scene.place
    );
    let output = run(&scene, "python3", &["-c", &program])
        .await?
        .context("it was there")?;
    is_exchanged(&scene, &output)
}

/// Signatures aren't exchanged yet (row 67); what the client sends without one goes through.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn aws_lists_a_bucket_without_a_signature() -> Result<()> {
    let authority = Authority::new()?;
    let answer = Arc::new(|_: &Seen| {
        ok("<ListBucketResult><Name>fake</Name><Contents><Key>seen</Key><Size>1</Size></Contents></ListBucketResult>")
    });
    let origin = Origin::http1(&authority, &[HOST], answer).await?;
    let scene = Scene::around(authority, origin, &json!({ "methods": ["GET"] })).await?;
    let endpoint = format!("https://{}", scene.place);
    let arguments = [
        "s3api",
        "list-objects",
        "--bucket",
        "fake",
        "--no-sign-request",
        "--region",
        "us-east-1",
        "--endpoint-url",
        &endpoint,
    ];
    let Some(output) = run(&scene, "aws", &arguments).await? else {
        return Ok(());
    };
    ensure!(
        output.status.success() && text(&output).contains("seen"),
        "{}",
        text(&output)
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpcurl_is_served() -> Result<()> {
    let (authority, folder) = (Authority::new()?, tempfile::tempdir()?);
    file(folder.path(), "say.proto", include_str!("toolchains/say.proto"))?;
    let origin = Origin::served(&authority, &[HOST], &["h2"], rpc::back).await?;
    let scene = Scene::around(authority, origin, &json!({})).await?;
    let (header, protos) = (
        format!("authorization: Bearer {STUB}"),
        folder.path().to_string_lossy().into_owned(),
    );
    let arguments = [
        "-import-path",
        &protos,
        "-proto",
        "say.proto",
        "-H",
        &header,
        "-d",
        "{\"text\":\"word\"}",
        &scene.place,
        "fake.Say/Back",
    ];
    let Some(output) = run(&scene, "grpcurl", &arguments).await? else {
        return Ok(());
    };
    let said = text(&output);
    // Lengths within a message stay as they are.
    ensure!(
        output.status.success() && said.contains("Bearer REDACTED") && !said.contains(SECRET),
        "{said}"
    );
    let value = format!("authorization: Bearer {SECRET}");
    ensure!(
        scene.origin.requests().iter().any(|seen| seen.head.contains(&value)),
        "the server got no value"
    );
    Ok(())
}
