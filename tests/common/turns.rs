//! Several actors on one storage, one storage call at a time, in an order that a test chooses.
//!
//! Each actor runs in a thread, or several, and works through a [`Turn`], whose calls wait until the schedule says that this actor goes on. So a
//! schedule is a list of actors, and all schedules can be walked through ([`every_schedule`]) or drawn ([`Random`]).

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

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

/// Picks one of the actors that stand before a step.
pub(crate) type Choose = Box<dyn FnMut(&[usize]) -> usize + Send>;

/// A step that was taken: by whom, what, and the object or prefix. A settle has no name.
pub(crate) type Taken = (usize, Option<Op>, String);

struct Table {
    /// How many threads of each actor stand before a step.
    waiting: Vec<usize>,
    ended: Vec<bool>,
    /// Who may take a step now.
    turn: Option<usize>,
    /// Whether somebody is taking it.
    busy: bool,
    /// Steps after which an actor dies: every later call of it fails.
    lives: Vec<Option<u64>>,
    choose: Choose,
    taken: Vec<Taken>,
}

struct Shared {
    table: Mutex<Table>,
    /// Each actor's turn has come.
    come: Vec<Condvar>,
}

impl Shared {
    /// Gives the turn to somebody, once every actor stands before a step or has ended: so one actor works at a time, and who goes on is all
    /// that decides. Where an actor has several threads, they take its turns as they come.
    fn pass(&self, table: &mut Table) {
        let idle = |actor: usize| table.waiting[actor] > 0 || table.ended[actor];
        let count = table.waiting.len();
        if table.turn.is_some() || table.busy || !(0..count).all(idle) {
            return;
        }
        let ready: Vec<usize> = (0..count).filter(|actor| table.waiting[*actor] > 0).collect();
        if ready.is_empty() {
            return;
        }
        let next = ready[(table.choose)(&ready) % ready.len()];
        table.turn = Some(next);
        self.come[next].notify_one();
    }
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

    fn step<T>(&self, step: Step<'_>, take: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let mut table = self.shared.table.lock();
        let dead = |table: &Table| table.lives[self.actor] == Some(0);
        if dead(&table) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let (op, name) = if let Step::Call(op, name) = step { (Some(op), name) } else { (None, "") };
        let before = std::mem::replace(&mut *self.last.lock(), op);
        let taken = (self.actor, op, name.to_owned());
        let begun = self.begun.load(Ordering::SeqCst);
        if !begun || !(self.waits)(step, before) {
            if begun {
                table.taken.push(taken);
            }
            drop(table);
            return take();
        }
        table.waiting[self.actor] += 1;
        self.shared.pass(&mut table);
        while table.turn != Some(self.actor) {
            self.shared.come[self.actor].wait(&mut table);
        }
        table.turn = None;
        table.busy = true;
        table.waiting[self.actor] -= 1;
        table.taken.push(taken);
        if let Some(left) = &mut table.lives[self.actor] {
            *left -= 1;
        }
        let died = dead(&table);
        drop(table);
        let done = if died { Err(io::ErrorKind::ConnectionAborted.into()) } else { take() };
        let mut table = self.shared.table.lock();
        table.busy = false;
        self.shared.pass(&mut table);
        done
    }
}

impl<S: Storage> Storage for Turn<S> {
    fn read(&self, name: &Name, limit: u64) -> io::Result<Vec<u8>> {
        self.step(Step::Call(Op::Read, name.as_str()), || self.inner.read(name, limit))
    }

    fn read_range(&self, name: &Name, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.step(Step::Call(Op::ReadRange, name.as_str()), || self.inner.read_range(name, offset, buf))
    }

    fn len(&self, name: &Name) -> io::Result<u64> {
        self.step(Step::Call(Op::Len, name.as_str()), || self.inner.len(name))
    }

    fn put(&self, name: &Name, parts: &[&[u8]]) -> io::Result<()> {
        self.step(Step::Call(Op::Put, name.as_str()), || self.inner.put(name, parts))
    }

    fn list(&self, prefix: &str) -> io::Result<Vec<Listed>> {
        self.step(Step::Call(Op::List, prefix), || self.inner.list(prefix))
    }

    fn delete(&self, name: &Name) -> io::Result<()> {
        self.step(Step::Call(Op::Delete, name.as_str()), || self.inner.delete(name))
    }

    fn settle(&self) -> Settle {
        // The dead wait for nothing.
        self.step(Step::Settle, || Ok(self.inner.settle())).unwrap_or(Settle::After(Duration::ZERO))
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}

/// What one actor does with its storage, and what comes of it: whether it succeeded, unless a test wants to know more.
pub(crate) type Act<'a, S, T = bool> = Box<dyn FnOnce(Arc<Turn<S>>) -> T + Send + 'a>;

/// Says that an actor has ended, even if it panicked.
struct Ends(Arc<Shared>, usize);

impl Drop for Ends {
    fn drop(&mut self) {
        let mut table = self.0.table.lock();
        table.ended[self.1] = true;
        self.0.pass(&mut table);
    }
}

/// Runs the actors to their ends. `choose` picks one of those that stand before a step.
pub(crate) fn run<S: Storage + Clone + 'static>(
    storage: &S,
    waits: Waits,
    actors: Vec<Act<'_, S>>,
    lives: Vec<Option<u64>>,
    choose: impl FnMut(&[usize]) -> usize + Send + 'static,
) -> Vec<bool> {
    run_and_tell(storage, waits, actors, lives, Box::new(choose)).0
}

/// As [`run`]; also tells all steps that were taken.
pub(crate) fn run_and_tell<S: Storage + Clone + 'static, T: Send>(
    storage: &S,
    waits: Waits,
    actors: Vec<Act<'_, S, T>>,
    lives: Vec<Option<u64>>,
    choose: Choose,
) -> (Vec<T>, Vec<Taken>) {
    let count = actors.len();
    let table = Table {
        waiting: vec![0; count],
        ended: vec![false; count],
        turn: None,
        busy: false,
        lives,
        choose,
        taken: Vec::new(),
    };
    let come = (0..count).map(|_| Condvar::new()).collect();
    let shared = Arc::new(Shared { table: Mutex::new(table), come });
    let results = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..)
            .zip(actors)
            .map(|(actor, act)| {
                let (begun, last) = (AtomicBool::new(false), Mutex::default());
                let turn = Turn { inner: storage.clone(), actor, waits, begun, last, shared: shared.clone() };
                let ends = Ends(shared.clone(), actor);
                scope.spawn(move || {
                    let _ends = ends;
                    act(Arc::new(turn))
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no actor panics")).collect()
    });
    let taken = std::mem::take(&mut shared.table.lock().taken);
    (results, taken)
}

/// The choices of one schedule, and how many there were to choose from at each.
#[derive(Debug, Default)]
struct Choices {
    at: usize,
    choices: Vec<usize>,
    widths: Vec<usize>,
}

/// Calls `play` with every schedule: it hands its argument to [`run`] as `choose`. Returns how many there were.
pub(crate) fn every_schedule(mut play: impl FnMut(Choose)) -> usize {
    let shared = Arc::new(Mutex::new(Choices::default()));
    for schedules in 1.. {
        let played = shared.clone();
        play(Box::new(move |ready| {
            let Choices { at, choices, widths } = &mut *played.lock();
            if *at == choices.len() {
                choices.push(0);
            }
            widths.push(ready.len());
            *at += 1;
            choices[*at - 1]
        }));
        let mut guard = shared.lock();
        let Choices { at, choices, widths } = std::mem::take(&mut *guard);
        guard.choices = choices;
        let choices = &mut guard.choices;
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
