//! A small cache of open read descriptors, shared by threads.
//!
//! Invariant: after [`Descriptors::forget`] no descriptor opened before it is handed out. It holds a fixed number,
//! far below the usual limit of 1024 per process, and never closes one that a reader still uses.

use crate::storage::Name;
use lru::LruCache;
use parking_lot::Mutex;
use rustix::fs::Advice;
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;

const CAPACITY: NonZeroUsize = NonZeroUsize::new(64).expect("it is not zero");

#[derive(Debug)]
struct State {
    open: LruCache<Name, Arc<File>>,
    /// How often something was forgotten: a file opened before the last time may be an old one.
    forgotten: u64,
}

/// Remembers the descriptors used last.
#[derive(Debug)]
pub(super) struct Descriptors(Mutex<State>);

impl Default for Descriptors {
    fn default() -> Self {
        Self(Mutex::new(State { open: LruCache::new(CAPACITY), forgotten: 0 }))
    }
}

impl Descriptors {
    /// Returns the descriptor of an object, which `open` provides if none is held. No lock is held meanwhile, so two
    /// threads may open the same object.
    pub(super) fn get(&self, name: &Name, open: impl FnOnce() -> io::Result<File>) -> io::Result<Arc<File>> {
        let forgotten = {
            let mut state = self.0.lock();
            if let Some(file) = state.open.get(name) {
                return Ok(Arc::clone(file));
            }
            state.forgotten
        };
        let file = Arc::new(open()?);
        // A hint: chunks are read in no order, and what the kernel would read ahead is mostly other chunks.
        let _ = rustix::fs::fadvise(&file, 0, None, Advice::Random);
        let mut state = self.0.lock();
        if state.forgotten == forgotten {
            let evicted = state.open.push(name.clone(), Arc::clone(&file));
            drop(state);
            // Closing can block on network file systems, so not under the lock.
            drop(evicted);
        }
        Ok(file)
    }

    /// The descriptor of an object, if one is held.
    pub(super) fn held(&self, name: &Name) -> Option<Arc<File>> {
        self.0.lock().open.get(name).cloned()
    }

    /// Drops the descriptor of an object whose name was just replaced or deleted.
    pub(super) fn forget(&self, name: &Name) {
        let mut state = self.0.lock();
        state.forgotten += 1;
        let dropped = state.open.pop(name);
        drop(state);
        drop(dropped);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::conformance::name;
    use std::cell::Cell;

    fn file() -> io::Result<File> {
        tempfile::tempfile()
    }

    #[test]
    fn opens_once_and_evicts_the_least_recent() {
        let descriptors = Descriptors::default();
        let opens = Cell::new(0);
        let get = |i: usize| {
            let open = || {
                opens.set(opens.get() + 1);
                file()
            };
            descriptors.get(&name(&format!("a/{i}")), open).unwrap()
        };
        (0..CAPACITY.get()).for_each(|i| drop(get(i)));
        (0..CAPACITY.get()).for_each(|i| drop(get(i)));
        assert_eq!(opens.get(), 64);
        get(64);
        get(1);
        assert_eq!(opens.get(), 65);
        get(0);
        assert_eq!(opens.get(), 66);
        assert_eq!(descriptors.0.lock().open.len(), 64);
    }

    #[test]
    fn keeps_nothing_that_was_opened_before_a_forget() {
        let descriptors = Descriptors::default();
        let object = name("a/x");
        let old = descriptors.get(&object, || {
            let file = file();
            descriptors.forget(&object);
            file
        });
        let new = descriptors.get(&object, file).unwrap();
        assert!(!Arc::ptr_eq(&old.unwrap(), &new));
        assert!(Arc::ptr_eq(&new, &descriptors.get(&object, file).unwrap()));
        descriptors.forget(&object);
        assert!(!Arc::ptr_eq(&new, &descriptors.get(&object, file).unwrap()));
    }

    #[test]
    fn keeps_no_failure() {
        let descriptors = Descriptors::default();
        let object = name("a/x");
        descriptors.get(&object, || Err(io::ErrorKind::NotFound.into())).unwrap_err();
        descriptors.get(&object, file).unwrap();
    }
}
