//! Archive records (`docs/format.md`, section 10).

use serde::{Deserialize, Serialize};

use super::config::ChunkerParams;
use super::location::{Location, PackRef};
use super::name::ArchiveName;
use super::{FormatError, limits, msgpack};
use crate::id::{ArchiveId, BlobId, PackId, RepositoryId, SessionId};

/// Where an image's map tree begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// Level of the root node.
    pub level: u8,
    /// Its id.
    pub id: BlobId,
    pack: PackId,
    mode: u8,
    epoch: u32,
    offset: u32,
    sealed: u32,
}

impl Root {
    /// A root at a location.
    #[must_use]
    pub fn new(level: u8, id: BlobId, location: Location) -> Self {
        let Location { pack: PackRef { id: pack, mode, epoch }, offset, sealed_len: sealed } = location;
        Self { level, id, pack, mode, epoch, offset, sealed }
    }

    /// Where the root node lies.
    #[must_use]
    pub fn location(&self) -> Location {
        let pack = PackRef { id: self.pack, mode: self.mode, epoch: self.epoch };
        Location { pack, offset: self.offset, sealed_len: self.sealed }
    }
}

/// What an image was read from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceInfo {
    /// "file", "device", "stdin" or "command".
    pub kind: String,
    /// The path or command line as bytes; not always text.
    #[serde(with = "serde_bytes")]
    pub path: Vec<u8>,
}

/// A regular file as it was when it was read: one that is still the same has the same content. Its size is the member's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileState {
    /// The device that its filesystem is on.
    pub device: u64,
    /// Its inode.
    pub inode: u64,
    /// When its content changed, in ns since 1970.
    pub modified: i64,
    /// When its inode changed, in ns since 1970.
    pub changed: i64,
}

/// One image of an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its name in the archive.
    pub name: ArchiveName,
    /// Size in bytes.
    pub size: u64,
    /// Bytes that are not in holes.
    pub data: u64,
    /// How many different chunks its span maps name, summed over the spans.
    pub chunks: u64,
    /// Logical sector size in bytes, 0 if unknown.
    pub logical_sector: u32,
    /// Physical sector size in bytes, 0 if unknown.
    pub physical_sector: u32,
    /// What it was read from.
    pub source: SourceInfo,
    /// Its map tree; `None` where all is hole.
    pub root: Option<Root>,
    /// Ranges that could not be read and are zeros: (offset, length).
    #[serde(deserialize_with = "msgpack::at_most::<_, _, { limits::MAX_BAD_RANGES }>")]
    pub bad: Vec<(u64, u64)>,
    /// Bytes of blocks that filesystems in the image do not use, left out: zeros in the image whatever the source had there.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub left_out: u64,
    /// What tells the state of the source: the id of a thin device, the name of a snapshot; empty if none was given.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub token: String,
    /// The file that was read, if it was one and can be told from a later state of itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<FileState>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What an archive is a copy of: the archive that was made from the source, however many copies lie between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Origin {
    /// The repository in which it was made.
    pub repository: RepositoryId,
    /// Its id there.
    pub archive: ArchiveId,
}

/// What a create did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CreateStats {
    /// Bytes read from the sources.
    pub read: u64,
    /// Chunks stored.
    pub new_chunks: u64,
    /// Their plain bytes.
    pub new_plain: u64,
    /// Their sealed bytes, maps included.
    pub new_sealed: u64,
    /// Chunks that were already there.
    pub reused_chunks: u64,
}

/// One backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveRecord {
    /// Its name, shared with other archives of the same disk.
    pub name: ArchiveName,
    /// The moment it stands for, in ns since 1970, UTC.
    pub time: i64,
    /// When the create began.
    pub started: i64,
    /// When all of it was stored.
    pub finished: i64,
    /// The machine that made it.
    pub host: String,
    /// The user that made it.
    pub user: String,
    /// What the user says of it.
    pub comment: String,
    /// Tags.
    #[serde(deserialize_with = "msgpack::at_most::<_, _, { limits::MAX_TAGS }>")]
    pub tags: Vec<ArchiveName>,
    /// The newest archive of the same name that the writer saw.
    pub previous: Option<ArchiveId>,
    /// The session that made it; while that exists, the archive is unconfirmed.
    pub session: SessionId,
    /// The images.
    #[serde(deserialize_with = "msgpack::at_most::<_, _, { limits::MAX_MEMBERS }>")]
    pub members: Vec<Member>,
    /// What making it took.
    pub stats: CreateStats,
    /// What it is a copy of, if it was copied from another repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// How its images were cut, if not as the repository says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunker: Option<ChunkerParams>,
}

impl ArchiveRecord {
    /// The stored form.
    ///
    /// # Errors
    /// [`FormatError`] where a bound is broken, so that nothing is written that would not be read.
    pub fn to_bytes(&self) -> Result<Vec<u8>, FormatError> {
        self.check()?;
        Ok(msgpack::to_bytes(self))
    }

    /// Decodes and checks.
    ///
    /// # Errors
    /// [`FormatError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FormatError> {
        let record: Self = msgpack::from_bytes("archive record", bytes)?;
        record.check()?;
        Ok(record)
    }

    /// Its size: that of all members, in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.members.iter().map(|member| member.size).sum()
    }

    fn check(&self) -> Result<(), FormatError> {
        let malformed = |reason: &str| Err(FormatError::malformed("archive record", reason));
        if self.members.is_empty() || self.members.len() > limits::MAX_MEMBERS {
            return malformed("it has no members or too many");
        }
        if self.host.len() > limits::MAX_HOST || self.user.len() > limits::MAX_HOST {
            return malformed("host or user name is too long");
        }
        if self.comment.len() > limits::MAX_COMMENT || self.tags.len() > limits::MAX_TAGS {
            return malformed("comment too long or too many tags");
        }
        let names: std::collections::HashSet<_> = self.members.iter().map(|member| &member.name).collect();
        if names.len() != self.members.len() {
            return malformed("two members have one name");
        }
        if self.members.iter().map(|member| member.bad.len()).sum::<usize>() > limits::MAX_BAD_RANGES {
            return malformed("too many unread ranges");
        }
        if let Some(chunker) = &self.chunker {
            chunker.check()?;
        }
        self.members.iter().try_for_each(Member::check)
    }
}

impl Member {
    fn check(&self) -> Result<(), FormatError> {
        let malformed = |reason: &str| Err(FormatError::malformed("archive member", reason));
        if self.size > limits::MAX_IMAGE || self.data > self.size {
            return malformed("its size is out of bounds");
        }
        if self.root.is_some() != (self.data > 0)
            || self.root.is_some_and(|root| root.level > limits::MAX_LEVEL)
        {
            return malformed("its map tree does not fit its data");
        }
        if self.source.path.len() > limits::MAX_SOURCE_PATH || self.source.kind.len() > limits::MAX_NAME {
            return malformed("its source's path is too long");
        }
        if self.left_out > self.size - self.data || self.token.len() > limits::MAX_TOKEN {
            return malformed("more is left out than is not data, or its token is too long");
        }
        let mut end = 0;
        for (offset, len) in &self.bad {
            let next = offset.checked_add(*len).filter(|next| *len > 0 && *next <= self.size);
            match next {
                Some(next) if *offset >= end => end = next,
                _ => return malformed("its unread ranges overlap or leave the image"),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::format::span_map::tests::location;

    pub(crate) fn sample() -> ArchiveRecord {
        let member = Member {
            name: ArchiveName::new("vda").unwrap(),
            size: 1 << 33,
            data: 1 << 30,
            chunks: 16384,
            logical_sector: 512,
            physical_sector: 4096,
            source: SourceInfo { kind: "device".into(), path: b"/dev/vg0/caf\xe9".to_vec() },
            root: Some(Root::new(1, BlobId([7; 32]), location(3, 4096))),
            bad: vec![],
            left_out: 0,
            token: String::new(),
            file: None,
        };
        ArchiveRecord {
            name: ArchiveName::new("web01").unwrap(),
            time: 1_800_000_000_000_000_000,
            started: 1_800_000_000_000_000_000,
            finished: 1_800_000_001_000_000_000,
            host: "host".into(),
            user: "root".into(),
            comment: "before the upgrade".into(),
            tags: vec![ArchiveName::new("weekly").unwrap()],
            previous: Some(ArchiveId([2; 16])),
            session: SessionId([3; 16]),
            members: vec![member],
            stats: CreateStats::default(),
            origin: None,
            chunker: None,
        }
    }

    #[test]
    fn golden_bytes() {
        let bytes = sample().to_bytes().unwrap();
        assert!(bytes.len() < 4096);
        assert_eq!(&blake3::hash(&bytes).to_hex()[..16], "62aa040363e9b476");
        assert_eq!(ArchiveRecord::from_bytes(&bytes).unwrap(), sample());
        for cut in 0..bytes.len() {
            assert!(ArchiveRecord::from_bytes(&bytes[..cut]).is_err());
        }
    }

    #[test]
    fn golden_bytes_of_a_member_with_everything() {
        let mut full = sample();
        let file = FileState { device: 2049, inode: 7, modified: 1_700_000_000_000_000_001, changed: -1 };
        let member = &mut full.members[0];
        (member.left_out, member.token, member.file) = (1 << 32, "thin 12".into(), Some(file));
        member.bad = vec![(4096, 512)];
        let bytes = full.to_bytes().unwrap();
        assert_eq!(&blake3::hash(&bytes).to_hex()[..16], "0ff21b7e34894c17");
        assert_eq!(ArchiveRecord::from_bytes(&bytes).unwrap(), full);
    }

    #[test]
    fn golden_bytes_of_a_copy() {
        let origin = Some(Origin { repository: RepositoryId([8; 16]), archive: ArchiveId([9; 16]) });
        let copy = ArchiveRecord { origin, ..sample() };
        let bytes = copy.to_bytes().unwrap();
        assert_eq!(bytes.len(), sample().to_bytes().unwrap().len() + 7 + 1 + 11 + 18 + 8 + 18);
        assert_eq!(&blake3::hash(&bytes).to_hex()[..16], "438cf774e2425196");
        assert_eq!(ArchiveRecord::from_bytes(&bytes).unwrap(), copy);
    }

    #[test]
    fn golden_bytes_of_an_archive_that_was_cut_in_another_way() {
        let other = ArchiveRecord { chunker: Some(ChunkerParams::fixed(4096)), ..sample() };
        let bytes = other.to_bytes().unwrap();
        assert_eq!(&blake3::hash(&bytes).to_hex()[..16], "31984ad7522746cf");
        assert_eq!(ArchiveRecord::from_bytes(&bytes).unwrap(), other);
    }

    #[test]
    fn rules_hold_in_both_directions() {
        type Break = fn(&mut ArchiveRecord);
        let breaks: [Break; 8] = [
            |r| r.members.clear(),
            |r| r.members.push(r.members[0].clone()),
            |r| r.members[0].size = 1 << 57,
            |r| r.members[0].root = None,
            |r| r.members[0].bad = vec![(5, 5), (9, 1)],
            |r| r.members[0].bad = vec![(u64::MAX, 5)],
            |r| r.members[0].left_out = r.members[0].size,
            |r| r.members[0].token = "t".repeat(256),
        ];
        for (i, broken) in breaks.iter().enumerate() {
            let mut record = sample();
            broken(&mut record);
            assert!(record.to_bytes().is_err(), "rule {i}");
            assert!(ArchiveRecord::from_bytes(&msgpack::to_bytes(&record)).is_err(), "rule {i}");
        }
    }
}
