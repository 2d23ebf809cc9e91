//! A small exFAT filesystem: sectors and clusters of 512 bytes, a table of one sector, and clusters 2 to 41.

use super::{input, put};

const TABLE: usize = 24;
const HEAP: usize = 25;
const CLUSTERS: usize = 40;
const REGION: usize = 12 * 512;

pub(in super::super) fn seeds() -> Vec<Vec<u8>> {
    vec![input(&volume())]
}

fn cluster(number: usize) -> usize {
    (HEAP + number - 2) * 512
}

/// Makes the checksums of both boot regions right, for sectors of 512 bytes. Their last sectors need not be in the input.
pub(super) fn seal(volume: &mut [u8]) {
    for start in [0, REGION] {
        let Some(region) = volume.get_mut(start..start + REGION) else { return };
        let (sectors, copies) = region.split_at_mut(REGION - 512);
        let summed = sectors.iter().enumerate().filter(|(at, _)| !matches!(at, 106 | 107 | 112));
        let sum = summed.fold(0, |sum, (_, byte)| add(sum, *byte));
        copies.chunks_exact_mut(4).for_each(|copy| copy.copy_from_slice(&sum.to_le_bytes()));
    }
}

fn add(sum: u32, byte: u8) -> u32 {
    sum.rotate_right(1).wrapping_add(u32::from(byte))
}

fn volume() -> Vec<u8> {
    let sectors = HEAP + CLUSTERS;
    let mut volume = vec![0; sectors * 512];
    for start in [0, REGION] {
        put(&mut volume, start, b"\xeb\x76\x90EXFAT   ");
        volume[start + 72] = sectors as u8;
        put(&mut volume, start + 80, &[TABLE as u8, 0, 0, 0, 1, 0, 0, 0, HEAP as u8, 0, 0, 0]);
        put(
            &mut volume,
            start + 92,
            &[CLUSTERS as u8, 0, 0, 0, 4, 0, 0, 0, 1, 2, 3, 4, 0, 1, 0, 0, 9, 0, 1, 0x80, 5],
        );
        put(&mut volume, start + 510, &[0x55, 0xaa]);
    }
    // Bitmap, upper-case table, root, a folder in cluster 5, a file in 6 and 8, one in 10 and 11 without a chain.
    let chains = [(2, u32::MAX), (3, u32::MAX), (4, u32::MAX), (5, u32::MAX), (6, 8), (8, u32::MAX)];
    put(&mut volume, TABLE * 512, &[0xf8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
    for (number, next) in chains {
        put(&mut volume, TABLE * 512 + number * 4, &next.to_le_bytes());
    }
    put(&mut volume, cluster(2), &[0b0101_1111, 0b11]);
    put(&mut volume, cluster(3), b"a\0b\0");
    let sum = b"a\0b\0".iter().fold(0, |sum, byte| add(sum, *byte));
    let mut upper_case = allocated(0x82, 0, 3, 4);
    upper_case[4..8].copy_from_slice(&sum.to_le_bytes());
    let mut label = [0; 32];
    label[..6].copy_from_slice(b"\x83\x02a\0b\0");
    let root = [&label[..], &allocated(0x81, 0, 2, 5), &upper_case, &file(0x10, 1, 5, 512)].concat();
    put(&mut volume, cluster(4), &root);
    put(&mut volume, cluster(5), &[file(0, 1, 6, 600), file(0, 3, 10, 1000)].concat());
    volume
}

/// An entry with clusters.
fn allocated(kind: u8, flags: u8, first: u8, len: u16) -> [u8; 32] {
    let mut entry = [0; 32];
    (entry[0], entry[1], entry[20]) = (kind, flags, first);
    entry[24..26].copy_from_slice(&len.to_le_bytes());
    entry
}

/// A file's set of entries.
fn file(attributes: u8, flags: u8, first: u8, len: u16) -> Vec<u8> {
    let mut set = vec![0; 96];
    (set[0], set[1], set[4]) = (0x85, 2, attributes);
    put(&mut set, 32, &allocated(0xc0, flags, first, len));
    put(&mut set, 64, b"\xc1\0f\0");
    set[35] = 1;
    let summed = set.iter().enumerate().filter(|(at, _)| !matches!(at, 2 | 3));
    let sum = summed.fold(0_u16, |sum, (_, byte)| sum.rotate_right(1).wrapping_add(u16::from(*byte)));
    put(&mut set, 2, &sum.to_le_bytes());
    set
}
