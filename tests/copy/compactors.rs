//! Copies that crash, and that meet a compactor.

use super::*;

/// A source of three archives, and a destination that holds the first and something that a compactor will take.
struct Scene {
    from: Repo,
    archives: Vec<(ArchiveId, Vec<u8>)>,
    target: MemoryStorage,
    deleted: ArchiveId,
}

impl Scene {
    fn new() -> Self {
        let from = make(MemoryStorage::new());
        let base = noise(1, 5 << 20);
        let images = [
            noise(9, 300_000),
            [&base[..4 << 20], &noise(2, 1 << 20)].concat(),
            [&base[..3 << 20], &noise(3, 1 << 20)].concat(),
        ];
        let gone = id_of(&from, "disk", &base);
        let archives: Vec<_> =
            images.into_iter().map(|bytes| (id_of(&from, "disk", &bytes), bytes)).collect();
        let target = MemoryStorage::new();
        let to = make(target.clone());
        let (told, ended) = copy_with(&from, &to, &[archives[0].0, gone], &CopyOptions::default());
        ended.expect("copy");
        let deleted = copied(&told)[0].1;
        state(&from, gone, ChangeKind::Deleted, |state| state.deleted = Some(true));
        Compactor::new(target.clone()).delete_archive(deleted);
        Self { from, archives, target, deleted }
    }

    /// Every archive that shows confirmed is whole, and no original has two copies.
    fn check_whole(&self, target: &MemoryStorage, at: &str) -> usize {
        let to = open(target.clone());
        let mut seen = HashSet::new();
        for archive in to.archives().expect("list").iter().filter(|archive| !archive.unconfirmed) {
            let origin = archive.entry.origin.expect("a copy");
            assert!(seen.insert(origin), "{at}: twice");
            let bytes = &self.archives.iter().find(|(id, _)| *id == origin.archive).expect("its original").1;
            assert_whole(target.clone(), archive.id(), bytes);
        }
        seen.len()
    }
}

#[test]
fn a_crash_after_any_put_or_delete_loses_nothing_that_was_told() {
    let scene = Scene::new();
    let before = scene.target.snapshot();
    let mut finished = BTreeSet::new();
    for n in 0..100 {
        let faults = Arc::new(Faults::new(MemoryStorage::from_snapshot(before.clone())));
        let to = open(faults.clone());
        faults.crash_after_puts(n);
        let (told, ended) = copy_with(&scene.from, &to, &[], &CopyOptions::default());
        let crashed = faults.crashed();
        assert!(crashed || ended.is_ok(), "{ended:?}");
        let (at, target) = (format!("crash after {n}"), faults.inner());
        let confirmed = scene.check_whole(target, &at);
        let sure = told.iter().filter(|(_, outcome)| match outcome {
            Outcome::Copied { warnings, .. } => warnings.is_empty(),
            outcome => matches!(outcome, Outcome::Present(_)),
        });
        assert!(confirmed >= sure.count(), "{at}: what was told is there");
        finished.insert(confirmed);
        let again = copy_all(&scene.from, &open(target.clone()));
        assert_eq!(present(&again), confirmed, "{at}");
        assert_eq!(scene.check_whole(target, &at), 3, "{at}, repeated");
        if !crashed {
            assert!(n > 20, "{n}");
            assert_eq!(finished, BTreeSet::from([1, 2, 3]));
            return;
        }
    }
    panic!("a copy never ends");
}

#[test]
fn a_compactor_at_any_point_loses_nothing() {
    for kind in [PackKind::Data, PackKind::Maps] {
        for (op, prefix) in [(Op::Put, "index/"), (Op::Put, "archives/"), (Op::List, "mirror/intents")] {
            let scene = Scene::new();
            let watched = Watched::new(scene.target.clone());
            let victims = packs_of(&open(scene.target.clone()), scene.deleted, kind);
            let compactor = Compactor::new(scene.target.clone());
            watched.once(op, prefix, move || {
                let victims: Vec<_> = victims.into_iter().collect();
                compactor.intend(&victims, &[]);
                victims.iter().for_each(|victim| compactor.delete_pack(kind, *victim));
            });
            let at = format!("{kind:?} at {op:?} {prefix}");
            let told = copy_all(&scene.from, &open(watched));
            assert_eq!((present(&told), copied(&told).len()), (1, 2), "{at}");
            assert_eq!(scene.check_whole(&scene.target, &at), 3, "{at}");
            assert_eq!(scene.target.list("sessions").expect("list"), [], "{at}");
        }
    }
}

#[test]
fn packs_condemned_between_two_archives_are_not_claimed_for_the_second() {
    let scene = Scene::new();
    let watched = Watched::new(scene.target.clone());
    let compactor = Compactor::new(scene.target.clone());
    let storage = scene.target.clone();
    // The session of the first archive ends: all that is there now is condemned before the second's begins.
    watched.once(Op::Delete, "sessions/", move || {
        let packs: Vec<_> = ["packs", "maps"]
            .iter()
            .flat_map(|folder| open(storage.clone()).objects().list_ids(folder).expect("list"))
            .collect();
        compactor.condemn(&packs);
    });
    let told = copy_all(&scene.from, &open(watched));
    let [(_, first), (_, second)] = copied(&told)[..] else { panic!("{told:?}") };
    let to = open(scene.target.clone());
    for kind in [PackKind::Data, PackKind::Maps] {
        assert!(packs_of(&to, first, kind).is_disjoint(&packs_of(&to, second, kind)), "{kind:?}");
    }
    assert_eq!(scene.check_whole(&scene.target, "condemned"), 3);
}

/// The second archive is known from the first, whose copy is deleted and compacted away before the second is confirmed.
#[test]
fn what_a_known_map_relies_on_is_claimed() {
    let from = make(MemoryStorage::new());
    let bytes = noise(4, 5 << 20);
    for _ in 0..2 {
        id_of(&from, "disk", &bytes);
    }
    let storage = MemoryStorage::new();
    make(storage.clone());
    let (watched, target) = (Watched::new(storage.clone()), storage.clone());
    let records = std::sync::atomic::AtomicUsize::new(0);
    watched.watch(move |op, name| {
        let is_record = op == Op::Put && name.starts_with("archives/");
        if is_record && records.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 1 {
            let first = *common::listed(target.clone()).first().expect("the first copy");
            let compactor = Compactor::new(target.clone());
            let packs = packs_of(&compactor.0, first, PackKind::Data);
            compactor.delete_archive(first);
            let packs: Vec<_> = packs.into_iter().collect();
            compactor.intend(&packs, &[]);
            packs.iter().for_each(|pack| compactor.delete_pack(PackKind::Data, *pack));
        }
        Ok(())
    });
    let told = copy_all(&from, &open(watched));
    let (_, second) = copied(&told)[1];
    assert_eq!(common::listed(storage.clone()), BTreeSet::from([second]));
    assert_whole(storage, second, &bytes);
}
