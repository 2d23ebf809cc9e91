//! One allocation group: its headers, its two trees of free extents, and what must not be in them.

use std::ops::Range;

use super::super::{Distrust, FreeRanges, checked};
use super::big::Big;
use super::superblock::{Superblock, group_headers};
use super::tree::{Extent, Order, Place, walk};
use crate::partition::bytes::Window;

/// Checksums within the headers of space, inodes and spare blocks.
const SPACE_CHECKSUM: usize = 216;
const INODES_CHECKSUM: usize = 312;
const SPARE_CHECKSUM: usize = 32;
/// Where the numbers of spare blocks begin, with checksums and without.
const SPARE_V5: usize = 36;

/// What was learnt of a group.
pub(super) struct Group {
    /// Blocks in the trees of free space.
    pub(super) free: u64,
    /// Blocks that are kept for those trees, or part of them. The superblock counts them as free.
    pub(super) spare: u64,
    /// What was read: headers and trees.
    pub(super) read: Vec<Range<u64>>,
    /// What else is in use for certain.
    pub(super) used: Vec<Range<u64>>,
}

/// The four headers of a group, as sectors.
struct Headers<'a> {
    superblock: &'a [u8],
    space: Big<'a>,
    inodes: Big<'a>,
    spare: Big<'a>,
}

/// Surveys a group and adds what is free in it.
pub(super) fn survey(
    volume: &Window<'_>,
    superblock: &Superblock,
    number: u32,
    free: &mut FreeRanges,
) -> Result<Group, Distrust> {
    let geometry = &superblock.geometry;
    let start = u64::from(number) * geometry.group_blocks * geometry.block;
    let blocks = geometry.blocks_of(u64::from(number));
    let sectors = group_headers(volume, geometry, start)?;
    let headers = Headers::split(&sectors, geometry.sector as usize);
    headers.check(superblock, number, blocks)?;

    let place = |root: usize, levels: usize| Place {
        group: number,
        start,
        blocks,
        root: headers.space.u32(root),
        levels: headers.space.u32(levels),
    };
    let bytes = |first: u64, blocks: u64| {
        let first = start + first * geometry.block;
        first..first + blocks * geometry.block
    };
    let mut add = |extent: Extent| {
        let in_order = free.push(bytes(u64::from(extent.start), u64::from(extent.blocks)));
        if in_order { Ok(()) } else { Err(disagreement()) }
    };
    let (by_place, nodes) = walk(volume, geometry, place(16, 28), Order::Place, &mut add)?;
    let (by_size, more_nodes) = walk(volume, geometry, place(20, 32), Order::Size, &mut |_| Ok(()))?;
    let space = headers.space;
    if by_place != by_size || by_place.blocks != u64::from(space.u32(52)) || by_place.longest != space.u32(56)
    {
        return Err(disagreement());
    }
    let spare = headers.spare_blocks(geometry.checksums)?;
    let one = |number: u32| bytes(u64::from(number), 1);
    let mut read: Vec<_> = nodes.into_iter().chain(more_nodes).map(one).collect();
    read.push(start..start + sectors.len() as u64);
    Ok(Group {
        free: by_place.blocks,
        spare: spare.len() as u64 + u64::from(space.u32(60)),
        read: checked::joined(read),
        used: spare.into_iter().chain(headers.roots(superblock)).map(one).collect(),
    })
}

impl<'a> Headers<'a> {
    fn split(sectors: &'a [u8], len: usize) -> Self {
        let sector = |index: usize| sectors.get(index * len..(index + 1) * len).unwrap_or_default();
        Self { superblock: sector(0), space: Big(sector(1)), inodes: Big(sector(2)), spare: Big(sector(3)) }
    }

    fn check(&self, superblock: &Superblock, number: u32, blocks: u64) -> Result<(), Distrust> {
        let geometry = &superblock.geometry;
        let names_group = |header: Big<'_>, magic: &[u8; 4]| {
            header.0.starts_with(magic)
                && header.u32(4) == 1
                && header.u32(8) == number
                && u64::from(header.u32(12)) == blocks
        };
        if !names_group(self.space, b"XAGF") || !names_group(self.inodes, b"XAGI") {
            return Err(Distrust::because("the headers of an allocation group are damaged"));
        }
        let uuid = geometry.meta_uuid;
        let sealed = self.space.array(64) == uuid
            && self.space.has_checksum(SPACE_CHECKSUM)
            && self.inodes.array(296) == uuid
            && self.inodes.has_checksum(INODES_CHECKSUM)
            && self.spare.0.starts_with(b"XAFL")
            && self.spare.u32(4) == number
            && self.spare.array(8) == uuid
            && self.spare.has_checksum(SPARE_CHECKSUM);
        if geometry.checksums && !sealed {
            return Err(Distrust::because("the checksum of an allocation group's headers is wrong"));
        }
        if !superblock.agrees_with_copy(self.superblock) {
            return Err(Distrust::because("the copies of its superblock disagree"));
        }
        Ok(())
    }

    /// Blocks that are set aside for the trees: a ring of numbers.
    fn spare_blocks(&self, checksums: bool) -> Result<Vec<u32>, Distrust> {
        let first = if checksums { SPARE_V5 } else { 0 };
        let room = self.spare.0.len().saturating_sub(first) / 4;
        let [from, to, count] = [40, 44, 48].map(|at| self.space.u32(at) as usize);
        // An empty ring ends in front of where it begins.
        let agree = from < room && to < room && count <= room && (from + count) % room == (to + 1) % room;
        if !agree {
            return Err(Distrust::because("the list of an allocation group's spare blocks is damaged"));
        }
        Ok((0..count).map(|index| self.spare.u32(first + 4 * ((from + index) % room))).collect())
    }

    /// Roots of the other trees of the group, by what the superblock says there are.
    fn roots(&self, superblock: &Superblock) -> Vec<u32> {
        let geometry = &superblock.geometry;
        let trees = [
            (true, self.inodes.u32(20)),
            (geometry.has_free_inodes_tree(), self.inodes.u32(328)),
            (geometry.has_reverse_map(), self.space.u32(24)),
            (geometry.has_shared_extents(), self.space.u32(88)),
        ];
        trees.into_iter().filter(|(exists, _)| *exists).map(|(_, root)| root).collect()
    }
}

fn disagreement() -> Distrust {
    Distrust::because("its free space is described in two ways that disagree")
}
