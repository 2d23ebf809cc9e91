//! Which blocks of a filesystem are in use, by its own account.
//!
//! A volume (a partition, or a disk without partitions) is surveyed by the parser of its filesystem, and either all that the parser read is whole
//! and consistent, or the volume is taken whole: a doubt never leaves out a block. Volumes are hostile input. Invariants: nothing panics; no read
//! goes beyond the volume; memory and the number of reads are bounded by the size of the volume and by fixed limits, whatever it says.
//!
//! Nothing here writes, replays a journal or decides whether the source holds still: that is for the caller, who also reads what is [`Usage::fixed`] again
//! when all is read.

mod bits;
mod btrfs;
mod checked;
pub(crate) mod clusters;
pub mod disk;
mod exfat;
pub(crate) mod ext;
pub(crate) mod fat;
pub mod journal;
pub(crate) mod ntfs;
mod ranges;
mod swap;
#[cfg(test)]
mod tests;
mod xfs;

use std::io;
use std::ops::Range;

pub use self::ranges::FreeRanges;
use crate::partition::ReadAt;
use crate::partition::bytes::Window;

/// What a filesystem says of the volume that it fills. Offsets and lengths are bytes of the volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// The filesystem, by its name at `blkid`.
    pub filesystem: &'static str,
    /// Its label, empty if it has none. Printable; what is not text was replaced.
    pub label: String,
    /// Bytes that it uses, its own structures included.
    pub used: u64,
    /// What is free: whole blocks that hold nothing, no structure and no copy of one, and that nothing may still be written to by replaying something.
    pub free: FreeRanges,
    /// What `free` rests on and what changes when a mounted filesystem changes: superblock, head of the log, bitmaps. Sorted, disjoint.
    pub fixed: Vec<Range<u64>>,
}

/// Why a volume is taken whole.
#[derive(Debug, thiserror::Error)]
pub enum Distrust {
    /// Its filesystem is none whose free blocks are known here, or not in a state that can be trusted: a sentence's end after "taken whole: ".
    #[error("{0}")]
    Because(String),
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Unreadable(#[from] io::Error),
}

impl Distrust {
    /// A reason.
    #[must_use]
    pub fn because(reason: impl Into<String>) -> Self {
        Self::Because(reason.into())
    }

    /// The filesystem says that it is longer than its volume.
    fn too_long() -> Self {
        Self::because("the filesystem is longer than what holds it")
    }
}

/// What a parser makes of a volume.
pub type Survey = Result<Usage, Distrust>;

/// Surveys a volume, a range of a disk, as the filesystem of this name at `blkid`.
///
/// # Errors
/// The reason for which the volume is to be taken whole.
pub fn survey(disk: &dyn ReadAt, range: Range<u64>, kind: &str) -> Survey {
    let volume = Window::part(disk, range.start, range.end.saturating_sub(range.start));
    match kind {
        "ext2" | "ext3" | "ext4" => ext::survey(&volume),
        "btrfs" => btrfs::survey(&volume),
        "xfs" => xfs::survey(&volume),
        "ntfs" => ntfs::survey(&volume),
        "vfat" => fat::survey(&volume),
        "exfat" => exfat::survey(&volume),
        "swap" | "swsuspend" => swap::survey(&volume),
        _ => {
            let reason = format!("its filesystem is not one whose free blocks are known here ({kind})");
            Err(Distrust::Because(reason))
        }
    }
}
