//! Reading the bytes of images: holes cost nothing, chunks come through one cache that all archives share.

use std::ops::Range;
use std::sync::Arc;

use super::Image;
use super::cache::{Asked, Cache, CacheCounts, Waited};
use super::maps::{LocatedMap, Maps};
use super::runs::{self, Chunk, Opener, Run, Wanted};
use crate::extent::{Extent, spans_of};
use crate::format::FormatError;
use crate::format::location::Location;
use crate::format::span_map::ChunkRef;
use crate::id::BlobId;
use crate::repository::{Error, Repository};
use crate::storage::patient::AT_ONCE;

/// What part of a cache budget maps and nodes get: they are some thousandths of the data, and asked for at every read.
const MAPS_SHARE: usize = 8;
/// Plain bytes of chunks that one reader looks up at once, unless a single one is longer.
const BATCH: usize = 1 << 20;
/// The part of the chunks' cache that may be filled with what nobody has asked for yet.
const AHEAD_SHARE: usize = 8;

/// Reads any image of a repository.
#[derive(Debug)]
pub struct ImageReader {
    repository: Arc<Repository>,
    maps: Maps,
    chunks: Cache<BlobId, Chunk, Error>,
    opener: Opener,
}

/// What takes pieces of an image, each with its byte offset there.
pub type Visitor<'a, E> = dyn FnMut(u64, &[u8]) -> Result<(), E> + 'a;

/// How the caches were used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReaderCounts {
    /// Tree nodes.
    pub nodes: CacheCounts,
    /// Span maps.
    pub maps: CacheCounts,
    /// Chunks.
    pub chunks: CacheCounts,
}

impl ImageReader {
    /// A reader whose caches take at most `cache_size` bytes together.
    #[must_use]
    pub fn new(repository: Arc<Repository>, cache_size: usize) -> Self {
        let for_maps = cache_size / MAPS_SHARE;
        let maps = Maps::new(repository.clone(), for_maps);
        Self { repository, maps, chunks: Cache::new(cache_size - for_maps), opener: Opener::new() }
    }

    /// The repository it reads.
    #[must_use]
    pub fn repository(&self) -> &Arc<Repository> {
        &self.repository
    }

    /// Map trees and span maps.
    #[must_use]
    pub fn maps(&self) -> &Maps {
        &self.maps
    }

    /// How the caches were used so far.
    #[must_use]
    pub fn counts(&self) -> ReaderCounts {
        let (nodes, maps) = self.maps.counts();
        ReaderCounts { nodes, maps, chunks: self.chunks.counts() }
    }

    /// Capacity and use of the caches, in bytes: nodes, span maps, chunks.
    #[must_use]
    pub fn memory(&self) -> [(usize, usize); 3] {
        let [nodes, maps] = self.maps.memory();
        [nodes, maps, (self.chunks.capacity(), self.chunks.bytes())]
    }

    /// Fills `buf` from an image's byte `offset` and returns how much of it lies in the image; less than all of `buf` only at the end.
    ///
    /// # Errors
    /// [`Error::LostBlob`] and the like, if any byte of the range cannot be had; `buf` is then unspecified.
    pub fn read_at(&self, image: &Image, offset: u64, buf: &mut [u8]) -> Result<usize, Arc<Error>> {
        let left = image.size.saturating_sub(offset);
        let len = usize::try_from(left).map_or(buf.len(), |left| left.min(buf.len()));
        let buf = &mut buf[..len];
        let range = offset..offset + len as u64;
        for span in spans_of(&range, image.span_shift) {
            let base = span << image.span_shift;
            let start = range.start.max(base);
            let end = range.end.min(base + (1 << image.span_shift));
            let part = &mut buf[(start - offset) as usize..(end - offset) as usize];
            match self.maps.span(image, span)? {
                None => part.fill(0),
                Some(map) => self.read_span(&map, start - base, part)?,
            }
        }
        Ok(len)
    }

    /// Whether a range, as far as it lies in the image, is all hole. Reads maps only.
    ///
    /// # Errors
    /// As [`Self::read_at`].
    pub fn is_hole(&self, image: &Image, range: &Range<u64>) -> Result<bool, Arc<Error>> {
        let range = range.start.min(image.size)..range.end.min(image.size);
        for span in spans_of(&range, image.span_shift) {
            let base = span << image.span_shift;
            let part = range.start.max(base) - base..range.end.min(base + (1 << image.span_shift)) - base;
            if self.maps.span(image, span)?.is_some_and(|map| !used_by(&map, part).is_empty()) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Fills `buf` from byte `offset` of a span.
    fn read_span(&self, map: &LocatedMap, offset: u64, buf: &mut [u8]) -> Result<(), Arc<Error>> {
        let mut filled = offset;
        let mut used = used_by(map, offset..offset + buf.len() as u64);
        while !used.is_empty() {
            let together;
            (together, used) = used.split_at(batch(map, used));
            let numbers: Vec<usize> = together.iter().map(|extent| extent.chunk as usize).collect();
            let chunks = self.chunks(map, &numbers)?;
            for (extent, chunk) in together.iter().zip(chunks) {
                let from = filled.max(extent.offset.into());
                let to = (offset + buf.len() as u64).min(extent.end());
                buf[(filled - offset) as usize..(from - offset) as usize].fill(0);
                let part = &mut buf[(from - offset) as usize..(to - offset) as usize];
                let at = extent.chunk_offset as usize + (from - u64::from(extent.offset)) as usize;
                // The map's check and the chunk's length, both verified, make this range exist.
                if !chunk.copy_to(at, part) {
                    return Err(wrong_length());
                }
                filled = to;
            }
        }
        buf[(filled - offset) as usize..].fill(0);
        Ok(())
    }

    /// Chunks of a span. Those that are not there and that nobody loads are read together.
    fn chunks(&self, map: &LocatedMap, numbers: &[usize]) -> Result<Vec<Chunk>, Arc<Error>> {
        let places: Vec<(ChunkRef, Location)> =
            numbers.iter().map(|number| place_of(map, *number)).collect::<Result<_, _>>()?;
        let mut found: Vec<Option<Chunk>> = vec![None; places.len()];
        let mut mine = Vec::new();
        let mut loading = Vec::new();
        let asked = self.chunks.ask_all(places.iter().map(|(chunk, _)| chunk.id));
        for (slot, asked) in asked.into_iter().enumerate() {
            let (chunk, at) = places[slot];
            match asked {
                Asked::Ready(chunk) => found[slot] = Some(chunk),
                Asked::Loading(flight) => loading.push((slot, flight)),
                Asked::Mine(claim) => mine.push(Wanted { chunk, at, own: (slot, claim) }),
            }
        }
        let mut failed = None;
        self.opener.load(self.repository.packs(), mine, &mut |slot, landed| match landed {
            Ok(chunk) => found[slot] = Some(chunk),
            Err(error) => failed = Some(error),
        });
        if let Some(error) = failed {
            return Err(error);
        }
        let ends = self.repository.request_ends();
        for (slot, flight) in loading {
            found[slot] = match self.chunks.wait(&flight, ends) {
                Waited::Landed(landed) => Some(landed?),
                Waited::GivenUp => self.chunks(map, &[numbers[slot]])?.pop(),
                Waited::TooLong => {
                    let (chunk, at) = places[slot];
                    Some(self.opener.open_alone(self.repository.packs(), &chunk, at)?)
                }
            };
        }
        found.into_iter().map(|chunk| chunk.ok_or_else(wrong_length)).collect()
    }

    /// How many bytes of chunks may be loaded that nobody has asked for yet.
    #[must_use]
    pub fn ahead_limit(&self) -> usize {
        self.chunks.capacity() / AHEAD_SHARE
    }

    /// Loads chunks of a range of an image that nobody has and nobody loads. What cannot be read is left to who asks for it.
    pub fn load_ahead(&self, image: &Image, range: &Range<u64>) {
        let range = range.start..range.end.min(image.size);
        for span in spans_of(&range, image.span_shift) {
            let base = span << image.span_shift;
            let Ok(Some(map)) = self.maps.span(image, span) else { continue };
            let part = range.start.max(base) - base..range.end.min(base + (1 << image.span_shift)) - base;
            let mut used = used_by(&map, part);
            while !used.is_empty() && self.chunks.ahead_bytes() < self.ahead_limit() {
                let together;
                (together, used) = used.split_at(batch(&map, used));
                let places = together.iter().filter_map(|extent| place_of(&map, extent.chunk as usize).ok());
                let known = self.chunks.are_known(places.clone().map(|(chunk, _)| chunk.id));
                let wanted = places.zip(known).filter(|(_, is_known)| !is_known);
                let wanted = wanted.map(|((chunk, at), _)| Wanted { chunk, at, own: () });
                // No more is claimed than is read at once: who wants one of the others meanwhile does not wait for these.
                for runs in runs::into_runs(wanted.collect()).chunks(AT_ONCE) {
                    self.load_runs_ahead(runs);
                }
            }
        }
    }

    fn load_runs_ahead(&self, runs: &[Run<()>]) {
        let places = || runs.iter().flatten();
        let claims = self.chunks.claim_ahead(places().map(|wanted| wanted.chunk.id));
        let wanted = claims.into_iter().zip(places());
        let wanted = wanted
            .filter_map(|(claim, &Wanted { chunk, at, .. })| Some(Wanted { chunk, at, own: (0, claim?) }));
        self.opener.load(self.repository.packs(), wanted.collect(), &mut |_, _| {});
    }

    /// Hands the data of a range to `take`, in pieces of at most a chunk, each with its byte offset in the image, in no order; returns how many
    /// bytes that were, less than the range has if there are holes in it. For who reads everything once: chunks come past the cache.
    ///
    /// # Errors
    /// Of `take`; [`Error::LostBlob`] and the like, if any byte of the range cannot be had. Some of it has been handed on then.
    pub fn visit<E: From<Arc<Error>>>(
        &self,
        image: &Image,
        range: &Range<u64>,
        take: &mut Visitor<'_, E>,
    ) -> Result<u64, E> {
        let range = range.start.min(image.size)..range.end.min(image.size);
        let mut handed = 0;
        for span in spans_of(&range, image.span_shift) {
            let Some(map) = self.maps.span(image, span)? else { continue };
            let base = span << image.span_shift;
            let part = range.start.max(base) - base..range.end.min(base + (1 << image.span_shift)) - base;
            let mut used = used_by(&map, part.clone());
            while !used.is_empty() {
                let together;
                (together, used) = used.split_at(batch(&map, used));
                self.visit_batch(&map, together, &part, &mut |offset, bytes| {
                    handed += bytes.len() as u64;
                    take(base + offset, bytes)
                })?;
            }
        }
        Ok(handed)
    }

    /// Hands on what extents hold of a range of their span. A chunk that several of them show is opened once.
    fn visit_batch<E: From<Arc<Error>>>(
        &self,
        map: &LocatedMap,
        extents: &[Extent],
        range: &Range<u64>,
        take: &mut Visitor<'_, E>,
    ) -> Result<(), E> {
        let packs = self.repository.packs();
        let mut extents = extents.to_vec();
        extents.sort_unstable_by_key(|extent| (extent.chunk, extent.offset));
        let mut wanted = Vec::new();
        for own in extents.chunk_by(|one, next| one.chunk == next.chunk) {
            let (chunk, at) = place_of(map, own[0].chunk as usize)?;
            wanted.push(Wanted { chunk, at, own });
        }
        let mut done = Ok(());
        self.opener.open(packs, wanted, &mut |Wanted { chunk, at, own }, opened| {
            if done.is_err() {
                return;
            }
            let each = |plain: &[u8]| {
                own.iter().try_for_each(|extent| {
                    let from = range.start.max(extent.offset.into());
                    let len = range.end.min(extent.end()) - from;
                    let at = u64::from(extent.chunk_offset) + (from - u64::from(extent.offset));
                    // The map's check and the chunk's length, both verified, make this range exist.
                    let part = plain.get(at as usize..(at + len) as usize).ok_or_else(wrong_length)?;
                    take(from, part)
                })
            };
            let handed = runs::with_plain(packs, &chunk, at, opened, each);
            done = handed.unwrap_or_else(|error| Err(Arc::new(error).into()));
        });
        done
    }
}

/// The extents of a span that overlap a range of it.
fn used_by(map: &LocatedMap, range: Range<u64>) -> &[Extent] {
    let extents = &map.map.extents;
    let first = extents.partition_point(|extent| extent.end() <= range.start);
    let behind = extents.partition_point(|extent| u64::from(extent.offset) < range.end);
    &extents[first..behind.max(first)]
}

/// How many extents, of those that are left, are looked up at once: one at least.
fn batch(map: &LocatedMap, extents: &[Extent]) -> usize {
    let mut bytes = 0;
    let fits = |extent: &&Extent| {
        bytes += map.map.chunks.get(extent.chunk as usize).map_or(0, |chunk| chunk.plain_len as usize);
        bytes <= BATCH
    };
    extents.iter().take_while(fits).count().max(1)
}

fn place_of(map: &LocatedMap, number: usize) -> Result<(ChunkRef, Location), Arc<Error>> {
    let place = map.map.chunks.get(number).zip(map.locations.get(number));
    place.map(|(chunk, at)| (*chunk, *at)).ok_or_else(wrong_length)
}

fn wrong_length() -> Arc<Error> {
    Arc::new(FormatError::malformed("span map", "an extent leaves its chunk").into())
}
