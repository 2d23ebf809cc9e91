//! Index segments: where blobs lie, for deduplication (`docs/format.md`, section 9).
//!
//! A segment is read in parts: a directory, which says what the segment replaces and on which page an id would stand, and pages of entries sorted by
//! id. Each part is sealed by itself, so that a lookup opens one page of a few KiB, however large the segment is.

use std::cmp::Ordering;

use super::envelope::EnvelopeError;
use super::location::{KEY_MODE_CLASS, Location, PackRef};
use super::pack::PackKind;
use super::wire::Reader;
use super::{FormatError, filter, limits};
use crate::codec::CodecError;
use crate::codec::keys::{BlobKind, KeyClass, Keyring};
use crate::codec::seal::SEAL_OVERHEAD;
use crate::id::{BlobId, PackId, SegmentId};

const WHAT: &str = "index segment";
const MAGIC: &[u8; 8] = b"COPALIDX";
const VERSION: u16 = 1;
/// Bytes before the directory.
pub const HEADER_LEN: usize = 32;
/// Plain bytes of one entry.
pub const ENTRY_LEN: usize = 66;
/// Entries of a page; the last one has what is left. A page is about what a disk reads at once.
pub const PAGE_ENTRIES: usize = 64;
/// Sealed bytes of a full page.
const PAGE_LEN: usize = PAGE_ENTRIES * ENTRY_LEN + SEAL_OVERHEAD;
/// What tells the directory from a page, for the seal.
const DIRECTORY: u32 = u32::MAX;

/// The most bytes that a segment has as stored.
pub const MAX_STORED: u64 = (HEADER_LEN + MAX_DIRECTORY) as u64
    + (limits::MAX_INDEX_ENTRIES as u64).div_ceil(PAGE_ENTRIES as u64) * PAGE_LEN as u64;
/// The most sealed bytes of a directory.
const MAX_DIRECTORY: usize = 8
    + limits::MAX_SUPERSEDED as usize * SegmentId::LEN
    + limits::MAX_INDEX_PACKS as usize * PackId::LEN
    + filter::len(limits::MAX_INDEX_ENTRIES as usize)
    + (limits::MAX_INDEX_ENTRIES as usize).div_ceil(PAGE_ENTRIES) * 8
    + SEAL_OVERHEAD;

/// Where one blob lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexEntry {
    /// What it is.
    pub kind: BlobKind,
    /// Its id.
    pub id: BlobId,
    /// Where it lies.
    pub location: Location,
    /// Length of its plain bytes.
    pub plain_len: u32,
}

impl IndexEntry {
    /// By id, then by what else there is.
    fn order(&self, other: &Self) -> Ordering {
        self.id.cmp(&other.id).then_with(|| (self.kind, self.location).cmp(&(other.kind, other.location)))
    }

    fn to_bytes(self) -> [u8; ENTRY_LEN] {
        let Location { pack, offset, sealed_len } = self.location;
        let mut out = [0; ENTRY_LEN];
        out[0] = self.kind as u8;
        out[1..33].copy_from_slice(self.id.as_bytes());
        out[33..49].copy_from_slice(pack.id.as_bytes());
        out[49] = pack.mode;
        let numbers = [pack.epoch, offset, sealed_len, self.plain_len];
        for (place, number) in out[50..].chunks_exact_mut(4).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        out
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, FormatError> {
        let malformed = || FormatError::malformed(WHAT, "unknown kind of blob");
        let kind = BlobKind::from_tag(reader.u8()?).ok_or_else(malformed)?;
        let (id, pack_id) = (BlobId(reader.array()?), PackId(reader.array()?));
        let (mode, epoch) = (reader.u8()?, reader.u32()?);
        let pack = PackRef { id: pack_id, mode, epoch };
        let location = Location { pack, offset: reader.u32()?, sealed_len: reader.u32()? };
        Ok(Self { kind, id, location, plain_len: reader.u32()? })
    }

    /// The kind of pack that it lies in.
    #[must_use]
    pub fn pack_kind(&self) -> PackKind {
        PackKind::of(self.kind)
    }
}

/// The first bytes of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    epoch: u32,
    directory_len: u32,
    entries: u32,
}

impl Header {
    fn to_bytes(self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        out[..8].copy_from_slice(MAGIC);
        out[8..10].copy_from_slice(&VERSION.to_le_bytes());
        out[10] = KEY_MODE_CLASS;
        out[12..16].copy_from_slice(&self.epoch.to_le_bytes());
        out[16..20].copy_from_slice(&self.directory_len.to_le_bytes());
        out[20..24].copy_from_slice(&self.entries.to_le_bytes());
        out
    }

    /// Decodes and checks the bounds.
    ///
    /// # Errors
    /// [`FormatError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(WHAT, bytes);
        reader.magic(MAGIC)?;
        reader.version(VERSION)?;
        let mode = reader.u8()?;
        if mode != KEY_MODE_CLASS {
            return Err(FormatError::KeyMode { what: WHAT, mode });
        }
        reader.zeros::<1>()?;
        let header = Self { epoch: reader.u32()?, directory_len: reader.u32()?, entries: reader.u32()? };
        reader.zeros::<8>()?;
        reader.finish()?;
        let bound = |name, value: u32, limit: usize| match value as usize <= limit {
            true => Ok(()),
            false => Err(FormatError::OutOfBounds { what: name, value: value.into(), limit: limit as u64 }),
        };
        bound("entries of a segment", header.entries, limits::MAX_INDEX_ENTRIES as usize)?;
        bound("bytes of a segment's directory", header.directory_len, MAX_DIRECTORY)?;
        Ok(header)
    }

    /// Sealed bytes of the directory, which follows.
    #[must_use]
    pub fn directory_len(&self) -> usize {
        self.directory_len as usize
    }

    /// Entries of the segment.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.entries as usize
    }

    fn pages(&self) -> usize {
        self.entries().div_ceil(PAGE_ENTRIES)
    }

    /// Where a page is stored: offset and sealed length. `None` beyond the last one.
    #[must_use]
    pub fn page(&self, number: usize) -> Option<(u64, usize)> {
        let before = number.checked_mul(PAGE_ENTRIES)?;
        let entries = self.entries().checked_sub(before).filter(|left| *left > 0)?.min(PAGE_ENTRIES);
        let offset = HEADER_LEN + self.directory_len() + number * PAGE_LEN;
        Some((offset as u64, entries * ENTRY_LEN + SEAL_OVERHEAD))
    }

    /// Opens the directory of the segment that is stored as `name`.
    ///
    /// # Errors
    /// [`EnvelopeError`].
    pub fn open_directory(
        &self,
        keyring: &Keyring,
        name: &str,
        sealed: Vec<u8>,
    ) -> Result<Directory, EnvelopeError> {
        let aad = aad(keyring, self, name, DIRECTORY);
        let plain = keyring.seal_key(KeyClass::Index, self.epoch)?.open(&aad, sealed)?;
        Ok(Directory::from_bytes(&plain, self)?)
    }

    /// Opens a page: entries sorted by id.
    ///
    /// # Errors
    /// [`EnvelopeError`].
    pub fn open_page(
        &self,
        keyring: &Keyring,
        name: &str,
        number: usize,
        sealed: &mut [u8],
    ) -> Result<Vec<IndexEntry>, EnvelopeError> {
        let mut entries = Vec::with_capacity(PAGE_ENTRIES);
        self.open_page_behind(&mut entries, keyring, (name, number), sealed)?;
        Ok(entries)
    }

    /// As [`Self::open_page`]; the entries come behind those that are there, which they follow in order.
    fn open_page_behind(
        &self,
        entries: &mut Vec<IndexEntry>,
        keyring: &Keyring,
        (name, number): (&str, usize),
        sealed: &mut [u8],
    ) -> Result<(), EnvelopeError> {
        let narrow = u32::try_from(number).unwrap_or(DIRECTORY);
        let aad = aad(keyring, self, name, narrow);
        let plain = keyring.seal_key(KeyClass::Index, self.epoch)?.open_in_place(&aad, sealed)?;
        Ok(read_page(entries, plain)?)
    }
}

/// The plain bytes of a page.
#[must_use]
pub fn page_to_bytes(entries: &[IndexEntry]) -> Vec<u8> {
    entries.iter().flat_map(|entry| entry.to_bytes()).collect()
}

/// Decodes a page and checks that it is sorted.
///
/// # Errors
/// [`FormatError`].
pub fn page_from_bytes(plain: &[u8]) -> Result<Vec<IndexEntry>, FormatError> {
    let mut entries = Vec::with_capacity(plain.len() / ENTRY_LEN);
    read_page(&mut entries, plain)?;
    Ok(entries)
}

fn read_page(entries: &mut Vec<IndexEntry>, plain: &[u8]) -> Result<(), FormatError> {
    let mut reader = Reader::new(WHAT, plain);
    for _ in 0..plain.len() / ENTRY_LEN {
        let entry = IndexEntry::read(&mut reader)?;
        if entries.last().is_some_and(|last| last.order(&entry).is_gt()) {
            return Err(FormatError::malformed(WHAT, "entries are not sorted"));
        }
        entries.push(entry);
    }
    reader.finish()
}

fn aad(keyring: &Keyring, header: &Header, name: &str, part: u32) -> Vec<u8> {
    let repository = keyring.repository();
    [repository.as_bytes(), &header.to_bytes()[..], &part.to_le_bytes(), name.as_bytes()].concat()
}

/// What stands before the pages.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Directory {
    /// Segments that this one replaces.
    pub supersedes: Vec<SegmentId>,
    /// Packs of which the index has every blob, here or in segments that are older than this one or than what it replaces.
    pub packs: Vec<PackId>,
    /// Which ids may be in the segment; see [`filter`].
    pub filter: Vec<u8>,
    /// The beginning of the first id of each page, big-endian.
    pub firsts: Vec<u64>,
}

impl Directory {
    fn of(supersedes: Vec<SegmentId>, packs: Vec<PackId>, entries: &[IndexEntry]) -> Self {
        let firsts = entries.chunks(PAGE_ENTRIES).map(|page| prefix(&page[0].id)).collect();
        Self { supersedes, packs, filter: filter::build(entries.iter().map(|entry| &entry.id)), firsts }
    }

    /// The plain bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let count =
            |len: usize| u32::try_from(len).expect("writers split segments long before").to_le_bytes();
        let mut out = Vec::new();
        out.extend_from_slice(&count(self.supersedes.len()));
        self.supersedes.iter().for_each(|id| out.extend_from_slice(id.as_bytes()));
        out.extend_from_slice(&count(self.packs.len()));
        self.packs.iter().for_each(|id| out.extend_from_slice(id.as_bytes()));
        out.extend_from_slice(&self.filter);
        self.firsts.iter().for_each(|first| out.extend_from_slice(&first.to_le_bytes()));
        out
    }

    /// Decodes and checks.
    ///
    /// # Errors
    /// [`FormatError`].
    pub fn from_bytes(bytes: &[u8], header: &Header) -> Result<Self, FormatError> {
        let mut reader = Reader::new(WHAT, bytes);
        let superseded = reader.count("superseded segments", limits::MAX_SUPERSEDED, SegmentId::LEN)?;
        let mut supersedes = Vec::with_capacity(superseded);
        for _ in 0..superseded {
            supersedes.push(SegmentId(reader.array()?));
        }
        let known = reader.count("packs of a segment", limits::MAX_INDEX_PACKS, PackId::LEN)?;
        let mut packs = Vec::with_capacity(known);
        for _ in 0..known {
            packs.push(PackId(reader.array()?));
        }
        let filter = reader.bytes(filter::len(header.entries()))?.to_vec();
        let mut firsts: Vec<u64> = Vec::new();
        for _ in 0..header.pages() {
            let first = reader.u64()?;
            if firsts.last().is_some_and(|last| *last > first) {
                return Err(FormatError::malformed(WHAT, "pages are not sorted"));
            }
            firsts.push(first);
        }
        reader.finish()?;
        Ok(Self { supersedes, packs, filter, firsts })
    }
}

/// The pages on which an id may stand, given the first of each page.
#[must_use]
pub fn pages_of(firsts: &[u64], id: &BlobId) -> std::ops::Range<usize> {
    let wanted = prefix(id);
    let start = firsts.partition_point(|first| *first < wanted).saturating_sub(1);
    start..firsts.partition_point(|first| *first <= wanted)
}

fn prefix(id: &BlobId) -> u64 {
    id.as_bytes().first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// A part of the index, immutable once stored, as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IndexSegment {
    /// Segments that this one replaces.
    pub supersedes: Vec<SegmentId>,
    /// Packs of which the index has every blob; see [`Directory::packs`].
    pub packs: Vec<PackId>,
    /// The blobs.
    pub entries: Vec<IndexEntry>,
}

impl IndexSegment {
    /// Sorts the entries, drops those that say the same, and seals the segment that will be stored as `name`.
    ///
    /// # Errors
    /// [`CodecError::MissingKey`].
    pub fn seal(mut self, keyring: &Keyring, name: &str) -> Result<Vec<u8>, CodecError> {
        // Stable, since what is joined is of runs that are sorted already.
        self.entries.sort_by(IndexEntry::order);
        self.entries.dedup();
        self.packs.sort_unstable();
        self.packs.dedup();
        let directory = Directory::of(self.supersedes, self.packs, &self.entries).to_bytes();
        let narrow = |len: usize| u32::try_from(len).expect("writers split segments long before");
        let epoch = keyring.current_epoch();
        let directory_len = narrow(directory.len() + SEAL_OVERHEAD);
        let header = Header { epoch, directory_len, entries: narrow(self.entries.len()) };
        let key = keyring.seal_key(KeyClass::Index, epoch)?;
        let mut out = header.to_bytes().to_vec();
        out.reserve(header.directory_len() + header.pages() * PAGE_LEN);
        out.extend_from_slice(&key.seal(&aad(keyring, &header, name, DIRECTORY), &directory));
        for (number, page) in self.entries.chunks(PAGE_ENTRIES).enumerate() {
            let aad = aad(keyring, &header, name, narrow(number));
            key.seal_behind(&mut out, &aad, |out| {
                page.iter().for_each(|entry| out.extend_from_slice(&entry.to_bytes()));
            });
        }
        Ok(out)
    }

    /// Opens all of the segment that is stored as `name`. `bytes` are overwritten.
    ///
    /// # Errors
    /// [`EnvelopeError`].
    pub fn open(keyring: &Keyring, name: &str, bytes: &mut [u8]) -> Result<Self, EnvelopeError> {
        let (start, rest) = split(bytes, HEADER_LEN)?;
        let header = Header::from_bytes(start)?;
        let (sealed, mut rest) = split(rest, header.directory_len())?;
        let directory = header.open_directory(keyring, name, sealed.to_vec())?;
        let pages = (0..header.pages()).map_while(|number| header.page(number));
        if rest.len() != pages.clone().map(|(_, len)| len).sum::<usize>() {
            return Err(FormatError::malformed(WHAT, "it has other pages than it should").into());
        }
        let mut entries = Vec::with_capacity(header.entries());
        for (number, (_, len)) in pages.enumerate() {
            let (sealed, behind) = split(rest, len)?;
            header.open_page_behind(&mut entries, keyring, (name, number), sealed)?;
            rest = behind;
        }
        Ok(Self { supersedes: directory.supersedes, packs: directory.packs, entries })
    }
}

/// The first bytes, and what is behind them.
fn split(bytes: &mut [u8], at: usize) -> Result<(&mut [u8], &mut [u8]), FormatError> {
    let left = bytes.len();
    bytes.split_at_mut_checked(at).ok_or(FormatError::Truncated { what: WHAT, needed: at, left })
}

#[cfg(test)]
mod tests;
