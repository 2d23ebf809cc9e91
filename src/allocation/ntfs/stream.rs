//! The content of an attribute that lies in clusters: of the filesystem's own files, which have no holes and are not compressed.

use std::ops::Range;

use super::super::Distrust;
use super::super::clusters::{Clusters, for_each_piece, read_all};
use super::record::{ATTRIBUTE_LIST, Record, damaged};
use super::runs::Runs;
use crate::partition::bytes::Window;

/// An attribute's bytes that were written once.
pub(super) struct Stream {
    /// Where they lie, in their order.
    extents: Vec<Range<u64>>,
    len: u64,
}

impl Stream {
    /// The one attribute of this kind without a name.
    ///
    /// # Errors
    /// If it is not told of by this record alone: some files are in so many pieces that their list takes several.
    pub(super) fn open(record: Record<'_>, kind: u32, clusters: Clusters) -> Result<Self, Distrust> {
        // Whoever reads all records would pass it over.
        if !record.is_in_use() {
            return Err(damaged());
        }
        let mut found = None;
        for attribute in record.attributes() {
            let attribute = attribute?;
            if attribute.kind == ATTRIBUTE_LIST {
                return Err(Distrust::because("its own files are in too many pieces"));
            }
            if attribute.kind == kind && !attribute.is_named && found.replace(attribute).is_some() {
                return Err(damaged());
            }
        }
        let attribute = found.filter(|found| !found.is_special).ok_or_else(damaged)?;
        let runs = Runs::of(&attribute, clusters)?.filter(|runs| runs.first == 0).ok_or_else(damaged)?;
        let extents: Option<Vec<_>> =
            runs.runs.into_iter().map(|run| run.place.map(|place| clusters.bytes(place))).collect();
        let extents = extents.ok_or_else(damaged)?;
        // Allocated, content, written once.
        let [room, content, len] = [40, 48, 56].map(|at| attribute.bytes.u64(at));
        let sum = extents.iter().try_fold(0_u64, |sum, bytes| sum.checked_add(bytes.end - bytes.start));
        if sum != Some(room) || content > room || len > content || room > clusters.size * clusters.count {
            return Err(damaged());
        }
        Ok(Self { extents, len })
    }

    /// Bytes.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Where it begins.
    pub(super) fn start(&self) -> Option<u64> {
        self.extents.first().map(|extent| extent.start)
    }

    /// The first `len` bytes of it.
    ///
    /// # Errors
    /// If it has fewer.
    pub(super) fn prefix(&self, len: u64) -> Result<Self, Distrust> {
        if len > self.len {
            return Err(damaged());
        }
        Ok(Self { extents: self.bytes(0..len), len })
    }

    /// Where some of its bytes lie; those that it does not have are left out.
    pub(super) fn bytes(&self, wanted: Range<u64>) -> Vec<Range<u64>> {
        let end = wanted.end.min(self.len);
        let mut places = Vec::new();
        let mut at = 0;
        for extent in &self.extents {
            let next = at + (extent.end - extent.start);
            let (from, to) = (wanted.start.max(at), end.min(next));
            if from < to {
                places.push(extent.start + (from - at)..extent.start + (to - at));
            }
            at = next;
        }
        places
    }

    /// `len` bytes from `offset`.
    ///
    /// # Errors
    /// The medium's, or that it does not have them.
    pub(super) fn read(&self, volume: &Window<'_>, offset: u64, len: usize) -> Result<Vec<u8>, Distrust> {
        let end = offset.checked_add(len as u64).filter(|end| *end <= self.len).ok_or_else(damaged)?;
        let mut bytes = Vec::with_capacity(len);
        for place in self.bytes(offset..end) {
            let part = usize::try_from(place.end - place.start).expect("a part of len");
            bytes.extend(read_all(volume, place.start, part)?);
        }
        Ok(bytes)
    }

    /// All of it, a piece at a time.
    pub(super) fn for_each_piece(
        &self,
        volume: &Window<'_>,
        each: impl FnMut(&[u8]) -> Result<(), Distrust>,
    ) -> Result<(), Distrust> {
        for_each_piece(volume, &self.extents, self.len, each)
    }
}
