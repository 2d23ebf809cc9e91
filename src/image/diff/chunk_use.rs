//! Counting distinct chunks in bounded memory.
//!
//! The chunks with the smallest ids are kept, each once, so many of them. As long as all fit, counts are exact. Beyond that they are
//! estimates: ids are hashes, so the kept ones are a fair sample, and the largest of them says of what part of all chunks (the bottom-k
//! sketch of Bar-Yossef et al., "Counting Distinct Elements in a Data Stream", RANDOM 2002).

use std::collections::BTreeMap;

use serde::Serialize;

use super::Side;
use crate::id::BlobId;
use crate::image::maps::LocatedMap;

/// How many chunks are kept: some 80 MB. An estimate of as many chunks or more is 0.1 % off, as a standard deviation.
const KEPT: usize = 1 << 20;

/// A chunk that was met.
#[derive(Debug, Clone, Copy)]
struct Met {
    /// A bit for each side.
    sides: u8,
    plain_len: u32,
    sealed_len: u32,
}

/// Distinct chunks by the sides that use them.
#[derive(Debug)]
pub struct ChunkUse {
    met: BTreeMap<BlobId, Met>,
    most: usize,
    /// The smallest id that was dropped: all below it are kept.
    bound: Option<BlobId>,
    missed: bool,
}

/// A number of distinct chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct ChunkTally {
    /// How many.
    pub chunks: u64,
    /// Their bytes.
    pub plain: u64,
    /// Their bytes as stored, compressed and sealed.
    pub sealed: u64,
}

/// Distinct chunks of both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ChunkCounts {
    /// Used by both.
    pub shared: ChunkTally,
    /// Used by B only.
    pub added: ChunkTally,
    /// Used by A only.
    pub removed: ChunkTally,
    /// Whether these are counts; else they are estimates from a sample.
    pub exact: bool,
    /// Whether all maps could be read; else chunks are missing here.
    pub complete: bool,
}

impl Default for ChunkUse {
    fn default() -> Self {
        Self::keeping(KEPT)
    }
}

impl ChunkUse {
    /// Counts exactly up to `most` chunks, at least 1, and takes some 80 bytes for each.
    #[must_use]
    pub fn keeping(most: usize) -> Self {
        Self { met: BTreeMap::new(), most: most.max(1), bound: None, missed: false }
    }

    /// Adds all chunks of a span map.
    pub(super) fn add(&mut self, side: Side, map: &LocatedMap) {
        for (chunk, location) in map.map.chunks.iter().zip(&map.locations) {
            self.add_chunk(side, chunk.id, chunk.plain_len, location.sealed_len);
        }
    }

    fn add_chunk(&mut self, side: Side, id: BlobId, plain_len: u32, sealed_len: u32) {
        if self.bound.is_some_and(|bound| id >= bound) {
            return;
        }
        let met = self.met.entry(id).or_insert(Met { sides: 0, plain_len, sealed_len });
        met.sides |= 1 << side as u8;
        if self.met.len() > self.most {
            self.bound = self.met.pop_last().map(|(id, _)| id);
        }
    }

    /// Takes note that a map was lost.
    pub(super) fn miss(&mut self) {
        self.missed = true;
    }

    /// What was counted so far.
    #[must_use]
    pub fn counts(&self) -> ChunkCounts {
        let tally = |sides: u8| {
            let mut tally = ChunkTally::default();
            for met in self.met.values().filter(|met| met.sides == sides) {
                tally.chunks += 1;
                tally.plain += u64::from(met.plain_len);
                tally.sealed += u64::from(met.sealed_len);
            }
            self.scaled(tally)
        };
        let [a, b] = [Side::A, Side::B].map(|side| 1 << side as u8);
        ChunkCounts {
            shared: tally(a | b),
            added: tally(b),
            removed: tally(a),
            exact: self.bound.is_none(),
            complete: !self.missed,
        }
    }

    /// From the sample to all chunks.
    fn scaled(&self, tally: ChunkTally) -> ChunkTally {
        let Some(bound) = self.bound else { return tally };
        let [high, ..] = bound.0.as_chunks::<8>().0 else { return tally };
        // The part of all ids that lies below the bound; at least one unit, so that no forged id divides by zero.
        let part = (u64::from_be_bytes(*high) as f64).max(1.0) / 2f64.powi(64);
        let scale = |count: u64| (count as f64 / part).round() as u64;
        ChunkTally { chunks: scale(tally.chunks), plain: scale(tally.plain), sealed: scale(tally.sealed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u32) -> BlobId {
        BlobId(*blake3::hash(&number.to_le_bytes()).as_bytes())
    }

    /// 30,000 chunks: the first half in A, two thirds from the middle on in B; each met twice.
    fn met(most: usize) -> ChunkCounts {
        let mut chunks = ChunkUse::keeping(most);
        for number in (0..30_000).chain((0..30_000).rev()) {
            if number < 15_000 {
                chunks.add_chunk(Side::A, id(number), 100, 60);
            }
            if number >= 10_000 {
                chunks.add_chunk(Side::B, id(number), 100, 60);
            }
        }
        chunks.counts()
    }

    #[test]
    fn what_fits_is_counted_exactly() {
        let tally = |chunks| ChunkTally { chunks, plain: 100 * chunks, sealed: 60 * chunks };
        let expected = ChunkCounts {
            shared: tally(5_000),
            added: tally(15_000),
            removed: tally(10_000),
            exact: true,
            complete: true,
        };
        assert_eq!(met(30_000), expected);
        assert_eq!(ChunkUse::default().counts().shared, ChunkTally::default());
    }

    #[test]
    fn what_does_not_fit_is_estimated() {
        let counts = met(2_000);
        assert!(!counts.exact);
        let near = |count: u64, expected: u64| count.abs_diff(expected) < expected / 8;
        assert!(near(counts.shared.chunks, 5_000), "{counts:?}");
        assert!(near(counts.added.plain, 1_500_000), "{counts:?}");
        assert!(near(counts.removed.sealed, 600_000), "{counts:?}");
        assert_eq!(counts, met(2_000), "the order in which chunks are met does not matter");
    }

    #[test]
    fn forged_ids_divide_nothing_by_zero() {
        let mut chunks = ChunkUse::keeping(1);
        for last in 0..9 {
            let mut id = BlobId([0; 32]);
            id.0[31] = last;
            chunks.add_chunk(Side::A, id, u32::MAX, u32::MAX);
        }
        assert!(!chunks.counts().exact);
        assert_eq!(chunks.met.len(), 1);
    }
}
