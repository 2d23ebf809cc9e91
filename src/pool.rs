//! Memory that threads take turns with, so that many of them need not much more of it than few.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

/// Things that are used again, what was used last first.
#[derive(Debug)]
pub struct Pool<T> {
    spare: Mutex<Vec<T>>,
    most: usize,
}

impl<T: Default> Pool<T> {
    /// Keeps at most so many that nobody uses.
    #[must_use]
    pub const fn new(most: usize) -> Self {
        Self { spare: Mutex::new(Vec::new()), most }
    }

    /// Does something with one of them, or with a new one.
    pub fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        let spare = self.spare.lock().pop();
        let mut own = spare.unwrap_or_default();
        let done = work(&mut own);
        let mut spare = self.spare.lock();
        if spare.len() < self.most {
            spare.push(own);
        }
        done
    }
}

/// Buffers of many lengths that are used again, as long as those that nobody uses take no more than so many bytes: who was used last stays.
///
/// Buffers of their owner alone would not do: of what is wanted at once some is short and some long, and where none fits, the system has to make fresh pages.
#[derive(Debug)]
pub struct Shelf {
    spare: Mutex<Spare>,
    most: usize,
}

/// What nobody uses, and how many bytes that is.
#[derive(Debug, Default)]
struct Spare {
    buffers: VecDeque<Vec<u8>>,
    bytes: usize,
}

impl Shelf {
    /// Bytes of a new buffer are a multiple of so many, so that others fit into it, too.
    pub const GRAIN: usize = 128 << 10;

    /// Keeps at most so many bytes.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { spare: Mutex::default(), most }
    }

    /// A buffer of `len` bytes, whatever they are: of the shortest that fit the one that was used last, unless they are more than twice as long as a new one
    /// would be.
    #[must_use]
    pub fn take(&self, len: usize) -> Vec<u8> {
        let new = len.next_multiple_of(Self::GRAIN);
        let mut spare = self.spare.lock();
        let fitting = spare.buffers.iter().enumerate();
        let fitting = fitting.filter(|(_, buffer)| (len..=2 * new).contains(&buffer.capacity()));
        let found = fitting.min_by_key(|(at, buffer)| (buffer.capacity(), Reverse(*at))).map(|(at, _)| at);
        let found = found.and_then(|at| spare.buffers.remove(at));
        spare.bytes -= found.as_ref().map_or(0, Vec::capacity);
        drop(spare);
        let mut buffer = found.unwrap_or_else(|| Vec::with_capacity(new));
        buffer.resize(len, 0);
        buffer
    }

    /// Gives a buffer back.
    pub fn put(&self, buffer: Vec<u8>) {
        if buffer.capacity() > self.most {
            return;
        }
        let mut gone = Vec::new();
        let mut spare = self.spare.lock();
        spare.bytes += buffer.capacity();
        spare.buffers.push_back(buffer);
        while spare.bytes > self.most
            && let Some(oldest) = spare.buffers.pop_front()
        {
            spare.bytes -= oldest.capacity();
            gone.push(oldest);
        }
        // Freed outside the lock.
        drop(spare);
    }
}

/// A fixed number of things: who finds none waits, and who came first is served first.
#[derive(Debug)]
pub struct Turns<T> {
    queue: Mutex<Queue<T>>,
    moved: Condvar,
}

#[derive(Debug)]
struct Queue<T> {
    free: Vec<T>,
    /// Who waits, by number, in the order they came.
    waiting: VecDeque<u64>,
    next: u64,
}

impl<T: Default> Turns<T> {
    /// So many, at least one.
    #[must_use]
    pub fn new(all: usize) -> Self {
        let free = (0..all.max(1)).map(|_| T::default()).collect();
        let queue = Queue { free, waiting: VecDeque::new(), next: 0 };
        Self { queue: Mutex::new(queue), moved: Condvar::new() }
    }

    /// Waits for one, the one that was given back last; `None` if there is none when its time `ends`, should it ever.
    pub fn take(&self, ends: Option<Instant>) -> Option<Turn<'_, T>> {
        let mut queue = self.queue.lock();
        let number = queue.next;
        queue.next += 1;
        queue.waiting.push_back(number);
        let own = loop {
            if queue.waiting.front() == Some(&number)
                && let Some(own) = queue.free.pop()
            {
                break Some(own);
            }
            match ends {
                None => self.moved.wait(&mut queue),
                Some(ends) if ends <= Instant::now() => break None,
                Some(ends) => drop(self.moved.wait_until(&mut queue, ends)),
            }
        };
        queue.waiting.retain(|waiting| *waiting != number);
        if !queue.free.is_empty() {
            // Whoever is first now may have looked already.
            self.moved.notify_all();
        }
        drop(queue);
        own.map(|own| Turn { turns: self, own })
    }
}

/// One of [`Turns`], given back when it is dropped.
#[derive(Debug)]
pub struct Turn<'a, T: Default> {
    turns: &'a Turns<T>,
    own: T,
}

impl<T: Default> Deref for Turn<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.own
    }
}

impl<T: Default> DerefMut for Turn<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.own
    }
}

impl<T: Default> Drop for Turn<'_, T> {
    fn drop(&mut self) {
        self.turns.queue.lock().free.push(std::mem::take(&mut self.own));
        self.turns.moved.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_was_used_is_used_again_and_no_more_is_kept_than_is_said() {
        let pool: Pool<Vec<u8>> = Pool::new(1);
        pool.with(|outer| {
            outer.push(1);
            pool.with(|inner| assert!(inner.is_empty()));
        });
        assert_eq!(pool.spare.lock().len(), 1);
        pool.with(|again| assert!(again.is_empty(), "the inner one was kept, and the outer one is gone"));
    }

    #[test]
    fn buffers_are_used_again_where_they_fit() {
        let shelf = Shelf::new(10 * Shelf::GRAIN);
        let (short, long) = (shelf.take(1), shelf.take(5 * Shelf::GRAIN - 7));
        assert_eq!((short.len(), long.len()), (1, 5 * Shelf::GRAIN - 7));
        let places = [short.as_ptr(), long.as_ptr()];
        [long, short].into_iter().for_each(|buffer| shelf.put(buffer));
        let again = shelf.take(Shelf::GRAIN);
        assert_eq!((again.as_ptr(), again.len()), (places[0], Shelf::GRAIN), "the shortest that fits");
        let new = shelf.take(Shelf::GRAIN);
        assert_ne!(new.as_ptr(), places[1], "what is much too long is left to others");
        let again = shelf.take(4 * Shelf::GRAIN);
        assert_eq!(again.as_ptr(), places[1]);
        assert_eq!(shelf.spare.lock().bytes, 0);
    }

    #[test]
    fn of_equal_buffers_the_one_that_was_used_last_is_used_next() {
        let shelf = Shelf::new(4 * Shelf::GRAIN);
        let taken = [shelf.take(1), shelf.take(1), shelf.take(1)];
        let last = taken[2].as_ptr();
        taken.into_iter().for_each(|buffer| shelf.put(buffer));
        let again = shelf.take(1);
        assert_eq!(again.as_ptr(), last);
    }

    #[test]
    fn no_more_bytes_of_buffers_are_kept_than_is_said_and_the_oldest_go() {
        let shelf = Shelf::new(3 * Shelf::GRAIN);
        let taken: Vec<_> = (1..=3).map(|length| shelf.take(length * Shelf::GRAIN)).collect();
        let kept = [taken[0].as_ptr(), taken[1].as_ptr()];
        let mut taken = taken.into_iter();
        let mut put_next = || taken.next().into_iter().for_each(|buffer| shelf.put(buffer));
        put_next();
        put_next();
        assert_eq!(shelf.spare.lock().bytes, 3 * Shelf::GRAIN);
        let held = [shelf.take(1), shelf.take(2 * Shelf::GRAIN)];
        assert_eq!([held[0].as_ptr(), held[1].as_ptr()], kept);
        held.into_iter().for_each(|buffer| shelf.put(buffer));
        put_next();
        let spare = shelf.spare.lock();
        assert_eq!((spare.bytes, spare.buffers.len()), (3 * Shelf::GRAIN, 1));
        drop(spare);
        shelf.put(vec![0; 4 * Shelf::GRAIN]);
        assert_eq!(shelf.spare.lock().buffers.len(), 1, "what can never be kept displaces nothing");
    }

    #[test]
    fn who_came_first_is_served_first() {
        let turns: Turns<Vec<u8>> = Turns::new(1);
        let turn = turns.take(None).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| turns.take(None).unwrap().push(1));
            while turns.queue.lock().waiting.is_empty() {
                std::thread::sleep(Duration::from_millis(1));
            }
            // Whose time ends is passed over.
            assert!(turns.take(Some(Instant::now())).is_none());
            drop(turn);
            assert_eq!(*turns.take(None).unwrap(), [1]);
        });
    }

    #[test]
    fn no_more_than_so_many_have_a_turn() {
        let turns: Turns<Vec<u8>> = Turns::new(3);
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| {
                    let mut turn = turns.take(None).unwrap();
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    turn.push(1);
                    std::thread::sleep(Duration::from_millis(1));
                    now.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        assert!(most.into_inner() <= 3);
        let taken: Vec<_> = (0..3).map(|_| turns.take(None).unwrap()).collect();
        let ends = Instant::now() + Duration::from_millis(20);
        assert!(turns.take(Some(ends)).is_none() && ends <= Instant::now());
        drop(taken);
        let free = turns.queue.into_inner().free;
        assert_eq!(free.iter().map(Vec::len).sum::<usize>(), 20, "all were given back with what they held");
        assert_eq!(free.len(), 3);
    }
}
