//! The journal (Linux, *Documentation/filesystems/ext4/journal.rst*): which blocks a replay would write, and where their content stands.
//!
//! Blocks of all transactions that were committed count, the last one of each block, unless a later transaction revokes it. Nothing is copied: a map leads
//! from blocks to blocks of the journal. It holds an entry for each block of the journal at most.
//!
//! A log ends where the next transaction was not committed. One that was, but whose checksums are wrong, is damage, as the kernel has it: what stands before
//! it is replayed, for that is a state that the filesystem had, and the damage is told.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;

use super::super::{Content, Filesystem, Node, Result, damaged, unsupported};
use super::Ext;
use crate::allocation::ext::sums::crc32c;
use crate::partition::bytes::Fields;

/// What the journal's own blocks begin with.
pub(super) const MAGIC: u32 = 0xc03b_3998;
const DESCRIPTOR: u32 = 1;
const COMMIT: u32 = 2;
const REVOKE: u32 = 5;
/// In front of what a block of the journal holds: magic number, kind, transaction.
const HEAD: usize = 12;

/// Features: blocks that are not to be replayed; 64 bits; checksums of two versions; commits of another kind behind the log.
const WIDE: u32 = 0x2;
const SUMS_2: u32 = 0x8;
const SUMS_3: u32 = 0x10;
const FAST_COMMITS: u32 = 0x20;
const KNOWN: u32 = 0x1 | WIDE | 0x4 | SUMS_2 | SUMS_3 | FAST_COMMITS;
const DEFAULT_FAST: u64 = 256;

/// Flags of a block: it began with the magic number, is of the same filesystem as the one before, is the last.
const ESCAPED: u32 = 1;
const SAME: u32 = 2;
const LAST: u32 = 8;

/// The most blocks of a journal, bytes of it, and blocks that it revokes.
const MAX_BLOCKS: u64 = 1 << 22;
const MAX_LEN: u64 = 16 << 30;
const MAX_REVOKED: usize = 1 << 22;

/// What stands in for blocks of the filesystem.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    blocks: BTreeMap<u64, (u64, bool)>,
    escaped: HashSet<u64>,
    is_cut: bool,
}

impl Overlay {
    /// Whether the log goes on behind what was replayed, but is damaged there.
    pub(super) fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// How many blocks it has.
    pub(super) fn len(&self) -> usize {
        self.blocks.len()
    }

    /// The block that stands in for this one, and whether its beginning is to be put back.
    pub(super) fn find(&self, block: u64) -> Option<(u64, bool)> {
        self.blocks.get(&block).copied()
    }

    /// Those of some blocks that others stand in for.
    pub(super) fn within(&self, blocks: Range<u64>) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.blocks.range(blocks).map(|(block, (stand_in, _))| (*block, *stand_in))
    }

    pub(super) fn has_escaped(&self) -> bool {
        !self.escaped.is_empty()
    }

    /// Whether the beginning of this block of the journal is to be put back.
    pub(super) fn is_escaped(&self, stand_in: u64) -> bool {
        self.escaped.contains(&stand_in)
    }
}

/// A journal that is being read.
struct Log<'e, 'a> {
    ext: &'e Ext<'a>,
    content: Content,
    features: u32,
    seed: u32,
    /// Blocks that are written in a circle.
    circle: Range<u64>,
    found: HashMap<u64, (u32, u64, bool)>,
    revoked: HashMap<u64, u32>,
    is_cut: bool,
}

/// A block that a transaction writes.
struct Tag {
    block: u64,
    /// The block of the journal that holds it.
    place: u64,
    /// Whether its beginning was changed.
    escaped: bool,
    /// Of what stands in the journal, after the transaction's number; as many bits as the mask has.
    sum: u32,
    mask: u32,
}

/// What one transaction says.
#[derive(Default)]
struct Transaction {
    blocks: Vec<Tag>,
    revoked: HashSet<u64>,
    /// A block of its own has a wrong checksum: left over from another time, unless a commit follows.
    is_doubtful: bool,
}

/// Reads the journal of a filesystem, which has one.
pub(super) fn read(ext: &Ext<'_>) -> Result<Overlay> {
    let inode = ext.superblock.journal.filter(|inode| *inode != 0);
    let inode = inode.ok_or_else(|| unsupported("the journal is on another device"))?;
    let content = ext.open(Node(inode))?;
    let mut head = vec![0; ext.block_size()];
    ext.read(&content, 0, &mut head)?;
    let number = |at: usize| u32::from_be_bytes(Fields(&head).array(at));
    let version = number(4);
    if number(0) != MAGIC || !matches!(version, 3 | 4) || number(12) as usize != ext.block_size() {
        return Err(damaged("the journal begins with nonsense"));
    }
    let features = if version == 4 { number(0x28) } else { 0 };
    if features & !KNOWN != 0 {
        return Err(unsupported(format!("the journal has features that are not known here ({features:#x})")));
    }
    let fast = match (features & FAST_COMMITS != 0, u64::from(number(0x54))) {
        (false, _) => 0,
        (true, 0) => DEFAULT_FAST,
        (true, blocks) => blocks,
    };
    let end = u64::from(number(0x10)).checked_sub(fast);
    let circle = u64::from(number(0x14))..end.unwrap_or(0);
    let most = MAX_BLOCKS.min(MAX_LEN / ext.superblock.block_size);
    let fits = content.len() / ext.superblock.block_size >= circle.end && circle.end <= most;
    if circle.start == 0 || circle.is_empty() || !fits {
        return Err(damaged("the journal has an impossible length"));
    }
    let seed = crc32c(!0, Fields(&head).slice(0x30, 16));
    let (found, revoked) = (HashMap::new(), HashMap::new());
    let mut log = Log { ext, content, features, seed, circle, found, revoked, is_cut: false };
    let start = u64::from(number(0x1c));
    if start != 0 {
        if !log.circle.contains(&start) {
            return Err(damaged("the journal begins outside of it"));
        }
        log.walk(start, number(0x18))?;
    }
    log.finish()
}

impl Log<'_, '_> {
    /// Reads transactions as long as they follow each other and are committed.
    fn walk(&mut self, start: u64, first: u32) -> Result<()> {
        let (mut at, mut sequence) = (start, first);
        let mut left = self.circle.end - self.circle.start;
        let mut transaction = Transaction::default();
        let mut block = vec![0; self.ext.block_size()];
        while left > 0 {
            self.read(at, &mut block)?;
            let number = |at: usize| u32::from_be_bytes(Fields(&block).array(at));
            if number(0) != MAGIC || number(8) != sequence {
                return Ok(());
            }
            let mut used = 1;
            match number(4) {
                kind @ (DESCRIPTOR | REVOKE) => {
                    transaction.is_doubtful |= !self.is_whole(&block, block.len() - 4);
                    match kind {
                        DESCRIPTOR => used += self.describe(&block, at, &mut transaction),
                        _ => self.revoke(&block, &mut transaction)?,
                    }
                }
                COMMIT => {
                    let is_whole = self.is_whole(&block, 16) && !transaction.is_doubtful;
                    if !is_whole || !self.holds(&transaction, sequence, &mut block)? {
                        self.is_cut = true;
                        return Ok(());
                    }
                    self.commit(std::mem::take(&mut transaction), sequence);
                    sequence = sequence.wrapping_add(1);
                }
                _ => return Ok(()),
            }
            (0..used).for_each(|_| at = self.behind(at));
            left = left.saturating_sub(used);
        }
        Ok(())
    }

    /// Whether the blocks of a transaction are those that it was committed with, as far as they have checksums.
    fn holds(&self, transaction: &Transaction, sequence: u32, block: &mut [u8]) -> Result<bool> {
        if !self.has_sums() {
            return Ok(true);
        }
        let seed = crc32c(self.seed, &sequence.to_be_bytes());
        for tag in &transaction.blocks {
            self.read(tag.place, block)?;
            if crc32c(seed, block) & tag.mask != tag.sum {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn behind(&self, at: u64) -> u64 {
        if at + 1 == self.circle.end { self.circle.start } else { at + 1 }
    }

    fn read(&self, at: u64, block: &mut [u8]) -> Result<()> {
        self.ext.read(&self.content, at * self.ext.superblock.block_size, block)
    }

    fn has_sums(&self) -> bool {
        self.features & (SUMS_2 | SUMS_3) != 0
    }

    /// Whether a block's checksum at `at` is right, if it has one.
    fn is_whole(&self, block: &[u8], at: usize) -> bool {
        let mut copy = block.to_vec();
        copy[at..at + 4].fill(0);
        !self.has_sums() || crc32c(self.seed, &copy) == u32::from_be_bytes(Fields(block).array(at))
    }

    /// Adds the blocks that a descriptor tells of, and returns how many follow it.
    fn describe(&self, block: &[u8], at: u64, transaction: &mut Transaction) -> u64 {
        let fields = Fields(block);
        let wide = self.features & WIDE != 0;
        let len = match () {
            () if self.features & SUMS_3 != 0 => 16,
            () => 8 + if wide { 4 } else { 0 } + if self.features & SUMS_2 != 0 { 2 } else { 0 },
        };
        let end = block.len() - if self.has_sums() { 4 } else { 0 };
        let (mut tag, mut place, mut count) = (HEAD, at, 0);
        while tag + len <= end {
            let number = |at: usize| u32::from_be_bytes(fields.array(tag + at));
            let flags = if len == 16 { number(4) } else { number(4) & 0xffff };
            let high = if wide { u64::from(number(8)) << 32 } else { 0 };
            place = self.behind(place);
            count += 1;
            // The second version keeps half of a checksum.
            let (sum, mask) = if len == 16 { (number(12), u32::MAX) } else { (number(4) >> 16, 0xffff) };
            let (block, escaped) = (high | u64::from(number(0)), flags & ESCAPED != 0);
            transaction.blocks.push(Tag { block, place, escaped, sum, mask });
            tag += len + if flags & SAME == 0 { 16 } else { 0 };
            if flags & LAST != 0 {
                break;
            }
        }
        count
    }

    fn revoke(&self, block: &[u8], transaction: &mut Transaction) -> Result<()> {
        let fields = Fields(block);
        let end = (u32::from_be_bytes(fields.array(HEAD)) as usize).min(block.len());
        let len = if self.features & WIDE != 0 { 8 } else { 4 };
        for at in (HEAD + 4..end.saturating_sub(len - 1)).step_by(len) {
            let block = match len {
                8 => u64::from_be_bytes(fields.array(at)),
                _ => u32::from_be_bytes(fields.array(at)).into(),
            };
            transaction.revoked.insert(block);
        }
        if transaction.revoked.len() + self.revoked.len() > MAX_REVOKED {
            return Err(unsupported("the journal revokes more blocks than are followed"));
        }
        Ok(())
    }

    fn commit(&mut self, transaction: Transaction, sequence: u32) {
        for Tag { block, place, escaped, .. } in transaction.blocks {
            self.found.insert(block, (sequence, place, escaped));
        }
        for block in transaction.revoked {
            self.revoked.insert(block, sequence);
        }
    }

    /// What is left after revocations, by blocks of the filesystem.
    fn finish(self) -> Result<Overlay> {
        let mut overlay = Overlay { is_cut: self.is_cut, ..Overlay::default() };
        let size = self.ext.superblock.block_size;
        for (block, (sequence, place, escaped)) in &self.found {
            // Transactions are counted in a circle, too.
            let later = |revoked: &u32| revoked.wrapping_sub(*sequence).cast_signed() >= 0;
            if self.revoked.get(block).is_some_and(later) {
                continue;
            }
            let stand_in =
                self.content.place_of(place * size).ok_or_else(|| damaged("the journal has a hole"))?;
            overlay.blocks.insert(*block, (stand_in / size, *escaped));
            if *escaped {
                overlay.escaped.insert(stand_in / size);
            }
        }
        Ok(overlay)
    }
}
