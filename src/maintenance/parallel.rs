//! The same work for each of many things, with a thread per core.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::error::{Error, Result};
use crate::task::{Stop, workers};

/// Does `work` for every item; the first error, or a signal, ends it. `what` names the threads if one panics.
///
/// # Errors
/// Those of `work`; [`Error::Stopped`].
pub fn for_each<T: Sync>(
    items: &[T],
    stop: &Stop,
    what: &'static str,
    work: impl Fn(&T) -> Result<()> + Sync,
) -> Result<()> {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let run = || {
            while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                let done = stop.check().map_err(Error::from).and_then(|()| work(item));
                if let Err(error) = done {
                    // The others find nothing left to do.
                    next.store(items.len(), Ordering::Relaxed);
                    return Err(error);
                }
            }
            Ok(())
        };
        let threads: Vec<_> = (0..workers().min(items.len())).map(|_| scope.spawn(run)).collect();
        // Each is joined before any error is returned.
        let ended: Vec<_> = threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        ended.into_iter().try_for_each(|ended| ended.unwrap_or(Err(Error::Panicked { what })))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_has_its_turn_until_one_fails() {
        let done = AtomicUsize::new(0);
        let items: Vec<usize> = (0..1000).collect();
        let add = |item: &usize| {
            done.fetch_add(*item, Ordering::Relaxed);
            Ok(())
        };
        for_each(&items, &Stop::default(), "a test", add).unwrap();
        assert_eq!(done.load(Ordering::Relaxed), 499_500);
        let fail = |_: &usize| Err(Error::Panicked { what: "nothing" });
        assert!(for_each(&items, &Stop::default(), "a test", fail).is_err());
        let stop = Stop::default();
        stop.flag().store(15, Ordering::Relaxed);
        assert!(matches!(for_each(&items, &stop, "a test", add), Err(Error::Stopped(_))));
    }
}
