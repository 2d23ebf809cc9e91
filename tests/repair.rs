//! Repairs: what was readable stays so, whatever they are stopped at and whoever works beside them; what is lost is bounded, and heals.

mod common;

use std::sync::Arc;

use common::compactor::Compactor;
use common::scene::{BLOCK, Damage, Scene, mirror};
use common::watched::Watched;
use common::{assert_whole, back_up, file_of, make, noise, open, options, packs_of};
use copal::archiver::create::create;
use copal::format::pack::PackKind;
use copal::maintenance::check::CheckOptions;
use copal::maintenance::check::report::Report;
use copal::maintenance::repair::{Repaired, repair};
use copal::repository::Repository;
use copal::storage::faults::Faults;
use copal::storage::memory::MemoryStorage;
use copal::storage::recorder::Op;
use copal::storage::{Name, Storage};
use copal::task::{Silent, Stop};

fn verify() -> CheckOptions {
    CheckOptions { verify_data: true, ..CheckOptions::default() }
}

fn run(repository: &Arc<Repository>) -> Result<Repaired, copal::maintenance::Error> {
    repair(repository, &verify(), &Stop::default(), &Silent)
}

fn repaired(scene: &Scene, storage: &MemoryStorage, at: &str) -> Repaired {
    let repository = scene.open(storage.clone()).expect("open");
    run(&repository).unwrap_or_else(|error| panic!("{at}: {error}"))
}

/// Every block of every archive that can be read; panics if one is wrong.
fn readable(scene: &Scene, storage: &MemoryStorage, at: &str) -> Vec<bool> {
    let repository = scene.open(storage.clone()).expect("open");
    scene.survey(&repository, at)
}

fn assert_nothing_got_lost(before: &[bool], after: &[bool], at: &str) {
    assert!(before.iter().zip(after).all(|(before, after)| !before || *after), "{at}: something got lost");
}

/// Only archives suffer, and those just where they did before.
fn assert_only_ranges_are_left(scene: &Scene, storage: &MemoryStorage, at: &str) -> Report {
    let report = scene.check(storage.clone(), true);
    assert!(report.findings.is_empty(), "{at}: {:#?}", report.findings);
    scene.assert_ranges_are_exact(storage, &report, at);
    report
}

#[test]
fn a_damaged_copy_is_written_again() {
    let scene = Scene::new();
    for (folder, name, damage) in scene.cases() {
        let some = matches!(damage, Damage::Flip(8) | Damage::Deleted | Damage::Zeroed | Damage::Swapped(_));
        if !some || folder == "sessions" || !scene.objects.contains_key(&mirror(&name)) {
            continue;
        }
        for (name, damage) in [(name.clone(), damage.clone()), (mirror(&name), damage.in_mirror())] {
            let storage = scene.storage();
            damage.apply(&storage, &name);
            let at = format!("{name} {damage:?}");
            let repaired = repaired(&scene, &storage, &at);
            assert!(repaired.copies > 0 && repaired.after.is_clean(), "{at}: {repaired:#?}");
            assert_eq!((repaired.quarantined.count, repaired.given_up), (0, 0), "{at}");
            let now = storage.snapshot();
            assert!(scene.objects.iter().all(|(name, bytes)| now.get(name) == Some(bytes)), "{at}");
        }
    }
}

#[test]
fn what_is_lost_is_bounded_and_heals_when_it_is_stored_again() {
    let scene = Scene::new();
    let (mut lost, mut quarantined) = (0, 0);
    for (folder, name, damage) in scene.cases() {
        if !["packs", "maps", "index", "moved"].contains(&&*folder) {
            continue;
        }
        let at = format!("{name} {damage:?}");
        let storage = scene.storage();
        damage.apply(&storage, &name);
        if scene.objects.contains_key(&mirror(&name)) {
            damage.in_mirror().apply(&storage, &mirror(&name));
        }
        let damaged = storage.snapshot();
        let before = readable(&scene, &storage, &at);
        let done = repaired(&scene, &storage, &at);
        assert!(done.refused.is_empty(), "{at}: {done:#?}");
        let after = readable(&scene, &storage, &at);
        assert_nothing_got_lost(&before, &after, &at);
        let report = assert_only_ranges_are_left(&scene, &storage, &at);
        assert_eq!(report.given_up.lost > 0, !report.damaged.is_empty(), "{at}: {report:#?}");
        // Every byte of every pack is still somewhere.
        let now = storage.snapshot();
        for (name, bytes) in damaged.iter().filter(|(name, _)| name.as_str().starts_with("packs/")) {
            let kept = Name::new(&format!("quarantine/{name}")).expect("a name");
            assert!(now.get(name) == Some(bytes) || now.get(&kept) == Some(bytes), "{at}: {name}");
        }
        quarantined += done.quarantined.count;
        lost += u64::from(!report.damaged.is_empty());
        if report.damaged.is_empty() {
            continue;
        }
        for (_, bytes) in &scene.archives {
            back_up(&scene.open(storage.clone()).expect("open"), "disk", file_of(bytes).path());
        }
        assert!(readable(&scene, &storage, &at).iter().all(|ok| *ok), "{at}: a backup heals");
        let healed = scene.check(storage.clone(), true);
        assert!(healed.is_clean() && healed.given_up.healed > 0, "{at}: {healed:#?}");
        assert_eq!(healed.given_up.lost, 0, "{at}: {healed:#?}");
        let again = repaired(&scene, &storage, &at);
        assert!(again.healed > 0 && again.after.is_clean(), "{at}: {again:#?}");
        assert_eq!((again.after.given_up.healed, again.after.given_up.lost), (0, 0), "{at}");
        assert!(readable(&scene, &storage, &at).iter().all(|ok| *ok), "{at}");
    }
    assert!(lost > 10 && quarantined > 10, "{lost} {quarantined}");
}

/// A chunk and a map are bad, a pack is cut, a copy and the index are gone.
fn much_damage(scene: &Scene) -> MemoryStorage {
    let storage = scene.storage();
    let folders = scene.folders();
    Damage::Flip(8).apply(&storage, &folders["packs"][0]);
    Damage::Cut(9).apply(&storage, &folders["packs"][1]);
    Damage::Flip(3).apply(&storage, &folders["maps"][0]);
    Damage::Flip(3).apply(&storage, &mirror(&folders["maps"][0]));
    Damage::Deleted.apply(&storage, &folders["archives"][0]);
    folders["index"].iter().for_each(|segment| Damage::Deleted.apply(&storage, segment));
    storage
}

#[test]
fn a_repair_that_dies_anywhere_loses_nothing_and_can_be_repeated() {
    let scene = Scene::new();
    let damaged = much_damage(&scene).snapshot();
    let before = readable(&scene, &MemoryStorage::from_snapshot(damaged.clone()), "before");
    assert!(before.iter().any(|ok| *ok) && !before.iter().all(|ok| *ok));
    for n in 0..300 {
        let faults = Arc::new(Faults::new(MemoryStorage::from_snapshot(damaged.clone())));
        let repository = scene.open(faults.clone()).expect("open");
        faults.crash_after_puts(n);
        let ended = run(&repository);
        let at = format!("crash after {n}");
        assert!(faults.crashed() || ended.is_ok(), "{at}: {ended:?}");
        let storage = faults.inner();
        assert_nothing_got_lost(&before, &readable(&scene, storage, &at), &at);
        // The process that died is this one, which runs: let it not seem so.
        for name in storage.snapshot().keys().filter(|name| name.as_str().contains("sessions/")) {
            storage.delete(name).expect("delete");
        }
        repaired(&scene, storage, &at);
        assert_nothing_got_lost(&before, &readable(&scene, storage, &at), &at);
        assert_only_ranges_are_left(&scene, storage, &at);
        if !faults.crashed() {
            assert!(n > 20, "{n}");
            return;
        }
    }
    panic!("a repair never ends");
}

#[test]
fn a_create_that_claimed_in_a_bad_pack_notices_its_repair() {
    for (op, prefix) in [(Op::Put, "index/"), (Op::Put, "archives/"), (Op::List, "mirror/intents")] {
        let inner = MemoryStorage::new();
        let repository = make(inner.clone());
        let bytes = noise(1, 3 << 20);
        let source = file_of(&bytes);
        let old = back_up(&repository, "disk", source.path()).id.expect("an id");
        Compactor::new(inner.clone()).delete_archive(old);
        let pack = packs_of(&repository, old, PackKind::Data).into_iter().next().expect("a pack");
        let name = copal::repository::packs::pack_name(PackKind::Data, pack);
        let mut damaged = inner.snapshot()[&name].to_vec();
        damaged[BLOCK] ^= 1;
        inner.overwrite(&name, damaged);
        let storage = Watched::new(inner.clone());
        let beside = inner.clone();
        storage.once(op, prefix, move || {
            let done = run(&open(beside)).expect("repair");
            assert_eq!(done.quarantined.count, 1);
        });
        // Something new, so that there is an index segment to publish.
        let more = [&bytes[..], &noise(2, 1 << 20)].concat();
        let created =
            create(&open(storage), &options("disk", &[file_of(&more).path()]), &Stop::default(), &Silent);
        let id = created.unwrap_or_else(|error| panic!("{op:?} {prefix}: {error}")).id.expect("an id");
        assert_whole(inner.clone(), id, &more);
    }
}

#[test]
fn a_create_beside_every_step_of_a_repair_is_whole() {
    let steps = [
        (Op::Put, "condemned/"),
        (Op::Put, "moved/"),
        (Op::Put, "quarantine/"),
        (Op::Put, "intents/"),
        (Op::Delete, "packs/"),
        (Op::Put, "index/"),
        (Op::Delete, "index/"),
        (Op::Put, "lost/"),
    ];
    let scene = Arc::new(Scene::new());
    for (op, prefix) in steps {
        let inner = much_damage(&scene);
        let before = readable(&scene, &inner, prefix);
        let storage = Watched::new(inner.clone());
        let (beside, actor) = (inner.clone(), scene.clone());
        let bytes = noise(77, 1 << 20);
        let new = bytes.clone();
        let made = Arc::new(parking_lot::Mutex::new(None));
        let id = made.clone();
        storage.once(op, prefix, move || {
            let repository = actor.open(beside).expect("open");
            *id.lock() = back_up(&repository, "new", file_of(&new).path()).id;
        });
        run(&scene.open(storage).expect("open")).unwrap_or_else(|error| panic!("{op:?} {prefix}: {error}"));
        let id = made.lock().take().unwrap_or_else(|| panic!("{op:?} {prefix} never came"));
        assert_nothing_got_lost(&before, &readable(&scene, &inner, prefix), prefix);
        let repository = scene.open(inner.clone()).expect("open");
        let image = common::image(&repository, id);
        assert!(common::read_all(&common::reader_of(&repository), &image, 1 << 20) == bytes, "{prefix}");
    }
}

#[test]
fn a_storage_that_never_settles_keeps_its_packs() {
    let scene = Scene::new();
    let inner = much_damage(&scene);
    let unsettled = Unsettled(inner.clone());
    let done = run(&scene.open(unsettled).expect("open")).expect("repair");
    assert!(done.refused.iter().any(|refused| refused.contains("network file system")), "{done:#?}");
    assert_eq!(done.quarantined.count, 0);
    assert!(done.copies > 0 && done.segments > 0 && done.given_up > 0);
    let kept = inner.snapshot();
    assert!(scene.folders()["packs"].iter().all(|pack| kept.contains_key(pack)));
}

/// Nobody knows when its lists are up to date.
#[derive(Debug)]
struct Unsettled(MemoryStorage);

impl Storage for Unsettled {
    fn read(&self, name: &Name, limit: u64) -> std::io::Result<Vec<u8>> {
        self.0.read(name, limit)
    }

    fn read_range(&self, name: &Name, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        self.0.read_range(name, offset, buf)
    }

    fn len(&self, name: &Name) -> std::io::Result<u64> {
        self.0.len(name)
    }

    fn put(&self, name: &Name, parts: &[&[u8]]) -> std::io::Result<()> {
        self.0.put(name, parts)
    }

    fn list(&self, prefix: &str) -> std::io::Result<Vec<copal::storage::Listed>> {
        self.0.list(prefix)
    }

    fn delete(&self, name: &Name) -> std::io::Result<()> {
        self.0.delete(name)
    }

    fn settle(&self) -> copal::storage::Settle {
        copal::storage::Settle::Unknown
    }

    fn describe(&self) -> String {
        "unsettled".into()
    }
}
