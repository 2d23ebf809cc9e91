//! Inodes. No I/O.

use super::super::{Kind, Result, Time, damaged};
use crate::allocation::ext::sums::crc32c;
use crate::partition::bytes::Fields;

/// Bytes that every inode has; what lies behind them is counted by a field there.
const SHORT: usize = 128;
/// The list of blocks, which may be content instead.
const LIST: usize = 0x28;
const LIST_LEN: usize = 60;
/// Both halves of the checksum.
const SUM_LOW: usize = 0x7c;
const SUM_HIGH: usize = 0x82;
const EXTRA_LEN: usize = 0x80;

const ENCRYPTED: u32 = 0x800;
const INDEXED: u32 = 0x1000;
const EXTENTS: u32 = 0x8_0000;
const INLINE: u32 = 0x1000_0000;

const KIND: u16 = 0xf000;
const DIRECTORY: u16 = 0x4000;

/// An inode.
#[derive(Debug, Clone)]
pub(super) struct Inode {
    bytes: Vec<u8>,
    /// What checksums of its blocks begin with.
    pub(super) seed: Option<u32>,
}

impl Inode {
    /// Checks an inode; `seed` is the sum of the filesystem's seed and its number.
    pub(super) fn parse(bytes: &[u8], seed: Option<u32>) -> Result<Self> {
        let fields = Fields(bytes);
        let seed = seed.map(|seed| crc32c(seed, &bytes[0x64.min(bytes.len())..0x68.min(bytes.len())]));
        let inode = Self { bytes: bytes.to_vec(), seed };
        if bytes.len() < SHORT || fields.u16(0) == 0 {
            return Err(damaged("an inode is not in use"));
        }
        if seed.is_some_and(|seed| !inode.is_whole(seed)) {
            return Err(damaged("the checksum of an inode is wrong"));
        }
        Ok(inode)
    }

    fn is_whole(&self, seed: u32) -> bool {
        let fields = Fields(&self.bytes);
        let wide = self.extra() >= 4;
        let mut copy = self.bytes.clone();
        copy[SUM_LOW..SUM_LOW + 2].fill(0);
        let mut stored = u32::from(fields.u16(SUM_LOW));
        let mut sum = u32::MAX;
        if wide {
            copy[SUM_HIGH..SUM_HIGH + 2].fill(0);
            stored |= u32::from(fields.u16(SUM_HIGH)) << 16;
        } else {
            sum = 0xffff;
        }
        crc32c(seed, &copy) & sum == stored
    }

    fn fields(&self) -> Fields<'_> {
        Fields(&self.bytes)
    }

    /// How many bytes behind the first 128 hold fields.
    fn extra(&self) -> usize {
        if self.bytes.len() > SHORT + 2 { usize::from(self.fields().u16(EXTRA_LEN)) } else { 0 }
    }

    /// What lies behind its fields.
    pub(super) fn tail(&self) -> &[u8] {
        if self.bytes.len() <= SHORT {
            &[]
        } else {
            self.bytes.get(SHORT + self.extra()..).unwrap_or_default()
        }
    }

    pub(super) fn is_directory(&self) -> bool {
        self.fields().u16(0) & KIND == DIRECTORY
    }

    fn flags(&self) -> u32 {
        self.fields().u32(0x20)
    }

    pub(super) fn is_encrypted(&self) -> bool {
        self.flags() & ENCRYPTED != 0
    }

    /// Whether a directory has a hash tree.
    pub(super) fn is_indexed(&self) -> bool {
        self.flags() & INDEXED != 0
    }

    pub(super) fn has_extents(&self) -> bool {
        self.flags() & EXTENTS != 0
    }

    pub(super) fn has_inline_data(&self) -> bool {
        self.flags() & INLINE != 0
    }

    /// Whether the target of a symbolic link of this length stands where blocks are listed otherwise.
    pub(super) fn is_short_link(&self, len: usize) -> bool {
        // Blocks of attributes count as the link's, and no link so short has others.
        len < LIST_LEN && !self.has_extents() && !self.has_inline_data()
    }

    /// Where blocks are listed.
    pub(super) fn list(&self) -> &[u8] {
        self.fields().slice(LIST, LIST_LEN)
    }

    pub(super) fn kind(&self) -> Result<Kind> {
        let (old, new) = (self.fields().u32(LIST), self.fields().u32(LIST + 4));
        let device = if old != 0 {
            (old >> 8 & 0xff, old & 0xff)
        } else {
            ((new & 0xf_ff00) >> 8, new & 0xff | (new >> 12 & 0xf_ff00))
        };
        Ok(match self.fields().u16(0) & KIND {
            0x1000 => Kind::Fifo,
            0x2000 => Kind::Character(device.0, device.1),
            DIRECTORY => Kind::Directory,
            0x6000 => Kind::Block(device.0, device.1),
            0x8000 => Kind::File,
            0xa000 => Kind::Link,
            0xc000 => Kind::Socket,
            _ => return Err(damaged("an inode is of an unknown kind")),
        })
    }

    pub(super) fn permissions(&self) -> u16 {
        self.fields().u16(0) & !KIND
    }

    pub(super) fn owner(&self) -> (u32, u32) {
        let wide = |low: usize, high: usize| {
            u32::from(self.fields().u16(low)) | u32::from(self.fields().u16(high)) << 16
        };
        (wide(2, 0x78), wide(0x18, 0x7a))
    }

    pub(super) fn links(&self) -> u32 {
        self.fields().u16(0x1a).into()
    }

    pub(super) fn size(&self, high: bool) -> u64 {
        let fields = self.fields();
        u64::from(fields.u32(4)) | if high { u64::from(fields.u32(0x6c)) << 32 } else { 0 }
    }

    /// The block of its extended attributes; 0 for none.
    pub(super) fn attributes_block(&self) -> u64 {
        u64::from(self.fields().u32(0x68)) | u64::from(self.fields().u16(0x76)) << 32
    }

    /// When it was read, and when its content was changed.
    pub(super) fn times(&self) -> [Time; 2] {
        [(8, 0x8c), (0x10, 0x88)].map(|(at, more)| self.time(at, more))
    }

    /// 32 bits of seconds, and in a field that shorter inodes do not have two more and the nanoseconds.
    fn time(&self, at: usize, more: usize) -> Time {
        let low = i64::from(self.fields().u32(at).cast_signed());
        let more = if self.extra() + SHORT >= more + 4 { self.fields().u32(more) } else { 0 };
        // What is no number of nanoseconds is none.
        let nanoseconds = Some(more >> 2).filter(|ns| *ns < 1_000_000_000).unwrap_or(0);
        Time { seconds: low + (i64::from(more & 3) << 32), nanoseconds }
    }
}
