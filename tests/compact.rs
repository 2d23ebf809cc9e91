//! Compaction: what nobody needs goes, what anybody needs stays, and it is told which is which.

mod common;
#[path = "compact/missing.rs"]
mod missing;

use std::collections::BTreeSet;
use std::sync::Arc;

use common::compactor::Compactor;
use common::watched::Watched;
use common::{assert_whole, back_up, file_of, listed, make, mixed, noise, open, packs_of};
use copal::format::pack::PackKind;
use copal::id::{ArchiveId, PackId};
use copal::maintenance::Error;
use copal::maintenance::compact::{Candidate, CompactOptions, Compacted, compact};
use copal::repository::session::Session;
use copal::storage::faults::Faults;
use copal::storage::memory::MemoryStorage;
use copal::storage::recorder::Op;
use copal::storage::{Settle, Storage};
use copal::task::{Silent, Stop};
use parking_lot::Mutex;

fn run(storage: impl Storage + 'static, options: CompactOptions) -> Result<Compacted, Error> {
    compact(&open(storage), &options, &Stop::default(), &Silent)
}

fn stored(storage: &MemoryStorage) -> u64 {
    let folders = ["packs", "maps"].map(|folder| storage.list(folder).expect("list"));
    folders.iter().flatten().map(|object| object.len).sum()
}

/// Names of all that is stored beneath a folder, second copies included.
fn names(storage: &impl Storage, folder: &str) -> Vec<String> {
    let places = [folder.to_owned(), format!("mirror/{folder}")];
    let listed = places.iter().flat_map(|place| storage.list(place).expect("list"));
    listed.map(|object| object.name.to_string()).collect()
}

fn assert_quiet(storage: &impl Storage, at: &str) {
    for folder in ["sessions", "condemned", "intents"] {
        assert_eq!(names(storage, folder), Vec::<String>::new(), "{at}");
    }
}

/// Three archives of a disk that changes, and one of another disk.
struct Scene {
    storage: MemoryStorage,
    archives: Vec<(ArchiveId, Vec<u8>)>,
}

impl Scene {
    fn new() -> Self {
        let storage = MemoryStorage::new();
        let repository = make(storage.clone());
        let mut bytes = mixed(1, 9 << 20);
        let mut archives = Vec::new();
        for round in 0..3u64 {
            // Half a megabyte of each span changes.
            for span in [0, 4 << 20, 8 << 20] {
                bytes[span..span + (512 << 10)].copy_from_slice(&noise(round * 10 + span as u64, 512 << 10));
            }
            let id = back_up(&repository, "disk", file_of(&bytes).path()).id.expect("an id");
            archives.push((id, bytes.clone()));
        }
        let other = noise(99, 3 << 20);
        archives.push((back_up(&repository, "other", file_of(&other).path()).id.expect("an id"), other));
        Self { storage, archives }
    }

    fn delete(&self, numbers: &[usize]) {
        let hand = Compactor::new(self.storage.clone());
        numbers.iter().for_each(|number| hand.delete_archive(self.archives[*number].0));
    }

    fn assert_whole_but(&self, gone: &[usize]) {
        self.assert_whole_beside(gone, []);
    }

    /// Whether all but some are whole, and nothing is listed beside them but `others`.
    fn assert_whole_beside(&self, gone: &[usize], others: impl IntoIterator<Item = ArchiveId>) {
        let mut kept: BTreeSet<_> = others.into_iter().collect();
        for (number, (id, bytes)) in self.archives.iter().enumerate() {
            if !gone.contains(&number) {
                assert_whole(self.storage.clone(), *id, bytes);
                kept.insert(*id);
            }
        }
        assert_eq!(listed(self.storage.clone()), kept);
    }
}

#[test]
fn nothing_is_done_where_all_is_needed() {
    let scene = Scene::new();
    let before = stored(&scene.storage);
    let done = run(scene.storage.clone(), CompactOptions::default()).expect("compact");
    assert_eq!((done.packs, done.rewritten, done.archives), (0, 0, 0), "{done:?}");
    assert_eq!(stored(&scene.storage), before);
    assert_quiet(&scene.storage, "unchanged");
    scene.assert_whole_but(&[]);
}

#[test]
fn what_only_deleted_archives_need_goes() {
    let scene = Scene::new();
    let before = stored(&scene.storage);
    scene.delete(&[3]);
    let done = run(scene.storage.clone(), CompactOptions::default()).expect("compact");
    assert_eq!(done.archives, 1);
    assert!(done.freed > 3 << 20, "{done:?}");
    assert!(before - stored(&scene.storage) > 3 << 20);
    assert_quiet(&scene.storage, "deleted");
    scene.assert_whole_but(&[3]);
    let id = scene.archives[3].0.to_string();
    assert!(!names(&scene.storage, "archives").iter().any(|name| name.contains(&id)));
    // Who missed it would find out why.
    assert_eq!(names(&scene.storage, "states").iter().filter(|name| name.contains(&id)).count(), 2);
    let again = run(scene.storage.clone(), CompactOptions::default()).expect("compact");
    assert_eq!((again.packs, again.archives, again.plan.dead()), (0, 0, (0, 0)));
}

#[test]
fn half_dead_packs_are_rewritten_and_readers_follow() {
    for gone in [vec![0], vec![1], vec![0, 1], vec![0, 1, 2], vec![2, 3]] {
        let scene = Scene::new();
        let mount = common::reader_of(&open(scene.storage.clone()));
        scene.delete(&gone);
        let options = CompactOptions { threshold: 1, ..CompactOptions::default() };
        let done = run(scene.storage.clone(), options).expect("compact");
        assert!(done.packs > 0 && done.spared.is_empty(), "{gone:?}: {done:?}");
        scene.assert_whole_but(&gone);
        assert_quiet(&scene.storage, "rewritten");
        // Somebody who had opened it before, too.
        for (number, (id, bytes)) in scene.archives.iter().enumerate().filter(|(n, _)| !gone.contains(n)) {
            let image = common::image(mount.repository(), *id);
            assert!(common::read_all(&mount, &image, 1 << 20) == *bytes, "archive {number} in an old mount");
        }
        let again = run(scene.storage.clone(), options).expect("compact");
        assert_eq!((again.packs, again.rewritten), (0, 0), "{gone:?}: once is enough: {again:?}");
        let next = back_up(&open(scene.storage.clone()), "other", file_of(&scene.archives[3].1).path());
        assert!(gone.contains(&3) || next.record.stats.new_chunks == 0, "survivors are found");
    }
}

#[test]
fn forwardings_go_when_nothing_names_their_pack() {
    let scene = Scene::new();
    scene.delete(&[0]);
    let options = CompactOptions { threshold: 1, ..CompactOptions::default() };
    run(scene.storage.clone(), options).expect("compact");
    assert_ne!(names(&scene.storage, "moved"), Vec::<String>::new());
    scene.delete(&[1, 2]);
    run(scene.storage.clone(), options).expect("compact");
    scene.assert_whole_but(&[0, 1, 2]);
    let left = packs_of(&open(scene.storage.clone()), scene.archives[3].0, PackKind::Data);
    assert_eq!(names(&scene.storage, "packs").len(), left.len());
    scene.delete(&[3]);
    for _ in 0..2 {
        run(scene.storage.clone(), options).expect("compact");
    }
    for folder in ["moved", "packs", "maps", "index", "archives"] {
        assert_eq!(names(&scene.storage, folder), Vec::<String>::new());
    }
    // Of each archive only what it was deleted by, twice.
    let states = names(&scene.storage, "states");
    let of = |id: &ArchiveId| states.iter().filter(|name| name.contains(&id.to_string())).count();
    assert!(scene.archives.iter().all(|(id, _)| of(id) == 2) && states.len() == 8, "{states:?}");
}

#[test]
fn many_compactions_of_one_disk_leave_all_readable() {
    let storage = MemoryStorage::new();
    let repository = make(storage.clone());
    let mut bytes = mixed(7, 4 << 20);
    let mut kept: Vec<(ArchiveId, Vec<u8>)> = Vec::new();
    let options = CompactOptions { threshold: 1, ..CompactOptions::default() };
    for round in 0..22u64 {
        let at = (round as usize * 417_000) % (3 << 20);
        bytes[at..at + (300 << 10)].copy_from_slice(&noise(1000 + round, 300 << 10));
        let id = back_up(&repository, "disk", file_of(&bytes).path()).id.expect("an id");
        kept.push((id, bytes.clone()));
        if kept.len() > 3 {
            // Never the oldest only: chains of forwardings grow long.
            let (gone, _) = kept.remove(1);
            Compactor::new(storage.clone()).delete_archive(gone);
        }
        run(storage.clone(), options).expect("compact");
        for (id, bytes) in &kept {
            assert_whole(storage.clone(), *id, bytes);
        }
    }
    assert!(names(&storage, "index").len() < 12, "segments are merged");
    assert!(stored(&storage) < 12 << 20, "{} bytes for three archives of 4 MiB", stored(&storage));
    // Ways stay short enough for readers, who would otherwise need the index.
    for name in names(&storage, "index") {
        storage.delete(&copal::storage::Name::new(&name).expect("a name")).expect("delete");
    }
    for (id, bytes) in &kept {
        assert_whole(storage.clone(), *id, bytes);
    }
}

#[test]
fn a_dry_run_changes_nothing() {
    let scene = Scene::new();
    scene.delete(&[0, 3]);
    let objects = |storage: &MemoryStorage| {
        ["", "mirror/"].map(|place| {
            ["packs", "maps", "index", "archives", "states", "sessions", "condemned", "catalogue"]
                .map(|folder| storage.list(&format!("{place}{folder}")).expect("list"))
        })
    };
    let before = objects(&scene.storage);
    let options = CompactOptions { dry_run: true, threshold: 1, ..CompactOptions::default() };
    let would = run(scene.storage.clone(), options).expect("a dry run");
    assert!(objects(&scene.storage) == before);
    assert_eq!(would.plan.archives, 2);
    assert!(would.plan.dead().1 > 3 << 20 && would.plan.half_dead().0 > 0, "{:?}", would.plan);
    let done = run(scene.storage.clone(), CompactOptions { dry_run: false, ..options }).expect("compact");
    assert_eq!(done.packs, would.plan.dead().0 + would.plan.half_dead().0, "as foretold");
}

#[test]
fn a_session_that_began_before_is_waited_for() {
    let scene = Scene::new();
    scene.delete(&[3]);
    let repository = open(scene.storage.clone());
    let session = Session::begin(&repository, "create something").expect("begin");
    let waits = run(scene.storage.clone(), CompactOptions::default()).expect("compact");
    assert_eq!((waits.packs, waits.waiting.len()), (0, 1), "{waits:?}");
    let waiting = waits.waiting.get(&session.id()).expect("it waits for that one");
    assert!(waiting.bytes > 3 << 20);
    assert_ne!(names(&scene.storage, "condemned"), Vec::<String>::new(), "nobody claims there any more");
    run(scene.storage.clone(), CompactOptions::default()).expect("compact");
    assert_eq!(names(&scene.storage, "condemned").len(), 2, "one list and its copy are enough");
    session.end().expect("end");
    let done = run(scene.storage.clone(), CompactOptions::default()).expect("compact");
    assert!(done.packs > 0 && done.waiting.is_empty());
    assert_quiet(&scene.storage, "waited");
    scene.assert_whole_but(&[3]);
}

#[test]
fn now_does_not_wait() {
    let scene = Scene::new();
    scene.delete(&[3]);
    let repository = open(scene.storage.clone());
    let session = Session::begin(&repository, "create something").expect("begin");
    let options = CompactOptions { now: true, ..CompactOptions::default() };
    let done = run(scene.storage.clone(), options).expect("compact");
    assert!(done.packs > 0 && done.waiting.is_empty());
    session.end().expect("end");
    assert_quiet(&scene.storage, "now");
    scene.assert_whole_but(&[3]);
}

/// A create whose claims a compaction takes, at whatever step of it.
#[test]
fn creates_beside_a_compaction_lose_nothing() {
    for (op, prefix) in [
        (Op::Put, "sessions/"),
        (Op::List, "mirror/condemned"),
        (Op::List, "packs"),
        (Op::Put, "packs/"),
        (Op::Put, "index/"),
        (Op::Put, "archives/"),
        (Op::List, "mirror/intents"),
        (Op::Delete, "mirror/sessions/"),
    ] {
        let scene = Scene::new();
        scene.delete(&[0, 3]);
        let storage = Watched::new(scene.storage.clone());
        let inner = scene.storage.clone();
        let options = CompactOptions { now: true, threshold: 1, ..CompactOptions::default() };
        storage.once(op, prefix, move || drop(run(inner, options).expect("compact")));
        let bytes = &scene.archives[0].1;
        let created = back_up(&open(storage), "disk", file_of(bytes).path());
        assert_whole(scene.storage.clone(), created.id.expect("an id"), bytes);
        for number in [1, 2] {
            assert_whole(scene.storage.clone(), scene.archives[number].0, &scene.archives[number].1);
        }
        run(scene.storage.clone(), options).expect("compact");
        assert_whole(scene.storage.clone(), created.id.expect("an id"), bytes);
        assert_quiet(&scene.storage, prefix);
    }
}

/// A create that runs from begin to end at each step of a compaction.
#[test]
fn compactions_beside_a_create_spare_what_it_claims() {
    let options = CompactOptions { now: true, threshold: 1, ..CompactOptions::default() };
    for (op, prefix) in [
        (Op::List, "archives"),
        (Op::Put, "condemned/"),
        (Op::Put, "packs/"),
        (Op::Put, "index/"),
        (Op::Put, "moved/"),
        (Op::Put, "intents/"),
        (Op::Delete, "packs/"),
        (Op::Delete, "mirror/archives/"),
        (Op::Delete, "mirror/intents/"),
    ] {
        let scene = Scene::new();
        scene.delete(&[0, 3]);
        let storage = Watched::new(scene.storage.clone());
        let (inner, bytes) = (scene.storage.clone(), scene.archives[0].1.clone());
        let made = Arc::new(parking_lot::Mutex::new(None));
        let result = made.clone();
        storage.once(op, prefix, move || {
            *result.lock() = back_up(&open(inner), "disk", file_of(&bytes).path()).id;
        });
        run(storage, options).expect("compact");
        let id = made.lock().take().unwrap_or_else(|| panic!("{op:?} {prefix} never happened"));
        for _ in 0..2 {
            assert_whole(scene.storage.clone(), id, &scene.archives[0].1);
            run(scene.storage.clone(), options).expect("compact");
        }
        assert_quiet(&scene.storage, prefix);
    }
}

/// Two compactors at once, the second from begin to end at each step of the first.
#[test]
fn two_compactors_keep_all_that_is_needed() {
    let options = CompactOptions { now: true, threshold: 1, ..CompactOptions::default() };
    for (op, prefix) in [
        (Op::Put, "condemned/"),
        (Op::List, "mirror/condemned"),
        (Op::Put, "packs/"),
        (Op::Put, "moved/"),
        (Op::Put, "intents/"),
        (Op::List, "mirror/intents"),
        (Op::Delete, "packs/"),
        (Op::Delete, "mirror/archives/"),
    ] {
        let scene = Scene::new();
        scene.delete(&[0, 3]);
        let storage = Watched::new(scene.storage.clone());
        let inner = scene.storage.clone();
        storage.once(op, prefix, move || drop(run(inner, options).expect("the second")));
        run(storage, options).unwrap_or_else(|error| panic!("{op:?} {prefix}: {error}"));
        scene.assert_whole_but(&[0, 3]);
        run(scene.storage.clone(), options).expect("compact");
        scene.assert_whole_but(&[0, 3]);
        assert_quiet(&scene.storage, prefix);
    }
}

/// A pack that nothing needed when it was looked at is what another compactor's forwarding leads to before it is deleted.
#[test]
fn survivors_that_are_forwarded_meanwhile_are_spared() {
    let scene = Scene::new();
    scene.delete(&[0]);
    let archive = scene.archives[1].0;
    for kind in [PackKind::Data, PackKind::Maps] {
        let pack = packs_of(&open(scene.storage.clone()), archive, kind).pop_first().expect("a pack");
        let other = Compactor::new(scene.storage.clone());
        let copied = other.copy(kind, pack, |_| true);
        let storage = Watched::new(scene.storage.clone());
        storage.once(Op::Put, "condemned/", move || {
            other.publish_index(&copied);
            other.forward(&copied);
            let intent = other.intend(&[pack], &[]);
            other.delete_pack(kind, pack);
            other.delete(&intent);
        });
        let options = CompactOptions { now: true, threshold: 1, ..CompactOptions::default() };
        run(storage, options).expect("compact");
        scene.assert_whole_but(&[0]);
        run(scene.storage.clone(), options).expect("compact");
        scene.assert_whole_but(&[0]);
    }
}

/// Two archives need two copies of each chunk, and both copies come to lie in one pack. That can be rewritten, too.
#[test]
fn two_copies_of_a_blob_in_one_pack_can_be_moved() {
    let (storage, bytes) = (MemoryStorage::new(), noise(1, 200 << 10));
    let (repository, hand) = (make(storage.clone()), Compactor::new(storage.clone()));
    let options = CompactOptions { now: true, threshold: 1, ..CompactOptions::default() };
    let packs = || -> Vec<PackId> { hand.0.objects().list_ids("packs").expect("list") };
    let first = back_up(&repository, "first", file_of(&bytes).path()).id.expect("an id");
    hand.publish_index(&hand.copy(PackKind::Data, packs()[0], |_| true));
    hand.condemn(&packs_of(&repository, first, PackKind::Data).into_iter().collect::<Vec<_>>());
    let second = back_up(&open(storage.clone()), "second", file_of(&bytes).path());
    assert_eq!((second.record.stats.new_chunks, packs().len()), (0, 2), "it claims the copy");
    hand.condemn(&packs());
    for _ in 0..2 {
        let before = packs();
        let done = run(storage.clone(), options).expect("compact");
        assert_eq!(done.spared, []);
        assert!(!packs().iter().any(|pack| before.contains(pack)), "all were rewritten");
        assert_eq!(packs().len(), 1);
        hand.condemn(&packs());
        for archive in [first, second.id.expect("an id")] {
            assert_whole(storage.clone(), archive, &bytes);
        }
    }
}

/// The second compactor takes packs that the first has just found, between any two of the looks that it takes at them before it deletes.
#[test]
fn packs_that_another_compactor_takes_at_the_last_moment_are_no_error() {
    let options = CompactOptions { now: true, threshold: 1, ..CompactOptions::default() };
    let looks = |op: Op, name: &str| {
        matches!(op, Op::Len | Op::ReadRange) && (name.starts_with("packs/") || name.starts_with("maps/"))
    };
    let mut struck = 0;
    for look in 0..60 {
        let scene = Scene::new();
        scene.delete(&[0, 3]);
        let storage = Watched::new(scene.storage.clone());
        let (inner, state) = (scene.storage.clone(), Mutex::new((false, 0)));
        storage.watch(move |op, name| {
            let mut state = state.lock();
            state.0 |= op == Op::Put && name.starts_with("intents/");
            if state.0 && looks(op, name) {
                state.1 += 1;
                if state.1 == look + 1 {
                    run(inner.clone(), options).expect("the second");
                }
            }
            Ok(())
        });
        let done = run(storage, options).unwrap_or_else(|error| panic!("look {look}: {error}"));
        struck += u64::from(done.freed == 0);
        scene.assert_whole_but(&[0, 3]);
        run(scene.storage.clone(), options).expect("compact");
        assert_quiet(&scene.storage, "taken");
    }
    println!("{struck} of 60 had nothing left to free");
}

#[test]
fn a_crash_at_any_step_loses_nothing_and_the_next_one_finishes() {
    let options = CompactOptions { threshold: 1, ..CompactOptions::default() };
    let counted = {
        let scene = Scene::new();
        scene.delete(&[0, 3]);
        let faults = Arc::new(Faults::new(scene.storage.clone()));
        run(faults.clone(), options).expect("compact");
        faults.mutations()
    };
    assert!(counted > 20);
    for puts in 1..=counted {
        let scene = Scene::new();
        scene.delete(&[0, 3]);
        let faults = Faults::new(scene.storage.clone());
        faults.crash_after_puts(puts);
        let _ = run(faults, options);
        scene.assert_whole_but(&[0, 3]);
        // The dead compactor's session is of this very process, which lives: --now.
        let now = CompactOptions { now: true, ..options };
        run(scene.storage.clone(), now).unwrap_or_else(|error| panic!("after {puts}: {error}"));
        scene.assert_whole_but(&[0, 3]);
        let last = run(scene.storage.clone(), now).expect("compact");
        // What no index names may be a running create's, for that session seems to live.
        let left = |pack: &Candidate| pack.live > 0 || pack.unindexed;
        assert!(last.plan.candidates.iter().all(left), "after {puts}: {:?}", last.plan);
        for folder in ["condemned", "intents"] {
            assert_eq!(names(&scene.storage, folder), Vec::<String>::new(), "after {puts}");
        }
    }
}

#[derive(Debug)]
struct NetworkDisk(MemoryStorage);

impl Storage for NetworkDisk {
    fn read(&self, name: &copal::storage::Name, limit: u64) -> std::io::Result<Vec<u8>> {
        self.0.read(name, limit)
    }
    fn read_range(&self, name: &copal::storage::Name, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        self.0.read_range(name, offset, buf)
    }
    fn len(&self, name: &copal::storage::Name) -> std::io::Result<u64> {
        self.0.len(name)
    }
    fn put(&self, name: &copal::storage::Name, parts: &[&[u8]]) -> std::io::Result<()> {
        self.0.put(name, parts)
    }
    fn list(&self, prefix: &str) -> std::io::Result<Vec<copal::storage::Listed>> {
        self.0.list(prefix)
    }
    fn delete(&self, name: &copal::storage::Name) -> std::io::Result<()> {
        self.0.delete(name)
    }
    fn settle(&self) -> Settle {
        Settle::Unknown
    }
    fn describe(&self) -> String {
        "a network disk".into()
    }
}

#[test]
fn storage_whose_lists_may_lag_for_who_knows_how_long_is_refused() {
    let scene = Scene::new();
    scene.delete(&[3]);
    let failed = run(NetworkDisk(scene.storage.clone()), CompactOptions::default());
    assert!(matches!(failed, Err(Error::Unsettled { .. })), "{failed:?}");
    let options = CompactOptions { dry_run: true, ..CompactOptions::default() };
    assert!(run(NetworkDisk(scene.storage.clone()), options).expect("a dry run").plan.dead().1 > 3 << 20);
}

#[test]
fn a_damaged_chunk_keeps_its_pack() {
    let scene = Scene::new();
    scene.delete(&[0]);
    let repository = open(scene.storage.clone());
    let reader = common::reader_of(&repository);
    let mut chunks = Vec::new();
    let mut visit = |kind, id, at: copal::format::location::Location| {
        if kind == copal::codec::keys::BlobKind::Chunk {
            chunks.push((id, at));
        }
    };
    reader.maps().walk(&common::image(&repository, scene.archives[2].0), &mut visit).expect("walk");
    let (_, at) = chunks[chunks.len() / 2];
    let pack = copal::repository::packs::pack_name(PackKind::Data, at.pack.id);
    let mut bytes = scene.storage.read(&pack, u64::MAX).expect("read");
    bytes[at.offset as usize + 20] ^= 1;
    scene.storage.put(&pack, &[&bytes]).expect("put");
    let options = CompactOptions { threshold: 1, ..CompactOptions::default() };
    let done = run(scene.storage.clone(), options).expect("compact");
    assert!(done.spared.contains(&at.pack.id) || scene.storage.len(&pack).is_ok(), "{done:?}");
    assert_whole(scene.storage.clone(), scene.archives[3].0, &scene.archives[3].1);
    bytes[at.offset as usize + 20] ^= 1;
    scene.storage.put(&pack, &[&bytes]).expect("put");
    scene.assert_whole_but(&[0]);
}

#[test]
fn a_full_storage_gives_back_space_through_its_reserve() {
    use copal::repository::unlock::{InitOptions, init};
    let storage = MemoryStorage::new();
    let options = InitOptions { reserve: 1 << 20, ..common::small_options() };
    let repository = Arc::new(init(Arc::new(storage.clone()), &options).expect("init"));
    let bytes = noise(5, 3 << 20);
    let id = back_up(&repository, "disk", file_of(&bytes).path()).id.expect("an id");
    Compactor::new(storage.clone()).delete_archive(id);
    let full = Watched::new(storage.clone());
    let inner = storage.clone();
    full.watch(move |op, _| {
        let reserve = inner.len(&copal::storage::Name::new("reserve").expect("a name"));
        let packs = inner.list("packs").expect("list").len();
        if op == Op::Put && reserve.is_ok() && packs > 0 {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        Ok(())
    });
    let done = run(full, CompactOptions::default()).expect("compact");
    assert!(done.freed > 3 << 20);
    let reserve = copal::storage::Name::new("reserve").expect("a name");
    assert_eq!(storage.len(&reserve).expect("set aside again"), 1 << 20);
    assert_quiet(&storage, "full");
}

/// A compaction that relies on what a killed one left must not rely on half of it.
#[test]
fn half_stored_forwardings_are_completed() {
    let scene = Scene::new();
    scene.delete(&[0]);
    let options = CompactOptions { threshold: 1, ..CompactOptions::default() };
    run(scene.storage.clone(), options).expect("compact");
    let moved = names(&scene.storage, "moved");
    let copy = |name: &str| copal::storage::Name::new(name).expect("a name");
    let whole: Vec<_> =
        moved.iter().map(|name| scene.storage.read(&copy(name), u64::MAX).expect("read")).collect();
    // Somebody else's, whose name is too long for a second copy.
    scene.storage.put(&copy(&format!("moved/{}", "0".repeat(194))), &[b"x"]).expect("put");
    for lost in ["mirror/", ""] {
        for name in moved.iter().filter(|name| name.starts_with("mirror/") != lost.is_empty()) {
            scene.storage.delete(&copy(name)).expect("delete");
        }
        run(scene.storage.clone(), options).expect("compact");
        let again: Vec<_> =
            moved.iter().map(|name| scene.storage.read(&copy(name), u64::MAX).expect("both")).collect();
        assert!(again == whole, "without {lost:?}");
    }
}
