//! A small ext2.

use super::{input, put};

/// A filesystem of one group of 63 blocks of 1 KiB, five of which hold its structures.
fn ext2() -> Vec<u8> {
    let mut volume = vec![0; 64 << 10];
    let fields: [(usize, u32); 9] = [
        // Inodes, blocks, free blocks, first block.
        (0x00, 8),
        (0x04, 64),
        (0x0c, 58),
        (0x14, 1),
        // Blocks, clusters and inodes of a group; magic and state; revision.
        (0x20, 8192),
        (0x24, 8192),
        (0x28, 8),
        (0x38, 0x0001_ef53),
        (0x4c, 1),
    ];
    for (at, value) in fields {
        put(&mut volume, 1024 + at, &value.to_le_bytes());
    }
    put(&mut volume, 1024 + 0x58, &128_u16.to_le_bytes());
    // Bitmaps of blocks and inodes, the table of inodes, and what is free.
    put(&mut volume, 2048, &[3, 0, 0, 0, 4, 0, 0, 0, 5, 0, 0, 0, 58, 0]);
    put(&mut volume, 3072, &[0b1_1111]);
    volume
}

pub(in super::super) fn seeds() -> Vec<Vec<u8>> {
    vec![input(&ext2())]
}
