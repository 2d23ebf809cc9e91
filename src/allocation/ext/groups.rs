//! Group descriptors: where bitmaps and inode tables lie, and how much is free.

use std::ops::Range;

use super::super::Distrust;
use super::super::checked::joined;
use super::read;
use super::sums::Sums;
use super::superblock::Superblock;
use crate::partition::bytes::{Fields, Window};

/// Flag: the bitmap was never written; only structures are in use.
const UNWRITTEN: u16 = 2;
/// Flag: no inode is in use, and their table was never written.
const NO_INODES: u16 = 1;

/// What a descriptor says of its group.
#[derive(Debug, Clone, Copy)]
pub(super) struct Group {
    /// The block of its bitmap; `None` if that was never written.
    pub(super) bitmap: Option<u64>,
    /// The bitmap's checksum, with as many bits as are stored.
    pub(super) sum: u32,
    /// Free clusters.
    pub(super) free: u32,
    /// The first block of its inodes, and how many of these were ever written.
    pub(super) inode_table: u64,
    pub(super) inodes: u32,
}

/// All groups, and what lies at fixed places.
#[derive(Debug)]
pub(super) struct Groups {
    pub(super) groups: Vec<Group>,
    /// Blocks of superblocks, descriptors, bitmaps and inode tables: sorted and disjoint.
    pub(super) structures: Vec<Range<u64>>,
}

impl Groups {
    /// Reads all descriptors and checks that what they name lies in the filesystem, at a place of its own.
    pub(super) fn read(volume: &Window<'_>, superblock: &Superblock) -> Result<Self, Distrust> {
        let mut all = Self { groups: Vec::new(), structures: Vec::new() };
        for index in 0..superblock.descriptor_blocks() {
            let at = superblock.descriptor_block(index) * superblock.block_size;
            let bytes = read(volume, at, superblock.block_size)?;
            for descriptor in bytes.chunks_exact(superblock.descriptor_size) {
                if all.groups.len() as u64 == superblock.groups {
                    break;
                }
                all.add(superblock, descriptor)?;
            }
        }
        all.structures.sort_unstable_by_key(|range| range.start);
        if all.structures.windows(2).any(|pair| pair[0].end > pair[1].start) {
            return Err(Distrust::because("its structures overlap"));
        }
        all.structures = joined(all.structures);
        Ok(all)
    }

    /// The first block of the first inode table.
    pub(super) fn first_inodes(&self) -> u64 {
        self.groups.first().map_or(0, |group| group.inode_table)
    }

    fn add(&mut self, superblock: &Superblock, bytes: &[u8]) -> Result<(), Distrust> {
        let number = self.groups.len() as u64;
        let descriptor = Descriptor::parse(bytes);
        let expected = superblock.sums.of_descriptor(u32::try_from(number).unwrap_or(u32::MAX), bytes);
        if expected.is_some_and(|sum| sum != Fields(bytes).u16(0x1e)) {
            return Err(Distrust::because(format!("the checksum of block group {number} is wrong")));
        }
        if descriptor.unwritten && superblock.sums == Sums::None {
            return Err(Distrust::because(format!("the flags of block group {number} make no sense")));
        }
        let table_len = (superblock.group_inodes * superblock.inode_size).div_ceil(superblock.block_size);
        let places = [
            superblock.head_of(number),
            descriptor.block_bitmap..descriptor.block_bitmap.saturating_add(1),
            descriptor.inode_bitmap..descriptor.inode_bitmap.saturating_add(1),
            descriptor.inode_table..descriptor.inode_table.saturating_add(table_len),
        ];
        let [head, named @ ..] = &places;
        let within =
            |range: &Range<u64>| range.start >= superblock.first_block && range.end <= superblock.blocks;
        if head.end > superblock.blocks || !named.iter().all(within) {
            return Err(Distrust::because(format!("block group {number} has structures outside of it")));
        }
        self.structures.extend(places.into_iter().filter(|range| !range.is_empty()));
        let bitmap = (!descriptor.unwritten).then_some(descriptor.block_bitmap);
        // Without checksums of descriptors all tables were written when the filesystem was made.
        let all = u32::try_from(superblock.group_inodes).unwrap_or(u32::MAX);
        let inodes = match superblock.sums {
            Sums::None => all,
            _ if descriptor.no_inodes => 0,
            _ => all.saturating_sub(descriptor.unused_inodes),
        };
        let (sum, free, inode_table) = (descriptor.sum, descriptor.free, descriptor.inode_table);
        self.groups.push(Group { bitmap, sum, free, inode_table, inodes });
        Ok(())
    }
}

/// A descriptor, of 32 bytes or with the upper halves of its numbers behind these.
struct Descriptor {
    block_bitmap: u64,
    inode_bitmap: u64,
    inode_table: u64,
    free: u32,
    unwritten: bool,
    no_inodes: bool,
    unused_inodes: u32,
    sum: u32,
}

impl Descriptor {
    /// What lies beyond a short descriptor reads as zero, which is what the upper halves are then.
    fn parse(bytes: &[u8]) -> Self {
        let fields = Fields(bytes);
        let place = |low: usize, high: usize| u64::from(fields.u32(low)) | u64::from(fields.u32(high)) << 32;
        let count = |low: usize, high: usize| u32::from(fields.u16(low)) | u32::from(fields.u16(high)) << 16;
        Self {
            block_bitmap: place(0, 0x20),
            inode_bitmap: place(4, 0x24),
            inode_table: place(8, 0x28),
            free: count(0xc, 0x2c),
            unwritten: fields.u16(0x12) & UNWRITTEN != 0,
            no_inodes: fields.u16(0x12) & NO_INODES != 0,
            unused_inodes: count(0x1c, 0x32),
            sum: count(0x18, 0x38),
        }
    }
}
