//! Tests of signatures whose tools are rare, on superblocks laid out by hand after their specifications.

use super::*;

const UUID: &[u8; 16] = b"\x01\x23\x45\x67\x89\xab\xcd\xef\x01\x23\x45\x67\x89\xab\xcd\xef";
const UUID_TEXT: &str = "01234567-89ab-cdef-0123-456789abcdef";

/// A blank of 256 KiB and a bit, with `parts` put into it.
fn disk_with(parts: &[(usize, &[u8])]) -> Vec<u8> {
    let mut disk = vec![0; (256 << 10) + 700];
    parts.iter().for_each(|(at, bytes)| put(&mut disk, *at, bytes));
    disk
}

/// Kind, label and UUID that are found.
fn probed(parts: &[(usize, &[u8])]) -> (String, String, String) {
    let table = table_of(&disk_with(parts));
    assert_eq!(table.kind, TableKind::None);
    let text = Option::unwrap_or_default;
    (text(table.filesystem), text(table.filesystem_label), text(table.uuid))
}

fn found(kind: &str, label: &str, uuid: &str) -> (String, String, String) {
    (kind.to_owned(), label.to_owned(), uuid.to_owned())
}

#[test]
fn luks() {
    let uuid = (168, UUID_TEXT.as_bytes());
    let second = [(0, &b"LUKS\xba\xbe\0\x02"[..]), (24, b"secret"), uuid];
    assert_eq!(probed(&second), found("crypto_LUKS", "secret", UUID_TEXT));
    let first = [(0, &b"LUKS\xba\xbe\0\x01"[..]), (24, b"aes"), uuid];
    assert_eq!(probed(&first), found("crypto_LUKS", "", UUID_TEXT), "version 1 has a cipher's name there");
    assert_eq!(probed(&[(0, b"LUKS\xba\xbe\0\x03")]), found("", "", ""));
}

#[test]
fn lvm() {
    let label: &[u8] =
        b"LABELONE\x01\0\0\0\0\0\0\0\0\0\0\0\x20\0\0\0LVM2 001abcdefghijklmnopqrstuvwxyz012345";
    let id = "abcdef-ghij-klmn-opqr-stuv-wxyz-012345";
    for sector in 0..4 {
        assert_eq!(probed(&[(sector * 512, label)]), found("LVM2_member", "", id));
    }
    assert_eq!(probed(&[(4 * 512, label)]), found("", "", ""));
}

/// A version 1 superblock of a RAID member that says it stands at byte `offset`.
fn raid(offset: u64) -> Vec<u8> {
    let mut superblock = vec![0; 256];
    put(&mut superblock, 0, b"\xfc\x4e\x2b\xa9\x01\0\0\0");
    put(&mut superblock, 16, UUID);
    put(&mut superblock, 32, b"host:0");
    // Where data begins, how long it is, and where the superblock stands, in sectors.
    put(&mut superblock, 128, &2048_u64.to_le_bytes());
    put(&mut superblock, 136, &4096_u64.to_le_bytes());
    put(&mut superblock, 144, &(offset / 512).to_le_bytes());
    superblock
}

#[test]
fn raid_members_hide_the_filesystem_of_a_mirror() {
    let ext2: &[(usize, &[u8])] = &[(1028, &[9]), (1080, &[0x53, 0xef])];
    assert_eq!(probed(ext2), found("ext2", "", ""));
    // 1.0 stands on the last 4 KiB that leave 8 KiB to the end in whole sectors.
    for at in [0, 4096, (256 << 10) - 8192] {
        let superblock = raid(at as u64);
        let parts = [ext2, &[(at, superblock.as_slice())]].concat();
        assert_eq!(probed(&parts), found("linux_raid_member", "host:0", UUID_TEXT), "at {at}");
        let elsewhere = raid(at as u64 + 4096);
        let parts = [(at, elsewhere.as_slice())];
        assert_eq!(probed(&parts), found("", "", ""), "a copy of a superblock, at {at}");
    }
    let old: &[u8] = b"\xfc\x4e\x2b\xa9\0\0\0\0\x5a\0\0\0";
    let parts = [ext2, &[(192 << 10, old)]].concat();
    assert_eq!(probed(&parts), found("linux_raid_member", "", ""));
}

#[test]
fn filesystems_without_a_tool_here() {
    let exfat = [(3, &b"EXFAT   "[..]), (100, b"\xcd\xab\x34\x12"), (108, &[9])];
    assert_eq!(probed(&exfat), found("exfat", "", "1234-ABCD"));
    assert_eq!(probed(&[(0, b"hsqs"), (28, &[4])]), found("squashfs", "", ""));
    let iso = [(32 << 10, &b"\x01CD001"[..]), ((32 << 10) + 40, b"Debian 12                       ")];
    assert_eq!(probed(&iso), found("iso9660", "Debian 12", ""));
    assert_eq!(probed(&[(4086, b"SWAP-SPACE")]), found("swap", "", ""));
    for (at, suspended) in [(4086, &b"S1SUSPEND"[..]), (16374, b"S2SUSPEND"), (4086, b"LINHIB0001")] {
        assert_eq!(probed(&[(at, suspended)]), found("swsuspend", "", ""));
    }
}

#[test]
fn hybrid_image_has_a_table_and_a_filesystem() {
    let mut disk = disk_with(&[(32 << 10, b"\x01CD001")]);
    slot(&mut disk, 0, 0, 0xef, 4, 8);
    let table = table_of(&disk);
    assert_eq!((table.kind, table.filesystem.as_deref()), (TableKind::Mbr, Some("iso9660")));
}

#[test]
fn stale_superblock_under_a_table_is_only_noted() {
    let mut disk = disk_with(&[(1028, &[9]), (1080, &[0x53, 0xef])]);
    slot(&mut disk, 0, 0, 0x83, 100, 8);
    let table = table_of(&disk);
    assert_eq!((table.kind, table.filesystem), (TableKind::Mbr, None));
    assert!(table.notes[0].contains("ext2"), "{:?}", table.notes);
}

#[test]
fn boot_sector_of_a_filesystem_is_no_table() {
    let fat =
        [(0, &b"\xeb\x3c\x90"[..]), (11, b"\x00\x02\x01\x01\x00\x01"), (21, &[0xf8]), (510, &[0x55, 0xaa])];
    let mut disk = disk_with(&fat);
    slot(&mut disk, 0, 0, 0x83, 100, 8);
    let table = table_of(&disk);
    assert_eq!((table.kind, table.filesystem.as_deref()), (TableKind::None, Some("vfat")));
}
