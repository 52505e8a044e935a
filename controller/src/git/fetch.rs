//! Starts the child that fetches one source, within limits of time, memory and files.

use crate::check::Report;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use super::wire::{Answer, Inspected, Request, Tip};

/// Why a source couldn't be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The child couldn't be started, or ended without an answer: its limits, or a crash.
    #[error("the fetch ended without an answer: {0}; it may take two minutes and use 2 GiB of memory")]
    Child(String),
    /// It answered, and this is why.
    #[error("{0}")]
    Refused(String),
}

/// Folder of a source's clone.
pub fn folder(cache: &Path, source_uid: &str) -> PathBuf {
    cache.join("git").join(source_uid)
}

/// Fetches one source in a process of its own: `program` is `berth-controller`.
pub async fn fetch(program: &Path, request: &Request) -> Result<Tip, FetchError> {
    match answer(program, request).await? {
        Answer::Tip(tip) => Ok(tip),
        Answer::Failed(why) => Err(FetchError::Refused(why)),
        _ => Err(FetchError::Child("it answered something else".to_owned())),
    }
}

/// Reads commits of a pull request, in a process of its own and without touching what [`fetch`] uses.
pub async fn inspect(program: &Path, request: &Request) -> Result<Inspected, FetchError> {
    match answer(program, request).await? {
        Answer::Inspected(inspected) => Ok(inspected),
        Answer::Failed(why) => Err(FetchError::Refused(why)),
        _ => Err(FetchError::Child("it answered something else".to_owned())),
    }
}

/// Reads what a pull request changes, in the same way.
pub async fn preview(program: &Path, request: &Request) -> Result<Report, FetchError> {
    match answer(program, request).await? {
        Answer::Previewed(report) => Ok(report),
        Answer::Failed(why) => Err(FetchError::Refused(why)),
        _ => Err(FetchError::Child("it answered something else".to_owned())),
    }
}

async fn answer(program: &Path, request: &Request) -> Result<Answer, FetchError> {
    let answered = tokio::time::timeout(TIME_MAX, exchange(program, request)).await;
    let answer = answered.map_err(|_elapsed| FetchError::Child("it took too long".to_owned()))?;
    answer.map_err(|error| FetchError::Child(error.to_string()))
}

async fn exchange(program: &Path, request: &Request) -> std::io::Result<Answer> {
    let mut child = Command::new("prlimit")
        .args([
            format!("--data={MEMORY_MAX}"),
            format!("--cpu={}", CPU_MAX.as_secs()),
            format!("--fsize={FILE_MAX}"),
            "--core=0".to_owned(),
        ])
        .arg(program)
        .args(["--log", "warn", "fetch"])
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .spawn()?;
    let gone = || std::io::Error::other("it has no standard streams");
    let (mut input, output) = (
        child.stdin.take().ok_or_else(gone)?,
        child.stdout.take().ok_or_else(gone)?,
    );
    input.write_all(&serde_json::to_vec(request)?).await?;
    drop(input);
    let mut answer = Vec::new();
    output.take(ANSWER_MAX).read_to_end(&mut answer).await?;
    let status = child.wait().await?;
    if !status.success() {
        return Err(std::io::Error::other(status.to_string()));
    }
    Ok(tokio::task::spawn_blocking(move || serde_json::from_slice(&answer)).await??)
}

/// A clone of a few hundred megabytes over a slow line.
const TIME_MAX: Duration = Duration::from_mins(2);
/// Processor time: twice what indexing the largest pack takes.
const CPU_MAX: Duration = Duration::from_mins(1);
/// Memory that isn't a file's. As many children as run at once (`run`), one that inspects, and the controller itself fit into the container's
/// limit (the chart's `resources`): where a container is out of memory, all of its processes are killed.
const MEMORY_MAX: u64 = 192 << 20;
/// Largest file that the child may write: a pack.
const FILE_MAX: u64 = 512 << 20;
/// 16 MiB of text at most, escaped.
const ANSWER_MAX: u64 = 40 << 20;
