//! Volumes that are mostly zeros, built of pieces, and what must hold of any survey of their free blocks.

use std::collections::BTreeSet;
use std::io;

use copal::allocation::journal::journal;
use copal::allocation::survey;
use copal::filesystem::{Filesystem, Kind, Node, open};
use copal::partition::ReadAt;

/// Flag: makes checksums right.
const SEALED: u8 = 1;
/// Pieces begin at multiples of this.
const GRID: usize = 32;
/// How many nodes, and runs of each, are looked at.
const MAX_NODES: usize = 64;
const MAX_RUNS: usize = 16;
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

/// Builds a volume of `len` bytes from flags and pieces.
fn build(input: &[u8], len: usize, seal: fn(&mut [u8])) -> Option<Volume> {
    let (flags, mut pieces) = input.split_first()?;
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
    Some(Volume(bytes))
}

/// Builds a volume of `len` bytes from flags and pieces, and surveys it; says whether it was trusted.
pub(super) fn try_survey(input: &[u8], kind: &str, len: usize, seal: fn(&mut [u8])) -> bool {
    let Some(volume) = build(input, len, seal) else { return false };
    // Any answer will do.
    let _ = journal(&volume, 0..volume.len(), kind);
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

/// Builds such a volume and reads the files in it, each directory once; says whether there are any.
pub(super) fn try_files(input: &[u8], kind: &str, len: usize) -> bool {
    let Some(volume) = build(input, len, |_| ()) else { return false };
    let Ok(filesystem) = open(&volume, 0..volume.len(), kind) else { return false };
    let (mut waiting, mut seen, mut files) = (vec![filesystem.root()], BTreeSet::new(), 0);
    while let Some(node) = waiting.pop().filter(|_| seen.len() < MAX_NODES) {
        if !seen.insert(node) {
            continue;
        }
        let _ = filesystem.attributes(node);
        match filesystem.metadata(node).map(|found| found.kind) {
            Ok(Kind::Directory) => {
                let entries = filesystem.list(node).unwrap_or_default();
                waiting.extend(entries.iter().take(MAX_NODES).map(|entry| entry.node));
            }
            Ok(Kind::File) => files += usize::from(read(&*filesystem, node)),
            Ok(Kind::Link) => drop(filesystem.target(node)),
            _ => {}
        }
    }
    files > 0
}

/// Reads the beginnings of the first runs of a file; says whether all could be read.
fn read(filesystem: &dyn Filesystem, node: Node) -> bool {
    let Ok(content) = filesystem.open(node) else { return false };
    let mut buf = [0; 4096];
    let (mut at, mut whole) = (0, true);
    for _ in 0..MAX_RUNS {
        let Some(data) = content.next_data(at) else { break };
        assert!(at <= data.start && data.start < data.end && data.end <= content.len());
        let len = (data.end - data.start).min(buf.len() as u64) as usize;
        whole &= filesystem.read(&content, data.start, &mut buf[..len]).is_ok();
        at = data.end;
    }
    whole
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
