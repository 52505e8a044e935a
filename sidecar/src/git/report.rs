//! Pure: a push that is refused, answered so that git prints it: each ref with its reason, and what was found as lines of
//! the remote (gitprotocol-pack, "Report Status").

use bytes::Bytes;

use super::command::Commands;
use super::packet;

/// Why a push isn't passed on. It names rules and places, never what stands there.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Objection {
    /// In a few words, for each ref and for the audit trail.
    pub reason: String,
    /// What was found and what to do, a line each; git prints the reason by itself.
    pub details: Vec<String>,
    /// The refs that are refused by themselves; the others go with them. All when there are none.
    pub refs: Vec<String>,
}

/// A body of `application/x-git-receive-pack-result`. `None` if the client didn't ask for a report.
pub fn refuse(commands: &Commands, objection: &Objection) -> Option<Bytes> {
    if !commands.report {
        return None;
    }
    let status = status(commands, objection);
    if !commands.side_band {
        return Some(status.into());
    }
    let mut out = Vec::new();
    for line in &objection.details {
        band(&mut out, MESSAGE, format!("{}\n", printable(line)).as_bytes());
    }
    band(&mut out, DATA, &status);
    out.extend_from_slice(packet::FLUSH);
    Some(out.into())
}

fn status(commands: &Commands, objection: &Objection) -> Vec<u8> {
    let mut out = Vec::new();
    packet::put(&mut out, b"unpack ok\n");
    for command in &commands.commands {
        let named = objection.refs.is_empty() || objection.refs.contains(&command.name);
        let reason = if named {
            printable(&objection.reason)
        } else {
            ALONG.to_owned()
        };
        packet::put(&mut out, format!("ng {} {reason}\n", command.name).as_bytes());
    }
    out.extend_from_slice(packet::FLUSH);
    out
}

fn band(out: &mut Vec<u8>, band: u8, data: &[u8]) {
    for part in data.chunks(packet::DATA_MAX - 1) {
        let mut framed = vec![band];
        framed.extend_from_slice(part);
        packet::put(out, &framed);
    }
}

/// One line without control characters: it goes to a terminal, and names of files are the agent's.
fn printable(text: &str) -> String {
    let mut line = String::new();
    for letter in text.chars().take(LINE_MAX) {
        if letter.is_control() {
            line.extend(letter.escape_default());
        } else {
            line.push(letter);
        }
    }
    line
}

/// Of the report and of what is told.
const DATA: u8 = 1;
const MESSAGE: u8 = 2;
/// A path may have 4 KiB.
const LINE_MAX: usize = 8192;
const ALONG: &str = "not pushed, since another ref of this push is refused";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::git::command::Command;
    use crate::git::oid::Oid;

    fn commands(report: bool, side_band: bool) -> Commands {
        let command = |name: &str| Command {
            old: Oid([0; 20]),
            new: Oid([1; 20]),
            name: name.to_owned(),
        };
        Commands {
            commands: vec![command("refs/heads/a"), command("refs/heads/b")],
            report,
            side_band,
            length: 0,
        }
    }

    fn objection() -> Objection {
        Objection {
            reason: "not allowed\u{1b}[2J".to_owned(),
            details: vec!["because".to_owned()],
            refs: vec!["refs/heads/b".to_owned()],
        }
    }

    #[test]
    fn each_ref_has_its_reason() {
        let report = refuse(&commands(true, false), &objection()).unwrap();
        insta::assert_snapshot!(String::from_utf8_lossy(&report), @r"
        000eunpack ok
        004ang refs/heads/a not pushed, since another ref of this push is refused
        0029ng refs/heads/b not allowed\u{1b}[2J
        0000
        ");
    }

    #[test]
    fn side_bands_carry_the_details() {
        let report = refuse(&commands(true, true), &objection()).unwrap();
        let text = String::from_utf8_lossy(&report)
            .replace('\u{1}', "<1>")
            .replace('\u{2}', "<2>");
        assert!(text.starts_with("000d<2>because\n"), "{text}");
        assert!(
            text.contains("<1>000eunpack ok\n") && text.ends_with("00000000"),
            "{text}"
        );
    }

    #[test]
    fn nothing_is_reported_unasked() {
        assert_eq!(refuse(&commands(false, true), &objection()), None);
    }
}
