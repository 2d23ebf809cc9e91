//! The free-space tree: for each block group how many free extents it has, then these, one by one or as bitmaps.
//!
//! Some versions of `mkfs.btrfs` leave groups in it that were only there while the filesystem was made. No chunk has their addresses, so they are passed over.

use super::super::{Distrust, FreeRanges};
use super::chunks::Chunks;
use super::tree::{Key, Kind};
use crate::partition::bytes::Fields;

/// A bitmap has this many bits at most.
const MAX_BITS: u64 = 256 * 8;
/// Flag of a group: it has bitmaps.
const BITMAPS: u32 = 1;

/// The free space of a group, in addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct GroupFree {
    /// The group's first address, and its length.
    pub(super) start: u64,
    pub(super) len: u64,
    pub(super) free: u64,
}

/// Takes the items of the tree, in order.
pub(super) struct Collector<'a> {
    chunks: &'a Chunks,
    block: u64,
    free: FreeRanges,
    groups: Vec<GroupFree>,
    open: Option<Open>,
}

/// A group whose items are being taken.
struct Open {
    start: u64,
    end: u64,
    /// There is a chunk for it.
    exists: bool,
    bitmaps: bool,
    /// Extents that there should be, and that there are.
    expected: u32,
    extents: u32,
    free: u64,
    /// The address up to which it was described.
    at: u64,
    /// The end of the extent that was found last.
    last_end: u64,
}

impl<'a> Collector<'a> {
    pub(super) fn new(chunks: &'a Chunks, block: u32) -> Self {
        Self { chunks, block: u64::from(block), free: FreeRanges::default(), groups: Vec::new(), open: None }
    }

    /// Takes the next item.
    pub(super) fn take(&mut self, key: Key, data: &[u8]) -> Result<(), Distrust> {
        match (key.kind, &mut self.open) {
            (Kind::FREE_INFO, _) => self.begin(key, data),
            (Kind::FREE_EXTENT, Some(open)) if !open.bitmaps && data.is_empty() => {
                open.enter(key, self.block)?;
                open.add(key.object, key.offset, &mut self.free)
            }
            (Kind::FREE_BITMAP, Some(open)) if open.bitmaps => {
                open.enter(key, self.block)?;
                open.add_bitmap(key, data, self.block, &mut self.free)
            }
            _ => Err(damaged()),
        }
    }

    /// What is free, by addresses, and the sum of each group.
    pub(super) fn finish(mut self) -> Result<(FreeRanges, Vec<GroupFree>), Distrust> {
        self.close()?;
        Ok((self.free, self.groups))
    }

    fn begin(&mut self, key: Key, data: &[u8]) -> Result<(), Distrust> {
        self.close()?;
        let end = key.object.checked_add(key.offset).ok_or_else(damaged)?;
        let chunk = self.chunks.holding(key.object);
        let exists = chunk.is_some_and(|chunk| (chunk.start, chunk.end()) == (key.object, end));
        let (expected, flags) = (Fields(data).u32(0), Fields(data).u32(4));
        let unclear = !exists && self.chunks.touch(&(key.object..end));
        if unclear || data.len() != 8 || flags & !BITMAPS != 0 {
            return Err(damaged());
        }
        self.open = Some(Open {
            start: key.object,
            end,
            exists,
            bitmaps: flags & BITMAPS != 0,
            expected,
            extents: 0,
            free: 0,
            at: key.object,
            last_end: key.object,
        });
        Ok(())
    }

    fn close(&mut self) -> Result<(), Distrust> {
        let Some(open) = self.open.take() else { return Ok(()) };
        let complete = !open.bitmaps || open.at == open.end;
        if open.extents != open.expected || !complete {
            return Err(damaged());
        }
        if open.exists {
            self.groups.push(GroupFree { start: open.start, len: open.end - open.start, free: open.free });
        }
        Ok(())
    }
}

impl Open {
    /// Goes on to the next item of the group, an extent or a bitmap; bitmaps leave nothing out.
    fn enter(&mut self, key: Key, block: u64) -> Result<(), Distrust> {
        let end = key.object.checked_add(key.offset).filter(|end| *end <= self.end);
        let follows = if self.bitmaps { key.object == self.at } else { key.object >= self.at };
        let aligned = key.object.is_multiple_of(block) && key.offset.is_multiple_of(block) && key.offset > 0;
        if !follows || !aligned {
            return Err(damaged());
        }
        self.at = end.ok_or_else(damaged)?;
        Ok(())
    }

    fn add(&mut self, start: u64, len: u64, free: &mut FreeRanges) -> Result<(), Distrust> {
        if self.exists && !free.push(start..start + len) {
            return Err(damaged());
        }
        // Bits that follow each other are one extent, also from one bitmap to the next.
        if !self.bitmaps || self.last_end != start || self.extents == 0 {
            self.extents = self.extents.checked_add(1).ok_or_else(damaged)?;
        }
        self.free += len;
        self.last_end = start + len;
        Ok(())
    }

    fn add_bitmap(
        &mut self,
        key: Key,
        data: &[u8],
        block: u64,
        free: &mut FreeRanges,
    ) -> Result<(), Distrust> {
        let bits = key.offset / block;
        if bits > MAX_BITS || data.len() as u64 != bits.div_ceil(8) {
            return Err(damaged());
        }
        let is_set = |bit: u64| data.get((bit / 8) as usize).is_some_and(|byte| byte >> (bit % 8) & 1 == 1);
        let mut bit = 0;
        while bit < bits {
            let run = (bit..bits).take_while(|bit| is_set(*bit)).count() as u64;
            if run > 0 {
                self.add(key.object + bit * block, run * block, free)?;
            }
            bit += run + 1;
        }
        Ok(())
    }
}

fn damaged() -> Distrust {
    Distrust::because("its free-space tree is damaged")
}
