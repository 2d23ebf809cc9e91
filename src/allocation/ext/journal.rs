//! The journal's first block: whether it is empty, whatever the superblock says.

use super::super::Distrust;
use super::inodes::{BLOCKS, EXTENTS_MAGIC, HAS_EXTENTS, MAX_DEPTH};
use super::read;
use super::superblock::Superblock;
use crate::partition::bytes::{Fields, Window};

const MAGIC: u32 = 0xc03b_3998;
/// Bytes of an inode that are looked at.
const INODE: u64 = 128;

/// Checks that nothing is left to replay; returns the block that tells.
pub(super) fn check(
    volume: &Window<'_>,
    superblock: &Superblock,
    inode_table: u64,
    inode: u64,
) -> Result<u64, Distrust> {
    if inode == 0 {
        return Err(Distrust::because("its journal is on another device"));
    }
    // The journal's inode is a reserved one, of the first group.
    if inode > superblock.group_inodes {
        return Err(Distrust::because("its journal has an impossible inode"));
    }
    let at = inode_table * superblock.block_size + (inode - 1) * superblock.inode_size;
    let first = first_block(volume, superblock, &read(volume, at, INODE)?)?;
    let head = read(volume, first * superblock.block_size, superblock.block_size)?;
    let number = |at: usize| u32::from_be_bytes(Fields(&head).array(at));
    if number(0) != MAGIC || !matches!(number(4), 3 | 4) {
        return Err(Distrust::because("its journal is damaged"));
    }
    if number(0x1c) != 0 {
        return Err(Distrust::because("its journal was not replayed"));
    }
    if number(0x20) != 0 {
        return Err(Distrust::because("its journal was aborted"));
    }
    Ok(first)
}

/// The first block of an inode's content.
fn first_block(volume: &Window<'_>, superblock: &Superblock, inode: &[u8]) -> Result<u64, Distrust> {
    let lost = || Distrust::because("its journal cannot be found");
    let fields = Fields(inode);
    let within = |block: u64| (superblock.first_block..superblock.blocks).contains(&block);
    if fields.u32(0x20) & HAS_EXTENTS == 0 {
        return Some(u64::from(fields.u32(BLOCKS))).filter(|block| within(*block)).ok_or_else(lost);
    }
    let mut node = fields.slice(BLOCKS, 60).to_vec();
    let mut depth = Fields(&node).u16(6);
    if depth > MAX_DEPTH {
        return Err(lost());
    }
    loop {
        let fields = Fields(&node);
        let is_node = fields.u16(0) == EXTENTS_MAGIC && fields.u16(2) > 0 && fields.u16(6) == depth;
        let place = |low: usize, high: usize| u64::from(fields.u32(low)) | u64::from(fields.u16(high)) << 32;
        let block = if depth == 0 { place(20, 18) } else { place(16, 20) };
        if !is_node || fields.u32(12) != 0 || !within(block) {
            return Err(lost());
        }
        if depth == 0 {
            return Ok(block);
        }
        node = read(volume, block * superblock.block_size, superblock.block_size)?;
        depth -= 1;
    }
}
