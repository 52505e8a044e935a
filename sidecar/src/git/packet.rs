//! Pure: pkt-lines, the frames of git's protocol (gitprotocol-common). Four hex digits say the length, themselves included.

/// One frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Packet<'a> {
    /// Bytes; the line end at their end, if there is one, is theirs.
    Data(&'a [u8]),
    /// `0000`: the end of a section.
    Flush,
    /// `0001`, of protocol version 2.
    Delimiter,
    /// `0002`, of protocol version 2.
    End,
}

/// Bytes that are no pkt-line.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PacketError {
    /// Four hex digits were expected, `0003` means nothing.
    #[error("a pkt-line doesn't begin with its length")]
    Length,
    /// Beyond [`DATA_MAX`].
    #[error("a pkt-line has more than {DATA_MAX} bytes")]
    Long,
}

/// The first frame and what follows; `None` when it isn't all there yet.
pub fn take(bytes: &[u8]) -> Result<Option<(Packet<'_>, &[u8])>, PacketError> {
    let Some((digits, rest)) = bytes.split_at_checked(DIGITS) else {
        return Ok(None);
    };
    let packet = match length(digits).ok_or(PacketError::Length)? {
        0 => Packet::Flush,
        1 => Packet::Delimiter,
        2 => Packet::End,
        length => {
            let length = length.checked_sub(DIGITS).ok_or(PacketError::Length)?;
            if length > DATA_MAX {
                return Err(PacketError::Long);
            }
            return Ok(rest
                .split_at_checked(length)
                .map(|(data, rest)| (Packet::Data(data), rest)));
        }
    };
    Ok(Some((packet, rest)))
}

/// Frames bytes; more than [`DATA_MAX`] become several frames.
pub fn put(out: &mut Vec<u8>, data: &[u8]) {
    for part in data.chunks(DATA_MAX) {
        out.extend_from_slice(format!("{:04x}", part.len() + DIGITS).as_bytes());
        out.extend_from_slice(part);
    }
}

/// A line without its end.
pub fn chomp(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\n").unwrap_or(line)
}

fn length(digits: &[u8]) -> Option<usize> {
    digits.iter().try_fold(0, |length, digit| {
        let digit = char::from(*digit).to_digit(16)?;
        Some(length << 4 | digit as usize)
    })
}

/// Ends a section.
pub const FLUSH: &[u8] = b"0000";
/// `LARGE_PACKET_DATA_MAX` of git.
pub const DATA_MAX: usize = 65520 - DIGITS;
const DIGITS: usize = 4;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_framed_is_read_again(
            lines in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..8),
            rest in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let mut bytes = Vec::new();
            for line in &lines {
                put(&mut bytes, line);
            }
            bytes.extend_from_slice(FLUSH);
            bytes.extend_from_slice(&rest);
            let mut left = bytes.as_slice();
            for line in &lines {
                let (packet, after) = take(left).unwrap().unwrap();
                prop_assert_eq!(packet, Packet::Data(line));
                left = after;
            }
            prop_assert_eq!(take(left).unwrap().unwrap(), (Packet::Flush, rest.as_slice()));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(Some((Packet::Data(data), rest))) = take(&bytes) {
                prop_assert_eq!(data.len() + rest.len() + DIGITS, bytes.len());
            }
        }
    }

    #[test]
    fn a_frame_is_whole_or_not_there() {
        let mut bytes = Vec::new();
        put(&mut bytes, b"command");
        for end in 0..bytes.len() {
            assert_eq!(take(&bytes[..end]), Ok(None));
        }
        for (bytes, error) in [
            ("0003", PacketError::Length),
            ("zzzz", PacketError::Length),
            ("+123", PacketError::Length),
        ] {
            assert_eq!(take(bytes.as_bytes()), Err(error));
        }
        assert_eq!(take(b"fff5"), Err(PacketError::Long));
        assert_eq!(take(b"0004x"), Ok(Some((Packet::Data(b""), b"x".as_slice()))));
        let mut long = Vec::new();
        put(&mut long, &vec![b'x'; DATA_MAX + 1]);
        assert_eq!(take(&long).unwrap().unwrap().1, b"0005x");
    }
}
