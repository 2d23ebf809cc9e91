//! Clusters: the equal blocks that NTFS, FAT and exFAT divide a volume into, and sets of them.

use std::ops::Range;

use super::{Distrust, FreeRanges};
use crate::partition::bytes::Window;

/// The largest number of clusters that a [`Set`] is made for: as many as a FAT32 can have. It then takes 32 MiB.
pub(super) const MAX_SET: u64 = 1 << 28;

/// Bytes that are read at once.
const PIECE: u64 = 1 << 20;

/// Where the clusters lie, counted from 0 whatever their filesystem calls the first one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clusters {
    /// First byte of the first cluster, in the volume.
    pub(crate) start: u64,
    /// Bytes of a cluster.
    pub(crate) size: u64,
    /// How many there are. All of them lie within the volume.
    pub(crate) count: u64,
}

impl Clusters {
    /// The bytes of some clusters, which exist.
    pub(crate) fn bytes(&self, clusters: Range<u64>) -> Range<u64> {
        self.start + clusters.start * self.size..self.start + clusters.end * self.size
    }

    /// `len` clusters from `first`, if all of them exist.
    pub(crate) fn range(&self, first: u64, len: u64) -> Option<Range<u64>> {
        let end = first.checked_add(len)?;
        (end <= self.count).then_some(first..end)
    }

    /// How many clusters `len` bytes take.
    pub(super) fn holding(&self, len: u64) -> u64 {
        len.div_ceil(self.size)
    }
}

/// A set of clusters in memory.
pub(super) struct Set {
    words: Vec<u64>,
    count: u64,
}

impl Set {
    /// An empty set for clusters below `count`.
    ///
    /// # Errors
    /// If there are more than [`MAX_SET`].
    pub(super) fn new(count: u64) -> Result<Self, Distrust> {
        if count > MAX_SET {
            return Err(Distrust::because(format!("it has {count} clusters, more than can be followed")));
        }
        let words = vec![0; usize::try_from(count.div_ceil(64)).expect("at most 2^22")];
        Ok(Self { words, count })
    }

    /// Whether a cluster is in the set; one that does not exist never is.
    pub(super) fn has(&self, cluster: u64) -> bool {
        let word = usize::try_from(cluster / 64).ok().and_then(|at| self.words.get(at));
        word.is_some_and(|word| word & (1 << (cluster % 64)) != 0)
    }

    /// Whether all of them are in `other` too.
    pub(super) fn is_within(&self, other: &Self) -> bool {
        let others = other.words.iter().chain(std::iter::repeat(&0));
        self.words.iter().zip(others).all(|(ours, theirs)| ours & !theirs == 0)
    }

    /// Puts a cluster in. Returns whether it exists and was not there yet.
    #[must_use]
    pub(super) fn insert(&mut self, cluster: u64) -> bool {
        if cluster >= self.count || self.has(cluster) {
            return false;
        }
        let word = usize::try_from(cluster / 64).ok().and_then(|at| self.words.get_mut(at));
        word.is_some_and(|word| {
            *word |= 1 << (cluster % 64);
            true
        })
    }

    /// Puts in those that are set in a piece of a bitmap, the lowest bit of its first byte being cluster `first`, a multiple of 8.
    pub(super) fn insert_bitmap(&mut self, first: u64, bitmap: &[u8]) {
        for (at, byte) in (first / 8..self.count.div_ceil(8)).zip(bitmap) {
            let word = usize::try_from(at / 8).ok().and_then(|at| self.words.get_mut(at));
            word.into_iter().for_each(|word| *word |= u64::from(*byte) << (at % 8 * 8));
        }
    }
}

/// Gathers free clusters, told of every cluster in order.
pub(super) struct Gatherer {
    clusters: Clusters,
    free: FreeRanges,
    free_count: u64,
    next: u64,
}

impl Gatherer {
    pub(super) fn new(clusters: Clusters) -> Self {
        Self { clusters, free: FreeRanges::default(), free_count: 0, next: 0 }
    }

    /// The next `len` clusters; what there is not is left out.
    pub(super) fn take(&mut self, len: u64, used: bool) {
        let end = self.clusters.count.min(self.next.saturating_add(len));
        if !used && self.next < end {
            let bytes = self.clusters.bytes(self.next..end);
            assert!(self.free.push(bytes), "clusters are told of in order");
            self.free_count += end - self.next;
        }
        self.next = end;
    }

    /// The next clusters of a bitmap, the lowest bit of a byte first. A bit that is set is a cluster in use.
    pub(super) fn take_bitmap(&mut self, bitmap: &[u8]) {
        for byte in bitmap {
            match byte {
                0x00 => self.take(8, false),
                0xff => self.take(8, true),
                mixed => (0..8).for_each(|bit| self.take(1, mixed & (1 << bit) != 0)),
            }
        }
    }

    /// How many clusters were told of.
    pub(super) fn told(&self) -> u64 {
        self.next
    }

    /// The free ranges, and how many clusters are free.
    ///
    /// # Errors
    /// If not every cluster was told of.
    pub(super) fn finish(self) -> Result<(FreeRanges, u64), Distrust> {
        if self.next != self.clusters.count {
            return Err(Distrust::because("its bitmap is shorter than the filesystem"));
        }
        Ok((self.free, self.free_count))
    }
}

/// Whether any byte of `range` is free.
pub(super) fn is_free(free: &FreeRanges, range: &Range<u64>) -> bool {
    let ranges = free.as_slice();
    let at = ranges.partition_point(|free| free.end <= range.start);
    !range.is_empty() && ranges.get(at).is_some_and(|free| free.start < range.end)
}

/// Sorts ranges and joins those that overlap or touch.
pub(super) fn joined(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.retain(|range| !range.is_empty());
    ranges.sort_by_key(|range| range.start);
    ranges.dedup_by(|next, last| {
        let join = next.start <= last.end;
        if join {
            last.end = last.end.max(next.end);
        }
        join
    });
    ranges
}

/// All of `len` bytes.
///
/// # Errors
/// The medium's, or that the volume is shorter.
pub(super) fn read_all(volume: &Window<'_>, offset: u64, len: usize) -> Result<Vec<u8>, Distrust> {
    let bytes = volume.read_up_to(offset, len)?;
    if bytes.len() < len {
        return Err(Distrust::too_long());
    }
    Ok(bytes)
}

/// Reads the first `len` bytes of what lies in `ranges`, a piece at a time.
pub(super) fn for_each_piece(
    volume: &Window<'_>,
    ranges: &[Range<u64>],
    len: u64,
    mut each: impl FnMut(&[u8]) -> Result<(), Distrust>,
) -> Result<(), Distrust> {
    let mut left = len;
    for range in ranges {
        let end = range.end.min(range.start.saturating_add(left));
        left -= end - range.start;
        for at in (range.start..end).step_by(PIECE as usize) {
            let piece = usize::try_from(PIECE.min(end - at)).expect("at most PIECE");
            each(&read_all(volume, at, piece)?)?;
        }
    }
    Ok(())
}

/// Text in UTF-16, little-endian, fit to be shown.
pub(super) fn text_of_utf16(bytes: &[u8]) -> String {
    let units: Vec<u16> = bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    crate::partition::bytes::printable(&String::from_utf16_lossy(&units))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FEW: Clusters = Clusters { start: 100, size: 10, count: 21 };

    #[test]
    fn free_clusters_are_gathered_up_to_the_last() {
        let mut gatherer = Gatherer::new(FEW);
        gatherer.take_bitmap(&[0b0000_1111, 0xff, 0b1110_0000]);
        let (free, count) = gatherer.finish().unwrap();
        assert_eq!(free.as_slice(), [140..180, 260..310]);
        assert_eq!(count, 9);
        assert!(is_free(&free, &(0..141)) && is_free(&free, &(179..180)) && is_free(&free, &(261..262)));
        assert!(!is_free(&free, &(0..140)) && !is_free(&free, &(180..260)) && !is_free(&free, &(150..150)));
    }

    #[test]
    fn a_short_bitmap_is_refused() {
        let mut gatherer = Gatherer::new(FEW);
        gatherer.take_bitmap(&[0xff, 0xff]);
        assert_eq!(gatherer.told(), 16);
        assert!(gatherer.finish().is_err());
    }

    #[test]
    fn a_set_knows_only_what_exists_and_each_once() {
        let mut set = Set::new(65).unwrap();
        assert!(set.insert(64) && !set.insert(64) && !set.insert(65) && !set.insert(u64::MAX));
        assert!(set.has(64) && !set.has(63) && !set.has(1 << 40));
        let mut more = Set::new(65).unwrap();
        more.insert_bitmap(56, &[0x80, 0xff, 0xff]);
        assert!(set.is_within(&more) && !more.is_within(&set) && more.has(63) && !more.has(62));
        assert!(Set::new(MAX_SET + 1).is_err());
    }

    #[test]
    fn clusters_beyond_the_last_are_no_range() {
        assert_eq!(FEW.range(20, 1), Some(20..21));
        assert_eq!((FEW.range(20, 2), FEW.range(u64::MAX, 2)), (None, None));
    }

    #[test]
    fn ranges_join() {
        assert_eq!(joined(vec![8..9, 0..4, 4..6, 1..2, 7..7]), [0..6, 8..9]);
    }
}
