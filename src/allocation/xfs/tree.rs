//! The two trees of free extents that each group keeps, by place and by size.
//!
//! Both are walked in order, every block once. A tree is believed if each block names its own place, level and neighbours and has the right
//! checksum, and if its records ascend; so a block that is reached twice ends the walk, and the number of reads is bounded by that of records.

use super::super::{Distrust, checked};
use super::big::Big;
use super::superblock::Geometry;
use crate::partition::bytes::Window;

/// More levels than any kernel makes.
pub(super) const MAX_LEVELS: u32 = 9;
/// In place of a neighbour.
const NONE: u32 = u32::MAX;
const HEADER_V4: usize = 16;
const HEADER_V5: usize = 56;
const CHECKSUM_AT: usize = 52;

/// How a tree is ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Place,
    Size,
}

impl Order {
    fn magic(self, checksums: bool) -> &'static [u8; 4] {
        match (self, checksums) {
            (Self::Place, false) => b"ABTB",
            (Self::Place, true) => b"AB3B",
            (Self::Size, false) => b"ABTC",
            (Self::Size, true) => b"AB3C",
        }
    }

    /// Whether `next` may follow `last`. Extents neither overlap nor are empty.
    fn allows(self, last: Option<Extent>, next: Extent) -> bool {
        let Some(last) = last else { return true };
        match self {
            Self::Place => last.end() <= u64::from(next.start),
            Self::Size => (last.blocks, last.start) < (next.blocks, next.start),
        }
    }

    /// Whether a parent's key is right for a child that begins with `first`.
    fn is_key(self, key: Extent, first: Extent) -> bool {
        match self {
            Self::Place => key.start == first.start,
            Self::Size => key == first,
        }
    }
}

/// A free extent, in blocks of its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) start: u32,
    pub(super) blocks: u32,
}

impl Extent {
    pub(super) fn end(self) -> u64 {
        u64::from(self.start) + u64::from(self.blocks)
    }
}

/// What a whole tree amounts to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Sum {
    pub(super) blocks: u64,
    pub(super) longest: u32,
    extents: u64,
    /// A sum over all extents, in any order: two trees with the same one hold the same extents, but for malice.
    fingerprint: u64,
}

impl Sum {
    fn add(&mut self, extent: Extent) {
        self.blocks += u64::from(extent.blocks);
        self.longest = self.longest.max(extent.blocks);
        self.extents += 1;
        let both = (u64::from(extent.start) << 32) | u64::from(extent.blocks);
        // The multipliers and shifts of splitmix64: sums of numbers as they are would be equal too easily.
        let mixed = (both ^ (both >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        self.fingerprint = self.fingerprint.wrapping_add(mixed ^ (mixed >> 31));
    }
}

/// Where a tree lies.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) group: u32,
    /// The group's first byte and its blocks.
    pub(super) start: u64,
    pub(super) blocks: u64,
    pub(super) root: u32,
    pub(super) levels: u32,
}

/// Walks a tree; `found` sees every extent in the tree's order. Returns what they amount to, and the tree's own blocks.
pub(super) fn walk(
    volume: &Window<'_>,
    geometry: &Geometry,
    place: Place,
    order: Order,
    found: &mut dyn FnMut(Extent) -> Result<(), Distrust>,
) -> Result<(Sum, Vec<u32>), Distrust> {
    if !(1..=MAX_LEVELS).contains(&place.levels) {
        return Err(damaged());
    }
    let mut walk = Walk {
        volume,
        geometry,
        place,
        order,
        found,
        left: [(NONE, None); MAX_LEVELS as usize],
        last: None,
        sum: Sum::default(),
        visited: Vec::new(),
    };
    walk.visit(place.root, place.levels - 1, None)?;
    // Nothing lies to the right of the last block of each level.
    let ended = |(_, right): &(u32, Option<u32>)| right.is_none_or(|right| right == NONE);
    if walk.left.iter().all(ended) { Ok((walk.sum, walk.visited)) } else { Err(damaged()) }
}

struct Walk<'a> {
    volume: &'a Window<'a>,
    geometry: &'a Geometry,
    place: Place,
    order: Order,
    found: &'a mut dyn FnMut(Extent) -> Result<(), Distrust>,
    /// Of each level, from the leaves: the block that was visited last, and its neighbour to the right.
    left: [(u32, Option<u32>); MAX_LEVELS as usize],
    last: Option<Extent>,
    sum: Sum,
    visited: Vec<u32>,
}

impl Walk<'_> {
    fn header(&self) -> usize {
        if self.geometry.checksums { HEADER_V5 } else { HEADER_V4 }
    }

    /// Visits a block and all below it; `key` is what its parent has for it.
    fn visit(&mut self, number: u32, level: u32, key: Option<Extent>) -> Result<(), Distrust> {
        let bytes = self.read(number, level)?;
        let fields = Big(&bytes);
        let records = usize::from(fields.u16(6));
        let is_root = key.is_none();
        let room = bytes.len() - self.header();
        let most = if level == 0 { room / 8 } else { room / 12 };
        // Only the root of a full group is empty.
        if records > most || records == 0 && !(is_root && level == 0) {
            return Err(damaged());
        }
        let extent = |index: usize| {
            let at = self.header() + 8 * index;
            let [first, second] = [fields.u32(at), fields.u32(at + 4)];
            Extent { start: first, blocks: second }
        };
        if key.is_some_and(|key| !self.order.is_key(key, extent(0))) {
            return Err(damaged());
        }
        let extents: Vec<Extent> = (0..records).map(extent).collect();
        if level == 0 {
            return extents.into_iter().try_for_each(|extent| self.take(extent));
        }
        let pointers = self.header() + 8 * most;
        for (index, key) in extents.into_iter().enumerate() {
            self.visit(fields.u32(pointers + 4 * index), level - 1, Some(key))?;
        }
        Ok(())
    }

    fn take(&mut self, extent: Extent) -> Result<(), Distrust> {
        let right =
            extent.blocks > 0 && extent.end() <= self.place.blocks && self.order.allows(self.last, extent);
        if !right {
            return Err(damaged());
        }
        self.last = Some(extent);
        self.sum.add(extent);
        (self.found)(extent)
    }

    /// A block that is what it should be.
    fn read(&mut self, number: u32, level: u32) -> Result<Vec<u8>, Distrust> {
        if u64::from(number) >= self.place.blocks {
            return Err(damaged());
        }
        let offset = self.place.start + u64::from(number) * self.geometry.block;
        let bytes = checked::read(self.volume, offset, self.geometry.block as usize)?;
        let fields = Big(&bytes);
        let (last, right_of_last) = self.left[level as usize];
        let right = bytes.starts_with(self.order.magic(self.geometry.checksums))
            && u32::from(fields.u16(4)) == level
            && fields.u32(8) == last
            && right_of_last.is_none_or(|right| right == number)
            && (!self.geometry.checksums || self.is_sealed(fields, offset));
        if !right {
            return Err(damaged());
        }
        self.left[level as usize] = (number, Some(fields.u32(12)));
        self.visited.push(number);
        Ok(bytes)
    }

    /// Whether a block of version 5 knows where it is, whose it is, and has the right checksum.
    fn is_sealed(&self, fields: Big<'_>, offset: u64) -> bool {
        fields.u64(16) == offset / 512
            && fields.array(32) == self.geometry.meta_uuid
            && fields.u32(48) == self.place.group
            && fields.has_checksum(CHECKSUM_AT)
    }
}

fn damaged() -> Distrust {
    Distrust::because("a tree of its free space is damaged")
}
