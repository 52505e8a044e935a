//! Just enough CGI (RFC 3875) to put `git http-backend` behind an origin, and that behind HTTP Basic.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures::future::BoxFuture;
use http::header::AUTHORIZATION;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::agent::{Body, full};

/// A forge: answers 401 to whoever isn't `user:password`, and by `git http-backend` otherwise.
pub fn forge(
    root: PathBuf,
    login: &str,
) -> impl Fn(Request<Incoming>) -> BoxFuture<'static, Result<Response<Body>>> + Clone + Send + Sync + 'static {
    let expected = format!("Basic {}", BASE64_STANDARD.encode(login));
    move |request| {
        let (root, expected) = (root.clone(), expected.clone());
        Box::pin(async move {
            let given = request.headers().get(AUTHORIZATION).map(HeaderValue::as_bytes);
            if given != Some(expected.as_bytes()) {
                let asks = Response::builder().status(StatusCode::UNAUTHORIZED);
                return Ok(asks
                    .header("www-authenticate", "Basic realm=\"forge\"")
                    .body(full(""))?);
            }
            let answer = git(&root, request).await?;
            Ok(answer.map(|body| body.map_err(|never| match never {}).boxed_unsync()))
        })
    }
}

/// Runs `git http-backend` over the repositories below `root`, for one request.
pub async fn git(root: &Path, request: Request<Incoming>) -> Result<Response<Full<Bytes>>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let header = |name: &str| {
        head.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    };
    let mut program = Command::new("git")
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("REMOTE_USER", "agent")
        .env("REQUEST_METHOD", head.method.as_str())
        .env("PATH_INFO", head.uri.path())
        .env("QUERY_STRING", head.uri.query().unwrap_or_default())
        .env("CONTENT_TYPE", header("content-type"))
        .env("CONTENT_LENGTH", body.len().to_string())
        .env("HTTP_CONTENT_ENCODING", header("content-encoding"))
        .env("GIT_PROTOCOL", header("git-protocol"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()?;
    let mut input = program.stdin.take().context("no standard input")?;
    let ((), output) = tokio::join!(
        async {
            let _ = input.write_all(&body).await; // it may not want all of it
            drop(input);
        },
        program.wait_with_output()
    );
    respond(&output?.stdout)
}

fn respond(output: &[u8]) -> Result<Response<Full<Bytes>>> {
    let end = output
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .context("the program answered nothing")?;
    let (head, body) = (std::str::from_utf8(&output[..end])?, &output[end + 4..]);
    let mut response = Response::builder();
    for line in head.split("\r\n") {
        let (name, value) = line.split_once(':').context("no header")?;
        response = if name.eq_ignore_ascii_case("status") {
            response.status(value.trim().split(' ').next().unwrap_or_default())
        } else {
            response.header(name, value.trim())
        };
    }
    Ok(response.body(Full::new(Bytes::copy_from_slice(body)))?)
}
