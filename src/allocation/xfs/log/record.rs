//! Records of the log: a header, further headers where there is much data, the data.

use super::super::big::Big;
use super::super::superblock::Geometry;
use super::{BLOCK, Position};

const MAGIC: u32 = 0xfeed_babe;
/// Bytes of data whose blocks one header has the first words of.
const PER_HEADER: usize = 32 << 10;
const WORDS: usize = PER_HEADER / BLOCK as usize;
const WORDS_AT: usize = 44;
const CHECKSUM_AT: usize = 32;
/// What a checksum covers of the header: 64-bit machines pad it, those of 32 bits do not.
const HEADERS: [usize; 2] = [328, 324];
/// What it covers of each further header: the round and the words.
const FURTHER_HEADER: usize = 4 + 4 * WORDS;
/// Contents are in the byte order of the machine that wrote them.
const LITTLE_ENDIAN: u32 = 1;
/// Flag of an operation: the filesystem was unmounted.
const UNMOUNT: u8 = 0x20;
/// What is in front of an operation's data.
const OPERATION: usize = 12;

/// A record that is whole.
pub(super) struct Record {
    pub(super) block: u64,
    /// Blocks that it takes, headers included.
    pub(super) blocks: u64,
    /// Where a replay has to begin.
    pub(super) tail: Position,
    operations: u32,
    /// Data, with the words that the numbers of rounds stand for.
    data: Vec<u8>,
    /// The checksum is there. Tools write one kind of record without: that of an unmount.
    sealed: bool,
    /// The filesystem is of a version whose records have checksums.
    needs_seal: bool,
}

/// A part of a transaction.
pub(super) struct Operation<'a> {
    pub(super) transaction: u32,
    pub(super) flags: u8,
    pub(super) data: &'a [u8],
}

pub(super) fn is_header(block: &[u8]) -> bool {
    Big(block).u32(0) == MAGIC
}

/// The round in which a block was written.
pub(super) fn round_of(block: &[u8]) -> u32 {
    Big(block).u32(if is_header(block) { 4 } else { 0 })
}

/// How many blocks the record with this header takes; `None` if it is no header.
pub(super) fn blocks_of(header: &[u8]) -> Option<u64> {
    let data = u64::from(Big(header).u32(12)).div_ceil(BLOCK);
    is_header(header).then(|| headers_of(header) + data)
}

/// Headers of a record: by the size of the buffer that it was written from, in version 2.
fn headers_of(header: &[u8]) -> u64 {
    let (version, buffer) = (Big(header).u32(8), u64::from(Big(header).u32(320)));
    if version == 2 { buffer.div_ceil(PER_HEADER as u64).max(1) } else { 1 }
}

impl Record {
    /// Takes the blocks of a record apart, if it is what should be at that position.
    pub(super) fn parse(bytes: &[u8], at: Position, geometry: &Geometry) -> Option<Self> {
        let fields = Big(bytes);
        let position = u64::from(at.round) << 32 | at.block;
        let right = is_header(bytes)
            && matches!(fields.u32(8), 1 | 2)
            && fields.u32(4) == at.round
            && fields.u64(16) == position
            && fields.u32(300) == LITTLE_ENDIAN
            && fields.array(304) == geometry.uuid;
        let headers = usize::try_from(headers_of(bytes)).ok()?;
        let len = fields.u32(12) as usize;
        let stored = bytes.get(headers * BLOCK as usize..)?.get(..len)?;
        // Each header has the words of as much data; there must be enough of them.
        if !right || len == 0 || len.div_ceil(PER_HEADER) > headers {
            return None;
        }
        let sum = fields.array(CHECKSUM_AT);
        let sealed = HEADERS.iter().any(|header| checksum(bytes, *header, stored).to_le_bytes() == sum);
        if !sealed && sum != [0; 4] {
            return None;
        }
        let (operations, tail) = (fields.u32(40), fields.u64(24));
        Some(Self {
            block: at.block,
            blocks: (bytes.len() / BLOCK as usize) as u64,
            tail: Position { round: (tail >> 32) as u32, block: tail & 0xffff_ffff },
            operations,
            data: restore(bytes, stored),
            sealed,
            needs_seal: geometry.checksums,
        })
    }

    /// Whether it says that the filesystem was unmounted, and nothing else.
    pub(super) fn is_unmount(&self) -> bool {
        let first = self.data.first_chunk::<OPERATION>();
        self.operations == 1 && first.is_some_and(|operation| operation[9] & UNMOUNT != 0)
    }

    /// Its operations; `None` if they do not fill it as they should, or its checksum is missing.
    pub(super) fn operations(&self) -> Option<Vec<Operation<'_>>> {
        if self.needs_seal && !self.sealed && !self.is_unmount() {
            return None;
        }
        let mut operations = Vec::new();
        let mut rest = &self.data[..];
        for _ in 0..self.operations {
            let (head, behind) = rest.split_first_chunk::<OPERATION>()?;
            let fields = Big(head);
            let len = fields.u32(4) as usize;
            let data = behind.get(..len)?;
            operations.push(Operation { transaction: fields.u32(0), flags: head[9], data });
            rest = &behind[len..];
        }
        Some(operations)
    }
}

/// The checksum of a record as it is stored, if `header` bytes of its header count.
fn checksum(bytes: &[u8], header: usize, stored: &[u8]) -> u32 {
    let header = bytes.get(..header).unwrap_or_default();
    let further = (1..stored.len().div_ceil(PER_HEADER)).map(|index| {
        let at = index * BLOCK as usize;
        bytes.get(at..at + FURTHER_HEADER).unwrap_or_default()
    });
    let sum = super::super::super::checked::crc32c_around(header, CHECKSUM_AT);
    further.chain([stored]).fold(sum, crc32c::crc32c_append)
}

/// Data with its own words in place of the numbers of rounds.
fn restore(bytes: &[u8], stored: &[u8]) -> Vec<u8> {
    let mut data = stored.to_vec();
    for (index, block) in data.chunks_mut(BLOCK as usize).enumerate() {
        let at = match index / WORDS {
            0 => WORDS_AT + 4 * index,
            further => further * BLOCK as usize + 4 + 4 * (index % WORDS),
        };
        let word: [u8; 4] = Big(bytes).array(at);
        block.iter_mut().zip(word).for_each(|(byte, word)| *byte = word);
    }
    data
}
