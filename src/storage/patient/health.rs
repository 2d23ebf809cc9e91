//! Whether a storage answers, and which of its objects do not.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use parking_lot::Mutex;

use super::{AT_ONCE, REQUEST};

/// Reads of one object, left behind, after which no more of them are begun.
pub(super) const MOST_BEHIND: usize = 4;
/// How long a try may take while the storage does not answer.
const TRY: Duration = Duration::from_secs(2);
/// The time between two tries.
const BETWEEN_TRIES: Duration = Duration::from_secs(1);
/// How often it is told that the storage is too slow for a request, at most.
const TOLD: Duration = Duration::from_secs(60);

/// A read on its way.
#[derive(Debug)]
pub(super) struct Ticket {
    pub(super) object: Arc<str>,
    /// When it has had all the time that one read may take.
    pub(super) due: Instant,
    /// Whether a thread works on it, and whether nobody waits for it any more; both are written while [`Health::objects`] is held.
    pub(super) has_begun: AtomicBool,
    is_left: AtomicBool,
}

/// Reads of an object.
#[derive(Debug, Default)]
pub(super) struct Reads {
    /// Those that have not come back.
    under_way: usize,
    /// When those of them that were left behind are due.
    behind: Vec<Instant>,
}

/// Whether the storage answers.
#[derive(Debug)]
pub(super) struct Health {
    place: String,
    /// When a read last took too long, if none has succeeded since.
    stuck: Mutex<Option<Instant>>,
    /// Reads that have not come back. Held while a result changes hands, so that each is either given or left.
    pub(super) objects: Mutex<HashMap<Arc<str>, Reads>>,
    /// When it was last told that the storage is too slow for a request.
    told: Mutex<Option<Instant>>,
}

impl Health {
    pub(super) fn new(place: String) -> Self {
        Self { place, stuck: Mutex::default(), objects: Mutex::default(), told: Mutex::default() }
    }

    pub(super) fn is_well(&self) -> bool {
        self.stuck.lock().is_none()
    }

    /// How long a read that begins now may take; `None` if it is not worth a try.
    pub(super) fn allowance(&self, patience: Duration) -> Option<Duration> {
        match &mut *self.stuck.lock() {
            None => Some(patience),
            Some(last) if last.elapsed() < BETWEEN_TRIES => None,
            Some(last) => {
                // The others fail meanwhile.
                *last = Instant::now() + TRY;
                Some(TRY.min(patience))
            }
        }
    }

    /// Whether so many reads of an object hang that one more would be lost, too. One that its request had no more time for does not hang yet.
    pub(super) fn hangs(&self, object: &str) -> bool {
        let objects = self.objects.lock();
        let Some(reads) = objects.get(object).filter(|reads| reads.behind.len() >= MOST_BEHIND) else {
            return false;
        };
        let now = Instant::now();
        reads.behind.iter().filter(|due| **due <= now).count() >= MOST_BEHIND
    }

    pub(super) fn begin(&self, object: &str, allowed: Duration) -> Arc<Ticket> {
        let object: Arc<str> = object.into();
        self.objects.lock().entry(object.clone()).or_default().under_way += 1;
        let (has_begun, is_left) = Default::default();
        Arc::new(Ticket { object, due: Instant::now() + allowed, has_begun, is_left })
    }

    /// Says that a thread works on it now; false if nobody waits for it any more.
    pub(super) fn start(&self, ticket: &Ticket) -> bool {
        let _objects = self.objects.lock();
        let is_wanted = !ticket.is_left.load(Ordering::Relaxed);
        ticket.has_begun.store(is_wanted, Ordering::Relaxed);
        is_wanted
    }

    /// Gives a result to who waits for it, if anybody does.
    pub(super) fn give<T>(&self, ticket: &Ticket, send: &Sender<T>, result: T) {
        let mut objects = self.objects.lock();
        let _ = send.send(result);
        if let Some(reads) = objects.get_mut(&ticket.object) {
            reads.under_way = reads.under_way.saturating_sub(1);
            if ticket.is_left.load(Ordering::Relaxed)
                && let Some(at) = reads.behind.iter().position(|due| *due == ticket.due)
            {
                reads.behind.swap_remove(at);
            }
            if reads.under_way == 0 {
                objects.remove(&ticket.object);
            }
        }
    }

    /// Gives up waiting, unless the result has come just now. One that found no thread hangs nowhere.
    pub(super) fn leave<T>(&self, ticket: &Ticket, receive: &Receiver<T>) -> Option<T> {
        let mut objects = self.objects.lock();
        if let Ok(result) = receive.try_recv() {
            return Some(result);
        }
        ticket.is_left.store(true, Ordering::Relaxed);
        if ticket.has_begun.load(Ordering::Relaxed) {
            objects.entry(ticket.object.clone()).or_default().behind.push(ticket.due);
        }
        None
    }

    pub(super) fn all_behind(&self) -> usize {
        self.objects.lock().values().map(|reads| reads.behind.len()).sum()
    }

    pub(super) fn is_busy(&self, object: &str) -> bool {
        self.objects.lock().get(object).is_some_and(|reads| reads.under_way >= AT_ONCE)
    }

    pub(super) fn was_too_slow(&self, allowed: Duration) {
        let mut told = self.told.lock();
        if told.is_none_or(|told| told.elapsed() > TOLD) {
            *told = Some(Instant::now());
            let all = (allowed * REQUEST).as_secs_f32();
            log::warn!("{} is too slow: a request needed more than {all} s of it, and failed", self.place);
        }
    }

    pub(super) fn took_too_long(&self, what: &str, allowed: Duration) {
        if self.stuck.lock().replace(Instant::now()).is_none() {
            log::error!(
                "{} has not answered for {} s ({what}): reads fail until it does",
                self.place,
                allowed.as_secs_f32()
            );
        }
    }

    pub(super) fn answers(&self) {
        if self.stuck.lock().take().is_some() {
            log::warn!("{} answers again", self.place);
        }
    }
}
