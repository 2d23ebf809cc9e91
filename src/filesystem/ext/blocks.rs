//! Where the blocks of a file lie: by extents, or by lists of blocks.

use std::ops::Range;

use super::super::content::{Content, Gatherer, Run, Store};
use super::super::{Result, damaged};
use super::inode::Inode;
use super::{Ext, journal};
use crate::allocation::ext::sums::crc32c;
use crate::partition::bytes::Fields;

const MAGIC: u16 = 0xf30a;
/// The deepest tree that the kernel makes.
const MAX_DEPTH: u16 = 5;
/// Extents that are longer are allocated and not written yet: they read as zeros.
const WRITTEN: u64 = 0x8000;
const DIRECT: usize = 12;
/// Bytes of lists that are read for one file: 4 TiB in blocks of 4 KiB take half as many.
const MAX_LISTS: u64 = 8 << 30;

/// Runs of a file's blocks that are being collected.
struct Blocks<'e, 'a> {
    ext: &'e Ext<'a>,
    gatherer: Gatherer,
    /// Blocks of the file up to its end.
    end: u64,
    /// What checksums of extents begin with.
    seed: Option<u32>,
    /// Lists that may still be read.
    lists: u64,
}

impl Ext<'_> {
    /// Where the first `len` bytes of an inode's content lie.
    pub(super) fn runs(&self, inode: &Inode, len: u64) -> Result<Vec<Run>> {
        let blocks = self.superblock.blocks;
        let mut found = Blocks {
            ext: self,
            gatherer: Gatherer::new(blocks.saturating_mul(self.superblock.block_size)),
            end: len.div_ceil(self.superblock.block_size),
            seed: inode.seed,
            lists: blocks.min(MAX_LISTS / self.superblock.block_size),
        };
        if inode.has_extents() {
            found.extents(inode.list(), None, &(0..u64::MAX))?;
        } else {
            found.lists(inode.list())?;
        }
        Ok(found.gatherer.finish())
    }

    /// Puts back the beginnings of blocks that the journal holds changed, because they would have looked like its own.
    pub(super) fn put_back(&self, content: &Content, offset: u64, buf: &mut [u8]) -> Result<()> {
        let Store::Runs(runs) = &content.store else { return Ok(()) };
        if !self.overlay.has_escaped() {
            return Ok(());
        }
        let end = offset + buf.len() as u64;
        for run in runs.iter().filter(|run| run.start < end && run.end() > offset) {
            let size = self.superblock.block_size;
            for block in (0..run.len.div_ceil(size)).filter(|n| self.overlay.is_escaped(run.at / size + n)) {
                for (number, byte) in journal::MAGIC.to_be_bytes().into_iter().enumerate() {
                    let at = (run.start + block * size + number as u64).checked_sub(offset);
                    let place = at.and_then(|at| buf.get_mut(usize::try_from(at).ok()?));
                    place.into_iter().for_each(|place| *place = byte);
                }
            }
        }
        Ok(())
    }
}

impl Blocks<'_, '_> {
    /// Blocks of the file from `first` that lie from block `at` on, or in the journal.
    fn add(&mut self, first: u64, at: u64, len: u64) -> Result<()> {
        let len = len.min(self.end.saturating_sub(first));
        let size = self.ext.superblock.block_size;
        let behind = at.checked_add(len).ok_or_else(|| damaged("a block lies outside of it"))?;
        if len == 0 {
            return Ok(());
        }
        // Both ends are within the filesystem, so all between them are.
        self.ext.place(at)?;
        self.ext.place(behind - 1)?;
        let mut from = at;
        for (block, stand_in) in self.ext.overlay.within(at..behind) {
            self.run(first + (from - at), from * size, block - from)?;
            self.run(first + (block - at), stand_in * size, 1)?;
            from = block + 1;
        }
        self.run(first + (from - at), from * size, behind - from)
    }

    fn run(&mut self, first: u64, at: u64, blocks: u64) -> Result<()> {
        let size = self.ext.superblock.block_size;
        let far = || damaged("a file is longer than it can be");
        let start = first.checked_mul(size).ok_or_else(far)?;
        if blocks == 0 { Ok(()) } else { self.gatherer.add(Run { start, len: blocks * size, at }) }
    }

    /// A node of extents, or of what leads to them, which all begin within `range`, each behind the one before.
    fn extents(&mut self, node: &[u8], depth: Option<u16>, range: &Range<u64>) -> Result<()> {
        let wrong = || damaged("the extents of a file make no sense");
        let fields = Fields(node);
        let (entries, own) = (usize::from(fields.u16(2)), fields.u16(6));
        let right = fields.u16(0) == MAGIC && own <= MAX_DEPTH && depth.is_none_or(|depth| depth == own);
        if !right || entries * 12 + 12 > node.len() || (entries == 0 && depth.is_some()) {
            return Err(wrong());
        }
        let mut next = range.start;
        for number in 1..=entries {
            let at = number * 12;
            let first = u64::from(fields.u32(at));
            if first < next || first >= range.end {
                return Err(wrong());
            }
            let place = |low: usize, high: usize| {
                u64::from(fields.u32(at + low)) | u64::from(fields.u16(at + high)) << 32
            };
            if own == 0 {
                let len = u64::from(fields.u16(at + 4));
                next = first + if len > WRITTEN { len - WRITTEN } else { len };
                if len <= WRITTEN {
                    self.add(first, place(8, 6), len)?;
                }
            } else {
                let end = if number < entries { u64::from(fields.u32(at + 12)) } else { range.end };
                if first >= self.end {
                    return Ok(());
                }
                let below = self.list(place(4, 8))?;
                self.check_sum(&below)?;
                self.extents(&below, Some(own - 1), &(first..end))?;
                next = first + 1;
            }
        }
        Ok(())
    }

    fn check_sum(&self, node: &[u8]) -> Result<()> {
        let at = 12 + 12 * usize::from(Fields(node).u16(4));
        let Some((seed, covered)) = self.seed.zip(node.get(..at)) else { return Ok(()) };
        if at + 4 <= node.len() && crc32c(seed, covered) != Fields(node).u32(at) {
            return Err(damaged("the checksum of a file's extents is wrong"));
        }
        Ok(())
    }

    /// Twelve blocks, then lists of lists.
    fn lists(&mut self, list: &[u8]) -> Result<()> {
        let fields = Fields(list);
        let per_list = self.ext.superblock.block_size / 4;
        let mut first = 0;
        for number in 0..DIRECT {
            self.below(fields.u32(number * 4), first, 0)?;
            first += 1;
        }
        for depth in 1..=3 {
            self.below(fields.u32((DIRECT - 1 + depth as usize) * 4), first, depth)?;
            first += per_list.pow(depth);
        }
        Ok(())
    }

    /// A block of data, or of a list with so many lists between it and data.
    fn below(&mut self, block: u32, first: u64, depth: u32) -> Result<()> {
        if block == 0 || first >= self.end {
            return Ok(());
        }
        if depth == 0 {
            return self.add(first, block.into(), 1);
        }
        let list = self.list(block.into())?;
        let per_list = self.ext.superblock.block_size / 4;
        let step = per_list.pow(depth - 1);
        for number in 0..per_list {
            self.below(Fields(&list).u32(number as usize * 4), first + number * step, depth - 1)?;
        }
        Ok(())
    }

    fn list(&mut self, block: u64) -> Result<Vec<u8>> {
        let left = self.lists.checked_sub(1);
        self.lists = left.ok_or_else(|| damaged("a file has more lists of blocks than there are blocks"))?;
        self.ext.block(block)
    }
}
