//! A repository with everything in it, and what may happen to its objects.

use std::collections::BTreeMap;
use std::sync::Arc;

use copal::codec::slot_key::Secret;
use copal::format::envelope::ObjectKind;
use copal::format::msgpack;
use copal::format::pack::PackKind;
use copal::format::protocol::Session as SessionObject;
use copal::format::record::ArchiveRecord;
use copal::id::{ArchiveId, PackId, SessionId};
use copal::image::Image;
use copal::maintenance::check::report::Report;
use copal::maintenance::check::{CheckOptions, check};
use copal::repository::session::Session;
use copal::repository::unlock::{InitOptions, Locked, init};
use copal::repository::{Error, Repository};
use copal::storage::memory::{MemoryStorage, Objects};
use copal::storage::{Name, Storage};
use copal::task::{Silent, Stop};

use super::compactor::Compactor;
use super::{back_up, file_of, noise, packs_of, reader_of, small_options};

pub(crate) const BLOCK: usize = 4096;

/// What happens to an object's bytes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Damage {
    /// One bit, in this part of the object, of 16.
    Flip(usize),
    /// It keeps this many sixteenths.
    Cut(usize),
    Longer,
    Zeroed,
    Deleted,
    /// It changes places with another of its folder.
    Swapped(Name),
    /// Another of its folder takes its place too.
    Replaced(Name),
}

impl Damage {
    pub(crate) fn apply(&self, storage: &MemoryStorage, name: &Name) {
        let snapshot = storage.snapshot();
        let mut bytes = snapshot[name].to_vec();
        let part = |sixteenths: usize| bytes.len() * sixteenths / 16;
        match self {
            Self::Flip(sixteenths) => {
                let at = if *sixteenths == 15 { bytes.len() - 1 } else { part(*sixteenths) };
                bytes[at] ^= 0x10;
            }
            Self::Cut(sixteenths) => bytes.truncate(part(*sixteenths)),
            Self::Longer => bytes.extend([0; 40]),
            Self::Zeroed => bytes.fill(0),
            Self::Deleted => return storage.delete(name).expect("delete"),
            Self::Swapped(other) => {
                storage.overwrite(other, bytes);
                bytes = snapshot[other].to_vec();
            }
            Self::Replaced(other) => bytes = snapshot[other].to_vec(),
        }
        storage.overwrite(name, bytes);
    }

    pub(crate) fn in_mirror(&self) -> Self {
        match self {
            Self::Swapped(other) => Self::Swapped(mirror(other)),
            Self::Replaced(other) => Self::Replaced(mirror(other)),
            damage => damage.clone(),
        }
    }
}

pub(crate) fn mirror(name: &Name) -> Name {
    Name::new(&format!("mirror/{name}")).expect("a name")
}

/// A repository with at least one object in every folder, most of them two.
pub(crate) struct Scene {
    pub(crate) objects: Objects,
    pub(crate) secret: Secret,
    pub(crate) archives: Vec<(ArchiveId, Vec<u8>)>,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let storage = MemoryStorage::new();
        let secret = Secret::KeyFile(noise(99, 64).into());
        let options = InitOptions { secret: Some(secret.clone()), ..small_options() };
        let repository = Arc::new(init(Arc::new(storage.clone()), &options).expect("init"));
        let mut first = noise(1, 3 << 19);
        first[500_000..700_000].fill(0);
        let mut second = [&first[..800_000], &noise(2, 3 << 18)].concat();
        second.resize(5 << 20, 0);
        second.extend(noise(3, 50_000));
        let archives = [first, second].map(|bytes| {
            let id = back_up(&repository, "disk", file_of(&bytes).path()).id.expect("not a dry run");
            (id, bytes)
        });
        let compactor = Compactor(repository.clone());
        for kind in [PackKind::Data, PackKind::Maps] {
            for pack in packs_of(&repository, archives[0].0, kind) {
                let copied = compactor.copy(kind, pack, |_| true);
                compactor.publish_index(&copied);
                compactor.forward(&copied);
                compactor.delete_pack(kind, pack);
            }
        }
        for _ in 0..2 {
            compactor.condemn(&[PackId::random()]);
            compactor.intend(&[PackId::random()], &[]);
            let died = SessionObject {
                host: "elsewhere".into(),
                pid: 1,
                boot: "then".into(),
                started: 0,
                heartbeat: 0,
                what: "died".into(),
            };
            let name = format!("sessions/{}", SessionId::random());
            repository.objects().put(ObjectKind::Session, &name, &msgpack::to_bytes(&died)).expect("put");
            let withdrawn = Session::begin(&repository, "failed").expect("session");
            let record = repository.record(archives[0].0).expect("record");
            withdrawn.publish(&ArchiveRecord { session: withdrawn.id(), ..record }).expect("publish");
        }
        Self { objects: storage.snapshot(), secret, archives: archives.into() }
    }

    pub(crate) fn storage(&self) -> MemoryStorage {
        MemoryStorage::from_snapshot(self.objects.clone())
    }

    pub(crate) fn open(&self, storage: impl Storage + 'static) -> Result<Arc<Repository>, Error> {
        Locked::read(Arc::new(storage))?.unlock(Some(&self.secret)).map(Arc::new)
    }

    pub(crate) fn check(&self, storage: impl Storage + 'static, verify_data: bool) -> Report {
        let options = CheckOptions { verify_data, ..CheckOptions::default() };
        check(&self.open(storage).expect("open"), &options, &Stop::default(), &Silent).expect("check")
    }

    /// All objects of the first place, by folder.
    pub(crate) fn folders(&self) -> BTreeMap<String, Vec<Name>> {
        let mut folders: BTreeMap<String, Vec<Name>> = BTreeMap::new();
        for name in self.objects.keys().filter(|name| !name.as_str().starts_with("mirror/")) {
            let folder = name.as_str().split('/').next().expect("a part");
            folders.entry(folder.to_owned()).or_default().push(name.clone());
        }
        folders
    }

    /// Every object of the first place with all that may happen to it.
    pub(crate) fn cases(&self) -> Vec<(String, Name, Damage)> {
        let mut cases = Vec::new();
        for (folder, names) in self.folders() {
            for (i, name) in names.iter().enumerate() {
                let other = &names[(i + 1) % names.len()];
                let flips = [0, 3, 8, 15].map(Damage::Flip).into_iter();
                let cuts = [Damage::Cut(0), Damage::Cut(9), Damage::Longer, Damage::Zeroed, Damage::Deleted];
                let others = [Damage::Swapped(other.clone()), Damage::Replaced(other.clone())];
                let others = others.into_iter().filter(|_| other != name);
                cases.extend(
                    flips.chain(cuts).chain(others).map(|damage| (folder.clone(), name.clone(), damage)),
                );
            }
        }
        cases
    }

    /// The report names just those blocks of archives that cannot be read.
    pub(crate) fn assert_ranges_are_exact(&self, storage: &MemoryStorage, report: &Report, at: &str) {
        let repository = self.open(storage.clone()).expect("open");
        let reader = reader_of(&repository);
        for (id, bytes) in &self.archives {
            let damaged = report.damaged.iter().find(|damaged| damaged.id == *id);
            let Ok(record) = repository.record(*id) else {
                if !repository.archives().expect("list").iter().any(|archive| archive.id() == *id)
                    && report.findings.is_empty()
                {
                    // Nothing tells that it was ever there.
                    continue;
                }
                assert!(damaged.is_some_and(|damaged| damaged.reason.is_some()), "{at}: {id}");
                continue;
            };
            let image = Image::of(&record.members[0], repository.config().span_shift);
            let ranges = damaged.map(|damaged| damaged.members[0].ranges.clone()).unwrap_or_default();
            let mut buffer = [0; BLOCK];
            for (block, expected) in bytes.chunks(BLOCK).enumerate() {
                let start = (block * BLOCK) as u64;
                let lost = ranges.iter().any(|range| range.start < start + BLOCK as u64 && start < range.end);
                match reader.read_at(&image, start, &mut buffer) {
                    Ok(len) => assert!(!lost && buffer[..len] == *expected, "{at}: {id} block {block}"),
                    Err(_) => assert!(lost, "{at}: {id} block {block} is lost, and not told"),
                }
            }
        }
    }

    /// Reads every block of every archive: whether it could be had. Panics if one is wrong.
    pub(crate) fn survey(&self, repository: &Arc<Repository>, at: &str) -> Vec<bool> {
        let reader = reader_of(repository);
        let mut readable = Vec::new();
        for (id, bytes) in &self.archives {
            let blocks = bytes.chunks(BLOCK);
            let Ok(record) = repository.record(*id) else {
                readable.extend(blocks.map(|_| false));
                continue;
            };
            let image = Image::of(&record.members[0], repository.config().span_shift);
            let mut buffer = [0xaa; BLOCK];
            for (block, expected) in blocks.enumerate() {
                let read = reader.read_at(&image, (block * BLOCK) as u64, &mut buffer);
                readable.push(read.is_ok());
                let right = read.is_err() || buffer[..expected.len()] == *expected;
                assert!(right, "{at}: block {block} of {id} is wrong");
            }
        }
        readable
    }
}
