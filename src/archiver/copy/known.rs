//! What a run of copying has learnt of blobs: by their ids in the source, as much as fits into so many bytes.
//!
//! A blob that two workers meet at once is worked on once: the second waits for the first. What was learnt longest ago, and not asked for
//! since, is forgotten first, and learnt again where it is needed.

use std::collections::HashSet;

use lru::LruCache;
use parking_lot::{Condvar, Mutex};

use crate::id::BlobId;

/// What an entry costs beside its value, in bytes: key, list, hash table and allocator.
const OVERHEAD: usize = 96;

#[derive(Debug)]
struct State<V> {
    learnt: LruCache<BlobId, (V, usize)>,
    bytes: usize,
    pending: HashSet<BlobId>,
}

/// Values by blob.
#[derive(Debug)]
pub(super) struct Known<V> {
    state: Mutex<State<V>>,
    changed: Condvar,
    capacity: usize,
}

/// What is known of a blob.
#[derive(Debug)]
pub(super) enum Asked<'a, V> {
    /// This.
    Known(V),
    /// Nothing: who asked finds out.
    Mine(Task<'a, V>),
}

/// A blob that its holder works on; dropping it lets another worker do so.
#[derive(Debug)]
pub(super) struct Task<'a, V> {
    known: &'a Known<V>,
    id: BlobId,
}

impl<V: Clone> Known<V> {
    /// Keeps at most `capacity` bytes.
    pub(super) fn new(capacity: usize) -> Self {
        let state = State { learnt: LruCache::unbounded(), bytes: 0, pending: HashSet::new() };
        Self { state: Mutex::new(state), changed: Condvar::new(), capacity }
    }

    /// What is known of a blob, waiting while another worker finds out.
    pub(super) fn ask(&self, id: &BlobId) -> Asked<'_, V> {
        let mut state = self.state.lock();
        loop {
            if let Some((value, _)) = state.learnt.get(id) {
                return Asked::Known(value.clone());
            }
            if state.pending.insert(*id) {
                return Asked::Mine(Task { known: self, id: *id });
            }
            self.changed.wait(&mut state);
        }
    }

    /// Notes what is known of a blob now; it takes `bytes` beside the entry itself.
    pub(super) fn learn(&self, id: &BlobId, value: V, bytes: usize) {
        let bytes = bytes + size_of::<V>() + OVERHEAD;
        let mut state = self.state.lock();
        state.bytes += bytes;
        if let Some((_, old)) = state.learnt.put(*id, (value, bytes)) {
            state.bytes -= old;
        }
        while state.bytes > self.capacity {
            let Some((_, (_, old))) = state.learnt.pop_lru() else { break };
            state.bytes -= old;
        }
    }
}

impl<V> Drop for Task<'_, V> {
    fn drop(&mut self) {
        self.known.state.lock().pending.remove(&self.id);
        self.known.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> BlobId {
        BlobId([n; 32])
    }

    fn learnt(known: &Known<u8>, n: u8) -> Option<u8> {
        match known.ask(&id(n)) {
            Asked::Known(value) => Some(value),
            Asked::Mine(_) => None,
        }
    }

    #[test]
    fn two_workers_find_out_once() {
        let known = Known::new(1 << 10);
        let found = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| match known.ask(&id(1)) {
                    Asked::Known(value) => assert_eq!(value, 5),
                    Asked::Mine(_task) => {
                        found.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                        std::thread::yield_now();
                        known.learn(&id(1), 5, 0);
                    }
                });
            }
        });
        assert_eq!(found.into_inner(), 1);
    }

    #[test]
    fn what_is_too_much_is_forgotten() {
        let known = Known::new(3 * (OVERHEAD + 1));
        (0..3).for_each(|n| known.learn(&id(n), n, 0));
        assert_eq!(learnt(&known, 0), Some(0));
        known.learn(&id(3), 3, 0);
        assert_eq!([0, 1, 2, 3].map(|n| learnt(&known, n)), [Some(0), None, Some(2), Some(3)]);
        known.learn(&id(4), 4, 10 * OVERHEAD);
        assert_eq!([0, 2, 3, 4].map(|n| learnt(&known, n)), [None; 4]);
    }
}
