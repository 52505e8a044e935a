//! What the runner says → the bond. Everything is checked and cut before it goes on; what no runner would say is a
//! violation, and ends the connection.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use berth_protocol::control::{self, HarnessExited};
use berth_protocol::handoff::{FromRunner, MAX_OUTPUT_BYTES};
use berth_protocol::told::Said;

use super::next::Runner;
use crate::control::bond::Bond;
use crate::control::held::{Bound, Stage};
use crate::control::relay::{self, NoStep};
use crate::control::state::StateError;
use crate::git::secret::Scanner;

/// A word that no runner would say.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum Violation {
    /// Before the harness was released.
    #[error("{0} before the harness was released")]
    TooEarly(&'static str),
    /// Something that can't be read.
    #[error("{0}")]
    Nonsense(&'static str),
    /// A step of a checkpoint that isn't one, or wasn't asked for.
    #[error(transparent)]
    Checkpoint(NoStep),
}

/// Takes a frame after the first.
pub fn take(bond: &Bond, runner: &mut Runner, frame: FromRunner) -> Result<Result<(), Violation>, StateError> {
    if let Err(violation) = check(bond.with_bound(|bound| bound.stage), &frame) {
        return Ok(Err(violation));
    }
    match frame {
        FromRunner::Hello { .. } => {}
        FromRunner::Ready { incarnation } => confirm(bond, runner, incarnation),
        FromRunner::Started { command } => bond.started(cut_command(command))?,
        FromRunner::Output { stream, data } => {
            let Some(bytes) = decoded(&data) else {
                return Ok(Err(Violation::Nonsense("output that isn't base64, or too long")));
            };
            bond.output(stream.into(), &bytes)?;
        }
        FromRunner::Said(Said { told, offset, length }) => {
            let told = told.cut();
            bond.said(control::Said {
                kind: told.kind().to_owned(),
                told: serde_json::to_vec(&told).unwrap_or_default(),
                offset,
                length,
            })?;
        }
        FromRunner::Exited {
            code,
            summary,
            error,
            stopped,
            branch,
            pull_request,
            last_lines,
        } => {
            let (summary, error) = (cut(&summary, SUMMARY_MAX), cut(&error, ERROR_MAX));
            bond.exited(HarnessExited {
                code,
                summary,
                error,
                stopped,
                branch: cut(&branch, ARGUMENT_MAX),
                pull_request,
                last_lines: cut(&unrevealing(&last_lines), ERROR_MAX),
            })?;
        }
        FromRunner::Checkpoint(step) => return Ok(bond.checkpoint(step).map_err(Violation::Checkpoint)),
        FromRunner::WantInput { after } => bond.want_input(after),
        FromRunner::Restored {
            incarnation,
            number,
            digest,
        } => {
            let Some(digest) = relay::digest(&digest) else {
                return Ok(Err(Violation::Nonsense("a hash that is none")));
            };
            bond.restored(control::Restored {
                incarnation,
                number,
                digest,
            })?;
        }
    }
    Ok(Ok(()))
}

fn check(stage: Option<Stage>, frame: &FromRunner) -> Result<(), Violation> {
    let running = stage.is_some_and(|stage| stage >= Stage::Started);
    match frame {
        FromRunner::Hello { .. } => Err(Violation::Nonsense("a second hello")),
        FromRunner::Output { stream: 0 | 3.., .. } => Err(Violation::Nonsense("output of an unknown stream")),
        FromRunner::Started { .. } if !running => Err(Violation::TooEarly("started")),
        FromRunner::Output { .. } if !running => Err(Violation::TooEarly("output")),
        FromRunner::Said(_) if !running => Err(Violation::TooEarly("words of the harness")),
        FromRunner::Exited { .. } if !running => Err(Violation::TooEarly("exited")),
        FromRunner::Checkpoint(_) if !running => Err(Violation::TooEarly("a checkpoint")),
        FromRunner::WantInput { .. } if !running => Err(Violation::TooEarly("a wish for input")),
        FromRunner::Restored { .. } if !running => Err(Violation::TooEarly("restored")),
        _ => Ok(()),
    }
}

fn confirm(bond: &Bond, runner: &mut Runner, incarnation: u64) {
    let current = bond.with_bound(|bound: &Bound| (bound.incarnation, bound.version));
    if current.is_some_and(|(bound, version)| bound == incarnation && runner.assigned == Some(version)) {
        runner.confirmed = runner.assigned;
        bond.confirm(runner.confirmed);
    }
}

/// Lines that look as if a credential stood in them aren't shown where more people look than in logs.
fn unrevealing(lines: &str) -> String {
    let Ok(scanner) = Scanner::new(None, std::iter::empty()) else {
        return String::new();
    };
    let shown = lines.lines().map(|line| match scanner.scan(line.as_bytes()).first() {
        Some(found) => format!("[a line with what looks like {}]", found.rule),
        None => line.to_owned(),
    });
    shown.collect::<Vec<_>>().join("\n")
}

fn decoded(data: &str) -> Option<Vec<u8>> {
    let longest = MAX_OUTPUT_BYTES.div_ceil(3) * 4;
    let bytes = BASE64_STANDARD.decode(data).ok().filter(|_| data.len() <= longest)?;
    (bytes.len() <= MAX_OUTPUT_BYTES).then_some(bytes)
}

fn cut(text: &str, max: usize) -> String {
    text.get(..text.floor_char_boundary(max)).unwrap_or_default().to_owned()
}

fn cut_command(command: Vec<String>) -> Vec<String> {
    command
        .into_iter()
        .take(ARGUMENTS_MAX)
        .map(|argument| cut(&argument, ARGUMENT_MAX))
        .collect()
}

/// DESIGN §8: the summary in the status.
const SUMMARY_MAX: usize = 16 << 10;
/// A line for the author.
const ERROR_MAX: usize = 1 << 10;
/// The pool's schema allows no longer command …
const ARGUMENTS_MAX: usize = 64;
/// … and these are for people to recognise, not to run.
const ARGUMENT_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use berth_protocol::told::Told;

    use super::*;

    #[test]
    fn a_line_that_could_hold_a_credential_is_not_shown() {
        let token = format!("ghp_{}", "fake".repeat(9));
        let shown = unrevealing(&format!("it broke\nexport TOKEN={token}\nthe end"));
        assert!(
            shown.starts_with("it broke\n[a line with what looks like ") && shown.ends_with("]\nthe end"),
            "{shown}"
        );
        assert!(!shown.contains("ghp_"), "{shown}");
    }

    fn output(stream: u8) -> FromRunner {
        FromRunner::Output {
            stream,
            data: String::new(),
        }
    }

    #[test]
    fn nothing_is_said_of_a_harness_before_its_release() {
        let exited = FromRunner::Exited {
            code: 0,
            summary: String::new(),
            error: String::new(),
            stopped: false,
            branch: String::new(),
            pull_request: 0,
            last_lines: String::new(),
        };
        let said = FromRunner::Said(Said {
            told: Told::WaitingForInput,
            offset: 0,
            length: 0,
        });
        for frame in [output(1), exited, said, FromRunner::Started { command: vec![] }] {
            for stage in [None, Some(Stage::Assigned), Some(Stage::Released)] {
                assert!(check(stage, &frame).is_err(), "{stage:?} {frame:?}");
            }
            assert_eq!(check(Some(Stage::Started), &frame), Ok(()));
            assert_eq!(check(Some(Stage::Over), &frame), Ok(()));
        }
    }

    #[test]
    fn unknown_streams_and_bad_data_are_violations() {
        assert!(check(Some(Stage::Started), &output(0)).is_err());
        assert!(check(Some(Stage::Started), &output(3)).is_err());
        assert_eq!(decoded("!"), None);
        assert_eq!(
            decoded(&BASE64_STANDARD.encode(vec![0; MAX_OUTPUT_BYTES])).map(|bytes| bytes.len()),
            Some(MAX_OUTPUT_BYTES)
        );
        assert_eq!(decoded(&BASE64_STANDARD.encode(vec![0; MAX_OUTPUT_BYTES + 1])), None);
    }

    #[test]
    fn words_are_cut_between_characters() {
        assert_eq!(cut("a€b", 2), "a");
        assert_eq!(
            cut_command(vec!["x".repeat(1000); 100]),
            vec!["x".repeat(ARGUMENT_MAX); ARGUMENTS_MAX]
        );
    }
}
