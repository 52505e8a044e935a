//! Pure: an object as what changes from another (gitformat-pack, "Deltified representation").

use super::{PackError, WHOLE_MAX};

/// What a delta makes of its base.
pub(super) fn apply(base: &[u8], delta: &[u8]) -> Result<Vec<u8>, PackError> {
    let mut delta = delta;
    if size(&mut delta)? != base.len() as u64 {
        return Err(CORRUPT);
    }
    let size = size(&mut delta)?;
    if size > WHOLE_MAX {
        return Err(PackError::Whole);
    }
    let size = usize::try_from(size).map_err(|_too_large| PackError::Whole)?;
    let mut made = Vec::with_capacity(size);
    while !delta.is_empty() {
        let part = part(base, &mut delta)?;
        if part.len() > size - made.len() {
            return Err(CORRUPT);
        }
        made.extend_from_slice(part);
    }
    if made.len() == size { Ok(made) } else { Err(CORRUPT) }
}

/// One instruction: bytes of the base, or of the delta itself.
fn part<'a>(base: &'a [u8], delta: &mut &'a [u8]) -> Result<&'a [u8], PackError> {
    let instruction = byte(delta)?;
    if instruction & 0x80 == 0 {
        let (part, rest) = delta.split_at_checked(usize::from(instruction)).ok_or(CORRUPT)?;
        *delta = rest;
        return if part.is_empty() { Err(CORRUPT) } else { Ok(part) };
    }
    let mut number = |bits: std::ops::Range<u32>| {
        let mut value = 0;
        for (place, bit) in bits.enumerate() {
            if instruction >> bit & 1 == 1 {
                value |= usize::from(byte(delta)?) << (8 * place);
            }
        }
        Ok::<usize, PackError>(value)
    };
    let offset = number(0..4)?;
    let length = match number(4..7)? {
        0 => 0x1_0000,
        length => length,
    };
    let end = offset.checked_add(length).ok_or(CORRUPT)?;
    base.get(offset..end).ok_or(CORRUPT)
}

fn size(delta: &mut &[u8]) -> Result<u64, PackError> {
    let (mut size, mut shift) = (0, 0);
    loop {
        let byte = byte(delta)?;
        size |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(size);
        }
        shift += 7;
        if shift > super::SHIFT_MAX {
            return Err(CORRUPT);
        }
    }
}

fn byte(delta: &mut &[u8]) -> Result<u8, PackError> {
    let (byte, rest) = delta.split_first().ok_or(CORRUPT)?;
    *delta = rest;
    Ok(*byte)
}

const CORRUPT: PackError = PackError::Corrupt("a delta doesn't fit its base");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_copied_and_inserted() {
        let delta = [&[10, 8, 0x91, 2, 3, 2][..], b"XY", &[0x90, 3]].concat();
        assert_eq!(apply(b"0123456789", &delta).unwrap(), b"234XY012");
    }

    #[test]
    fn what_does_not_fit_is_corrupt() {
        for delta in [
            &[][..],
            &[10],
            &[9, 1, 0x90, 1],     // another base
            &[10, 1, 0],          // no instruction
            &[10, 1, 0x90, 2],    // too much
            &[10, 2, 0x90, 1],    // too little
            &[10, 9, 0x91, 2, 9], // beyond the base
            &[10, 2, 2, b'x'],    // beyond the delta
            &[10, 0x81],          // half a size
        ] {
            assert!(
                matches!(apply(b"0123456789", delta), Err(PackError::Corrupt(_))),
                "{delta:?}"
            );
        }
        let bomb = [&[10, 0xff, 0xff, 0xff, 0xff, 0x7f][..], &[0x90, 10]].concat();
        assert!(matches!(apply(b"0123456789", &bomb), Err(PackError::Whole)));
    }
}
