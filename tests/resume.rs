//! Creates that go on where an interrupted one ended: what it stored is not stored again.

mod common;

use std::sync::Arc;

use common::{assert_whole, file_of, listed, make, mixed, noise, open, options};
use copal::archiver::create::{Created, create};
use copal::archiver::{Monitor, Silent, Stop};
use copal::id::ArchiveId;
use copal::storage::Storage;
use copal::storage::faults::Faults;
use copal::storage::memory::MemoryStorage;

/// Sixteen packs' worth, in four spans.
const LEN: usize = 16 << 20;

fn stored(storage: &MemoryStorage) -> u64 {
    let packs = ["packs", "maps"].map(|folder| storage.list(folder).expect("list"));
    packs.iter().flatten().map(|object| object.len).sum()
}

fn run(storage: impl Storage + 'static, source: &std::path::Path) -> Result<Created, copal::archiver::Error> {
    create(&open(storage), &options("disk", &[source]), &Stop::default(), &Silent)
}

/// What a create stores that is not interrupted, in bytes.
fn undisturbed(source: &std::path::Path) -> u64 {
    let storage = MemoryStorage::new();
    make(storage.clone());
    run(storage.clone(), source).expect("create");
    stored(&storage)
}

fn check(storage: &MemoryStorage, created: &Created, bytes: &[u8], at: &str) -> ArchiveId {
    let id = created.id.expect("an id");
    assert_whole(storage.clone(), id, bytes);
    assert_eq!(listed(storage.clone()).len(), 1, "{at}");
    id
}

#[test]
fn packs_of_a_create_that_died_are_not_stored_again() {
    let bytes = noise(5, LEN);
    let source = file_of(&bytes);
    let whole = undisturbed(source.path());
    // Two copies of the session, then packs, of which those of maps are written twice.
    for puts in [4, 9, 15] {
        let storage = MemoryStorage::new();
        make(storage.clone());
        let faults = Faults::new(storage.clone());
        faults.crash_after_puts(puts);
        run(faults, source.path()).expect_err("the machine dies");
        let before = stored(&storage);
        assert!(before > 0, "after {puts} puts there are packs");
        let created = run(storage.clone(), source.path()).expect("create");
        check(&storage, &created, &bytes, &format!("{puts} puts"));
        // Only what the workers held in memory when it died is stored anew; maps name other packs then and may be stored twice.
        assert!(stored(&storage) < whole + (64 << 10), "{puts} puts: {} and {whole}", stored(&storage));
        assert!(created.resumed.plain + (1 << 20) > before, "{puts}: {:?} of {before}", created.resumed);
        let again = run(storage.clone(), source.path()).expect("create");
        assert_eq!(
            (again.resumed.chunks, again.record.stats.new_chunks),
            (0, 0),
            "what was found is indexed now"
        );
    }
}

/// Raises a stop after so many bytes.
struct StopAfter(Stop, u64, std::sync::atomic::AtomicU64);

impl Monitor for StopAfter {
    fn advanced(&self, bytes: u64, _new: u64) {
        use std::sync::atomic::Ordering::SeqCst;
        if self.2.fetch_add(bytes, SeqCst) + bytes >= self.1 {
            self.0.flag().store(15, SeqCst);
        }
    }
}

#[test]
fn a_signal_loses_nothing_that_was_compressed() {
    let bytes = mixed(6, 3 * LEN);
    let source = file_of(&bytes);
    let storage = MemoryStorage::new();
    make(storage.clone());
    let stop = Stop::default();
    let monitor = StopAfter(stop.clone(), 1, Default::default());
    let options = options("disk", &[source.path()]);
    create(&open(storage.clone()), &options, &stop, &monitor).expect_err("stopped");
    assert_eq!(storage.list("sessions").expect("list"), [], "its session is gone");
    let before = stored(&storage);
    assert!(before > 0);
    let created = run(storage.clone(), source.path()).expect("create");
    check(&storage, &created, &bytes, "stopped");
    assert!(created.resumed.chunks > 0);
}

#[test]
fn packs_of_a_running_create_may_be_claimed() {
    let bytes = noise(7, LEN);
    let source = file_of(&bytes);
    let storage = MemoryStorage::new();
    make(storage.clone());
    let watched = common::watched::Watched::new(storage.clone());
    let other: Arc<parking_lot::Mutex<Option<Created>>> = Arc::default();
    let (inner, path, result) = (storage.clone(), source.path().to_owned(), other.clone());
    watched.once(copal::storage::recorder::Op::Put, "index/", move || {
        *result.lock() = Some(run(inner, &path).expect("the second create"));
    });
    let first = run(watched, source.path()).expect("the first create");
    let second = other.lock().take().expect("it ran");
    assert_eq!(second.record.stats.new_chunks, 0, "all was in packs that no index named yet");
    for created in [first, second] {
        assert_whole(storage.clone(), created.id.expect("an id"), &bytes);
    }
}
