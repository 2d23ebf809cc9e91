//! Where the bytes of a file lie, told once when it is opened. No I/O but reading what a run names.

use std::ops::Range;

use super::volume::Volume;
use super::{Result, damaged, unsupported};

/// The most runs of one file. They take 64 MiB then; a file of so many pieces is 8 GiB long at least.
const MAX_RUNS: usize = 1 << 21;

/// Bytes of a file that lie beside each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    /// Where they are in the file.
    pub(super) start: u64,
    /// How many.
    pub(super) len: u64,
    /// Where they are in the volume.
    pub(super) at: u64,
}

impl Run {
    pub(super) fn end(&self) -> u64 {
        self.start + self.len
    }
}

/// The content of a file: what is data, where it lies, and what is hole.
#[derive(Debug)]
pub struct Content {
    len: u64,
    pub(super) store: Store,
}

/// How a content is stored.
#[derive(Debug)]
pub(super) enum Store {
    /// Beside the metadata.
    Inline(Vec<u8>),
    /// In runs that ascend and do not overlap. What lies between them reads as zeros.
    Runs(Vec<Run>),
    /// In runs, by units of so many bytes, each of which is compressed if it has room for less than all of it.
    Compressed(Vec<Run>, u64),
}

impl Content {
    /// A content beside its metadata; zeros follow it up to `len`.
    #[must_use]
    pub fn inline(bytes: Vec<u8>, len: u64) -> Self {
        Self { len, store: Store::Inline(bytes) }
    }

    /// A content of `len` bytes.
    pub(super) fn runs(runs: Vec<Run>, len: u64) -> Self {
        Self { len, store: Store::Runs(runs) }
    }

    /// A content of `len` bytes in compressed units.
    pub(super) fn compressed(runs: Vec<Run>, unit: u64, len: u64) -> Self {
        Self { len, store: Store::Compressed(runs, unit) }
    }

    /// Bytes, holes included.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The first data at or behind `offset`, up to where a hole or the end follows.
    #[must_use]
    pub fn next_data(&self, offset: u64) -> Option<Range<u64>> {
        let range = match &self.store {
            Store::Inline(bytes) => offset..bytes.len() as u64,
            Store::Runs(runs) => {
                let first = runs.partition_point(|run| run.end() <= offset);
                let run = runs.get(first)?;
                run.start.max(offset)..run.end()
            }
            Store::Compressed(runs, unit) => {
                let first = runs.partition_point(|run| run.end().next_multiple_of(*unit) <= offset);
                let run = runs.get(first)?;
                (run.start / unit * unit).max(offset)..run.end().next_multiple_of(*unit)
            }
        };
        let range = range.start..range.end.min(self.len);
        (!range.is_empty()).then_some(range)
    }

    /// Where the first data lies in the volume, to read files in the order of the disk.
    #[must_use]
    pub fn place(&self) -> u64 {
        match &self.store {
            Store::Runs(runs) | Store::Compressed(runs, _) => runs.first().map_or(0, |run| run.at),
            Store::Inline(_) => 0,
        }
    }

    /// Where a byte lies in the volume, if it is in a run.
    pub(super) fn place_of(&self, offset: u64) -> Option<u64> {
        let Store::Runs(runs) = &self.store else { return None };
        let run = runs.get(runs.partition_point(|run| run.end() <= offset))?;
        (run.start <= offset).then(|| run.at + (offset - run.start))
    }

    /// Fills `buf` from `offset`; what is in no run is zeros.
    pub(super) fn fill(&self, volume: &Volume<'_>, offset: u64, buf: &mut [u8]) -> Result<()> {
        let end = offset.checked_add(buf.len() as u64).filter(|end| *end <= self.len);
        let end = end.ok_or_else(|| damaged("a file is shorter than it says"))?;
        buf.fill(0);
        match &self.store {
            Store::Inline(bytes) => {
                let from = usize::try_from(offset).map_or(bytes.len(), |at| at.min(bytes.len()));
                buf.iter_mut().zip(&bytes[from..]).for_each(|(to, from)| *to = *from);
                Ok(())
            }
            Store::Compressed(..) => Err(unsupported("it is compressed")),
            Store::Runs(runs) => {
                let first = runs.partition_point(|run| run.end() <= offset);
                for run in runs[first..].iter().take_while(|run| run.start < end) {
                    let (from, to) = (run.start.max(offset), run.end().min(end));
                    let part = &mut buf[(from - offset) as usize..(to - offset) as usize];
                    volume.fill(run.at + (from - run.start), part)?;
                }
                Ok(())
            }
        }
    }
}

/// Collects runs in their order.
pub(super) struct Gatherer {
    runs: Vec<Run>,
    /// Bytes that may still be told of: a file has no more than its filesystem.
    left: u64,
}

impl Gatherer {
    pub(super) fn new(most: u64) -> Self {
        Self { runs: Vec::new(), left: most }
    }

    /// Adds a run that lies behind all before; one that goes on where the last ends is joined to it.
    pub(super) fn add(&mut self, run: Run) -> Result<()> {
        let sane = run.start.checked_add(run.len).is_some() && run.at.checked_add(run.len).is_some();
        let left = self.left.checked_sub(run.len).filter(|_| sane);
        self.left = left.ok_or_else(|| damaged("a file has more blocks than the filesystem"))?;
        let is_full = self.runs.len() == MAX_RUNS;
        match self.runs.last_mut() {
            Some(last) if run.start < last.end() => {
                return Err(damaged("the blocks of a file are out of order"));
            }
            Some(last) if last.end() == run.start && last.at + last.len == run.at => last.len += run.len,
            _ if is_full => {
                return Err(unsupported("the file is in more than two million pieces"));
            }
            _ => self.runs.push(run),
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Vec<Run> {
        self.runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(start: u64, len: u64, at: u64) -> Run {
        Run { start, len, at }
    }

    #[test]
    fn runs_join_and_leave_holes() {
        let mut gatherer = Gatherer::new(100);
        for part in [run(10, 10, 50), run(20, 5, 60), run(30, 5, 65)] {
            gatherer.add(part).unwrap();
        }
        assert!(gatherer.add(run(34, 1, 0)).is_err(), "it overlaps");
        assert!(gatherer.add(run(40, 90, 0)).is_err(), "there are not so many bytes");
        let content = Content::runs(gatherer.finish(), 33);
        let data: Vec<_> =
            std::iter::successors(content.next_data(0), |last| content.next_data(last.end)).collect();
        assert_eq!(data, [10..25, 30..33]);
        assert_eq!((content.next_data(24), content.next_data(33)), (Some(24..25), None));
    }

    #[test]
    fn an_inline_content_ends_in_zeros() {
        let bytes = [9; 4];
        let disk = crate::filesystem::path::tests::Disk(bytes.to_vec());
        let volume = Volume::new(&disk, 0..4);
        let content = Content::inline(vec![1, 2, 3], 5);
        let mut buf = [7; 3];
        content.fill(&volume, 2, &mut buf).unwrap();
        assert_eq!(buf, [3, 0, 0]);
        assert!(content.fill(&volume, 3, &mut buf).is_err());
        assert_eq!(content.next_data(1), Some(1..3));
    }
}
