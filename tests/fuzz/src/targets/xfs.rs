//! XFS: one group of 128 blocks of 512 bytes.

use super::volume::{fields, pieces, try_survey};

const LEN: usize = 64 << 10;
const BLOCK: usize = 512;
/// Blocks of the tree by place, the tree by size, and the log.
const BY_PLACE: u32 = 4;
const BY_SIZE: u32 = 5;
const LOG: u32 = 16;
const LOG_LEN: u32 = 8;
/// Two free extents: first block and blocks.
const FREE: [(u32, u32); 2] = [(40, 8), (60, 68)];

pub(super) fn volume(input: &[u8]) -> bool {
    try_survey(input, "xfs", LEN, seal)
}

/// Makes the checksums of all blocks right that have one, records of the log aside.
fn seal(bytes: &mut [u8]) {
    let kinds: [(&[u8], usize); 6] =
        [(b"XFSB", 224), (b"XAGF", 216), (b"XAGI", 312), (b"XAFL", 32), (b"AB3B", 52), (b"AB3C", 52)];
    for block in bytes.chunks_exact_mut(BLOCK) {
        if let Some((_, at)) = kinds.iter().find(|(magic, _)| block.starts_with(magic)) {
            block[*at..at + 4].fill(0);
            let sum = crc32c::crc32c(block);
            block[*at..at + 4].copy_from_slice(&sum.to_le_bytes());
        }
    }
}

fn superblock(version: u16) -> Vec<u8> {
    let counted: u32 = FREE.iter().map(|(_, blocks)| blocks).sum();
    fields(&[
        (0, b"XFSB"),
        (4, &512_u32.to_be_bytes()),
        (8, &128_u64.to_be_bytes()),
        (32, &[7; 16]),
        (48, &u64::from(LOG).to_be_bytes()),
        (84, &128_u32.to_be_bytes()),
        (88, &1_u32.to_be_bytes()),
        (96, &LOG_LEN.to_be_bytes()),
        (100, &(0xb4a0 | version).to_be_bytes()),
        (102, &512_u16.to_be_bytes()),
        (108, b"label"),
        (120, &[9, 9, 8, 1, 7]),
        (144, &u64::from(counted).to_be_bytes()),
        (200, &0x8a_u32.to_be_bytes()),
        (228, &[0; 36]),
    ])
}

/// Headers of space, inodes and spare blocks. No block is spare.
fn headers() -> [Vec<u8>; 3] {
    let number = u32::to_be_bytes;
    let common: [(usize, &[u8]); 2] = [(4, &number(1)), (12, &number(128))];
    let counted: u32 = FREE.iter().map(|(_, blocks)| blocks).sum();
    let space: [(usize, &[u8]); 11] = [
        (0, b"XAGF"),
        (16, &number(BY_PLACE)),
        (20, &number(BY_SIZE)),
        (28, &number(1)),
        (32, &number(1)),
        (40, &number(1)),
        (52, &number(counted)),
        (56, &number(68)),
        (64, &[7; 16]),
        common[0],
        common[1],
    ];
    let inodes: [(usize, &[u8]); 6] =
        [(0, b"XAGI"), (20, &number(6)), (24, &number(1)), (296, &[7; 16]), common[0], common[1]];
    [fields(&space), fields(&inodes), fields(&[(0, b"XAFL"), (8, &[7; 16])])]
}

fn tree(version: u16, magic: &[u8; 4], block: u32) -> Vec<u8> {
    let header = if version == 5 { 56 } else { 16 };
    let records: Vec<u8> = FREE
        .iter()
        .flat_map(|(start, blocks)| [start.to_be_bytes(), blocks.to_be_bytes()].concat())
        .collect();
    let mut out = fields(&[(0, magic), (6, &2_u16.to_be_bytes()), (8, &[0xff; 8]), (header, &records)]);
    if version == 5 {
        out[16..24].copy_from_slice(&u64::from(block).to_be_bytes());
        out[32..48].fill(7);
    }
    out
}

/// A record at the log's beginning with one operation or a few.
fn record(operations: u32, data: &[u8]) -> Vec<u8> {
    let number = u32::to_be_bytes;
    let mut out = fields(&[
        (0, &number(0xfeed_babe)),
        (4, &number(1)),
        (8, &number(2)),
        (12, &number(data.len() as u32)),
        (16, &(1_u64 << 32).to_be_bytes()),
        (24, &(1_u64 << 32).to_be_bytes()),
        (40, &number(operations)),
        (300, &number(1)),
        (304, &[7; 16]),
        (320, &number(32 << 10)),
        (BLOCK, data),
    ]);
    // First words of blocks lie in the header.
    for index in 0..data.len().div_ceil(BLOCK) {
        let at = BLOCK * (index + 1);
        out.copy_within(at..at + 4, 44 + 4 * index);
        out[at..at + 4].copy_from_slice(&number(1));
    }
    out
}

fn operation(flags: u8, data: &[u8]) -> Vec<u8> {
    let head = fields(&[(0, &[5; 4]), (4, &(data.len() as u32).to_be_bytes()), (8, &[0x69, flags, 0, 0])]);
    [head, data.to_vec()].concat()
}

/// A log that holds the superblock alone, as after a freeze.
fn frozen(version: u16) -> Vec<u8> {
    let format = fields(&[
        (0, &0x123c_u16.to_le_bytes()),
        (2, &2_u16.to_le_bytes()),
        (4, &0x9000_u16.to_le_bytes()),
        (6, &1_u16.to_le_bytes()),
        (16, &1_u32.to_le_bytes()),
        (20, &3_u32.to_le_bytes()),
    ]);
    let mut logged = superblock(version);
    logged.resize(256, 0);
    let header = fields(&[(0, &0x5452_414e_u32.to_le_bytes()), (12, &1_u32.to_le_bytes())]);
    let operations = [(1, vec![]), (0, header), (0, format), (0, logged), (2, vec![])];
    let mut data: Vec<u8> = operations.iter().flat_map(|(flags, data)| operation(*flags, data)).collect();
    data.resize(BLOCK, 0);
    record(5, &data)
}

fn seed(version: u16, log: Vec<u8>) -> Vec<u8> {
    let [space, inodes, spare] = headers();
    let (by_place, by_size) = if version == 5 { (b"AB3B", b"AB3C") } else { (b"ABTB", b"ABTC") };
    let at = |block: u32| block as usize * BLOCK;
    let all = [
        (at(0), superblock(version)),
        (at(1), space),
        (at(2), inodes),
        (at(3), spare),
        (at(BY_PLACE), tree(version, by_place, BY_PLACE)),
        (at(BY_SIZE), tree(version, by_size, BY_SIZE)),
        (at(LOG), log),
    ];
    pieces(version == 5, &all)
}

pub(super) fn volume_seeds() -> Vec<Vec<u8>> {
    let unmounted = || record(1, &operation(0x20, b"nU\0\0\0\0\0\0"));
    vec![seed(4, unmounted()), seed(5, unmounted()), seed(4, frozen(4))]
}
