//! The boot sector of NTFS: where everything lies.

use super::super::Distrust;
use super::super::clusters::{Clusters, read_all};
use crate::partition::bytes::{Fields, Window};

/// The largest cluster.
const MAX_CLUSTER: u64 = 2 << 20;
/// Lengths of a record of the master file table, which has to hold a few attributes.
const MIN_RECORD: u64 = 512;
const MAX_RECORD: u64 = 64 << 10;
/// The most sectors of a cluster that are written as such; larger numbers are negative powers of two.
const MAX_PLAIN: u8 = 0x80;

/// What the boot sector says, checked against the volume.
#[derive(Debug)]
pub(crate) struct Boot {
    /// Bytes of a sector.
    pub(crate) sector: u64,
    /// Bytes of the filesystem, the sector with the copy of the boot sector not included.
    pub(crate) len: u64,
    pub(crate) clusters: Clusters,
    /// Bytes of a record of the master file table.
    pub(crate) record: usize,
    /// First cluster of the master file table, and of its mirror.
    pub(crate) mft: u64,
    pub(crate) mirror: u64,
}

impl Boot {
    pub(crate) fn read(volume: &Window<'_>) -> Result<Self, Distrust> {
        let bytes = read_all(volume, 0, 512)?;
        let boot = Self::parse(Fields(&bytes), volume)?;
        boot.check_copy(Fields(&bytes), volume)?;
        Ok(boot)
    }

    /// The same, whatever the copy of the boot sector says.
    pub(crate) fn lenient(volume: &Window<'_>) -> Result<Self, Distrust> {
        Self::parse(Fields(&read_all(volume, 0, 512)?), volume)
    }

    fn parse(head: Fields<'_>, volume: &Window<'_>) -> Result<Self, Distrust> {
        let sector = u64::from(head.u16(11));
        // Fields of FAT that are 0 here: reserved sectors, copies of the table, its length, the length of the root directory, all sectors.
        let unlike_fat = head.slice(14, 7).iter().chain(head.slice(22, 2)).chain(head.slice(32, 4));
        let sane = head.has(3, b"NTFS    ")
            && head.has(510, &[0x55, 0xaa])
            && matches!(sector, 512 | 1024 | 2048 | 4096)
            && unlike_fat.into_iter().all(|byte| *byte == 0);
        if !sane {
            return Err(nonsense());
        }
        let size = cluster_sectors(head.u8(13)).ok_or_else(nonsense)? * sector;
        let record = record_len(head.array::<1>(64), size).ok_or_else(nonsense)?;
        let len = head.u64(40).checked_mul(sector).ok_or_else(nonsense)?;
        if len.checked_add(sector).is_none_or(|end| end > volume.len()) {
            return Err(Distrust::too_long());
        }
        let clusters = Clusters { start: 0, size, count: len / size };
        let boot = Self { sector, len, clusters, record, mft: head.u64(48), mirror: head.u64(56) };
        if size > MAX_CLUSTER || clusters.count == 0 {
            return Err(nonsense());
        }
        Ok(boot)
    }

    /// The copy stands behind the last sector, or in the last one of the partition. Which place on the disk it is for may differ, and the code to boot with.
    fn check_copy(&self, head: Fields<'_>, volume: &Window<'_>) -> Result<(), Distrust> {
        let same = |copy: Fields<'_>, at: usize, len: usize| copy.slice(at, len) == head.slice(at, len);
        for at in [self.len, volume.len() - self.sector] {
            let bytes = read_all(volume, at, 512)?;
            let copy = Fields(&bytes);
            if same(copy, 3, 21) && same(copy, 40, 40) {
                return Ok(());
            }
        }
        Err(Distrust::because("its boot sector and the copy of it differ"))
    }

    /// Where a cluster begins in which there is room for `len` bytes before the filesystem ends.
    pub(crate) fn cluster_at(&self, cluster: u64, len: usize) -> Result<u64, Distrust> {
        let needed = self.clusters.holding(len as u64);
        let range = self.clusters.range(cluster, needed).ok_or_else(nonsense)?;
        Ok(self.clusters.bytes(range).start)
    }
}

/// Sectors of a cluster: a power of two, or minus its logarithm.
fn cluster_sectors(field: u8) -> Option<u64> {
    if field <= MAX_PLAIN {
        return field.is_power_of_two().then_some(u64::from(field));
    }
    let shift = u32::from(field.wrapping_neg());
    (shift <= MAX_CLUSTER.ilog2()).then(|| 1 << shift)
}

/// Bytes of a record: a number of clusters, or minus the logarithm of a number of bytes.
fn record_len(field: [u8; 1], cluster: u64) -> Option<usize> {
    let len = match i8::from_le_bytes(field) {
        clusters @ 1.. => cluster.checked_mul(u64::from(clusters.unsigned_abs()))?,
        shift => 1_u64.checked_shl(u32::from(shift.unsigned_abs()))?,
    };
    let sane = len.is_power_of_two() && (MIN_RECORD..=MAX_RECORD).contains(&len);
    sane.then(|| usize::try_from(len).ok())?
}

fn nonsense() -> Distrust {
    Distrust::because("its boot sector makes no sense")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_are_counted_in_two_ways() {
        let known = [(1, Some(1)), (128, Some(128)), (0xf8, Some(256)), (0xf4, Some(4096))];
        for (field, sectors) in known {
            assert_eq!(cluster_sectors(field), sectors);
        }
        for wrong in [0, 3, 0x81, 0xe0] {
            assert_eq!(cluster_sectors(wrong), None, "{wrong:#x}");
        }
    }

    #[test]
    fn records_are_counted_in_two_ways() {
        assert_eq!(record_len([0xf6], 4096), Some(1024));
        assert_eq!(record_len([0xf4], 65536), Some(4096));
        assert_eq!(record_len([1], 4096), Some(4096));
        for wrong in [0, 3, 0x80, 0xff, 127] {
            assert_eq!(record_len([wrong], 4096), None, "{wrong:#x}");
        }
    }
}
