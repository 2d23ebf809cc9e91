//! Leaving out the blocks that filesystems on a source do not use.
//!
//! The free ranges of a disk are cut inward to the grid of holes and taken out of what is read: the image is the source with these ranges zeroed, whatever
//! they are. After the pass everything is looked at again. A volume whose free ranges, or whose structures these rest on, are not the same
//! byte for byte has been written to meanwhile, and is taken whole in another pass.

use std::io;
use std::ops::Range;

use serde::Serialize;

use super::error::{Error, Result};
use super::pipeline::{Reading, StoredImage, store_image};
use super::span::Store;
use super::{Monitor, Stop};
use crate::allocation::disk::{Volume, volumes};
use crate::allocation::{Survey, Usage};
use crate::extent::HOLE_UNIT;
use crate::format::name::ArchiveName;
use crate::partition::ReadAt;
use crate::source::{Seekable, Source, SourceKind};

/// Bytes of structures that are hashed at once.
const PIECE: usize = 1 << 20;

/// What became of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VolumeReport {
    /// The member that it is a part of.
    pub member: ArchiveName,
    /// The partition's number; `None` for a disk that is not divided.
    pub partition: Option<u32>,
    /// What it holds, by the names of `blkid`.
    pub filesystem: Option<String>,
    /// Its label.
    pub label: String,
    /// Its length in bytes.
    pub size: u64,
    /// Bytes that its filesystem uses; `None` if that is not known.
    pub used: Option<u64>,
    /// Bytes that were left out.
    pub left_out: u64,
    /// Why it was taken whole; `None` if it was not.
    pub whole: Option<String>,
}

/// A volume that may have something to leave out.
#[derive(Debug)]
struct Surveyed {
    volume: Volume,
    /// What its structures hashed to; `None` if it is taken whole.
    witness: Option<blake3::Hash>,
}

/// What to leave out of a source, and why not more.
#[derive(Debug)]
pub(super) struct Unused {
    volumes: Vec<Surveyed>,
    /// Ranges of the source on the grid: sorted, disjoint.
    free: Vec<Range<u64>>,
    /// How many volumes were written to while they were read.
    disturbed: usize,
}

/// Stores an image without unused blocks; again if a volume was written to meanwhile, which is then taken whole. Each time at least one more volume is.
pub(super) fn store_used(
    store: &Store<'_>,
    source: &mut Source,
    reading: Reading<'_>,
    stop: &Stop,
    monitor: &dyn Monitor,
) -> Result<(StoredImage, Unused)> {
    let what = reading.what;
    let mut disturbed = Vec::new();
    loop {
        let unused = Unused::find(seekable(source, what)?, &disturbed).map_err(failed(what))?;
        let reading = Reading { unused: Some(&unused), ..reading };
        let image = store_image(store, source, reading, stop, monitor)?;
        let changed = unused.changed(seekable(source, what)?).map_err(failed(what))?;
        if changed.is_empty() {
            return Ok((image, unused));
        }
        disturbed.extend(changed);
    }
}

/// What is unused on a source of which an archive has the rest already; `None` if that is not as much as the archive lacks, so that it is to be read.
pub(super) fn still_unused(source: &Source, what: &str, left_out: u64) -> Result<Option<Unused>> {
    let found = Unused::find(seekable(source, what)?, &[]).map_err(failed(what))?;
    Ok((found.bytes() == left_out).then_some(found))
}

fn failed(what: &str) -> impl Fn(io::Error) -> Error {
    move |source| Error::Io { action: "look for unused blocks of", path: what.into(), source }
}

fn seekable<'a>(source: &'a Source, what: &str) -> Result<&'a Seekable> {
    match source {
        Source::Seekable(seekable) => Ok(seekable),
        Source::Stream(_) => Err(Error::UnusedInStream { what: what.into() }),
    }
}

impl Unused {
    /// Looks for unused blocks. Volumes that begin in one of `barred` places are taken whole.
    ///
    /// # Errors
    /// If the disk's first bytes cannot be read.
    pub(super) fn find(source: &Seekable, barred: &[u64]) -> io::Result<Self> {
        let mut found = Self::of(source)?;
        let restless = source.check_stillness().err();
        for surveyed in &mut found.volumes {
            if let Some(reason) = &restless {
                surveyed.take_whole(reason.clone());
            } else if barred.contains(&surveyed.volume.range.start) {
                surveyed.take_whole("it was written to while it was read".into());
            }
        }
        found.disturbed = barred.len();
        found.free = found.volumes.iter().flat_map(Surveyed::left_out).collect();
        Ok(found)
    }

    /// Surveys what stands on the medium. A disk and its partitions have pages of their own in memory, so that one would hide what was written through the other.
    fn of(disk: &Seekable) -> io::Result<Self> {
        if disk.kind() == SourceKind::Device {
            disk.drop_behind(0..disk.len());
        }
        let look = |mut volume: Volume| {
            let witness = match &volume.survey {
                Ok(usage) => witness(disk, volume.range.start, usage),
                Err(_) => Ok(None),
            };
            if let Err(error) = &witness {
                volume.survey = Err(io::Error::from(error.kind()).into());
            }
            Surveyed { volume, witness: witness.unwrap_or_default() }
        };
        Ok(Self {
            volumes: volumes(disk, disk.logical_sector())?.into_iter().map(look).collect(),
            free: Vec::new(),
            disturbed: 0,
        })
    }

    /// Where the volumes begin that are not any more what they were when they were looked at, now that the source was read.
    pub(super) fn changed(&self, source: &Seekable) -> io::Result<Vec<u64>> {
        let trusted = || self.volumes.iter().filter(|surveyed| surveyed.witness.is_some());
        if trusted().next().is_none() {
            return Ok(Vec::new());
        }
        let now = Self::of(source)?;
        let disturbed = source.changed_since_open() || source.check_stillness().is_err();
        let stayed = |before: &Surveyed| !disturbed && now.volumes.iter().any(|after| before.is_same(after));
        Ok(trusted().filter(|before| !stayed(before)).map(|before| before.volume.range.start).collect())
    }

    /// Bytes that are left out.
    pub(super) fn bytes(&self) -> u64 {
        self.free.iter().map(|range| range.end - range.start).sum()
    }

    /// The first range at or after `from` that is to be read, of those that `data` finds.
    pub(super) fn next_data(
        &self,
        mut from: u64,
        data: impl Fn(u64) -> Option<Range<u64>>,
    ) -> Option<Range<u64>> {
        loop {
            let found = data(from)?;
            let next = self.free.partition_point(|free| free.end <= found.start);
            match self.free.get(next) {
                Some(free) if free.start <= found.start => from = free.end,
                Some(free) => return Some(found.start..found.end.min(free.start)),
                None => return Some(found),
            }
        }
    }

    /// What is to be told of a source that did not hold still; `shown` is its name.
    pub(super) fn warning(&self, shown: &str) -> Option<String> {
        (self.disturbed > 0).then(|| {
            format!(
                "{shown} was written to while it was read: volumes that changed were read again, and nothing is left out of them"
            )
        })
    }

    /// What became of each volume of a member.
    pub(super) fn report(&self, member: &ArchiveName) -> Vec<VolumeReport> {
        let report = |surveyed: &Surveyed| {
            let Volume { number, range, filesystem, label, survey } = &surveyed.volume;
            VolumeReport {
                member: member.clone(),
                partition: *number,
                filesystem: filesystem.clone(),
                label: label.clone(),
                size: range.end - range.start,
                used: survey.as_ref().ok().map(|usage| usage.used),
                left_out: surveyed.left_out().map(|range| range.end - range.start).sum(),
                whole: survey.as_ref().err().map(ToString::to_string),
            }
        };
        self.volumes.iter().map(report).collect()
    }
}

impl Surveyed {
    fn take_whole(&mut self, reason: String) {
        self.volume.survey = Err(crate::allocation::Distrust::Because(reason));
        self.witness = None;
    }

    /// Its free ranges in the source, cut inward to the grid.
    fn left_out(&self) -> impl Iterator<Item = Range<u64>> {
        let free = self.volume.survey.as_ref().map_or(&[][..], |usage| usage.free.as_slice());
        let start = self.volume.range.start;
        free.iter().filter_map(move |range| on_grid(start + range.start..start + range.end))
    }

    fn is_same(&self, other: &Self) -> bool {
        let usage = |survey: &Survey| survey.as_ref().ok().cloned();
        self.volume.range == other.volume.range
            && self.witness == other.witness
            && usage(&self.volume.survey) == usage(&other.volume.survey)
    }
}

/// The whole units of the grid in a range.
fn on_grid(range: Range<u64>) -> Option<Range<u64>> {
    let start = range.start.checked_next_multiple_of(HOLE_UNIT)?;
    let end = range.end & !(HOLE_UNIT - 1);
    (start < end).then_some(start..end)
}

/// A hash of what the free ranges of a volume rest on; the volume begins at `start`.
fn witness(disk: &dyn ReadAt, start: u64, usage: &Usage) -> io::Result<Option<blake3::Hash>> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = Vec::new();
    for fixed in &usage.fixed {
        let mut at = fixed.start;
        while at < fixed.end {
            let len = (fixed.end - at).min(PIECE as u64);
            buffer.resize(len as usize, 0);
            disk.read_at(start + at, &mut buffer)?;
            hasher.update(&buffer);
            at += len;
        }
    }
    Ok(Some(hasher.finalize()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UNITS: u64 = 64;
    const LEN: u64 = UNITS * HOLE_UNIT - 1000;

    /// Sorted, disjoint ranges from where they begin and end, on a grid of `unit` bytes.
    fn ranges(mut ends: Vec<u64>, unit: u64) -> Vec<Range<u64>> {
        ends.sort_unstable();
        ends.dedup();
        ends.chunks_exact(2)
            .map(|ends| ends[0] * unit..(ends[1] * unit).min(LEN))
            .filter(|r| r.start < r.end)
            .collect()
    }

    proptest! {
        #[test]
        fn what_is_read_is_the_data_without_what_is_free(
            data in proptest::collection::vec(0..LEN / 512, 0..12),
            free in proptest::collection::vec(0..LEN / 512, 0..12),
        ) {
            let data = ranges(data, 512);
            let free: Vec<_> = ranges(free, 512).into_iter().filter_map(on_grid).collect();
            let unused = Unused { volumes: Vec::new(), free: free.clone(), disturbed: 0 };
            let in_source = |from: u64| {
                data.iter().find(|range| range.end > from).map(|range| range.start.max(from)..range.end)
            };
            let within = |ranges: &[Range<u64>], at: u64| ranges.iter().any(|range| range.contains(&at));
            let mut read: Vec<Range<u64>> = Vec::new();
            let mut from = 0;
            while let Some(range) = unused.next_data(from, in_source) {
                prop_assert!(range.start >= from && range.start < range.end);
                from = range.end;
                read.push(range);
            }
            for at in (0..LEN).step_by(512) {
                prop_assert_eq!(within(&read, at), within(&data, at) && !within(&free, at), "at {}", at);
            }
        }
    }

    #[test]
    fn only_whole_units_are_left_out() {
        assert_eq!(on_grid(1..8191), None);
        assert_eq!(on_grid(4095..12288), Some(4096..12288));
        assert_eq!(on_grid(u64::MAX - 5..u64::MAX), None);
    }
}
