//! What a client remembers of a repository: one that was rolled back or swapped is noticed by whoever saw the newer one.

mod common;

use common::{back_up, file_of, make, open};
use copal::id::ArchiveId;
use copal::maintenance::undelete::undelete;
use copal::repository::archives::{Listing, is_deleted, list_all, record_name};
use copal::repository::known::{Distrust, Memory};
use copal::repository::session::Session;
use copal::repository::states::{Change, apply, restore};
use copal::repository::{Repository, now};
use copal::storage::memory::MemoryStorage;
use copal::task::Stop;

const PLACE: &str = "/mnt/disk/repo";

/// One client: its memory, and what it does whenever it opens a repository.
struct Client {
    memory: Memory,
    _dir: tempfile::TempDir,
}

impl Client {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("dir");
        Self { memory: Memory::new(dir.path().join("state")), _dir: dir }
    }

    fn judge(&self, repository: &Repository) -> Result<(), Distrust> {
        self.judge_listed(repository, &list_all(repository.objects()).expect("list"))
    }

    /// Judges by what was listed before.
    fn judge_listed(&self, repository: &Repository, listing: &Listing) -> Result<(), Distrust> {
        let mut recalled = self.memory.recall(PLACE);
        recalled.check_header(repository.header(), false)?;
        let is_deleted = |archive| is_deleted(repository.objects(), archive).expect("states");
        recalled.check_archives(repository.id(), repository.config().generation, listing, &is_deleted)
    }

    fn remember(&self, repository: &Repository) {
        let archives = repository.archives().expect("list");
        self.memory.remember(PLACE, repository.header(), repository.config().generation, &archives);
    }

    /// Judges, and remembers what it may trust.
    fn visit(&self, storage: &MemoryStorage) -> Result<(), Distrust> {
        let repository = open(storage.clone());
        self.judge(&repository)?;
        self.remember(&repository);
        Ok(())
    }
}

fn archive(storage: &MemoryStorage, name: &str, content: &[u8]) -> ArchiveId {
    back_up(&open(storage.clone()), name, file_of(content).path()).id.expect("an id")
}

#[test]
fn a_rolled_back_repository_is_noticed_by_whoever_saw_the_newer_one() {
    let storage = MemoryStorage::new();
    make(storage.clone());
    let [early, late] = [Client::new(), Client::new()];
    archive(&storage, "web01", b"one");
    assert_eq!(early.visit(&storage), Ok(()));
    let old = storage.snapshot();
    let newest = archive(&storage, "web01", b"two");
    assert_eq!(late.visit(&storage), Ok(()));

    let rolled_back = MemoryStorage::from_snapshot(old);
    match late.visit(&rolled_back) {
        Err(Distrust::RolledBack { archive, name, .. }) => {
            assert_eq!((archive, &name[..]), (newest, "web01"));
        }
        other => panic!("{other:?}"),
    }
    assert!(late.visit(&rolled_back).is_err(), "looking at it twice does not make it trusted");
    assert_eq!(early.visit(&rolled_back), Ok(()), "whoever saw nothing newer cannot know");
    assert_eq!(late.visit(&storage), Ok(()), "the right one is back");
}

#[test]
fn an_omitted_name_is_noticed_too() {
    let storage = MemoryStorage::new();
    make(storage.clone());
    archive(&storage, "web01", b"one");
    let old = storage.snapshot();
    archive(&storage, "db01", b"two");
    let client = Client::new();
    assert_eq!(client.visit(&storage), Ok(()));
    let other = MemoryStorage::from_snapshot(old);
    archive(&other, "web01", b"three");
    let judged = client.visit(&other);
    assert!(matches!(&judged, Err(Distrust::RolledBack { name, .. }) if name == "db01"), "{judged:?}");
}

#[test]
fn a_newer_archive_of_the_name_stands_for_one_that_is_gone() {
    let storage = MemoryStorage::new();
    make(storage.clone());
    let client = Client::new();
    let old = storage.snapshot();
    archive(&storage, "web01", b"one");
    assert_eq!(client.visit(&storage), Ok(()));
    // As after a prune elsewhere.
    let pruned = MemoryStorage::from_snapshot(old);
    archive(&pruned, "web01", b"two");
    assert_eq!(client.visit(&pruned), Ok(()));
}

#[test]
fn another_repository_in_the_same_place_is_noticed() {
    let [ours, theirs] = [MemoryStorage::new(), MemoryStorage::new()];
    for storage in [&ours, &theirs] {
        make(storage.clone());
    }
    let client = Client::new();
    assert_eq!(client.visit(&ours), Ok(()));
    assert!(matches!(client.visit(&theirs), Err(Distrust::Swapped { .. })));
    assert_eq!(client.visit(&ours), Ok(()));
}

#[test]
fn an_archive_that_was_never_confirmed_is_not_missed() {
    let storage = MemoryStorage::new();
    let repository = make(storage.clone());
    let first = archive(&storage, "web01", b"one");
    let record = repository.record(first).expect("record");
    let client = Client::new();
    {
        let session = Session::begin(&repository, "test").expect("session");
        let running = copal::format::record::ArchiveRecord { session: session.id(), time: now(), ..record };
        session.publish(&running).expect("publish");
        assert_eq!(open(storage.clone()).archives().expect("list").len(), 2);
        assert_eq!(client.visit(&storage), Ok(()));
    }
    assert_eq!(open(storage.clone()).archives().expect("list").len(), 1, "withdrawn");
    assert_eq!(client.visit(&storage), Ok(()), "it was only half made");
}

fn change(storage: &MemoryStorage, archive: ArchiveId, change: Change) {
    apply(&open(storage.clone()), "test", &[(archive, change)]).expect("apply");
}

/// Removes the record, as a compaction does, and leaves the states or not.
fn reclaim(storage: &MemoryStorage, archive: ArchiveId, states: bool) {
    let objects = open(storage.clone()).objects().clone();
    objects.delete(&record_name(archive)).expect("delete");
    if states {
        for state in objects.list(&format!("states/{archive}")).expect("list") {
            objects.delete(state.name.as_str()).expect("delete");
        }
    }
}

#[test]
fn a_deletion_elsewhere_is_no_rollback_until_nothing_tells_of_it() {
    for (record, states) in [(false, false), (true, false), (true, true)] {
        let storage = MemoryStorage::new();
        make(storage.clone());
        archive(&storage, "web01", b"one");
        let newest = archive(&storage, "web01", b"two");
        let client = Client::new();
        assert_eq!(client.visit(&storage), Ok(()));
        let before = storage.snapshot();
        change(&storage, newest, Change::Delete);
        if record {
            reclaim(&storage, newest, states);
        }
        let visit = client.visit(&storage);
        if states {
            assert!(matches!(&visit, Err(Distrust::RolledBack { archive, .. }) if *archive == newest));
        } else {
            assert_eq!(visit, Ok(()), "record removed: {record}");
            // What it saw since is remembered instead.
            assert_eq!(client.visit(&MemoryStorage::from_snapshot(before)), Ok(()), "as after an undelete");
        }
    }
}

#[test]
fn what_another_command_remembers_meanwhile_is_not_missed() {
    let storage = MemoryStorage::new();
    let repository = make(storage.clone());
    archive(&storage, "web01", b"one");
    let client = Client::new();
    assert_eq!(client.visit(&storage), Ok(()));
    let mut recalled = client.memory.recall(PLACE);
    recalled.check_header(repository.header(), false).expect("the same");
    let listing = list_all(repository.objects()).expect("list");
    archive(&storage, "db01", b"two");
    assert_eq!(client.visit(&storage), Ok(()), "another command, after this one has listed");
    assert_eq!(recalled.check_archives(repository.id(), 1, &listing, &|_| false), Ok(()));
}

#[test]
fn a_restoration_that_came_too_late_takes_nothing_back() {
    let storage = MemoryStorage::new();
    make(storage.clone());
    let only = archive(&storage, "web01", b"one");
    let client = Client::new();
    assert_eq!(client.visit(&storage), Ok(()));
    change(&storage, only, Change::Delete);
    let repository = open(storage.clone());
    let objects = repository.objects();
    let deletions = objects.list(&format!("states/{only}")).expect("list");
    let session = Session::begin(&repository, "undelete").expect("session");
    restore(&session, only).expect("restore");
    // It never ends.
    std::mem::forget(session);
    reclaim(&storage, only, false);
    assert_eq!(client.judge(&repository), Ok(()), "the deletion is still there");
    for state in deletions {
        objects.delete(state.name.as_str()).expect("delete");
    }
    let visit = client.visit(&storage);
    assert!(
        matches!(&visit, Err(Distrust::RolledBack { .. })),
        "a restoration alone excuses nothing: {visit:?}"
    );
}

#[test]
fn what_is_restored_while_it_is_asked_for_is_not_missed() {
    let storage = MemoryStorage::new();
    make(storage.clone());
    let client = Client::new();
    let id = archive(&storage, "web01", b"one");
    assert_eq!(client.visit(&storage), Ok(()));
    change(&storage, id, Change::Delete);
    let repository = open(storage.clone());
    let listing = list_all(repository.objects()).expect("list");
    undelete(&repository, id, &Stop::default()).expect("undelete");
    assert_eq!(client.judge_listed(&repository, &listing), Ok(()));
}

#[test]
fn a_rename_elsewhere_is_no_rollback_and_the_new_name_is_remembered() {
    let storage = MemoryStorage::new();
    make(storage.clone());
    let empty = storage.snapshot();
    let only = archive(&storage, "web01", b"one");
    let client = Client::new();
    assert_eq!(client.visit(&storage), Ok(()));
    change(&storage, only, Change::Rename(common::name("web02")));
    assert_eq!(client.visit(&storage), Ok(()));
    let missed = client.visit(&MemoryStorage::from_snapshot(empty));
    assert!(matches!(&missed, Err(Distrust::RolledBack { name, .. }) if name == "web02"), "{missed:?}");
}

#[test]
fn a_deletion_of_another_archive_excuses_nothing() {
    let storage = MemoryStorage::new();
    make(storage.clone());
    let old = archive(&storage, "web01", b"one");
    change(&storage, old, Change::Delete);
    let before = storage.snapshot();
    archive(&storage, "web01", b"two");
    let client = Client::new();
    assert_eq!(client.visit(&storage), Ok(()));
    let visit = client.visit(&MemoryStorage::from_snapshot(before));
    assert!(matches!(visit, Err(Distrust::RolledBack { .. })), "{visit:?}");
}
