//! An earlier archive's image, of which a new one takes over what is known not to have changed: span by span, its map as it lies, without a look at
//! the source.
//!
//! A span is taken over only if it has the same length in both images, nothing in it was unreadable then, its map opens, and every pack that the map
//! relies on may be claimed. Any other span is read from the source, so that what is lost in the repository is stored again.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::error::{Error, Result};
use super::salvage::Careful;
use super::span::{SpanOutcome, Store};
use crate::codec::keys::BlobKind;
use crate::extent::{span_count, span_len, spans_of};
use crate::format::record::Member;
use crate::format::span_map::SpanMap;
use crate::id::{ArchiveId, PackId};
use crate::image::Image;
use crate::image::maps::{Maps, PlacedMap};
use crate::image::tree_writer::StoredMap;
use crate::repository::{self, Repository};
use crate::source::Seekable;

/// Memory for nodes and maps of the base, in bytes: each is needed once, by a few workers at a time.
const CACHE: usize = 8 << 20;
/// At least so many spans are compared with the source.
const LEAST_SAMPLE: u64 = 16;
/// Beyond that, one in so many.
const SAMPLE_ONE_IN: u64 = 100;

/// What is taken over, and what is read.
#[derive(Debug)]
pub(super) struct Base {
    archive: ArchiveId,
    image: Image,
    /// Bytes of unused blocks that it lacks.
    left_out: u64,
    maps: Maps,
    /// Length of the new image.
    size: u64,
    /// Spans that are read: sorted, disjoint, not empty.
    read: Vec<Range<u64>>,
    /// Spans that are taken over, and read for comparison.
    sample: HashSet<u64>,
    /// Bytes of data that were taken over.
    taken: AtomicU64,
    /// Whether something was read that ought to have been taken over.
    is_broken: AtomicBool,
}

/// Spans in a row that are read, or that are taken over.
struct Stretch {
    spans: Range<u64>,
    is_read: bool,
}

impl Base {
    /// Takes over all spans but those of `changed`, for an image that is now `size` bytes long.
    pub(super) fn new(
        repository: &Arc<Repository>,
        archive: ArchiveId,
        member: &Member,
        size: u64,
        changed: Vec<Range<u64>>,
    ) -> Self {
        let span_shift = repository.config().span_shift;
        let mut read = changed;
        read.extend(member.bad.iter().map(|(offset, len)| spans_of(&(*offset..offset + len), span_shift)));
        if size != member.size {
            // The span in which the shorter image ends, and all behind it.
            read.push(size.min(member.size) >> span_shift..span_count(size, span_shift));
        }
        Self {
            archive,
            image: Image::of(member, span_shift),
            left_out: member.left_out,
            maps: Maps::new(repository.clone(), CACHE),
            size,
            read: united(read, span_count(size, span_shift)),
            sample: HashSet::new(),
            taken: AtomicU64::new(0),
            is_broken: AtomicBool::new(false),
        }
    }

    pub(super) fn archive(&self) -> ArchiveId {
        self.archive
    }

    /// Bytes of unused blocks that it lacks.
    pub(super) fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Whether nothing was read but a sample.
    pub(super) fn was_all(&self) -> bool {
        self.read.is_empty() && !self.is_broken.load(Ordering::Relaxed)
    }

    /// How many bytes of data were taken over.
    pub(super) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    pub(super) fn span_end(&self, span: u64) -> u64 {
        (span << self.image.span_shift) + span_len(self.size, self.image.span_shift, span)
    }

    /// Draws the spans that are compared with the source, of those that hold data. From the first damage of the tree on, all is read.
    pub(super) fn draw_sample(&mut self) -> Result<()> {
        let mut always: Vec<u64> = Vec::new();
        let mut met = 0;
        let mut span = 0;
        while let Some(found) = self.next_same(span)? {
            met += 1;
            span = found + 1;
            if (always.len() as u64) < LEAST_SAMPLE {
                always.push(found);
                continue;
            }
            // Each that was met is among the first ones with the same probability, and in the sample by its own luck besides.
            if let Some(place) = always.get_mut(below(met)? as usize) {
                *place = found;
            }
            if below(SAMPLE_ONE_IN)? == 0 {
                self.sample.insert(found);
            }
        }
        self.sample.extend(always);
        Ok(())
    }

    /// The first span at or after `span` that holds data and is taken over.
    fn next_same(&mut self, mut span: u64) -> Result<Option<u64>> {
        loop {
            let found = match self.maps.next_span(&self.image, span) {
                Ok(found) => found,
                Err(error) if matches!(*error, repository::Error::Codec(_)) => {
                    return Err(Error::Image(error));
                }
                Err(error) => {
                    log::warn!("{}; all behind it is read instead", repository::archives::chain(&*error));
                    let spans = span_count(self.size, self.image.span_shift);
                    let mut read = std::mem::take(&mut self.read);
                    read.push(span..spans);
                    self.read = united(read, spans);
                    return Ok(None);
                }
            };
            let Some((found, stretch)) = found.and_then(|found| Some((found, self.stretch(found)?))) else {
                return Ok(None);
            };
            if !stretch.is_read {
                return Ok(Some(found));
            }
            span = stretch.spans.end;
        }
    }

    /// The stretch from `span` on; `None` beyond the end.
    fn stretch(&self, span: u64) -> Option<Stretch> {
        let end = span_count(self.size, self.image.span_shift);
        if span >= end {
            return None;
        }
        let at = self.read.partition_point(|read| read.end <= span);
        let stretch = match self.read.get(at) {
            Some(read) if read.start <= span => Stretch { spans: span..read.end, is_read: true },
            Some(read) => Stretch { spans: span..read.start, is_read: false },
            None => Stretch { spans: span..end, is_read: false },
        };
        Some(stretch)
    }

    /// The first range of bytes at or after `from` that is to be read, or to be taken over as a whole span.
    pub(super) fn data_range(&self, source: &Seekable, mut from: u64) -> Option<Range<u64>> {
        let shift = self.image.span_shift;
        // The last span may end before the next would begin.
        while from < self.size {
            let stretch = self.stretch(from >> shift)?;
            let end = self.span_end(stretch.spans.end - 1);
            let held = || self.maps.next_span(&self.image, from >> shift).ok();
            let found = match (!stretch.is_read).then(held).flatten() {
                Some(span) => span.map(|span| from.max(span << shift)..self.span_end(span)),
                // To be read, or beneath a node that is damaged.
                None => source.data_ranges(from),
            };
            if let Some(range) = found.filter(|range| range.start < end) {
                return Some(range.start..range.end.min(end));
            }
            from = end;
        }
        None
    }

    /// Takes over a span; `None` if it is to be read.
    pub(super) fn take_over(
        &self,
        store: &Store<'_>,
        source: &Careful<'_>,
        span: u64,
    ) -> Result<Option<SpanOutcome>> {
        if self.stretch(span).is_none_or(|stretch| stretch.is_read) {
            return Ok(None);
        }
        let Some(outcome) = self.claim(store, source, span)? else {
            self.is_broken.store(true, Ordering::Relaxed);
            return Ok(None);
        };
        self.taken.fetch_add(outcome.map.data, Ordering::Relaxed);
        Ok(Some(outcome))
    }

    /// Claims what the map of a span relies on; `None` if that cannot be had.
    fn claim(&self, store: &Store<'_>, source: &Careful<'_>, span: u64) -> Result<Option<SpanOutcome>> {
        let placed = match self.maps.placed(&self.image, span) {
            Ok(Some(placed)) => placed,
            Ok(None) => return Ok(None),
            Err(error) if matches!(*error, repository::Error::Codec(_)) => return Err(Error::Image(error)),
            Err(error) => {
                log::warn!("{}; that part is read instead", repository::archives::chain(&*error));
                return Ok(None);
            }
        };
        if self.sample.contains(&span) {
            self.compare(store, source, span, &placed.map.map)?;
        }
        let PlacedMap { id, location, map } = placed;
        let hinted = map.locations.iter().chain([&location]).map(|at| at.pack.id);
        let packs: Vec<PackId> = hinted.collect::<HashSet<_>>().into_iter().collect();
        if !store.claim_packs(&packs) {
            return Ok(None);
        }
        let (data, chunks) = (map.map.data_bytes(), map.map.chunks.len() as u64);
        store.counters.reused(chunks);
        Ok(Some(SpanOutcome { map: StoredMap { id, location, data }, chunks, new: 0 }))
    }

    /// Whether the source holds what the map says, by the ids of its chunks. What the source does not give is passed over, where errors of it are.
    fn compare(&self, store: &Store<'_>, source: &Careful<'_>, span: u64, map: &SpanMap) -> Result<()> {
        let base = span << self.image.span_shift;
        let mut chunks: Vec<Gathered> =
            map.chunks.iter().map(|chunk| Gathered::new(chunk.plain_len)).collect();
        let mut bytes = Vec::new();
        for extent in &map.extents {
            let offset = base + u64::from(extent.offset);
            bytes.resize(extent.len as usize, 0);
            let given = source.try_read_at(offset, &mut bytes)?;
            store.counters.read.fetch_add(u64::from(extent.len), Ordering::Relaxed);
            let Some(chunk) = chunks.get_mut(extent.chunk as usize) else { continue };
            if !given {
                chunk.is_complete = false;
            } else if !chunk.add(extent.chunk_offset as usize, &bytes) {
                return Err(self.wrong(offset, extent.len));
            }
        }
        for (number, (chunk, gathered)) in (0..).zip(map.chunks.iter().zip(&chunks)) {
            let Some(plain) = gathered.whole() else { continue };
            if store.repository.keyring().blob_id(BlobKind::Chunk, plain)? != chunk.id {
                let first = map.extents.iter().find(|extent| extent.chunk == number);
                let (offset, len) = first.map_or((0, map.span_len), |extent| (extent.offset, extent.len));
                return Err(self.wrong(base + u64::from(offset), len));
            }
        }
        Ok(())
    }

    fn wrong(&self, offset: u64, len: u32) -> Error {
        Error::WrongMap { base: self.archive, offset, end: offset + u64::from(len) }
    }
}

/// A chunk as the source has it, put together from the extents that lie in it.
struct Gathered {
    bytes: Vec<u8>,
    /// How much of it, from its start on, was put in.
    filled: usize,
    is_complete: bool,
}

impl Gathered {
    fn new(len: u32) -> Self {
        Self { bytes: vec![0; len as usize], filled: 0, is_complete: true }
    }

    /// Puts bytes in; false if they differ from those that another extent put there.
    fn add(&mut self, at: usize, bytes: &[u8]) -> bool {
        let end = at + bytes.len();
        let Some(place) = self.bytes.get_mut(at..end) else { return false };
        // Where a part is used by other images only, its bytes are not here to be hashed.
        self.is_complete &= at <= self.filled;
        if !self.is_complete {
            return true;
        }
        let known = (self.filled - at).min(bytes.len());
        if place[..known] != bytes[..known] {
            return false;
        }
        place[known..].copy_from_slice(&bytes[known..]);
        self.filled = self.filled.max(end);
        true
    }

    fn whole(&self) -> Option<&[u8]> {
        (self.is_complete && self.filled == self.bytes.len()).then_some(&self.bytes)
    }
}

/// Ranges of spans, sorted and joined, as far as there are so many spans.
fn united(mut ranges: Vec<Range<u64>>, spans: u64) -> Vec<Range<u64>> {
    ranges.iter_mut().for_each(|range| range.end = range.end.min(spans));
    ranges.retain(|range| !range.is_empty());
    ranges.sort_unstable_by_key(|range| range.start);
    ranges.dedup_by(|next, last| {
        let touches = next.start <= last.end;
        if touches {
            last.end = last.end.max(next.end);
        }
        touches
    });
    ranges
}

/// A random number below `limit`.
fn below(limit: u64) -> Result<u64> {
    let number = getrandom::u64().map_err(|error| Error::Io {
        action: "get random numbers for",
        path: "a sample".into(),
        source: error.into(),
    })?;
    // 2^64 is so much larger than any number of spans that no span is favoured.
    Ok(number % limit.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_spans_are_united() {
        let ranges = vec![7..9, 0..2, 2..3, 5..5, 8..20, 30..40];
        assert_eq!(united(ranges, 15), [0..3, 7..15]);
        assert!(united(vec![], 15).is_empty());
    }

    #[test]
    fn a_chunk_is_gathered_from_its_extents() {
        let mut chunk = Gathered::new(6);
        assert!(chunk.add(0, b"abcd") && chunk.whole().is_none());
        assert!(chunk.add(1, b"bc"), "the same again");
        assert!(!chunk.add(1, b"bx"), "not the same");
        assert!(chunk.add(4, b"ef"));
        assert_eq!(chunk.whole(), Some(&b"abcdef"[..]));
        let mut part = Gathered::new(6);
        assert!(part.add(3, b"def") && part.whole().is_none(), "its beginning lies in another image");
        assert!(!part.add(5, b"xy"), "beyond its end");
    }
}
