//! The superblock and its copies.

use std::ops::Range;

use super::super::journal::Journal;
use super::super::{Distrust, checked};
use super::checksum::Checksum;
use crate::partition::bytes::{Fields, Window};

/// Where the superblock and its copies stand, as far as the device reaches.
const PLACES: [u64; 3] = [64 << 10, 64 << 20, 256 << 30];
const LEN: usize = 4096;
/// What the kernel sets aside around a copy.
const SET_ASIDE: u64 = 64 << 10;
/// Nothing is ever allocated in front of this: boot loaders may use it.
const FRONT: u64 = 1 << 20;
const MAGIC: &[u8] = b"_BHRfS_M";
const NODE_LENGTHS: std::ops::RangeInclusive<u32> = 4096..=65536;
const MAX_SYSTEM_CHUNKS: usize = 2048;
const SYSTEM_CHUNKS_AT: usize = 811;
const LOG_ROOT_AT: usize = 96;

/// Flags: written, and relocated once. Others tell of errors, seeds, dumps, and changes that were not completed.
const KNOWN_FLAGS: u64 = 0x1 | 0x2;
const FREE_SPACE_TREE: u64 = 0x1;
const FREE_SPACE_TREE_VALID: u64 = 0x2;
const BLOCK_GROUP_TREE: u64 = 0x8;
/// Both of the free-space tree, verity, the tree of block groups.
const KNOWN_RO_COMPAT: u64 = FREE_SPACE_TREE | FREE_SPACE_TREE_VALID | 0x4 | BLOCK_GROUP_TREE;
const METADATA_UUID: u64 = 0x400;
const ZONED: u64 = 0x1000;
/// Back references, default subvolume, mixed groups, two compressions, large nodes, extended references, small metadata items, no holes, a second UUID,
/// simple quotas. Not: parity and more than two copies, extent trees of version 2, stripe trees.
const KNOWN_INCOMPAT: u64 = 0x3ff & !0x80 | METADATA_UUID | 0x1_0000;

/// What a superblock says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Superblock {
    pub(super) checksum: Checksum,
    pub(super) label: String,
    /// The id that stands in the header of each node.
    pub(super) id: [u8; 16],
    pub(super) generation: u64,
    /// Bytes of the device, all on the volume.
    pub(super) device_len: u64,
    pub(super) device: u64,
    pub(super) device_uuid: [u8; 16],
    /// Bytes in all extents.
    pub(super) used: u64,
    pub(super) block: u32,
    pub(super) node: u32,
    /// Address, generation and level of the roots of the tree of trees and of the tree of chunks.
    pub(super) root: (u64, u64, u8),
    pub(super) chunks: (u64, u64, u8),
    /// Where to find the tree of chunks.
    pub(super) system_chunks: Vec<u8>,
    pub(super) has_group_tree: bool,
}

impl Superblock {
    /// Reads the superblock, whose copies must agree with it.
    pub(super) fn read(volume: &Window<'_>) -> Result<Self, Distrust> {
        let superblock = Self::read_at(volume, PLACES[0])?;
        if superblock.device_len > volume.len() {
            return Err(Distrust::too_long());
        }
        for place in superblock.places().skip(1) {
            if Self::read_at(volume, place).ok().as_ref() != Some(&superblock) {
                return Err(Distrust::because("the copies of its superblock disagree"));
            }
        }
        Ok(superblock)
    }

    fn read_at(volume: &Window<'_>, place: u64) -> Result<Self, Distrust> {
        let bytes = checked::read(volume, place, LEN)?;
        let fields = Fields(&bytes);
        if !fields.has(64, MAGIC) {
            return Err(Distrust::because("it has no superblock"));
        }
        let checksum = Checksum::of_kind(fields.u16(196))?;
        if !checksum.holds(&bytes) || fields.u64(48) != place {
            return Err(Distrust::because("the checksum of its superblock is wrong"));
        }
        check_state(fields)?;
        Self::parse(fields, checksum)
    }

    fn parse(fields: Fields<'_>, checksum: Checksum) -> Result<Self, Distrust> {
        let [block, node] = [144, 148].map(|at| fields.u32(at));
        let system_len = fields.u32(160) as usize;
        let device_len = fields.u64(209);
        let second_id = fields.u64(188) & METADATA_UUID != 0;
        let id = fields.array(if second_id { 571 } else { 32 });
        let sane = NODE_LENGTHS.contains(&node)
            && node.is_power_of_two()
            && NODE_LENGTHS.contains(&block)
            && block.is_power_of_two()
            && block <= node
            && system_len <= MAX_SYSTEM_CHUNKS
            && device_len == fields.u64(112)
            && device_len > FRONT
            && fields.array(283) == id;
        if !sane {
            return Err(Distrust::because("its superblock is damaged"));
        }
        Ok(Self {
            checksum,
            label: fields.text(299, 256).unwrap_or_default(),
            id,
            generation: fields.u64(72),
            device_len,
            device: fields.u64(201),
            device_uuid: fields.array(267),
            used: fields.u64(120),
            block,
            node,
            root: (fields.u64(80), fields.u64(72), fields.u8(198)),
            chunks: (fields.u64(88), fields.u64(164), fields.u8(199)),
            system_chunks: fields.slice(SYSTEM_CHUNKS_AT, system_len).to_vec(),
            has_group_tree: fields.u64(180) & BLOCK_GROUP_TREE != 0,
        })
    }

    fn places(&self) -> impl Iterator<Item = u64> {
        let end = self.device_len;
        PLACES.into_iter().filter(move |place| place + LEN as u64 <= end)
    }

    /// The superblock and its copies.
    pub(super) fn copies(&self) -> impl Iterator<Item = Range<u64>> {
        self.places().map(|place| place..place + LEN as u64)
    }

    /// Bytes of the device that are never free, in order.
    pub(super) fn set_aside(&self) -> Vec<Range<u64>> {
        let copies = PLACES[1..].iter().map(|place| *place..place + SET_ASIDE);
        std::iter::once(0..FRONT).chain(copies).collect()
    }
}

/// What it says of its log tree; `None` if it is no superblock.
pub(super) fn journal(volume: &Window<'_>) -> Option<Journal> {
    let bytes = volume.read_up_to(PLACES[0], LEN).ok()?;
    let fields = Fields(&bytes);
    fields.has(64, MAGIC).then(|| Journal::of(fields.u64(LOG_ROOT_AT) == 0))
}

/// Refuses what is unfinished or not known.
fn check_state(fields: Fields<'_>) -> Result<(), Distrust> {
    let [ro_compat, incompat] = [180, 188].map(|at| fields.u64(at));
    let reason = if incompat & ZONED != 0 {
        "it is a zoned filesystem"
    } else if incompat & !KNOWN_INCOMPAT != 0 || ro_compat & !KNOWN_RO_COMPAT != 0 || fields.u64(172) != 0 {
        "it has features that are not known here"
    } else if fields.u64(56) & !KNOWN_FLAGS != 0 {
        "its superblock tells of errors or of an unfinished change"
    } else if fields.u64(136) != 1 {
        "it spans several devices"
    } else if fields.u64(LOG_ROOT_AT) != 0 {
        "its log was not replayed"
    } else if ro_compat & FREE_SPACE_TREE == 0 {
        "it has no free-space tree"
    } else if ro_compat & FREE_SPACE_TREE_VALID == 0 {
        "its free-space tree is marked as out of date"
    } else {
        return Ok(());
    };
    Err(Distrust::because(reason))
}
