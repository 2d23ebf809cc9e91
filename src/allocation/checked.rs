//! Reads and checksums that several parsers share.

use std::ops::Range;

use super::{Distrust, FreeRanges};
use crate::partition::bytes::Window;

/// All of the `len` bytes at `offset`, or distrust where the volume ends before.
pub(super) fn read(volume: &Window<'_>, offset: u64, len: usize) -> Result<Vec<u8>, Distrust> {
    let bytes = volume.read_up_to(offset, len)?;
    if bytes.len() == len { Ok(bytes) } else { Err(Distrust::too_long()) }
}

/// The CRC-32C of `bytes` with zeros for the four that begin at `at`, where the sum itself is stored.
pub(super) fn crc32c_around(bytes: &[u8], at: usize) -> u32 {
    let (before, rest) = bytes.split_at(at.min(bytes.len()));
    let behind = rest.get(4..).unwrap_or_default();
    crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(before), &[0; 4]), behind)
}

/// Sorts ranges and joins those that touch.
pub(super) fn joined(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_unstable_by_key(|range| range.start);
    ranges.dedup_by(|later, earlier| {
        let touches = later.start <= earlier.end;
        if touches {
            earlier.end = earlier.end.max(later.end);
        }
        touches
    });
    ranges
}

/// Whether any byte of `range` is free.
pub(super) fn is_partly_free(free: &FreeRanges, range: &Range<u64>) -> bool {
    let free = free.as_slice();
    let first = free.partition_point(|free| free.end <= range.start);
    free.get(first).is_some_and(|free| free.start < range.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_leaves_its_own_place_out() {
        let mut bytes = b"before----behind".to_vec();
        let sum = crc32c_around(&bytes, 6);
        bytes[6..10].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(crc32c_around(&bytes, 6), sum);
        bytes[11] ^= 1;
        assert_ne!(crc32c_around(&bytes, 6), sum);
        assert_eq!(crc32c_around(b"abc", 9), crc32c::crc32c(b"abc\0\0\0\0"));
    }

    #[test]
    fn ranges_join_in_any_order() {
        assert_eq!(joined(vec![8..9, 0..4, 2..3, 4..6]), [0..6, 8..9]);
    }

    #[test]
    fn a_range_is_partly_free_if_one_byte_is() {
        let mut free = FreeRanges::default();
        assert!(free.push(10..20) && free.push(30..40));
        for range in [0..11, 19..30, 12..13, 0..99, 39..40] {
            assert!(is_partly_free(&free, &range), "{range:?}");
        }
        for range in [0..10, 20..30, 40..50] {
            assert!(!is_partly_free(&free, &range), "{range:?}");
        }
    }
}
