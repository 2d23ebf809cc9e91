//! Recognising readers that go through an image in order, and how far ahead of each to read.
//!
//! Requests of one reader come out of order when several threads serve them, and several readers may share an open file. A request belongs
//! to the stream whose end it is near; a stream is sequential once half of what it spans was asked for, or if it is a few requests that adjoin, and is read
//! ahead while its end moves: who asks again for what lies behind it goes nowhere. What is far from all streams begins a new one, in place of the one that
//! was idle longest; what is read ahead of one that is idle is given up. Who was read ahead of and did not go on makes it harder for all to be believed. Nothing
//! here reads anything.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Readers of one open file that are told apart.
const STREAMS: usize = 4;
/// How far from a stream's end a request may begin or end, in bytes: what a kernel asks for at once, and half of it again.
const SLACK: u64 = 6 << 20;
/// What a stream has read before anything is read ahead, in bytes.
const EVIDENCE: u64 = 512 << 10;
/// Requests that say nothing yet unless they adjoin: large ones are near each other by chance.
const FEW: u32 = 4;
/// How often the evidence is doubled, at most, for streams that did not go on.
const MOST_DOUBTS: u32 = 4;
/// Requests to other streams after which one is idle.
const IDLE: u64 = 16;
/// Requests that may come late, after one that is farther on.
const REORDERED: u32 = 8;
/// What is looked back at, in bytes: beyond it, older requests count less.
const MEMORY: u64 = 32 << 20;
/// How far ahead a stream is read first, in bytes.
const FIRST_WINDOW: u64 = 1 << 20;

/// What to read ahead of one stream.
#[derive(Debug, Clone)]
pub struct Ahead {
    /// Bytes of the image.
    pub range: Range<u64>,
    /// Becomes true when the reader has gone elsewhere.
    pub is_over: Arc<AtomicBool>,
}

/// The readers of one open file.
#[derive(Debug)]
pub struct Streams {
    streams: Vec<Stream>,
    /// How far ahead a stream is read at most, in bytes.
    widest: u64,
    requests: u64,
    /// How many were read ahead of in vain since one went on, as far as that counts.
    doubts: u32,
}

#[derive(Debug)]
struct Stream {
    /// Where it is taken to begin.
    start: u64,
    /// The end of the farthest request.
    end: u64,
    /// Bytes that were asked for since `start`, no more than there are.
    asked: u64,
    /// How many requests that were.
    requests: u32,
    /// Whether each of them adjoins what was asked for before.
    adjoin: bool,
    /// Requests since its end moved.
    still: u32,
    /// How far ahead to read.
    window: u64,
    /// Where reading ahead has come to.
    ahead: u64,
    /// Whether it went on after it was read ahead of; `None` if it was not yet.
    went_on: Option<bool>,
    /// When it was asked for last, in requests.
    used: u64,
    is_over: Arc<AtomicBool>,
}

impl Streams {
    /// None yet; each is read ahead by at most `widest` bytes.
    #[must_use]
    pub fn new(widest: u64) -> Self {
        Self { streams: Vec::new(), widest, requests: 0, doubts: 0 }
    }

    /// Takes a request into account. Returns what to read ahead now, if anything.
    pub fn observe(&mut self, request: &Range<u64>) -> Option<Ahead> {
        self.requests += 1;
        self.give_up_idle();
        let distance =
            |stream: &Stream| stream.end.abs_diff(request.start).min(stream.end.abs_diff(request.end));
        let nearest = self.streams.iter_mut().min_by_key(|stream| distance(stream));
        match nearest {
            Some(stream) if distance(stream) <= SLACK => {
                stream.take(request, self.requests);
                if stream.went_on == Some(true) {
                    self.doubts = 0;
                }
                stream.ahead(self.widest, EVIDENCE << self.doubts)
            }
            _ => {
                self.begin(request);
                None
            }
        }
    }

    fn begin(&mut self, request: &Range<u64>) {
        if self.streams.len() == STREAMS
            && let Some(idle) = (0..STREAMS).min_by_key(|at| self.streams[*at].used)
        {
            let gone = self.streams.swap_remove(idle);
            if gone.went_on == Some(false) {
                self.doubts = (self.doubts + 1).min(MOST_DOUBTS);
            }
        }
        let Range { start, end } = *request;
        let (asked, used) = (end - start, self.requests);
        self.streams.push(Stream {
            start,
            end,
            asked,
            requests: 1,
            adjoin: true,
            still: 0,
            window: FIRST_WINDOW,
            ahead: end,
            went_on: None,
            used,
            is_over: Arc::default(),
        });
    }

    /// A reader that has gone elsewhere may come back: then it is read ahead anew.
    fn give_up_idle(&mut self) {
        for stream in &mut self.streams {
            if stream.ahead > stream.end && self.requests - stream.used > IDLE {
                stream.is_over.store(true, Ordering::Relaxed);
                stream.is_over = Arc::default();
                stream.ahead = stream.end;
                stream.window = FIRST_WINDOW;
            }
        }
    }
}

impl Stream {
    fn take(&mut self, request: &Range<u64>, number: u64) {
        self.used = number;
        self.requests = self.requests.saturating_add(1);
        self.adjoin &= request.start == self.end || request.end == self.start;
        self.still = if request.end > self.end { 0 } else { self.still.saturating_add(1) };
        self.went_on = self.went_on.map(|went_on| went_on || self.still == 0);
        self.start = self.start.min(request.start);
        self.end = self.end.max(request.end);
        let spanned = self.end - self.start;
        self.asked = spanned.min(self.asked + (request.end - request.start));
        if spanned > MEMORY {
            self.start += spanned / 2;
            self.asked /= 2;
        }
    }

    fn ahead(&mut self, widest: u64, evidence: u64) -> Option<Ahead> {
        let is_dense = self.asked >= (self.end - self.start) / 2;
        let is_believed = self.went_on == Some(true) || self.asked >= evidence;
        let is_sequential = is_dense && is_believed && (self.adjoin || self.requests >= FEW);
        let start = self.ahead.max(self.end);
        if !is_sequential || self.still > REORDERED || start - self.end > self.window / 2 {
            return None;
        }
        let end = self.end.saturating_add(self.window.min(widest));
        self.window = (self.window * 2).min(widest);
        if start >= end {
            return None;
        }
        self.ahead = end;
        self.went_on.get_or_insert(false);
        Some(Ahead { range: start..end, is_over: self.is_over.clone() })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDEST: u64 = 8 << 20;

    /// All that is read ahead for these requests.
    fn ahead(requests: impl IntoIterator<Item = Range<u64>>) -> Vec<Range<u64>> {
        let mut streams = Streams::new(WIDEST);
        requests
            .into_iter()
            .filter_map(|request| streams.observe(&request))
            .map(|ahead| ahead.range)
            .collect()
    }

    fn in_order(from: u64, count: u64, len: u64) -> impl Iterator<Item = Range<u64>> {
        (0..count).map(move |at| from + at * len..from + (at + 1) * len)
    }

    /// A sequence in which each number follows from the one before (Knuth's MMIX).
    fn dice(seed: u64) -> impl Iterator<Item = u64> {
        std::iter::successors(Some(seed), |x| {
            Some(x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407))
        })
        .map(|x| x >> 20)
    }

    /// Each byte is read ahead once, without gaps, and the reader never comes close to the end of it.
    fn assert_covers(found: &[Range<u64>], end: u64) {
        assert!(found.windows(2).all(|pair| pair[0].end == pair[1].start), "{found:?}");
        let last = found.last().expect("something is read ahead").end;
        assert!(last >= end + WIDEST / 2 && last <= end + WIDEST, "{last} for a reader at {end}");
    }

    #[test]
    fn a_sequential_reader_is_kept_ahead_of_by_a_window_that_grows() {
        for len in [4096, 128 << 10, 1 << 20] {
            let found = ahead(in_order(7 << 20, (64 << 20) / len, len));
            assert_covers(&found, 71 << 20);
            let begun = found[0].start - (7 << 20);
            assert!(begun >= EVIDENCE && begun <= EVIDENCE.max(len) + len, "{begun}");
            assert!(found[0].end - found[0].start <= FIRST_WINDOW, "{found:?}");
        }
    }

    #[test]
    fn requests_may_come_out_of_order() {
        let mut requests: Vec<_> = in_order(0, 64, 1 << 20).collect();
        for group in requests.chunks_mut(4) {
            group.reverse();
        }
        assert_covers(&ahead(requests), 64 << 20);
    }

    #[test]
    fn several_readers_share_a_file() {
        let starts = [0, 1 << 30, 2 << 30, 3 << 30];
        let mut streams = Streams::new(WIDEST);
        let mut found = [const { Vec::new() }; 4];
        for step in 0..512 {
            for (number, start) in starts.into_iter().enumerate() {
                let at = start + step * (128 << 10);
                found[number].extend(streams.observe(&(at..at + (128 << 10))).map(|ahead| ahead.range));
            }
        }
        for (number, start) in starts.into_iter().enumerate() {
            assert_covers(&found[number], start + (64 << 20));
        }
    }

    #[test]
    fn random_readers_cause_nothing() {
        for (size, len) in [(8 << 30, 4096), (8 << 30, 128 << 10), (1 << 40, 4096), (256 << 20, 4096)] {
            let requests = dice(len).take(20_000).map(|x| x % (size / len) * len).map(|at| at..at + len);
            assert_eq!(ahead(requests), [], "{len} bytes somewhere in {size}");
        }
    }

    #[test]
    fn large_random_requests_are_soon_known_as_such() {
        let within = |size: u64, step: u64| {
            let places = dice(7).take(600).map(move |x| x % (size / step) * step);
            ahead(places.map(|at| at..at + (1 << 20)))
                .iter()
                .map(|range| range.end - range.start)
                .sum::<u64>()
        };
        assert_eq!(within(400 << 20, 4096), 0, "anywhere");
        // Some of these follow each other.
        assert!(within(400 << 20, 1 << 20) <= 4 << 20, "{}", within(400 << 20, 1 << 20));
    }

    #[test]
    fn who_was_taken_for_another_is_believed_when_it_goes_on() {
        let mut streams = Streams::new(WIDEST);
        let mut observe = |requests: &mut dyn Iterator<Item = Range<u64>>| {
            requests
                .filter_map(|request| streams.observe(&request))
                .map(|ahead| ahead.range)
                .collect::<Vec<_>>()
        };
        for place in 1..=20 {
            observe(&mut in_order(place << 30, 2, 1 << 20));
        }
        assert_covers(&observe(&mut in_order(0, 64, 1 << 20)), 64 << 20);
    }

    #[test]
    fn what_was_read_ahead_of_an_idle_reader_is_given_up_and_read_when_it_goes_on() {
        let mut streams = Streams::new(WIDEST);
        let mut observe = |requests: &mut dyn Iterator<Item = Range<u64>>| {
            requests.filter_map(|request| streams.observe(&request)).collect::<Vec<_>>()
        };
        let first = observe(&mut in_order(0, 16, 128 << 10));
        let other = observe(&mut in_order(1 << 30, 15, 128 << 10));
        assert!(!first[0].is_over.load(Ordering::Relaxed));
        observe(&mut in_order((1 << 30) + (15 << 17), 2, 128 << 10));
        assert!(first.iter().all(|ahead| ahead.is_over.load(Ordering::Relaxed)));
        assert!(other.iter().all(|ahead| !ahead.is_over.load(Ordering::Relaxed)));
        let again = observe(&mut in_order(2 << 20, 1, 128 << 10));
        assert_eq!(again[0].range.start, (2 << 20) + (128 << 10));
        assert!(!again[0].is_over.load(Ordering::Relaxed));
    }

    #[test]
    fn a_reader_of_every_tenth_block_is_not_sequential() {
        assert_eq!(ahead((0..5000).map(|at| at * 40_960..at * 40_960 + 4096)), []);
        // One that begins so, and goes on in order, is.
        let strided = (0..50).map(|at| at * 40_960..at * 40_960 + 4096);
        assert!(!ahead(strided.chain(in_order(3 << 20, 200, 128 << 10))).is_empty());
    }

    #[test]
    fn who_reads_the_same_again_goes_nowhere() {
        assert_eq!(ahead((0..1000).map(|_| 8 << 20..(8 << 20) + 4096)), []);
        assert_eq!(ahead((0..40).flat_map(|_| in_order(0, 64, 4096))), []);
    }

    #[test]
    fn a_seek_ends_a_stream() {
        let mut streams = Streams::new(WIDEST);
        let first: Vec<_> =
            in_order(0, 16, 128 << 10).filter_map(|request| streams.observe(&request)).collect();
        assert!(!first.is_empty() && first.iter().all(|ahead| !ahead.is_over.load(Ordering::Relaxed)));
        for elsewhere in 1..=4 {
            assert!(streams.observe(&(elsewhere << 30..(elsewhere << 30) + 4096)).is_none());
        }
        assert!(first.iter().all(|ahead| ahead.is_over.load(Ordering::Relaxed)));
    }

    #[test]
    fn a_window_may_be_small_and_an_offset_large() {
        let mut streams = Streams::new(64 << 10);
        let top = u64::MAX - (4 << 20);
        let found: Vec<_> = in_order(top, 32, 128 << 10).filter_map(|it| streams.observe(&it)).collect();
        assert!(found.iter().all(|ahead| ahead.range.end - ahead.range.start <= 128 << 10), "{found:?}");
    }
}
