//! Ranges of an image: the hole grid, extents, spans.

use std::ops::Range;

/// Holes lie on a grid of this many bytes, anchored at image offset 0: the page size, and the block size of most filesystems.
pub const HOLE_UNIT: u64 = 4096;

/// Where a run of data of one span lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Offset in the span, in bytes.
    pub offset: u32,
    /// Which of the span map's chunks holds the data.
    pub chunk: u32,
    /// Offset in the chunk's plain bytes.
    pub chunk_offset: u32,
    /// Length in bytes, at least 1.
    pub len: u32,
}

impl Extent {
    /// The end of the extent in its span. Cannot overflow for an extent that was decoded or built within a span.
    #[must_use]
    pub fn end(&self) -> u64 {
        u64::from(self.offset) + u64::from(self.len)
    }

    /// Whether `next` continues this extent both in the span and in the same chunk.
    #[must_use]
    pub fn continues(&self, next: &Extent) -> bool {
        self.chunk == next.chunk
            && self.end() == u64::from(next.offset)
            && u64::from(self.chunk_offset) + u64::from(self.len) == u64::from(next.chunk_offset)
    }
}

/// Appends `extent`, joining it to the last one where it continues that one.
pub fn push_extent(extents: &mut Vec<Extent>, extent: Extent) {
    match extents.last_mut() {
        Some(last) if last.continues(&extent) => last.len += extent.len,
        _ => extents.push(extent),
    }
}

/// The spans that `range` touches, given the size of a span as a power of two.
#[must_use]
pub fn spans_of(range: &Range<u64>, span_shift: u8) -> Range<u64> {
    if range.is_empty() {
        return 0..0;
    }
    (range.start >> span_shift)..((range.end - 1) >> span_shift) + 1
}

/// How many spans an image of `size` bytes has.
#[must_use]
pub fn span_count(size: u64, span_shift: u8) -> u64 {
    spans_of(&(0..size), span_shift).end
}

/// The length in bytes of span number `span` of an image of `size` bytes.
#[must_use]
pub fn span_len(size: u64, span_shift: u8, span: u64) -> u64 {
    size.saturating_sub(span << span_shift).min(1 << span_shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_cover_their_range() {
        assert_eq!(spans_of(&(0..0), 24), 0..0);
        assert_eq!(spans_of(&(0..1), 24), 0..1);
        assert_eq!(spans_of(&((1 << 24) - 1..(1 << 24) + 1), 24), 0..2);
        assert_eq!(span_count(1 << 24, 24), 1);
        assert_eq!(span_count((1 << 24) + 1, 24), 2);
        assert_eq!(span_len((1 << 24) + 5, 24, 1), 5);
        assert_eq!(span_len(5, 24, 7), 0);
    }

    #[test]
    fn neighbours_of_one_chunk_join() {
        let mut extents = Vec::new();
        push_extent(&mut extents, Extent { offset: 0, chunk: 0, chunk_offset: 0, len: 10 });
        push_extent(&mut extents, Extent { offset: 10, chunk: 0, chunk_offset: 10, len: 5 });
        push_extent(&mut extents, Extent { offset: 15, chunk: 1, chunk_offset: 0, len: 5 });
        push_extent(&mut extents, Extent { offset: 30, chunk: 1, chunk_offset: 5, len: 5 });
        assert_eq!(extents.len(), 3);
        assert_eq!(extents[0].len, 15);
    }
}
