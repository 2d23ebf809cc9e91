//! Whatever stops any command at any put or delete: what was there before stays whole, and the same command again ends as if nothing had
//! happened. Crashes, full storages, torn writes, lost replies, and losses of power in which what was on its way has happened or not.

mod common;

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::unsynced::Unsynced;
use common::watched::Watched;
use common::{assert_whole, back_up, file_of, make, name, noise, open, options, small_options};
use copal::archiver::copy::{CopyOptions, copy};
use copal::archiver::create::create;
use copal::id::ArchiveId;
use copal::maintenance::compact::{CompactOptions, compact};
use copal::maintenance::undelete::undelete;
use copal::repository::Repository;
use copal::repository::archives::{Archive, Listing, list_all};
use copal::repository::states::{Change, apply};
use copal::repository::unlock::init;
use copal::storage::faults::{Fault, Faults};
use copal::storage::memory::{MemoryStorage, Objects};
use copal::storage::recorder::Op;
use copal::storage::{Name, Storage};
use copal::task::{Silent, Stop};

/// Far more puts and deletes than one of these commands makes.
const MANY: u64 = 200;
/// Bytes of the reserve, where there is one.
const RESERVE: u32 = 64 << 10;

/// Archives of a disk that changes (the third one deleted), one of another disk, and a repository to copy from.
struct Scene {
    before: Objects,
    from: Arc<Repository>,
    ids: Vec<ArchiveId>,
    bytes: Vec<Vec<u8>>,
    /// What a create backs up, half of it known.
    new: Vec<u8>,
}

/// The archives that no command touches.
const SPARED: [usize; 2] = [0, 3];

impl Scene {
    fn new(reserve: u32) -> Self {
        let storage = MemoryStorage::new();
        let made = copal::repository::unlock::InitOptions { reserve, ..small_options() };
        let repository = Arc::new(init(Arc::new(storage.clone()), &made).expect("init"));
        let half = |seed| [noise(1, 1 << 20), noise(seed, 3 << 19)].concat();
        let bytes = vec![half(10), half(11), half(12), noise(2, 2 << 20)];
        let names = ["disk", "disk", "disk", "other"];
        let back_up = |(name, bytes): (&&str, &Vec<u8>)| {
            back_up(&repository, name, file_of(bytes).path()).id.expect("an id")
        };
        let ids: Vec<_> = names.iter().zip(&bytes).map(back_up).collect();
        apply(&repository, "test", &[(ids[2], Change::Delete)]).expect("delete");
        let from = make(MemoryStorage::new());
        for seed in [20, 21] {
            common::back_up(&from, "far", file_of(&half(seed)).path());
        }
        Self { before: storage.snapshot(), from, ids, bytes, new: half(13) }
    }

    fn storage(&self) -> MemoryStorage {
        MemoryStorage::from_snapshot(self.before.clone())
    }

    /// What was there before and that no command takes is there, confirmed, and everything that is confirmed can be read.
    fn check(&self, storage: &MemoryStorage, at: &str) {
        let repository = open(storage.clone());
        let listing = list_all(repository.objects()).unwrap_or_else(|error| panic!("{at}: {error}"));
        let sure: Vec<&Archive> = listing.archives.iter().filter(|archive| !archive.unconfirmed).collect();
        for number in SPARED {
            assert!(sure.iter().any(|archive| archive.id() == self.ids[number]), "{at}: archive {number}");
        }
        for archive in sure {
            match self.ids.iter().position(|id| *id == archive.id()) {
                Some(number) => assert_whole(storage.clone(), archive.id(), &self.bytes[number]),
                None => {
                    let image = common::image(&repository, archive.id());
                    common::read_all(&common::reader_of(&repository), &image, 1 << 20);
                }
            }
        }
    }
}

/// How a command failed.
#[derive(Debug)]
struct Failure {
    full: bool,
    /// It says that it was done before.
    done: bool,
    /// What the message says.
    #[allow(dead_code, reason = "tests that fail show it")]
    text: String,
}

type Outcome = Result<(), Failure>;

fn failure(error: &(impl std::error::Error + 'static), full: bool) -> Failure {
    Failure { full, done: false, text: copal::repository::archives::chain(error) }
}

fn change(scene: &Scene, storage: Arc<dyn Storage>, numbers: &[usize], to: &Change) -> Outcome {
    let changes: Vec<_> = numbers.iter().map(|number| (scene.ids[*number], to.clone())).collect();
    apply(&open(storage), "test", &changes).map_err(|error| failure(&error, error.is_full()))
}

struct Command {
    name: &'static str,
    run: fn(&Scene, Arc<dyn Storage>) -> Outcome,
    /// Whether it gives space back, and may use the reserve.
    frees: bool,
    /// The fewest places in which it can be stopped so that it fails.
    places: u64,
}

const COMMANDS: [Command; 8] = [
    Command {
        name: "delete",
        run: |scene, storage| change(scene, storage, &[1], &Change::Delete),
        frees: true,
        places: 3,
    },
    Command {
        name: "prune",
        // The one that is deleted already, too, as two hosts that prune do.
        run: |scene, storage| change(scene, storage, &[1, 2], &Change::Delete),
        frees: true,
        places: 4,
    },
    Command {
        name: "rename",
        run: |scene, storage| change(scene, storage, &[1], &Change::Rename(name("renamed"))),
        frees: false,
        places: 3,
    },
    Command {
        name: "tag",
        run: |scene, storage| change(scene, storage, &[1], &Change::Tag(vec![name("night")])),
        frees: false,
        places: 3,
    },
    Command {
        name: "undelete",
        run: |scene, storage| {
            use copal::maintenance::Error;
            undelete(&open(storage), scene.ids[2], &Stop::default()).map_err(|error| Failure {
                done: matches!(error, Error::NotDeleted { .. }),
                ..failure(&error, error.is_full())
            })
        },
        frees: false,
        places: 3,
    },
    Command {
        name: "compact",
        run: |_, storage| {
            // Dead sessions of these tests are of a process that lives: this one.
            let options = CompactOptions { threshold: 1, now: true, dry_run: false };
            let done = compact(&open(storage), &options, &Stop::default(), &Silent);
            match done.map_err(|error| failure(&error, error.is_full()))?.stopped {
                Some(text) => Err(Failure { full: true, done: false, text }),
                None => Ok(()),
            }
        },
        frees: true,
        places: 4,
    },
    Command {
        name: "copy",
        run: |scene, storage| {
            let archives = scene.from.archives().expect("list");
            let chosen: Vec<_> = archives.iter().collect();
            let (stop, options) = (Stop::default(), CopyOptions::default());
            copy(&scene.from, &open(storage), &chosen, &options, &stop, &Silent, &mut |_, _| {})
                .map_err(|error| failure(&error, error.is_full()))
        },
        frees: false,
        places: 8,
    },
    Command {
        name: "create",
        run: |scene, storage| {
            let file = file_of(&scene.new);
            create(&open(storage), &options("disk", &[file.path()]), &Stop::default(), &Silent)
                .map(drop)
                .map_err(|error| failure(&error, error.is_full()))
        },
        frees: false,
        places: 6,
    },
];

/// What is shown, without what differs from run to run: name, tags, size, data, whether deleted.
fn shown(storage: &MemoryStorage) -> Vec<String> {
    let Listing { archives, deleted, lost, .. } = list_all(open(storage.clone()).objects()).expect("list");
    assert!(lost.is_empty(), "{lost:?}");
    let confirmed = archives.iter().chain(&deleted).filter(|archive| !archive.unconfirmed);
    let mut shown: Vec<_> = confirmed
        .map(|a| {
            format!(
                "{} {:?} {} {} {} {}",
                a.name,
                a.tags,
                a.size(),
                a.data(),
                a.doubtful,
                a.deleted.is_some()
            )
        })
        .collect();
    shown.sort();
    shown
}

/// Runs a command that something stops, then once more, undisturbed. `stop` says whether it was struck.
fn stopped(
    scene: &Scene,
    command: &Command,
    at: &str,
    storage: &MemoryStorage,
    disturbed: Arc<dyn Storage>,
) -> Outcome {
    let result = (command.run)(scene, disturbed);
    scene.check(storage, at);
    match (command.run)(scene, Arc::new(storage.clone())) {
        Ok(()) => {}
        Err(again) if again.done => {}
        Err(again) => panic!("{at}, again: {again:?}"),
    }
    scene.check(storage, at);
    let undisturbed = scene.storage();
    (command.run)(scene, Arc::new(undisturbed.clone())).expect("nothing stops it");
    let (mut after, expected) = (shown(storage), shown(&undisturbed));
    if command.name == "create" {
        // The first one may have ended but for its last words.
        after.dedup();
    }
    let dedup = |mut lines: Vec<String>| {
        if command.name == "create" {
            lines.dedup();
        }
        lines
    };
    assert_eq!(after, dedup(expected), "{at}");
    result
}

/// Stops each command in each place, until none is struck.
fn matrix(
    scene: &Scene,
    what: &str,
    disturb: impl Fn(&MemoryStorage, u64) -> (Arc<dyn Storage>, Box<dyn Fn() -> bool>),
    judge: impl Fn(&Command, &Outcome, &str) -> bool,
) {
    for command in &COMMANDS {
        let mut failures = 0;
        let ended = (0..MANY).any(|n| {
            let at = format!("{}, {what} at {n}", command.name);
            let storage = scene.storage();
            let (disturbed, struck) = disturb(&storage, n);
            let result = stopped(scene, command, &at, &storage, disturbed);
            failures += u64::from(result.is_err());
            assert!(judge(command, &result, &at), "{at}: {result:?}");
            !struck()
        });
        assert!(ended, "{} never ends", command.name);
        assert!(failures >= command.places, "{}, {what}: {failures} failures", command.name);
    }
}

/// Strikes the n-th put.
fn at_put(storage: &MemoryStorage, n: u64, fault: Fault) -> (Arc<dyn Storage>, Box<dyn Fn() -> bool>) {
    let faults = Arc::new(Faults::new(storage.clone()));
    faults.inject(Op::Put, "", n + 1, fault);
    let watched = Watched::new(faults);
    let puts = Arc::new(AtomicU64::new(0));
    let count = puts.clone();
    watched.watch(move |op, _| {
        count.fetch_add(u64::from(op == Op::Put), Ordering::SeqCst);
        Ok(())
    });
    (watched, Box::new(move || puts.load(Ordering::SeqCst) > n))
}

#[test]
fn a_crash() {
    let disturb = |storage: &MemoryStorage, n| -> (Arc<dyn Storage>, Box<dyn Fn() -> bool>) {
        let faults = Arc::new(Faults::new(storage.clone()));
        faults.crash_after_puts(n + 1);
        (faults.clone(), Box::new(move || faults.crashed()))
    };
    matrix(&Scene::new(0), "crash", disturb, |_, _, _| true);
}

#[test]
fn a_put_that_finds_no_space() {
    let disturb = |storage: &MemoryStorage, n| at_put(storage, n, Fault::Fail(ErrorKind::StorageFull));
    let says_so = |_: &Command, result: &Outcome, _: &str| !matches!(result, Err(failure) if !failure.full);
    matrix(&Scene::new(0), "full", disturb, says_so);
}

#[test]
fn a_torn_put() {
    let disturb = |storage: &MemoryStorage, n| at_put(storage, n, Fault::Torn);
    matrix(&Scene::new(0), "torn", disturb, |_, _, _| true);
}

#[test]
fn a_reply_that_is_lost() {
    let disturb = |storage: &MemoryStorage, n| at_put(storage, n, Fault::LostReply(ErrorKind::TimedOut));
    matrix(&Scene::new(0), "lost reply", disturb, |_, _, _| true);
}

#[test]
fn a_storage_that_stays_full() {
    let disturb = |storage: &MemoryStorage, n| -> (Arc<dyn Storage>, Box<dyn Fn() -> bool>) {
        let full = Watched::new(storage.clone());
        let (left, struck) = (AtomicU64::new(n), Arc::new(AtomicU64::new(0)));
        let strikes = struck.clone();
        full.watch(move |op, _| {
            let spend = |left: u64| left.checked_sub(1);
            if op == Op::Put && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, spend).is_err() {
                strikes.fetch_add(1, Ordering::SeqCst);
                return Err(ErrorKind::StorageFull.into());
            }
            Ok(())
        });
        (full, Box::new(move || struck.load(Ordering::SeqCst) > 0))
    };
    let says_so = |_: &Command, result: &Outcome, _: &str| !matches!(result, Err(failure) if !failure.full);
    matrix(&Scene::new(0), "full from", disturb, says_so);
}

#[test]
fn a_loss_of_power_with_changes_on_their_way() {
    let scene = Scene::new(0);
    let (mut happened, mut gone) = (0, 0);
    for command in &COMMANDS {
        let ended = (0..MANY).any(|n| {
            let storage = scene.storage();
            let draw = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 7;
            let power = Arc::new(Unsynced::new(storage.clone(), n, draw));
            let at = format!("{}, power lost after {n}", command.name);
            let result = stopped(&scene, command, &at, &storage, power.clone());
            let Some((pending, done)) = power.lost() else {
                result.unwrap_or_else(|error| panic!("{at}: {error:?}"));
                return true;
            };
            happened += done;
            gone += pending - done;
            false
        });
        assert!(ended, "{} never ends", command.name);
    }
    assert!(happened > 10 && gone > 10, "{happened} {gone}");
}

#[test]
fn what_gives_space_back_survives_a_full_storage_through_its_reserve() {
    let scene = Scene::new(RESERVE);
    let reserve = Name::new("reserve").expect("a name");
    for command in COMMANDS.iter().filter(|command| command.frees) {
        for n in 0.. {
            let storage = scene.storage();
            let full = Watched::new(storage.clone());
            let (puts, struck) = (AtomicU64::new(0), Arc::new(AtomicU64::new(0)));
            let (inner, strikes, name) = (storage.clone(), struck.clone(), reserve.clone());
            // From the n-th put on there is room only where the reserve was.
            full.watch(move |op, _| {
                if op == Op::Put && puts.fetch_add(1, Ordering::SeqCst) >= n && inner.len(&name).is_ok() {
                    strikes.fetch_add(1, Ordering::SeqCst);
                    return Err(ErrorKind::StorageFull.into());
                }
                Ok(())
            });
            let at = format!("{}, full from put {n}", command.name);
            (command.run)(&scene, full).unwrap_or_else(|error| panic!("{at}: {error:?}"));
            scene.check(&storage, &at);
            assert_eq!(storage.len(&reserve).ok(), Some(RESERVE.into()), "{at}: set aside again");
            if struck.load(Ordering::SeqCst) == 0 {
                assert!(n > 3, "{at}");
                break;
            }
        }
    }
}

#[test]
fn as_much_of_the_reserve_as_fits_is_set_aside_again() {
    let scene = Scene::new(RESERVE);
    let storage = scene.storage();
    let reserve = Name::new("reserve").expect("a name");
    storage.delete(&reserve).expect("it is there");
    let small = Arc::new(Small { inner: storage.clone(), most: RESERVE as usize * 5 / 8 });
    change(&scene, small.clone(), &[1], &Change::Delete).expect("delete");
    assert_eq!(storage.len(&reserve).expect("a part"), u64::from(RESERVE) * 5 / 8);
    change(&scene, small, &[2], &Change::Delete).expect("delete");
    assert_eq!(storage.len(&reserve).expect("the same part"), u64::from(RESERVE) * 5 / 8);
    change(&scene, Arc::new(storage.clone()), &[2], &Change::Delete).expect("delete");
    assert_eq!(storage.len(&reserve).expect("all"), u64::from(RESERVE));
}

/// Has no room for an object longer than `most` bytes.
#[derive(Debug)]
struct Small {
    inner: MemoryStorage,
    most: usize,
}

impl Storage for Small {
    fn read(&self, name: &Name, limit: u64) -> std::io::Result<Vec<u8>> {
        self.inner.read(name, limit)
    }

    fn read_range(&self, name: &Name, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        self.inner.read_range(name, offset, buf)
    }

    fn len(&self, name: &Name) -> std::io::Result<u64> {
        self.inner.len(name)
    }

    fn put(&self, name: &Name, parts: &[&[u8]]) -> std::io::Result<()> {
        if parts.iter().map(|part| part.len()).sum::<usize>() > self.most {
            return Err(ErrorKind::StorageFull.into());
        }
        self.inner.put(name, parts)
    }

    fn list(&self, prefix: &str) -> std::io::Result<Vec<copal::storage::Listed>> {
        self.inner.list(prefix)
    }

    fn delete(&self, name: &Name) -> std::io::Result<()> {
        self.inner.delete(name)
    }

    fn settle(&self) -> copal::storage::Settle {
        self.inner.settle()
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}
