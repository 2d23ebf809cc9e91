//! Damage is local: whatever is flipped, cut, swapped, zeroed or deleted, no byte ever comes back wrong, nothing panics, and what does not need
//! the damaged bytes stays whole.

mod common;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use common::compactor::Compactor;
use common::{file_of, image, noise, options, packs_of, reader_of, small_options};
use copal::archiver::create::create;
use copal::archiver::{self, Silent, Stop};
use copal::codec::compress::Compression;
use copal::codec::keys::BlobKind;
use copal::codec::slot_key::Secret;
use copal::format::pack::{PackEntry, PackKind, seal_blob};
use copal::format::record::ArchiveRecord;
use copal::id::{ArchiveId, BlobId, PackId};
use copal::repository::packer::PackWriter;
use copal::repository::session::Session;
use copal::repository::unlock::{InitOptions, Locked, init};
use copal::repository::{Error, Repository};
use copal::storage::memory::{MemoryStorage, Objects};
use copal::storage::{Name, Storage};

const BLOCK: usize = 4096;

/// What happens to an object's bytes.
#[derive(Debug, Clone)]
enum Damage {
    /// One bit, in this part of the object, of 16.
    Flip(usize),
    /// It keeps this many sixteenths.
    Cut(usize),
    Longer,
    Zeroed,
    Deleted,
    /// It changes places with another of its folder.
    Swapped(Name),
}

impl Damage {
    fn kinds() -> Vec<Self> {
        let flips = [0, 3, 8, 15].map(Self::Flip);
        let cuts = [0, 9].map(Self::Cut);
        flips.into_iter().chain(cuts).chain([Self::Longer, Self::Zeroed, Self::Deleted]).collect()
    }

    fn apply(&self, storage: &MemoryStorage, name: &Name) {
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
        }
        storage.overwrite(name, bytes);
    }
}

/// A repository with at least one object in every folder, most of them two.
struct Scene {
    objects: Objects,
    secret: Secret,
    archives: Vec<(ArchiveId, Vec<u8>)>,
}

impl Scene {
    fn new() -> Self {
        let storage = MemoryStorage::new();
        let secret = Secret::KeyFile(noise(99, 64).into());
        let options = InitOptions { secret: Some(secret.clone()), ..small_options() };
        let repository = Arc::new(init(Arc::new(storage.clone()), &options).expect("init"));
        let mut first = noise(1, 3 << 19);
        first[500_000..700_000].fill(0);
        let mut second = [&first[..800_000], &noise(2, 3 << 18)].concat();
        second.resize(5 << 20, 0);
        second.extend(noise(3, 50_000));
        let archives = [first, second].map(|bytes| (back_up(&repository, &bytes).expect("create"), bytes));

        let compactor = Compactor(repository.clone());
        for kind in [PackKind::Data, PackKind::Maps] {
            // The first archive's packs were compacted; the second one's maps still hint at them.
            for pack in packs_of(&repository, archives[0].0, kind) {
                compactor.forward(&compactor.copy(kind, pack, |_| true));
                compactor.delete_pack(kind, pack);
            }
        }
        for _ in 0..2 {
            compactor.condemn(&[PackId::random()]);
            compactor.intend(&[PackId::random()], &[]);
            let left = Session::begin(&repository, "died").expect("session");
            let withdrawn = Session::begin(&repository, "failed").expect("session");
            let record = repository.record(archives[0].0).expect("record");
            withdrawn.publish(&ArchiveRecord { session: withdrawn.id(), ..record }).expect("publish");
            drop(withdrawn);
            std::mem::forget(left);
        }
        Self { objects: storage.snapshot(), secret, archives: archives.into() }
    }

    fn storage(&self) -> MemoryStorage {
        MemoryStorage::from_snapshot(self.objects.clone())
    }

    fn open(&self, storage: &MemoryStorage) -> Result<Arc<Repository>, Error> {
        Locked::read(Arc::new(storage.clone()))?.unlock(Some(&self.secret)).map(Arc::new)
    }

    /// All objects of the first place, by folder.
    fn folders(&self) -> BTreeMap<String, Vec<Name>> {
        let mut folders: BTreeMap<String, Vec<Name>> = BTreeMap::new();
        for name in self.objects.keys().filter(|name| !name.as_str().starts_with("mirror/")) {
            let folder = name.as_str().split('/').next().expect("a part");
            folders.entry(folder.to_owned()).or_default().push(name.clone());
        }
        folders
    }

    /// Every object of the first place with all that may happen to it.
    fn cases(&self) -> Vec<(String, Name, Damage)> {
        let mut cases = Vec::new();
        for (folder, names) in self.folders() {
            for (i, name) in names.iter().enumerate() {
                let other = &names[(i + 1) % names.len()];
                let swap = (other != name).then(|| Damage::Swapped(other.clone()));
                cases.extend(
                    Damage::kinds()
                        .into_iter()
                        .chain(swap)
                        .map(|damage| (folder.clone(), name.clone(), damage)),
                );
            }
        }
        cases
    }

    /// Reads every block of every archive: whether it could be had. Panics if one is wrong.
    fn survey(&self, repository: &Arc<Repository>, at: &str) -> Vec<Vec<bool>> {
        let reader = reader_of(repository);
        let blocks_of = |(id, bytes): &(ArchiveId, Vec<u8>)| {
            let Ok(record) = repository.record(*id) else { return vec![false; bytes.len().div_ceil(BLOCK)] };
            let image = copal::image::Image::of(&record.members[0], repository.config().span_shift);
            assert_eq!(image.size, bytes.len() as u64, "{at}");
            let mut buffer = [0xaa; BLOCK];
            let mut read = |(block, expected): (usize, &[u8])| {
                let read = reader.read_at(&image, (block * BLOCK) as u64, &mut buffer);
                read.is_ok_and(|len| {
                    assert!(buffer[..len] == *expected, "{at}: block {block} of {id} is wrong");
                    true
                })
            };
            bytes.chunks(BLOCK).enumerate().map(&mut read).collect()
        };
        self.archives.iter().map(blocks_of).collect()
    }

    fn assert_whole(&self, storage: &MemoryStorage, at: &str) {
        let repository = self.open(storage).unwrap_or_else(|error| panic!("{at}: {error}"));
        let survey = self.survey(&repository, at);
        assert!(survey.iter().flatten().all(|ok| *ok), "{at}: not whole");
        let listed: HashSet<ArchiveId> = listed(&repository);
        assert_eq!(listed, self.archives.iter().map(|(id, _)| *id).collect(), "{at}");
    }

    /// A new backup of the second archive's content comes back whole.
    fn assert_create_works(&self, storage: &MemoryStorage, at: &str) {
        let repository = self.open(storage).expect("open");
        let bytes = &self.archives[1].1;
        let id = back_up(&repository, bytes).unwrap_or_else(|error| panic!("{at}: {error}"));
        let repository = self.open(storage).expect("open");
        assert!(
            common::read_all(&reader_of(&repository), &image(&repository, id), 1 << 20) == *bytes,
            "{at}"
        );
    }
}

fn listed(repository: &Repository) -> HashSet<ArchiveId> {
    repository.archives().expect("list").iter().map(copal::repository::archives::Archive::id).collect()
}

fn back_up(repository: &Arc<Repository>, bytes: &[u8]) -> Result<ArchiveId, archiver::Error> {
    let created = create(repository, &options("disk", &[file_of(bytes).path()]), &Stop::default(), &Silent)?;
    Ok(created.id.expect("not a dry run"))
}

fn mirror(name: &Name) -> Name {
    Name::new(&format!("mirror/{name}")).expect("a name")
}

/// The same damage to the second copy of what was damaged, and of what it was swapped with.
fn in_mirror(damage: &Damage) -> Damage {
    match damage {
        Damage::Swapped(other) => Damage::Swapped(mirror(other)),
        damage => damage.clone(),
    }
}

#[test]
fn the_scene_has_every_folder() {
    let scene = Scene::new();
    let folders: Vec<String> = scene.folders().into_keys().collect();
    let expected = [
        "archives",
        "catalogue",
        "condemned",
        "config",
        "index",
        "intents",
        "keys",
        "maps",
        "moved",
        "packs",
        "sessions",
        "states",
    ];
    assert_eq!(folders, expected);
    scene.assert_whole(&scene.storage(), "undamaged");
    scene.assert_create_works(&scene.storage(), "undamaged");
}

#[test]
fn one_damaged_copy_of_two_harms_nothing() {
    let scene = Scene::new();
    let mut cases = 0;
    for (_, name, damage) in scene.cases() {
        if !scene.objects.contains_key(&mirror(&name)) {
            continue;
        }
        for (name, damage) in [(name.clone(), damage.clone()), (mirror(&name), in_mirror(&damage))] {
            let storage = scene.storage();
            damage.apply(&storage, &name);
            let at = format!("{name} {damage:?}");
            scene.assert_whole(&storage, &at);
            scene.assert_create_works(&storage, &at);
            cases += 1;
        }
    }
    assert!(cases > 200, "{cases}");
}

#[test]
fn damage_of_both_copies_stays_where_it_is() {
    let scene = Scene::new();
    for (folder, name, damage) in scene.cases() {
        let storage = scene.storage();
        damage.apply(&storage, &name);
        if scene.objects.contains_key(&mirror(&name)) {
            in_mirror(&damage).apply(&storage, &mirror(&name));
        }
        let at = format!("{name} {damage:?}");
        let repository = match scene.open(&storage) {
            Ok(repository) => repository,
            Err(error) => {
                assert!(["config", "keys"].contains(&&*folder), "{at}: {error}");
                continue;
            }
        };
        let survey = scene.survey(&repository, &at);
        let spared = |archive: usize| survey[archive].iter().all(|ok| *ok);
        match &*folder {
            "index" | "catalogue" | "sessions" | "states" => {
                scene.survey(&repository, &at);
                assert!(spared(0) && spared(1), "{at}");
                assert!(scene.archives.iter().all(|(id, _)| listed(&repository).contains(id)), "{at}");
                scene.assert_create_works(&storage, &at);
            }
            "condemned" | "intents" => {
                scene.assert_whole(&storage, &at);
                let created = back_up(&repository, b"anything");
                let refused = matches!(created, Err(archiver::Error::Repository(Error::Damaged { .. })));
                assert!(refused || matches!(damage, Damage::Deleted), "{at}: {created:?}");
            }
            "archives" => {
                let hit = |id: ArchiveId| match &damage {
                    Damage::Swapped(other) => {
                        [&name, other].iter().any(|name| name.as_str().ends_with(&id.to_string()))
                    }
                    _ => name.as_str().ends_with(&id.to_string()),
                };
                for (i, (id, _)) in scene.archives.iter().enumerate() {
                    assert_eq!(spared(i), !hit(*id), "{at}");
                }
                scene.assert_create_works(&storage, &at);
            }
            // Maps that are lost are made again, and what was moved is stored again where it cannot be found.
            "maps" | "moved" => scene.assert_create_works(&storage, &at),
            "packs" => {}
            "config" | "keys" => assert!(matches!(damage, Damage::Swapped(_)), "{at}: it opens"),
            other => panic!("{other} is not judged"),
        }
    }
}

/// Every chunk that the archives use.
fn chunks(scene: &Scene, repository: &Arc<Repository>) -> Vec<Vec<(BlobId, std::ops::Range<u64>)>> {
    let reader = reader_of(repository);
    let mut all = Vec::new();
    for (id, bytes) in &scene.archives {
        let image = image(repository, *id);
        let mut extents = Vec::new();
        for span in 0..(bytes.len() as u64).div_ceil(1 << image.span_shift) {
            let Some(map) = reader.maps().span(&image, span).expect("map") else { continue };
            let base = span << image.span_shift;
            for extent in &map.map.extents {
                let range = base + u64::from(extent.offset)..base + extent.end();
                extents.push((map.map.chunks[extent.chunk as usize].id, range));
            }
        }
        all.push(extents);
    }
    all
}

/// Asserts that just those blocks fail that lie over a lost chunk; returns how many do.
fn check_blocks(scene: &Scene, storage: &MemoryStorage, lost: &HashSet<BlobId>, at: &str) -> usize {
    let repository = scene.open(storage).expect("open");
    let extents = chunks(scene, &repository);
    let mut failed = 0;
    for (blocks, extents) in scene.survey(&repository, at).iter().zip(extents) {
        for (block, ok) in blocks.iter().enumerate() {
            let range = (block * BLOCK) as u64..((block + 1) * BLOCK) as u64;
            let over = |(id, extent): &(BlobId, std::ops::Range<u64>)| {
                lost.contains(id) && extent.start < range.end && range.start < extent.end
            };
            assert_eq!(*ok, !extents.iter().any(over), "{at}: block {block}");
            failed += usize::from(!ok);
        }
    }
    failed
}

/// The chunks of a pack whose sealed bytes are not what they were.
fn changed(entries: &[PackEntry], before: &[u8], after: Option<&[u8]>) -> Vec<BlobId> {
    let same = |entry: &&PackEntry| {
        let range = entry.offset as usize..(entry.offset + entry.sealed_len) as usize;
        after.and_then(|after| after.get(range.clone())) == Some(&before[range])
    };
    entries.iter().filter(|entry| !same(entry)).map(|entry| entry.id).collect()
}

fn pack_id(name: &Name) -> PackId {
    name.as_str().rsplit('/').next().expect("a part").parse().expect("an id")
}

fn lost_by(scene: &Scene, storage: &MemoryStorage, repository: &Repository) -> HashSet<BlobId> {
    let after = storage.snapshot();
    let mut lost = HashSet::new();
    for name in &scene.folders()["packs"] {
        let entries = repository.packs().entries(PackKind::Data, pack_id(name)).expect("entries");
        lost.extend(changed(&entries, &scene.objects[name], after.get(name).map(|bytes| &bytes[..])));
    }
    lost
}

#[test]
fn a_damaged_data_pack_costs_just_the_blocks_over_its_damaged_chunks() {
    let scene = Scene::new();
    let undamaged = scene.open(&scene.storage()).expect("open");
    let [mut some, mut none] = [0, 0];
    for (_, name, damage) in scene.cases().into_iter().filter(|(folder, _, _)| folder == "packs") {
        let storage = scene.storage();
        damage.apply(&storage, &name);
        let lost = lost_by(&scene, &storage, &undamaged);
        let failed = check_blocks(&scene, &storage, &lost, &format!("{name} {damage:?}"));
        *(if failed > 0 { &mut some } else { &mut none }) += 1;
    }
    assert!(some > 10 && none > 5, "{some} cases lose blocks, {none} hit only headers and trailers");
}

#[test]
fn one_flipped_bit_costs_one_chunk() {
    let scene = Scene::new();
    let undamaged = scene.open(&scene.storage()).expect("open");
    for name in &scene.folders()["packs"] {
        let entries = undamaged.packs().entries(PackKind::Data, pack_id(name)).expect("entries");
        for entry in entries.iter().step_by(1 + entries.len() / 8) {
            for at in [entry.offset, entry.offset + entry.sealed_len / 2, entry.offset + entry.sealed_len - 1]
            {
                let storage = scene.storage();
                let mut bytes = scene.objects[name].to_vec();
                bytes[at as usize] ^= 1;
                storage.overwrite(name, bytes);
                let lost = HashSet::from([entry.id]);
                assert_eq!(lost_by(&scene, &storage, &undamaged), lost);
                check_blocks(&scene, &storage, &lost, &format!("{name}, byte {at}"));
            }
        }
    }
}

/// As after a memory fault between hashing and sealing: the tag is valid, the bytes are not those that the id names.
#[test]
fn a_valid_seal_over_wrong_bytes_is_refused() {
    let scene = Scene::new();
    let storage = scene.storage();
    let repository = scene.open(&storage).expect("open");
    let (id, extent) = chunks(&scene, &repository)[1].last().expect("it has data").clone();
    let mut wrong = scene.archives[1].1[extent.start as usize..extent.end as usize].to_vec();
    wrong[0] ^= 1;
    let sealed =
        seal_blob(repository.keyring(), BlobKind::Chunk, &id, &wrong, Compression::None).expect("seal");

    let holds = |pack: &PackId| {
        let entries = repository.packs().entries(PackKind::Data, *pack).expect("entries");
        entries.iter().any(|entry| entry.id == id)
    };
    let from = scene.folders()["packs"].iter().map(pack_id).find(holds).expect("its pack");
    let compactor = Compactor(repository.clone());
    let mut copied = compactor.copy(PackKind::Data, from, |entry| entry.id == id);
    let writer = PackWriter::start(PackKind::Data, 1 << 30, repository.objects().clone()).expect("thread");
    writer.add(BlobKind::Chunk, &id, wrong.len(), &sealed).expect("add");
    let stored = writer.finish().expect("finish").remove(0);
    compactor.delete_pack(PackKind::Data, copied.pack.id);
    (copied.pack, copied.entries) = (stored.pack, stored.entries);
    compactor.forward(&copied);
    let rest = compactor.copy(PackKind::Data, from, |entry| entry.id != id);
    compactor.forward(&rest);
    compactor.delete_pack(PackKind::Data, from);
    assert!(check_blocks(&scene, &storage, &HashSet::from([id]), "wrong bytes") > 0);
}

#[test]
fn what_is_added_to_a_writer_that_was_closed_is_no_silent_loss() {
    let scene = Scene::new();
    let repository = scene.open(&scene.storage()).expect("open");
    let objects = repository.objects().clone();
    let mut writer = PackWriter::start(PackKind::Data, 1 << 30, objects).expect("thread");
    let blob = |number: u8| BlobId([number; 32]);
    writer.add(BlobKind::Chunk, &blob(1), 5, b"first").expect("add");
    writer.close().expect("close");
    writer.add(BlobKind::Chunk, &blob(2), 6, b"second").expect("kept for the pack that is not sent");
    assert!(writer.finish().is_err());
}

#[test]
fn any_flipped_byte_of_one_config_or_slot_harms_nothing() {
    let scene = Scene::new();
    let folders = scene.folders();
    for name in [&folders["config"][0], &folders["keys"][0]] {
        for at in 0..scene.objects[name].len() {
            for copies in [vec![name.clone()], vec![mirror(name)], vec![name.clone(), mirror(name)]] {
                let storage = scene.storage();
                for copy in &copies {
                    let mut bytes = scene.objects[copy].to_vec();
                    bytes[at] ^= 2;
                    storage.overwrite(copy, bytes);
                }
                let opened = scene.open(&storage);
                assert_eq!(opened.is_ok(), copies.len() == 1, "byte {at} of {copies:?}: {:?}", opened.err());
            }
        }
    }
}

/// A newer program rewrote the first copy and was interrupted: the second, older one must not be used in its place.
#[test]
fn a_config_of_the_future_is_not_taken_for_damage() {
    let scene = Scene::new();
    let config = scene.folders()["config"][0].clone();
    for at in [8, 16] {
        let storage = scene.storage();
        let mut bytes = scene.objects[&config].to_vec();
        bytes[at] ^= 2;
        let covered = bytes.len() - 16;
        let sum = blake3::hash(&bytes[..covered]);
        bytes[covered..].copy_from_slice(&sum.as_bytes()[..16]);
        storage.overwrite(&config, bytes);
        let error = scene.open(&storage).expect_err("it needs a newer program");
        assert!(matches!(error, Error::Format(_)), "{error}");
    }
}
