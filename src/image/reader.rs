//! Reading the bytes of images: holes cost nothing, chunks come through one cache that all archives share.

use std::sync::Arc;

use super::Image;
use super::cache::{Cache, CacheCounts};
use super::maps::{LocatedMap, Maps};
use crate::codec::keys::BlobKind;
use crate::extent::{Extent, spans_of};
use crate::format::FormatError;
use crate::id::BlobId;
use crate::repository::{Error, Repository};

/// What part of a cache budget maps and nodes get: they are some thousandths of the data, and asked for at every read.
const MAPS_SHARE: usize = 8;

/// Reads any image of a repository.
#[derive(Debug)]
pub struct ImageReader {
    repository: Arc<Repository>,
    maps: Maps,
    chunks: Cache<BlobId, Arc<Vec<u8>>, Error>,
}

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
        Self { repository, maps, chunks: Cache::new(cache_size - for_maps) }
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

    /// Fills `buf` from byte `offset` of a span.
    fn read_span(&self, map: &LocatedMap, offset: u64, buf: &mut [u8]) -> Result<(), Arc<Error>> {
        let end = offset + buf.len() as u64;
        let mut filled = offset;
        let first = map.map.extents.partition_point(|extent| extent.end() <= offset);
        for extent in map.map.extents[first..].iter().take_while(|extent| u64::from(extent.offset) < end) {
            let from = filled.max(extent.offset.into());
            let to = end.min(extent.end());
            buf[(filled - offset) as usize..(from - offset) as usize].fill(0);
            let part = &mut buf[(from - offset) as usize..(to - offset) as usize];
            self.read_extent(map, extent, from - u64::from(extent.offset), part)?;
            filled = to;
        }
        buf[(filled - offset) as usize..].fill(0);
        Ok(())
    }

    fn read_extent(
        &self,
        map: &LocatedMap,
        extent: &Extent,
        skip: u64,
        part: &mut [u8],
    ) -> Result<(), Arc<Error>> {
        let chunk = self.chunk(map, extent.chunk as usize)?;
        let from = extent.chunk_offset as usize + skip as usize;
        // The map's check and the chunk's length, both verified, make this range exist.
        let bytes = chunk.get(from..from + part.len()).ok_or_else(wrong_length)?;
        part.copy_from_slice(bytes);
        Ok(())
    }

    /// A chunk of a span, opened and verified once however many readers want it.
    ///
    /// # Errors
    /// As [`Self::read_at`].
    pub fn chunk(&self, map: &LocatedMap, number: usize) -> Result<Arc<Vec<u8>>, Arc<Error>> {
        let (Some(chunk), Some(location)) = (map.map.chunks.get(number), map.locations.get(number)) else {
            return Err(wrong_length());
        };
        self.chunks.get_or_load(chunk.id, || {
            let plain = self.repository.packs().read(BlobKind::Chunk, &chunk.id, *location)?;
            if plain.len() != chunk.plain_len as usize {
                return Err(FormatError::malformed("chunk", "its length is not what its map says").into());
            }
            let bytes = plain.len();
            Ok((Arc::new(plain), bytes))
        })
    }
}

fn wrong_length() -> Arc<Error> {
    Arc::new(FormatError::malformed("span map", "an extent leaves its chunk").into())
}
