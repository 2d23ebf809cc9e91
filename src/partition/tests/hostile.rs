//! Random disks and mutated tables: nothing panics, nothing is read or reported beyond the disk's end.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

/// Checks what must hold for every disk; [`Memory`] checks the reads.
fn check(bytes: &[u8], hint: u32) {
    let table = read_table(&Memory::new(bytes.to_vec()), hint).unwrap();
    assert!(table.partitions.len() <= MAX_PARTITIONS && table.notes.len() <= MAX_NOTES);
    for part in &table.partitions {
        assert!(part.len > 0 && part.start.checked_add(part.len).unwrap() <= bytes.len() as u64, "{part:?}");
    }
}

/// Where tables and superblocks keep what parsers look at, as offsets from the start of a structure.
fn mutations() -> impl Strategy<Value = Vec<(usize, u64, usize)>> {
    let value =
        prop_oneof![any::<u64>(), 0..300_u64, Just(u64::MAX), Just(u64::from(u32::MAX)), Just(1 << 63)];
    vec((0..512_usize, value, 1..=8_usize), 1..6)
}

fn mutate(bytes: &mut [u8], base: usize, mutations: &[(usize, u64, usize)]) {
    for (at, value, width) in mutations {
        let at = base + at.min(&(512 - width));
        put(bytes, at, &value.to_le_bytes()[..*width]);
    }
}

/// Where formats are recognised, and by what.
const SIGNATURES: &[(usize, &[u8])] = &[
    (0, b"XFSB\0\0\x10\0"),
    (0, b"LUKS\xba\xbe\0\x02"),
    (536, b"LVM2 001"),
    (1080, b"\x53\xef"),
    (4096, b"\xfc\x4e\x2b\xa9\x01\0\0\0"),
    (4086, b"SWAPSPACE2"),
    (32768, b"\x01CD001"),
    (65600, b"_BHRfS_M"),
    (3, b"EXFAT   "),
    (3, b"NTFS    "),
    (0, b"hsqs"),
];

proptest! {
    #[test]
    fn random_bytes(mut bytes in vec(any::<u8>(), 0..9000), signed in any::<bool>(), hint in any::<u32>()) {
        if signed && bytes.len() >= 512 {
            put(&mut bytes, 510, &[0x55, 0xaa]);
            (0..4).for_each(|slot| bytes[446 + 16 * slot] &= 0x80);
        }
        check(&bytes, hint);
    }

    #[test]
    fn mutated_gpt_with_right_checksums(
        large in any::<bool>(),
        headers in mutations(),
        entries in mutations(),
        fields in vec((prop_oneof![Just(72_usize), Just(80), Just(84), Just(12)], any::<u16>()), 0..3),
        mutate_header in any::<bool>(),
    ) {
        let sector = if large { 4096 } else { 512 };
        let mut disk = gpt(sector, &[(10, 19, "a"), (20, 99, "b"), (100, 200, "c")]);
        for (header, table) in [(1, 2), (SECTORS - 1, SECTORS - 1 - 2048_usize.div_ceil(sector))] {
            mutate(&mut disk, table * sector, &entries);
            if mutate_header {
                mutate(&mut disk, header * sector, &headers);
                put(&mut disk, header * sector, b"EFI PART");
                put(&mut disk, header * sector + 24, &(header as u64).to_le_bytes());
            }
            for (at, value) in &fields {
                put(&mut disk, header * sector + at, &value.to_le_bytes());
            }
            seal(&mut disk, sector, header);
        }
        check(&disk, 0);
    }

    #[test]
    fn mutated_mbr(boot in mutations(), first in mutations(), second in mutations(), len in 0..512_000_usize) {
        let mut disk = mbr();
        for (sector, mutations) in [(0, boot), (100, first), (300, second)] {
            mutate(&mut disk, sector * 512, &mutations);
            put(&mut disk, sector * 512 + 510, &[0x55, 0xaa]);
        }
        (0..4).for_each(|slot| disk[446 + 16 * slot] &= 0x80);
        disk.truncate(len.max(512));
        check(&disk, 0);
    }

    #[test]
    fn mutated_superblocks(
        magic in select(SIGNATURES),
        noise in vec(any::<u8>(), 1..200),
        len in 0..70_000_usize,
    ) {
        let mut disk: Vec<u8> = noise.iter().copied().cycle().take(70_000).collect();
        put(&mut disk, magic.0, magic.1);
        put(&mut disk, 512, b"LABELONE");
        disk.truncate(len);
        check(&disk, 512);
    }
}
