//! Blocks of files, by their inodes: what tells whether a bitmap without a checksum calls a block free that is none.
//!
//! Every inode that has a link is followed, whatever the bitmap of inodes says. As many blocks of lists are read as the filesystem has blocks, at most.

use std::ops::Range;

use super::super::checked::is_partly_free;
use super::super::{Distrust, FreeRanges};
use super::groups::Groups;
use super::read;
use super::superblock::Superblock;
use crate::partition::bytes::{Fields, Window};

/// Bytes of inode tables that are read at once.
const PIECE: u64 = 1 << 20;
/// Offsets in an inode: its mode, links, blocks (of 512 bytes, or whole ones), flags, list of blocks, and block of attributes.
const MODE: usize = 0;
const LINKS: usize = 0x1a;
const SECTORS: usize = 0x1c;
const FLAGS: usize = 0x20;
pub(super) const BLOCKS: usize = 0x28;
const ATTRIBUTES: usize = 0x68;
const ATTRIBUTES_HIGH: usize = 0x76;
/// Length of the list of blocks: 12 of data, then one of each depth of indirection.
const LIST: usize = 60;
const DIRECT: usize = 12;
/// Flags: blocks are listed as extents; data lies in the inode.
pub(super) const HAS_EXTENTS: u32 = 0x8_0000;
const INLINE: u32 = 0x1000_0000;
pub(super) const EXTENTS_MAGIC: u16 = 0xf30a;
/// The deepest extent tree that the kernel makes.
pub(super) const MAX_DEPTH: u16 = 5;
/// Extents that are longer are allocated and not written yet; they are that much shorter.
const WRITTEN: u64 = 0x8000;
/// Kinds of files that have blocks.
const KIND: u16 = 0xf000;
const DIRECTORY: u16 = 0x4000;
const REGULAR: u16 = 0x8000;
const LINK: u16 = 0xa000;

/// Distrusts bitmaps that call a block free which a file has.
pub(super) fn check(
    volume: &Window<'_>,
    superblock: &Superblock,
    groups: &Groups,
    free: &FreeRanges,
) -> Result<(), Distrust> {
    let mut files = Files { volume, superblock, free, left: superblock.blocks };
    for group in &groups.groups {
        let len = u64::from(group.inodes).min(superblock.group_inodes) * superblock.inode_size;
        let start = group.inode_table * superblock.block_size;
        for at in (0..len).step_by(PIECE as usize) {
            let bytes = read(volume, start + at, PIECE.min(len - at))?;
            bytes
                .chunks_exact(superblock.inode_size as usize)
                .try_for_each(|inode| files.inode(Fields(inode)))?;
        }
    }
    Ok(())
}

struct Files<'a> {
    volume: &'a Window<'a>,
    superblock: &'a Superblock,
    free: &'a FreeRanges,
    /// Blocks of lists that may still be read.
    left: u64,
}

impl Files<'_> {
    fn inode(&mut self, inode: Fields<'_>) -> Result<(), Distrust> {
        let kind = inode.u16(MODE) & KIND;
        if inode.u16(LINKS) == 0 || kind == 0 {
            return Ok(());
        }
        let attributes = u64::from(inode.u32(ATTRIBUTES)) | u64::from(inode.u16(ATTRIBUTES_HIGH)) << 32;
        if attributes != 0 {
            self.used(attributes..attributes.saturating_add(1))?;
        }
        // A short link stands in the inode itself, and the only block that it may have holds attributes.
        let is_short = kind == LINK
            && u64::from(inode.u32(SECTORS))
                <= if attributes == 0 { 0 } else { self.superblock.block_size / 512 };
        if !matches!(kind, DIRECTORY | REGULAR | LINK) || is_short || inode.u32(FLAGS) & INLINE != 0 {
            return Ok(());
        }
        let list = inode.slice(BLOCKS, LIST);
        if inode.u32(FLAGS) & HAS_EXTENTS != 0 {
            return self.extents(list, None);
        }
        let list = Fields(list);
        for number in 0..LIST / 4 {
            self.block(list.u32(number * 4), number.saturating_sub(DIRECT - 1))?;
        }
        Ok(())
    }

    /// A node of an extent tree, of this depth if that is known.
    fn extents(&mut self, node: &[u8], depth: Option<u16>) -> Result<(), Distrust> {
        let fields = Fields(node);
        let (entries, own) = (usize::from(fields.u16(2)), fields.u16(6));
        let right =
            fields.u16(0) == EXTENTS_MAGIC && own <= MAX_DEPTH && depth.is_none_or(|depth| depth == own);
        if !right || entries * 12 + 12 > node.len() {
            return Err(damaged());
        }
        for at in (1..=entries).map(|entry| entry * 12) {
            let place = |low: usize, high: usize| {
                u64::from(fields.u32(at + low)) | u64::from(fields.u16(at + high)) << 32
            };
            if own == 0 {
                let len = u64::from(fields.u16(at + 4));
                let (start, len) = (place(8, 6), if len > WRITTEN { len - WRITTEN } else { len });
                self.used(start..start + len)?;
            } else {
                let below = self.list(place(4, 8))?;
                self.extents(&below, Some(own - 1))?;
            }
        }
        Ok(())
    }

    /// A block of data, or of a list with so many lists between it and data.
    fn block(&mut self, block: u32, depth: usize) -> Result<(), Distrust> {
        if block == 0 {
            return Ok(());
        }
        if depth == 0 {
            return self.used(u64::from(block)..u64::from(block) + 1);
        }
        let list = self.list(block.into())?;
        let list = Fields(&list);
        (0..self.superblock.block_size as usize / 4)
            .try_for_each(|number| self.block(list.u32(number * 4), depth - 1))
    }

    /// The content of a block that lists others.
    fn list(&mut self, block: u64) -> Result<Vec<u8>, Distrust> {
        self.used(block..block.saturating_add(1))?;
        self.left = self.left.checked_sub(1).ok_or_else(damaged)?;
        read(self.volume, block * self.superblock.block_size, self.superblock.block_size)
    }

    fn used(&self, blocks: Range<u64>) -> Result<(), Distrust> {
        if blocks.start < self.superblock.first_block || blocks.end > self.superblock.blocks {
            return Err(damaged());
        }
        if is_partly_free(self.free, &self.superblock.bytes(&blocks)) {
            return Err(Distrust::because("its bitmaps call blocks of files free"));
        }
        Ok(())
    }
}

fn damaged() -> Distrust {
    Distrust::because("its files are damaged")
}
