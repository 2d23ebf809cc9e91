//! Keys and values that several targets begin with.

use copal::codec::keys::{KeySet, Keyring};
use copal::format::location::{KEY_MODE_CLASS, Location, PackRef};
use copal::format::name::ArchiveName;
use copal::format::record::{ArchiveRecord, CreateStats, FileState, Member, Root, SourceInfo};
use copal::id::{ArchiveId, BlobId, PackId, RepositoryId, SessionId};

/// The repository of all samples.
pub(crate) const REPOSITORY: RepositoryId = RepositoryId([9; 16]);

thread_local! {
    static RING: &'static Keyring = Box::leak(Box::new(Keyring::new(REPOSITORY, &KeySet::public(&REPOSITORY), 1)));
}

/// The keys of all samples.
pub(crate) fn ring() -> &'static Keyring {
    RING.with(|ring| *ring)
}

pub(crate) fn pack(id: u8) -> PackRef {
    PackRef { id: PackId([id; 16]), mode: KEY_MODE_CLASS, epoch: 1 }
}

pub(crate) fn location(id: u8, offset: u32) -> Location {
    Location { pack: pack(id), offset, sealed_len: 77 }
}

pub(crate) fn archive_name(text: &str) -> ArchiveName {
    ArchiveName::new(text).expect("a good name")
}

/// As the golden sample of `format::record`, with a range that could not be read.
pub(crate) fn record() -> ArchiveRecord {
    let member = Member {
        name: archive_name("vda"),
        size: 1 << 33,
        data: 1 << 30,
        chunks: 16384,
        logical_sector: 512,
        physical_sector: 4096,
        source: SourceInfo { kind: "device".into(), path: b"/dev/vg0/caf\xe9".to_vec() },
        root: Some(Root::new(1, BlobId([7; 32]), location(3, 4096))),
        bad: vec![(4096, 512), (8192, 1024)],
        left_out: 8192,
        token: "thin 12".into(),
        file: Some(FileState { device: 2049, inode: 7, modified: 1, changed: -1 }),
    };
    ArchiveRecord {
        name: archive_name("web01"),
        time: 1_800_000_000_000_000_000,
        started: 1_800_000_000_000_000_000,
        finished: 1_800_000_001_000_000_000,
        host: "host".into(),
        user: "root".into(),
        comment: "before the upgrade".into(),
        tags: vec![archive_name("weekly")],
        previous: Some(ArchiveId([2; 16])),
        session: SessionId([3; 16]),
        members: vec![member],
        origin: None,
        chunker: None,
        stats: CreateStats::default(),
    }
}

/// A ring of keys that never change.
pub(crate) fn keyring() -> Keyring {
    let repository = RepositoryId([1; 16]);
    Keyring::new(repository, &KeySet::public(&repository), 1)
}
