//! LUKS, LVM physical volumes and members of Linux RAID arrays.

use std::io;

use super::super::bytes::{Fields, Window};
use super::Filesystem;

const RAID_MAGIC: u32 = 0xa92b_4efc;

/// Containers whose signature is at the beginning.
pub(super) fn in_head(head: Fields<'_>) -> Option<Filesystem> {
    luks(head)
        .or_else(|| lvm(head))
        .or_else(|| [0, 4096].into_iter().find_map(|at| raid_1(head, at, at as u64)))
}

/// All kinds of them that have a signature there.
pub(super) fn all_in_head(head: Fields<'_>) -> impl Iterator<Item = &'static str> {
    let raid = [0, 4096].map(|at| raid_1(head, at, at as u64));
    [luks(head), lvm(head)].into_iter().chain(raid).flatten().map(|found| found.kind)
}

/// RAID members whose superblock is at the end: versions 1.0 and 0.90.
pub(super) fn at_end(window: &Window<'_>) -> io::Result<Option<Filesystem>> {
    // Version 1.0 stands 8 KiB before the end or a little more, on 4 KiB; 0.90 on the last 64 KiB that fit.
    if let Some(at) = (window.len() & !511).checked_sub(8192).map(|at| at & !4095) {
        let bytes = window.read_up_to(at, 256)?;
        if let Some(found) = raid_1(Fields(&bytes), 0, at) {
            return Ok(Some(found));
        }
    }
    let Some(at) = (window.len() & !0xffff).checked_sub(0x1_0000) else { return Ok(None) };
    Ok(raid_0(Fields(&window.read_up_to(at, 256)?)))
}

/// LUKS on-disk formats 1 and 2.
fn luks(head: Fields<'_>) -> Option<Filesystem> {
    let version = u16::from_be_bytes(head.array(6));
    if !head.has(0, b"LUKS\xba\xbe") || !matches!(version, 1 | 2) {
        return None;
    }
    let label = if version == 2 { head.text(24, 48) } else { None };
    Some(Filesystem { label, uuid: head.text(168, 40), ..Filesystem::new("crypto_LUKS") })
}

/// LVM2: a label in one of the first four sectors points to the volume's id.
fn lvm(head: Fields<'_>) -> Option<Filesystem> {
    let is_label = |at: &usize| head.has(*at, b"LABELONE") && head.has(at + 24, b"LVM2 001");
    let at = (0..4).map(|sector| sector * 512).find(is_label)?;
    let id = head.text(at + head.u32(at + 20).min(512) as usize, 32);
    let uuid = id.filter(|id| id.len() == 32 && id.is_ascii()).map(|id| {
        // Groups of 6-4-4-4-4-4-6 characters.
        [0..6, 6..10, 10..14, 14..18, 18..22, 22..26, 26..32].map(|group| id[group].to_owned()).join("-")
    });
    Some(Filesystem { uuid, ..Filesystem::new("LVM2_member") })
}

/// A version 1 superblock at `at` of `bytes`, which is byte `offset` of the member: it knows where it should be (`super_offset` of Linux' `md_p.h`).
fn raid_1(bytes: Fields<'_>, at: usize, offset: u64) -> Option<Filesystem> {
    let right = bytes.u32(at) == RAID_MAGIC && bytes.u32(at + 4) == 1 && bytes.u64(at + 144) == offset / 512;
    right.then(|| Filesystem {
        label: bytes.text(at + 32, 32),
        uuid: bytes.uuid(at + 16),
        ..Filesystem::new("linux_raid_member")
    })
}

/// A version 0.90 superblock; that of a big-endian machine has no use here.
fn raid_0(bytes: Fields<'_>) -> Option<Filesystem> {
    let right = bytes.u32(0) == RAID_MAGIC && bytes.u32(4) == 0 && bytes.u32(8) == 90;
    right.then(|| Filesystem::new("linux_raid_member"))
}
