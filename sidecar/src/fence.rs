//! Runs before everything else in the pod, as root with NET_ADMIN, and exits. After it, whatever isn't the sidecar's
//! user reaches loopback only, and its other TCP connections end at the sidecar.
//!
//! The rules are text, made by [`nft`] and [`iptables`]; here they are loaded, listed again and compared. A fence that
//! can't be shown to stand fails the pod.

use std::io::{self, Write};
use std::process::{Command, Output, Stdio};

use crate::cli::FenceMode;

pub mod iptables;
pub mod nft;

/// The fence doesn't stand.
#[derive(Debug, thiserror::Error)]
pub enum FenceError {
    /// The program couldn't be run.
    #[error("failed to run {program}; the sidecar's image must hold it")]
    Run {
        /// Which.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// It ran and refused.
    #[error("`{command}` failed with {status}: {said}")]
    Refused {
        /// What was run.
        command: String,
        /// How it ended.
        status: String,
        /// What it said.
        said: String,
    },
    /// It was loaded and isn't there.
    #[error("the fence was loaded, but `{command}` doesn't show {missing:?}")]
    Missing {
        /// What was listed.
        command: String,
        /// What should be there.
        missing: String,
    },
}

/// Loads the rules and looks whether they stand.
pub fn load(mode: FenceMode) -> Result<(), FenceError> {
    match mode {
        FenceMode::Nft => {
            run(&["nft", "-f", "-"], &nft::rules())?;
            verify(&nft::LIST, &nft::EXPECTED)?;
        }
        FenceMode::IptablesLegacy => {
            for rule in iptables::rules() {
                run(&rule.iter().map(String::as_str).collect::<Vec<_>>(), "")?;
            }
            for (list, expected) in iptables::EXPECTED {
                verify(&list, &expected)?;
            }
        }
    }
    tracing::info!(?mode, "the fence stands");
    Ok(())
}

fn verify(list: &[&str], expected: &[&str]) -> Result<(), FenceError> {
    let listed = run(list, "")?;
    let missing = expected.iter().find(|expected| !listed.contains(**expected));
    missing.map_or(Ok(()), |missing| {
        Err(FenceError::Missing {
            command: list.join(" "),
            missing: (*missing).to_owned(),
        })
    })
}

/// Runs a program to its end and gives what it printed.
fn run(command: &[&str], input: &str) -> Result<String, FenceError> {
    let (program, arguments) = command.split_first().unwrap_or((&"", &[]));
    let output = execute(program, arguments, input).map_err(|source| FenceError::Run {
        program: (*program).to_owned(),
        source,
    })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(FenceError::Refused {
        command: command.join(" "),
        status: output.status.to_string(),
        said,
    })
}

fn execute(program: &str, arguments: &[&str], input: &str) -> io::Result<Output> {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        match stdin.write_all(input.as_bytes()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error), // else its exit says why
            _ => {}
        }
    }
    child.wait_with_output()
}
