//! Volumes that are mostly zeros, built of pieces, and what must hold of any survey of their free blocks.

use std::io;

use copal::allocation::survey;
use copal::partition::ReadAt;

/// Flag: makes checksums right.
const SEALED: u8 = 1;
/// Pieces begin at multiples of this.
const GRID: usize = 32;
/// What stands in front of a piece: where it begins (u16, in [`GRID`]), how long it is (u16).
const PIECE: usize = 4;

/// A volume that stops the run when it is read beyond its end.
struct Volume(Vec<u8>);

impl ReadAt for Volume {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64).expect("no read overflows");
        assert!(end <= self.len(), "a read of {} bytes at {offset} of {}", buf.len(), self.len());
        buf.copy_from_slice(&self.0[offset as usize..end as usize]);
        Ok(())
    }
}

/// Builds a volume of `len` bytes from flags and pieces, and surveys it; says whether it was trusted.
pub(super) fn try_survey(input: &[u8], kind: &str, len: usize, seal: fn(&mut [u8])) -> bool {
    let Some((flags, mut pieces)) = input.split_first() else { return false };
    let mut bytes = vec![0; len];
    while let Some(([at_low, at_high, len_low, len_high], rest)) = pieces.split_first_chunk::<PIECE>() {
        let at = usize::from(u16::from_le_bytes([*at_low, *at_high])) * GRID;
        let len = usize::from(u16::from_le_bytes([*len_low, *len_high]));
        let (piece, behind) = rest.split_at(rest.len().min(len));
        bytes.iter_mut().skip(at).zip(piece).for_each(|(to, from)| *to = *from);
        pieces = behind;
    }
    if flags & SEALED != 0 {
        seal(&mut bytes);
    }
    let volume = Volume(bytes);
    let Ok(usage) = survey(&volume, 0..volume.len(), kind) else { return false };
    let free = usage.free.as_slice();
    for ranges in [free, &usage.fixed] {
        assert!(ranges.iter().all(|range| range.start < range.end && range.end <= volume.len()));
        assert!(ranges.windows(2).all(|pair| pair[0].end < pair[1].start));
    }
    assert!(usage.used + usage.free.bytes() <= volume.len());
    for fixed in &usage.fixed {
        assert!(!free.iter().any(|free| free.start < fixed.end && fixed.start < free.end));
    }
    true
}

/// An input from pieces.
pub(super) fn pieces(sealed: bool, pieces: &[(usize, Vec<u8>)]) -> Vec<u8> {
    let mut input = vec![if sealed { SEALED } else { 0 }];
    for (at, bytes) in pieces {
        assert!(at.is_multiple_of(GRID), "pieces lie on a grid");
        input.extend(u16::try_from(at / GRID).expect("within the volume").to_le_bytes());
        input.extend(u16::try_from(bytes.len()).expect("a short piece").to_le_bytes());
        input.extend_from_slice(bytes);
    }
    input
}

/// Bytes with values at offsets, as long as the last of them needs.
pub(super) fn fields(values: &[(usize, &[u8])]) -> Vec<u8> {
    let end = values.iter().map(|(at, bytes)| at + bytes.len()).max().unwrap_or_default();
    let mut out = vec![0; end];
    for (at, bytes) in values {
        out[*at..at + bytes.len()].copy_from_slice(bytes);
    }
    out
}
