//! What long work is told, and what it tells: whether to stop, and how far it has come.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use parking_lot::Mutex;

/// A signal asked the work to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("stopped by signal {signal}")]
pub struct Stopped {
    /// Which signal.
    pub signal: i32,
}

/// Tells running work that a signal asked it to stop.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicUsize>);

impl Stop {
    /// Where a signal handler stores the signal's number.
    #[must_use]
    pub fn flag(&self) -> Arc<AtomicUsize> {
        self.0.clone()
    }

    /// Whether a signal has come.
    #[must_use]
    pub fn is_raised(&self) -> bool {
        self.0.load(Ordering::Relaxed) != 0
    }

    /// Fails once a signal has come.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn check(&self) -> Result<(), Stopped> {
        match self.0.load(Ordering::Relaxed) {
            0 => Ok(()),
            signal => Err(Stopped { signal: i32::try_from(signal).unwrap_or(0) }),
        }
    }
}

/// Is told how far work has come, from any thread.
pub trait Monitor: Sync {
    /// How many bytes there are in all, where that is known.
    fn total(&self, _bytes: u64) {}

    /// So many more bytes are done, of which so many were stored anew (plain).
    fn advanced(&self, _bytes: u64, _new: u64) {}
}

/// Tells nobody.
#[derive(Debug, Clone, Copy)]
pub struct Silent;

impl Monitor for Silent {}

/// Does two things, the first on a thread of its own at the same time, or afterwards if there is none to be had.
pub fn both<A: Send, B>(beside: impl FnOnce() -> A + Send, here: impl FnOnce() -> B) -> (A, B) {
    let beside = Mutex::new(Some(beside));
    // Once: the work, and its lock, are for whoever comes first.
    let take = || {
        let work = beside.lock().take();
        work.map(|work| work())
    };
    thread::scope(|scope| {
        let other = thread::Builder::new().name("copal-beside".into()).spawn_scoped(scope, take);
        let here = here();
        let done = match other.map(thread::ScopedJoinHandle::join) {
            Ok(Ok(done)) => done,
            Ok(Err(panic)) => resume_unwind(panic),
            Err(_) => take(),
        };
        (done.expect("it is taken once, here or there"), here)
    })
}

/// How many threads work on one thing: one per core.
#[must_use]
pub fn workers() -> usize {
    std::thread::available_parallelism().map_or(2, std::num::NonZero::get)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_things_are_done_at_the_same_time() {
        let (send, receive) = std::sync::mpsc::channel();
        let (there, here) =
            both(move || send.send(7).is_ok(), || receive.recv_timeout(std::time::Duration::from_secs(60)));
        assert_eq!((there, here), (true, Ok(7)));
    }

    #[test]
    fn a_panic_beside_is_not_lost() {
        let both = || both(|| panic!("beside"), || ());
        std::panic::catch_unwind(both).unwrap_err();
    }
}
