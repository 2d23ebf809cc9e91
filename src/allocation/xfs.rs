//! XFS: the trees of free extents of every allocation group.
//!
//! Versions 4 and 5. Superblock, group headers and trees are checked against their checksums (version 5), against each other and against the
//! superblock's copies; both trees of each group must hold the same extents. What is set aside for the trees to grow is kept. The log must be at
//! rest (see `log`). Realtime sections, logs on other devices and features that are not known here are refused. Numbers are
//! big-endian.
//!
//! The format is described in "XFS Algorithms & Data Structures" (3rd edition) and by the headers of xfsprogs.

mod big;
mod group;
mod log;
mod superblock;
mod tree;

use self::superblock::Superblock;
use super::journal::Journal;
use super::{Distrust, FreeRanges, Survey, Usage, checked};
use crate::partition::bytes::Window;

/// The longest log that is looked through only to know how to mount, in bytes: what most filesystems have.
const MAX_LOOKED_THROUGH: u64 = 256 << 20;

/// Whether its log ends with an unmount.
pub(super) fn journal(volume: &Window<'_>) -> Journal {
    let Ok((superblock, sector)) = Superblock::read(volume) else { return Journal::Unknown };
    if superblock.geometry.log.1 > MAX_LOOKED_THROUGH {
        return Journal::Unknown;
    }
    match log::survey(volume, &superblock, &sector) {
        Ok(log) => Journal::of(log.unmounted),
        Err(Distrust::Because(_)) => Journal::NeedsReplay,
        Err(Distrust::Unreadable(_)) => Journal::Unknown,
    }
}

/// Surveys a volume that XFS fills.
pub(super) fn survey(volume: &Window<'_>) -> Survey {
    let (superblock, sector) = Superblock::read(volume)?;
    let geometry = &superblock.geometry;
    let log = log::survey(volume, &superblock, &sector)?;
    let mut free = FreeRanges::default();
    let (mut blocks, mut spare) = (0, 0);
    let (start, len) = geometry.log;
    let mut used: Vec<_> = std::iter::once(start..start + len).collect();
    let mut fixed = log.head;
    for number in 0..geometry.groups {
        let group = group::survey(volume, &superblock, number, &mut free)?;
        blocks += group.free;
        spare += group.spare;
        used.extend(group.used);
        fixed.extend(group.read);
    }
    // While it is mounted, the superblock's counters are only written now and then.
    if log.unmounted && superblock.free_blocks != blocks + spare {
        return Err(Distrust::because("its count of free blocks is wrong"));
    }
    if used.iter().chain(&fixed).any(|range| checked::is_partly_free(&free, range)) {
        return Err(Distrust::because("it counts blocks as free that it uses"));
    }
    Ok(Usage {
        filesystem: "xfs",
        used: (geometry.blocks - blocks) * geometry.block,
        label: superblock.label,
        free,
        fixed: checked::joined(fixed),
    })
}
