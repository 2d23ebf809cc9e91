//! Which ids may be in a set: a blocked Bloom filter.
//!
//! All bits of an id lie in one block of 64 bytes, so that a look is one access to memory, or one short read. Ids are keyed hashes: their own bits choose block
//! and bits. F. Putze, P. Sanders, J. Singler: Cache-, Hash- and Space-Efficient Bloom Filters, 2007.

use crate::id::BlobId;

/// Bytes of a block.
pub const BLOCK: usize = 64;
/// Bits of the filter for each id: of ids that are not there, about one in 120 seems to be.
const BITS_PER_ID: usize = 12;
/// Bits set for each id.
const PROBES: u32 = 7;

/// Bytes of a filter for so many ids.
#[must_use]
pub const fn len(ids: usize) -> usize {
    (ids * BITS_PER_ID).div_ceil(8 * BLOCK) * BLOCK
}

/// A filter for ids.
#[must_use]
pub fn build<'a>(ids: impl ExactSizeIterator<Item = &'a BlobId>) -> Vec<u8> {
    let mut filter = vec![0; len(ids.len())];
    for id in ids {
        let start = block_of(filter.len(), id);
        bits(id).for_each(|bit| filter[start + bit / 8] |= 1 << (bit % 8));
    }
    filter
}

/// Where in a filter of `len` bytes the block of an id begins.
#[must_use]
pub fn block_of(len: usize, id: &BlobId) -> usize {
    let blocks = (len / BLOCK) as u128;
    ((u128::from(word(id, 8)) * blocks) >> 64) as usize * BLOCK
}

/// Whether the set may hold an id, given its block.
#[must_use]
pub fn may_hold(block: &[u8], id: &BlobId) -> bool {
    bits(id).all(|bit| block.get(bit / 8).is_some_and(|byte| byte & (1 << (bit % 8)) != 0))
}

fn bits(id: &BlobId) -> impl Iterator<Item = usize> {
    let hash = word(id, 16);
    (0..PROBES).map(move |probe| (hash >> (9 * probe)) as usize % (8 * BLOCK))
}

fn word(id: &BlobId, at: usize) -> u64 {
    id.as_bytes().get(at..).and_then(|tail| tail.first_chunk()).map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(range: std::ops::Range<u32>) -> Vec<BlobId> {
        range.map(|at| BlobId(*blake3::hash(&at.to_le_bytes()).as_bytes())).collect()
    }

    fn holds(filter: &[u8], id: &BlobId) -> bool {
        may_hold(&filter[block_of(filter.len(), id)..][..BLOCK], id)
    }

    #[test]
    fn what_is_there_is_found_and_little_else() {
        let there = ids(0..20_000);
        let filter = build(there.iter());
        assert!(there.iter().all(|id| holds(&filter, id)));
        let wrong = ids(20_000..60_000).iter().filter(|id| holds(&filter, id)).count();
        assert!((100..600).contains(&wrong), "{wrong} of 40000");
    }

    #[test]
    fn golden_bytes() {
        assert_eq!((len(0), len(1), len(43)), (0, 64, 128));
        let filter = build(ids(0..100).iter());
        assert_eq!(&blake3::hash(&filter).to_hex()[..16], "f9bcc7790642d4c3");
    }
}
