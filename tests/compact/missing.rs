//! Archives of which something is gone: what stays because of them, and when they are in nobody's way.

use std::io::ErrorKind;
use std::sync::Arc;

use copal::id::ArchiveId;
use copal::maintenance::Error;
use copal::maintenance::compact::CompactOptions;
use copal::repository::Repository;
use copal::repository::packs::pack_name;
use copal::repository::session::Session;
use copal::repository::states::{Change, apply};
use copal::storage::Storage;
use copal::storage::faults::{Fault, Faults};
use copal::storage::memory::MemoryStorage;
use copal::storage::recorder::Op;
use copal::task::Stop;

use crate::common::compactor::Compactor;
use crate::common::{assert_whole, back_up, file_of, noise, open, packs_of};
use crate::{PackKind, Scene, assert_quiet, names, run, stored};

#[test]
fn nothing_goes_while_an_archive_cannot_be_read() {
    let scene = Scene::new();
    scene.delete(&[3]);
    let before = stored(&scene.storage);
    let id = scene.archives[0].0;
    for place in ["", "mirror/"] {
        let name = copal::storage::Name::new(&format!("{place}archives/{id}")).expect("a name");
        scene.storage.put(&name, &[b"garbage"]).expect("put");
    }
    let failed = run(scene.storage.clone(), CompactOptions::default());
    assert!(matches!(failed, Err(Error::UnknownNeeds { archive, .. }) if archive == id), "{failed:?}");
    assert_eq!(stored(&scene.storage), before);
    assert_quiet(&scene.storage, "refused");
    // Until it is given up.
    scene.delete(&[0]);
    run(scene.storage.clone(), CompactOptions::default()).expect("compact");
    assert!(stored(&scene.storage) < before);
    scene.assert_whole_but(&[0, 3]);
}

#[test]
fn what_tells_of_a_deletion_goes_long_after_it() {
    let scene = Scene::new();
    let repository = open(scene.storage.clone());
    let hand = Compactor::new(scene.storage.clone());
    let days = |days: i64| copal::repository::now() - days * 24 * 3600 * 1_000_000_000;
    hand.delete_archive_at(scene.archives[0].0, days(91));
    hand.delete_archive_at(scene.archives[3].0, days(89));
    for change in ["first", "second"] {
        let change = [(scene.archives[3].0, Change::Comment(change.into()))];
        apply(&repository, "comment", &change).expect("a comment");
    }
    run(scene.storage.clone(), CompactOptions::default()).expect("compact");
    let left = names(&scene.storage, "states");
    let kept = scene.archives[3].0.to_string();
    assert!(left.len() == 2 && left.iter().all(|name| name.contains(&kept)), "{left:?}");
    assert_eq!(lost(&scene.storage), []);
}

#[test]
fn what_tells_of_a_deletion_stays_until_the_catalogue_knows_it() {
    let scene = Scene::new();
    let archive = scene.archives[3].0;
    let long_ago = copal::repository::now() - 91 * 24 * 3600 * 1_000_000_000;
    Compactor::new(scene.storage.clone()).delete_archive_at(archive, long_ago);
    let full = Faults::new(scene.storage.clone());
    full.inject_always(Op::Put, "catalogue", Fault::Fail(ErrorKind::StorageFull));
    run(full, CompactOptions::default()).expect("compact");
    let left = names(&scene.storage, "states");
    assert!(left.len() == 2 && left[0].contains(&archive.to_string()), "{left:?}");
    assert!(!names(&scene.storage, "archives").iter().any(|name| name.contains(&archive.to_string())));
    assert_eq!(lost(&scene.storage), []);
    // What is said of others is read, and what cannot be read may describe it.
    let other = noise(5, 1 << 20);
    back_up(&open(scene.storage.clone()), "new", file_of(&other).path()).id.expect("an id");
    let faulty = Faults::new(scene.storage.clone());
    for place in ["catalogue", "mirror/catalogue"] {
        faulty.inject_always(Op::Read, place, Fault::Fail(ErrorKind::TimedOut));
        faulty.inject_always(Op::Put, place, Fault::Fail(ErrorKind::TimedOut));
    }
    run(faulty, CompactOptions::default()).expect("compact");
    assert_eq!(names(&scene.storage, "states").len(), 2);
    assert_eq!(lost(&scene.storage), []);
    run(scene.storage.clone(), CompactOptions::default()).expect("compact");
    assert_eq!(names(&scene.storage, "states"), Vec::<String>::new());
    assert_eq!(lost(&scene.storage), []);
}

fn lost(storage: &MemoryStorage) -> Vec<ArchiveId> {
    let listing = copal::repository::archives::list_all(open(storage.clone()).objects()).expect("list");
    listing.lost.iter().map(|lost| lost.id).collect()
}

#[test]
fn nothing_goes_while_an_archive_is_missing() {
    let scene = Scene::new();
    let before = stored(&scene.storage);
    let id = scene.archives[3].0;
    let places = ["", "mirror/"].map(|place| {
        let name = copal::storage::Name::new(&format!("{place}archives/{id}")).expect("a name");
        let bytes = scene.storage.read(&name, 1 << 20).expect("read");
        scene.storage.delete(&name).expect("delete");
        (name, bytes)
    });
    // Others work on, and the catalogue still knows.
    let other = noise(5, 1 << 20);
    back_up(&open(scene.storage.clone()), "new", file_of(&other).path()).id.expect("an id");
    assert_eq!(lost(&scene.storage), [id]);
    let failed = run(scene.storage.clone(), CompactOptions::default());
    assert!(matches!(failed, Err(Error::Lost { archive, .. }) if archive == id), "{failed:?}");
    assert!(stored(&scene.storage) > before);
    // The record comes back, and with it the archive.
    for (name, bytes) in &places {
        scene.storage.put(name, &[bytes]).expect("put");
    }
    assert_eq!(lost(&scene.storage), []);
    assert_whole(scene.storage.clone(), id, &scene.archives[3].1);
    run(scene.storage.clone(), CompactOptions::default()).expect("compact");
    assert_whole(scene.storage.clone(), id, &scene.archives[3].1);
    // It goes again, and is given up.
    places.iter().for_each(|(name, _)| scene.storage.delete(name).expect("delete"));
    assert_eq!(lost(&scene.storage), [id]);
    scene.delete(&[3]);
    assert_eq!(lost(&scene.storage), []);
    let done = run(scene.storage.clone(), CompactOptions::default()).expect("compact");
    assert!(done.freed > 3 << 20, "{done:?}");
    assert_eq!(lost(&scene.storage), []);
}

#[test]
fn an_archive_that_was_deleted_and_came_back_is_missed_too() {
    let scene = Scene::new();
    let id = scene.archives[3].0;
    apply(&open(scene.storage.clone()), "delete", &[(id, Change::Delete)]).expect("delete");
    let stop = Stop::default();
    copal::maintenance::undelete::undelete(&open(scene.storage.clone()), id, &stop).expect("undelete");
    for place in ["", "mirror/"] {
        let name = copal::storage::Name::new(&format!("{place}archives/{id}")).expect("a name");
        scene.storage.delete(&name).expect("delete");
    }
    assert_eq!(lost(&scene.storage), [id]);
    let failed = run(scene.storage.clone(), CompactOptions::default());
    assert!(matches!(failed, Err(Error::Lost { archive, .. }) if archive == id), "{failed:?}");
    apply(&open(scene.storage.clone()), "delete", &[(id, Change::Delete)]).expect("delete");
    assert_eq!(lost(&scene.storage), []);
    run(scene.storage.clone(), CompactOptions::default()).expect("compact");
    assert_eq!(lost(&scene.storage), []);
}

#[test]
fn an_archive_whose_create_did_not_end_is_not_missed() {
    let scene = Scene::new();
    let repository = open(scene.storage.clone());
    let session = Session::begin(&repository, "create").expect("a session");
    let mut record = repository.record(scene.archives[0].0).expect("a record");
    record.session = session.id();
    let id = session.publish(&record).expect("publish");
    back_up(&open(scene.storage.clone()), "new", file_of(&noise(5, 1 << 20)).path()).id.expect("an id");
    drop(session);
    assert_eq!(lost(&scene.storage), []);
    for place in ["", "mirror/"] {
        let name = copal::storage::Name::new(&format!("{place}archives/{id}")).expect("a name");
        let _ = scene.storage.delete(&name);
    }
    assert_eq!(lost(&scene.storage), []);
}

/// A scene with one more archive, as one that was published and not confirmed yet, and its only pack of maps.
struct Unfinished<'a> {
    scene: Scene,
    session: Session<'a>,
    archive: ArchiveId,
    maps: [copal::storage::Name; 2],
}

impl<'a> Unfinished<'a> {
    fn new(scene: Scene, repository: &'a Arc<Repository>) -> Self {
        let first = back_up(repository, "running", file_of(&noise(7, 3 << 20)).path()).id.expect("an id");
        let pack = packs_of(repository, first, PackKind::Maps);
        let pack = pack_name(PackKind::Maps, *pack.first().expect("one pack"));
        let session = Session::begin(repository, "create").expect("a session");
        let mut record = repository.record(first).expect("a record");
        record.session = session.id();
        let archive = session.publish(&record).expect("publish");
        Compactor::new(scene.storage.clone()).delete_archive(first);
        let maps = ["", "mirror/"].map(|place| {
            let name = format!("{place}{pack}");
            copal::storage::Name::new(&name).expect("a name")
        });
        Self { scene, session, archive, maps }
    }

    /// What a compaction that does not wait for sessions says.
    fn compact(&self) -> Result<(), ArchiveId> {
        match run(self.scene.storage.clone(), CompactOptions { now: true, ..CompactOptions::default() }) {
            Ok(_) => Ok(()),
            Err(Error::UnknownNeeds { archive, .. }) => Err(archive),
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn what_was_never_finished_and_cannot_be_is_in_nobodys_way() {
    let scene = Scene::new();
    scene.delete(&[3]);
    let before = stored(&scene.storage);
    let repository = open(scene.storage.clone());
    let unfinished = Unfinished::new(scene, &repository);
    let storage = unfinished.scene.storage.clone();
    unfinished.maps.iter().for_each(|name| storage.delete(name).expect("delete"));
    assert_eq!(unfinished.compact(), Ok(()));
    assert!(stored(&storage) < before);
    unfinished.scene.assert_whole_beside(&[3], [unfinished.archive]);
    // Had it been confirmed, it would be damaged.
    let Unfinished { session, archive, .. } = unfinished;
    session.end().expect("end");
    let refused = run(storage, CompactOptions::default());
    assert!(
        matches!(refused, Err(Error::UnknownNeeds { archive: named, .. }) if named == archive),
        "{refused:?}"
    );
}

#[test]
fn what_is_damaged_may_be_finished_yet() {
    let scene = Scene::new();
    scene.delete(&[3]);
    let repository = open(scene.storage.clone());
    let unfinished = Unfinished::new(scene, &repository);
    let storage = unfinished.scene.storage.clone();
    let before = stored(&storage);
    let whole = unfinished.maps.clone().map(|name| storage.read(&name, 1 << 20).expect("read"));
    for (name, bytes) in unfinished.maps.iter().zip(&whole) {
        storage.overwrite(name, bytes.iter().map(|byte| !byte).collect());
    }
    assert_eq!(unfinished.compact(), Err(unfinished.archive));
    assert_eq!(stored(&storage), before);
    for (name, bytes) in unfinished.maps.iter().zip(whole) {
        storage.overwrite(name, bytes);
    }
    assert_eq!(unfinished.compact(), Ok(()));
    unfinished.session.end().expect("end");
    assert_whole(storage, unfinished.archive, &noise(7, 3 << 20));
}
