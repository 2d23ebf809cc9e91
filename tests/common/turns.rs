//! Several actors on one storage, one storage call at a time, in an order that a test chooses.
//!
//! Each actor runs in a thread and works through a [`Turn`], whose calls wait until the schedule says that this actor goes on. So a
//! schedule is a list of actors, and all schedules can be walked through ([`every_schedule`]) or drawn ([`Random`]).

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use copal::storage::recorder::Op;
use copal::storage::{Listed, Name, Settle, Storage};
use parking_lot::{Condvar, Mutex};

/// What an actor's next call is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step<'a> {
    Call(Op, &'a str),
    Settle,
}

/// Which steps wait for their turn, by what they are and which call came before them (none: a settle); all others are taken with the step
/// before them.
pub(crate) type Waits = fn(Step<'_>, Option<Op>) -> bool;

#[derive(Debug, Default)]
struct Table {
    /// Actors that stand before a step.
    waiting: Vec<bool>,
    ended: Vec<bool>,
    /// Who may take a step now.
    turn: Option<usize>,
    /// Steps after which an actor dies: every later call of it fails.
    lives: Vec<Option<u64>>,
}

#[derive(Debug, Default)]
struct Shared {
    table: Mutex<Table>,
    changed: Condvar,
}

/// One actor's way to the storage.
pub(crate) struct Turn<S> {
    inner: S,
    actor: usize,
    waits: Waits,
    begun: AtomicBool,
    last: Mutex<Option<Op>>,
    shared: Arc<Shared>,
}

impl<S> fmt::Debug for Turn<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Turn({})", self.actor)
    }
}

impl<S> Turn<S> {
    /// From now on steps wait. What comes before, all actors have done before the first step of any.
    pub(crate) fn begin(&self) {
        self.begun.store(true, Ordering::SeqCst);
    }

    fn wait(&self, step: Step<'_>) -> io::Result<()> {
        let mut table = self.shared.table.lock();
        let dead = |table: &Table| table.lives[self.actor] == Some(0);
        if dead(&table) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let op = if let Step::Call(op, _) = step { Some(op) } else { None };
        let before = std::mem::replace(&mut *self.last.lock(), op);
        if !self.begun.load(Ordering::SeqCst) || !(self.waits)(step, before) {
            return Ok(());
        }
        table.waiting[self.actor] = true;
        self.shared.changed.notify_all();
        while table.turn != Some(self.actor) {
            self.shared.changed.wait(&mut table);
        }
        table.turn = None;
        table.waiting[self.actor] = false;
        if let Some(left) = &mut table.lives[self.actor] {
            *left -= 1;
        }
        if dead(&table) { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }
}

impl<S: Storage> Storage for Turn<S> {
    fn read(&self, name: &Name, limit: u64) -> io::Result<Vec<u8>> {
        self.wait(Step::Call(Op::Read, name.as_str()))?;
        self.inner.read(name, limit)
    }

    fn read_range(&self, name: &Name, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.wait(Step::Call(Op::ReadRange, name.as_str()))?;
        self.inner.read_range(name, offset, buf)
    }

    fn len(&self, name: &Name) -> io::Result<u64> {
        self.wait(Step::Call(Op::Len, name.as_str()))?;
        self.inner.len(name)
    }

    fn put(&self, name: &Name, parts: &[&[u8]]) -> io::Result<()> {
        self.wait(Step::Call(Op::Put, name.as_str()))?;
        self.inner.put(name, parts)
    }

    fn list(&self, prefix: &str) -> io::Result<Vec<Listed>> {
        self.wait(Step::Call(Op::List, prefix))?;
        self.inner.list(prefix)
    }

    fn delete(&self, name: &Name) -> io::Result<()> {
        self.wait(Step::Call(Op::Delete, name.as_str()))?;
        self.inner.delete(name)
    }

    fn settle(&self) -> Settle {
        // The dead wait for nothing.
        let _ = self.wait(Step::Settle);
        self.inner.settle()
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}

/// What one actor does with its storage; returns whether it succeeded.
pub(crate) type Act<S> = Box<dyn FnOnce(Arc<Turn<S>>) -> bool + Send>;

/// Runs the actors to their ends. `choose` picks one of those that stand before a step.
pub(crate) fn run<S: Storage + Clone + 'static>(
    storage: &S,
    waits: Waits,
    actors: Vec<Act<S>>,
    lives: Vec<Option<u64>>,
    mut choose: impl FnMut(&[usize]) -> usize,
) -> Vec<bool> {
    let shared = Arc::new(Shared::default());
    let count = actors.len();
    *shared.table.lock() =
        Table { waiting: vec![false; count], ended: vec![false; count], turn: None, lives };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..)
            .zip(actors)
            .map(|(actor, act)| {
                let (begun, last) = (AtomicBool::new(false), Mutex::default());
                let shared_too = shared.clone();
                let turn = Turn { inner: storage.clone(), actor, waits, begun, last, shared: shared_too };
                let turn = Arc::new(turn);
                let shared = shared.clone();
                scope.spawn(move || {
                    let done = act(turn);
                    shared.table.lock().ended[actor] = true;
                    shared.changed.notify_all();
                    done
                })
            })
            .collect();
        loop {
            let mut table = shared.table.lock();
            let settled = |table: &Table| {
                let idle = |actor: usize| table.waiting[actor] || table.ended[actor];
                table.turn.is_none() && (0..count).all(idle)
            };
            while !settled(&table) {
                // A panic in an actor would leave it neither waiting nor ended.
                if threads.iter().any(std::thread::ScopedJoinHandle::is_finished) && !settled(&table) {
                    let ended = table.ended.clone();
                    let panicked =
                        threads.iter().zip(ended).any(|(thread, ended)| thread.is_finished() && !ended);
                    assert!(!panicked, "an actor panicked");
                }
                shared.changed.wait_for(&mut table, std::time::Duration::from_millis(50));
            }
            let ready: Vec<usize> = (0..count).filter(|actor| table.waiting[*actor]).collect();
            if ready.is_empty() {
                break;
            }
            table.turn = Some(ready[choose(&ready) % ready.len()]);
            shared.changed.notify_all();
        }
        threads.into_iter().map(|thread| thread.join().expect("no actor panics")).collect()
    })
}

/// Calls `play` with every schedule: it hands its argument to [`run`] as `choose`. Returns how many there were.
pub(crate) fn every_schedule(mut play: impl FnMut(&mut dyn FnMut(&[usize]) -> usize)) -> usize {
    let mut choices: Vec<usize> = Vec::new();
    for schedules in 1.. {
        let (mut at, mut widths) = (0, Vec::new());
        play(&mut |ready| {
            if at == choices.len() {
                choices.push(0);
            }
            widths.push(ready.len());
            at += 1;
            choices[at - 1]
        });
        // The next one differs as late as possible.
        choices.truncate(at);
        while let Some(last) = choices.last_mut() {
            *last += 1;
            if *last < widths[choices.len() - 1] {
                break;
            }
            choices.pop();
        }
        if choices.is_empty() {
            return schedules;
        }
    }
    unreachable!("schedules end")
}

/// A small generator: the same numbers for the same seed.
#[derive(Debug, Clone)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}
