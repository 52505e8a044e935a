//! Pure: pieces of standard output → lines → what the harness tells, with the place of each line. Lines are the agent's:
//! one that is longer than [`LINE_MAX`] is passed over, and stays in the output.

use berth_protocol::handoff::FromRunner;
use berth_protocol::told::{Said, Told};

use crate::harness::Reader;

/// Reads what one harness prints.
pub struct Teller {
    reader: Box<dyn Reader>,
    /// The line that isn't whole yet.
    line: Vec<u8>,
    /// It is longer than [`LINE_MAX`].
    is_long: bool,
    /// Bytes before it.
    offset: u64,
    result: Option<String>,
    conversation: Option<String>,
}

impl Teller {
    /// At the beginning of a harness's output, after as many bytes of earlier ones.
    pub fn new(reader: Box<dyn Reader>, offset: u64) -> Self {
        Self {
            reader,
            line: Vec::new(),
            is_long: false,
            offset,
            result: None,
            conversation: None,
        }
    }

    /// The next piece of the output; gives what its whole lines tell.
    pub fn read(&mut self, mut piece: &[u8]) -> Vec<FromRunner> {
        let mut said = Vec::new();
        while let Some(end) = piece.iter().position(|byte| *byte == b'\n') {
            self.extend(&piece[..end]);
            said.extend(self.whole(1));
            piece = &piece[end + 1..];
        }
        self.extend(piece);
        said
    }

    /// The output has ended; gives what its last line and its end tell.
    pub fn end(&mut self) -> Vec<FromRunner> {
        let mut said = if self.line.is_empty() { vec![] } else { self.whole(0) };
        let told = self.reader.end();
        said.extend(self.placed(told, 0));
        said
    }

    /// The last words, once the harness has told a result.
    pub fn result(&self) -> Option<&str> {
        self.result.as_deref().filter(|text| !text.is_empty())
    }

    /// Bytes before the line that isn't whole yet.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The program's own id of its conversation, once it has told it.
    pub fn conversation(&self) -> Option<&str> {
        self.conversation.as_deref()
    }

    fn extend(&mut self, bytes: &[u8]) {
        self.is_long |= self.line.len() + bytes.len() > LINE_MAX;
        if self.is_long {
            self.offset += (self.line.len() + bytes.len()) as u64;
            self.line = Vec::new();
        } else {
            self.line.extend_from_slice(bytes);
        }
    }

    fn whole(&mut self, newline: u64) -> Vec<FromRunner> {
        let line = std::mem::take(&mut self.line);
        let length = line.len() as u64;
        let told = if std::mem::take(&mut self.is_long) {
            vec![]
        } else {
            self.reader.line(String::from_utf8_lossy(&line).trim_end_matches('\r'))
        };
        let said = self.placed(told, length);
        self.offset += length + newline;
        said
    }

    fn placed(&mut self, told: Vec<Told>, length: u64) -> Vec<FromRunner> {
        let offset = self.offset;
        let placed = told.into_iter().map(Told::cut).map(|told| {
            match &told {
                Told::Result { text, .. } => self.result = Some(text.clone()),
                Told::Session { id } => self.conversation = Some(id.clone()),
                _ => {}
            }
            FromRunner::Said(Said { told, offset, length })
        });
        placed.collect()
    }
}

/// Longest line that is read, in bytes. A tool's result is in one line, and programs cut those long before.
const LINE_MAX: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::Kind;

    fn teller() -> Teller {
        Teller::new(Kind::Codex.reader().unwrap(), 0)
    }

    fn places(said: &[FromRunner]) -> Vec<(&str, u64, u64)> {
        let place = |frame| match frame {
            &FromRunner::Said(Said {
                ref told,
                offset,
                length,
            }) => (told.kind(), offset, length),
            _ => panic!("only what is said"),
        };
        said.iter().map(place).collect()
    }

    #[test]
    fn however_the_output_is_cut_each_line_is_found_by_its_place() {
        let output = include_str!("../tests/recordings/codex.jsonl");
        let mut whole = teller();
        let mut expected = whole.read(output.as_bytes());
        expected.extend(whole.end());
        for size in [1, 7, 100] {
            let mut teller = teller();
            let pieces = output.as_bytes().chunks(size);
            let said: Vec<FromRunner> = pieces.flat_map(|piece| teller.read(piece)).collect();
            assert_eq!(said, expected, "{size}");
        }
        for (kind, offset, length) in places(&expected) {
            let (start, length) = (usize::try_from(offset).unwrap(), usize::try_from(length).unwrap());
            let line = &output[start..start + length];
            assert!(line.starts_with('{') && line.ends_with('}'), "{kind}: {line}");
        }
        assert!(whole.result().unwrap().starts_with("The command said:"));
    }

    #[test]
    fn a_line_without_end_takes_no_memory_and_moves_no_other() {
        let mut teller = teller();
        for _ in 0..40 {
            assert_eq!(teller.read(&vec![b'x'; 32 << 10]), []);
            assert!(teller.line.capacity() <= 2 * LINE_MAX);
        }
        let line = r#"{"type":"error","message":"after"}"#;
        let said = teller.read(format!("\n{line}\n").as_bytes());
        assert_eq!(places(&said), [("error", 40 * (32 << 10) + 1, line.len() as u64)]);
    }

    #[test]
    fn what_is_no_language_tells_nothing() {
        let mut teller = teller();
        let noise = b"\xff\xfe\n{\n[1]\nnull\n{\"type\":7}\n{\"type\":\"item.completed\"}\n{\"type\":\"error\"";
        assert_eq!(teller.read(noise), []);
        assert_eq!((teller.end(), teller.result()), (vec![], None));
    }
}
