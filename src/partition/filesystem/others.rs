//! Filesystems that came from elsewhere: FAT, exFAT, NTFS and ISO 9660.

use super::super::bytes::Fields;
use super::{Filesystem, ISO9660};

pub(super) fn detect(head: Fields<'_>) -> Option<Filesystem> {
    ntfs(head).or_else(|| exfat(head)).or_else(|| vfat(head)).or_else(|| iso9660(head))
}

/// All kinds of them that have a signature there.
pub(super) fn all(head: Fields<'_>) -> impl Iterator<Item = &'static str> {
    [ntfs(head), exfat(head), vfat(head), iso9660(head)].into_iter().flatten().map(|found| found.kind)
}

fn ntfs(head: Fields<'_>) -> Option<Filesystem> {
    let right = head.has(3, b"NTFS    ") && is_sector(head.u16(11));
    right.then(|| Filesystem { uuid: Some(format!("{:016X}", head.u64(72))), ..Filesystem::new("ntfs") })
}

fn exfat(head: Fields<'_>) -> Option<Filesystem> {
    let right = head.has(3, b"EXFAT   ") && (9..=12).contains(&head.u8(108));
    right.then(|| Filesystem { uuid: Some(serial(head.u32(100))), ..Filesystem::new("exfat") })
}

/// FAT12, FAT16 and FAT32. The boot sector of each is checked for sense, because its signature is that of an MBR.
fn vfat(head: Fields<'_>) -> Option<Filesystem> {
    let jumps = matches!(head.u8(0), 0xeb | 0xe9);
    let sane = is_sector(head.u16(11))
        && head.u8(13).is_power_of_two()
        && head.u16(14) != 0
        && matches!(head.u8(16), 1 | 2)
        && head.u8(21) >= 0xf0;
    if !head.has(510, &[0x55, 0xaa]) || !jumps || !sane {
        return None;
    }
    // Serial number and label stand together, later in FAT32 than in the others.
    let at = if head.has(82, b"FAT32   ") {
        67
    } else if head.has(54, b"FAT") {
        39
    } else {
        return Some(Filesystem::new("vfat"));
    };
    let label = head.text(at + 4, 11).filter(|label| label != "NO NAME");
    Some(Filesystem { label, uuid: Some(serial(head.u32(at))), ..Filesystem::new("vfat") })
}

fn iso9660(head: Fields<'_>) -> Option<Filesystem> {
    const AT: usize = 32 << 10;
    let right = head.has(AT, b"\x01CD001");
    right.then(|| Filesystem { label: head.text(AT + 40, 32), ..Filesystem::new(ISO9660) })
}

fn is_sector(len: u16) -> bool {
    len.is_power_of_two() && (512..=4096).contains(&len)
}

/// A serial number as DOS shows it.
fn serial(number: u32) -> String {
    format!("{:04X}-{:04X}", number >> 16, number & 0xffff)
}
