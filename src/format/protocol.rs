//! The objects of the protocol that keeps chunks alive (`docs/format.md`, section 13).

use serde::{Deserialize, Serialize};

use super::location::{Location, PackRef};
use super::wire::Reader;
use super::{FormatError, limits, msgpack};
use crate::codec::keys::BlobKind;
use crate::id::{ArchiveId, BlobId, PackId, SegmentId, SessionId, SlotId};

/// A running command that writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// The machine.
    pub host: String,
    /// Its process.
    pub pid: u32,
    /// The machine's boot, so that a reused process number is not taken for a living session.
    pub boot: String,
    /// When it began, in ns since 1970, UTC.
    pub started: i64,
    /// When it last said that it lives.
    pub heartbeat: i64,
    /// What it does, for people.
    pub what: String,
}

/// Packs that a compactor is about to replace: nobody claims chunks in them any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condemned {
    /// The compactor.
    pub session: SessionId,
    /// When, in ns since 1970, UTC.
    pub time: i64,
    /// The packs.
    #[serde(deserialize_with = "msgpack::at_most::<_, _, { limits::MAX_DOOMED }>")]
    pub packs: Vec<PackId>,
}

/// What a sweep is about to delete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// The compactor.
    pub session: SessionId,
    /// When, in ns since 1970, UTC.
    pub time: i64,
    /// Packs.
    #[serde(deserialize_with = "msgpack::at_most::<_, _, { limits::MAX_DOOMED }>")]
    pub packs: Vec<PackId>,
    /// Index segments.
    #[serde(deserialize_with = "msgpack::at_most::<_, _, { limits::MAX_DOOMED }>")]
    pub segments: Vec<SegmentId>,
    /// Archives whose records go.
    #[serde(deserialize_with = "msgpack::at_most::<_, _, { limits::MAX_DOOMED }>")]
    pub archives: Vec<ArchiveId>,
    /// Forwardings, by object name.
    #[serde(deserialize_with = "msgpack::at_most::<_, _, { limits::MAX_LISTED }>")]
    pub moved: Vec<String>,
}

/// Says that a key slot is being removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovalMarker {
    /// The slot.
    pub slot: SlotId,
    /// When, in ns since 1970, UTC.
    pub time: i64,
    /// By which machine.
    pub host: String,
}

/// A blob that is nowhere to be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LostBlob {
    /// What it is: the tag of its [`BlobKind`].
    pub kind: u8,
    /// Its id.
    pub id: BlobId,
    /// The pack where it should be.
    pub pack: PackId,
    /// Its offset there.
    pub offset: u32,
}

/// What a repair gave up: readers do not need it, checks say from it what was healed since.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostList {
    /// When, in ns since 1970, UTC.
    pub time: i64,
    /// The blobs.
    #[serde(deserialize_with = "super::msgpack::at_most::<_, _, { limits::MAX_LOST }>")]
    pub blobs: Vec<LostBlob>,
}

impl LostList {
    /// Decodes and checks.
    ///
    /// # Errors
    /// [`FormatError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FormatError> {
        const WHAT: &str = "list of lost blobs";
        let list: Self = super::msgpack::from_bytes(WHAT, bytes)?;
        if list.blobs.iter().any(|blob| BlobKind::from_tag(blob.kind).is_none()) {
            return Err(FormatError::malformed(WHAT, "unknown kind of blob"));
        }
        Ok(list)
    }
}

const FORWARDING: &str = "forwarding";
const FORWARDING_VERSION: u16 = 1;
const FORWARDING_ENTRY: usize = 45;

/// Where the survivors of a retired pack went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forwarding {
    /// The retired pack.
    pub pack: PackId,
    /// New places, sorted by kind and id.
    pub blobs: Vec<(BlobKind, BlobId, Location)>,
}

impl Forwarding {
    /// Where a blob went.
    #[must_use]
    pub fn find(&self, kind: BlobKind, id: &BlobId) -> Option<Location> {
        let found = self.blobs.binary_search_by_key(&(kind, *id), |(kind, id, _)| (*kind, *id)).ok()?;
        self.blobs.get(found).map(|(_, _, location)| *location)
    }

    /// Sorts and encodes. Of several new places of one blob, the first counts.
    #[must_use]
    pub fn to_bytes(mut self) -> Vec<u8> {
        let count = |len: usize| u32::try_from(len).expect("a pack has few blobs").to_le_bytes();
        self.blobs.sort_by_key(|(kind, id, _)| (*kind, *id));
        self.blobs.dedup_by_key(|(kind, id, _)| (*kind, *id));
        let mut packs: Vec<PackRef> = self.blobs.iter().map(|(_, _, location)| location.pack).collect();
        packs.sort_unstable();
        packs.dedup();
        let mut out =
            Vec::with_capacity(32 + PackRef::LEN * packs.len() + FORWARDING_ENTRY * self.blobs.len());
        out.extend_from_slice(&FORWARDING_VERSION.to_le_bytes());
        out.extend_from_slice(self.pack.as_bytes());
        out.extend_from_slice(&count(packs.len()));
        packs.iter().for_each(|pack| pack.write(&mut out));
        out.extend_from_slice(&count(self.blobs.len()));
        for (kind, id, location) in &self.blobs {
            let number = packs.binary_search(&location.pack).expect("collected above");
            out.push(*kind as u8);
            out.extend_from_slice(id.as_bytes());
            out.extend_from_slice(&count(number));
            out.extend_from_slice(&location.offset.to_le_bytes());
            out.extend_from_slice(&location.sealed_len.to_le_bytes());
        }
        out
    }

    /// Decodes and checks.
    ///
    /// # Errors
    /// [`FormatError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FormatError> {
        let malformed = |reason: &str| FormatError::malformed(FORWARDING, reason);
        let mut reader = Reader::new(FORWARDING, bytes);
        reader.version(FORWARDING_VERSION)?;
        let pack = PackId(reader.array()?);
        let pack_count = reader.count("packs of a forwarding", limits::MAX_INDEX_PACKS, PackRef::LEN)?;
        let mut packs = Vec::with_capacity(pack_count);
        for _ in 0..pack_count {
            packs.push(PackRef::read(&mut reader)?);
        }
        let count = reader.count("blobs of a forwarding", limits::MAX_PACK_ENTRIES, FORWARDING_ENTRY)?;
        let mut blobs: Vec<(BlobKind, BlobId, Location)> = Vec::with_capacity(count);
        for _ in 0..count {
            let kind = BlobKind::from_tag(reader.u8()?).ok_or_else(|| malformed("unknown kind of blob"))?;
            let id = BlobId(reader.array()?);
            let number = reader.u32()? as usize;
            let pack = *packs.get(number).ok_or_else(|| malformed("pack number beyond the table"))?;
            let location = Location { pack, offset: reader.u32()?, sealed_len: reader.u32()? };
            if blobs.last().is_some_and(|(last_kind, last_id, _)| (*last_kind, *last_id) >= (kind, id)) {
                return Err(malformed("blobs are not sorted"));
            }
            blobs.push((kind, id, location));
        }
        reader.finish()?;
        Ok(Self { pack, blobs })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::msgpack;
    use crate::format::span_map::tests::location;

    #[test]
    fn forwarding_golden_bytes() {
        let blob = |id, pack| (BlobKind::Chunk, BlobId([id; 32]), location(pack, 40));
        let forwarding = Forwarding { pack: PackId([9; 16]), blobs: vec![blob(1, 4), blob(2, 5)] };
        let bytes = forwarding.clone().to_bytes();
        assert_eq!(&blake3::hash(&bytes).to_hex()[..16], "8efdac850568f3db");
        assert_eq!(Forwarding::from_bytes(&bytes).unwrap(), forwarding);
        assert_eq!(forwarding.find(BlobKind::Chunk, &BlobId([2; 32])), Some(location(5, 40)));
        assert_eq!(forwarding.find(BlobKind::Node, &BlobId([2; 32])), None);
        for cut in 0..bytes.len() {
            assert!(Forwarding::from_bytes(&bytes[..cut]).is_err());
        }
    }

    #[test]
    fn protocol_objects_golden_bytes() {
        let session = SessionId([1; 16]);
        let intent = Intent {
            session,
            time: 5,
            packs: vec![PackId([2; 16])],
            segments: vec![SegmentId([3; 16])],
            archives: vec![ArchiveId([4; 16])],
            moved: vec!["moved/00/x".into()],
        };
        let condemned = Condemned { session, time: 5, packs: vec![PackId([2; 16])] };
        let bytes = [msgpack::to_bytes(&intent), msgpack::to_bytes(&condemned)].concat();
        assert_eq!(&blake3::hash(&bytes).to_hex()[..16], "d6e2bbb55c41fe2a");
        assert_eq!(msgpack::from_bytes::<Intent>("intent", &msgpack::to_bytes(&intent)).unwrap(), intent);
    }

    #[test]
    fn lost_list_golden_bytes() {
        let blob = LostBlob { kind: 1, id: BlobId([7; 32]), pack: PackId([2; 16]), offset: 40 };
        let list = LostList { time: 5, blobs: vec![blob] };
        let bytes = msgpack::to_bytes(&list);
        assert_eq!(&blake3::hash(&bytes).to_hex()[..16], "b7555eda574a7a6c");
        assert_eq!(LostList::from_bytes(&bytes).unwrap(), list);
        let unknown = LostList { blobs: vec![LostBlob { kind: 9, ..blob }], ..list };
        assert!(LostList::from_bytes(&msgpack::to_bytes(&unknown)).is_err());
    }
}
