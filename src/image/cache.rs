//! A cache bounded in bytes, with one load per key however many readers wait for it, and which a long scan does not flush.
//!
//! The policy follows 2Q (Johnson and Shasha, VLDB 1994): what is new goes to one list, and of what has left that list only the key is
//! remembered. Who is asked for again then was part of no scan, and goes to another list, which keeps three quarters of the space from
//! all that is new. So does who is asked for again before it has left, if so much came meanwhile that it was not one reader's next step: the keys
//! that are remembered do not last for ever, and what a filesystem reads all the time must not have to leave first. In both lists the least
//! recently used leaves first.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lru::LruCache;
use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Serialize};

use crate::repository::Error;

/// What an entry costs beside its value, in bytes: key, list, hash table and allocator.
const ENTRY_OVERHEAD: usize = 160;
/// The part of the space that what is new has at least.
const NEW_SHARE: usize = 4;
/// How long what was loaded ahead counts as such: a reader that has not come by then may have gone elsewhere.
const AHEAD_LIFE: Duration = Duration::from_secs(30);
/// The part of the space that must have been loaded since something came, or else who asks for it again may be the same reader, in small steps.
const AGE_SHARE: usize = 8;
/// The same in bytes, at least: what a reader in order and those who load ahead of it may be apart.
const LEAST_AGE: usize = 16 << 20;
/// The part of the space that keys of what has left may take.
const LEFT_SHARE: usize = 32;

/// How a cache was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CacheCounts {
    /// Found ready.
    pub hits: u64,
    /// Loaded because a reader asked.
    pub loads: u64,
    /// Waited for another's load.
    pub shared: u64,
    /// Loads that failed.
    pub failures: u64,
    /// Loaded before a reader asked.
    pub ahead: u64,
    /// Of these, asked for in time.
    pub ahead_used: u64,
    /// Of these, displaced, or no longer waited for, before anybody asked.
    pub ahead_wasted: u64,
    /// Displaced.
    pub evicted: u64,
}

/// Who wants a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A reader, which waits for it.
    Demand,
    /// Nobody yet.
    Ahead,
}

#[derive(Debug, Clone)]
enum Outcome<V, E> {
    Ready(V),
    Failed(Arc<E>),
    /// The loader gave up or panicked; waiters try themselves.
    Abandoned,
}

/// A load that is under way.
#[derive(Debug)]
pub struct Flight<V, E> {
    /// Whether a reader has asked meanwhile; written and read under the cache's lock.
    is_wanted: AtomicBool,
    outcome: Mutex<Option<Outcome<V, E>>>,
    landed: Condvar,
}

/// Why a load failed.
pub trait Failure {
    /// Whether all who wait for the value share it; else each of them tries in the time that he has.
    fn is_of_the_value(&self) -> bool;
}

impl Failure for Error {
    fn is_of_the_value(&self) -> bool {
        !self.is_late()
    }
}

/// How it ended to wait for another's load.
#[derive(Debug, PartialEq, Eq)]
pub enum Waited<V, E> {
    /// That has come to an end.
    Landed(Result<V, Arc<E>>),
    /// That was given up: the value is to be asked for again.
    GivenUp,
    /// There is no more time.
    TooLong,
}

impl<V: Clone, E> Flight<V, E> {
    fn wait(&self, ends: Option<Instant>) -> Waited<V, E> {
        let mut outcome = self.outcome.lock();
        loop {
            match outcome.as_ref() {
                Some(Outcome::Ready(value)) => return Waited::Landed(Ok(value.clone())),
                Some(Outcome::Failed(error)) => return Waited::Landed(Err(error.clone())),
                Some(Outcome::Abandoned) if ends.is_none_or(|ends| Instant::now() < ends) => {
                    return Waited::GivenUp;
                }
                Some(Outcome::Abandoned) => return Waited::TooLong,
                None => {}
            }
            match ends {
                None => self.landed.wait(&mut outcome),
                Some(ends) if ends <= Instant::now() => return Waited::TooLong,
                Some(ends) => drop(self.landed.wait_until(&mut outcome, ends)),
            }
        }
    }
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    cost: usize,
    /// Loaded ahead, and not asked for since.
    ahead: bool,
    /// How many bytes had been loaded when it was asked for first; `None` if it never was.
    since: Option<u64>,
}

/// Entries, and how many bytes they take.
#[derive(Debug)]
struct List<K: Hash + Eq, V> {
    entries: LruCache<K, Entry<V>>,
    bytes: usize,
}

impl<K: Hash + Eq, V> List<K, V> {
    fn new() -> Self {
        Self { entries: LruCache::unbounded(), bytes: 0 }
    }

    fn put(&mut self, key: K, entry: Entry<V>) {
        self.bytes += entry.cost;
        self.entries.put(key, entry);
    }

    fn remove(&mut self, key: &K) -> Option<Entry<V>> {
        let entry = self.entries.pop(key)?;
        self.bytes -= entry.cost;
        Some(entry)
    }

    fn pop_oldest(&mut self) -> Option<(K, Entry<V>)> {
        let (key, entry) = self.entries.pop_lru()?;
        self.bytes -= entry.cost;
        Some((key, entry))
    }
}

#[derive(Debug)]
struct State<K: Hash + Eq, V, E> {
    new: List<K, V>,
    /// Asked for again after they had left the other list.
    kept: List<K, V>,
    /// Keys of what has left that list.
    left: LruCache<K, ()>,
    /// Bytes that were loaded so far.
    loaded: u64,
    /// Bytes of what was loaded ahead and not asked for yet.
    ahead_bytes: usize,
    /// What was loaded ahead, oldest first, and when; or has been asked for or displaced since.
    ahead: VecDeque<(K, Instant)>,
    flights: HashMap<K, Arc<Flight<V, E>>>,
    counts: CacheCounts,
}

/// Values by key, at most so many bytes of them.
#[derive(Debug)]
pub struct Cache<K: Hash + Eq, V, E> {
    state: Mutex<State<K, V, E>>,
    capacity: usize,
    shared: AtomicU64,
}

/// What became of a key that was asked for.
#[derive(Debug)]
pub enum Asked<'a, K: Hash + Eq + Copy, V: Clone, E> {
    /// It was there.
    Ready(V),
    /// Another one loads it.
    Loading(Arc<Flight<V, E>>),
    /// The asker is to load it.
    Mine(Claim<'a, K, V, E>),
}

impl<K: Hash + Eq + Copy, V: Clone, E> Cache<K, V, E> {
    /// A cache of at most `capacity` bytes, overhead included.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let state = State {
            new: List::new(),
            kept: List::new(),
            left: LruCache::unbounded(),
            loaded: 0,
            ahead_bytes: 0,
            ahead: VecDeque::new(),
            flights: HashMap::new(),
            counts: CacheCounts::default(),
        };
        Self { state: Mutex::new(state), capacity, shared: AtomicU64::new(0) }
    }

    /// The value of `key`, loaded by `load` (which also says its size in bytes) if it is not there.
    ///
    /// Readers that ask while a load is under way wait for that one, and share its failure too, if it is one of the value; where that takes them beyond the time that they
    /// have, if `ends` says when that is, they load the value themselves, and nobody keeps it.
    ///
    /// # Errors
    /// What `load` returned.
    pub fn get_or_load(
        &self,
        key: K,
        ends: Option<Instant>,
        load: impl Fn() -> Result<(V, usize), E>,
    ) -> Result<V, Arc<E>>
    where
        E: Failure,
    {
        loop {
            match self.ask(key) {
                Asked::Ready(value) => return Ok(value),
                Asked::Mine(claim) => return claim.land(load()),
                Asked::Loading(flight) => match self.wait(&flight, ends) {
                    Waited::Landed(result) => return result,
                    Waited::GivenUp => {}
                    Waited::TooLong => return load().map(|(value, _)| value).map_err(Arc::new),
                },
            }
        }
    }

    /// Looks for one value.
    pub fn ask(&self, key: K) -> Asked<'_, K, V, E> {
        self.ask_locked(&mut self.state.lock(), key)
    }

    /// Looks for several values at one moment: what nobody has and nobody loads is the asker's to load, all of it. Their claims are to be
    /// landed before anything is waited for: a key that is given twice is found loading the second time.
    pub fn ask_all(&self, keys: impl Iterator<Item = K>) -> Vec<Asked<'_, K, V, E>> {
        let mut state = self.state.lock();
        keys.map(|key| self.ask_locked(&mut state, key)).collect()
    }

    fn ask_locked(&self, state: &mut State<K, V, E>, key: K) -> Asked<'_, K, V, E> {
        let State { new, kept, loaded, ahead_bytes, flights, counts, .. } = state;
        let mut returns = false;
        let found = kept.entries.get_mut(&key).or_else(|| {
            let entry = new.entries.get_mut(&key)?;
            let since = *entry.since.get_or_insert(*loaded);
            returns = *loaded - since > (self.capacity / AGE_SHARE).max(LEAST_AGE) as u64;
            Some(entry)
        });
        if let Some(entry) = found {
            counts.hits += 1;
            if std::mem::take(&mut entry.ahead) {
                counts.ahead_used += 1;
                *ahead_bytes -= entry.cost;
            }
            let value = entry.value.clone();
            if returns && let Some(entry) = new.remove(&key) {
                kept.put(key, entry);
            }
            return Asked::Ready(value);
        }
        if let Some(flight) = flights.get(&key) {
            flight.is_wanted.store(true, Ordering::Relaxed);
            return Asked::Loading(flight.clone());
        }
        counts.loads += 1;
        Asked::Mine(self.claim(flights, key, Purpose::Demand))
    }

    /// Of each key, whether anybody has it or loads it now.
    pub fn are_known(&self, keys: impl Iterator<Item = K>) -> Vec<bool> {
        let state = self.state.lock();
        keys.map(|key| state.knows(&key)).collect()
    }

    /// Takes upon the caller to load those keys that nobody has and nobody loads; the others are `None`.
    pub fn claim_ahead(&self, keys: impl Iterator<Item = K>) -> Vec<Option<Claim<'_, K, V, E>>> {
        let mut state = self.state.lock();
        let claims = keys.map(|key| {
            let is_free = !state.knows(&key);
            is_free.then(|| self.claim(&mut state.flights, key, Purpose::Ahead))
        });
        claims.collect()
    }

    fn claim<'a>(
        &'a self,
        flights: &mut HashMap<K, Arc<Flight<V, E>>>,
        key: K,
        purpose: Purpose,
    ) -> Claim<'a, K, V, E> {
        let is_wanted = AtomicBool::new(purpose == Purpose::Demand);
        let flight = Arc::new(Flight { is_wanted, outcome: Mutex::new(None), landed: Condvar::new() });
        flights.insert(key, flight.clone());
        Claim { cache: self, key, flight, purpose, outcome: Outcome::Abandoned }
    }

    /// Waits for another's load, as long as there is time.
    pub fn wait(&self, flight: &Flight<V, E>, ends: Option<Instant>) -> Waited<V, E> {
        self.shared.fetch_add(1, Ordering::Relaxed);
        flight.wait(ends)
    }

    /// Bytes in use, overhead included.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let state = self.state.lock();
        state.new.bytes + state.kept.bytes
    }

    /// Bytes of what was loaded ahead not long ago, and nobody has asked for yet.
    #[must_use]
    pub fn ahead_bytes(&self) -> usize {
        let mut state = self.state.lock();
        if let Some(before) = Instant::now().checked_sub(AHEAD_LIFE) {
            state.give_up_ahead(before);
        }
        state.ahead_bytes
    }

    /// Bytes it may use.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// How it was used so far.
    #[must_use]
    pub fn counts(&self) -> CacheCounts {
        CacheCounts { shared: self.shared.load(Ordering::Relaxed), ..self.state.lock().counts }
    }
}

impl<K: Hash + Eq + Copy, V: Clone, E> State<K, V, E> {
    fn knows(&self, key: &K) -> bool {
        self.new.entries.contains(key) || self.kept.entries.contains(key) || self.flights.contains_key(key)
    }

    /// Takes what was loaded ahead before a moment for what nobody waits for. It stays as long as anything else.
    fn give_up_ahead(&mut self, before: Instant) {
        while let Some((key, since)) = self.ahead.front() {
            let entry = self.kept.entries.peek_mut(key).or_else(|| self.new.entries.peek_mut(key));
            if let Some(entry) = entry.filter(|entry| entry.ahead) {
                if *since > before {
                    return;
                }
                entry.ahead = false;
                self.ahead_bytes -= entry.cost;
                self.counts.ahead_wasted += 1;
            }
            self.ahead.pop_front();
        }
    }

    /// Takes a value in, and hands out what it displaced.
    fn insert(&mut self, key: K, entry: Entry<V>, capacity: usize) -> Vec<Entry<V>> {
        if entry.cost > capacity {
            return Vec::new();
        }
        if entry.ahead {
            self.ahead_bytes += entry.cost;
            self.ahead.push_back((key, Instant::now()));
        }
        self.loaded += entry.cost as u64;
        let entry = Entry { since: (!entry.ahead).then_some(self.loaded), ..entry };
        let returns = self.left.pop(&key).is_some();
        (if returns { &mut self.kept } else { &mut self.new }).put(key, entry);
        let mut displaced = Vec::new();
        while self.new.bytes + self.kept.bytes > capacity {
            let from_new = self.kept.bytes == 0 || self.new.bytes > capacity / NEW_SHARE;
            let list = if from_new { &mut self.new } else { &mut self.kept };
            let Some((key, entry)) = list.pop_oldest() else { break };
            self.counts.evicted += 1;
            if entry.ahead {
                self.ahead_bytes -= entry.cost;
                self.counts.ahead_wasted += 1;
            } else if from_new && entry.since.is_some() {
                self.left.put(key, ());
            }
            displaced.push(entry);
        }
        while self.left.len() * ENTRY_OVERHEAD > capacity / LEFT_SHARE {
            self.left.pop_lru();
        }
        displaced
    }
}

/// A load that its holder has taken upon itself. Dropped without an outcome, it leaves it to those who wait.
#[derive(Debug)]
pub struct Claim<'a, K: Hash + Eq + Copy, V: Clone, E> {
    cache: &'a Cache<K, V, E>,
    key: K,
    flight: Arc<Flight<V, E>>,
    purpose: Purpose,
    outcome: Outcome<V, E>,
}

impl<K: Hash + Eq + Copy, V: Clone, E> Claim<'_, K, V, E> {
    /// What is to be loaded.
    #[must_use]
    pub fn key(&self) -> K {
        self.key
    }

    fn insert(&self, value: V, cost: usize) -> Vec<Entry<V>> {
        let mut state = self.cache.state.lock();
        let is_wanted = self.flight.is_wanted.load(Ordering::Relaxed);
        if self.purpose == Purpose::Ahead {
            state.counts.ahead += 1;
            state.counts.ahead_used += u64::from(is_wanted);
        }
        state.insert(self.key, Entry { value, cost, ahead: !is_wanted, since: None }, self.cache.capacity)
    }

    /// For whom.
    #[must_use]
    pub fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// Publishes what was loaded, with its size in bytes, or why it could not be.
    ///
    /// # Errors
    /// The load's.
    pub fn land(mut self, loaded: Result<(V, usize), E>) -> Result<V, Arc<E>>
    where
        E: Failure,
    {
        match loaded {
            Ok((value, bytes)) => {
                let displaced = self.insert(value.clone(), bytes + ENTRY_OVERHEAD);
                // Values are freed outside the lock.
                drop(displaced);
                self.outcome = Outcome::Ready(value.clone());
                Ok(value)
            }
            Err(error) => {
                self.cache.state.lock().counts.failures += 1;
                let error = Arc::new(error);
                if error.is_of_the_value() {
                    self.outcome = Outcome::Failed(error.clone());
                }
                Err(error)
            }
        }
    }
}

impl<K: Hash + Eq + Copy, V: Clone, E> Drop for Claim<'_, K, V, E> {
    fn drop(&mut self) {
        self.cache.state.lock().flights.remove(&self.key);
        let outcome = std::mem::replace(&mut self.outcome, Outcome::Abandoned);
        *self.flight.outcome.lock() = Some(outcome);
        self.flight.landed.notify_all();
    }
}

#[cfg(test)]
mod tests;
