//! boto3 and the `aws` command line as they are, with botocore's signers at the origin's end. Skipped where the machine
//! hasn't got them.

use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use berth_gallery::aws::{Key, verify};
use berth_gallery::origin::{Authority, Origin, Seen};
use berth_gallery::policy::HOST;
use berth_gallery::scene::Scene;
use berth_protocol::environment;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

use crate::aws::{REAL, REGION, SECRET_STUB, STUB, TOKEN, around};
use crate::clients::{skip, text};

/// How a program finds its key.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    /// In variables of its own.
    Variables,
    /// At the container endpoint.
    Endpoint,
}

/// A stand-in for the services: answers as they would, but holds nothing.
async fn services(inject: &Value, temporary: bool) -> Result<Scene> {
    let authority = Authority::new()?;
    let answer = |seen: &Seen| {
        let body = match seen.target() {
            target if target.contains("list-type=2") => "<ListBucketResult><Name>bucket</Name></ListBucketResult>",
            target if target.ends_with("?delete") => "<DeleteResult></DeleteResult>",
            "/" => r#"{"TableNames": []}"#,
            _ => "",
        };
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nETag: \"fake\"\r\n\r\n",
            body.len()
        );
        Some([head.as_bytes(), body.as_bytes()].concat())
    };
    let origin = Origin::http1(&authority, &[HOST], Arc::new(answer)).await?;
    around(authority, origin, inject, temporary).await
}

/// Runs a program as the agent's container would.
async fn run(scene: &Scene, way: Way, program: &str, arguments: &[&str]) -> Result<Output> {
    let home = tempfile::tempdir()?;
    let handoff = scene.sidecar.handoff();
    let mut aws = environment::aws("AWS_ACCESS_KEY_ID", STUB, SECRET_STUB, scene.sidecar.proxy);
    aws.retain(|(name, _)| way == Way::Variables || name.starts_with("AWS_CONTAINER"));
    let output = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", home.path())
        .env("STUB", STUB)
        .env("AWS_DEFAULT_REGION", REGION)
        .env("AWS_MAX_ATTEMPTS", "1")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .envs(environment::of(&handoff.to_string_lossy(), scene.sidecar.proxy))
        .envs(aws)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    Ok(timeout(PATIENCE, output)
        .await
        .with_context(|| format!("{program} hangs"))??)
}

async fn has(program: &str, arguments: &[&str], what: &str) -> bool {
    let run = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .await;
    let found = run.is_ok_and(|output| output.status.success());
    if !found {
        skip(what);
    }
    found
}

/// What botocore makes of the requests that arrived.
async fn verified(scene: &Scene, key: &Key<'_>) -> Result<()> {
    let requests: Vec<Value> = scene.origin.requests().iter().map(told).collect();
    let told = json!({
        "key": { "id": key.id, "secret": key.secret, "token": key.token },
        "requests": requests,
    });
    let mut child = Command::new("python3")
        .args(["-c", include_str!("../../aws/verify.py")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut input = child.stdin.take().context("no pipe")?;
    input.write_all(told.to_string().as_bytes()).await?;
    drop(input);
    let output = child.wait_with_output().await?;
    ensure!(output.status.success(), "{}", text(&output));
    ensure!(
        text(&output) == format!("{} verified\n", requests.len()),
        "{}",
        text(&output)
    );
    Ok(())
}

fn told(seen: &Seen) -> Value {
    let lines = seen.head.split("\r\n").skip(1).filter_map(|line| line.split_once(": "));
    let headers: Vec<(&str, &str)> = lines.collect();
    let method = seen.head.split(' ').next().unwrap_or_default();
    json!({ "method": method, "target": seen.target(), "headers": headers, "body": seen.body })
}

/// Both ends agree on every request, and the key went to neither the agent nor in the open.
async fn is_signed_anew(scene: &Scene, key: &Key<'_>, output: &Output, requests: usize) -> Result<()> {
    ensure!(
        output.status.success(),
        "{}\n{}",
        text(output),
        scene.sidecar.audit_text()?
    );
    let seen = scene.origin.requests();
    ensure!(seen.len() == requests, "{} requests", seen.len());
    for seen in &seen {
        let service = if seen.target() == "/" { "dynamodb" } else { "s3" };
        let service = if seen.target().contains("/functions/") {
            "lambda"
        } else {
            service
        };
        verify(seen, key, REGION, service)?;
    }
    let sent = scene.origin.text();
    ensure!(!sent.contains("stub_") && !sent.contains(key.secret), "{sent}");
    ensure!(!text(output).contains(key.id), "{}", text(output));
    verified(scene, key).await
}

/// THREAT: 67
#[tokio::test]
async fn boto3_is_signed_anew() -> Result<()> {
    if !has("python3", &["-c", "import boto3"], "python3 boto3").await {
        return Ok(());
    }
    let inject = json!({ "region": REGION, "services": ["s3", "dynamodb", "lambda"], "presigned": true });
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/aws/client.py");
    for (way, mode, temporary) in [(Way::Variables, "env", false), (Way::Endpoint, "endpoint", true)] {
        let scene = services(&inject, temporary).await?;
        let key = Key {
            token: temporary.then_some(TOKEN),
            ..REAL
        };
        let endpoint = format!("https://{}", scene.place);
        let output = run(&scene, way, "python3", &[script, &endpoint, mode]).await?;
        is_signed_anew(&scene, &key, &output, 9).await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_aws_command_line_is_signed_anew() -> Result<()> {
    if !has("aws", &["--version"], "aws").await || !has("python3", &["-c", "import botocore"], "botocore").await {
        return Ok(());
    }
    let scene = services(&json!({ "region": REGION, "services": ["s3", "dynamodb"] }), true).await?;
    let key = Key {
        token: Some(TOKEN),
        ..REAL
    };
    let endpoint = format!("https://{}", scene.place);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/aws/client.py");
    let mut requests = 0;
    for arguments in [
        &["s3", "cp", script, "s3://bucket/some key", "--endpoint-url", &endpoint][..],
        &[
            "s3api",
            "list-objects-v2",
            "--bucket",
            "bucket",
            "--endpoint-url",
            &endpoint,
        ],
        &["dynamodb", "list-tables", "--endpoint-url", &endpoint],
    ] {
        let output = run(&scene, Way::Endpoint, "aws", arguments).await?;
        requests += 1;
        is_signed_anew(&scene, &key, &output, requests).await?;
    }
    let arguments = ["sts", "get-caller-identity", "--endpoint-url", &endpoint];
    let refused = run(&scene, Way::Endpoint, "aws", &arguments).await?;
    assert!(!refused.status.success(), "{}", text(&refused));
    assert_eq!(scene.origin.requests().len(), requests);
    Ok(())
}

/// Python starts slowly on a busy machine.
const PATIENCE: Duration = Duration::from_mins(2);
