//! ext2, ext3 and ext4: block bitmaps, one for each group.
//!
//! A filesystem is believed if it is at rest (unmounted or frozen: clean, no error, journal empty), has no feature that is not known here, its
//! checksums are right, all structures lie in it at places of their own that its bitmaps say are in use, and the free blocks of its bitmaps are as many as
//! the group descriptors and the superblock count. Bitmaps that were never written are made from the structures, as the kernel does. Where bitmaps have no
//! checksums, no block of a file is free by them.
//!
//! Descriptors are read block by block, bitmaps one by one. What is kept of a group takes 80 bytes.

mod groups;
mod inodes;
mod journal;
mod layout;
pub(crate) mod sums;
pub(crate) mod superblock;

use std::ops::Range;

use self::groups::{Group, Groups};
use self::superblock::Superblock;
use super::bits::clear_runs;
use super::checked::{self, is_partly_free, joined};
use super::journal::Journal;
use super::{Distrust, FreeRanges, Survey, Usage};
use crate::partition::bytes::{Fields, Window};

/// What the block of multiple-mount protection holds while nobody has it mounted.
const MMP_MAGIC: u32 = 0x004d_4d50;
const MMP_CLEAN: u32 = 0xff4d_4d50;

/// Surveys a volume that is said to hold such a filesystem.
pub(super) fn survey(volume: &Window<'_>) -> Survey {
    let superblock = superblock::read(volume)?;
    let groups = Groups::read(volume, &superblock)?;
    let mut fixed =
        vec![0..superblock.first_block + 1, 0..superblock::AT.div_ceil(superblock.block_size) + 1];
    fixed.extend((0..superblock.descriptor_blocks()).map(|index| one(superblock.descriptor_block(index))));
    if let Some(inode) = superblock.journal {
        fixed.push(one(journal::check(volume, &superblock, groups.first_inodes(), inode)?));
    }
    if let Some(block) = superblock.mmp {
        check_mmp(volume, &superblock, block)?;
        fixed.push(one(block));
    }
    fixed.extend(groups.groups.iter().filter_map(|group| group.bitmap).map(one));
    let free = free_ranges(volume, &superblock, &groups)?;
    if !superblock.sums.cover_bitmaps() {
        inodes::check(volume, &superblock, &groups, &free)?;
    }
    Ok(Usage {
        filesystem: superblock.kind,
        used: superblock.blocks.saturating_sub(superblock.free_blocks) * superblock.block_size,
        free,
        fixed: joined(fixed).iter().map(|blocks| superblock.bytes(blocks)).collect(),
        label: superblock.label,
    })
}

/// Whether its journal is empty, by the superblock alone.
pub(super) fn journal(volume: &Window<'_>) -> Journal {
    superblock::journal(volume).unwrap_or(Journal::Unknown)
}

/// Collects what is free in all groups, and compares it with what they and the superblock count.
fn free_ranges(
    volume: &Window<'_>,
    superblock: &Superblock,
    groups: &Groups,
) -> Result<FreeRanges, Distrust> {
    let mut free = FreeRanges::default();
    let mut total = 0;
    for (number, group) in (0..).zip(&groups.groups) {
        let blocks = superblock.group(number);
        let runs = match group.bitmap {
            Some(block) => written(volume, superblock, number, group, block)?,
            None => unwritten(superblock, &blocks, &groups.structures),
        };
        let clusters: u64 = runs.iter().map(|run| run.end - run.start).sum();
        if clusters != u64::from(group.free) {
            return Err(Distrust::because(format!(
                "the bitmap of block group {number} does not fit its count"
            )));
        }
        total += clusters * superblock.cluster;
        for run in runs {
            let start = blocks.start + run.start * superblock.cluster;
            // The last cluster may reach beyond the end.
            let end = (blocks.start + run.end * superblock.cluster).min(superblock.blocks);
            if !free.push(start * superblock.block_size..end * superblock.block_size) {
                return Err(Distrust::because("its block groups overlap"));
            }
        }
    }
    if total != superblock.free_blocks {
        return Err(Distrust::because("its bitmaps do not fit the count of free blocks"));
    }
    if groups.structures.iter().any(|range| is_partly_free(&free, &superblock.bytes(range))) {
        return Err(Distrust::because("its bitmaps call its own structures free"));
    }
    Ok(free)
}

/// The free clusters of a group, by the bitmap in `block`.
fn written(
    volume: &Window<'_>,
    superblock: &Superblock,
    number: u64,
    group: &Group,
    block: u64,
) -> Result<Vec<Range<u64>>, Distrust> {
    let bytes = read(volume, block * superblock.block_size, superblock.block_size)?;
    let all = superblock.group_len / superblock.cluster;
    let covered = bytes.get(..(all / 8) as usize).unwrap_or(&bytes);
    // Short descriptors keep half of the checksum.
    let stored = if superblock.descriptor_size > 32 { u32::MAX } else { 0xffff };
    if superblock.sums.of_bitmap(covered).is_some_and(|sum| sum & stored != group.sum & stored) {
        return Err(Distrust::because(format!(
            "the checksum of the bitmap of block group {number} is wrong"
        )));
    }
    let blocks = superblock.group(number);
    Ok(clear_runs(covered, (blocks.end - blocks.start).div_ceil(superblock.cluster)).collect())
}

/// The free clusters of a group of which only structures are in use.
fn unwritten(superblock: &Superblock, blocks: &Range<u64>, structures: &[Range<u64>]) -> Vec<Range<u64>> {
    let all = (blocks.end - blocks.start).div_ceil(superblock.cluster);
    let first = structures.partition_point(|range| range.end <= blocks.start);
    let mut runs = Vec::new();
    let mut at = 0;
    for range in structures[first..].iter().take_while(|range| range.start < blocks.end) {
        let start = range.start.saturating_sub(blocks.start) / superblock.cluster;
        let end = (range.end - blocks.start).div_ceil(superblock.cluster).min(all);
        if at < start {
            runs.push(at..start);
        }
        at = end.max(at);
    }
    if at < all {
        runs.push(at..all);
    }
    runs
}

/// Multiple-mount protection: no machine has it mounted or checks it.
fn check_mmp(volume: &Window<'_>, superblock: &Superblock, block: u64) -> Result<(), Distrust> {
    if !(superblock.first_block..superblock.blocks).contains(&block) {
        return Err(Distrust::because("its block of multiple-mount protection lies outside of it"));
    }
    let bytes = read(volume, block * superblock.block_size, superblock.block_size)?;
    let fields = Fields(&bytes);
    if fields.u32(0) != MMP_MAGIC || fields.u32(4) != MMP_CLEAN {
        return Err(Distrust::because("a machine may have it mounted, by its multiple-mount protection"));
    }
    Ok(())
}

/// All of the `len` bytes at `offset`.
fn read(volume: &Window<'_>, offset: u64, len: u64) -> Result<Vec<u8>, Distrust> {
    checked::read(volume, offset, usize::try_from(len).unwrap_or(usize::MAX))
}

fn one(block: u64) -> Range<u64> {
    block..block + 1
}
