//! Catalogue segments: many archives' listings in one object (`docs/format.md`, section 12).

use std::fmt;

use serde::{Deserialize, Serialize};

use super::name::ArchiveName;
use super::record::{ArchiveRecord, Origin};
use super::state::ArchiveState;
use super::{FormatError, limits, msgpack};
use crate::id::{ArchiveId, Nonce16, SessionId};

/// What a listing shows of a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberSummary {
    /// Its name.
    pub name: ArchiveName,
    /// Size in bytes.
    pub size: u64,
    /// Bytes that are not in holes.
    pub data: u64,
}

/// A state that is already known, by the last part of its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownState {
    /// Its full object name.
    pub name: String,
    /// Its content.
    pub state: ArchiveState,
}

/// What a listing shows of an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogueEntry {
    /// Its id.
    pub id: ArchiveId,
    /// Its name as recorded, before states.
    pub name: ArchiveName,
    /// The moment it stands for, in ns since 1970, UTC.
    pub time: i64,
    /// When it was stored.
    pub finished: i64,
    /// Its comment as recorded.
    pub comment: String,
    /// Its tags as recorded.
    #[serde(deserialize_with = "msgpack::at_most::<_, _, { limits::MAX_TAGS }>")]
    pub tags: Vec<ArchiveName>,
    /// Its predecessor.
    pub previous: Option<ArchiveId>,
    /// The session that made it.
    pub session: SessionId,
    /// Its members.
    #[serde(deserialize_with = "msgpack::at_most::<_, _, { limits::MAX_MEMBERS }>")]
    pub members: Vec<MemberSummary>,
    /// States known to the writer of the segment.
    #[serde(deserialize_with = "msgpack::at_most::<_, _, { limits::MAX_LISTED }>")]
    pub states: Vec<KnownState>,
    /// What it is a copy of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
}

impl CatalogueEntry {
    /// The entry of a record, without states.
    #[must_use]
    pub fn of(id: ArchiveId, record: &ArchiveRecord) -> Self {
        let summary = |member: &super::record::Member| MemberSummary {
            name: member.name.clone(),
            size: member.size,
            data: member.data,
        };
        Self {
            id,
            name: record.name.clone(),
            time: record.time,
            finished: record.finished,
            comment: record.comment.clone(),
            tags: record.tags.clone(),
            previous: record.previous,
            session: record.session,
            members: record.members.iter().map(summary).collect(),
            states: Vec::new(),
            origin: record.origin,
        }
    }
}

/// The name of a segment: `catalogue/<counter>-<nonce>`; later ones have higher counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SegmentName {
    /// One more than the highest its writer saw.
    pub counter: u64,
    /// Makes it unique.
    pub nonce: Nonce16,
}

impl SegmentName {
    /// Reads an object's name; `None` for names that are no segment's.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let (counter, nonce) = name.strip_prefix("catalogue/")?.split_once('-')?;
        let counter_ok =
            counter.len() == 16 && counter.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let counter = u64::from_str_radix(counter, 16).ok().filter(|_| counter_ok)?;
        Some(Self { counter, nonce: nonce.parse().ok()? })
    }

    /// The part behind `catalogue/`.
    #[must_use]
    pub fn suffix(&self) -> String {
        format!("{:016x}-{}", self.counter, self.nonce)
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "catalogue/{}", self.suffix())
    }
}

/// Many archives' entries.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CatalogueSegment {
    /// Segments that this one replaces, by the last part of their names.
    #[serde(deserialize_with = "msgpack::at_most::<_, _, { limits::MAX_LISTED }>")]
    pub supersedes: Vec<String>,
    /// The archives.
    #[serde(deserialize_with = "msgpack::at_most::<_, _, { limits::MAX_CATALOGUE_ENTRIES }>")]
    pub archives: Vec<CatalogueEntry>,
}

impl CatalogueSegment {
    /// The stored form.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        msgpack::to_bytes(self)
    }

    /// Decodes and checks.
    ///
    /// # Errors
    /// [`FormatError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FormatError> {
        let segment: Self = msgpack::from_bytes("catalogue segment", bytes)?;
        let oversized = |entry: &CatalogueEntry| {
            entry.members.iter().any(|m| m.size > limits::MAX_IMAGE || m.data > m.size)
        };
        if segment.archives.iter().any(oversized) {
            return Err(FormatError::malformed("catalogue segment", "an image's size is out of bounds"));
        }
        Ok(segment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips() {
        let name = SegmentName { counter: 7, nonce: Nonce16([5; 16]) };
        assert_eq!(SegmentName::parse(&name.to_string()), Some(name));
        assert_eq!(SegmentName::parse("catalogue/7-05"), None);
        let entry = CatalogueEntry::of(ArchiveId([1; 16]), &crate::format::record::tests::sample());
        let segment = CatalogueSegment { supersedes: vec![name.suffix()], archives: vec![entry] };
        let bytes = segment.to_bytes();
        assert_eq!(&blake3::hash(&bytes).to_hex()[..16], "0a0cbe4db63c4f7c");
        assert_eq!(CatalogueSegment::from_bytes(&bytes).unwrap(), segment);

        let mut copied = segment;
        let repository = crate::id::RepositoryId([8; 16]);
        copied.archives[0].origin = Some(Origin { repository, archive: ArchiveId([9; 16]) });
        let bytes = copied.to_bytes();
        assert_eq!(&blake3::hash(&bytes).to_hex()[..16], "e0474c55130676e7");
        assert_eq!(CatalogueSegment::from_bytes(&bytes).unwrap(), copied);
    }
}
