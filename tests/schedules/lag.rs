//! One storage for all actors, whose lists may lag as far as its contract lets them: each list decides anew, for each name that changed since
//! the last settling, which of its states it shows.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::sync::Arc;

use copal::storage::memory::MemoryStorage;
use copal::storage::{Listed, Name, Settle, Storage};
use parking_lot::Mutex;

use super::turns::Random;

/// An object's length in a list, or `None` if the list does not have it.
type Seen = Option<u64>;

#[derive(Debug)]
struct History {
    /// What surely was settled.
    settled: Seen,
    /// What was done since, by number.
    since: VecDeque<(u64, Seen)>,
}

struct State {
    /// Of 256 names that a list might show as they were, so many are.
    stale: u64,
    random: Random,
    done: u64,
    histories: BTreeMap<Name, History>,
}

/// The storage; clones share it.
#[derive(Clone)]
pub(crate) struct Lag {
    inner: MemoryStorage,
    state: Arc<Mutex<State>>,
}

impl fmt::Debug for Lag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lag(..)")
    }
}

impl Lag {
    pub(crate) fn new(inner: MemoryStorage, stale: u64, seed: u64) -> Self {
        let state = State { stale, random: Random(seed), done: 0, histories: BTreeMap::new() };
        Self { inner, state: Arc::new(Mutex::new(state)) }
    }

    /// How much was put and deleted until now.
    pub(crate) fn done(&self) -> u64 {
        self.state.lock().done
    }

    /// Shows everything that was done before then in all lists.
    pub(crate) fn settle_until(&self, done: u64) {
        self.state.lock().histories.retain(|_, history| {
            while let Some((_, seen)) = history.since.pop_front_if(|(number, _)| *number <= done) {
                history.settled = seen;
            }
            !history.since.is_empty()
        });
    }

    fn mutate(&self, name: &Name, run: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mut state = self.state.lock();
        state.done += 1;
        if state.stale == 0 {
            return run();
        }
        let settled = self.inner.len(name).ok();
        run()?;
        let now = (state.done, self.inner.len(name).ok());
        let fresh = || History { settled, since: VecDeque::new() };
        state.histories.entry(name.clone()).or_insert_with(fresh).since.push_back(now);
        Ok(())
    }
}

impl Storage for Lag {
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
        let mut state = self.state.lock();
        let truth = self.inner.list(prefix)?;
        let State { stale, random, histories, .. } = &mut *state;
        if histories.is_empty() {
            return Ok(truth);
        }
        let mut listed: BTreeMap<_, _> = truth.into_iter().map(|Listed { name, len }| (name, len)).collect();
        let beneath =
            |name: &Name| name.as_str().strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'));
        for (name, history) in histories.iter().filter(|(name, _)| beneath(name)) {
            if random.below(256) >= *stale {
                continue;
            }
            let seen = match random.below(history.since.len() as u64) as usize {
                0 => history.settled,
                later => history.since[later - 1].1,
            };
            match seen {
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
        self.inner.settle()
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}
