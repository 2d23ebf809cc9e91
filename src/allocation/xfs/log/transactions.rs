//! What records would change if they were replayed: accepted is only what changes the superblock and nothing else.
//!
//! Stricter than a replay is: transactions follow each other, each is complete, and no part of one is cut in two. So are those that a
//! freeze leaves behind.

use super::record::{Operation, Record};
use crate::partition::bytes::Fields;

const START: u8 = 0x01;
const COMMIT: u8 = 0x02;
const UNMOUNT: u8 = 0x20;
/// The first part of a transaction.
const TRANSACTION: u32 = 0x5452_414e;
/// The first part of a change of a buffer.
const BUFFER: u16 = 0x123c;
/// What kind of buffer it is stands in the upper bits of its flags: this is a superblock. Lower bits would say that it is an inode's, or not to be replayed.
const SUPERBLOCK: u16 = 18 << 11;
/// Changes are in pieces of this many bytes, a bit for each.
const PIECE: usize = 128;
const MAP_AT: usize = 20;

/// The superblock as a replay of these records would leave it, its checksum aside; `None` if they do anything else, or it is not certain that they do not.
pub(super) fn superblock_after(records: &[Record], sector: &[u8]) -> Option<Vec<u8>> {
    let mut replay = Replay { sector: sector.to_vec(), open: None };
    for record in records {
        for operation in record.operations()? {
            replay.take(&operation)?;
        }
    }
    replay.open.is_none().then_some(replay.sector)
}

struct Replay {
    sector: Vec<u8>,
    open: Option<Transaction>,
}

/// A transaction that was not committed yet.
struct Transaction {
    id: u32,
    has_header: bool,
    /// Changes of the current buffer that are still to come.
    pending: Pending,
}

/// Bits of a map, and how many parts they come in.
#[derive(Default)]
struct Pending {
    pieces: Vec<usize>,
    parts: u16,
}

impl Replay {
    /// Takes the next operation; `None` if it is none that is accepted.
    fn take(&mut self, operation: &Operation<'_>) -> Option<()> {
        let Some(mut open) = self.open.take() else {
            return match operation.flags {
                START if operation.data.is_empty() => {
                    let id = operation.transaction;
                    self.open = Some(Transaction { id, has_header: false, pending: Pending::default() });
                    Some(())
                }
                // What a replay passes over.
                UNMOUNT => Some(()),
                _ => None,
            };
        };
        if open.id != operation.transaction {
            return None;
        }
        match operation.flags {
            COMMIT => return open.pending.is_complete().then_some(()),
            0 if !open.has_header => {
                open.has_header = true;
                (Fields(operation.data).u32(0) == TRANSACTION).then_some(())?;
            }
            0 if open.pending.is_complete() => {
                open.pending = Pending::parse(operation.data, self.sector.len())?;
            }
            0 => open.pending.apply(operation.data, &mut self.sector)?,
            _ => return None,
        }
        self.open = Some(open);
        Some(())
    }
}

impl Pending {
    fn is_complete(&self) -> bool {
        self.pieces.is_empty() && self.parts == 0
    }

    /// What is to come, if it is a change of the superblock of this many bytes.
    fn parse(data: &[u8], sector: usize) -> Option<Self> {
        let fields = Fields(data);
        let words = fields.u32(16) as usize;
        let right = fields.u16(0) == BUFFER
            && fields.u16(4) == SUPERBLOCK
            && usize::from(fields.u16(6)) * 512 == sector
            && fields.u64(8) == 0
            && words <= sector.div_ceil(PIECE * 32)
            && data.len() >= MAP_AT + 4 * words;
        // Before anything is counted by it.
        if !right {
            return None;
        }
        let parts = fields.u16(2).checked_sub(1).filter(|parts| *parts > 0)?;
        let is_set = |bit: &usize| fields.u32(MAP_AT + 4 * (bit / 32)) >> (bit % 32) & 1 == 1;
        let pieces: Vec<usize> = (0..32 * words).filter(is_set).collect();
        let within = pieces.last().is_some_and(|last| (last + 1) * PIECE <= sector);
        within.then_some(Self { pieces, parts })
    }

    /// Applies the next part: a run of pieces that follow each other.
    fn apply(&mut self, data: &[u8], sector: &mut [u8]) -> Option<()> {
        let first = *self.pieces.first()?;
        let run = self.pieces.iter().zip(first..).take_while(|(piece, next)| **piece == *next).count();
        let target = sector.get_mut(first * PIECE..(first + run) * PIECE)?;
        if target.len() != data.len() {
            return None;
        }
        target.copy_from_slice(data);
        self.pieces.drain(..run);
        self.parts = self.parts.checked_sub(1)?;
        (self.pieces.is_empty() == (self.parts == 0)).then_some(())
    }
}
