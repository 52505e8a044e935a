//! A [`Launch`] → a running process group with its pipes, and its end. What can't be started is an exit with a reason,
//! as a shell would give it: 127 not found, 126 not executable.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncWriteExt;
use tokio::process::{ChildStderr, ChildStdout};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use crate::harness::Launch;
use crate::reap::{Reaper, Started};

/// A running harness.
pub struct Harness {
    group: Group,
    /// Its exit status, or 128 + the signal's number.
    pub ended: oneshot::Receiver<i32>,
    /// What it writes.
    pub stdout: ChildStdout,
    /// What it writes to standard error.
    pub stderr: ChildStderr,
}

/// Why nothing runs.
#[derive(Debug, Eq, PartialEq)]
pub struct NotStarted {
    /// What a shell would exit with.
    pub code: i32,
    /// For the author.
    pub error: String,
}

/// Writes the program's settings, for the agent's user alone. What was there before is replaced.
pub fn prepare(launch: &Launch) -> Result<(), NotStarted> {
    for (path, content) in &launch.files {
        write(path, content).map_err(|error| NotStarted {
            code: 126,
            error: format!("the harness's settings {} can't be written: {error}", path.display()),
        })?;
    }
    Ok(())
}

fn write(path: &Path, content: &str) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(path)?.write_all(content.as_bytes())
}

/// Starts the harness in its own process group.
pub fn start(reaper: &Reaper, launch: &Launch, workspace: &Path) -> Result<Harness, NotStarted> {
    let Some((program, arguments)) = launch.command.split_first() else {
        let error = "there is no harness command: set spec.harness.command of the AgentPool".to_owned();
        return Err(NotStarted { code: 127, error });
    };
    if !workspace.is_dir() {
        let error = format!("the workspace {} isn't a directory", workspace.display());
        return Err(NotStarted { code: 126, error });
    }
    let mut command = Command::new(program);
    command
        .args(arguments)
        .envs(&launch.env)
        .current_dir(workspace)
        .process_group(0);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let started = reaper
        .spawn(&mut command)
        .map_err(|error| not_started(program, &error))?;
    attach(started, launch).map_err(|error| not_started(program, &error))
}

fn attach(mut started: Started, launch: &Launch) -> io::Result<Harness> {
    let pipe = || io::Error::other("a pipe is missing");
    let (child, group) = (&mut started.child, Group { pid: started.pid });
    let stdout = ChildStdout::from_std(child.stdout.take().ok_or_else(pipe)?)?;
    let stderr = ChildStderr::from_std(child.stderr.take().ok_or_else(pipe)?)?;
    tokio::spawn(feed(child.stdin.take().ok_or_else(pipe)?, launch.input.clone()));
    Ok(Harness {
        group,
        ended: started.ended,
        stdout,
        stderr,
    })
}

/// The prompt, then the end of input. A harness that doesn't read it is free not to.
async fn feed(stdin: ChildStdin, input: String) {
    let written = async {
        tokio::process::ChildStdin::from_std(stdin)?
            .write_all(input.as_bytes())
            .await
    }
    .await;
    if let Err(error) = written {
        tracing::debug!(
            error = &error as &dyn std::error::Error,
            "the harness didn't read its prompt"
        );
    }
}

fn not_started(program: &str, error: &io::Error) -> NotStarted {
    let (code, why) = match error.kind() {
        io::ErrorKind::NotFound => (
            127,
            "there is no such program in the image (or its interpreter is missing)".to_owned(),
        ),
        io::ErrorKind::PermissionDenied => (126, "it isn't executable".to_owned()),
        _ => (126, error.to_string()),
    };
    NotStarted {
        code,
        error: format!("the harness command {program:?} can't be started: {why}"),
    }
}

impl Harness {
    /// Its process group.
    pub fn group(&self) -> Group {
        self.group
    }
}

/// A process group.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    pid: Pid,
}

impl Group {
    /// SIGTERM now, SIGKILL after `grace` unless the handle is aborted.
    pub fn end(self, grace: Duration) -> AbortHandle {
        self.signal(Signal::TERM);
        let kill = async move {
            tokio::time::sleep(grace).await;
            self.kill();
        };
        tokio::spawn(kill).abort_handle()
    }

    /// SIGKILL to whoever is left.
    pub fn kill(self) {
        self.signal(Signal::KILL);
    }

    fn signal(self, signal: Signal) {
        if let Err(error) = kill_process_group(self.pid, signal) {
            tracing::debug!(error = &error as &dyn std::error::Error, "the process group has gone");
        }
    }
}
