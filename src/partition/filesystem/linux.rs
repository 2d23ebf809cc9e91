//! Filesystems of Linux: ext2, ext3, ext4, XFS, btrfs, squashfs, and swap space.

use super::super::bytes::Fields;
use super::Filesystem;

/// Features that ext3 knows; any other makes it ext4.
const EXT3_INCOMPAT: u32 = 0x02 | 0x04 | 0x10;
const EXT3_RO_COMPAT: u32 = 0x01 | 0x02 | 0x04;
const EXT_HAS_JOURNAL: u32 = 0x04;
/// The state in which errors were found.
const EXT_ERRORS: u16 = 0x02;
const EXT_IS_JOURNAL: u32 = 0x08;

/// An incompatible feature of version 5: not to be mounted before a repair.
const XFS_NEEDS_REPAIR: u32 = 0x10;

/// Page sizes that Linux runs with; swap space is signed at the end of its first page.
const PAGES: [usize; 5] = [4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10];

/// In place of that signature, those of a system that was suspended to the area: the kernel's, uswsusp's two, and what came with TuxOnIce.
pub(crate) const SUSPENDED: [&[u8]; 5] =
    [b"S1SUSPEND", b"S2SUSPEND", b"ULSUSPEND", b"LINHIB0001", b"\xed\xc3\x02\xe9\x98\x56\xe5\x0c"];

pub(super) fn detect(head: Fields<'_>) -> Option<Filesystem> {
    xfs(head).or_else(|| squashfs(head)).or_else(|| btrfs(head)).or_else(|| ext(head)).or_else(|| swap(head))
}

/// All kinds of them that have a signature there.
pub(super) fn all(head: Fields<'_>) -> impl Iterator<Item = &'static str> {
    [xfs(head), squashfs(head), btrfs(head), ext(head), swap(head)]
        .into_iter()
        .flatten()
        .map(|found| found.kind)
}

fn ext(head: Fields<'_>) -> Option<Filesystem> {
    const AT: usize = 1024;
    let (blocks, block_shift) = (head.u32(AT + 4), head.u32(AT + 24));
    if head.u16(AT + 56) != 0xef53 || blocks == 0 || block_shift > 6 {
        return None;
    }
    let (compat, incompat, ro_compat) = (head.u32(AT + 92), head.u32(AT + 96), head.u32(AT + 100));
    let kind = if incompat & EXT_IS_JOURNAL != 0 {
        "jbd"
    } else if incompat & !EXT3_INCOMPAT != 0 || ro_compat & !EXT3_RO_COMPAT != 0 {
        "ext4"
    } else if compat & EXT_HAS_JOURNAL != 0 {
        "ext3"
    } else {
        "ext2"
    };
    let has_errors = head.u16(AT + 58) & EXT_ERRORS != 0;
    let condition = has_errors.then_some("marked as having errors; fsck was due");
    Some(Filesystem { kind, label: head.text(AT + 120, 16), uuid: head.uuid(AT + 104), condition })
}

fn xfs(head: Fields<'_>) -> Option<Filesystem> {
    let block = u32::from_be_bytes(head.array(4));
    let right = head.has(0, b"XFSB") && block.is_power_of_two() && (512..=65536).contains(&block);
    let version = u16::from_be_bytes(head.array(100)) & 0xf;
    let needs_repair = version == 5 && u32::from_be_bytes(head.array(216)) & XFS_NEEDS_REPAIR != 0;
    let condition = needs_repair.then_some("marked as needing repair; xfs_repair was due");
    right.then(|| Filesystem { kind: "xfs", label: head.text(108, 12), uuid: head.uuid(32), condition })
}

fn btrfs(head: Fields<'_>) -> Option<Filesystem> {
    const AT: usize = 64 << 10;
    let right = head.has(AT + 64, b"_BHRfS_M");
    let (label, uuid) = (head.text(AT + 299, 256), head.uuid(AT + 32));
    right.then(|| Filesystem { label, uuid, ..Filesystem::new("btrfs") })
}

fn squashfs(head: Fields<'_>) -> Option<Filesystem> {
    (head.has(0, b"hsqs") && matches!(head.u16(28), 3 | 4)).then(|| Filesystem::new("squashfs"))
}

fn swap(head: Fields<'_>) -> Option<Filesystem> {
    let signed = |magic: &[u8]| PAGES.iter().any(|page| head.has(page - 10, magic));
    if signed(b"SWAPSPACE2") {
        let (label, uuid) = (head.text(1052, 16), head.uuid(1036));
        return Some(Filesystem { label, uuid, ..Filesystem::new("swap") });
    }
    if SUSPENDED.iter().any(|magic| signed(magic)) {
        return Some(Filesystem::new("swsuspend"));
    }
    signed(b"SWAP-SPACE").then(|| Filesystem::new("swap"))
}
