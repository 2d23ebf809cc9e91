//! Where superblocks and group descriptors lie.

use std::ops::Range;

use super::superblock::Superblock;

impl Superblock {
    /// Descriptors in a block of them.
    fn per_block(&self) -> u64 {
        self.block_size / self.descriptor_size as u64
    }

    /// Blocks of descriptors.
    pub(super) fn descriptor_blocks(&self) -> u64 {
        self.groups.div_ceil(self.per_block())
    }

    /// Blocks as bytes of the volume.
    pub(super) fn bytes(&self, blocks: &Range<u64>) -> Range<u64> {
        blocks.start * self.block_size..blocks.end * self.block_size
    }

    /// The blocks of a group; the last group may be shorter than the others.
    pub(super) fn group(&self, group: u64) -> Range<u64> {
        let start = self.first_block + group * self.group_len;
        start..(start + self.group_len).min(self.blocks)
    }

    /// Where the superblock of a group stands, or would. Blocks of 1 KiB have a boot block before the first, even where that belongs to the group.
    fn superblock_of(&self, group: u64) -> u64 {
        let start = self.group(group).start;
        if start == 0 && self.block_size == 1024 { 1 } else { start }
    }

    /// The block that holds block number `index` of the descriptors, in the copy that counts.
    pub(crate) fn descriptor_block(&self, index: u64) -> u64 {
        match self.first_meta {
            Some(first) if index >= first => {
                let group = index * self.per_block();
                self.superblock_of(group) + u64::from(self.copies.has(group))
            }
            _ => self.superblock_of(0) + 1 + index,
        }
    }

    /// The blocks at a group's beginning that hold boot code, a superblock and descriptors, or are kept for these. May reach beyond the group in a filesystem
    /// that lies.
    pub(super) fn head_of(&self, group: u64) -> Range<u64> {
        let start = if group == 0 { 0 } else { self.group(group).start };
        let copy = self.copies.has(group);
        let at = self.superblock_of(group);
        let behind = if copy { at + 1 } else { at };
        let descriptors = match self.first_meta {
            Some(first) if group / self.per_block() >= first => {
                let place = group % self.per_block();
                u64::from(place <= 1 || place == self.per_block() - 1)
            }
            Some(first) => u64::from(copy) * first,
            None => u64::from(copy) * (self.descriptor_blocks() + self.reserved),
        };
        if copy || descriptors > 0 { start..behind + descriptors } else { start..start }
    }
}
