//! Creates while a compactor works: whatever it takes is noticed before the create reports success.

mod common;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use common::compactor::Compactor;
use common::watched::Watched;
use common::{assert_whole, back_up, file_of, listed, make, mixed, name, noise, open, options, packs_of};
use copal::archiver::create::{Created, create};
use copal::archiver::{Error, Silent, Stop};
use copal::format::pack::PackKind;
use copal::id::{ArchiveId, PackId};
use copal::repository::session::Session;
use copal::repository::{self, Repository};
use copal::source::SourceSpec;
use copal::storage::Storage;
use copal::storage::lagging::Lagging;
use copal::storage::memory::MemoryStorage;
use copal::storage::recorder::Op;

/// One span that a second backup finds unchanged, and a second span of which it finds the first half.
const OLD: usize = 7 << 20;

/// An elder archive, and one whose packs a compactor will take because it was deleted.
struct Scene {
    storage: MemoryStorage,
    elder: ArchiveId,
    elder_bytes: Vec<u8>,
    deleted: ArchiveId,
    old: Vec<u8>,
    new: Vec<u8>,
    source: tempfile::NamedTempFile,
}

impl Scene {
    fn new() -> Self {
        let storage = MemoryStorage::new();
        let repository = make(storage.clone());
        let elder_bytes = mixed(3, 1 << 20);
        let elder = back_up(&repository, "disk", file_of(&elder_bytes).path()).id.expect("an id");
        let old = noise(1, OLD);
        let deleted = back_up(&repository, "disk", file_of(&old).path()).id.expect("an id");
        Compactor::new(storage.clone()).delete_archive(deleted);
        let new = [&old[..6 << 20], &noise(2, 1 << 20)].concat();
        let source = file_of(&new);
        Self { storage, elder, elder_bytes, deleted, old, new, source }
    }

    fn compactor(&self) -> Compactor {
        Compactor::new(self.storage.clone())
    }

    /// The packs of the deleted archive that a new backup wants again.
    fn packs(&self, kind: PackKind) -> Vec<PackId> {
        packs_of(&open(self.storage.clone()), self.deleted, kind).into_iter().collect()
    }

    /// One of them that it surely claims: where the image begins.
    fn victim(&self, kind: PackKind) -> PackId {
        let repository = open(self.storage.clone());
        let mut places = Vec::new();
        let mut visit =
            |blob, _, at: copal::format::location::Location| places.push((PackKind::of(blob), at.pack.id));
        let image = common::image(&repository, self.deleted);
        common::reader_of(&repository).maps().walk(&image, &mut visit).expect("walk");
        places.into_iter().find(|(found, _)| *found == kind).expect("there is data").1
    }

    fn create(&self, storage: impl Storage + 'static) -> Result<Created, Error> {
        create(&open(storage), &options("disk", &[self.source.path()]), &Stop::default(), &Silent)
    }

    fn create_from_command(&self, storage: impl Storage + 'static) -> Result<Created, Error> {
        let mut options = options("disk", &[]);
        let args = vec![OsString::from(self.source.path())];
        options.members = vec![(name("disk.img"), SourceSpec::Command { program: "cat".into(), args })];
        create(&open(storage), &options, &Stop::default(), &Silent)
    }

    fn records(&self) -> usize {
        self.storage.list("archives").expect("list").len()
    }

    /// The new archive is whole and the only new one; the create made it in `passes` passes.
    fn check(&self, created: Result<Created, Error>, passes: usize, at: &str) -> Created {
        let created = created.unwrap_or_else(|error| panic!("{at}: {error}"));
        let id = created.id.expect("an id");
        assert_eq!(listed(self.storage.clone()), BTreeSet::from([self.elder, id]), "{at}");
        assert_eq!(self.records(), 2 + passes, "{at}: records, the withdrawn ones included");
        assert_whole(self.storage.clone(), id, &self.new);
        assert_whole(self.storage.clone(), self.elder, &self.elder_bytes);
        assert_eq!(created.record.previous, Some(self.elder), "{at}: not one that is withdrawn");
        self.check_no_session(at);
        created
    }

    fn check_nothing_new(&self, at: &str) {
        assert_eq!(listed(self.storage.clone()), BTreeSet::from([self.elder]), "{at}");
        assert_whole(self.storage.clone(), self.elder, &self.elder_bytes);
        self.check_no_session(at);
    }

    fn check_no_session(&self, at: &str) {
        assert_eq!(self.storage.list("sessions").expect("list"), [], "{at}");
    }
}

/// Where a compaction may fall between a create's claims and its confirmation.
const POINTS: [(Op, &str); 3] = [(Op::Put, "index/"), (Op::Put, "archives/"), (Op::List, "mirror/intents")];

/// Runs `act` at each of [`POINTS`] of a create, which then takes `passes` passes.
fn at_every_point(passes: usize, act: impl Fn(&Scene, &Compactor) + Clone + Send + 'static) {
    for (op, prefix) in POINTS {
        let scene = Arc::new(Scene::new());
        let storage = Watched::new(scene.storage.clone());
        let (act, actor) = (act.clone(), scene.clone());
        storage.once(op, prefix, move || act(&actor, &actor.compactor()));
        scene.check(scene.create(storage), passes, &format!("{op:?} {prefix}"));
    }
}

#[test]
fn a_deleted_pack_is_stored_again() {
    for kind in [PackKind::Data, PackKind::Maps] {
        at_every_point(2, move |scene, compactor| {
            let victim = scene.victim(kind);
            compactor.intend(&[victim], &[]);
            compactor.delete_pack(kind, victim);
        });
    }
}

#[test]
fn a_deleted_pack_is_noticed_after_its_intent_is_gone() {
    at_every_point(2, |scene, compactor| {
        let victims = scene.packs(PackKind::Data);
        let intent = compactor.intend(&victims, &[]);
        victims.iter().for_each(|victim| compactor.delete_pack(PackKind::Data, *victim));
        compactor.delete(&intent);
    });
}

#[test]
fn an_intent_counts_before_anything_is_deleted() {
    at_every_point(2, |scene, compactor| {
        compactor.intend(&scene.packs(PackKind::Maps), &[]);
        compactor.intend(&scene.packs(PackKind::Data), &[]);
    });
}

#[test]
fn a_forwarded_pack_needs_no_second_pass() {
    for kind in [PackKind::Data, PackKind::Maps] {
        at_every_point(1, move |scene, compactor| {
            for victim in scene.packs(kind) {
                let copied = compactor.copy(kind, victim, |_| true);
                compactor.publish_index(&copied);
                compactor.forward(&copied);
                compactor.intend(&[victim], &[]);
                compactor.delete_pack(kind, victim);
            }
        });
    }
}

#[test]
fn a_blob_left_out_of_a_forwarding_is_stored_again() {
    at_every_point(2, |scene, compactor| {
        let kind = PackKind::Data;
        for victim in scene.packs(kind) {
            let first = compactor.0.packs().entries(kind, victim).expect("entries")[0].id;
            compactor.forward(&compactor.copy(kind, victim, |entry| entry.id != first));
            compactor.intend(&[victim], &[]);
            compactor.delete_pack(kind, victim);
        }
    });
}

#[test]
fn a_forwarding_or_target_that_will_go_does_not_count() {
    for target_goes in [false, true] {
        at_every_point(2, move |scene, compactor| {
            let victim = scene.victim(PackKind::Data);
            let copied = compactor.copy(PackKind::Data, victim, |_| true);
            let forwarding = compactor.forward(&copied);
            if target_goes {
                compactor.intend(&[victim, copied.pack.id], &[]);
            } else {
                compactor.intend(&[victim], &[forwarding]);
            }
            compactor.delete_pack(PackKind::Data, victim);
        });
    }
}

/// The index knows only copies of the chunks, while the map that is used again still hints at the packs they were copied from.
#[test]
fn what_a_reused_map_hints_at_is_claimed_too() {
    let scene = Scene::new();
    let compactor = scene.compactor();
    for segment in scene.storage.list("index").expect("list") {
        scene.storage.delete(&segment.name).expect("delete");
    }
    let victims = scene.packs(PackKind::Data);
    for victim in &victims {
        compactor.publish_index(&compactor.copy(PackKind::Data, *victim, |_| true));
    }
    for maps in scene.packs(PackKind::Maps) {
        compactor.publish_index(&compactor.copy(PackKind::Maps, maps, |_| true));
    }
    let storage = Watched::new(scene.storage.clone());
    storage.once(Op::Put, "archives/", move || {
        compactor.intend(&victims, &[]);
        victims.iter().for_each(|victim| compactor.delete_pack(PackKind::Data, *victim));
    });
    scene.check(scene.create(storage), 2, "hinted packs");
}

#[test]
fn a_spared_pack_costs_nothing() {
    at_every_point(1, |scene, compactor| {
        let packs = [scene.packs(PackKind::Data), scene.packs(PackKind::Maps)].concat();
        let condemned = compactor.condemn(&packs);
        let intent = compactor.intend(&packs, &[]);
        compactor.delete(&intent);
        compactor.delete(&condemned);
    });
}

#[test]
fn a_stream_that_lost_a_claim_fails_and_leaves_nothing() {
    for (op, prefix) in POINTS {
        let scene = Arc::new(Scene::new());
        let storage = Watched::new(scene.storage.clone());
        let actor = scene.clone();
        storage.once(op, prefix, move || {
            let compactor = actor.compactor();
            let victim = actor.victim(PackKind::Data);
            compactor.intend(&[victim], &[]);
            compactor.delete_pack(PackKind::Data, victim);
        });
        let lost = scene.create_from_command(storage.clone());
        assert!(matches!(lost, Err(Error::LostClaim { packs: 1 })), "{op:?} {prefix}: {lost:?}");
        scene.check_nothing_new(prefix);
        let again = scene.create_from_command(storage).expect("once more, as the error says");
        assert_whole(scene.storage.clone(), again.id.expect("an id"), &scene.new);
    }
}

#[test]
fn compactions_at_every_pass_end_in_an_error() {
    let scene = Arc::new(Scene::new());
    let storage = Watched::new(scene.storage.clone());
    let actor = scene.clone();
    storage.watch(move |op, name| {
        if op == Op::List && name == "mirror/intents" {
            let packs: Vec<PackId> = actor.compactor().0.objects().list_ids("packs").expect("list");
            actor.compactor().intend(&packs, &[]);
        }
        Ok(())
    });
    let never = scene.create(storage);
    assert!(matches!(never, Err(Error::NeverConfirmed)), "{never:?}");
    scene.check_nothing_new("every pass");
}

#[test]
fn condemned_packs_are_never_claimed() {
    let scene = Scene::new();
    let condemned: BTreeSet<PackId> =
        [PackKind::Data, PackKind::Maps].map(|kind| scene.packs(kind)).concat().into_iter().collect();
    for pack in &condemned {
        scene.compactor().condemn(&[*pack]);
    }
    let created = scene.check(scene.create(scene.storage.clone()), 1, "condemned");
    let id = created.id.expect("an id");
    for kind in [PackKind::Data, PackKind::Maps] {
        let used = packs_of(&open(scene.storage.clone()), id, kind);
        assert!(used.is_disjoint(&condemned), "{kind:?}");
    }
    assert_eq!(created.record.stats.reused_chunks, 0);
    let next = scene.create(scene.storage.clone()).expect("create");
    assert_eq!(next.record.stats.new_chunks, 0, "what is not condemned is shared");
}

/// The claims of a create follow the condemned list that was there before it listed packs, at its very start.
#[test]
fn a_list_published_just_before_it_is_read_counts() {
    let scene = Arc::new(Scene::new());
    let storage = Watched::new(scene.storage.clone());
    let actor = scene.clone();
    storage.once(Op::List, "mirror/condemned", move || {
        actor.compactor().condemn(&actor.packs(PackKind::Data));
    });
    let created = scene.check(scene.create(storage), 1, "condemned late");
    let used = packs_of(&open(scene.storage.clone()), created.id.expect("an id"), PackKind::Data);
    assert!(used.is_disjoint(&scene.packs(PackKind::Data).into_iter().collect()));
}

#[test]
fn an_index_that_names_vanished_packs_is_harmless() {
    for kind in [PackKind::Data, PackKind::Maps] {
        let scene = Scene::new();
        scene.packs(kind).into_iter().for_each(|pack| scene.compactor().delete_pack(kind, pack));
        let created = scene.create(scene.storage.clone());
        let created = created.expect("create");
        assert_whole(scene.storage.clone(), created.id.expect("an id"), &scene.new);
    }
}

#[test]
fn what_cannot_be_read_fails_the_create() {
    for folder in ["intents", "condemned"] {
        for (first, second) in [(true, true), (false, true), (true, false)] {
            let scene = Scene::new();
            let id = PackId::random();
            for (there, place) in [(first, ""), (second, "mirror/")] {
                let name = copal::storage::Name::new(&format!("{place}{folder}/{id}")).expect("a name");
                if there {
                    scene.storage.put(&name, &[b"garbage"]).expect("put");
                }
            }
            let failed = scene.create(scene.storage.clone());
            let at = format!("{folder}, copies {first} {second}");
            assert!(
                matches!(failed, Err(Error::Repository(repository::Error::Damaged { .. }))),
                "{at}: {failed:?}"
            );
            scene.check_nothing_new(&at);
        }
    }
}

#[test]
fn unknown_names_are_left_alone() {
    let scene = Scene::new();
    let folders = [
        "intents",
        "condemned",
        "sessions",
        "archives",
        "states",
        "catalogue",
        "index",
        "packs",
        "maps",
        "keys",
    ];
    let mut strays = Vec::new();
    for folder in folders {
        let longest = "x".repeat(copal::storage::Name::MAX - folder.len() - 1);
        for stray in ["readme.txt", &longest] {
            let stray = copal::storage::Name::new(&format!("{folder}/{stray}")).expect("a name");
            scene.storage.put(&stray, &[b"garbage"]).expect("put");
            strays.push(stray);
        }
    }
    let created = scene.create(scene.storage.clone()).expect("create");
    assert_whole(scene.storage.clone(), created.id.expect("an id"), &scene.new);
    assert_eq!(created.record.previous, Some(scene.elder));
    strays.iter().for_each(|stray| assert_eq!(scene.storage.len(stray).expect("still there"), 7));
}

#[test]
fn an_intent_deleted_while_it_is_read_is_no_error() {
    let scene = Scene::new();
    let storage = Watched::new(scene.storage.clone());
    let compactor = scene.compactor();
    let intent = compactor.intend(&[PackId::random()], &[]);
    storage.once(Op::Read, "intents/", move || compactor.delete(&intent));
    scene.check(scene.create(storage), 1, "a retired intent");
}

/// A create over a storage whose lists lag; whether it settles is up to `settles`. The intent comes just before the record, through the same
/// lagging lists.
fn create_over_lagging_lists(settles: bool) -> (Scene, Result<Created, Error>) {
    let scene = Scene::new();
    let lagging = Lagging::new(scene.storage.clone(), 3);
    let lagging = if settles { lagging.on_settle(Lagging::settle_now) } else { lagging };
    let lagging = Arc::new(lagging);
    let storage = Watched::new(lagging.clone());
    let victim = scene.victim(PackKind::Data);
    storage.once(Op::Put, "archives/", move || {
        lagging.settle_now();
        Compactor::new(lagging.clone()).intend(&[victim], &[]);
    });
    let created = scene.create(storage);
    (scene, created)
}

#[test]
fn a_create_waits_for_lists_to_settle() {
    let (scene, created) = create_over_lagging_lists(true);
    scene.check(created, 2, "settled");
    // The test can tell: without the wait the intent goes unseen.
    let (scene, created) = create_over_lagging_lists(false);
    created.expect("create");
    assert_eq!(scene.records(), 3);
}

#[test]
fn two_creates_of_one_content_both_succeed() {
    let storage = MemoryStorage::new();
    make(storage.clone());
    let bytes = mixed(9, 9 << 20);
    let file = file_of(&bytes);
    let together = std::sync::Barrier::new(4);
    let run = |name: &'static str| {
        let repository = open(storage.clone());
        together.wait();
        back_up(&repository, name, file.path()).id.expect("an id")
    };
    let ids: Vec<ArchiveId> = std::thread::scope(|scope| {
        let names = ["a", "a", "b", "c"];
        let threads: Vec<_> = names.into_iter().map(|name| scope.spawn(move || run(name))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    assert_eq!(listed(storage.clone()), ids.iter().copied().collect());
    ids.iter().for_each(|id| assert_whole(storage.clone(), *id, &bytes));
    let roots: BTreeSet<_> = ids.iter().map(|id| root(&open(storage.clone()), *id)).collect();
    assert_eq!(roots.len(), 1, "equal content has equal ids, wherever it lies");
    assert_eq!(storage.list("sessions").expect("list"), []);
}

fn root(repository: &Repository, archive: ArchiveId) -> copal::id::BlobId {
    common::image(repository, archive).root.expect("there is data").id
}

/// Moves a pack on, `steps` times; returns where its blobs are at last.
fn move_on(compactor: &Compactor, kind: PackKind, pack: PackId, steps: usize) -> PackId {
    (0..steps).fold(pack, |pack, _| {
        let copied = compactor.copy(kind, pack, |_| true);
        compactor.forward(&copied);
        compactor.delete_pack(kind, pack);
        copied.pack.id
    })
}

fn lone_archive(storage: &MemoryStorage, source: &Path) -> (Arc<Repository>, ArchiveId) {
    let repository = make(storage.clone());
    let id = back_up(&repository, "disk", source).id.expect("an id");
    for index in storage.list("index").expect("list") {
        storage.delete(&index.name).expect("delete");
    }
    (repository, id)
}

#[test]
fn reads_follow_chains_of_forwardings_without_an_index() {
    let storage = MemoryStorage::new();
    let bytes = noise(5, 2 << 20);
    let (repository, id) = lone_archive(&storage, file_of(&bytes).path());
    let compactor = Compactor(repository.clone());
    for kind in [PackKind::Data, PackKind::Maps] {
        for pack in packs_of(&repository, id, kind) {
            move_on(&compactor, kind, pack, 3);
        }
    }
    assert_whole(storage, id, &bytes);
}

#[test]
fn all_forwardings_of_a_pack_count() {
    let storage = MemoryStorage::new();
    let bytes = noise(6, 3 << 19);
    let (repository, id) = lone_archive(&storage, file_of(&bytes).path());
    let compactor = Compactor(repository.clone());
    for pack in packs_of(&repository, id, PackKind::Data) {
        let even = compactor.copy(PackKind::Data, pack, |entry| entry.id.0[0] % 2 == 0);
        let odd = compactor.copy(PackKind::Data, pack, |entry| entry.id.0[0] % 2 == 1);
        let vanished = compactor.copy(PackKind::Data, pack, |_| true);
        for copied in [&even, &odd, &vanished] {
            compactor.forward(copied);
        }
        compactor.delete_pack(PackKind::Data, pack);
        compactor.delete_pack(PackKind::Data, vanished.pack.id);
    }
    assert_whole(storage.clone(), id, &bytes);
    // One that does not open takes nothing away from the others.
    for pack in packs_of(&repository, id, PackKind::Data) {
        let garbage = format!("moved/{}/{pack}/{}", &pack.to_string()[..2], PackId::random());
        storage.put(&copal::storage::Name::new(&garbage).expect("a name"), &[b"garbage"]).expect("put");
    }
    assert_whole(storage, id, &bytes);
}

#[test]
fn cycles_of_forwardings_end() {
    let storage = MemoryStorage::new();
    let (repository, id) = lone_archive(&storage, file_of(&noise(7, 100_000)).path());
    let compactor = Compactor(repository.clone());
    for first in packs_of(&repository, id, PackKind::Data) {
        let mut onward = compactor.copy(PackKind::Data, first, |_| true);
        let mut back = onward.clone();
        (back.from, back.pack.id) = (onward.pack.id, onward.from);
        compactor.forward(&onward);
        compactor.forward(&back);
        onward.from = onward.pack.id;
        compactor.forward(&onward);
        for pack in [first, onward.pack.id] {
            compactor.delete_pack(PackKind::Data, pack);
        }
    }
    let recorder = Arc::new(copal::storage::recorder::Recorder::new(storage));
    let repository = open(recorder.clone());
    let image = common::image(&repository, id);
    let reader = common::reader_of(&repository);
    recorder.clear();
    let error = reader.read_at(&image, 0, &mut [0; 100]).expect_err("all packs are gone");
    assert!(matches!(*error, repository::Error::LostBlob { .. }), "{error}");
    assert!(recorder.calls().len() < 30, "{:?}", recorder.calls());
}

/// A session that withdraws its archive while another client lists, at each list of that client.
#[test]
fn a_list_never_shows_a_withdrawn_archive_as_confirmed() {
    for prefix in ["archives", "states", "catalogue", "sessions"] {
        for prefix in [prefix.to_owned(), format!("mirror/{prefix}")] {
            let storage = MemoryStorage::new();
            let repository = make(storage.clone());
            let record = back_up(&repository, "disk", file_of(b"x").path()).record;
            let watched = Watched::new(storage.clone());
            let writer: &'static Repository = Box::leak(Box::new(open_one(storage)));
            let session = Session::begin(writer, "test").expect("session");
            let record = copal::format::record::ArchiveRecord { session: session.id(), ..record };
            let id = session.publish(&record).expect("publish");
            let at: &'static str = prefix.clone().leak();
            watched.once(Op::List, at, move || drop(session));
            let archives = open(watched).archives().expect("list");
            let shown = archives.iter().find(|archive| archive.id() == id);
            assert!(shown.is_none_or(|archive| archive.unconfirmed), "before the list of {prefix}");
        }
    }
}

fn open_one(storage: MemoryStorage) -> Repository {
    Arc::into_inner(open(storage)).expect("nobody else has it")
}

#[test]
fn an_io_error_at_the_confirmation_is_no_confirmation() {
    for folder in ["intents", "mirror/intents", "packs", "maps", "mirror/maps"] {
        let scene = Scene::new();
        let storage = Watched::new(scene.storage.clone());
        let published = Arc::new(std::sync::atomic::AtomicBool::new(false));
        storage.watch(move |op, name| {
            use std::sync::atomic::Ordering::SeqCst;
            if op == Op::Put && name.starts_with("archives/") {
                published.store(true, SeqCst);
            }
            let fails = op == Op::List && name == folder && published.load(SeqCst);
            if fails { Err(ErrorKind::TimedOut.into()) } else { Ok(()) }
        });
        scene.create(storage).expect_err("what cannot be listed may name our packs");
        scene.check_nothing_new(folder);
    }
}

#[test]
fn the_scene_is_what_the_tests_need() {
    let scene = Scene::new();
    assert!(scene.packs(PackKind::Data).len() >= 6, "several packs, of which some are claimed");
    assert_whole(scene.storage.clone(), scene.deleted, &scene.old);
    let created = scene.check(scene.create(scene.storage.clone()), 1, "undisturbed");
    let stats = created.record.stats;
    assert!(stats.reused_chunks > 0 && stats.new_chunks > 0, "{stats:?}");
    let used = packs_of(&open(scene.storage.clone()), created.id.expect("an id"), PackKind::Data);
    assert!(used.contains(&scene.victim(PackKind::Data)), "tests take this one away");
}
