//! A wrapper whose lists lag behind its puts and deletes, as those of some object stores do.
//!
//! Each put or delete enters a list only when its lag has passed on the wrapper's clock, counted from the moment at
//! which the inner storage had done it; until then lists show the name as the mutations before it left it, length
//! included. Mutations of one name become visible in their order. Whole reads, ranged reads and lengths of exact
//! names lag behind nothing.
//!
//! The clock of [`Lagging::new`] is logical: it moves only by [`Lagging::tick`] and [`Lagging::settle_now`]. That of
//! [`Lagging::for_duration`] is real time, for code that truly sleeps for the settle time.
//!
//! What is changed in the inner storage behind the wrapper's back does not lag: several clients share one `Lagging`.
//! The inner storage's own settle time is ignored; its lists should be exact. Each mutation asks it for the length of
//! the name.

use super::memory::lies_under;
use super::{Listed, Name, Settle, Storage};
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What a logical `Lagging` declares unless told otherwise: short, because code under test may really sleep for it.
const DEFAULT_SETTLE: Duration = Duration::from_millis(1);

type Hook<S> = Box<dyn Fn(&Lagging<S>) + Send + Sync>;

/// An object's length in a list, or `None` if the list does not have it.
type Seen = Option<u64>;

/// What lists still have to learn about one name.
#[derive(Debug)]
struct History {
    seen: Seen,
    /// When (on the clock) lists see what, in the order of the mutations.
    pending: VecDeque<(u64, Seen)>,
}

impl History {
    /// Lets lists see what is due; `false` if nothing is pending any more.
    fn advance(&mut self, now: u64) -> bool {
        while let Some((_, seen)) = self.pending.pop_front_if(|(due, _)| *due <= now) {
            self.seen = seen;
        }
        !self.pending.is_empty()
    }
}

/// Delays what the lists of `S` show.
pub struct Lagging<S> {
    inner: S,
    lag: u64,
    /// Ticks, or nanoseconds where `start` is set: what was added by hand.
    advanced: AtomicU64,
    /// Set where the clock is real time.
    start: Option<Instant>,
    settle: Duration,
    hook: Option<Hook<S>>,
    /// Held through every mutation and list of `inner`, so that both agree.
    histories: Mutex<BTreeMap<Name, History>>,
}

impl<S> Lagging<S> {
    /// Wraps `inner` with a logical clock: a mutation at tick `t` is listed from tick `t + lag` on.
    pub fn new(inner: S, lag: u64) -> Self {
        let (advanced, histories) = (AtomicU64::new(0), Mutex::default());
        Self { inner, lag, advanced, start: None, settle: DEFAULT_SETTLE, hook: None, histories }
    }

    /// Wraps `inner` with the real clock: a mutation is listed once `lag` has passed, which is also the declared
    /// settle time.
    pub fn for_duration(inner: S, lag: Duration) -> Self {
        let nanos = u64::try_from(lag.as_nanos()).unwrap_or(u64::MAX);
        Self { start: Some(Instant::now()), settle: lag, ..Self::new(inner, nanos) }
    }

    /// Declares another settle time; the lag stays, so that a time too short can be tested too.
    #[must_use]
    pub fn with_settle(self, settle: Duration) -> Self {
        Self { settle, ..self }
    }

    /// Runs `hook` whenever someone asks for the settle time, just before it is returned. Code that asks, waits and
    /// lists can so move the logical clock: `.on_settle(Lagging::settle_now)`.
    #[must_use]
    pub fn on_settle(self, hook: impl Fn(&Self) + Send + Sync + 'static) -> Self {
        Self { hook: Some(Box::new(hook)), ..self }
    }

    /// Moves the clock by one tick (a nanosecond, if it is real).
    pub fn tick(&self) {
        self.advanced.fetch_add(1, Ordering::SeqCst);
    }

    /// Moves the clock by the whole lag: lists then show everything that was done before this call.
    pub fn settle_now(&self) {
        self.advanced.fetch_add(self.lag, Ordering::SeqCst);
    }

    /// The wrapped storage, whose lists do not lag.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    fn now(&self) -> u64 {
        let elapsed = self.start.map_or(0, |start| start.elapsed().as_nanos());
        u64::try_from(elapsed).unwrap_or(u64::MAX).saturating_add(self.advanced.load(Ordering::SeqCst))
    }
}

impl<S: Storage> Lagging<S> {
    fn look(&self, name: &Name) -> io::Result<Seen> {
        match self.inner.len(name) {
            Ok(len) => Ok(Some(len)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Runs a put or delete and schedules what lists see of it. A failed one is scheduled too, with what it left,
    /// since it may have taken effect; where even that cannot be found out, lists show the truth at once.
    fn mutate(&self, name: &Name, run: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mut histories = self.histories.lock();
        let before = self.look(name)?;
        let result = run();
        if let Ok(left) = self.look(name) {
            let fresh = || History { seen: before, pending: VecDeque::new() };
            let due = self.now().saturating_add(self.lag);
            histories.entry(name.clone()).or_insert_with(fresh).pending.push_back((due, left));
        }
        result
    }
}

impl<S: Storage> Storage for Lagging<S> {
    fn read(&self, name: &Name, limit: u64) -> io::Result<Vec<u8>> {
        self.inner.read(name, limit)
    }

    fn read_range(&self, name: &Name, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.inner.read_range(name, offset, buf)
    }

    fn len(&self, name: &Name) -> io::Result<u64> {
        self.inner.len(name)
    }

    fn put(&self, name: &Name, parts: &[&[u8]]) -> io::Result<()> {
        self.mutate(name, || self.inner.put(name, parts))
    }

    fn list(&self, prefix: &str) -> io::Result<Vec<Listed>> {
        let mut histories = self.histories.lock();
        let now = self.now();
        histories.retain(|_, history| history.advance(now));

        let truth = self.inner.list(prefix)?;
        let mut listed: BTreeMap<_, _> = truth.into_iter().map(|Listed { name, len }| (name, len)).collect();
        for (name, history) in histories.iter().filter(|(name, _)| lies_under(name, prefix)) {
            match history.seen {
                Some(len) => listed.insert(name.clone(), len),
                None => listed.remove(name),
            };
        }
        Ok(listed.into_iter().map(|(name, len)| Listed { name, len }).collect())
    }

    fn delete(&self, name: &Name) -> io::Result<()> {
        self.mutate(name, || self.inner.delete(name))
    }

    fn settle(&self) -> Settle {
        if let Some(hook) = &self.hook {
            hook(self);
        }
        Settle::After(self.settle)
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}

impl<S: fmt::Debug> fmt::Debug for Lagging<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lagging").field("inner", &self.inner).field("lag", &self.lag).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::conformance::{conformance, name};
    use crate::storage::faults::{Fault, Faults};
    use crate::storage::memory::MemoryStorage;
    use crate::storage::recorder::Op;

    fn listed<S: Storage>(storage: &Lagging<S>) -> Vec<(String, u64)> {
        storage.list("a").unwrap().iter().map(|l| (l.name.to_string(), l.len)).collect()
    }

    fn x(len: u64) -> Vec<(String, u64)> {
        vec![("a/x".to_owned(), len)]
    }

    #[test]
    fn conforms_in_real_time() {
        conformance(|| Box::new(Lagging::for_duration(MemoryStorage::new(), Duration::from_millis(20))));
    }

    #[test]
    fn conforms_when_the_wait_moves_the_logical_clock() {
        conformance(|| Box::new(Lagging::new(MemoryStorage::new(), 3).on_settle(Lagging::settle_now)));
    }

    #[test]
    fn lists_follow_after_the_lag_and_reads_at_once() {
        let storage = Lagging::new(MemoryStorage::new(), 2);
        let object = name("a/x");
        storage.put(&object, &[b"1"]).unwrap();
        assert_eq!((storage.len(&object).unwrap(), listed(&storage)), (1, vec![]));
        storage.tick();
        storage.put(&object, &[b"22"]).unwrap();
        storage.delete(&object).unwrap();
        assert_eq!(storage.len(&object).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(listed(&storage), []);
        storage.tick();
        assert_eq!(listed(&storage), x(1), "the first put, not yet the second and the delete");
        storage.tick();
        assert_eq!(listed(&storage), []);
    }

    #[test]
    fn a_deleted_object_lingers_with_its_old_length() {
        let inner = MemoryStorage::new();
        inner.put(&name("a/x"), &[b"old"]).unwrap();
        let storage = Lagging::new(inner, 1);
        storage.put(&name("a/x"), &[b"newer"]).unwrap();
        assert_eq!(listed(&storage), x(3));
        storage.settle_now();
        storage.delete(&name("a/x")).unwrap();
        assert_eq!(listed(&storage), x(5));
        storage.settle_now();
        assert_eq!(listed(&storage), []);
    }

    #[test]
    fn a_mutation_whose_reply_was_lost_lags_too() {
        let storage = Lagging::new(Faults::new(MemoryStorage::new()), 1);
        storage.inner().inject(Op::Put, "", 1, Fault::LostReply(io::ErrorKind::TimedOut));
        storage.put(&name("a/x"), &[b"x"]).unwrap_err();
        assert_eq!(listed(&storage), []);
        storage.tick();
        assert_eq!(listed(&storage), x(1));
    }

    #[test]
    fn real_time_lists_nothing_early() {
        let storage = Lagging::for_duration(MemoryStorage::new(), Duration::from_secs(1 << 20));
        storage.put(&name("a/x"), &[b"x"]).unwrap();
        assert_eq!(listed(&storage), []);
        storage.settle_now();
        assert_eq!(listed(&storage), x(1));
    }

    #[test]
    fn settle_is_as_declared() {
        let lag = Duration::from_millis(7);
        assert_eq!(Lagging::for_duration(MemoryStorage::new(), lag).settle(), Settle::After(lag));
        assert_eq!(Lagging::new(MemoryStorage::new(), 1).with_settle(lag).settle(), Settle::After(lag));
    }
}
