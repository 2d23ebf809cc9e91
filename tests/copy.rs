//! Copies between repositories: equal to their originals, opened once, stored once, whole whatever happens meanwhile; the source is only read.

mod common;
#[path = "copy/compactors.rs"]
mod compactors;

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use common::compactor::Compactor;
use common::watched::Watched;
use common::{
    assert_whole, back_up, file_of, make, mixed, name, noise, open, options, packs_of, small_options,
};
use copal::archiver::copy::{CopyOptions, Outcome, copy};
use copal::archiver::create::{CreateOptions, create};
use copal::archiver::{Error, Monitor, Silent, Stop};
use copal::codec::keys::BlobKind;
use copal::codec::slot_key::{Derivation, Secret};
use copal::format::config::ChunkerParams;
use copal::format::envelope::ObjectKind;
use copal::format::msgpack;
use copal::format::pack::PackKind;
use copal::format::protocol;
use copal::format::record::{ArchiveRecord, Origin};
use copal::format::state::{ArchiveState, ChangeKind, StateName};
use copal::id::{ArchiveId, Nonce16, SessionId};
use copal::repository::Repository;
use copal::repository::packs::pack_name;
use copal::repository::session::Session;
use copal::repository::unlock::{InitOptions, Locked, init};
use copal::storage::Storage;
use copal::storage::faults::Faults;
use copal::storage::memory::MemoryStorage;
use copal::storage::recorder::{Op, Recorder};

type Repo = Arc<Repository>;
type Told = Vec<(ArchiveId, Outcome)>;

/// Copies these archives; what became of each, and how it ended.
fn copy_with(from: &Repo, to: &Repo, only: &[ArchiveId], options: &CopyOptions) -> (Told, Result<(), Error>) {
    copy_until(from, to, only, options, &Stop::default(), &Silent)
}

fn copy_until(
    from: &Repo,
    to: &Repo,
    only: &[ArchiveId],
    options: &CopyOptions,
    stop: &Stop,
    monitor: &dyn Monitor,
) -> (Told, Result<(), Error>) {
    let archives = from.archives().expect("list");
    let chosen: Vec<_> =
        archives.iter().filter(|archive| only.is_empty() || only.contains(&archive.id())).collect();
    let mut told = Vec::new();
    let ended = copy(from, to, &chosen, options, stop, monitor, &mut |archive, outcome| {
        let outcome = match outcome {
            Outcome::Copied { id, record, warnings } => {
                Outcome::Copied { id: *id, record: record.clone(), warnings: warnings.clone() }
            }
            Outcome::Present(id) => Outcome::Present(*id),
            Outcome::Unconfirmed => Outcome::Unconfirmed,
            Outcome::Damaged(error) => Outcome::Damaged(Error::Io {
                action: "read",
                path: copal::repository::archives::chain(error).into(),
                source: std::io::ErrorKind::Other.into(),
            }),
        };
        told.push((archive.id(), outcome));
    });
    (told, ended)
}

fn copy_all(from: &Repo, to: &Repo) -> Told {
    let (told, ended) = copy_with(from, to, &[], &CopyOptions::default());
    ended.expect("copy");
    told
}

/// The id and record of the only one, which was copied.
fn only_copy(told: Told) -> (ArchiveId, ArchiveRecord) {
    match <[_; 1]>::try_from(told).expect("one archive") {
        [(_, Outcome::Copied { id: Some(id), record, .. })] => (id, *record),
        other => panic!("{other:?}"),
    }
}

fn copied(told: &Told) -> Vec<(ArchiveId, ArchiveId)> {
    let of = |(from, outcome): &(ArchiveId, Outcome)| match outcome {
        Outcome::Copied { id: Some(to), .. } => Some((*from, *to)),
        _ => None,
    };
    told.iter().filter_map(of).collect()
}

fn present(told: &Told) -> usize {
    told.iter().filter(|(_, outcome)| matches!(outcome, Outcome::Present(_))).count()
}

fn encrypted(storage: impl Storage + 'static) -> Repo {
    let derivation = Derivation::Argon2id { memory_kib: 64, iterations: 1, lanes: 1 };
    let secret = Some(secret());
    Arc::new(init(Arc::new(storage), &InitOptions { secret, derivation, ..small_options() }).expect("init"))
}

fn secret() -> Secret {
    Secret::Passphrase("offsite".to_owned().into())
}

fn read(repository: &Repo, archive: ArchiveId, member: usize) -> Vec<u8> {
    let record = repository.record(archive).expect("record");
    let image = copal::image::Image::of(&record.members[member], repository.config().span_shift);
    common::read_all(&common::reader_of(repository), &image, 1 << 20)
}

fn id_of(repository: &Repo, archive: &str, bytes: &[u8]) -> ArchiveId {
    back_up(repository, archive, file_of(bytes).path()).id.expect("an id")
}

fn state(repository: &Repo, archive: ArchiveId, kind: ChangeKind, change: impl Fn(&mut ArchiveState)) {
    let name = StateName { archive, kind, counter: 1, nonce: Nonce16::random() };
    let mut state = ArchiveState {
        archive,
        counter: 1,
        time: 1,
        host: String::new(),
        session: SessionId::random(),
        deleted: None,
        name: None,
        tags: None,
        comment: None,
    };
    change(&mut state);
    repository.objects().put(ObjectKind::State, &name.to_string(), &state.to_bytes()).expect("put");
}

fn mutations(recorder: &Recorder<MemoryStorage>) -> usize {
    recorder.count(Op::Put) + recorder.count(Op::Delete)
}

#[test]
fn a_copy_is_equal_in_bytes_and_facts() {
    let from = make(MemoryStorage::new());
    let disk = mixed(5, 11 << 20);
    let files = [file_of(&disk), file_of(&vec![0; 9 << 20]), file_of(b""), file_of(b"<domain/>")];
    let mut wanted = options("web01", &files.each_ref().map(tempfile::NamedTempFile::path));
    wanted.comment = "before".into();
    wanted.tags = vec![name("weekly")];
    wanted.time = Some(1_800_000_000_000_000_000);
    let created = create(&from, &wanted, &Stop::default(), &Silent).expect("create");
    let elder = created.record;
    state(&from, created.id.expect("id"), ChangeKind::Name, |state| state.name = Some(name("web02")));
    state(&from, created.id.expect("id"), ChangeKind::Comment, |state| state.comment = Some("after".into()));

    let storage = MemoryStorage::new();
    encrypted(storage.clone());
    let reopen = || {
        Arc::new(
            Locked::read(Arc::new(storage.clone())).expect("config").unlock(Some(&secret())).expect("unlock"),
        )
    };
    let (id, copy) = only_copy(copy_all(&from, &reopen()));
    let to = reopen();
    assert_eq!(to.record(id).expect("record"), copy);
    let origin = Origin { repository: from.id(), archive: created.id.expect("id") };
    assert_eq!((copy.origin, elder.origin), (Some(origin), None));
    assert_eq!((copy.name.as_str(), copy.comment.as_str(), &copy.tags), ("web02", "after", &elder.tags));
    assert_eq!((copy.time, copy.started, copy.finished), (elder.time, elder.started, elder.finished));
    assert_eq!((&copy.host, &copy.user), (&elder.host, &elder.user));
    for (number, (copy, elder)) in copy.members.iter().zip(&elder.members).enumerate() {
        let (mut same, root) = (copy.clone(), copy.root);
        same.root = elder.root;
        assert_eq!(&same, elder);
        assert_eq!(root.is_some(), elder.root.is_some());
        assert!(root.is_none_or(|root| Some(root.id) != elder.root.map(|root| root.id)), "keyed anew");
        assert!(read(&to, id, number) == std::fs::read(files[number].path()).expect("read"));
    }

    let back = make(MemoryStorage::new());
    let (third, _) = only_copy(copy_all(&to, &back));
    assert!(read(&back, third, 0) == disk);
    assert_eq!(back.record(third).expect("record").origin, Some(origin), "that of the first");
}

#[test]
fn what_is_there_is_neither_copied_nor_opened_again() {
    let source = Arc::new(Recorder::new(MemoryStorage::new()));
    let from = make(source.clone());
    let bytes = mixed(1, 6 << 20);
    for _ in 0..3 {
        id_of(&from, "disk", &bytes);
    }
    let target = Arc::new(Recorder::new(MemoryStorage::new()));
    let to = make(target.clone());
    let first = copied(&copy_all(&from, &to));
    assert_eq!(first.len(), 3);
    source.clear();
    target.clear();
    let again = copy_all(&from, &to);
    assert_eq!(present(&again), 3);
    assert_eq!((mutations(&target), source.count(Op::ReadRange)), (0, 0));

    // Another archive of the same content: nothing but what describes it.
    id_of(&from, "disk", &bytes);
    target.clear();
    let told = copy_all(&from, &to);
    assert_eq!((present(&told), copied(&told).len()), (3, 1));
    let puts = target.calls().into_iter().filter(|call| call.op == Op::Put);
    let packs: Vec<_> =
        puts.filter(|call| call.name.contains("packs/") || call.name.contains("maps/")).collect();
    assert_eq!(packs, []);
}

/// Every distinct blob beneath these archives' first members.
fn blobs(repository: &Repo, archives: &[ArchiveId], kind: BlobKind) -> usize {
    let mut found = HashSet::new();
    for archive in archives {
        let image = common::image(repository, *archive);
        let mut visit = |blob, id, _| {
            if blob == kind {
                found.insert(id);
            }
        };
        common::reader_of(repository).maps().walk(&image, &mut visit).expect("walk");
    }
    found.len()
}

#[test]
fn ten_archives_of_a_disk_are_opened_once_and_the_source_is_only_read() {
    let source = Arc::new(Recorder::new(MemoryStorage::new()));
    let from = make(source.clone());
    let mut bytes = mixed(7, 20 << 20);
    let mut archives = Vec::new();
    for n in 0..10u64 {
        bytes[(n as usize) << 20..][..5000].copy_from_slice(&noise(100 + n, 5000));
        archives.push(id_of(&from, "disk", &bytes));
    }
    let count = |kind| blobs(&from, &archives, kind);
    let [chunks, maps, nodes] = [BlobKind::Chunk, BlobKind::SpanMap, BlobKind::Node].map(count);
    source.clear();
    let storage = MemoryStorage::new();
    let to = make(storage.clone());
    let told = copy_all(&from, &to);
    assert_eq!(mutations(&source), 0);
    let opened = |folder: &str| {
        source.calls().iter().filter(|call| call.op == Op::ReadRange && call.name.starts_with(folder)).count()
    };
    assert_eq!(opened("packs/"), chunks, "each chunk once");
    assert_eq!(opened("maps/"), maps + nodes, "each map once, and each node");
    let copies: Vec<ArchiveId> = copied(&told).into_iter().map(|(_, id)| id).collect();
    assert_eq!(blobs(&to, &copies, BlobKind::Chunk), chunks, "what was shared is shared");
    assert_whole(storage.clone(), copies[9], &bytes);
    let listed = open(storage).archives().expect("list");
    let previous: Vec<_> = listed.iter().map(|archive| archive.entry.previous).collect();
    assert_eq!(previous[0], None);
    assert!(listed.windows(2).all(|pair| pair[1].entry.previous == Some(pair[0].id())));
}

#[test]
fn a_dry_run_counts_and_writes_nothing() {
    let from = make(MemoryStorage::new());
    let bytes = noise(1, 3 << 20);
    for _ in 0..2 {
        id_of(&from, "disk", &bytes);
    }
    let target = Arc::new(Recorder::new(MemoryStorage::new()));
    let to = make(target.clone());
    target.clear();
    let dry = CopyOptions { dry_run: true, ..CopyOptions::default() };
    let (told, ended) = copy_with(&from, &to, &[], &dry);
    ended.expect("copy");
    assert_eq!(mutations(&target), 0);
    let plain: Vec<u64> = told
        .iter()
        .map(|(_, outcome)| match outcome {
            Outcome::Copied { id: None, record, .. } => record.stats.new_plain,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(plain, [3 << 20, 0]);
}

#[test]
fn an_archive_is_the_same_however_it_came() {
    let [a, b, c] = [(); 3].map(|()| make(MemoryStorage::new()));
    id_of(&a, "disk", b"one");
    copy_all(&a, &b);
    copy_all(&b, &c);
    assert_eq!(present(&copy_all(&a, &c)), 1, "it came through b");
    assert_eq!(present(&copy_all(&b, &a)), 1, "it was made there");
    let (_, refused) = copy_with(&a, &a, &[], &CopyOptions::default());
    assert!(matches!(refused, Err(Error::SameRepository { .. })), "{refused:?}");
}

#[test]
fn deleted_and_unconfirmed_archives_are_no_copies() {
    let from = make(MemoryStorage::new());
    let storage = MemoryStorage::new();
    let to = make(storage.clone());
    id_of(&from, "disk", b"one");
    let (first, _) = only_copy(copy_all(&from, &to));
    Compactor::new(storage.clone()).delete_archive(first);
    let (second, record) = only_copy(copy_all(&from, &to));
    assert_eq!(record.previous, None);

    // An interrupted copy: its record is there, its session too, its process is not.
    let session = Session::begin(&to, "copy").expect("session");
    let record = ArchiveRecord { session: session.id(), ..record };
    let left = session.publish(&record).expect("publish");
    let dead = protocol::Session {
        host: copal::repository::session::host_name(),
        pid: u32::MAX,
        boot: std::fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("linux").trim().to_owned(),
        started: 0,
        heartbeat: 0,
        what: "copy".into(),
    };
    let name = format!("sessions/{}", session.id());
    to.objects().put(ObjectKind::Session, &name, &msgpack::to_bytes(&dead)).expect("put");
    std::mem::forget(session);
    Compactor::new(storage.clone()).delete_archive(second);
    let (third, _) = only_copy(copy_all(&from, &to));
    assert_eq!(common::listed(storage), BTreeSet::from([third]), "{left} was withdrawn");
}

#[test]
fn unconfirmed_archives_of_the_source_are_left_out() {
    let from = make(MemoryStorage::new());
    let record = back_up(&from, "disk", file_of(b"one").path()).record;
    let session = Session::begin(&from, "create").expect("session");
    let record = ArchiveRecord { session: session.id(), ..record };
    let unconfirmed = session.publish(&record).expect("publish");
    let to = make(MemoryStorage::new());
    let told = copy_all(&from, &to);
    let left_out: Vec<_> = told
        .iter()
        .filter(|(_, outcome)| matches!(outcome, Outcome::Unconfirmed))
        .map(|told| told.0)
        .collect();
    assert_eq!((left_out, copied(&told).len()), (vec![unconfirmed], 1));
}

#[test]
fn damage_costs_only_the_archives_that_have_it() {
    let source = MemoryStorage::new();
    let from = make(source.clone());
    let shared = noise(1, 5 << 20);
    let sound = id_of(&from, "disk", &shared);
    let bad = [&shared[..], &noise(2, 2 << 20)].concat();
    let damaged = id_of(&from, "disk", &bad);
    let worse = id_of(&from, "disk", &bad);
    let last = id_of(&from, "disk", &shared[..1 << 20]);
    let victim = *packs_of(&from, damaged, PackKind::Data)
        .difference(&packs_of(&from, sound, PackKind::Data))
        .last()
        .expect("a pack of its own");
    let name = pack_name(PackKind::Data, victim);
    let whole = source.read(&name, u64::MAX).expect("read");
    source.delete(&name).expect("delete");

    let storage = MemoryStorage::new();
    let to = make(storage.clone());
    let told = copy_all(&open(source.clone()), &to);
    let ids: Vec<ArchiveId> = copied(&told).into_iter().map(|(from, _)| from).collect();
    assert_eq!(ids, [sound, last]);
    for (id, outcome) in &told {
        if [damaged, worse].contains(id) {
            let Outcome::Damaged(error) = outcome else { panic!("{outcome:?}") };
            let said = error.to_string();
            let range =
                said.split_once("bytes ").and_then(|(_, rest)| rest.split_once(" to ")).expect("a range").0;
            let offset: usize = range.parse().expect("a number");
            // A chunk may begin a little before what is new.
            assert!(offset + (256 << 10) >= 5 << 20 && offset < bad.len(), "{said}");
            assert!(said.contains("of m0 cannot be read") && said.contains("its pack is missing"), "{said}");
        }
    }
    assert_eq!(common::listed(storage.clone()).len(), 2);
    assert_eq!(storage.list("sessions").expect("list"), []);

    source.put(&name, &[&whole]).expect("put");
    let told = copy_all(&open(source), &to);
    let healed = copied(&told);
    assert_eq!((present(&told), healed.len()), (2, 2));
    healed.iter().for_each(|(_, id)| assert_whole(storage.clone(), *id, &bad));
    let reused = told.iter().map(|(id, outcome)| match outcome {
        Outcome::Copied { record, .. } if *id == damaged => record.stats.reused_chunks,
        _ => 0,
    });
    assert!(reused.sum::<u64>() > 0, "what was stored of it before is found");
}

#[test]
fn a_damaged_tree_is_damage_too() {
    for kind in ["maps", "archives"] {
        let source = MemoryStorage::new();
        let from = make(source.clone());
        let first = id_of(&from, "disk", &noise(1, 5 << 20));
        let doomed: Vec<_> = ["", "mirror/"]
            .iter()
            .flat_map(|place| source.list(&format!("{place}{kind}")).expect("list"))
            .map(|listed| listed.name)
            .collect();
        let sound = id_of(&from, "disk", &noise(2, 1 << 20));
        for name in doomed {
            source.overwrite(&name, b"garbage".to_vec());
        }
        let to = make(MemoryStorage::new());
        let told = copy_all(&from, &to);
        assert_eq!(copied(&told).iter().map(|(from, _)| *from).collect::<Vec<_>>(), [sound], "{kind}");
        let damaged =
            |(id, outcome): &(ArchiveId, Outcome)| *id == first && matches!(outcome, Outcome::Damaged(_));
        assert!(told.iter().any(damaged), "{kind}: {told:?}");
    }
}

#[test]
fn cut_anew_a_copy_shares_chunks_with_what_is_there() {
    let coarse = InitOptions { chunker: ChunkerParams::fastcdc(32 << 10), ..small_options() };
    let long = InitOptions { span_shift: 23, ..small_options() };
    for (target, recut) in [(coarse, true), (long, false)] {
        let from = make(MemoryStorage::new());
        let bytes = mixed(9, 21 << 20);
        id_of(&from, "disk", &bytes);
        let storage = MemoryStorage::new();
        let to = Arc::new(init(Arc::new(storage.clone()), &target).expect("init"));
        id_of(&to, "own", &bytes);
        let options = CopyOptions { recut, ..CopyOptions::default() };
        let (told, ended) = copy_with(&from, &to, &[], &options);
        ended.expect("copy");
        let (id, record) = only_copy(told);
        assert_eq!(record.stats.new_chunks, 0);
        assert_whole(storage, id, &bytes);
    }
}

/// Stops after so many reports of progress.
struct StopLate(Stop, std::sync::atomic::AtomicUsize);

impl Monitor for StopLate {
    fn advanced(&self, _bytes: u64, _new: u64) {
        if self.1.fetch_sub(1, std::sync::atomic::Ordering::SeqCst) == 1 {
            self.0.flag().store(15, std::sync::atomic::Ordering::SeqCst);
        }
    }
}

#[test]
fn a_signal_leaves_what_was_stored_for_the_next_copy() {
    let from = make(MemoryStorage::new());
    let bytes = noise(3, 40 << 20);
    id_of(&from, "disk", &bytes);
    let storage = MemoryStorage::new();
    let to = make(storage.clone());
    let stop = Stop::default();
    let monitor = StopLate(stop.clone(), 4.into());
    let (told, ended) = copy_until(&from, &to, &[], &CopyOptions::default(), &stop, &monitor);
    assert!(told.is_empty() && matches!(ended, Err(Error::Stopped { signal: 15 })), "{ended:?}");
    assert_eq!(
        (common::listed(storage.clone()).len(), storage.list("sessions").expect("list").len()),
        (0, 0)
    );
    let (id, record) = only_copy(copy_all(&from, &to));
    assert!(record.stats.reused_chunks > 200, "{:?}", record.stats);
    assert_whole(storage, id, &bytes);
}

#[test]
fn a_copy_takes_the_given_archives_only() {
    let from = make(MemoryStorage::new());
    let chosen = id_of(&from, "a", b"one");
    id_of(&from, "b", b"two");
    let to = make(MemoryStorage::new());
    let file = file_of(b"own");
    let options = CreateOptions { tags: vec![name("x")], ..options("a", &[file.path()]) };
    let own = create(&to, &options, &Stop::default(), &Silent).expect("create").id;
    let (told, ended) = copy_with(&from, &to, &[chosen], &CopyOptions::default());
    ended.expect("copy");
    assert_eq!(only_copy(told).1.previous, own, "the newest of its name there");
}
