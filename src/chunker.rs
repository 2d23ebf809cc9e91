//! Finding zeros, and cutting what is left into chunks.
//!
//! Both work on what is in memory of one span. Holes lie on the 4 KiB grid; the data between them forms one stream, so that a lone
//! block between zeros shares a chunk with its neighbours.

use std::ops::Range;

use fastcdc::v2020::{Normalization, cut_gear, select_masks};

use crate::extent::{Extent, HOLE_UNIT, push_extent};
use crate::format::config::{ChunkerKind, ChunkerParams};

const UNIT: usize = HOLE_UNIT as usize;
/// How far cuts are drawn to the average length: at this level chunks of data read at random are shorter than at the first one, and at the third it takes
/// long after a change until cuts are where they were.
const NORMALIZATION: Normalization = Normalization::Level2;

/// Cuts the data stream of a span.
#[derive(Debug, Clone)]
pub struct Chunker {
    params: ChunkerParams,
    gear: Box<[u64; 256]>,
    gear_shifted: Box<[u64; 256]>,
    masks: (u64, u64),
}

impl Chunker {
    /// A chunker with checked parameters and a secret gear table.
    #[must_use]
    pub fn new(params: ChunkerParams, gear: &[u64; 256]) -> Self {
        let gear_shifted = Box::new(gear.map(|value| value << 1));
        let masks = match params.kind {
            ChunkerKind::FastCdc => select_masks(params.avg as usize, NORMALIZATION),
            ChunkerKind::Fixed => (0, 0),
        };
        Self { params, gear: Box::new(*gear), gear_shifted, masks }
    }

    /// The length of the longest chunk, in bytes. No more of a stream needs to be there to find the first one.
    #[must_use]
    pub fn max_len(&self) -> usize {
        self.params.max as usize
    }

    /// The length of the first chunk of `stream`, in bytes; `stream` is not empty.
    ///
    /// FastCDC as of 2020: Xia et al., "The Design of Fast Content-Defined Chunking for Data Deduplication Based Storage
    /// Systems", IEEE TPDS 31(9).
    #[must_use]
    pub fn first_len(&self, stream: &[u8]) -> usize {
        let ChunkerParams { kind, min, avg, max } = self.params;
        let [min, avg, max] = [min, avg, max].map(|len| len as usize);
        match kind {
            ChunkerKind::Fixed => stream.len().min(avg),
            ChunkerKind::FastCdc => {
                let (small, large) = self.masks;
                let [gear, shifted] = [&self.gear[..], &self.gear_shifted[..]];
                let (_, len) =
                    cut_gear(stream, min, avg, max, small, large, small << 1, large << 1, gear, shifted);
                len.clamp(1, stream.len())
            }
        }
    }

    /// Whether the first chunk of `stream` may be `len` bytes long, by the few bytes before its end and the one behind it.
    ///
    /// If it may, it is, provided that this chunker once cut the same `len` bytes there, and they did not end that stream or do end this one: it found no end
    /// within them, and finds none now.
    #[must_use]
    pub fn may_cut(&self, stream: &[u8], len: usize) -> bool {
        let ChunkerParams { kind, min, avg, max } = self.params;
        let [min, avg, max] = [min, avg, max].map(|len| len as usize);
        if kind == ChunkerKind::Fixed || len == stream.len() || len == max {
            return len > 0 && len <= stream.len().min(max);
        }
        // Pairs of bytes are looked at, from the least length on, up to the greatest.
        let looked_at = min..stream.len().min(max) & !1;
        if !looked_at.contains(&len) {
            return false;
        }
        // A byte leaves the sum with the 64th that follows it.
        let window = &stream[min.max(len.saturating_sub(63))..=len];
        let sum = window.iter().fold(0u64, |sum, byte| (sum << 1).wrapping_add(self.gear[*byte as usize]));
        let (small, large) = self.masks;
        sum & if len < avg.min(stream.len()) & !1 { small } else { large } == 0
    }

    /// Cuts a stream into chunks, in order: their ranges in it.
    pub fn chunks<'a>(&'a self, stream: &'a [u8]) -> impl Iterator<Item = Range<usize>> + 'a {
        let mut start = 0;
        std::iter::from_fn(move || {
            let rest = stream.get(start..).filter(|rest| !rest.is_empty())?;
            let range = start..start + self.first_len(rest);
            start = range.end;
            Some(range)
        })
    }
}

/// Whether all bytes are zero. Compares with a page of zeros, which is as fast as memory.
#[must_use]
pub fn is_zero(block: &[u8]) -> bool {
    static ZEROS: [u8; UNIT] = [0; UNIT];
    block.chunks(UNIT).all(|part| *part == ZEROS[..part.len()])
}

/// The runs of data in `bytes`, which begin on the grid: neighbouring blocks that are not zero, as ranges.
///
/// A last block that is not whole is judged by itself and keeps its length.
#[must_use]
pub fn data_runs(bytes: &[u8]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (i, block) in bytes.chunks(UNIT).enumerate() {
        if is_zero(block) {
            continue;
        }
        let start = i * UNIT;
        match runs.last_mut() {
            Some(last) if last.end == start => last.end += block.len(),
            _ => runs.push(start..start + block.len()),
        }
    }
    runs
}

/// Lays chunks over runs: `chunks` are (number in the span map, length), in stream order; `runs` are the span's data, whose lengths
/// add up to the same.
#[must_use]
pub fn lay_out(runs: &[Range<usize>], chunks: &[(u32, u32)]) -> Vec<Extent> {
    let narrow = |value: usize| u32::try_from(value).expect("spans are at most 64 MiB");
    let mut extents = Vec::with_capacity(runs.len() + chunks.len());
    let mut chunks = chunks.iter();
    let (mut chunk, mut chunk_offset, mut left) = (0, 0, 0);
    for run in runs {
        let mut offset = narrow(run.start);
        let end = narrow(run.end);
        while offset < end {
            if left == 0 {
                let Some(next) = chunks.next() else { return extents };
                (chunk, chunk_offset, left) = (next.0, 0, next.1);
            }
            let len = left.min(end - offset);
            push_extent(&mut extents, Extent { offset, chunk, chunk_offset, len });
            offset += len;
            chunk_offset += len;
            left -= len;
        }
    }
    extents
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn gear() -> [u64; 256] {
        let mut gear = [0; 256];
        for (i, value) in gear.iter_mut().enumerate() {
            *value = u64::from_le_bytes(*blake3::hash(&i.to_le_bytes()).as_bytes().first_chunk().unwrap());
        }
        gear
    }

    fn noise(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().update(b"noise").finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn cuts_move_with_their_content() {
        let chunker = Chunker::new(ChunkerParams::fastcdc(16 << 10), &gear());
        let bytes = noise(2 << 20);
        let shifted = [&[1; 777], &bytes[..]].concat();
        let hashes = |bytes: &[u8]| -> std::collections::HashSet<blake3::Hash> {
            chunker.chunks(bytes).map(|range| blake3::hash(&bytes[range])).collect()
        };
        let (a, b) = (hashes(&bytes), hashes(&shifted));
        assert!(a.len() > 60);
        assert!(a.intersection(&b).count() >= a.len() - 3);
    }

    /// Cut points are part of what makes deduplication work across versions: these never change.
    #[test]
    fn golden_cut_points() {
        let chunker = Chunker::new(ChunkerParams::fastcdc(64 << 10), &gear());
        let lens: Vec<usize> = chunker.chunks(&noise(1 << 20)).map(|range| range.len()).collect();
        assert_eq!(lens[..4], [80_855, 89_333, 114_873, 62_281]);
    }

    #[test]
    fn zeros_are_found_on_the_grid_and_in_a_short_tail() {
        let mut bytes = vec![0; 5 * UNIT + 10];
        assert!(data_runs(&bytes).is_empty());
        bytes[UNIT] = 1;
        bytes[3 * UNIT - 1] = 1;
        assert_eq!(data_runs(&bytes), vec![UNIT..3 * UNIT]);
        bytes[5 * UNIT + 9] = 1;
        assert_eq!(data_runs(&bytes), [UNIT..3 * UNIT, 5 * UNIT..5 * UNIT + 10]);
        assert!(is_zero(&[]) && is_zero(&[0; 9000]) && !is_zero(&[0, 1]));
    }

    proptest! {
        #[test]
        fn chunks_and_extents_cover_exactly_the_data(
            blocks in proptest::collection::vec(0u8..3, 1..200),
            tail in 0usize..UNIT,
            fixed: bool,
        ) {
            let mut bytes: Vec<u8> = blocks.iter().flat_map(|b| [*b; UNIT]).collect();
            bytes.extend(noise(tail));
            let params = if fixed { ChunkerParams::fixed(8192) } else { ChunkerParams::fastcdc(16 << 10) };
            let chunker = Chunker::new(params, &gear());
            let runs = data_runs(&bytes);
            let stream: Vec<u8> = runs.iter().flat_map(|run| bytes[run.clone()].to_vec()).collect();
            let ranges: Vec<Range<usize>> = chunker.chunks(&stream).collect();
            let chunks: Vec<(u32, u32)> = ranges.iter().enumerate().map(|(i, r)| (i as u32, r.len() as u32)).collect();
            let extents = lay_out(&runs, &chunks);
            let mut rebuilt = vec![0; bytes.len()];
            for e in extents {
                let from = ranges[e.chunk as usize].start + e.chunk_offset as usize;
                rebuilt[e.offset as usize..][..e.len as usize].copy_from_slice(&stream[from..from + e.len as usize]);
            }
            prop_assert!(ranges.iter().all(|r| r.len() <= params.max as usize));
            prop_assert_eq!(rebuilt, bytes);
        }
    }
}
