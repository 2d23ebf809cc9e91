//! A storage whose machine loses power: exactly what [`Storage`] promises of it, and no more.
//!
//! Invariants: what was acknowledged stays. Of the puts and deletes that were on their way when the power went, whoever sent them, each has
//! happened, whole, or has not; which of them is drawn. A name never holds a part of an object, since a put that tears leaves only a file
//! that was never published. Afterwards nothing works.

use std::io;
use std::time::Duration;

use copal::storage::{Listed, Name, Settle, Storage};
use parking_lot::Mutex;

/// How long a put or delete is on its way, so that those of other threads set out meanwhile. Nothing is decided by it.
const ON_ITS_WAY: Duration = Duration::from_micros(300);

#[derive(Debug, Clone)]
enum Change {
    Put(Name, Vec<u8>),
    Delete(Name),
}

#[derive(Debug, Default)]
struct State {
    /// Changes that have set out and were not acknowledged.
    pending: Vec<(u64, Change)>,
    sent: u64,
    acknowledged: u64,
    dead: bool,
    /// How many changes were on their way when the power went, and how many of them have happened.
    lost: (usize, usize),
}

/// Passes calls on to `S` until the power goes.
#[derive(Debug)]
pub(crate) struct Unsynced<S> {
    inner: S,
    state: Mutex<State>,
    /// The power goes before one more change than these is acknowledged.
    acknowledges: u64,
    /// Draws which changes have happened: bit by bit, from the lowest.
    draw: u64,
}

impl<S: Storage> Unsynced<S> {
    pub(crate) fn new(inner: S, acknowledges: u64, draw: u64) -> Self {
        Self { inner, state: Mutex::default(), acknowledges, draw }
    }

    /// Whether the power went; how many changes were on their way then, and how many of them have happened.
    pub(crate) fn lost(&self) -> Option<(usize, usize)> {
        let state = self.state.lock();
        state.dead.then_some(state.lost)
    }

    fn alive(&self) -> io::Result<()> {
        if self.state.lock().dead { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }

    fn change(&self, change: Change) -> io::Result<()> {
        let number = {
            let mut state = self.state.lock();
            if state.dead {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            state.sent += 1;
            let number = state.sent;
            state.pending.push((number, change));
            number
        };
        std::thread::sleep(ON_ITS_WAY);
        let mut state = self.state.lock();
        if state.acknowledged >= self.acknowledges && !state.dead {
            self.die(&mut state);
        }
        if state.dead {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let at = state.pending.iter().position(|(pending, _)| *pending == number).expect("it is on its way");
        let (_, change) = state.pending.remove(at);
        state.acknowledged += 1;
        self.happen(&change)
    }

    fn die(&self, state: &mut State) {
        state.dead = true;
        let pending = std::mem::take(&mut state.pending);
        state.lost.0 = pending.len();
        for (bit, (_, change)) in pending.iter().enumerate() {
            if self.draw >> (bit % 64) & 1 == 1 {
                state.lost.1 += 1;
                let _ = self.happen(change);
            }
        }
    }

    fn happen(&self, change: &Change) -> io::Result<()> {
        match change {
            Change::Put(name, bytes) => self.inner.put(name, &[bytes]),
            Change::Delete(name) => self.inner.delete(name),
        }
    }
}

impl<S: Storage> Storage for Unsynced<S> {
    fn read(&self, name: &Name, limit: u64) -> io::Result<Vec<u8>> {
        self.alive()?;
        self.inner.read(name, limit)
    }

    fn read_range(&self, name: &Name, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.alive()?;
        self.inner.read_range(name, offset, buf)
    }

    fn len(&self, name: &Name) -> io::Result<u64> {
        self.alive()?;
        self.inner.len(name)
    }

    fn put(&self, name: &Name, parts: &[&[u8]]) -> io::Result<()> {
        self.change(Change::Put(name.clone(), parts.concat()))
    }

    fn list(&self, prefix: &str) -> io::Result<Vec<Listed>> {
        self.alive()?;
        self.inner.list(prefix)
    }

    fn delete(&self, name: &Name) -> io::Result<()> {
        self.change(Change::Delete(name.clone()))
    }

    fn settle(&self) -> Settle {
        self.inner.settle()
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}
