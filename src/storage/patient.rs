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

mod health;

use std::cell::Cell;
use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use parking_lot::Mutex;

use self::health::{Health, Ticket};
use super::{FolderMark, Listed, Name, Settle, Storage, Taker, Wanted};

/// Threads that read at most, those that wait for ever among them.
const MOST_THREADS: usize = 128;
/// Reads that somebody who wants several ranges has under way at once, and reads of one object beyond which nobody begins another beside his own.
pub const AT_ONCE: usize = 4;
/// Reads that are begun beside others of the same asker, at most, of all askers together.
const MOST_BESIDE: usize = 40;
/// How much longer than one read all reads of a request may take.
pub const REQUEST: u32 = 2;
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

/// What another thread is to do for the request that this one works on, in the time that is left to it. Whether something was late is not told back.
pub fn carried<T>(work: impl FnOnce() -> T) -> impl FnOnce() -> T {
    let begun = BEGUN.get();
    move || {
        let outer = BEGUN.replace(begun);
        let done = work();
        BEGUN.set(outer);
        done
    }
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
        let health = Health::new(inner.describe());
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

    fn gains_from_threads(&self) -> bool {
        // While one read tries a storage that did not answer, all others fail.
        self.health.is_well() && self.inner.gains_from_threads()
    }

    fn len(&self, name: &Name) -> io::Result<u64> {
        let own = name.clone();
        self.ask(("looking at", name.as_str()), move |inner| inner.len(&own))
    }

    fn put(&self, name: &Name, parts: &[&[u8]]) -> io::Result<()> {
        self.inner.put(name, parts)
    }

    fn begin_put(&self) -> io::Result<Option<Box<dyn super::Begun + '_>>> {
        self.inner.begin_put()
    }

    fn list(&self, prefix: &str) -> io::Result<Vec<Listed>> {
        let own = prefix.to_owned();
        self.ask(("listing", prefix), move |inner| inner.list(&own))
    }

    fn names(&self, prefix: &str) -> io::Result<Vec<Name>> {
        let own = prefix.to_owned();
        self.ask(("listing", prefix), move |inner| inner.names(&own))
    }

    fn folder_mark(&self, folder: &str) -> Option<FolderMark> {
        let own = folder.to_owned();
        self.ask(("looking at", folder), move |inner| Ok(inner.folder_mark(&own))).ok().flatten()
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
mod tests;
