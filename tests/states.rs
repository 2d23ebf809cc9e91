//! What is said of archives after they were made: whoever says it, and whatever stops him, all clients see the same, and no archive is lost.

mod common;
#[path = "states/undelete.rs"]
mod undeleting;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::compactor::Compactor;
use common::watched::Watched;
use common::{assert_whole, back_up, file_of, listed, make, name, noise, open, packs_of};
use copal::format::catalogue::{CatalogueEntry, CatalogueSegment, KnownState, SegmentName};
use copal::format::envelope::ObjectKind;
use copal::format::limits::MAX_CATALOGUE_ENTRIES;
use copal::format::pack::PackKind;
use copal::format::state::{ArchiveState, ChangeKind, StateName};
use copal::id::{ArchiveId, Nonce16};
use copal::maintenance::undelete::undelete;
use copal::maintenance::{Error, Result};
use copal::repository::archives::{Archive, Listing, list_all, listing_mark, record_name, refresh_catalogue};
use copal::repository::catalogue::described_as_living;
use copal::repository::session::Session;
use copal::repository::states::{Change, apply};
use copal::storage::faults::Faults;
use copal::storage::lagging::Lagging;
use copal::storage::memory::{MemoryStorage, Objects};
use copal::storage::recorder::Op;
use copal::storage::{Listed, Name, Storage};
use copal::task::Stop;

/// Far more puts and deletes than one of these commands makes.
const MANY: u64 = 60;

/// Two archives of one name, which share their first half.
struct Scene {
    before: Objects,
    ids: [ArchiveId; 2],
    bytes: [Vec<u8>; 2],
}

impl Scene {
    fn new() -> Self {
        let storage = MemoryStorage::new();
        let repository = make(storage.clone());
        let old = noise(1, 5 << 19);
        let new = [&old[..1 << 20], &noise(2, 5 << 18)].concat();
        let bytes = [old, new];
        let ids =
            [0, 1].map(|at| back_up(&repository, "disk", file_of(&bytes[at]).path()).id.expect("an id"));
        Self { before: storage.snapshot(), ids, bytes }
    }

    fn storage(&self) -> MemoryStorage {
        MemoryStorage::from_snapshot(self.before.clone())
    }

    /// The second archive deleted.
    fn with_deleted(&self) -> MemoryStorage {
        let storage = self.storage();
        change(storage.clone(), self.ids[1], Change::Delete).expect("delete");
        storage
    }

    fn check_first(&self, storage: &MemoryStorage, at: &str) {
        let archives = listing(storage.clone()).archives;
        assert!(archives.iter().any(|a| a.id() == self.ids[0] && !a.unconfirmed && !a.doubtful), "{at}");
        assert_whole(storage.clone(), self.ids[0], &self.bytes[0]);
    }
}

fn listing(storage: impl Storage + 'static) -> Listing {
    list_all(open(storage).objects()).expect("list")
}

fn change(
    storage: impl Storage + 'static,
    archive: ArchiveId,
    change: Change,
) -> copal::repository::Result<()> {
    apply(&open(storage), "test", &[(archive, change)])
}

fn restore(storage: impl Storage + 'static, archive: ArchiveId) -> Result<()> {
    undelete(&open(storage), archive, &Stop::default())
}

fn find(archives: &[Archive], id: ArchiveId) -> Option<&Archive> {
    archives.iter().find(|archive| archive.id() == id)
}

fn sessions(storage: &MemoryStorage) -> usize {
    storage.list("sessions").expect("list").len() + storage.list("mirror/sessions").expect("list").len()
}

fn states(storage: &MemoryStorage, archive: ArchiveId) -> Vec<StateName> {
    let listed = storage.list(&format!("states/{archive}")).expect("list");
    listed.iter().filter_map(|listed| StateName::parse(listed.name.as_str())).collect()
}

#[test]
fn changes_show_and_the_last_of_each_kind_counts() {
    let scene = Scene::new();
    let storage = scene.storage();
    let id = scene.ids[1];
    for change_to in [
        Change::Rename(name("other")),
        Change::Tag(vec![name("weekly"), name("keep")]),
        Change::Comment("moved".into()),
        Change::Rename(name("third")),
        Change::Tag(vec![]),
    ] {
        change(storage.clone(), id, change_to).expect("change");
    }
    let archives = listing(storage.clone()).archives;
    let archive = find(&archives, id).expect("listed");
    assert_eq!((archive.name.as_str(), archive.comment.as_str()), ("third", "moved"));
    assert!(archive.tags.is_empty() && !archive.unconfirmed);
    assert_eq!(archive.entry.name.as_str(), "disk", "the record stays");
    assert_eq!(states(&storage, id).iter().map(|state| state.counter).max(), Some(5));
    assert_eq!(sessions(&storage), 0);
    assert_whole(storage, id, &scene.bytes[1]);
}

#[test]
fn what_is_too_long_changes_nothing() {
    let scene = Scene::new();
    let storage = scene.storage();
    let tags: Vec<_> = (0..65).map(|n| name(&format!("t{n}"))).collect();
    for too_long in [Change::Tag(tags), Change::Comment("x".repeat(4097))] {
        let both = [(scene.ids[0], Change::Delete), (scene.ids[1], too_long)];
        apply(&open(storage.clone()), "test", &both).expect_err("too long");
        assert_eq!(storage.snapshot(), scene.before);
    }
}

#[test]
fn a_deleted_archive_comes_back_with_all_that_was_said_of_it() {
    let scene = Scene::new();
    let storage = scene.storage();
    let id = scene.ids[1];
    change(storage.clone(), id, Change::Rename(name("other"))).expect("rename");
    for round in 0..3 {
        change(storage.clone(), id, Change::Delete).expect("delete");
        let Listing { archives, deleted, .. } = listing(storage.clone());
        assert!(find(&archives, id).is_none(), "{round}");
        let gone = find(&deleted, id).expect("deleted");
        assert_eq!(gone.name.as_str(), "other");
        assert!(gone.deleted.as_ref().is_some_and(|deletion| deletion.time > 0 && !deletion.host.is_empty()));
        restore(storage.clone(), id).expect("undelete");
        let Listing { archives, deleted, .. } = listing(storage.clone());
        assert!(find(&archives, id).is_some_and(|a| a.name.as_str() == "other" && !a.unconfirmed));
        assert!(deleted.is_empty());
    }
    assert_eq!(sessions(&storage), 0);
    assert!(matches!(restore(storage, id), Err(Error::NotDeleted { .. })));
}

#[test]
fn listings_after_a_change_open_no_state() {
    let scene = Scene::new();
    let storage = scene.with_deleted();
    let watched = Watched::new(storage);
    watched.watch(|op, object| {
        assert!(op != Op::Read || !object.contains("states/") && !object.contains("archives/"), "{object}");
        Ok(())
    });
    assert_eq!(listing(watched).deleted.len(), 1);
}

#[test]
fn whatever_changes_a_listing_changes_its_mark() {
    let scene = Scene::new();
    let storage = scene.storage();
    let mut seen = BTreeSet::new();
    let mut mark = |storage: &MemoryStorage| {
        let marked = listing(storage.clone()).mark;
        assert_eq!(marked, listing_mark(open(storage.clone()).objects()).expect("list"));
        assert_eq!(marked, listing(storage.clone()).mark);
        assert!(seen.insert(marked), "what was listed before had that mark, too");
    };
    mark(&storage);
    change(storage.clone(), scene.ids[1], Change::Delete).expect("delete");
    mark(&storage);
    restore(storage.clone(), scene.ids[1]).expect("undelete");
    mark(&storage);
    let repository = open(storage.clone());
    let session = Session::begin(&repository, "test").expect("begin");
    mark(&storage);
    session.end().expect("end");
    back_up(&repository, "disk", file_of(&scene.bytes[0]).path());
    mark(&storage);
}

#[test]
fn what_comes_while_archives_are_listed_is_not_in_the_mark() {
    let scene = Scene::new();
    let storage = scene.storage();
    let watched = Watched::new(storage.clone());
    let (inner, deleted, seen) = (storage.clone(), scene.ids[1], AtomicUsize::new(0));
    // States are listed twice: this comes between, so that it may show.
    watched.watch(move |op, object| {
        if op == Op::List && object.ends_with("states") && seen.fetch_add(1, Ordering::Relaxed) == 2 {
            change(inner.clone(), deleted, Change::Delete).expect("delete");
        }
        Ok(())
    });
    let listed = listing(watched);
    assert_eq!(listed.deleted.len(), 1);
    assert_ne!(listed.mark, listing(storage).mark);
}

/// Two hosts that look before either has published.
#[test]
fn of_two_hosts_one_wins_and_everybody_sees_the_same() {
    let scene = Scene::new();
    let id = scene.ids[1];
    let mut winners = BTreeSet::new();
    for round in 0..24 {
        let storage = scene.storage();
        let slow = Watched::new(storage.clone());
        let other = storage.clone();
        slow.once(Op::Put, "states/", move || {
            change(other, id, Change::Rename(name("fast"))).expect("rename");
        });
        change(slow, id, Change::Rename(name("slow"))).expect("rename");
        let names: BTreeSet<String> = (0..3)
            .map(|_| find(&listing(storage.clone()).archives, id).expect("listed").name.to_string())
            .collect();
        assert_eq!(names.len(), 1, "{round}");
        let counters: Vec<_> = states(&storage, id).iter().map(|state| state.counter).collect();
        assert_eq!(counters, [1, 1], "neither saw the other");
        winners.extend(names);
        // Whoever comes after both wins.
        change(storage.clone(), id, Change::Rename(name("later"))).expect("rename");
        assert_eq!(find(&listing(storage).archives, id).expect("listed").name.as_str(), "later");
    }
    assert_eq!(winners.len(), 2, "it is the nonce that decides");
}

/// As two prunes at once: both mean to delete, in either order.
#[test]
fn two_hosts_that_delete_the_same_agree() {
    let scene = Scene::new();
    let storage = scene.storage();
    let slow = Watched::new(storage.clone());
    let (other, [first, second]) = (storage.clone(), scene.ids);
    slow.once(Op::Put, "states/", move || {
        let both = [(second, Change::Delete), (first, Change::Comment("pruned around".into()))];
        apply(&open(other), "prune", &both).expect("prune");
    });
    change(slow, second, Change::Delete).expect("delete");
    let Listing { archives, deleted, .. } = listing(storage.clone());
    assert_eq!((archives.len(), deleted.len()), (1, 1));
    restore(storage.clone(), second).expect("one undelete takes both back");
    assert_eq!(listing(storage).archives.len(), 2);
}

#[test]
fn a_change_is_seen_by_whoever_comes_after_it_though_lists_lag() {
    let scene = Scene::new();
    let lagging = Arc::new(Lagging::new(scene.storage(), 3).on_settle(Lagging::settle_now));
    for text in ["a", "b", "c"] {
        change(lagging.clone(), scene.ids[1], Change::Rename(name(text))).expect("rename");
        assert_eq!(find(&listing(lagging.clone()).archives, scene.ids[1]).expect("it").name.as_str(), text);
    }
}

#[test]
fn unbelievable_counters_are_not_followed() {
    let scene = Scene::new();
    let storage = scene.storage();
    let id = scene.ids[1];
    let far = StateName { archive: id, kind: ChangeKind::Name, counter: u64::MAX, nonce: Nonce16::random() };
    storage.put(&Name::new(&far.to_string()).expect("a name"), &[b"garbage"]).expect("put");
    change(storage.clone(), id, Change::Rename(name("other"))).expect("rename");
    assert_eq!(find(&listing(storage.clone()).archives, id).expect("listed").name.as_str(), "other");
    assert!(states(&storage, id).iter().any(|state| state.counter == 1));
}

/// Damages both copies of every state of an archive, and takes the catalogue away.
fn damage_states(storage: &MemoryStorage, archive: ArchiveId) {
    for (object, _) in storage.snapshot() {
        if object.as_str().contains(&format!("states/{archive}/")) {
            storage.overwrite(&object, b"garbage".to_vec());
        } else if object.as_str().contains("catalogue/") {
            storage.delete(&object).expect("delete");
        }
    }
}

#[test]
fn a_deletion_that_cannot_be_read_neither_hides_nor_vouches_for_an_archive() {
    let scene = Scene::new();
    let storage = scene.with_deleted();
    damage_states(&storage, scene.ids[1]);
    let Listing { archives, deleted, .. } = listing(storage.clone());
    assert!(deleted.is_empty());
    assert!(find(&archives, scene.ids[1]).expect("shown").doubtful);
    assert!(!find(&archives, scene.ids[0]).expect("shown").doubtful);
    // Said again, either way, it is certain again.
    let again = MemoryStorage::from_snapshot(storage.snapshot());
    change(again.clone(), scene.ids[1], Change::Delete).expect("delete");
    assert_eq!(listing(again).deleted.len(), 1);
    restore(storage.clone(), scene.ids[1]).expect("undelete");
    assert!(find(&listing(storage).archives, scene.ids[1]).is_some_and(|a| !a.doubtful && !a.unconfirmed));
}

/// A compaction that removes a deleted archive's record, then its states, while another client lists, at each call of that client.
#[test]
fn a_listing_never_shows_a_deleted_archive_as_its_record_goes() {
    for case in 0..8 {
        let [catalogue, at_once, marks] = [1, 2, 4].map(|bit| case & bit != 0);
        for call in 0..MANY {
            let scene = Scene::new();
            let storage = scene.with_deleted();
            if !catalogue {
                for listed in storage.list("catalogue").expect("list") {
                    open(storage.clone()).objects().delete(listed.name.as_str()).expect("delete");
                }
            }
            let watched = Watched::new(storage.clone());
            let repository = open(watched.clone());
            if at_once {
                watched.set_gains_from_threads();
            }
            if marks {
                watched.set_marks();
            }
            let objects = open(storage.clone()).objects().clone();
            let id = scene.ids[1];
            let calls = Arc::new(std::sync::atomic::AtomicU64::new(0));
            let counted = calls.clone();
            watched.watch(move |_, _| {
                if counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == call {
                    objects.delete(&record_name(id)).expect("delete");
                    for state in objects.list(&format!("states/{id}")).expect("list") {
                        objects.delete(state.name.as_str()).expect("delete");
                    }
                }
                Ok(())
            });
            let archives = list_all(repository.objects()).expect("list").archives;
            assert!(find(&archives, id).is_none(), "before call {call}");
            assert_eq!(archives.len(), 1);
            if calls.load(std::sync::atomic::Ordering::SeqCst) <= call {
                assert!(call > 6, "{call}");
                break;
            }
        }
    }
}

#[test]
fn archives_are_listed_twice_unless_it_is_known_that_none_went() {
    let scene = Scene::new();
    for (marks, changes, wanted) in [(false, false, 4), (true, false, 2), (true, true, 4)] {
        let storage = scene.storage();
        let watched = Watched::new(storage.clone());
        let repository = open(watched.clone());
        if marks {
            watched.set_marks();
        }
        if changes {
            let objects = open(storage.clone()).objects().clone();
            let record = record_name(scene.ids[1]);
            watched.once(Op::List, "sessions", move || objects.delete(&record).expect("delete"));
        }
        let lists = Arc::new(AtomicUsize::new(0));
        let counted = lists.clone();
        watched.watch(move |op, name| {
            let of_archives = op == Op::List && name.trim_start_matches("mirror/") == "archives";
            counted.fetch_add(usize::from(of_archives), Ordering::SeqCst);
            Ok(())
        });
        let archives = list_all(repository.objects()).expect("list").archives;
        assert_eq!(archives.len(), if changes { 1 } else { 2 });
        // Of both places.
        assert_eq!(lists.load(Ordering::SeqCst), wanted, "{marks} {changes}");
    }
}

/// A repository with an archive, and copies of it, of which a full segment of the catalogue tells, as it does of others that were deleted and are gone: so
/// many are there.
fn with_full_segment(living: u16) -> MemoryStorage {
    let storage = MemoryStorage::new();
    let repository = make(storage.clone());
    let first = back_up(&repository, "disk", file_of(&noise(1, 5000)).path()).id.expect("an id");
    let record = repository.record(first).expect("a record");
    let entry = |number: u16| {
        let mut id = [9; 16];
        id[..2].copy_from_slice(&number.to_be_bytes());
        let mut entry = CatalogueEntry::of(ArchiveId(id), &record);
        if number < living {
            let name = record_name(entry.id);
            repository
                .objects()
                .put(ObjectKind::Record, &name, &record.to_bytes().expect("it fits"))
                .expect("a record");
        } else {
            let name = StateName {
                archive: entry.id,
                kind: ChangeKind::Deleted,
                counter: 1,
                nonce: Nonce16([1; 16]),
            };
            let state = ArchiveState {
                archive: entry.id,
                counter: 1,
                time: 0,
                host: "elsewhere".into(),
                session: record.session,
                deleted: Some(true),
                name: None,
                tags: None,
                comment: None,
            };
            entry.states.push(KnownState { name: name.to_string(), state });
        }
        entry
    };
    let count = u16::try_from(MAX_CATALOGUE_ENTRIES).expect("thousands");
    let segment = CatalogueSegment { supersedes: vec![], archives: (0..count).map(entry).collect() };
    let name = SegmentName { counter: 1, nonce: Nonce16([1; 16]) };
    repository
        .objects()
        .put(ObjectKind::Catalogue, &name.to_string(), &segment.to_bytes())
        .expect("a segment");
    storage
}

#[test]
fn a_full_segment_of_the_catalogue_is_written_anew_when_most_of_it_is_gone() {
    let half = u16::try_from(MAX_CATALOGUE_ENTRIES / 2).expect("thousands");
    for (living, kept) in [(half, true), (half - 1, false)] {
        let storage = with_full_segment(living);
        let repository = open(storage.clone());
        let before = listing(storage.clone());
        assert_eq!((before.archives.len(), before.lost.len()), (usize::from(living) + 1, 0));
        refresh_catalogue(repository.objects()).expect("refresh");
        let segments = storage.list("catalogue").expect("list");
        let is_full = |listed: &Listed| listed.name.as_str().starts_with("catalogue/0000000000000001-01");
        assert_eq!((segments.len(), segments.iter().any(is_full)), if kept { (2, true) } else { (1, false) });
        let after = listing(storage.clone());
        assert_eq!(after.archives, before.archives);
        // Nothing is said any more of what is gone, and all of what is there without opening a record.
        let described = described_as_living(repository.objects()).expect("list").expect("no damage");
        assert_eq!(described.len(), usize::from(living) + 1);
        let watched = Watched::new(storage);
        watched.watch(|op, name| {
            assert!(op != Op::Read || !name.contains("archives/"), "{name}");
            Ok(())
        });
        assert_eq!(listing(watched).archives, before.archives);
    }
}

#[test]
fn a_full_segment_stays_as_long_as_what_it_says_is_not_settled() {
    let storage = with_full_segment(10);
    let repository = open(storage.clone());
    let is_full = || {
        let segments = storage.list("catalogue").expect("list");
        segments.iter().any(|listed| listed.name.as_str().starts_with("catalogue/0000000000000001-01"))
    };
    let session = listing(storage.clone()).archives[0].entry.session;
    let of_session = copal::repository::objects::name(&format!("sessions/{session}"));
    storage.put(&of_session, &[b"of one who undeletes"]).expect("a session");
    refresh_catalogue(repository.objects()).expect("refresh");
    assert!(is_full());
    storage.delete(&of_session).expect("it ends");
    refresh_catalogue(repository.objects()).expect("refresh");
    assert!(!is_full());
    assert_eq!(listing(storage.clone()).archives.len(), 11);
}

#[test]
fn what_was_restored_is_missed_whatever_a_full_segment_says_of_it() {
    let half = u16::try_from(MAX_CATALOGUE_ENTRIES / 2).expect("thousands");
    let storage = with_full_segment(half);
    let repository = open(storage.clone());
    // The first of those that the full segment knows to be deleted.
    let mut id = [9; 16];
    id[..2].copy_from_slice(&half.to_be_bytes());
    let id = ArchiveId(id);
    let mut entry = listing(storage.clone()).archives[0].entry.clone();
    let name = StateName { archive: id, kind: ChangeKind::Deleted, counter: 2, nonce: Nonce16([2; 16]) };
    let state = ArchiveState {
        archive: id,
        counter: 2,
        time: 0,
        host: "elsewhere".into(),
        session: entry.session,
        deleted: Some(false),
        name: None,
        tags: None,
        comment: None,
    };
    entry.id = id;
    entry.states = vec![KnownState { name: name.to_string(), state }];
    let segment = CatalogueSegment { supersedes: vec![], archives: vec![entry] };
    let name = SegmentName { counter: 2, nonce: Nonce16([2; 16]) };
    repository
        .objects()
        .put(ObjectKind::Catalogue, &name.to_string(), &segment.to_bytes())
        .expect("a segment");
    for _ in 0..3 {
        let lost = listing(storage.clone()).lost;
        assert_eq!(lost.iter().map(|lost| lost.id).collect::<Vec<_>>(), [id]);
        let known = lost[0].known.as_ref().expect("the catalogue describes it");
        assert_eq!((known.entry.states.len(), known.deleted.is_some()), (2, false));
        refresh_catalogue(repository.objects()).expect("refresh");
    }
}

/// What is listed after the catalogue was read, and `meanwhile` was done.
fn listing_after_the_catalogue(
    storage: &MemoryStorage,
    meanwhile: impl FnOnce() + Send + 'static,
) -> Listing {
    let watched = Watched::new(storage.clone());
    let repository = open(watched.clone());
    watched.set_gains_from_threads();
    let (send, receive) = std::sync::mpsc::channel();
    // As many as there are, none of which is superseded.
    let segments = storage.list("catalogue").expect("list").len();
    let read = Arc::new(AtomicUsize::new(0));
    watched.watch(move |op, name| {
        if op == Op::Read
            && name.contains("catalogue/")
            && read.fetch_add(1, Ordering::SeqCst) + 1 == segments
        {
            send.send(()).expect("somebody waits");
        }
        Ok(())
    });
    watched.once(Op::List, "archives", move || {
        receive
            .recv_timeout(std::time::Duration::from_secs(60))
            .expect("the catalogue is read beside the lists");
        meanwhile();
    });
    list_all(repository.objects()).expect("list")
}

#[test]
fn a_catalogue_that_is_older_than_the_lists_misses_nothing() {
    let scene = Scene::new();
    let id = scene.ids[1];
    let storage = scene.storage();
    let inner = storage.clone();
    let found =
        listing_after_the_catalogue(&storage, move || change(inner, id, Change::Delete).expect("delete"));
    assert_eq!((found.archives.len(), found.deleted.len(), found.lost.len()), (1, 1, 0));

    // Its record goes, too; what it was deleted by outlives that.
    let storage = scene.storage();
    let inner = storage.clone();
    let found = listing_after_the_catalogue(&storage, move || {
        change(inner.clone(), id, Change::Delete).expect("delete");
        open(inner).objects().delete(&record_name(id)).expect("delete");
    });
    assert_eq!((found.archives.len(), found.deleted.len(), found.lost.len()), (1, 0, 0));

    // One that comes meanwhile is no worse off for not being in it.
    let storage = scene.storage();
    let inner = storage.clone();
    let bytes = scene.bytes[0].clone();
    let found = listing_after_the_catalogue(&storage, move || {
        back_up(&open(inner), "late", file_of(&bytes).path());
    });
    assert!(found.lost.is_empty() && found.archives.iter().any(|archive| archive.name.as_str() == "late"));
}

#[test]
fn a_list_that_fails_beside_another_is_not_an_empty_one() {
    for place in ["archives", "mirror/archives", "states", "sessions"] {
        let watched = Watched::new(Scene::new().storage());
        let repository = open(watched.clone());
        watched.set_gains_from_threads();
        watched.watch(move |op, name| {
            if op == Op::List && name == place { Err(std::io::Error::other("no")) } else { Ok(()) }
        });
        list_all(repository.objects()).expect_err(place);
        listing_mark(repository.objects()).expect_err(place);
    }
    let watched = Watched::new(Scene::new().storage());
    let repository = open(watched.clone());
    watched.set_gains_from_threads();
    watched.watch(|op, name| {
        if op == Op::Read && name.contains("catalogue") { Err(std::io::Error::other("no")) } else { Ok(()) }
    });
    assert_eq!(list_all(repository.objects()).expect("list").archives.len(), 2, "records say it, too");
}

#[test]
fn a_crash_while_deleting_or_renaming_harms_nothing() {
    let changes: [fn() -> Change; 3] =
        [|| Change::Delete, || Change::Rename(name("other")), || Change::Tag(vec![name("t")])];
    for to in changes {
        let scene = Scene::new();
        for n in 0..=MANY {
            assert!(n < MANY, "a change never ends");
            let faults = Arc::new(Faults::new(scene.storage()));
            let repository = open(faults.clone());
            faults.crash_after_puts(n);
            let changed = apply(&repository, "test", &[(scene.ids[1], to())]);
            let crashed = faults.crashed();
            let storage = faults.inner();
            let at = format!("{:?}, crash after {n}", to());
            scene.check_first(storage, &at);
            let Listing { archives, deleted, .. } = listing(storage.clone());
            let archive = find(&archives, scene.ids[1]).or(find(&deleted, scene.ids[1]));
            let archive = archive.expect("either way it is there");
            assert!(!archive.unconfirmed && !archive.doubtful, "{at}");
            assert_whole(storage.clone(), scene.ids[1], &scene.bytes[1]);
            change(storage.clone(), scene.ids[1], to()).expect("again");
            let Listing { archives, deleted, .. } = listing(storage.clone());
            match to() {
                Change::Delete => assert!(find(&deleted, scene.ids[1]).is_some(), "{at}"),
                Change::Rename(to) => assert_eq!(find(&archives, scene.ids[1]).expect("it").name, to, "{at}"),
                _ => assert_eq!(find(&archives, scene.ids[1]).expect("it").tags.len(), 1, "{at}"),
            }
            if !crashed {
                changed.expect("nothing stopped it");
                assert!(n > 6, "{n}");
                break;
            }
        }
    }
}

#[test]
fn a_crash_while_several_are_deleted_deletes_no_other() {
    let scene = Scene::new();
    let storage = scene.storage();
    let third = back_up(&open(storage.clone()), "disk", file_of(&scene.bytes[0]).path()).id.expect("an id");
    let before = storage.snapshot();
    for n in 0..=MANY {
        assert!(n < MANY, "a prune never ends");
        let faults = Arc::new(Faults::new(MemoryStorage::from_snapshot(before.clone())));
        let repository = open(faults.clone());
        faults.crash_after_puts(n);
        let both = scene.ids.map(|id| (id, Change::Delete));
        let pruned = apply(&repository, "prune", &both);
        let (crashed, storage) = (faults.crashed(), faults.inner());
        assert_whole(storage.clone(), third, &scene.bytes[0]);
        assert!(listed(storage.clone()).contains(&third), "crash after {n}");
        apply(&open(storage.clone()), "prune", &both).expect("again");
        assert_eq!(listed(storage.clone()), BTreeSet::from([third]));
        if !crashed {
            pruned.expect("nothing stopped it");
            return;
        }
    }
}

#[test]
fn a_failure_after_some_were_changed_says_how_many() {
    let scene = Scene::new();
    let faults = Arc::new(Faults::new(scene.storage()));
    faults.fail_nth(Op::Put, "states/", 2, std::io::ErrorKind::StorageFull);
    let failed = apply(&open(faults.clone()), "prune", &scene.ids.map(|id| (id, Change::Delete)));
    let error = failed.expect_err("it is full");
    assert!(error.is_full() && error.to_string().starts_with("1 of 2 archives were changed"), "{error}");
    assert_eq!(listed(faults.inner().clone()), BTreeSet::from([scene.ids[1]]));
    assert_eq!(sessions(faults.inner()), 0);
}

#[test]
fn a_session_that_only_names_things_leaves_archives_confirmed() {
    let scene = Scene::new();
    let storage = scene.storage();
    let faults = Arc::new(Faults::new(storage.clone()));
    faults.inject_always(
        Op::Delete,
        "mirror/sessions/",
        copal::storage::faults::Fault::Fail(std::io::ErrorKind::PermissionDenied),
    );
    change(faults, scene.ids[1], Change::Rename(name("other")))
        .expect("the session stays, which is no failure");
    assert!(sessions(&storage) > 0);
    assert!(listing(storage.clone()).archives.iter().all(|archive| !archive.unconfirmed));
    drop(Session::begin(&open(storage), "test").expect("session"));
}
