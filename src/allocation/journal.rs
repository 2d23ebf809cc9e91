//! Whether a filesystem has a journal to replay before it can be read.
//!
//! It decides how a volume is to be mounted, and nothing more: an answer that is wrong makes a mount fail or take a detour, and loses nothing. What is
//! read is bounded, whatever the volume says; a log that would take long to look through is [`Journal::Unknown`].

use std::ops::Range;

use super::{btrfs, ext, ntfs, xfs};
use crate::partition::ReadAt;
use crate::partition::bytes::Window;

/// What is left to do for whoever mounts a filesystem next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Journal {
    /// Nothing: it was unmounted, or has no journal.
    Clean,
    /// Its journal was not replayed, as after a crash or in a copy of a mounted disk.
    NeedsReplay,
    /// It cannot be told. Whoever can replay should be ready to.
    Unknown,
}

/// Looks at a volume, a range of a disk, as the filesystem of this name at `blkid`. Filesystems without a journal are clean.
#[must_use]
pub fn journal(disk: &dyn ReadAt, range: Range<u64>, kind: &str) -> Journal {
    let volume = Window::part(disk, range.start, range.end.saturating_sub(range.start));
    match kind {
        "ext2" | "ext3" | "ext4" => ext::journal(&volume),
        "xfs" => xfs::journal(&volume),
        "btrfs" => btrfs::journal(&volume),
        "ntfs" => ntfs::journal(&volume),
        "vfat" | "exfat" | "iso9660" | "squashfs" => Journal::Clean,
        _ => Journal::Unknown,
    }
}

impl Journal {
    pub(super) fn of(clean: bool) -> Self {
        if clean { Self::Clean } else { Self::NeedsReplay }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::Disk;
    use super::*;

    /// What is said of 128 KiB with some bytes in them.
    fn said(kind: &str, bytes: &[(usize, &[u8])]) -> Journal {
        let mut disk = vec![0; 128 << 10];
        for (at, bytes) in bytes {
            disk[*at..at + bytes.len()].copy_from_slice(bytes);
        }
        journal(&Disk(&disk), 0..128 << 10, kind)
    }

    #[test]
    fn ext_says_so_in_its_superblock() {
        let magic: (usize, &[u8]) = (1080, b"\x53\xef");
        let journalled: (usize, &[u8]) = (1024 + 0x5c, b"\x04\0\0\0");
        let inode: (usize, &[u8]) = (1024 + 0xe0, b"\x08");
        assert_eq!(said("ext4", &[magic, journalled, inode]), Journal::Clean);
        let recover: (usize, &[u8]) = (1024 + 0x60, b"\x46\x02\0\0");
        assert_eq!(said("ext4", &[magic, journalled, inode, recover]), Journal::NeedsReplay);
        assert_eq!(said("ext3", &[magic, journalled]), Journal::Unknown, "a journal elsewhere");
        assert_eq!(said("ext2", &[magic]), Journal::Clean);
        assert_eq!(said("ext2", &[]), Journal::Unknown);
    }

    #[test]
    fn btrfs_has_a_log_tree_or_none() {
        let magic: (usize, &[u8]) = ((64 << 10) + 64, b"_BHRfS_M");
        assert_eq!(said("btrfs", &[magic]), Journal::Clean);
        assert_eq!(said("btrfs", &[magic, ((64 << 10) + 96, b"\0\x10")]), Journal::NeedsReplay);
        assert_eq!(said("btrfs", &[]), Journal::Unknown);
    }

    #[test]
    fn what_makes_no_sense_is_unknown() {
        assert_eq!(said("xfs", &[(0, b"XFSB")]), Journal::Unknown);
        assert_eq!(said("ntfs", &[(3, b"NTFS    ")]), Journal::Unknown);
        assert_eq!((said("f2fs", &[]), said("vfat", &[])), (Journal::Unknown, Journal::Clean));
    }
}
