//! Cutting the data of a span into named chunks, along the cuts that were made in the same place before.
//!
//! Looking for cuts costs more than naming what lies between them. Where data is as it was, it is cut as it was: so each former chunk is named first, in its
//! place, and only where the name differs are cuts looked for, until one meets a former one again. The chunks are the same as without.

use crate::chunker::Chunker;
use crate::codec::CodecError;
use crate::codec::keys::{BlobKind, Keyring};
use crate::format::span_map::SpanMap;
use crate::id::BlobId;

/// A chunk of the data that was there before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FormerChunk {
    /// Where it starts in that data, and its length, in bytes.
    start: u64,
    len: u32,
    id: BlobId,
    /// Whether it ends with the data.
    is_last: bool,
}

/// How the data of a span was cut before.
#[derive(Debug, Clone, Default)]
pub(super) struct FormerCuts(Vec<FormerChunk>);

impl FormerCuts {
    /// Those of a map. Chunks that do not lie in the data as a whole do no harm: their names tell.
    pub(super) fn of(map: &SpanMap) -> Self {
        let mut chunks: Vec<FormerChunk> = Vec::with_capacity(map.chunks.len());
        let mut start = 0;
        for extent in &map.extents {
            if let Some(chunk) = map.chunks.get(extent.chunk as usize).filter(|_| extent.chunk_offset == 0) {
                chunks.push(FormerChunk { start, len: chunk.plain_len, id: chunk.id, is_last: false });
            }
            start += u64::from(extent.len);
        }
        if let Some(last) = chunks.last_mut() {
            last.is_last = true;
        }
        Self(chunks)
    }
}

/// Cuts the data of one span, a chunk at a time.
#[derive(Debug)]
pub(super) struct Cutter<'a> {
    chunker: &'a Chunker,
    keyring: &'a Keyring,
    /// How many bytes were cut.
    at: u64,
    former: &'a [FormerChunk],
    kept: usize,
}

impl<'a> Cutter<'a> {
    pub(super) fn new(chunker: &'a Chunker, keyring: &'a Keyring, former: &'a FormerCuts) -> Self {
        Self { chunker, keyring, at: 0, former: &former.0, kept: 0 }
    }

    /// How many chunks so far are former ones in their places, for which no cut was looked for.
    pub(super) fn kept(&self) -> usize {
        self.kept
    }

    /// The next chunk, its length and its name. `rest` is what follows those before, and not empty: all of it, or more than the longest chunk has.
    pub(super) fn cut(&mut self, rest: &[u8]) -> Result<(usize, BlobId), CodecError> {
        let (len, id) = self.first_of(rest)?;
        self.at += len as u64;
        Ok((len, id))
    }

    fn name(&self, plain: &[u8]) -> Result<BlobId, CodecError> {
        self.keyring.blob_id(BlobKind::Chunk, plain)
    }

    fn first_of(&mut self, rest: &[u8]) -> Result<(usize, BlobId), CodecError> {
        let named = match self.former_len(rest) {
            Some((former, len)) => {
                let id = self.name(&rest[..len])?;
                if id == former {
                    self.kept += 1;
                    return Ok((len, id));
                }
                Some((len, id))
            }
            None => None,
        };
        let len = self.chunker.first_len(rest);
        let id = match named {
            Some((named, id)) if named == len => id,
            _ => self.name(&rest[..len])?,
        };
        Ok((len, id))
    }

    /// The former chunk that began here, if it may end where it ended.
    fn former_len(&mut self, rest: &[u8]) -> Option<(BlobId, usize)> {
        let passed = self.former.iter().take_while(|chunk| chunk.start < self.at).count();
        self.former = &self.former[passed..];
        let chunk = self.former.first().filter(|chunk| chunk.start == self.at)?;
        let len = chunk.len as usize;
        let may = self.chunker.may_cut(rest, len) && (!chunk.is_last || len == rest.len());
        may.then_some((chunk.id, len))
    }
}

#[cfg(test)]
mod tests;
