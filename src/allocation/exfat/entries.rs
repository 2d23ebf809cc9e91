//! Directory entries of exFAT. No I/O.

use crate::partition::bytes::Fields;

/// Bytes of an entry.
pub(super) const LEN: usize = 32;
/// Type of the entry behind the last one.
pub(super) const END: u8 = 0;
/// Set in the type of an entry that was not deleted.
pub(super) const IN_USE: u8 = 0x80;
/// Set in the type of an entry that belongs to one before it.
pub(super) const SECONDARY: u8 = 0x40;

pub(super) const BITMAP: u8 = 0x81;
pub(super) const UPPER_CASE: u8 = 0x82;
pub(super) const LABEL: u8 = 0x83;
pub(super) const FILE: u8 = 0x85;
/// A GUID of the volume, and padding. Both have no clusters.
pub(super) const HARMLESS: [u8; 2] = [0xa0, 0xa1];

/// The one secondary entry that tells of a file's own clusters.
pub(super) const STREAM: u8 = 0xc0;

const ATTRIBUTE_DIRECTORY: u16 = 0x10;
/// Flags of a secondary entry: it may have clusters; they lie beside each other, and the table does not tell of them.
const FLAG_POSSIBLE: u8 = 1;
const FLAG_NO_CHAIN: u8 = 2;

/// Where the clusters of something are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Allocation {
    /// The first cluster, as the table counts.
    pub(super) first: u32,
    /// Bytes.
    pub(super) len: u64,
    pub(super) contiguous: bool,
}

impl Allocation {
    /// Of an entry of any type that has clusters.
    pub(super) fn of(entry: Fields<'_>) -> Self {
        Self { first: entry.u32(20), len: entry.u64(24), contiguous: false }
    }

    /// Of a secondary entry; `None` if it has no clusters.
    pub(super) fn of_secondary(entry: Fields<'_>) -> Option<Self> {
        let flags = entry.u8(1);
        let found = Self { contiguous: flags & FLAG_NO_CHAIN != 0, ..Self::of(entry) };
        (flags & FLAG_POSSIBLE != 0 && found.first != 0).then_some(found)
    }
}

/// How many entries belong to that of a file.
pub(super) fn secondary_count(entry: Fields<'_>) -> usize {
    usize::from(entry.u8(1))
}

/// Whether a file's entry is that of a directory.
pub(super) fn is_directory(entry: Fields<'_>) -> bool {
    entry.u16(4) & ATTRIBUTE_DIRECTORY != 0
}

/// Whether the checksum in a file's entry is that of its set of entries.
pub(super) fn is_whole(set: &[u8]) -> bool {
    let add = |sum: u16, byte: &u8| sum.rotate_right(1).wrapping_add(u16::from(*byte));
    let behind = set.get(4..).unwrap_or_default();
    let sum = behind.iter().fold(set.iter().take(2).fold(0, add), add);
    sum == Fields(set).u16(2)
}

/// The checksum of boot sectors and of the upper-case table, continued from `sum`.
pub(super) fn checksum(sum: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(sum, |sum, byte| sum.rotate_right(1).wrapping_add(u32::from(*byte)))
}

/// The first four bytes.
pub(super) fn first_bytes(bytes: &[u8]) -> [u8; 4] {
    Fields(bytes).array(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_rotate() {
        assert_eq!(checksum(0, &[1, 0]), 0x8000_0000);
        assert_eq!(checksum(checksum(0, &[1]), &[0]), checksum(0, &[1, 0]));
        let mut set = [0; 64];
        (set[0], set[2], set[3], set[63]) = (FILE, 0, 0, 7);
        let rotated = u16::from(FILE).rotate_right(61 % 16).wrapping_add(7);
        set[2..4].copy_from_slice(&rotated.to_le_bytes());
        assert!(is_whole(&set) && !is_whole(&set[..63]) && !is_whole(&[1]));
    }

    #[test]
    fn a_secondary_entry_may_have_no_clusters() {
        let mut entry = [0; LEN];
        (entry[1], entry[20], entry[24]) = (3, 9, 5);
        let found = Allocation::of_secondary(Fields(&entry)).unwrap();
        assert!((found.first, found.len, found.contiguous) == (9, 5, true));
        entry[1] = 2;
        assert!(Allocation::of_secondary(Fields(&entry)).is_none());
    }
}
