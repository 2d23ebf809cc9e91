//! Chunks: which bytes of the device the addresses of the filesystem stand for.

use std::ops::Range;

use super::super::Distrust;
use super::superblock::Superblock;
use super::tree::{Key, Kind};
use crate::partition::bytes::Fields;

/// What a chunk is for, and the only profile that keeps two copies on one device. Others need more devices, or spread one address over several places.
const PURPOSES: u64 = 0x7;
const DUPLICATE: u64 = 0x20;
const CHUNK_TREE: u64 = 256;
const EXTENT_TREE: u64 = 2;
/// A key and a chunk with one stripe, as the superblock has them.
const KEY: usize = 17;
const CHUNK: usize = 48;
const STRIPE: usize = 32;

/// A range of addresses and where its copies lie on the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) start: u64,
    pub(super) len: u64,
    pub(super) flags: u64,
    /// One place or two.
    pub(super) copies: Vec<u64>,
}

impl Chunk {
    pub(super) fn end(&self) -> u64 {
        self.start + self.len
    }

    /// Takes an item of the tree of chunks apart.
    pub(super) fn parse(key: Key, item: &[u8], superblock: &Superblock) -> Result<Self, Distrust> {
        let fields = Fields(item);
        let (len, flags) = (fields.u64(0), fields.u64(24));
        let copies = match flags & !PURPOSES {
            0 => 1,
            DUPLICATE => 2,
            _ => return Err(Distrust::because("it has a profile for several devices")),
        };
        let aligned = |number: u64| number.is_multiple_of(u64::from(superblock.block));
        let whole = (key.object, key.kind) == (CHUNK_TREE, Kind::CHUNK)
            && fields.u64(8) == EXTENT_TREE
            && usize::from(fields.u16(44)) == copies
            && item.len() == CHUNK + copies * STRIPE
            && len > 0
            && flags & PURPOSES != 0
            && aligned(key.offset)
            && aligned(len)
            && key.offset.checked_add(len).is_some();
        if !whole {
            return Err(damaged());
        }
        let mut places = Vec::with_capacity(copies);
        for at in (CHUNK..item.len()).step_by(STRIPE) {
            let place = fields.u64(at + 8);
            let fits = fields.u64(at) == superblock.device
                && fields.array(at + 16) == superblock.device_uuid
                && aligned(place)
                && place.checked_add(len).is_some_and(|end| end <= superblock.device_len);
            if !fits {
                return Err(damaged());
            }
            places.push(place);
        }
        Ok(Self { start: key.offset, len, flags, copies: places })
    }
}

/// Chunks in the order of their addresses.
#[derive(Debug, Default)]
pub(super) struct Chunks(Vec<Chunk>);

impl Chunks {
    /// Those that the superblock names, through which the tree of chunks is found.
    pub(super) fn of_superblock(superblock: &Superblock) -> Result<Self, Distrust> {
        let mut chunks = Vec::new();
        let mut rest = &superblock.system_chunks[..];
        while !rest.is_empty() {
            let fields = Fields(rest);
            let len = KEY + CHUNK + usize::from(fields.u16(KEY + 44)) * STRIPE;
            let (chunk, behind) = rest.split_at_checked(len).ok_or_else(damaged)?;
            chunks.push(Chunk::parse(Key::parse(fields, 0), &chunk[KEY..], superblock)?);
            rest = behind;
        }
        chunks.sort_unstable_by_key(|chunk| chunk.start);
        Self::new(chunks)
    }

    /// Chunks that must be in order and apart from each other.
    pub(super) fn new(chunks: Vec<Chunk>) -> Result<Self, Distrust> {
        let in_order = chunks.windows(2).all(|pair| pair[0].end() <= pair[1].start);
        if in_order { Ok(Self(chunks)) } else { Err(damaged()) }
    }

    pub(super) fn all(&self) -> &[Chunk] {
        &self.0
    }

    /// Whether each of `others` is here as well.
    pub(super) fn include(&self, others: &Self) -> bool {
        others.0.iter().all(|chunk| self.holding(chunk.start) == Some(chunk))
    }

    /// The chunk of an address.
    pub(super) fn holding(&self, address: u64) -> Option<&Chunk> {
        let after = self.0.partition_point(|chunk| chunk.start <= address);
        self.0[..after].last().filter(|chunk| address < chunk.end())
    }

    /// Whether any address of a range belongs to a chunk.
    pub(super) fn touch(&self, addresses: &Range<u64>) -> bool {
        let first = self.0.partition_point(|chunk| chunk.end() <= addresses.start);
        self.0.get(first).is_some_and(|chunk| chunk.start < addresses.end)
    }

    /// Where the first copy of a range of addresses lies, if it is within one chunk.
    pub(super) fn place(&self, addresses: &Range<u64>) -> Option<Range<u64>> {
        let chunk = self.holding(addresses.start).filter(|chunk| addresses.end <= chunk.end())?;
        let start = chunk.copies.first()? + (addresses.start - chunk.start);
        Some(start..start + (addresses.end - addresses.start))
    }

    /// All copies of all chunks, in the order of the device: place and chunk. They must not overlap.
    pub(super) fn on_device<'a>(&'a self) -> Result<Vec<(u64, &'a Chunk)>, Distrust> {
        let copies = |chunk: &'a Chunk| chunk.copies.iter().map(move |place| (*place, chunk));
        let mut placed: Vec<(u64, &Chunk)> = self.0.iter().flat_map(copies).collect();
        placed.sort_unstable_by_key(|(place, _)| *place);
        let apart = placed.windows(2).all(|pair| pair[0].0 + pair[0].1.len <= pair[1].0);
        if apart { Ok(placed) } else { Err(damaged()) }
    }
}

fn damaged() -> Distrust {
    Distrust::because("its list of chunks is damaged")
}
