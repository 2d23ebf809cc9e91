//! The compression of NTFS, LZNT1 (Microsoft, *MS-XCA*, 2.5). No I/O.

use super::super::{Result, damaged};

/// What a chunk holds.
const CHUNK: usize = 4096;
const IS_COMPRESSED: u16 = 0x8000;
const LEN: u16 = 0x0fff;
/// The shortest repetition.
const SHORTEST: usize = 3;

/// Unpacks `len` bytes; zeros follow what is not there.
pub(super) fn unpack(mut packed: &[u8], len: usize) -> Result<Vec<u8>> {
    let mut plain = Vec::with_capacity(len);
    while plain.len() < len {
        let Some(([low, high], rest)) = packed.split_first_chunk() else { break };
        let head = u16::from_le_bytes([*low, *high]);
        if head == 0 {
            break;
        }
        let size = usize::from(head & LEN) + 1;
        let chunk = rest.get(..size).ok_or_else(wrong)?;
        let start = plain.len();
        if head & IS_COMPRESSED == 0 {
            plain.extend(chunk);
        } else {
            unpack_chunk(chunk, &mut plain)?;
        }
        // Only the last one may be shorter.
        plain.resize(start + CHUNK, 0);
        packed = &rest[size..];
    }
    plain.resize(len, 0);
    Ok(plain)
}

fn unpack_chunk(mut chunk: &[u8], plain: &mut Vec<u8>) -> Result<()> {
    let start = plain.len();
    while let Some((flags, rest)) = chunk.split_first() {
        chunk = rest;
        for bit in 0..8 {
            if chunk.is_empty() {
                break;
            }
            if flags & (1 << bit) == 0 {
                plain.push(chunk[0]);
                chunk = &chunk[1..];
            } else {
                let ([low, high], rest) = chunk.split_first_chunk().ok_or_else(wrong)?;
                repeat(u16::from_le_bytes([*low, *high]), start, plain)?;
                chunk = rest;
            }
            if plain.len() > start + CHUNK {
                return Err(wrong());
            }
        }
    }
    Ok(())
}

/// A distance back and a length. The further a chunk has come, the more bits the distance has.
fn repeat(pair: u16, start: usize, plain: &mut Vec<u8>) -> Result<()> {
    let here = (plain.len() - start).checked_sub(1).ok_or_else(wrong)?;
    let more = (usize::BITS - (here >> 4).leading_zeros()).min(8);
    let len = usize::from(pair & (LEN >> more)) + SHORTEST;
    let distance = usize::from(pair >> (12 - more)) + 1;
    let from = plain.len().checked_sub(distance).filter(|from| *from >= start).ok_or_else(wrong)?;
    (from..from + len).for_each(|at| plain.push(plain[at]));
    Ok(())
}

fn wrong() -> super::Error {
    damaged("a compressed file makes no sense")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_specification() {
        // MS-XCA 3.3.
        let packed = [
            0x38, 0xb0, 0x88, 0x46, 0x23, 0x20, 0x00, 0x20, 0x47, 0x20, 0x41, 0x00, 0x10, 0xa2, 0x47, 0x01,
            0xa0, 0x45, 0x20, 0x44, 0x00, 0x08, 0x45, 0x01, 0x50, 0x79, 0x00, 0xc0, 0x45, 0x20, 0x05, 0x24,
            0x13, 0x88, 0x05, 0xb4, 0x02, 0x4a, 0x44, 0xef, 0x03, 0x58, 0x02, 0x8c, 0x09, 0x16, 0x01, 0x48,
            0x45, 0x00, 0xbe, 0x00, 0x9e, 0x00, 0x04, 0x01, 0x18, 0x90, 0x00,
        ];
        let plain = b"F# F# G A A G F# E D D E F# F# E E F# F# G A A G F# E D D E F# E D D E E F# D E F# G F# D E F# G F# E D E A F# F# G A A G F# E D D E F# E D D\0";
        assert_eq!(unpack(&packed, plain.len()).unwrap(), plain);
    }

    #[test]
    fn nonsense_is_refused() {
        for packed in [&[0xff, 0xbf][..], &[0x01, 0xb0, 0x01, 0, 0], &[0x02, 0xb0, 0x01, 0xff, 0xff]] {
            assert!(unpack(packed, 4096).is_err(), "{packed:x?}");
        }
        assert_eq!(unpack(&[], 3).unwrap(), [0; 3]);
        assert_eq!(unpack(&[0x01, 0x30, 7, 8, 0, 0], 4098).unwrap()[..3], [7, 8, 0]);
    }
}
