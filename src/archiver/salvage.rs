//! Reading around what the medium does not give.
//!
//! What cannot be read is narrowed down to single blocks of the 4 KiB grid: the page cache reads no smaller pieces, and the holes that the zeros
//! become lie on that grid. Only errors of the medium are read around; a source that is gone or that shrank is an error as ever.

use std::ops::Range;

use parking_lot::Mutex;

use super::Stop;
use super::error::Result;
use crate::extent::HOLE_UNIT;
use crate::source::{Seekable, SourceError};

/// The largest piece that is read at once after an error: the next error costs little then, and a stop comes soon.
const LARGEST_PIECE: u64 = 1 << 20;

/// What becomes of a source that cannot be read in full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReadErrors {
    /// There is no archive.
    #[default]
    Stop,
    /// What cannot be read is zeros, and is recorded.
    Zero,
}

/// Reads a source as the user wants its errors to be taken.
#[derive(Debug)]
pub(super) struct Careful<'a> {
    pub(super) source: &'a Seekable,
    read_errors: ReadErrors,
    stop: &'a Stop,
    bad: BadRanges,
}

impl<'a> Careful<'a> {
    pub(super) fn new(source: &'a Seekable, read_errors: ReadErrors, stop: &'a Stop) -> Self {
        Self { source, read_errors, stop, bad: BadRanges::default() }
    }

    /// Fills all of `buf` from byte `offset`, which lies on the grid.
    pub(super) fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let Err(error) = self.source.read_at(offset, buf) else { return Ok(()) };
        if self.read_errors == ReadErrors::Stop || error.bad_medium_at().is_none() {
            return Err(error.into());
        }
        let read = |offset, buf: &mut [u8]| self.source.read_at(offset, buf);
        self.bad.add(read_around(&read, offset, buf, self.stop)?);
        Ok(())
    }

    /// Fills all of `buf` from byte `offset`, or says that the medium does not give it, if that is no reason to stop.
    pub(super) fn try_read_at(&self, offset: u64, buf: &mut [u8]) -> Result<bool> {
        match self.source.read_at(offset, buf) {
            Ok(()) => Ok(true),
            Err(error) if self.read_errors == ReadErrors::Zero && error.bad_medium_at().is_some() => {
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// What was not read: sorted, disjoint ranges, at most `limit` of them.
    pub(super) fn into_bad(self, limit: usize) -> Vec<Range<u64>> {
        let mut ranges = self.bad.0.into_inner();
        join(&mut ranges, limit);
        ranges
    }
}

/// Ranges from many threads.
#[derive(Debug, Default)]
struct BadRanges(Mutex<Vec<Range<u64>>>);

impl BadRanges {
    /// So many are kept before neighbours are joined: 16 MiB.
    const MAX_KEPT: usize = 1 << 20;

    fn add(&self, new: Vec<Range<u64>>) {
        let mut ranges = self.0.lock();
        ranges.extend(new);
        if ranges.len() > Self::MAX_KEPT {
            join(&mut ranges, Self::MAX_KEPT / 2);
        }
    }
}

/// Sorts ranges and joins those that touch; then, until `limit` are left, those with the smallest gaps between them.
fn join(ranges: &mut Vec<Range<u64>>, limit: usize) {
    ranges.sort_unstable_by_key(|range| range.start);
    join_within(ranges, 0);
    if ranges.len() > limit.max(1) {
        let mut gaps: Vec<u64> = ranges.windows(2).map(|pair| pair[1].start - pair[0].end).collect();
        let surplus = ranges.len() - limit.max(1);
        let (_, widest, _) = gaps.select_nth_unstable(surplus - 1);
        join_within(ranges, *widest);
    }
}

/// Joins sorted ranges that are at most `gap` bytes apart.
fn join_within(ranges: &mut Vec<Range<u64>>, gap: u64) {
    ranges.dedup_by(|next, last| {
        let near = next.start <= last.end.saturating_add(gap);
        if near {
            last.end = last.end.max(next.end);
        }
        near
    });
}

/// Fills a buffer from a byte on, or fails.
type Read<'a> = dyn Fn(u64, &mut [u8]) -> std::result::Result<(), SourceError> + 'a;

/// Fills `buf` from byte `offset` with what `read` gives, and with zeros where the medium fails; says where that is.
fn read_around(read: &Read<'_>, offset: u64, buf: &mut [u8], stop: &Stop) -> Result<Vec<Range<u64>>> {
    let end = offset + buf.len() as u64;
    let mut bad = Vec::new();
    let mut at = offset;
    let mut piece = LARGEST_PIECE;
    while at < end {
        stop.check()?;
        let to = end.min(at + piece);
        let part = &mut buf[(at - offset) as usize..(to - offset) as usize];
        let Err(error) = read(at, part) else {
            at = to;
            piece = (piece * 2).min(LARGEST_PIECE);
            continue;
        };
        let Some(failed_at) = error.bad_medium_at() else { return Err(error.into()) };
        if to - at <= HOLE_UNIT {
            part.fill(0);
            bad.push(at..to);
            at = to;
            piece = HOLE_UNIT;
        } else {
            // What lies before the failure is read as one piece, the block of the failure by itself.
            let before = (failed_at.clamp(at, to - 1) - at) & !(HOLE_UNIT - 1);
            piece = before.max(HOLE_UNIT);
        }
    }
    join(&mut bad, usize::MAX);
    Ok(bad)
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "lists of ranges that happen to have one")]
mod tests {
    use std::cell::Cell;
    use std::io;

    use rustix::io::Errno;

    use super::*;

    const UNIT: usize = HOLE_UNIT as usize;

    /// A medium of 64 blocks, each of its own number plus one, of which some give errors.
    struct Medium {
        bad: Vec<u64>,
        errno: Errno,
        /// Whether an error tells which byte it was.
        exact: bool,
        reads: Cell<usize>,
    }

    impl Medium {
        fn new(bad: &[u64], exact: bool) -> Self {
            Self { bad: bad.to_vec(), errno: Errno::IO, exact, reads: Cell::new(0) }
        }

        fn read(&self, offset: u64, buf: &mut [u8]) -> std::result::Result<(), SourceError> {
            self.reads.set(self.reads.get() + 1);
            buf.fill(0xee);
            let blocks = offset / HOLE_UNIT..(offset + buf.len() as u64).div_ceil(HOLE_UNIT);
            if let Some(block) = blocks.clone().find(|block| self.bad.contains(block)) {
                let offset = if self.exact { (block * HOLE_UNIT).max(offset) } else { offset };
                let source = io::Error::from(self.errno);
                return Err(SourceError::Read { path: "disk".into(), offset, source });
            }
            for (i, byte) in buf.iter_mut().enumerate() {
                *byte = ((offset as usize + i) / UNIT) as u8 + 1;
            }
            Ok(())
        }

        fn around(&self, offset: u64, len: usize) -> (Vec<u8>, Vec<Range<u64>>) {
            let mut buf = vec![0xdd; len];
            let read = |offset, buf: &mut [u8]| self.read(offset, buf);
            let bad = read_around(&read, offset, &mut buf, &Stop::default()).expect("read around");
            (buf, bad)
        }
    }

    #[test]
    fn just_the_bad_blocks_are_zeros() {
        let cases: [(&[u64], &[Range<u64>]); 6] = [
            (&[], &[]),
            (&[0], &[0..1]),
            (&[63], &[63..64]),
            (&[5, 6, 7, 30], &[5..8, 30..31]),
            (&[0, 2, 4, 63], &[0..1, 2..3, 4..5, 63..64]),
            (&[31, 32, 33, 34, 35, 36, 37, 38, 39, 40], &[31..41]),
        ];
        for (blocks, expected) in cases {
            for exact in [true, false] {
                let medium = Medium::new(blocks, exact);
                let (buf, bad) = medium.around(0, 64 * UNIT);
                let expected: Vec<_> =
                    expected.iter().map(|range| range.start * HOLE_UNIT..range.end * HOLE_UNIT).collect();
                assert_eq!(bad, expected);
                for (block, bytes) in (0..).zip(buf.chunks(UNIT)) {
                    let byte = if blocks.contains(&block) { 0 } else { block as u8 + 1 };
                    assert!(bytes.iter().all(|found| *found == byte), "block {block} of {blocks:?}");
                }
                let limit = 2 + blocks.len() * 16;
                assert!(medium.reads.get() <= limit, "{blocks:?}: {} reads", medium.reads.get());
            }
        }
    }

    #[test]
    fn a_part_ends_where_it_should() {
        let medium = Medium::new(&[3, 9], false);
        let (buf, bad) = medium.around(3 * HOLE_UNIT, 6 * UNIT + 100);
        assert_eq!(bad, [3 * HOLE_UNIT..4 * HOLE_UNIT, 9 * HOLE_UNIT..9 * HOLE_UNIT + 100]);
        assert!(buf[UNIT..2 * UNIT].iter().all(|byte| *byte == 5));
    }

    #[test]
    fn only_errors_of_the_medium_are_read_around() {
        let medium = Medium { errno: Errno::NXIO, ..Medium::new(&[3], true) };
        let read = |offset, buf: &mut [u8]| medium.read(offset, buf);
        let mut buf = vec![0; 8 * UNIT];
        assert!(read_around(&read, 0, &mut buf, &Stop::default()).is_err());
        let stop = Stop::default();
        stop.flag().store(15, std::sync::atomic::Ordering::Relaxed);
        let medium = Medium::new(&[3], true);
        let read = |offset, buf: &mut [u8]| medium.read(offset, buf);
        assert!(read_around(&read, 0, &mut buf, &stop).is_err(), "a signal ends it");
        assert_eq!(medium.reads.get(), 0);
    }

    #[test]
    fn too_many_ranges_are_joined_where_gaps_are_small() {
        let mut ranges = vec![100..110, 0..10, 12..20, 20..30, 50..60, 5..8];
        join(&mut ranges, 10);
        assert_eq!(ranges, [0..10, 12..30, 50..60, 100..110]);
        join(&mut ranges, 3);
        assert_eq!(ranges, [0..30, 50..60, 100..110]);
        join(&mut ranges, 1);
        assert_eq!(ranges, [0..110]);
        let mut none = Vec::new();
        join(&mut none, 0);
        assert!(none.is_empty());
    }
}
