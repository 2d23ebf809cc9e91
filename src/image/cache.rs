//! An LRU cache bounded in bytes, with one load per key however many readers wait for it.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lru::LruCache;
use parking_lot::{Condvar, Mutex};

/// What an entry costs beside its value, in bytes: key, list, hash table and allocator.
const ENTRY_OVERHEAD: usize = 160;

/// How often the cache was asked, and what for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheCounts {
    /// Found ready.
    pub hits: u64,
    /// Loaded.
    pub loads: u64,
    /// Waited for another reader's load.
    pub shared: u64,
    /// Loads that failed.
    pub failures: u64,
}

#[derive(Debug, Default)]
struct Counters {
    hits: AtomicU64,
    loads: AtomicU64,
    shared: AtomicU64,
    failures: AtomicU64,
}

#[derive(Debug)]
enum Outcome<V, E> {
    Ready(V),
    Failed(Arc<E>),
    /// The loader panicked; waiters try themselves.
    Abandoned,
}

/// A load that is under way.
#[derive(Debug)]
struct Flight<V, E> {
    outcome: Mutex<Option<Outcome<V, E>>>,
    landed: Condvar,
}

#[derive(Debug)]
struct State<K: Hash + Eq, V, E> {
    ready: LruCache<K, (V, usize)>,
    bytes: usize,
    flights: HashMap<K, Arc<Flight<V, E>>>,
}

/// Values by key, at most so many bytes of them.
#[derive(Debug)]
pub struct Cache<K: Hash + Eq, V, E> {
    state: Mutex<State<K, V, E>>,
    capacity: usize,
    counters: Counters,
}

impl<K: Hash + Eq + Copy, V: Clone, E> Cache<K, V, E> {
    /// A cache of at most `capacity` bytes, overhead included.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let state = State { ready: LruCache::unbounded(), bytes: 0, flights: HashMap::new() };
        Self { state: Mutex::new(state), capacity, counters: Counters::default() }
    }

    /// The value of `key`, loaded by `load` (which also says its size in bytes) if it is not there.
    ///
    /// Readers that ask while a load is under way wait for that one, and share its failure too.
    ///
    /// # Errors
    /// What `load` returned.
    pub fn get_or_load(&self, key: K, load: impl Fn() -> Result<(V, usize), E>) -> Result<V, Arc<E>> {
        loop {
            let (flight, mine) = {
                let mut state = self.state.lock();
                if let Some((value, _)) = state.ready.get(&key) {
                    self.counters.hits.fetch_add(1, Ordering::Relaxed);
                    return Ok(value.clone());
                }
                match state.flights.get(&key) {
                    Some(flight) => (flight.clone(), false),
                    None => {
                        let flight = Arc::new(Flight { outcome: Mutex::new(None), landed: Condvar::new() });
                        state.flights.insert(key, flight.clone());
                        (flight, true)
                    }
                }
            };
            if mine {
                return self.load(key, &flight, &load);
            }
            self.counters.shared.fetch_add(1, Ordering::Relaxed);
            let mut outcome = flight.outcome.lock();
            while outcome.is_none() {
                flight.landed.wait(&mut outcome);
            }
            match outcome.as_ref() {
                Some(Outcome::Ready(value)) => return Ok(value.clone()),
                Some(Outcome::Failed(error)) => return Err(error.clone()),
                Some(Outcome::Abandoned) | None => {}
            }
        }
    }

    fn load(
        &self,
        key: K,
        flight: &Arc<Flight<V, E>>,
        load: &impl Fn() -> Result<(V, usize), E>,
    ) -> Result<V, Arc<E>> {
        self.counters.loads.fetch_add(1, Ordering::Relaxed);
        let mut landing = Landing { cache: self, key, flight, outcome: Outcome::Abandoned };
        match load() {
            Ok((value, bytes)) => {
                self.insert(key, value.clone(), bytes);
                landing.outcome = Outcome::Ready(value.clone());
                Ok(value)
            }
            Err(error) => {
                self.counters.failures.fetch_add(1, Ordering::Relaxed);
                let error = Arc::new(error);
                landing.outcome = Outcome::Failed(error.clone());
                Err(error)
            }
        }
    }

    fn insert(&self, key: K, value: V, bytes: usize) {
        let cost = bytes + ENTRY_OVERHEAD;
        if cost > self.capacity {
            return;
        }
        let mut evicted = Vec::new();
        let mut state = self.state.lock();
        if let Some((_, old)) = state.ready.put(key, (value, cost)) {
            state.bytes -= old;
        }
        state.bytes += cost;
        while state.bytes > self.capacity {
            let Some((_, (value, cost))) = state.ready.pop_lru() else { break };
            state.bytes -= cost;
            evicted.push(value);
        }
        // Values are freed outside the lock.
        drop(state);
    }

    /// Bytes in use, overhead included.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.state.lock().bytes
    }

    /// How it was used so far.
    #[must_use]
    pub fn counts(&self) -> CacheCounts {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counters { hits, loads, shared, failures } = &self.counters;
        CacheCounts { hits: load(hits), loads: load(loads), shared: load(shared), failures: load(failures) }
    }
}

/// Publishes a load's outcome, also when the loader panics.
struct Landing<'a, K: Hash + Eq + Copy, V: Clone, E> {
    cache: &'a Cache<K, V, E>,
    key: K,
    flight: &'a Arc<Flight<V, E>>,
    outcome: Outcome<V, E>,
}

impl<K: Hash + Eq + Copy, V: Clone, E> Drop for Landing<'_, K, V, E> {
    fn drop(&mut self) {
        self.cache.state.lock().flights.remove(&self.key);
        let outcome = std::mem::replace(&mut self.outcome, Outcome::Abandoned);
        *self.flight.outcome.lock() = Some(outcome);
        self.flight.landed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn bounded_in_bytes_and_least_recently_used_goes_first() {
        let cache: Cache<u32, u32, ()> = Cache::new(3 * (1000 + ENTRY_OVERHEAD));
        let get = |key| cache.get_or_load(key, || Ok((key, 1000))).unwrap();
        (0..3).for_each(|key| assert_eq!(get(key), key));
        get(0);
        get(3);
        assert_eq!(cache.bytes(), 3 * (1000 + ENTRY_OVERHEAD));
        get(0);
        assert_eq!(cache.counts().loads, 4);
        get(1);
        assert_eq!(cache.counts().loads, 5);
        cache.get_or_load(9, || Ok((9, 1 << 20))).unwrap();
        assert!(cache.bytes() <= 3 * (1000 + ENTRY_OVERHEAD));
    }

    #[test]
    fn many_readers_one_load_and_one_failure() {
        let cache: Cache<u32, u32, String> = Cache::new(1 << 20);
        let together = Barrier::new(8);
        let load = || {
            std::thread::sleep(std::time::Duration::from_millis(50));
            Err("broken".to_owned())
        };
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    together.wait();
                    assert_eq!(*cache.get_or_load(1, load).unwrap_err(), "broken");
                });
            }
        });
        let counts = cache.counts();
        assert_eq!(counts.loads, counts.failures);
        assert_eq!(counts.loads + counts.shared, 8);
        assert_eq!(cache.get_or_load(1, || Ok((5, 1))).unwrap(), 5);
    }

    #[test]
    fn a_panicking_load_leaves_no_waiter_behind() {
        let cache: Cache<u32, u32, ()> = Cache::new(1 << 20);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _ = cache.get_or_load(1, || panic!("on purpose"));
        }));
        assert!(panicked.is_err());
        assert_eq!(cache.get_or_load(1, || Ok((5, 1))).unwrap(), 5);
    }
}
