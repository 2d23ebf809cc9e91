//! Checks: every damage is found where it is, with just the archives and ranges that suffer from it, and nothing is found where there is none.

mod common;

use std::collections::{BTreeSet, HashSet};
use std::io::ErrorKind;
use std::sync::Arc;

use common::compactor::Compactor;
use common::scene::{Damage, Scene, mirror};
use common::watched::Watched;
use common::{back_up, file_of, noise, packs_of};
use copal::format::pack::PackKind;
use copal::id::PackId;
use copal::maintenance::check::report::{Fault, Report};
use copal::maintenance::check::subset::Subset;
use copal::maintenance::check::{CheckOptions, check};
use copal::storage::memory::MemoryStorage;
use copal::storage::recorder::Op;
use copal::storage::{Name, Storage};
use copal::task::{Silent, Stop};

/// The stored names that findings and notes tell of.
fn named(report: &Report) -> BTreeSet<String> {
    let found = report.findings.iter().map(|finding| finding.object.clone());
    found.chain(report.notes.interrupted.iter().map(|name| format!("mirror/{name}"))).collect()
}

fn expected_names(name: &Name, damage: &Damage) -> BTreeSet<String> {
    let other = match damage {
        Damage::Swapped(other) => Some(other.to_string()),
        _ => None,
    };
    std::iter::once(name.to_string()).chain(other).collect()
}

#[test]
fn a_sound_repository_is_clean_and_nothing_is_written() {
    let scene = Scene::new();
    for verify_data in [false, true] {
        let storage = scene.storage();
        let readonly = Watched::new(storage.clone());
        readonly.watch(|op, _| match op {
            Op::Put | Op::Delete => Err(ErrorKind::ReadOnlyFilesystem.into()),
            _ => Ok(()),
        });
        let report = scene.check(readonly, verify_data);
        assert!(report.is_clean(), "{report:#?}");
        assert_eq!((report.checked.archives, report.notes.interrupted.len()), (2, 0));
        assert_eq!(report.checked.verified_packs > 0, verify_data);
        assert_eq!(report.notes.unknown_names, 0);
        assert!(storage.snapshot() == scene.objects);
    }
}

#[test]
fn one_damaged_copy_of_two_is_found_and_harms_no_archive() {
    let scene = Scene::new();
    let mut cases = 0;
    for (folder, name, damage) in scene.cases() {
        if !scene.objects.contains_key(&mirror(&name)) {
            continue;
        }
        for (name, damage) in [(name.clone(), damage.clone()), (mirror(&name), damage.in_mirror())] {
            let storage = scene.storage();
            damage.apply(&storage, &name);
            let at = format!("{name} {damage:?}");
            let report = scene.check(storage, folder == "maps");
            assert_eq!(named(&report), expected_names(&name, &damage), "{at}: {report:#?}");
            assert!(report.findings.iter().all(|finding| finding.fault == Fault::Copy), "{at}: {report:#?}");
            assert!(report.damaged.is_empty(), "{at}: {report:#?}");
            let relied_on = ["config", "keys", "moved"].contains(&&*folder);
            let told = damage != Damage::Deleted || !name.as_str().starts_with("mirror/") || relied_on;
            assert!(!told || !report.is_clean(), "{at}");
            cases += 1;
        }
    }
    assert!(cases > 300, "{cases}");
}

#[test]
fn damage_beyond_both_copies_is_found_with_what_it_harms() {
    let scene = Scene::new();
    for (folder, name, damage) in scene.cases() {
        if ["config", "keys"].contains(&&*folder) {
            continue;
        }
        let storage = scene.storage();
        damage.apply(&storage, &name);
        if scene.objects.contains_key(&mirror(&name)) {
            damage.in_mirror().apply(&storage, &mirror(&name));
        }
        let at = format!("{name} {damage:?}");
        let report = scene.check(storage.clone(), true);
        scene.assert_ranges_are_exact(&storage, &report, &at);
        let found: BTreeSet<String> =
            named(&report).iter().map(|name| name.trim_start_matches("mirror/").to_owned()).collect();
        let expected = expected_names(&name, &damage);
        let missed = || scene.archives.iter().any(|(id, _)| name.as_str() == format!("archives/{id}"));
        match (&*folder, &damage) {
            // What was withdrawn is nobody's loss.
            ("archives", Damage::Deleted) if !missed() => {
                assert!(report.findings.is_empty(), "{at}: {report:#?}");
            }
            // Nothing tells that they were ever there; what they made possible is lost, and that is told above.
            ("catalogue" | "condemned" | "intents" | "sessions" | "states", Damage::Deleted) => {
                assert!(report.findings.is_empty(), "{at}: {report:#?}");
            }
            // Packs that archives need are then in no index, or gone.
            ("index" | "moved", _) if damage == Damage::Deleted => {}
            ("packs" | "maps", Damage::Deleted) => {
                assert!(report.damaged.is_empty() || found.is_superset(&expected), "{at}: {report:#?}");
            }
            _ => assert!(found.is_superset(&expected), "{at}: {report:#?}"),
        }
        let harmless = ["catalogue", "condemned", "intents", "sessions", "states", "index"];
        if harmless.contains(&&*folder) {
            assert!(report.damaged.is_empty(), "{at}: {report:#?}");
        }
    }
}

#[test]
fn a_lost_index_segment_shows_in_what_it_no_longer_names() {
    let scene = Scene::new();
    let storage = scene.storage();
    for name in &scene.folders()["index"] {
        storage.delete(name).expect("delete");
    }
    let report = scene.check(storage, false);
    assert!(report.findings.iter().all(|finding| finding.fault == Fault::Index), "{report:#?}");
    assert!(!report.findings.is_empty() && report.damaged.is_empty());
}

#[test]
fn an_older_config_beside_a_newer_one_is_found() {
    let scene = Scene::new();
    let storage = scene.storage();
    let repository = scene.open(storage.clone()).expect("open");
    let mut body = repository.config().clone();
    body.generation += 1;
    let newer = copal::format::config::SealedConfig::seal(*repository.header(), &body, repository.keyring());
    let newer = newer.expect("seal");
    for (put, older) in [("config", "mirror/config"), ("mirror/config", "config")] {
        let storage = scene.storage();
        storage.overwrite(&Name::new(put).expect("a name"), newer.clone());
        assert_eq!(named(&scene.check(storage, false)), BTreeSet::from([older.to_owned()]));
    }
}

/// Points between the lists and reads of a check.
const POINTS: [(Op, &str); 7] = [
    (Op::List, "archives"),
    (Op::List, "packs"),
    (Op::ReadRange, "packs/"),
    (Op::List, "maps"),
    (Op::List, "moved"),
    (Op::ReadRange, "maps/"),
    (Op::Read, "index/"),
];

fn at_every_point(act: impl Fn(&Scene, &MemoryStorage) + Clone + Send + 'static) {
    for (op, prefix) in POINTS {
        for verify_data in [false, true] {
            let scene = Arc::new(Scene::new());
            let inner = scene.storage();
            let storage = Watched::new(inner.clone());
            let (act, actor) = (act.clone(), scene.clone());
            storage.once(op, prefix, move || act(&actor, &inner));
            let report = scene.check(storage, verify_data);
            assert!(report.is_clean(), "{op:?} {prefix}: {report:#?}");
        }
    }
}

#[test]
fn packs_that_a_compaction_moves_meanwhile_are_no_damage() {
    at_every_point(|scene, storage| {
        let repository = scene.open(storage.clone()).expect("open");
        let compactor = Compactor(repository.clone());
        for kind in [PackKind::Data, PackKind::Maps] {
            for pack in packs_of(&repository, scene.archives[1].0, kind) {
                if repository.packs().entries(kind, pack).is_err() {
                    continue;
                }
                let copied = compactor.copy(kind, pack, |_| true);
                compactor.publish_index(&copied);
                compactor.forward(&copied);
                compactor.intend(&[pack], &[]);
                compactor.delete_pack(kind, pack);
            }
        }
    });
}

#[test]
fn an_archive_that_is_deleted_and_swept_meanwhile_is_no_damage() {
    at_every_point(|scene, storage| {
        let repository = scene.open(storage.clone()).expect("open");
        let compactor = Compactor(repository.clone());
        let others: HashSet<PackId> = [PackKind::Data, PackKind::Maps]
            .into_iter()
            .flat_map(|kind| packs_of(&repository, scene.archives[0].0, kind))
            .collect();
        let gone = scene.archives[1].0;
        let packs = [PackKind::Data, PackKind::Maps].map(|kind| packs_of(&repository, gone, kind));
        compactor.delete_archive(gone);
        let all: Vec<PackId> = packs.iter().flatten().copied().collect();
        compactor.intend(&all, &[]);
        compactor.delete(&format!("archives/{gone}"));
        for (kind, packs) in [PackKind::Data, PackKind::Maps].into_iter().zip(packs) {
            for pack in packs.difference(&others.iter().copied().collect()) {
                compactor.delete_pack(kind, *pack);
            }
        }
    });
}

#[test]
fn a_backup_made_meanwhile_is_no_damage() {
    at_every_point(|scene, storage| {
        let repository = scene.open(storage.clone()).expect("open");
        back_up(&repository, "other", file_of(&noise(7, 2 << 20)).path());
    });
}

#[test]
fn parts_cover_every_pack_and_archives_limit_what_is_read() {
    let scene = Scene::new();
    let repository = scene.open(scene.storage()).expect("open");
    let run = |options: &CheckOptions| check(&repository, options, &Stop::default(), &Silent).expect("check");
    let verify = CheckOptions { verify_data: true, ..CheckOptions::default() };
    let all = run(&verify).checked;
    assert_eq!(all.verified_packs, all.packs.count);
    let part = |number| {
        run(&CheckOptions { subset: Some(Subset::Part { number, of: 3 }), ..verify.clone() }).checked
    };
    let parts = [1, 2, 3].map(part);
    assert_eq!(parts.iter().map(|part| part.verified_packs).sum::<u64>(), all.verified_packs);
    assert_eq!(parts.iter().map(|part| part.blobs.count).sum::<u64>(), all.blobs.count);
    let one = run(&CheckOptions { archives: Some(vec![scene.archives[0].0]), ..verify }).checked;
    assert_eq!(one.archives, 1);
    assert!(one.blobs.count > 0 && one.blobs.count < all.blobs.count, "{one:?} {all:?}");
}

#[test]
fn a_signal_ends_a_check() {
    let scene = Scene::new();
    let stop = Stop::default();
    stop.flag().store(2, std::sync::atomic::Ordering::SeqCst);
    let options = CheckOptions { verify_data: true, ..CheckOptions::default() };
    let stopped = check(&scene.open(scene.storage()).expect("open"), &options, &stop, &Silent);
    assert!(matches!(stopped, Err(copal::maintenance::Error::Stopped(_))), "{stopped:?}");
}
