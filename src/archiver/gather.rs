//! Gathering the data of a span while it is read: what is not zero, one run behind the other, and where the runs lie.
//!
//! A span is read in pieces that stay in a processor's cache until they were looked at. Zeros are overwritten by the piece that comes next, so that they never
//! get into memory.

use std::ops::Range;

use super::error::Result;
use crate::chunker::data_runs;
use crate::extent::HOLE_UNIT;

/// Bytes that are read at once: as a processor's second cache holds.
const PIECE: usize = 512 << 10;
const _: () = assert!((PIECE as u64).is_multiple_of(HOLE_UNIT));

/// The data of one span. Used again and again by a worker, for the sake of its memory.
#[derive(Debug, Default)]
pub(super) struct SpanData {
    /// Where the span starts in its image, and its length, in bytes.
    start: u64,
    len: usize,
    /// All data, as far as it is filled.
    bytes: Vec<u8>,
    filled: usize,
    runs: Vec<Range<usize>>,
}

impl SpanData {
    /// Forgets what was gathered, for a span of `len` bytes that starts at byte `start` of its image.
    pub(super) fn begin(&mut self, start: u64, len: usize) {
        (self.start, self.len, self.filled) = (start, len, 0);
        self.runs.clear();
        self.bytes.resize(len, 0);
    }

    /// Gathers a part of the image, which lies on the grid, within the span, and behind those before it. `read` fills a buffer from an offset in the image.
    ///
    /// # Errors
    /// Those of `read`.
    pub(super) fn read(
        &mut self,
        part: Range<u64>,
        mut read: impl FnMut(u64, &mut [u8]) -> Result<()>,
    ) -> Result<()> {
        debug_assert!(part.start.is_multiple_of(HOLE_UNIT) && part.start >= self.start);
        let mut at = part.start;
        while at < part.end {
            let len = PIECE.min((part.end - at) as usize);
            let piece = &mut self.bytes[self.filled..self.filled + len];
            read(at, piece)?;
            self.filled += squeeze(piece, (at - self.start) as usize, &mut self.runs);
            at += len as u64;
        }
        Ok(())
    }

    /// Gathers the data of a whole span, given its bytes.
    pub(super) fn take(&mut self, bytes: Vec<u8>) {
        self.bytes = bytes;
        self.len = self.bytes.len();
        self.runs.clear();
        self.filled = squeeze(&mut self.bytes, 0, &mut self.runs);
    }

    /// The memory of the bytes that were given; what was gathered is gone.
    pub(super) fn give_back(&mut self) -> Vec<u8> {
        self.runs.clear();
        (self.len, self.filled) = (0, 0);
        std::mem::take(&mut self.bytes)
    }

    /// Length of the span in bytes.
    pub(super) fn span_len(&self) -> usize {
        self.len
    }

    /// Where data lies in the span: ranges in bytes, sorted, not touching each other.
    pub(super) fn runs(&self) -> &[Range<usize>] {
        &self.runs
    }

    /// The bytes of all runs.
    pub(super) fn stream(&self) -> &[u8] {
        &self.bytes[..self.filled]
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

    fn assert_gathered(data: &SpanData, bytes: &[u8]) {
        let runs: Vec<u8> = data.runs().iter().flat_map(|run| bytes[run.clone()].to_vec()).collect();
        assert!(data.stream() == runs && data.span_len() == bytes.len());
        let is_data = |at: usize| data.runs().iter().any(|run| run.contains(&at));
        assert!((0..bytes.len()).step_by(UNIT).all(|at| is_data(at) == (bytes[at] != 0)));
        assert!(data.runs().windows(2).all(|pair| pair[0].end < pair[1].start));
    }

    #[test]
    fn what_is_read_and_what_is_given_come_out_alike() {
        let start = 5 << 24;
        let mut blocks = vec![1; 2 * PIECE / UNIT];
        blocks.extend(vec![0; 2 * PIECE / UNIT]);
        blocks.extend([0, 0, 3, 4, 0, 5, 0, 0, 6]);
        let bytes = span(&blocks, 100);
        let (mut read, mut given) = (SpanData::default(), SpanData::default());
        for round in 0..2 {
            read.begin(start, bytes.len());
            let mut reads = 0;
            let mut source = |at: u64, buf: &mut [u8]| {
                reads += 1;
                assert!(buf.len() <= PIECE);
                buf.copy_from_slice(&bytes[(at - start) as usize..][..buf.len()]);
                Ok(())
            };
            read.read(start..start + bytes.len() as u64, &mut source).unwrap();
            assert_eq!(reads, 5, "round {round}");
            assert_gathered(&read, &bytes);
        }
        given.take(bytes.clone());
        assert_gathered(&given, &bytes);
        assert_eq!(read.runs(), given.runs());
    }

    #[test]
    fn only_parts_that_may_hold_data_are_read() {
        let bytes = span(&[1, 2, 0, 4, 5, 6], 0);
        let mut data = SpanData::default();
        data.begin(0, bytes.len());
        let mut seen = Vec::new();
        for part in [0..UNIT as u64, 3 * UNIT as u64..5 * UNIT as u64] {
            let read = |at: u64, buf: &mut [u8]| {
                seen.push((at, buf.len()));
                buf.copy_from_slice(&bytes[at as usize..][..buf.len()]);
                Ok(())
            };
            data.read(part, read).unwrap();
        }
        assert_eq!(seen, [(0, UNIT), (3 * UNIT as u64, 2 * UNIT)]);
        assert_eq!(data.runs(), [0..UNIT, 3 * UNIT..5 * UNIT]);
        assert_eq!(data.stream(), span(&[1, 4, 5], 0));
        data.begin(0, UNIT);
        assert!(data.runs().is_empty() && data.stream().is_empty());
    }
}
