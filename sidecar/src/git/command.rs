//! Pure: what a push asks for, as it stands before the pack (gitprotocol-pack, "Reference Update Request").

use super::oid::Oid;
use super::packet::{self, Packet, PacketError};

/// One ref to be changed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Command {
    /// What it points to; null for one that is to be made.
    pub old: Oid,
    /// What it is to point to; null for one that is to be deleted.
    pub new: Oid,
    /// Its name.
    pub name: String,
}

/// All of them.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Commands {
    /// In their order. None is git asking whether it may push before it sends a large pack.
    pub commands: Vec<Command>,
    /// Whether the outcome of each ref is to be reported.
    pub report: bool,
    /// Whether the report comes in side bands.
    pub side_band: bool,
    /// Bytes up to the pack.
    pub length: usize,
}

/// Commands that can't be taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CommandError {
    /// No pkt-line.
    #[error(transparent)]
    Packet(#[from] PacketError),
    /// They end too soon.
    #[error("the list of refs ends too soon")]
    Truncated,
    /// More than [`LENGTH_MAX`].
    #[error("the list of refs has more than {LENGTH_MAX} bytes: push fewer refs at once")]
    Long,
    /// Not `old new ref`.
    #[error("a command of the push isn't: old object, new object, name of a ref")]
    Malformed,
    /// A signed push; the capability wasn't offered.
    #[error("a signed push isn't taken here: push without --signed")]
    Certificate,
    /// `--push-option`; the capability wasn't offered.
    #[error("push options aren't taken here: push without --push-option")]
    Options,
    /// SHA-256.
    #[error("only repositories with SHA-1 names are understood")]
    ObjectFormat,
}

impl Command {
    /// Whether the ref goes away.
    pub fn is_delete(&self) -> bool {
        self.new.is_null()
    }
}

impl Commands {
    /// Reads them from the begin of a push, of which this is all if `complete`.
    pub fn parse(bytes: &[u8], complete: bool) -> Result<Self, CommandError> {
        let missing = if complete {
            CommandError::Truncated
        } else {
            CommandError::Long
        };
        let mut parsed = Self::default();
        let mut left = bytes;
        loop {
            let (packet, rest) = packet::take(left)?.ok_or(missing)?;
            left = rest;
            match packet {
                Packet::Data(line) => parsed.line(line)?,
                Packet::Flush => break,
                Packet::Delimiter | Packet::End => return Err(CommandError::Malformed),
            }
        }
        parsed.length = bytes.len() - left.len();
        Ok(parsed)
    }

    /// Whether a pack follows: git sends one unless everything is deleted.
    pub fn has_pack(&self) -> bool {
        self.commands.iter().any(|command| !command.is_delete())
    }

    fn line(&mut self, line: &[u8]) -> Result<(), CommandError> {
        if line.starts_with(b"push-cert") {
            return Err(CommandError::Certificate);
        }
        if let Some(oid) = line.strip_prefix(b"shallow ") {
            let shallow = Oid::parse(packet::chomp(oid));
            return shallow.map(|_| ()).ok_or(CommandError::Malformed);
        }
        let (line, capabilities) = match line.iter().position(|byte| *byte == 0) {
            Some(end) if self.commands.is_empty() => (&line[..end], &line[end + 1..]),
            Some(_) => return Err(CommandError::Malformed),
            None => (line, &[][..]),
        };
        self.capabilities(packet::chomp(capabilities))?;
        self.commands.push(command(packet::chomp(line))?);
        Ok(())
    }

    fn capabilities(&mut self, text: &[u8]) -> Result<(), CommandError> {
        for capability in text.split(|byte| *byte == b' ') {
            match capability {
                b"report-status" | b"report-status-v2" => self.report = true,
                b"side-band-64k" => self.side_band = true,
                b"push-options" => return Err(CommandError::Options),
                b"object-format=sha1" => {}
                other if other.starts_with(b"object-format") => return Err(CommandError::ObjectFormat),
                other if other.starts_with(b"push-cert") => return Err(CommandError::Certificate),
                _ => {}
            }
        }
        Ok(())
    }
}

fn command(line: &[u8]) -> Result<Command, CommandError> {
    let text = std::str::from_utf8(line).map_err(|_not_utf8| CommandError::Malformed)?;
    let mut words = text.splitn(3, ' ');
    let (Some(old), Some(new), Some(name)) = (words.next(), words.next(), words.next()) else {
        return Err(CommandError::Malformed);
    };
    let (Some(old), Some(new)) = (Oid::parse(old.as_bytes()), Oid::parse(new.as_bytes())) else {
        return Err(CommandError::Malformed);
    };
    if name.is_empty() || name.chars().any(|letter| letter.is_control() || letter == ' ') {
        return Err(CommandError::Malformed);
    }
    Ok(Command {
        old,
        new,
        name: name.to_owned(),
    })
}

/// Some 8,000 refs at once; held in memory.
pub const LENGTH_MAX: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "1111111111111111111111111111111111111111";
    const NEW: &str = "2222222222222222222222222222222222222222";
    const NULL: &str = "0000000000000000000000000000000000000000";

    fn push(lines: &[String]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for line in lines {
            packet::put(&mut bytes, line.as_bytes());
        }
        bytes.extend_from_slice(packet::FLUSH);
        bytes
    }

    #[test]
    fn commands_are_read_up_to_the_pack() {
        let mut bytes = push(&[
            format!("shallow {OLD}\n"),
            format!("{OLD} {NEW} refs/heads/a\0 report-status-v2 side-band-64k object-format=sha1 agent=git/2\n"),
            format!("{OLD} {NULL} refs/heads/b"),
        ]);
        let length = bytes.len();
        bytes.extend_from_slice(b"PACK");
        let parsed = Commands::parse(&bytes, true).unwrap();
        assert_eq!(parsed.length, length);
        assert!(parsed.report && parsed.side_band && parsed.has_pack());
        let names: Vec<_> = parsed
            .commands
            .iter()
            .map(|command| (command.name.as_str(), command.is_delete()))
            .collect();
        assert_eq!(names, [("refs/heads/a", false), ("refs/heads/b", true)]);
    }

    #[test]
    fn a_probe_asks_for_nothing() {
        assert_eq!(Commands::parse(b"0000", true).unwrap().commands, []);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let one = |line: &str| Commands::parse(&push(&[line.to_owned()]), true).unwrap_err();
        for (line, error) in [
            ("push-cert\0 report-status".to_owned(), CommandError::Certificate),
            (format!("{OLD} {NEW} refs/heads/a\0push-options"), CommandError::Options),
            (
                format!("{OLD} {NEW} refs/heads/a\0push-cert=nonce"),
                CommandError::Certificate,
            ),
            (
                format!("{OLD} {NEW} refs/heads/a\0object-format=sha256"),
                CommandError::ObjectFormat,
            ),
            (format!("{OLD}{OLD} {NEW} refs/heads/a"), CommandError::Malformed),
            (format!("{OLD} {NEW}"), CommandError::Malformed),
            (format!("{OLD} {NEW} refs/heads/a\u{1b}[31m"), CommandError::Malformed),
            (
                format!("{OLD} {NEW} refs/heads/a refs/heads/b"),
                CommandError::Malformed,
            ),
            ("shallow 12".to_owned(), CommandError::Malformed),
            (String::new(), CommandError::Truncated),
        ] {
            if line.is_empty() {
                assert_eq!(Commands::parse(b"0010", true), Err(error));
                assert_eq!(Commands::parse(b"0010", false), Err(CommandError::Long));
            } else {
                assert_eq!(one(&line), error, "{line:?}");
            }
        }
        let second = push(&[
            format!("{OLD} {NEW} refs/heads/a\0"),
            format!("{OLD} {NEW} refs/heads/b\0push-options"),
        ]);
        assert_eq!(Commands::parse(&second, true), Err(CommandError::Malformed));
    }
}
