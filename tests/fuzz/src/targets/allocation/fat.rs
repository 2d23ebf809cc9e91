//! Small FAT filesystems.

use super::{input, put};

/// Clusters of one sector, of 512 bytes; a directory in cluster 3 and a file in clusters 4, 6 and 5.
const CHAINS: [(usize, u32); 4] = [(3, END), (4, 6), (6, 5), (5, END)];
/// Ends a chain, cut to the width of an entry.
const END: u32 = 0x0fff_ffff;

pub(in super::super) fn seeds() -> Vec<Vec<u8>> {
    vec![input(&fat12(1)), input(&fat12(2)), input(&fat32())]
}

fn boot(sectors: u16, reserved: u8, copies: u8) -> Vec<u8> {
    let mut volume = vec![0; usize::from(sectors) * 512];
    put(&mut volume, 0, b"\xeb\x3c\x90mkfs.fat\0\x02\x01");
    put(&mut volume, 14, &[reserved, 0, copies]);
    put(&mut volume, 19, &sectors.to_le_bytes());
    volume[21] = 0xf8;
    put(&mut volume, 510, &[0x55, 0xaa]);
    volume
}

/// The entry of a file or directory.
fn entry(name: &[u8; 11], attributes: u8, first: u8) -> [u8; 32] {
    let mut entry = [0; 32];
    entry[..11].copy_from_slice(name);
    entry[11] = attributes;
    entry[26] = first;
    entry
}

fn fat12(copies: u8) -> Vec<u8> {
    let mut volume = boot(64, 1, copies);
    put(&mut volume, 17, &[16, 0]);
    put(&mut volume, 22, &[1, 0]);
    put(&mut volume, 38, b"\x29\x01\x02\x03\x04LABEL      FAT12   ");
    let root = 512 * (1 + usize::from(copies));
    for copy in 1..=usize::from(copies) {
        put(&mut volume, copy * 512, &[0xf8, 0xff, 0xff]);
        for (number, next) in CHAINS {
            let at = copy * 512 + number * 3 / 2;
            let pair = u16::from_le_bytes([volume[at], volume[at + 1]]);
            let next = (next & 0xfff) as u16;
            let pair = if number % 2 == 0 { pair & 0xf000 | next } else { pair & 0xf | next << 4 };
            put(&mut volume, at, &pair.to_le_bytes());
        }
    }
    put(&mut volume, root, &entry(b"FOLDER     ", 0x10, 3));
    put(&mut volume, root + 1024, &[entry(b".          ", 0x10, 3), entry(b"FILE    TXT", 0, 4)].concat());
    volume
}

fn fat32() -> Vec<u8> {
    let mut volume = boot(120, 8, 2);
    put(&mut volume, 36, &[1, 0, 0, 0]);
    put(&mut volume, 44, &[2, 0, 0, 0, 1, 0, 6, 0]);
    put(&mut volume, 66, b"\x29\x01\x02\x03\x04LABEL      FAT32   ");
    let backup = volume[..512].to_vec();
    put(&mut volume, 6 * 512, &backup);
    put(&mut volume, 512, b"RRaA");
    // Of 110 clusters five are used.
    put(&mut volume, 512 + 484, b"rrAa\x69\0\0\0");
    put(&mut volume, 512 + 508, &[0, 0, 0x55, 0xaa]);
    for copy in [8, 9] {
        put(&mut volume, copy * 512, &[0xf8, 0xff, 0xff, 0x0f, 0xff, 0xff, 0xff, 0x0f]);
        for (number, next) in CHAINS.into_iter().chain([(2, END)]) {
            put(&mut volume, copy * 512 + number * 4, &next.to_le_bytes());
        }
    }
    put(&mut volume, 10 * 512, &[entry(b"VOLUME     ", 8, 0), entry(b"FOLDER     ", 0x10, 3)].concat());
    put(&mut volume, 11 * 512, &[entry(b".          ", 0x10, 3), entry(b"FILE    TXT", 0, 4)].concat());
    volume
}
