//! Gathering the data of a span while it is read: what is not zero, one run behind the other, and where the runs lie.
//!
//! What is not given as a whole, as a stream's spans are, is read in pieces, through a window that moves over the data: what was read is looked at, cut and compressed while a
//! processor's cache holds it. Zeros are overwritten by the piece that comes next, so that they never get into memory.

use std::collections::VecDeque;
use std::ops::Range;

use super::error::Result;
use crate::chunker::data_runs;
use crate::extent::HOLE_UNIT;

/// Bytes that are read at once: as a processor's second cache holds.
const PIECE: usize = 512 << 10;
const _: () = assert!((PIECE as u64).is_multiple_of(HOLE_UNIT));

/// Fills a buffer from an offset in an image.
pub(super) type Read<'a> = dyn FnMut(u64, &mut [u8]) -> Result<()> + 'a;

/// The data of one span. Used again and again by a worker, for the sake of its memory.
#[derive(Debug, Default)]
pub(super) struct SpanData {
    /// Where the span starts in its image, and its length, in bytes.
    start: u64,
    len: usize,
    /// What is still to be read.
    parts: VecDeque<Range<u64>>,
    /// The window, and where that of it lies which was gathered and not passed.
    bytes: Vec<u8>,
    left: Range<usize>,
    runs: Vec<Range<usize>>,
}

impl SpanData {
    /// Forgets what was gathered, for a span of `len` bytes that starts at byte `start` of its image. Only these parts of the image are read, which lie on the grid, within
    /// the span, and in order.
    pub(super) fn begin(&mut self, start: u64, len: usize, parts: Vec<Range<u64>>) {
        debug_assert!(parts.iter().all(|part| part.start.is_multiple_of(HOLE_UNIT) && part.start >= start));
        (self.start, self.len, self.left) = (start, len, 0..0);
        self.parts = parts.into();
        self.runs.clear();
    }

    /// Gathers the data of a whole span, given its bytes.
    pub(super) fn take(&mut self, bytes: Vec<u8>) {
        self.bytes = bytes;
        self.len = self.bytes.len();
        self.parts.clear();
        self.runs.clear();
        self.left = 0..squeeze(&mut self.bytes, 0, &mut self.runs);
    }

    /// The memory of the bytes that were given; what was gathered is gone.
    pub(super) fn give_back(&mut self) -> Vec<u8> {
        self.runs.clear();
        (self.len, self.left) = (0, 0..0);
        std::mem::take(&mut self.bytes)
    }

    /// Length of the span in bytes.
    pub(super) fn span_len(&self) -> usize {
        self.len
    }

    /// Where data lies in what was gathered of the span: ranges in bytes, sorted, not touching each other.
    pub(super) fn runs(&self) -> &[Range<usize>] {
        &self.runs
    }

    /// The bytes of all runs that were not passed: all that are left, or more than `len`.
    ///
    /// # Errors
    /// Those of `read`.
    pub(super) fn more_than(&mut self, len: usize, read: &mut Read<'_>) -> Result<&[u8]> {
        while self.left.len() <= len
            && let Some(piece) = self.next_piece()
        {
            self.make_room(len);
            let filled = self.left.end;
            let buffer = &mut self.bytes[filled..filled + (piece.end - piece.start) as usize];
            read(piece.start, buffer)?;
            self.left.end += squeeze(buffer, (piece.start - self.start) as usize, &mut self.runs);
        }
        Ok(&self.bytes[self.left.clone()])
    }

    /// Passes so many of these bytes.
    pub(super) fn pass(&mut self, len: usize) {
        self.left.start += len;
    }

    fn next_piece(&mut self) -> Option<Range<u64>> {
        let part = self.parts.front_mut()?;
        let piece = part.start..part.end.min(part.start + PIECE as u64);
        part.start = piece.end;
        if part.is_empty() {
            self.parts.pop_front();
        }
        Some(piece)
    }

    /// Sees to it that a piece fits behind what is left, which are at most `len` bytes.
    fn make_room(&mut self, len: usize) {
        if self.bytes.len() - self.left.end >= PIECE {
            return;
        }
        self.bytes.copy_within(self.left.clone(), 0);
        self.left = 0..self.left.len();
        if self.bytes.len() < self.left.end + PIECE {
            // Two fit, so that less is moved.
            self.bytes.resize(len + 2 * PIECE, 0);
        }
    }
}

/// Moves what is not zero in a piece that lies at `start` of its span to the beginning of the piece; returns how much that is.
fn squeeze(piece: &mut [u8], start: usize, runs: &mut Vec<Range<usize>>) -> usize {
    let mut filled = 0;
    for run in data_runs(piece) {
        if run.start != filled {
            piece.copy_within(run.clone(), filled);
        }
        filled += run.len();
        let run = run.start + start..run.end + start;
        match runs.last_mut() {
            Some(last) if last.end == run.start => last.end = run.end,
            _ => runs.push(run),
        }
    }
    filled
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIT: usize = HOLE_UNIT as usize;

    /// A span of blocks that are each filled with their byte; 0 is a hole.
    fn span(blocks: &[u8], tail: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = blocks.iter().flat_map(|byte| [*byte; UNIT]).collect();
        bytes.truncate(bytes.len() - tail);
        bytes
    }

    /// All that is gathered, passed in steps, of which no more is asked for at once than `step` and a byte.
    fn gathered(data: &mut SpanData, step: usize, read: &mut Read<'_>) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            let rest = data.more_than(step, read).unwrap();
            let now = rest.len().min(step);
            if now == 0 {
                return all;
            }
            all.extend_from_slice(&rest[..now]);
            data.pass(now);
        }
    }

    fn assert_gathered(data: &SpanData, gathered: &[u8], bytes: &[u8]) {
        let runs: Vec<u8> = data.runs().iter().flat_map(|run| bytes[run.clone()].to_vec()).collect();
        assert!(gathered == runs && data.span_len() == bytes.len());
        let is_data = |at: usize| data.runs().iter().any(|run| run.contains(&at));
        assert!((0..bytes.len()).step_by(UNIT).all(|at| is_data(at) == (bytes[at] != 0)));
        assert!(data.runs().windows(2).all(|pair| pair[0].end < pair[1].start));
    }

    fn nothing_more(_: u64, _: &mut [u8]) -> Result<()> {
        panic!("nothing is left to be read")
    }

    #[test]
    fn what_is_read_and_what_is_given_come_out_alike() {
        let start = 5 << 24;
        let mut blocks: Vec<u8> = (0..2 * PIECE / UNIT).map(|block| 1 + (block % 200) as u8).collect();
        blocks.extend(vec![0; 2 * PIECE / UNIT]);
        blocks.extend([0, 0, 3, 4, 0, 5, 0, 0, 6]);
        let bytes = span(&blocks, 100);
        let (mut read, mut given) = (SpanData::default(), SpanData::default());
        for step in [100, 5000, 7777, 3 * PIECE / 2, 4 * PIECE] {
            let mut reads = 0;
            let mut source = |at: u64, buf: &mut [u8]| {
                reads += 1;
                assert!(buf.len() <= PIECE);
                buf.copy_from_slice(&bytes[(at - start) as usize..][..buf.len()]);
                Ok(())
            };
            read.begin(start, bytes.len(), std::iter::once(start..start + bytes.len() as u64).collect());
            let all = gathered(&mut read, step, &mut source);
            assert_eq!(reads, 5, "in steps of {step}");
            assert_gathered(&read, &all, &bytes);
            assert!(read.bytes.len() <= step + 3 * PIECE);
        }
        given.take(bytes.clone());
        let all = gathered(&mut given, 6000, &mut nothing_more);
        assert_gathered(&given, &all, &bytes);
        assert_eq!(read.runs(), given.runs());
    }

    #[test]
    fn only_parts_that_may_hold_data_are_read() {
        let bytes = span(&[1, 2, 0, 4, 5, 6], 0);
        let mut data = SpanData::default();
        let mut seen = Vec::new();
        let mut read = |at: u64, buf: &mut [u8]| {
            seen.push((at, buf.len()));
            buf.copy_from_slice(&bytes[at as usize..][..buf.len()]);
            Ok(())
        };
        data.begin(0, bytes.len(), vec![0..UNIT as u64, 3 * UNIT as u64..5 * UNIT as u64]);
        let all = gathered(&mut data, 1 << 20, &mut read);
        assert_eq!(seen, [(0, UNIT), (3 * UNIT as u64, 2 * UNIT)]);
        assert_eq!(data.runs(), [0..UNIT, 3 * UNIT..5 * UNIT]);
        assert_eq!(all, span(&[1, 4, 5], 0));
        data.begin(0, UNIT, Vec::new());
        assert!(gathered(&mut data, 1, &mut nothing_more).is_empty() && data.runs().is_empty());
    }

    #[test]
    fn no_more_is_read_than_is_asked_for() {
        let bytes = vec![7; 4 * PIECE];
        let mut data = SpanData::default();
        let mut reads = 0;
        let mut read = |_: u64, buf: &mut [u8]| {
            reads += 1;
            buf.fill(7);
            Ok(())
        };
        data.begin(0, bytes.len(), std::iter::once(0..bytes.len() as u64).collect());
        assert_eq!(data.more_than(PIECE - 1, &mut read).unwrap().len(), PIECE);
        assert_eq!(data.more_than(PIECE, &mut read).unwrap().len(), 2 * PIECE);
        data.pass(PIECE);
        assert_eq!(data.more_than(10, &mut read).unwrap().len(), PIECE);
        assert_eq!(reads, 2);
    }
}
