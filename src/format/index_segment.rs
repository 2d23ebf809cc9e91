//! Index segments: where blobs lie, for deduplication (`docs/format.md`, section 9).

use super::location::{Location, PackRef};
use super::pack::PackKind;
use super::wire::Reader;
use super::{FormatError, limits};
use crate::codec::keys::BlobKind;
use crate::id::{BlobId, SegmentId};

const WHAT: &str = "index segment";
const VERSION: u16 = 1;
const ENTRY_LEN: usize = 49;

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

/// A part of the index, immutable once stored.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IndexSegment {
    /// Segments that this one replaces.
    pub supersedes: Vec<SegmentId>,
    /// The blobs, sorted by kind and id.
    pub entries: Vec<IndexEntry>,
}

impl IndexSegment {
    /// Sorts and encodes.
    #[must_use]
    pub fn to_bytes(mut self) -> Vec<u8> {
        let count =
            |len: usize| u32::try_from(len).expect("writers split segments long before").to_le_bytes();
        self.entries.sort_by_key(|entry| (entry.kind, entry.id));
        let mut packs: Vec<(PackKind, PackRef)> =
            self.entries.iter().map(|entry| (PackKind::of(entry.kind), entry.location.pack)).collect();
        packs.sort_unstable();
        packs.dedup();
        let mut out = Vec::with_capacity(32 + 22 * packs.len() + ENTRY_LEN * self.entries.len());
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&count(self.supersedes.len()));
        self.supersedes.iter().for_each(|id| out.extend_from_slice(id.as_bytes()));
        out.extend_from_slice(&count(packs.len()));
        for (kind, pack) in &packs {
            out.extend_from_slice(pack.id.as_bytes());
            out.extend_from_slice(&[*kind as u8, pack.mode]);
            out.extend_from_slice(&pack.epoch.to_le_bytes());
        }
        out.extend_from_slice(&count(self.entries.len()));
        for entry in &self.entries {
            let key = (PackKind::of(entry.kind), entry.location.pack);
            let number = packs.binary_search(&key).expect("collected above");
            out.push(entry.kind as u8);
            out.extend_from_slice(entry.id.as_bytes());
            out.extend_from_slice(&count(number));
            out.extend_from_slice(&entry.location.offset.to_le_bytes());
            out.extend_from_slice(&entry.location.sealed_len.to_le_bytes());
            out.extend_from_slice(&entry.plain_len.to_le_bytes());
        }
        out
    }

    /// Decodes and checks.
    ///
    /// # Errors
    /// [`FormatError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FormatError> {
        let malformed = |reason: &str| FormatError::malformed(WHAT, reason);
        let mut reader = Reader::new(WHAT, bytes);
        reader.version(VERSION)?;
        let superseded = reader.count("superseded segments", limits::MAX_SUPERSEDED, SegmentId::LEN)?;
        let mut supersedes = Vec::with_capacity(superseded);
        for _ in 0..superseded {
            supersedes.push(SegmentId(reader.array()?));
        }
        let pack_count = reader.count("packs of a segment", limits::MAX_INDEX_PACKS, 22)?;
        let mut packs = Vec::with_capacity(pack_count);
        for _ in 0..pack_count {
            let id = crate::id::PackId(reader.array()?);
            let [kind, mode] = reader.array()?;
            let kind = PackKind::from_tag(kind).ok_or_else(|| malformed("unknown kind of pack"))?;
            packs.push((kind, PackRef { id, mode, epoch: reader.u32()? }));
        }
        let count = reader.count("entries of a segment", limits::MAX_INDEX_ENTRIES, ENTRY_LEN)?;
        let mut entries: Vec<IndexEntry> = Vec::with_capacity(count);
        for _ in 0..count {
            let kind = BlobKind::from_tag(reader.u8()?).ok_or_else(|| malformed("unknown kind of blob"))?;
            let id = BlobId(reader.array()?);
            let number = reader.u32()? as usize;
            let [offset, sealed_len, plain_len] = [reader.u32()?, reader.u32()?, reader.u32()?];
            let (pack_kind, pack) =
                *packs.get(number).ok_or_else(|| malformed("pack number beyond the table"))?;
            if pack_kind != PackKind::of(kind) {
                return Err(malformed("a blob in the wrong kind of pack"));
            }
            if entries.last().is_some_and(|last| (last.kind, last.id) > (kind, id)) {
                return Err(malformed("entries are not sorted"));
            }
            entries.push(IndexEntry { kind, id, location: Location { pack, offset, sealed_len }, plain_len });
        }
        reader.finish()?;
        Ok(Self { supersedes, entries })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::span_map::tests::location;

    fn sample() -> IndexSegment {
        let entry = |kind, id, pack| IndexEntry {
            kind,
            id: BlobId([id; 32]),
            location: location(pack, 40),
            plain_len: 9,
        };
        let entries =
            vec![entry(BlobKind::Chunk, 1, 7), entry(BlobKind::Chunk, 2, 7), entry(BlobKind::Node, 0, 8)];
        IndexSegment { supersedes: vec![SegmentId([4; 16])], entries }
    }

    #[test]
    fn golden_bytes() {
        let bytes = sample().to_bytes();
        assert_eq!(&blake3::hash(&bytes).to_hex()[..16], "4c1c5d42b1eed791");
        assert_eq!(IndexSegment::from_bytes(&bytes).unwrap(), sample());
        for cut in 0..bytes.len() {
            assert!(IndexSegment::from_bytes(&bytes[..cut]).is_err());
        }
    }

    proptest! {
        #[test]
        fn mutated_segments_never_panic(at: usize, value: u8) {
            let mut bytes = sample().to_bytes();
            let at = at % bytes.len();
            bytes[at] = value;
            let _ = IndexSegment::from_bytes(&bytes);
        }
    }
}
