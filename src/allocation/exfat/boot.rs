//! The boot regions of exFAT: where everything lies.

use std::ops::Range;

use super::super::Distrust;
use super::super::clusters::{Clusters, read_all};
use super::entries::{checksum, first_bytes};
use crate::partition::bytes::{Fields, Window};

/// Sectors of a boot region; the last one repeats the checksum of the others.
const REGION: usize = 12;
/// Bytes of the boot sector that change with every mount, and belong to no checksum: two of flags, one of percents.
const VOLATILE: [usize; 3] = [106, 107, 112];
const FLAG_SECOND_TABLE: u16 = 1;
const FLAG_DIRTY: u16 = 2;
const FLAG_BAD_MEDIUM: u16 = 4;
/// Where the percentage in use is not known.
const UNKNOWN: u8 = 0xff;
/// The largest cluster: 2^25 bytes.
const MAX_CLUSTER_SHIFT: u8 = 25;

/// What the boot sector says, checked against the volume. Offsets and lengths are in bytes.
#[derive(Debug)]
pub(super) struct Boot {
    pub(super) sector: u64,
    /// The filesystem's length.
    pub(super) len: u64,
    pub(super) table: Range<u64>,
    /// Clusters from the one that the table calls 2.
    pub(super) clusters: Clusters,
    /// The root directory's first cluster, as the table counts.
    pub(super) root: u32,
}

impl Boot {
    pub(super) fn read(volume: &Window<'_>) -> Result<Self, Distrust> {
        let bytes = read_all(volume, 0, 512)?;
        let head = Fields(&bytes);
        let sane = head.has(0, b"\xeb\x76\x90EXFAT   ")
            && head.slice(11, 53).iter().all(|byte| *byte == 0)
            && head.has(510, &[0x55, 0xaa])
            && (9..=12).contains(&head.u8(108))
            && u16::from(head.u8(108)) + u16::from(head.u8(109)) <= u16::from(MAX_CLUSTER_SHIFT);
        if !sane {
            return Err(nonsense());
        }
        let sector = 1_usize << head.u8(108);
        check_regions(volume, sector)?;
        check_state(head)?;
        Self::lay_out(head, volume, sector as u64)
    }

    fn lay_out(head: Fields<'_>, volume: &Window<'_>, sector: u64) -> Result<Self, Distrust> {
        let len = head.u64(72).checked_mul(sector).ok_or_else(nonsense)?;
        if len > volume.len() {
            return Err(Distrust::too_long());
        }
        let [table_at, table_len, start] = [80, 84, 88].map(|at| u64::from(head.u32(at)) * sector);
        let clusters = Clusters { start, size: sector << head.u8(109), count: u64::from(head.u32(92)) };
        let end = clusters.size.checked_mul(clusters.count).and_then(|bytes| bytes.checked_add(start));
        let fits = table_at >= 2 * REGION as u64 * sector
            && table_at + table_len <= start
            && (clusters.count + 2) * 4 <= table_len
            && end.is_some_and(|end| end <= len)
            && clusters.count > 0;
        if !fits {
            return Err(nonsense());
        }
        Ok(Self { sector, len, table: table_at..table_at + table_len, clusters, root: head.u32(96) })
    }

    /// Length of both boot regions.
    pub(super) fn regions(&self) -> u64 {
        2 * REGION as u64 * self.sector
    }
}

/// Both boot regions must be whole and, but for what changes, the same.
fn check_regions(volume: &Window<'_>, sector: usize) -> Result<(), Distrust> {
    let len = REGION * sector;
    let mut regions = [read_all(volume, 0, len)?, read_all(volume, len as u64, len)?];
    for region in &mut regions {
        let (sectors, repeated) = region.split_at((REGION - 1) * sector);
        let mut sum = checksum(0, &sectors[..VOLATILE[0]]);
        sum = checksum(sum, &sectors[VOLATILE[1] + 1..VOLATILE[2]]);
        sum = checksum(sum, &sectors[VOLATILE[2] + 1..]);
        if repeated.chunks_exact(4).any(|copy| first_bytes(copy) != sum.to_le_bytes()) {
            return Err(Distrust::because("the checksum of its boot sectors is wrong"));
        }
        VOLATILE.iter().for_each(|at| region[*at] = 0);
    }
    if regions[0] != regions[1] {
        return Err(Distrust::because("its boot sectors and the copy of them differ"));
    }
    Ok(())
}

fn check_state(head: Fields<'_>) -> Result<(), Distrust> {
    let flags = head.u16(106);
    if head.u8(105) != 1 || head.u8(110) != 1 || flags & FLAG_SECOND_TABLE != 0 {
        return Err(Distrust::because("it is of an unknown version"));
    }
    if flags & FLAG_DIRTY != 0 {
        return Err(Distrust::because("it was not unmounted cleanly"));
    }
    if flags & FLAG_BAD_MEDIUM != 0 {
        return Err(Distrust::because("it was marked as lying on a failing medium"));
    }
    // The percentage is not compared: Linux does not keep it up to date.
    if !matches!(head.u8(112), 0..=100 | UNKNOWN) {
        return Err(nonsense());
    }
    Ok(())
}

fn nonsense() -> Distrust {
    Distrust::because("its boot sector makes no sense")
}
