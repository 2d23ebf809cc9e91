//! All records of the master file table: what lies in clusters, and whether Windows hibernates.

use super::super::clusters::{Clusters, is_free, read_all};
use super::super::{Distrust, FreeRanges};
use super::boot::Boot;
use super::record::{self, Attribute, Record, damaged};
use super::runs::Runs;
use super::stream::Stream;
use super::{FIRST_FILE, ROOT};
use crate::partition::bytes::{Fields, Window};

/// Bytes of the table that are read at once: whole records, and a multiple of eight of them.
const PIECE: u64 = 1 << 20;
/// The file in the root directory that Windows hibernates into.
const HIBERNATION: &str = "hiberfil.sys";
/// Bytes at its beginning, which are zeros unless there is something to wake up from.
const HIBERNATION_HEAD: usize = 4096;
/// A reference to a record has its number in the lower 48 bits.
const NUMBER: u64 = (1 << 48) - 1;

/// Checks that no record in use names a free cluster.
pub(super) fn check(
    volume: &Window<'_>,
    boot: &Boot,
    mft: &Stream,
    bitmap: &Stream,
    free: &FreeRanges,
) -> Result<(), Distrust> {
    let files = Files { volume, clusters: boot.clusters, free };
    let record = boot.record as u64;
    let per_piece = PIECE / record;
    let count = mft.len() / record;
    for first in (0..count).step_by(per_piece as usize) {
        let here = per_piece.min(count - first);
        let mut records = mft.read(volume, first * record, (here * record) as usize)?;
        let in_use = bitmap.read(volume, first / 8, here.div_ceil(8) as usize)?;
        for (number, bytes) in (first..).zip(records.chunks_exact_mut(boot.record)) {
            let at = (number - first) as usize;
            files.check(number, bytes, in_use[at / 8] & (1 << (at % 8)) != 0)?;
        }
    }
    Ok(())
}

struct Files<'a> {
    volume: &'a Window<'a>,
    clusters: Clusters,
    free: &'a FreeRanges,
}

impl Files<'_> {
    /// A record and whether its bitmap calls it used.
    fn check(&self, number: u64, bytes: &mut [u8], in_use: bool) -> Result<(), Distrust> {
        if !in_use && !Record::seems_in_use(bytes) {
            return Ok(());
        }
        let record = Record::open(bytes, number)?;
        if number >= FIRST_FILE && record.is_in_use() != in_use {
            return Err(damaged());
        }
        let mut is_hibernation = false;
        for attribute in record.attributes() {
            let attribute = attribute?;
            self.check_runs(&attribute)?;
            is_hibernation |= is_hibernation_name(&attribute);
        }
        if is_hibernation { self.check_hibernation(record) } else { Ok(()) }
    }

    fn check_runs(&self, attribute: &Attribute<'_>) -> Result<(), Distrust> {
        let Some(runs) = Runs::of(attribute, self.clusters)? else { return Ok(()) };
        for place in runs.runs.into_iter().filter_map(|run| run.place) {
            if is_free(self.free, &self.clusters.bytes(place)) {
                return Err(Distrust::because("a file lies in clusters that its bitmap calls free"));
            }
        }
        Ok(())
    }

    /// Windows wakes up from whatever does not begin with zeros, and expects the filesystem as it remembers it.
    fn check_hibernation(&self, record: Record<'_>) -> Result<(), Distrust> {
        let unclear = || Distrust::because("it cannot be told whether Windows hibernates on it");
        for attribute in record.attributes() {
            let attribute = attribute?;
            if attribute.kind != record::DATA || attribute.is_named {
                continue;
            }
            let head = match Runs::of(&attribute, self.clusters)? {
                None => attribute.value.map(|value| value.slice(0, HIBERNATION_HEAD).to_vec()),
                // Nothing was ever written to it.
                Some(runs) if runs.first == 0 && attribute.bytes.u64(56) == 0 => Some(Vec::new()),
                Some(runs) if runs.first == 0 => self.first_bytes(&runs)?,
                Some(_) => None,
            };
            if head.ok_or_else(unclear)?.iter().any(|byte| *byte != 0) {
                return Err(Distrust::because("Windows hibernates on it"));
            }
            return Ok(());
        }
        Err(unclear())
    }

    fn first_bytes(&self, runs: &Runs) -> Result<Option<Vec<u8>>, Distrust> {
        let Some(place) = runs.runs.first().and_then(|run| run.place.clone()) else { return Ok(None) };
        let bytes = self.clusters.bytes(place);
        let len = HIBERNATION_HEAD.min(usize::try_from(bytes.end - bytes.start).unwrap_or(usize::MAX));
        read_all(self.volume, bytes.start, len).map(Some)
    }
}

/// Whether an attribute names its file the one to hibernate into.
fn is_hibernation_name(attribute: &Attribute<'_>) -> bool {
    let (record::FILE_NAME, Some(value)) = (attribute.kind, attribute.value) else { return false };
    let name = Fields(value.slice(66, usize::from(value.u8(64)) * 2));
    let is_same = |(at, byte): (usize, u8)| {
        u8::try_from(name.u16(at * 2)).is_ok_and(|found| found.eq_ignore_ascii_case(&byte))
    };
    value.u64(0) & NUMBER == ROOT
        && name.0.len() == HIBERNATION.len() * 2
        && HIBERNATION.bytes().enumerate().all(is_same)
}
