//! Whatever stops a create at whatever put: the archives before it stay whole, nothing half-made shows, and the next create works.

mod common;

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::watched::Watched;
use common::{assert_whole, back_up, file_of, listed, make, noise, open, options};
use copal::archiver::create::{Created, create};
use copal::archiver::{Error, Monitor, Silent, Stop};
use copal::id::{ArchiveId, SessionId};
use copal::storage::Storage;
use copal::storage::faults::{Fault, Faults};
use copal::storage::memory::{MemoryStorage, Objects};
use copal::storage::recorder::{Op, Recorder};

/// Far more puts than one of these creates makes.
const MANY: u64 = 60;

/// A repository with one archive, and what the next one is to hold: half of it new.
struct Scene {
    before: Objects,
    first: ArchiveId,
    old: Vec<u8>,
    new: Vec<u8>,
}

impl Scene {
    fn new() -> Self {
        let storage = MemoryStorage::new();
        let old = noise(1, 2 << 20);
        let first = back_up(&make(storage.clone()), "disk", file_of(&old).path()).id.expect("an id");
        let new = [&old[..1 << 20], &noise(2, 9 << 19)].concat();
        Self { before: storage.snapshot(), first, old, new }
    }

    fn storage(&self) -> MemoryStorage {
        MemoryStorage::from_snapshot(self.before.clone())
    }

    fn create(&self, storage: impl Storage + 'static) -> Result<Created, Error> {
        let file = file_of(&self.new);
        create(&open(storage), &options("disk", &[file.path()]), &Stop::default(), &Silent)
    }

    /// What must hold after any end of a create; `created` is what it returned.
    fn check(&self, storage: &MemoryStorage, created: Option<&Created>, at: &str) {
        assert_whole(storage.clone(), self.first, &self.old);
        let archives = open(storage.clone()).archives().expect("list");
        assert!(archives.iter().any(|archive| archive.id() == self.first && !archive.unconfirmed), "{at}");
        for archive in &archives {
            let bytes = if archive.id() == self.first { &self.old } else { &self.new };
            assert_whole(storage.clone(), archive.id(), bytes);
        }
        if let Some(created) = created {
            assert!(
                archives.iter().any(|archive| Some(archive.id()) == created.id),
                "{at}: returned, so it is there"
            );
        }
        let again =
            self.create(storage.clone()).unwrap_or_else(|error| panic!("{at}, the next one: {error}"));
        assert_whole(storage.clone(), again.id.expect("an id"), &self.new);
        assert_whole(storage.clone(), self.first, &self.old);
    }

    /// Nothing shows of a create that failed.
    fn check_nothing_shows(&self, storage: &MemoryStorage, at: &str) {
        assert_eq!(listed(storage.clone()), BTreeSet::from([self.first]), "{at}");
        assert_eq!(sessions(storage), [], "{at}");
    }
}

fn sessions(storage: &MemoryStorage) -> Vec<SessionId> {
    open(storage.clone()).objects().list_ids("sessions").expect("list")
}

#[test]
fn a_crash_after_any_put_or_delete_harms_nothing() {
    let scene = Scene::new();
    let mut unconfirmed = 0;
    for n in 0..MANY {
        let faults = Arc::new(Faults::new(scene.storage()));
        let file = file_of(&scene.new);
        let repository = open(faults.clone());
        faults.crash_after_puts(n);
        let created = create(&repository, &options("disk", &[file.path()]), &Stop::default(), &Silent);
        let crashed = faults.crashed();
        assert!(crashed || created.is_ok());
        let storage = faults.inner();
        unconfirmed +=
            open(storage.clone()).archives().expect("list").iter().filter(|a| a.unconfirmed).count();
        scene.check(storage, created.as_ref().ok(), &format!("crash after {n}"));
        if !crashed {
            assert!(n > 10, "{n}");
            assert!(unconfirmed > 0, "no crash fell between record and confirmation");
            return;
        }
    }
    panic!("a create never ends");
}

/// Runs a create with `fault` at its n-th put, for every n; `judge` looks at what it returned and left, and says whether the fault may have
/// gone unnoticed.
fn at_every_put(fault: Fault, judge: impl Fn(&Scene, &MemoryStorage, Result<&Created, &Error>, &str)) {
    let scene = Scene::new();
    let mut failures = 0;
    for n in 1..MANY {
        let recorder = Arc::new(Recorder::new(Faults::new(scene.storage())));
        let faults = recorder.inner();
        faults.inject(Op::Put, "", n, fault);
        let created = scene.create(recorder.clone());
        let at = format!("{fault:?} at put {n}");
        failures += u64::from(created.is_err());
        judge(&scene, faults.inner(), created.as_ref(), &at);
        scene.check(faults.inner(), created.as_ref().ok(), &at);
        if (recorder.count(Op::Put) as u64) < n {
            assert!(failures > 8, "{failures}");
            return;
        }
    }
    panic!("a create never ends");
}

/// Only the catalogue, which is a cache, is put after the archive was confirmed.
fn fails_cleanly(scene: &Scene, storage: &MemoryStorage, created: Result<&Created, &Error>, at: &str) {
    match created {
        Ok(created) => {
            let expected = BTreeSet::from([scene.first, created.id.expect("an id")]);
            assert_eq!(listed(storage.clone()), expected, "{at}");
        }
        Err(_) => scene.check_nothing_shows(storage, at),
    }
}

#[test]
fn a_full_storage_is_called_full_and_leaves_nothing() {
    at_every_put(Fault::Fail(ErrorKind::StorageFull), |scene, storage, created, at| {
        if let Err(error) = created {
            assert!(error.is_full(), "{at}: {error}");
        }
        fails_cleanly(scene, storage, created, at);
    });
}

#[test]
fn a_torn_put_leaves_nothing() {
    at_every_put(Fault::Torn, fails_cleanly);
}

#[test]
fn a_lost_reply_leaves_nothing() {
    at_every_put(Fault::LostReply(ErrorKind::TimedOut), fails_cleanly);
}

#[test]
fn a_storage_that_stays_full_shows_nothing_new() {
    let scene = Scene::new();
    for n in 0..MANY {
        let inner = scene.storage();
        let full = Watched::new(inner.clone());
        let left = AtomicU64::new(n);
        full.watch(move |op, _| {
            let spend = |left: u64| left.checked_sub(1);
            match op {
                Op::Put if left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, spend).is_err() => {
                    Err(ErrorKind::StorageFull.into())
                }
                _ => Ok(()),
            }
        });
        let at = format!("full after {n} puts");
        match scene.create(full) {
            Err(error) => {
                assert!(error.is_full(), "{at}: {error}");
                assert_eq!(listed(inner.clone()), BTreeSet::from([scene.first]), "{at}");
                scene.check(&inner, None, &at);
            }
            Ok(created) => {
                assert!(n > 8, "{n}");
                return scene.check(&inner, Some(&created), &at);
            }
        }
    }
    panic!("a create never ends");
}

#[test]
fn a_failed_removal_of_the_session_does_not_fail_the_archive() {
    let scene = Scene::new();
    for fault in [Fault::Fail(ErrorKind::PermissionDenied), Fault::LostReply(ErrorKind::TimedOut)] {
        for prefix in ["sessions/", "mirror/sessions/"] {
            let faults = Arc::new(Faults::new(scene.storage()));
            faults.inject(Op::Delete, prefix, 1, fault);
            let at = format!("{fault:?} at the delete of {prefix}");
            let created = scene.create(faults.clone()).unwrap_or_else(|error| panic!("{at}: {error}"));
            assert!(created.warnings.iter().any(|warning| warning.contains("unconfirmed")), "{at}");
            scene.check(faults.inner(), Some(&created), &at);
        }
    }
}

/// Stops at the first progress.
struct StopAtOnce(Stop);

impl Monitor for StopAtOnce {
    fn advanced(&self, _bytes: u64, _new: u64) {
        self.0.flag().store(15, Ordering::SeqCst);
    }
}

#[test]
fn a_signal_leaves_nothing() {
    let scene = Scene::new();
    let storage = scene.storage();
    let stop = Stop::default();
    let file = file_of(&scene.new);
    let options = options("disk", &[file.path()]);
    let stopped = create(&open(storage.clone()), &options, &stop, &StopAtOnce(stop.clone()));
    assert!(matches!(stopped, Err(Error::Stopped { signal: 15 })), "{stopped:?}");
    scene.check_nothing_shows(&storage, "stopped");
    scene.check(&storage, None, "stopped");
}

#[test]
fn a_signal_at_any_put_leaves_nothing_or_a_whole_archive() {
    let scene = Scene::new();
    let mut stopped = 0;
    for n in 0..MANY {
        let (inner, stop) = (scene.storage(), Stop::default());
        let storage = Watched::new(inner.clone());
        let (flag, puts) = (stop.flag(), AtomicU64::new(0));
        let seen = Arc::new(AtomicU64::new(0));
        let counted = seen.clone();
        storage.watch(move |op, _| {
            if op == Op::Put && puts.fetch_add(1, Ordering::SeqCst) == n {
                flag.store(2, Ordering::SeqCst);
                counted.fetch_add(1, Ordering::SeqCst);
            }
            Ok(())
        });
        let file = file_of(&scene.new);
        let created = create(&open(storage), &options("disk", &[file.path()]), &stop, &Silent);
        let at = format!("stopped at put {n}");
        match &created {
            Err(Error::Stopped { signal: 2 }) => {
                stopped += 1;
                scene.check_nothing_shows(&inner, &at);
            }
            Err(error) => panic!("{at}: {error}"),
            Ok(_) => {}
        }
        scene.check(&inner, created.as_ref().ok(), &at);
        if seen.load(Ordering::SeqCst) == 0 {
            assert!(stopped > 4, "{stopped}");
            return;
        }
    }
    panic!("a create never ends");
}
