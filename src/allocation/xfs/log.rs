//! The log: whether anything in it still has to be written to its place.
//!
//! The log is a ring of blocks of 512 bytes, each of which begins with the number of the round in which it was written (the word that stood there
//! is kept in its record's header). Where the number falls by one is the head; the record that ends there is the last. Two states are
//! accepted: the last record says that the filesystem was unmounted; or all records from the tail that the last one names hold changes of the
//! superblock alone, which is how a frozen filesystem looks: everything else was written to its place, and a change of the
//! superblock was logged to cover it. What a mount does beyond a replay, such as to drop files that were deleted while open, reads blocks in use only.
//!
//! All of the ring is looked at rather than searched by halves as a mount does: the pattern then holds for certain, and a log is at most
//! 2 GiB long.

mod record;
mod transactions;

use std::ops::Range;

use self::record::Record;
use super::super::{Distrust, checked};
use super::superblock::{Geometry, Superblock};
use crate::partition::bytes::Window;

/// A block of the log.
const BLOCK: u64 = 512;
/// What is read of it at once.
const PIECE: u64 = 1 << 20;
/// The longest record: 256 KiB and its headers, in blocks.
const MAX_RECORD: u64 = 512 + 8;
/// What may lie between tail and head, in blocks: two changes of a superblock take four, or as many units of a striped log.
const MAX_LEFT: u64 = (4 << 20) / BLOCK;

/// A log that leaves nothing to do but perhaps to the superblock.
pub(super) struct AtRest {
    /// The filesystem was unmounted, and its counters are right.
    pub(super) unmounted: bool,
    /// The last record, and what the next one will overwrite: bytes of the volume.
    pub(super) head: Vec<Range<u64>>,
}

/// Looks whether the log is at rest. `sector` is the superblock's.
pub(super) fn survey(
    volume: &Window<'_>,
    superblock: &Superblock,
    sector: &[u8],
) -> Result<AtRest, Distrust> {
    let ring = Ring::new(volume, &superblock.geometry);
    let head = ring.find_head()?;
    let last = ring.last_record(head)?;
    // Whatever is written next begins at the head.
    let fixed = ring.bytes(last.block, ring.distance(last.block, head.block) + 1);
    if last.is_unmount() {
        return Ok(AtRest { unmounted: true, head: fixed });
    }
    let left = ring.records(last.tail, head)?;
    match transactions::superblock_after(&left, sector) {
        Some(after) if describes_the_same(superblock, &after) => Ok(AtRest { unmounted: false, head: fixed }),
        _ => Err(not_replayed()),
    }
}

fn describes_the_same(superblock: &Superblock, sector: &[u8]) -> bool {
    Superblock::parse_unsealed(sector).is_ok_and(|after| after.geometry == superblock.geometry)
}

/// A block of the ring and the round in which it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Position {
    round: u32,
    block: u64,
}

struct Ring<'a> {
    volume: &'a Window<'a>,
    geometry: &'a Geometry,
    start: u64,
    blocks: u64,
}

impl<'a> Ring<'a> {
    fn new(volume: &'a Window<'a>, geometry: &'a Geometry) -> Self {
        let (start, len) = geometry.log;
        Self { volume, geometry, start, blocks: len / BLOCK }
    }

    /// Where the next record goes: the first block of the round before, all of which follow.
    fn find_head(&self) -> Result<Position, Distrust> {
        let mut rounds = None;
        let mut head = None;
        let mut at = 0;
        while at < self.blocks {
            let count = (PIECE / BLOCK).min(self.blocks - at);
            let piece = self.read(at, count)?;
            for (block, bytes) in (at..).zip(piece.chunks_exact(BLOCK as usize)) {
                let round = record::round_of(bytes);
                let first = *rounds.get_or_insert(round);
                match head {
                    None if round == first => {}
                    None if round == first.wrapping_sub(1) => head = Some(block),
                    Some(_) if round == first.wrapping_sub(1) => {}
                    _ => return Err(not_replayed()),
                }
            }
            at += count;
        }
        match rounds {
            None | Some(0) => Err(Distrust::because("its log is empty")),
            // The round is complete.
            Some(round) => match head {
                None => Ok(Position { round: round.checked_add(1).ok_or_else(damaged)?, block: 0 }),
                Some(block) => Ok(Position { round, block }),
            },
        }
    }

    /// The record that ends at the head.
    fn last_record(&self, head: Position) -> Result<Record, Distrust> {
        let back = MAX_RECORD.min(self.blocks - 1);
        let from = (head.block + self.blocks - back) % self.blocks;
        let bytes = self.read(from, back)?;
        let mut blocks = bytes.chunks_exact(BLOCK as usize);
        let found = blocks.rposition(record::is_header).ok_or_else(damaged)?;
        let block = (from + found as u64) % self.blocks;
        let record = self.record(self.before(head, block))?;
        if (block + record.blocks) % self.blocks == head.block { Ok(record) } else { Err(not_replayed()) }
    }

    /// The position of a block that was written before the head.
    fn before(&self, head: Position, block: u64) -> Position {
        Position { round: if block < head.block { head.round } else { head.round.wrapping_sub(1) }, block }
    }

    /// All records from the tail to the head, in order.
    fn records(&self, tail: Position, head: Position) -> Result<Vec<Record>, Distrust> {
        if tail.block >= self.blocks || self.before(head, tail.block) != tail {
            return Err(damaged());
        }
        let mut left = self.distance(tail.block, head.block);
        if left > MAX_LEFT {
            return Err(not_replayed());
        }
        let mut records = Vec::new();
        let mut at = tail.block;
        while left > 0 {
            let record = self.record(self.before(head, at))?;
            left = left.checked_sub(record.blocks).ok_or_else(damaged)?;
            at = (at + record.blocks) % self.blocks;
            records.push(record);
        }
        Ok(records)
    }

    /// The record whose header is at a position.
    fn record(&self, at: Position) -> Result<Record, Distrust> {
        let header = self.read(at.block, 1)?;
        let blocks = record::blocks_of(&header).filter(|blocks| *blocks <= MAX_RECORD.min(self.blocks));
        let bytes = self.read(at.block, blocks.ok_or_else(damaged)?)?;
        Record::parse(&bytes, at, self.geometry).ok_or_else(damaged)
    }

    /// Blocks from one to another, forwards; a whole round if they are the same.
    fn distance(&self, from: u64, to: u64) -> u64 {
        if to > from { to - from } else { self.blocks - from + to }
    }

    /// Where blocks of the ring lie on the volume. `from` is one of them, and there are not more of them than the ring has.
    fn bytes(&self, from: u64, count: u64) -> Vec<Range<u64>> {
        let at = |block: u64| self.start + block * BLOCK;
        let end = from + count.min(self.blocks);
        let beyond = end.saturating_sub(self.blocks);
        let parts = [at(from)..at(end - beyond), at(0)..at(beyond)];
        parts.into_iter().filter(|part| !part.is_empty()).collect()
    }

    fn read(&self, from: u64, count: u64) -> Result<Vec<u8>, Distrust> {
        let mut bytes = Vec::new();
        for part in self.bytes(from, count) {
            bytes.extend(checked::read(self.volume, part.start, (part.end - part.start) as usize)?);
        }
        Ok(bytes)
    }
}

fn not_replayed() -> Distrust {
    Distrust::because("its log was not replayed")
}

fn damaged() -> Distrust {
    Distrust::because("its log is damaged or was not replayed")
}
