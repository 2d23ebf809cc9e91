//! Span maps: which chunks hold a span's data, and where its holes are (`docs/format.md`, section 7).

use super::location::{Location, read_hints, write_hints};
use super::wire::Reader;
use super::{FormatError, limits};
use crate::extent::Extent;
use crate::id::BlobId;

const WHAT: &str = "span map";

/// A chunk that a span uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkRef {
    /// Its id.
    pub id: BlobId,
    /// Length of its plain bytes.
    pub plain_len: u32,
}

/// The content of a span map, which its id covers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SpanMap {
    /// Length of the span in bytes.
    pub span_len: u32,
    /// The chunks, each once, in order of first use.
    pub chunks: Vec<ChunkRef>,
    /// The data, sorted by offset; everything else is a hole.
    pub extents: Vec<Extent>,
}

impl SpanMap {
    /// Bytes that are not in holes.
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        self.extents.iter().map(|extent| u64::from(extent.len)).sum()
    }

    /// The content as stored and hashed.
    #[must_use]
    pub fn content(&self) -> Vec<u8> {
        let count = |len: usize| u32::try_from(len).expect("a span has few chunks and extents").to_le_bytes();
        let mut out = Vec::with_capacity(12 + 36 * self.chunks.len() + 16 * self.extents.len());
        out.extend_from_slice(&self.span_len.to_le_bytes());
        out.extend_from_slice(&count(self.chunks.len()));
        out.extend_from_slice(&count(self.extents.len()));
        for chunk in &self.chunks {
            out.extend_from_slice(chunk.id.as_bytes());
            out.extend_from_slice(&chunk.plain_len.to_le_bytes());
        }
        for Extent { offset, chunk, chunk_offset, len } in &self.extents {
            [offset, chunk, chunk_offset, len]
                .iter()
                .for_each(|value| out.extend_from_slice(&value.to_le_bytes()));
        }
        out
    }

    /// Reads and checks the content.
    ///
    /// # Errors
    /// [`FormatError`] for every broken rule of the format.
    pub fn from_content(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(WHAT, bytes);
        let span_len = reader.u32()?;
        if span_len > 1 << limits::MAX_SPAN_SHIFT {
            let limit = 1 << limits::MAX_SPAN_SHIFT;
            return Err(FormatError::OutOfBounds { what: "span length", value: span_len.into(), limit });
        }
        let [chunk_count, extent_count] = [reader.u32()?, reader.u32()?];
        let chunk_count = reader.check_count("chunks of a span", chunk_count, limits::MAX_SPAN_CHUNKS, 36)?;
        let mut chunks = Vec::with_capacity(chunk_count);
        for _ in 0..chunk_count {
            chunks.push(ChunkRef { id: BlobId(reader.array()?), plain_len: reader.u32()? });
        }
        let extent_count =
            reader.check_count("extents of a span", extent_count, limits::MAX_SPAN_EXTENTS, 16)?;
        let mut extents = Vec::with_capacity(extent_count);
        for _ in 0..extent_count {
            let [offset, chunk, chunk_offset, len] =
                [reader.u32()?, reader.u32()?, reader.u32()?, reader.u32()?];
            extents.push(Extent { offset, chunk, chunk_offset, len });
        }
        reader.finish()?;
        let map = Self { span_len, chunks, extents };
        map.check().map_err(|reason| FormatError::malformed(WHAT, reason))?;
        Ok(map)
    }

    fn check(&self) -> Result<(), &'static str> {
        if self.extents.is_empty() {
            return Err("a span without data has no map");
        }
        let distinct: std::collections::HashSet<_> = self.chunks.iter().map(|chunk| chunk.id).collect();
        if distinct.len() != self.chunks.len() {
            return Err("a chunk stands twice");
        }
        if self.chunks.iter().any(|chunk| chunk.plain_len == 0 || chunk.plain_len > limits::MAX_CHUNK) {
            return Err("a chunk's length is out of bounds");
        }
        let mut end = 0;
        let mut first_unused = 0;
        for (i, extent) in self.extents.iter().enumerate() {
            let Some(chunk) = self.chunks.get(extent.chunk as usize) else {
                return Err("an extent names a chunk beyond the table");
            };
            if extent.len == 0 || u64::from(extent.offset) < end || extent.end() > self.span_len.into() {
                return Err("extents are empty, overlap, or leave the span");
            }
            if u64::from(extent.chunk_offset) + u64::from(extent.len) > chunk.plain_len.into() {
                return Err("an extent leaves its chunk");
            }
            if extent.chunk > first_unused {
                return Err("chunks are not in order of first use");
            }
            if i > 0 && self.extents[i - 1].continues(extent) {
                return Err("neighbouring extents are not joined");
            }
            first_unused = first_unused.max(extent.chunk + 1);
            end = extent.end();
        }
        if first_unused as usize == self.chunks.len() { Ok(()) } else { Err("a chunk is not used") }
    }
}

/// The stored form: content, with hints for each chunk.
///
/// # Panics
/// If there is not one location for each of the map's chunks.
#[must_use]
pub fn with_hints(content: &[u8], locations: &[Location]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + 64 + 10 * locations.len());
    let len = u32::try_from(content.len()).expect("maps and nodes are far below 4 GiB");
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(content);
    write_hints(&mut out, locations);
    out
}

/// Splits the stored form of a map or node into content and hints.
///
/// # Errors
/// [`FormatError`].
pub(crate) fn split_content<'a>(
    what: &'static str,
    plain: &'a [u8],
) -> Result<(&'a [u8], Reader<'a>), FormatError> {
    let mut reader = Reader::new(what, plain);
    let len = reader.count(what, u32::MAX, 1)?;
    Ok((reader.bytes(len)?, reader))
}

/// The content of a stored map, not yet verified or parsed.
///
/// # Errors
/// [`FormatError`].
pub fn content_of(plain: &[u8]) -> Result<&[u8], FormatError> {
    split_content(WHAT, plain).map(|(content, _)| content)
}

/// Reads the stored form: the map, and one location for each chunk.
///
/// # Errors
/// [`FormatError`].
pub fn from_bytes(plain: &[u8]) -> Result<(SpanMap, Vec<Location>), FormatError> {
    let (content, mut reader) = split_content(WHAT, plain)?;
    let map = SpanMap::from_content(content)?;
    let locations = read_hints(&mut reader, map.chunks.len())?;
    reader.finish()?;
    Ok((map, locations))
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::location::PackRef;
    use crate::id::PackId;

    pub(crate) fn location(pack: u8, offset: u32) -> Location {
        Location { pack: PackRef { id: PackId([pack; 16]), mode: 1, epoch: 1 }, offset, sealed_len: 77 }
    }

    fn sample() -> (SpanMap, Vec<Location>) {
        let chunk = |id, plain_len| ChunkRef { id: BlobId([id; 32]), plain_len };
        let extent = |offset, chunk, chunk_offset, len| Extent { offset, chunk, chunk_offset, len };
        let extents = vec![extent(0, 0, 0, 4096), extent(8192, 0, 4096, 100), extent(12288, 1, 0, 5)];
        let map = SpanMap { span_len: 1 << 24, chunks: vec![chunk(1, 4196), chunk(2, 5)], extents };
        (map, vec![location(1, 40), location(2, 50)])
    }

    #[test]
    fn golden_bytes() {
        let (map, locations) = sample();
        let bytes = with_hints(&map.content(), &locations);
        assert_eq!(bytes.len(), 4 + 12 + 2 * 36 + 3 * 16 + 2 + 2 * 21 + 2 * 10);
        assert_eq!(&bytes[..16], &[132, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 3, 0, 0, 0]);
        let hash = blake3::hash(&bytes).to_hex();
        assert_eq!(&hash[..16], "7056f286913bd73d");
        assert_eq!(from_bytes(&bytes).unwrap(), (map, locations));
    }

    #[test]
    fn every_rule_is_checked() {
        type Break = fn(&mut SpanMap);
        let breaks: [Break; 9] = [
            |m| m.extents.clear(),
            |m| m.extents[1].offset = 4095,
            |m| m.extents[1].chunk = 2,
            |m| m.extents[1].len = 0,
            |m| m.extents[1].len = 101,
            |m| m.extents[2].offset = 1 << 24,
            |m| m.extents[1].offset = 4096,
            |m| m.chunks[1].id = m.chunks[0].id,
            |m| m.chunks.push(ChunkRef { id: BlobId([9; 32]), plain_len: 1 }),
        ];
        for (i, broken) in breaks.iter().enumerate() {
            let (mut map, _) = sample();
            broken(&mut map);
            assert!(SpanMap::from_content(&map.content()).is_err(), "rule {i}");
        }
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = from_bytes(&bytes);
        }

        #[test]
        fn mutated_maps_never_panic(at in 0usize..196, value: u8) {
            let (map, locations) = sample();
            let mut bytes = with_hints(&map.content(), &locations);
            let at = at % bytes.len();
            bytes[at] = value;
            let _ = from_bytes(&bytes);
        }
    }
}
