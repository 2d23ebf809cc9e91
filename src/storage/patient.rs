//! A wrapper under which reads end within a bounded time, whatever the storage does.
//!
//! A dead server of a network file system, or a disk that is failing, can hold a read for ever; whoever waits for it cannot be killed, and a
//! mount whose requests wait hangs every program that looks at it. Here reads run on threads of their own. One that takes too
//! long fails as `TimedOut`, and is left behind; while a storage does not answer, reads fail at once but for one in a while that tries it again. An object of which
//! several reads were left behind is not read until one of them comes back: others may be well, as where part of a cluster hangs, and threads are few.
//! Faults that may pass are tried again a few times. All reads of one request together have a time of their own ([`as_request`]): a storage that answers each
//! just in time would hold somebody for as many times as long.
//!
//! What the system has in memory is read by the caller itself, as long as the storage answers: to look whether it is there begins to read it, and of such reads
//! a device takes only so many before the next one waits. Puts and deletes are passed on as they are: a mount has none.

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::io::{self, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use parking_lot::Mutex;

use super::{Listed, Name, Settle, Storage, Taker, Wanted};

/// Threads that read at most, those that wait for ever among them.
const MOST_THREADS: usize = 128;
/// Reads that somebody who wants several ranges has under way at once, and reads of one object beyond which nobody begins another beside his own.
pub const AT_ONCE: usize = 4;
/// Reads that are begun beside others of the same asker, at most, of all askers together.
const MOST_BESIDE: usize = 40;
/// Reads of one object, left behind, after which no more of them are begun.
const MOST_BEHIND: usize = 4;
/// How long a try may take while the storage does not answer.
const TRY: Duration = Duration::from_secs(2);
/// The time between two tries.
const BETWEEN_TRIES: Duration = Duration::from_secs(1);
/// How much longer than one read all reads of a request may take.
pub const REQUEST: u32 = 2;
/// How often it is told that the storage is too slow for a request, at most.
const TOLD: Duration = Duration::from_secs(60);
/// How often a read that failed for a reason that may pass is repeated, and how long after the first failure; longer each time.
const REPEATS: u32 = 2;
const FIRST_PAUSE: Duration = Duration::from_millis(50);

type Job = Box<dyn FnOnce() + Send>;

thread_local! {
    /// When the request began that this thread works on.
    static BEGUN: Cell<Option<Instant>> = const { Cell::new(None) };
    /// Whether a read of this thread was late.
    static WAS_LATE: Cell<bool> = const { Cell::new(false) };
}

/// Does something that somebody waits for: what this thread reads for it takes at most [`REQUEST`] times as long as one read may.
pub fn as_request<T>(work: impl FnOnce() -> T) -> T {
    let outer = BEGUN.replace(Some(Instant::now()));
    let done = work();
    BEGUN.set(outer);
    done
}

/// Does something that makes do without what it cannot read, and tells whether anything of that was merely late.
pub fn noticing_late<T>(work: impl FnOnce() -> T) -> (T, bool) {
    let outer = WAS_LATE.replace(false);
    let done = work();
    let was_late = WAS_LATE.get();
    WAS_LATE.set(outer || was_late);
    (done, was_late)
}

/// Storage that answers in time or fails.
#[derive(Debug)]
pub struct Patient<S> {
    inner: Arc<S>,
    patience: Duration,
    jobs: Sender<Job>,
    threads: Arc<Threads>,
    health: Arc<Health>,
}

/// The threads that read.
#[derive(Debug)]
struct Threads {
    queue: Receiver<Job>,
    all: AtomicUsize,
    /// Reads that have begun, or wait for a thread, and have not ended.
    reads: AtomicUsize,
    /// Of these, begun beside others of the same asker who still waits for them.
    beside: AtomicUsize,
}

/// A read on its way.
#[derive(Debug)]
struct Ticket {
    object: Arc<str>,
    /// When it has had all the time that one read may take.
    due: Instant,
    /// Whether a thread works on it, and whether nobody waits for it any more; both are written while [`Health::objects`] is held.
    has_begun: AtomicBool,
    is_left: AtomicBool,
}

/// A read that a thread works on, or that waits for one.
struct Reading(Arc<Threads>);

impl Reading {
    fn new(threads: &Arc<Threads>) -> Self {
        threads.reads.fetch_add(1, Ordering::SeqCst);
        Self(threads.clone())
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.reads.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Work on an object that a thread has begun.
struct Pending<T> {
    doing: &'static str,
    ticket: Arc<Ticket>,
    receive: Receiver<io::Result<T>>,
    /// When it is left behind: when it is due, or its request has no more time.
    ends: Instant,
    allowed: Duration,
}

/// One of several reads.
enum Begun {
    Done(io::Result<Vec<u8>>),
    Pending(Pending<Vec<u8>>, Option<Beside>),
}

/// The right to read beside others of the same asker.
struct Beside(Arc<Threads>);

impl Drop for Beside {
    fn drop(&mut self) {
        self.0.beside.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Reads of an object.
#[derive(Debug, Default)]
struct Reads {
    /// Those that have not come back.
    under_way: usize,
    /// When those of them that were left behind are due.
    behind: Vec<Instant>,
}

/// Whether the storage answers.
#[derive(Debug)]
struct Health {
    place: String,
    /// When a read last took too long, if none has succeeded since.
    stuck: Mutex<Option<Instant>>,
    /// Reads that have not come back. Held while a result changes hands, so that each is either given or left.
    objects: Mutex<HashMap<Arc<str>, Reads>>,
    /// When it was last told that the storage is too slow for a request.
    told: Mutex<Option<Instant>>,
}

impl Health {
    fn is_well(&self) -> bool {
        self.stuck.lock().is_none()
    }

    /// How long a read that begins now may take; `None` if it is not worth a try.
    fn allowance(&self, patience: Duration) -> Option<Duration> {
        match &mut *self.stuck.lock() {
            None => Some(patience),
            Some(last) if last.elapsed() < BETWEEN_TRIES => None,
            Some(last) => {
                // The others fail meanwhile.
                *last = Instant::now() + TRY;
                Some(TRY.min(patience))
            }
        }
    }

    /// Whether so many reads of an object hang that one more would be lost, too. One that its request had no more time for does not hang yet.
    fn hangs(&self, object: &str) -> bool {
        let objects = self.objects.lock();
        let Some(reads) = objects.get(object).filter(|reads| reads.behind.len() >= MOST_BEHIND) else {
            return false;
        };
        let now = Instant::now();
        reads.behind.iter().filter(|due| **due <= now).count() >= MOST_BEHIND
    }

    fn begin(&self, object: &str, allowed: Duration) -> Arc<Ticket> {
        let object: Arc<str> = object.into();
        self.objects.lock().entry(object.clone()).or_default().under_way += 1;
        let (has_begun, is_left) = Default::default();
        Arc::new(Ticket { object, due: Instant::now() + allowed, has_begun, is_left })
    }

    /// Says that a thread works on it now; false if nobody waits for it any more.
    fn start(&self, ticket: &Ticket) -> bool {
        let _objects = self.objects.lock();
        let is_wanted = !ticket.is_left.load(Ordering::Relaxed);
        ticket.has_begun.store(is_wanted, Ordering::Relaxed);
        is_wanted
    }

    /// Gives a result to who waits for it, if anybody does.
    fn give<T>(&self, ticket: &Ticket, send: &Sender<T>, result: T) {
        let mut objects = self.objects.lock();
        let _ = send.send(result);
        if let Some(reads) = objects.get_mut(&ticket.object) {
            reads.under_way = reads.under_way.saturating_sub(1);
            if ticket.is_left.load(Ordering::Relaxed)
                && let Some(at) = reads.behind.iter().position(|due| *due == ticket.due)
            {
                reads.behind.swap_remove(at);
            }
            if reads.under_way == 0 {
                objects.remove(&ticket.object);
            }
        }
    }

    /// Gives up waiting, unless the result has come just now. One that found no thread hangs nowhere.
    fn leave<T>(&self, ticket: &Ticket, receive: &Receiver<T>) -> Option<T> {
        let mut objects = self.objects.lock();
        if let Ok(result) = receive.try_recv() {
            return Some(result);
        }
        ticket.is_left.store(true, Ordering::Relaxed);
        if ticket.has_begun.load(Ordering::Relaxed) {
            objects.entry(ticket.object.clone()).or_default().behind.push(ticket.due);
        }
        None
    }

    fn all_behind(&self) -> usize {
        self.objects.lock().values().map(|reads| reads.behind.len()).sum()
    }

    fn is_busy(&self, object: &str) -> bool {
        self.objects.lock().get(object).is_some_and(|reads| reads.under_way >= AT_ONCE)
    }

    fn was_too_slow(&self, allowed: Duration) {
        let mut told = self.told.lock();
        if told.is_none_or(|told| told.elapsed() > TOLD) {
            *told = Some(Instant::now());
            let all = (allowed * REQUEST).as_secs_f32();
            log::warn!("{} is too slow: a request needed more than {all} s of it, and failed", self.place);
        }
    }

    fn took_too_long(&self, what: &str, allowed: Duration) {
        if self.stuck.lock().replace(Instant::now()).is_none() {
            log::error!(
                "{} has not answered for {} s ({what}): reads fail until it does",
                self.place,
                allowed.as_secs_f32()
            );
        }
    }

    fn answers(&self) {
        if self.stuck.lock().take().is_some() {
            log::warn!("{} answers again", self.place);
        }
    }
}

impl<S: Storage + 'static> Patient<S> {
    /// Reads of `inner` take at most `patience`.
    #[must_use]
    pub fn new(inner: S, patience: Duration) -> Self {
        let (jobs, queue) = unbounded();
        let threads = Threads {
            queue,
            all: AtomicUsize::new(0),
            reads: AtomicUsize::new(0),
            beside: AtomicUsize::new(0),
        };
        let place = inner.describe();
        let health =
            Health { place, stuck: Mutex::default(), objects: Mutex::default(), told: Mutex::default() };
        Self { inner: Arc::new(inner), patience, jobs, threads: Arc::new(threads), health: Arc::new(health) }
    }

    /// Has a thread do the work on an object, and waits for what it gives.
    fn ask<T: Send + 'static>(
        &self,
        (doing, object): (&'static str, &str),
        work: impl Fn(&S) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        self.finish(self.begin((doing, object), work)?)
    }

    /// Has a thread begin to work on an object.
    fn begin<T: Send + 'static>(
        &self,
        (doing, object): (&'static str, &str),
        work: impl Fn(&S) -> io::Result<T> + Send + 'static,
    ) -> io::Result<Pending<T>> {
        if self.health.hangs(object) {
            return Err(late());
        }
        let request_ends = self.request_ends();
        if request_ends.is_some_and(|ends| ends <= Instant::now()) {
            self.health.was_too_slow(self.patience);
            return Err(too_slow());
        }
        let Some(allowed) = self.health.allowance(self.patience) else { return Err(late()) };
        let (send, receive) = bounded(1);
        let ticket = self.health.begin(object, allowed);
        let ends = request_ends.map_or(ticket.due, |ends| ticket.due.min(ends));
        let (inner, health, own) = (self.inner.clone(), self.health.clone(), ticket.clone());
        let given = send.clone();
        let reading = Reading::new(&self.threads);
        let handed = self.hand_out(Box::new(move || {
            let result = if health.start(&own) {
                let result = catch_unwind(AssertUnwindSafe(|| repeated(|| work(&inner))));
                if result.is_ok() {
                    // A storage that says no has answered, too.
                    health.answers();
                }
                result.unwrap_or_else(|_| {
                    log::error!("internal error: a read of storage panicked; please report this");
                    Err(io::Error::other("a thread that reads has panicked"))
                })
            } else {
                Err(ErrorKind::TimedOut.into())
            };
            drop(reading);
            health.give(&own, &send, result);
        }));
        if let Err(error) = handed {
            self.health.give(&ticket, &given, Err(ErrorKind::TimedOut.into()));
            return Err(error);
        }
        Ok(Pending { doing, ticket, receive, ends, allowed })
    }

    /// Waits for what a thread gives.
    fn finish<T>(&self, pending: Pending<T>) -> io::Result<T> {
        let Pending { doing, ticket, receive, ends, allowed } = pending;
        match receive.recv_timeout(ends.saturating_duration_since(Instant::now())) {
            Ok(result) => {
                if result.as_ref().is_err_and(|error| error.kind() == ErrorKind::TimedOut) {
                    WAS_LATE.set(true);
                }
                result
            }
            Err(RecvTimeoutError::Timeout) => self.health.leave(&ticket, &receive).unwrap_or_else(|| {
                if ends < ticket.due || !ticket.has_begun.load(Ordering::Relaxed) {
                    self.health.was_too_slow(self.patience);
                    return Err(too_slow());
                }
                self.health.took_too_long(&format!("{doing} {}", ticket.object), allowed);
                Err(late())
            }),
            Err(RecvTimeoutError::Disconnected) => Err(io::Error::other("a thread that reads has ended")),
        }
    }

    /// Has a thread fill a buffer, which must be its own: it may be left behind.
    fn read_elsewhere(&self, name: &Name, offset: u64, buf: Vec<u8>) -> io::Result<Pending<Vec<u8>>> {
        let (own, buf) = (name.clone(), Mutex::new(buf));
        self.begin(("reading", name.as_str()), move |inner| {
            let mut buf = buf.lock();
            inner.read_range(&own, offset, &mut buf).map(|()| std::mem::take(&mut *buf))
        })
    }

    fn end(&self, begun: Begun) -> io::Result<Vec<u8>> {
        match begun {
            Begun::Done(result) => result,
            Begun::Pending(pending, beside) => {
                let result = self.finish(pending);
                drop(beside);
                result
            }
        }
    }

    /// Whether one who has a read under way may begin another, of this object.
    fn beside(&self, name: &Name) -> Option<Beside> {
        if self.health.is_busy(name.as_str()) {
            return None;
        }
        let more = |beside: usize| (beside < MOST_BESIDE).then_some(beside + 1);
        let counted = self.threads.beside.fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
        counted.is_ok().then(|| Beside(self.threads.clone()))
    }

    /// Sends a job, whose [`Reading`] counts already, to a thread; starts one if there are more reads than threads. That one too many is started
    /// does no harm.
    fn hand_out(&self, job: Job) -> io::Result<()> {
        let threads = &self.threads;
        while threads.reads.load(Ordering::SeqCst) > threads.all.load(Ordering::SeqCst) {
            let more = |all: usize| (all < MOST_THREADS).then_some(all + 1);
            if threads.all.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_err() {
                if self.health.all_behind() >= MOST_THREADS / 2 {
                    // Most of those that are busy may be so for ever.
                    return Err(late());
                }
                break;
            }
            let own = threads.clone();
            let thread = std::thread::Builder::new().name("copal-storage".into());
            if let Err(error) = thread.spawn(move || own.serve()) {
                if threads.all.fetch_sub(1, Ordering::SeqCst) == 1 {
                    return Err(error);
                }
                break;
            }
        }
        self.jobs.send(job).map_err(|_| io::Error::other("no thread reads any more"))
    }
}

impl Threads {
    fn serve(&self) {
        self.queue.iter().for_each(|job| job());
    }
}

fn late() -> io::Error {
    WAS_LATE.set(true);
    io::Error::new(ErrorKind::TimedOut, "storage does not answer")
}

fn too_slow() -> io::Error {
    WAS_LATE.set(true);
    let message = "storage is too slow for all that this request needs of it; see --storage-timeout";
    io::Error::new(ErrorKind::TimedOut, message)
}

/// Repeats what failed for a reason that may pass.
fn repeated<T>(work: impl Fn() -> io::Result<T>) -> io::Result<T> {
    let mut pause = FIRST_PAUSE;
    for _ in 0..REPEATS {
        match work() {
            Err(error) if may_pass(&error) => std::thread::sleep(pause),
            done => return done,
        }
        pause *= 4;
    }
    work()
}

fn may_pass(error: &io::Error) -> bool {
    let passing = [
        ErrorKind::Interrupted,
        ErrorKind::WouldBlock,
        ErrorKind::TimedOut,
        ErrorKind::ResourceBusy,
        ErrorKind::StaleNetworkFileHandle,
        ErrorKind::NetworkDown,
        ErrorKind::NetworkUnreachable,
        ErrorKind::HostUnreachable,
        ErrorKind::ConnectionReset,
        ErrorKind::ConnectionAborted,
    ];
    passing.contains(&error.kind()) || error.raw_os_error() == Some(libc::EIO)
}

impl<S: Storage + 'static> Storage for Patient<S> {
    fn read(&self, name: &Name, limit: u64) -> io::Result<Vec<u8>> {
        let own = name.clone();
        self.ask(("reading", name.as_str()), move |inner| inner.read(&own, limit))
    }

    fn read_range(&self, name: &Name, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        if !self.read_if_cached(name, offset, buf) {
            buf.copy_from_slice(&self.finish(self.read_elsewhere(name, offset, vec![0; buf.len()])?)?);
        }
        Ok(())
    }

    fn read_into(&self, name: &Name, offset: u64, mut buf: Vec<u8>) -> io::Result<Vec<u8>> {
        if self.read_if_cached(name, offset, &mut buf) {
            return Ok(buf);
        }
        self.finish(self.read_elsewhere(name, offset, buf)?)
    }

    fn read_ranges(&self, ranges: Vec<Wanted>, take: &mut Taker<'_>) {
        // Those that were begun, or are there, and come behind one that was begun.
        let mut begun: VecDeque<Begun> = VecDeque::new();
        for Wanted { name, offset, mut buf } in ranges {
            if self.read_if_cached(&name, offset, &mut buf) {
                if begun.is_empty() {
                    take(Ok(buf));
                } else {
                    begun.push_back(Begun::Done(Ok(buf)));
                }
                continue;
            }
            let mut beside = None;
            while !begun.is_empty() {
                beside = if begun.len() < AT_ONCE { self.beside(&name) } else { None };
                if beside.is_some() {
                    break;
                }
                begun.pop_front().into_iter().for_each(|first| take(self.end(first)));
            }
            let read = self.read_elsewhere(&name, offset, buf);
            begun.push_back(
                read.map_or_else(|error| Begun::Done(Err(error)), |pending| Begun::Pending(pending, beside)),
            );
        }
        begun.into_iter().for_each(|read| take(self.end(read)));
    }

    fn read_if_cached(&self, name: &Name, offset: u64, buf: &mut [u8]) -> bool {
        self.health.is_well() && self.inner.read_if_cached(name, offset, buf)
    }

    fn request_ends(&self) -> Option<Instant> {
        BEGUN.get().map(|begun| begun + self.patience * REQUEST)
    }

    fn len(&self, name: &Name) -> io::Result<u64> {
        let own = name.clone();
        self.ask(("looking at", name.as_str()), move |inner| inner.len(&own))
    }

    fn put(&self, name: &Name, parts: &[&[u8]]) -> io::Result<()> {
        self.inner.put(name, parts)
    }

    fn list(&self, prefix: &str) -> io::Result<Vec<Listed>> {
        let own = prefix.to_owned();
        self.ask(("listing", prefix), move |inner| inner.list(&own))
    }

    fn names(&self, prefix: &str) -> io::Result<Vec<Name>> {
        let own = prefix.to_owned();
        self.ask(("listing", prefix), move |inner| inner.names(&own))
    }

    fn delete(&self, name: &Name) -> io::Result<()> {
        self.inner.delete(name)
    }

    fn clear_unpublished(&self, older_than: Duration) -> io::Result<u64> {
        self.inner.clear_unpublished(older_than)
    }

    fn settle(&self) -> Settle {
        self.inner.settle()
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}

#[cfg(test)]
mod tests {
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
}
