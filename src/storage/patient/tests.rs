use std::sync::atomic::AtomicBool;

use super::health::MOST_BEHIND;
use super::*;
use crate::storage::conformance::{self, name};
use crate::storage::memory::MemoryStorage;

/// Hangs while told to, or fails so often.
#[derive(Debug, Default)]
struct Moody {
    memory: MemoryStorage,
    hangs: Arc<AtomicBool>,
    /// An object that hangs while others are well.
    hanging: Arc<Mutex<Option<Name>>>,
    failures: Arc<Mutex<Vec<i32>>>,
    calls: Arc<AtomicUsize>,
    /// How often it was looked what is in memory.
    looks: Arc<AtomicUsize>,
}

impl Moody {
    fn meet(&self) -> io::Result<()> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        while self.hangs.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(2));
        }
        self.failures.lock().pop().map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)))
    }
}

impl Storage for Moody {
    fn read_if_cached(&self, _name: &Name, _offset: u64, _buf: &mut [u8]) -> bool {
        self.looks.fetch_add(1, Ordering::Relaxed);
        false
    }

    fn read(&self, name: &Name, limit: u64) -> io::Result<Vec<u8>> {
        self.meet()?;
        self.memory.read(name, limit)
    }

    fn read_range(&self, name: &Name, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.meet()?;
        while self.hanging.lock().as_ref() == Some(name) {
            std::thread::sleep(Duration::from_millis(2));
        }
        self.memory.read_range(name, offset, buf)
    }

    fn len(&self, name: &Name) -> io::Result<u64> {
        self.meet()?;
        self.memory.len(name)
    }

    fn put(&self, name: &Name, parts: &[&[u8]]) -> io::Result<()> {
        self.memory.put(name, parts)
    }

    fn list(&self, prefix: &str) -> io::Result<Vec<Listed>> {
        self.meet()?;
        self.memory.list(prefix)
    }

    fn delete(&self, name: &Name) -> io::Result<()> {
        self.memory.delete(name)
    }

    fn settle(&self) -> Settle {
        self.memory.settle()
    }

    fn describe(&self) -> String {
        "moody".into()
    }
}

#[test]
fn one_object_that_hangs_leaves_the_others_readable() {
    let moody = Moody::default();
    let hanging = moody.hanging.clone();
    let storage = Patient::new(moody, Duration::from_millis(500));
    let [bad, good] = ["packs/bad", "packs/good"].map(name);
    for object in [&bad, &good] {
        storage.put(object, &[b"bytes"]).unwrap();
    }
    let read = |object: &Name| storage.read_range(object, 0, &mut [0; 5]);
    *hanging.lock() = Some(bad.clone());
    while !storage.health.hangs(bad.as_str()) {
        assert!(is_late(read(&bad)));
        // Everything fails for a moment.
        while read(&good).is_err() {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    for _ in 0..10 * MOST_THREADS {
        assert!(is_late(read(&bad)));
        read(&good).unwrap();
    }
    assert!(storage.threads.all.load(Ordering::Relaxed) <= MOST_BEHIND + 4);
    *hanging.lock() = None;
    while is_late(read(&bad)) {
        std::thread::sleep(Duration::from_millis(2));
    }
    while !storage.health.objects.lock().is_empty() {
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Answers no read before so many are under way.
#[derive(Debug)]
struct Together {
    memory: MemoryStorage,
    under_way: AtomicUsize,
    least: usize,
}

impl Storage for Together {
    fn read(&self, name: &Name, limit: u64) -> io::Result<Vec<u8>> {
        self.memory.read(name, limit)
    }

    fn read_range(&self, name: &Name, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        while self.under_way.load(Ordering::Relaxed) < self.least {
            std::thread::sleep(Duration::from_millis(2));
        }
        self.memory.read_range(name, offset, buf)
    }

    fn len(&self, name: &Name) -> io::Result<u64> {
        self.memory.len(name)
    }

    fn put(&self, name: &Name, parts: &[&[u8]]) -> io::Result<()> {
        self.memory.put(name, parts)
    }

    fn list(&self, prefix: &str) -> io::Result<Vec<Listed>> {
        self.memory.list(prefix)
    }

    fn delete(&self, name: &Name) -> io::Result<()> {
        self.memory.delete(name)
    }

    fn settle(&self) -> Settle {
        self.memory.settle()
    }

    fn describe(&self) -> String {
        "together".into()
    }
}

/// Takes a while for each read.
#[derive(Debug)]
struct Slow(MemoryStorage);

impl Storage for Slow {
    fn read(&self, name: &Name, limit: u64) -> io::Result<Vec<u8>> {
        self.0.read(name, limit)
    }

    fn read_range(&self, name: &Name, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        std::thread::sleep(Duration::from_millis(20));
        self.0.read_range(name, offset, buf)
    }

    fn len(&self, name: &Name) -> io::Result<u64> {
        self.0.len(name)
    }

    fn put(&self, name: &Name, parts: &[&[u8]]) -> io::Result<()> {
        self.0.put(name, parts)
    }

    fn list(&self, prefix: &str) -> io::Result<Vec<Listed>> {
        self.0.list(prefix)
    }

    fn delete(&self, name: &Name) -> io::Result<()> {
        self.0.delete(name)
    }

    fn settle(&self) -> Settle {
        self.0.settle()
    }

    fn describe(&self) -> String {
        "slow".into()
    }
}

#[test]
fn several_ranges_are_read_at_once_and_come_in_order() {
    let under_way = AtomicUsize::new(0);
    let inner = Together { memory: MemoryStorage::new(), under_way, least: AT_ONCE };
    let storage = Patient::new(inner, Duration::from_secs(60));
    let object = name("packs/one");
    storage.put(&object, &[&(0..=255).collect::<Vec<u8>>()]).unwrap();
    let wanted = |offset: u64| Wanted { name: object.clone(), offset, buf: vec![0; 2] };
    let mut found = Vec::new();
    // The last one lies beyond the end.
    let ranges = (0..3 * AT_ONCE as u64).chain([255]).map(wanted).collect();
    storage.read_ranges(ranges, &mut |read| found.push(read.map_err(|error| error.kind())));
    let last = found.pop();
    assert_eq!(last, Some(Err(ErrorKind::UnexpectedEof)));
    let expected: Vec<_> = (0..3 * AT_ONCE as u8).map(|at| Ok(vec![at, at + 1])).collect();
    assert_eq!(found, expected);
    assert!(storage.threads.all.load(Ordering::Relaxed) <= AT_ONCE + 2);
}

#[test]
fn who_wants_many_ranges_leaves_threads_to_others() {
    let moody = Moody::default();
    let hangs = moody.hangs.clone();
    let storage = Patient::new(moody, Duration::from_millis(300));
    let object = name("packs/one");
    storage.put(&object, &[b"bytes"]).unwrap();
    hangs.store(true, Ordering::Relaxed);
    let wanted = || Wanted { name: object.clone(), offset: 0, buf: vec![0; 5] };
    std::thread::scope(|scope| {
        for _ in 0..MOST_THREADS / 4 {
            scope.spawn(|| {
                let mut late = 0;
                storage.read_ranges((0..20).map(|_| wanted()).collect(), &mut |read| {
                    late += usize::from(is_late(read));
                });
                assert_eq!(late, 20);
            });
        }
    });
    // Each has one in any case.
    assert!(storage.threads.all.load(Ordering::Relaxed) <= MOST_BESIDE + MOST_THREADS / 4);
    hangs.store(false, Ordering::Relaxed);
}

#[test]
fn what_a_request_had_no_more_time_for_is_not_taken_to_hang() {
    let moody = Moody::default();
    let hangs = moody.hangs.clone();
    let patience = Duration::from_secs(60);
    let storage = Patient::new(moody, patience);
    let object = name("packs/one");
    storage.put(&object, &[b"bytes"]).unwrap();
    hangs.store(true, Ordering::Relaxed);
    let wanted = || Wanted { name: object.clone(), offset: 0, buf: vec![0; 5] };
    let mut late = 0;
    let ((), noticed) = noticing_late(|| {
        as_request(|| {
            BEGUN.set(Instant::now().checked_sub(patience * REQUEST - Duration::from_secs(2)));
            let ranges = (0..2 * MOST_BEHIND).map(|_| wanted()).collect();
            storage.read_ranges(ranges, &mut |read| late += usize::from(is_late(read)));
        });
    });
    assert!(noticed && late == 2 * MOST_BEHIND);
    assert!(storage.health.all_behind() >= MOST_BEHIND && !storage.health.hangs(object.as_str()));
    hangs.store(false, Ordering::Relaxed);
    assert_eq!(storage.read(&object, 10).unwrap(), b"bytes");
    assert!(!noticing_late(|| storage.read(&object, 10)).1);
}

#[test]
fn more_readers_than_threads_wait_for_their_turn() {
    let storage = Arc::new(Patient::new(Slow(MemoryStorage::new()), Duration::from_secs(600)));
    let object = name("packs/one");
    storage.put(&object, &[b"bytes"]).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..3 * MOST_THREADS {
            scope.spawn(|| assert_eq!(storage.read_into(&object, 0, vec![0; 5]).unwrap(), b"bytes"));
        }
    });
    assert!(storage.threads.all.load(Ordering::Relaxed) <= MOST_THREADS);
    assert_eq!(storage.threads.reads.load(Ordering::Relaxed), 0);
}

#[test]
fn what_a_request_has_used_up_is_not_given_to_its_next_read() {
    let moody = Moody::default();
    let (hangs, calls) = (moody.hangs.clone(), moody.calls.clone());
    let patience = Duration::from_secs(60);
    let storage = Patient::new(moody, patience);
    let object = name("packs/one");
    storage.put(&object, &[b"bytes"]).unwrap();
    let read_in = |used: Duration| {
        as_request(|| {
            BEGUN.set(Instant::now().checked_sub(used));
            storage.read(&object, 10)
        })
    };
    assert_eq!(read_in(patience).unwrap(), b"bytes");
    // Nothing is left, or not as much as this takes. Neither says that the storage does not answer.
    let before = calls.load(Ordering::Relaxed);
    assert!(is_late(read_in(patience * REQUEST)));
    assert_eq!(calls.load(Ordering::Relaxed), before);
    hangs.store(true, Ordering::Relaxed);
    assert!(is_late(read_in(patience * REQUEST - Duration::from_millis(100))));
    hangs.store(false, Ordering::Relaxed);
    assert!(storage.health.is_well());
    assert_eq!(storage.read(&object, 10).unwrap(), b"bytes");
    assert_eq!(BEGUN.get(), None);
}

fn is_late<T: std::fmt::Debug>(result: io::Result<T>) -> bool {
    result.is_err_and(|error| error.kind() == ErrorKind::TimedOut)
}

#[test]
fn it_keeps_the_contract() {
    conformance::conformance(|| Box::new(Patient::new(MemoryStorage::new(), Duration::from_secs(600))));
}

#[test]
fn what_hangs_fails_and_what_answers_again_is_read() {
    let moody = Moody::default();
    let (hangs, calls, looks) = (moody.hangs.clone(), moody.calls.clone(), moody.looks.clone());
    let storage = Patient::new(moody, Duration::from_millis(100));
    let object = name("packs/one");
    storage.put(&object, &[b"bytes"]).unwrap();
    storage.read_range(&object, 0, &mut [0; 5]).unwrap();
    assert_eq!(looks.load(Ordering::Relaxed), 1);
    hangs.store(true, Ordering::Relaxed);
    assert!(is_late(storage.read(&object, 10)));
    // Known by now to hang: nobody waits, and no thread is spent on it.
    let tried = calls.load(Ordering::Relaxed);
    for _ in 0..10 * MOST_THREADS {
        assert!(is_late(storage.read_range(&object, 0, &mut [0; 5])) && is_late(storage.list("packs")));
    }
    assert!(calls.load(Ordering::Relaxed) <= tried + 2, "one try in a while");
    assert_eq!(looks.load(Ordering::Relaxed), 1, "to look is to read");
    hangs.store(false, Ordering::Relaxed);
    // The read that was left behind ends now, and tells that the storage answers.
    while is_late(storage.len(&object)) {
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(storage.read(&object, 10).unwrap(), b"bytes");
    assert_eq!(storage.read_into(&object, 1, vec![0; 4]).unwrap(), b"ytes");
}

#[test]
fn many_readers_at_once_are_all_let_go() {
    let moody = Moody::default();
    let hangs = moody.hangs.clone();
    hangs.store(true, Ordering::Relaxed);
    let storage = Patient::new(moody, Duration::from_millis(300));
    std::thread::scope(|scope| {
        for _ in 0..3 * MOST_THREADS {
            scope.spawn(|| assert!(is_late(storage.len(&name("packs/one")))));
        }
    });
    assert!(storage.threads.all.load(Ordering::Relaxed) <= MOST_THREADS);
    hangs.store(false, Ordering::Relaxed);
}

#[test]
fn what_may_pass_is_tried_again_and_what_stays_is_told() {
    let moody = Moody::default();
    let (failures, calls) = (moody.failures.clone(), moody.calls.clone());
    let storage = Patient::new(moody, Duration::from_secs(600));
    let object = name("packs/one");
    storage.put(&object, &[b"bytes"]).unwrap();
    let after = |errnos: &[i32]| {
        *failures.lock() = errnos.to_vec();
        calls.store(0, Ordering::Relaxed);
        let read = storage.read(&object, 10).map_err(|error| error.raw_os_error());
        (read.is_ok(), calls.load(Ordering::Relaxed))
    };
    assert_eq!(after(&[libc::EIO, libc::ESTALE]), (true, 3));
    assert_eq!(after(&[libc::EIO, libc::EIO, libc::EIO]), (false, 3));
    assert_eq!(after(&[libc::EACCES]), (false, 1));
    failures.lock().clear();
    calls.store(0, Ordering::Relaxed);
    let missing = storage.read(&name("packs/two"), 10);
    assert_eq!(missing.map_err(|error| error.kind()), Err(ErrorKind::NotFound));
    assert_eq!(calls.load(Ordering::Relaxed), 1, "one that is not there is not looked for again");
}

#[test]
fn what_is_carried_to_another_thread_has_the_time_of_its_request() {
    let storage = Patient::new(MemoryStorage::default(), Duration::from_secs(10));
    as_request(|| {
        let ends = storage.request_ends();
        let there =
            std::thread::scope(|scope| scope.spawn(carried(|| storage.request_ends())).join().unwrap());
        assert!(ends.is_some() && there == ends);
    });
    let outside = carried(|| storage.request_ends());
    assert_eq!(as_request(outside), None, "what was begun for no request has no bound");
}
