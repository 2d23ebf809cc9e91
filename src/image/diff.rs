//! What differs between two images of one repository, told from their map trees alone: no chunk is read.
//!
//! Equal ids mean equal content, so a subtree, or a span, that both images have at the same place is passed over without being read: the
//! cost lies in what changed, not in the size. Where ids are unequal, extents are compared. Memory is bounded whatever the images' sizes:
//! ranges are handed out in order as they are found, and chunks are counted in [`ChunkUse`].
//!
//! What is passed over is certainly equal. What is reported *may* differ: data that was cut into other chunks is reported although its bytes
//! may be the same, and a chunk is reported whole though one byte of it changed.

mod chunk_use;

use std::ops::Range;
use std::sync::Arc;

use serde::Serialize;

pub use chunk_use::{ChunkCounts, ChunkTally, ChunkUse};

use super::maps::{LocatedMap, LocatedNode, Maps};
use super::{Image, root_level};
use crate::extent::{span_count, span_len};
use crate::format::limits::NODE_FANOUT;
use crate::format::location::Location;
use crate::format::node::Child;
use crate::format::span_map::{ChunkRef, SpanMap};
use crate::repository::Error;

/// One of the two images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The first, usually the older.
    A,
    /// The second.
    B,
}

/// Both sides, in the order in which images are given.
const SIDES: [Side; 2] = [Side::A, Side::B];

/// The last of a node's 256 slots.
const LAST_SLOT: u8 = (NODE_FANOUT - 1) as u8;

/// How a range differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Its bytes may differ.
    Changed,
    /// It lies beyond the end of the first image.
    Added,
    /// It lies beyond the end of the second image.
    Removed,
    /// A map that describes it is lost in one image at least.
    Unknown,
}

/// A range of bytes that differs; not empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Offsets in the images.
    pub range: Range<u64>,
    /// How it differs.
    pub kind: Kind,
}

/// Which spans' chunks are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Those of spans whose maps differ: nothing else is read.
    ChangedSpans,
    /// All: every map of both images is read.
    AllSpans,
}

/// Takes what a comparison finds.
pub trait Findings {
    /// Why no more can be taken.
    type Error;

    /// Takes a difference: in ascending order, disjoint, and joined to neighbours of the same kind.
    ///
    /// # Errors
    /// One that ends the comparison.
    fn difference(&mut self, difference: Difference) -> Result<(), Self::Error>;

    /// Takes note of damage: what `side` has in `range` is not known.
    fn lost(&mut self, side: Side, range: Range<u64>, error: &Error);
}

/// Compares two images, first A, then B, and counts the chunks of `scope`. Damage is a finding, no error.
///
/// # Errors
/// What `findings` returned.
pub fn compare<F: Findings>(
    maps: &Maps,
    images: [&Image; 2],
    scope: Scope,
    chunks: &mut ChunkUse,
    findings: &mut F,
) -> Result<(), F::Error> {
    let sizes = images.map(|image| image.size);
    let common = sizes[0].min(sizes[1]);
    let mut walk = Walk { maps, images, common, scope, chunks, findings, pending: None };
    walk.roots()?;
    let kind = if sizes[0] < sizes[1] { Kind::Added } else { Kind::Removed };
    walk.found(common..sizes[0].max(sizes[1]), kind)?;
    walk.flush()
}

/// A place in the map tree: all spans of a subtree of this height.
#[derive(Debug, Clone, Copy)]
struct Region {
    /// 0 is one span, `h` the spans beneath a node of level `h - 1`.
    height: u8,
    /// Its first span.
    first: u64,
}

impl Region {
    /// Its bytes in an image of `size` bytes.
    fn bytes(self, size: u64, span_shift: u8) -> Range<u64> {
        let spans = span_count(size, span_shift);
        let end = self.first.saturating_add(1 << (8 * u32::from(self.height)));
        let start = self.first.min(spans) << span_shift;
        start.min(size)..(end.min(spans) << span_shift).min(size)
    }
}

/// A map, or a node with all beneath it, that was not read yet.
#[derive(Debug, Clone, Copy)]
struct Subtree {
    height: u8,
    child: Child,
    location: Location,
}

/// What an image has in a region: `None` where it is all hole.
type Part = Option<Subtree>;

/// What an image has in a region, one level further down.
enum Opened {
    Hole,
    /// The image's tree is lower than the other's: all of it lies in the first slot.
    Lower(Subtree),
    Node(Arc<LocatedNode>),
}

struct Walk<'a, F> {
    maps: &'a Maps,
    images: [&'a Image; 2],
    /// Where the shorter image ends.
    common: u64,
    scope: Scope,
    chunks: &'a mut ChunkUse,
    findings: &'a mut F,
    /// The last difference, which the next may continue.
    pending: Option<Difference>,
}

impl<F: Findings> Walk<'_, F> {
    fn roots(&mut self) -> Result<(), F::Error> {
        let levels = self.images.map(|image| root_level(span_count(image.size, image.span_shift)));
        let region = Region { height: levels[0].max(levels[1]) + 1, first: 0 };
        let maps = self.maps;
        let root = |side: Side| {
            let root = maps.root_child(self.images[side as usize])?;
            Ok(root.map(|(level, child, location)| Subtree { height: level + 1, child, location }))
        };
        let roots = SIDES.map(root);
        match self.both(region, roots)? {
            Some(parts) => self.region(region, parts),
            None => Ok(()),
        }
    }

    fn region(&mut self, region: Region, parts: [Part; 2]) -> Result<(), F::Error> {
        match parts {
            [None, None] => Ok(()),
            [Some(a), Some(b)] if a.height == b.height && a.child.id == b.child.id => {
                if self.scope == Scope::AllSpans {
                    self.count_equal(region, a);
                }
                Ok(())
            }
            parts if region.height == 0 => self.span(region, parts),
            parts => self.slots(region, parts),
        }
    }

    fn slots(&mut self, region: Region, parts: [Part; 2]) -> Result<(), F::Error> {
        let opened = SIDES.map(|side| self.open(region, parts[side as usize]));
        let Some(opened) = self.both(region, opened)? else { return Ok(()) };
        for slot in 0..=LAST_SLOT {
            let below = beneath(region, slot);
            let parts = SIDES.map(|side| opened[side as usize].part(self.images[side as usize], below, slot));
            self.region(below, parts)?;
        }
        Ok(())
    }

    fn open(&self, region: Region, part: Part) -> Result<Opened, Arc<Error>> {
        match part {
            None => Ok(Opened::Hole),
            Some(tree) if tree.height < region.height => Ok(Opened::Lower(tree)),
            Some(tree) => self.maps.node(tree.height - 1, &tree.child, tree.location).map(Opened::Node),
        }
    }

    fn span(&mut self, region: Region, parts: [Part; 2]) -> Result<(), F::Error> {
        let maps = SIDES.map(|side| self.map(side, region, parts[side as usize]));
        let Some(maps) = self.both(region, maps)? else { return Ok(()) };
        for (side, map) in SIDES.into_iter().zip(&maps) {
            if let Some(map) = map {
                self.chunks.add(side, map);
            }
        }
        let shift = self.images[0].span_shift;
        let base = region.first << shift;
        let [a, b] = maps.each_ref().map(|map| map.as_ref().map(|map| &map.map));
        unequal(a, b, span_len(self.common, shift, region.first), |range| {
            self.found(base + range.start..base + range.end, Kind::Changed)
        })
    }

    fn map(&self, side: Side, region: Region, part: Part) -> Result<Option<Arc<LocatedMap>>, Arc<Error>> {
        let image = self.images[side as usize];
        part.map(|tree| self.maps.map(image, region.first, &tree.child, tree.location)).transpose()
    }

    /// Both sides' values, unless one is lost: then the region is unknown.
    fn both<T>(
        &mut self,
        region: Region,
        values: [Result<T, Arc<Error>>; 2],
    ) -> Result<Option<[T; 2]>, F::Error> {
        match values {
            [Ok(a), Ok(b)] => Ok(Some([a, b])),
            values => {
                for (side, value) in SIDES.into_iter().zip(&values) {
                    if let Err(error) = value {
                        self.lost(side, region, error);
                    }
                }
                let unknown = region.bytes(self.common, self.images[0].span_shift);
                self.found(unknown, Kind::Unknown)?;
                Ok(None)
            }
        }
    }

    fn lost(&mut self, side: Side, region: Region, error: &Error) {
        let image = self.images[side as usize];
        self.chunks.miss();
        self.findings.lost(side, region.bytes(image.size, image.span_shift), error);
    }

    /// Counts the chunks of what both images have at the same place. What is lost there is lost in both.
    fn count_equal(&mut self, region: Region, tree: Subtree) {
        if let Err(error) = self.try_count_equal(region, tree) {
            SIDES.iter().for_each(|side| self.lost(*side, region, &error));
        }
    }

    fn try_count_equal(&mut self, region: Region, tree: Subtree) -> Result<(), Arc<Error>> {
        if region.height == 0 {
            if let Some(map) = self.map(Side::A, region, Some(tree))? {
                SIDES.iter().for_each(|side| self.chunks.add(*side, &map));
            }
            return Ok(());
        }
        let opened = self.open(region, Some(tree))?;
        for slot in 0..=LAST_SLOT {
            let below = beneath(region, slot);
            if let Some(tree) = opened.part(self.images[0], below, slot) {
                self.count_equal(below, tree);
            }
        }
        Ok(())
    }

    /// Hands out a difference once it is known that the next does not continue it.
    fn found(&mut self, range: Range<u64>, kind: Kind) -> Result<(), F::Error> {
        if range.is_empty() {
            return Ok(());
        }
        match &mut self.pending {
            Some(last) if last.kind == kind && last.range.end == range.start => last.range.end = range.end,
            _ => {
                self.flush()?;
                self.pending = Some(Difference { range, kind });
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), F::Error> {
        self.pending.take().map_or(Ok(()), |difference| self.findings.difference(difference))
    }
}

/// The region of one slot of a region that is more than a span.
fn beneath(region: Region, slot: u8) -> Region {
    let height = region.height - 1;
    Region { height, first: region.first + (u64::from(slot) << (8 * u32::from(height))) }
}

impl Opened {
    /// What lies in a slot. What a damaged tree claims beyond the image's end is no part of the image.
    fn part(&self, image: &Image, region: Region, slot: u8) -> Part {
        if region.first >= span_count(image.size, image.span_shift) {
            return None;
        }
        match self {
            Self::Hole => None,
            Self::Lower(tree) => (slot == 0).then_some(*tree),
            Self::Node(node) => {
                let (child, location) = node.child(slot)?;
                Some(Subtree { height: region.height, child, location })
            }
        }
    }
}

/// What stands at an offset of a span: a byte of a chunk, or `None` in a hole.
type Content = Option<(ChunkRef, u64)>;

/// Goes through the extents of a map once, in order.
struct Runs<'a> {
    map: Option<&'a SpanMap>,
    next: usize,
}

impl Runs<'_> {
    /// What stands at `offset`, which never goes back, and where that run ends.
    fn at(&mut self, offset: u64) -> (Content, u64) {
        let Some(map) = self.map else { return (None, u64::MAX) };
        while map.extents.get(self.next).is_some_and(|extent| extent.end() <= offset) {
            self.next += 1;
        }
        let Some(extent) = map.extents.get(self.next) else { return (None, u64::MAX) };
        let start = u64::from(extent.offset);
        if start > offset {
            return (None, start);
        }
        // The map was checked: its extents name chunks that it has.
        let chunk = map.chunks[extent.chunk as usize];
        (Some((chunk, u64::from(extent.chunk_offset) + offset - start)), extent.end())
    }
}

/// The ranges of the first `len` bytes of a span in which two maps say different things; neighbours are not joined.
fn unequal<E>(
    a: Option<&SpanMap>,
    b: Option<&SpanMap>,
    len: u64,
    mut found: impl FnMut(Range<u64>) -> Result<(), E>,
) -> Result<(), E> {
    let [mut a, mut b] = [a, b].map(|map| Runs { map, next: 0 });
    let mut at = 0;
    while at < len {
        let ((in_a, a_end), (in_b, b_end)) = (a.at(at), b.at(at));
        let end = a_end.min(b_end).min(len);
        if in_a != in_b {
            found(at..end)?;
        }
        at = end;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::BlobId;

    /// A map of extents given as (offset, chunk, offset in chunk, length); all chunks are 100 bytes long.
    fn map(chunks: &[u8], extents: &[(u32, u32, u32, u32)]) -> SpanMap {
        let chunk = |id: &u8| ChunkRef { id: BlobId([*id; 32]), plain_len: 100 };
        let extent = |&(offset, chunk, chunk_offset, len): &(u32, u32, u32, u32)| crate::extent::Extent {
            offset,
            chunk,
            chunk_offset,
            len,
        };
        SpanMap {
            span_len: 1000,
            chunks: chunks.iter().map(chunk).collect(),
            extents: extents.iter().map(extent).collect(),
        }
    }

    fn ranges(a: &SpanMap, b: &SpanMap, len: u64) -> Vec<Range<u64>> {
        let mut ranges = Vec::new();
        let mut push = |range| {
            ranges.push(range);
            Ok::<_, std::convert::Infallible>(())
        };
        let Ok(()) = unequal(Some(a), Some(b), len, &mut push);
        ranges
    }

    #[test]
    fn equal_is_the_same_place_of_the_same_chunk() {
        let a = map(&[1, 2], &[(0, 0, 0, 50), (50, 0, 60, 40), (200, 1, 0, 100)]);
        assert_eq!(ranges(&a, &a, 1000), []);
        // The numbers of chunks do not matter, nor how a run is divided; the offset in the chunk does.
        let b = map(&[2, 1], &[(0, 1, 0, 50), (50, 1, 50, 40), (200, 0, 0, 30), (240, 0, 40, 60)]);
        assert_eq!(ranges(&a, &b, 1000), [50..90, 230..240]);
        assert_eq!(ranges(&a, &b, 235), [50..90, 230..235]);
        assert_eq!(ranges(&a, &b, 50), []);
        // One chunk for another, and data for a hole.
        let c = map(&[3], &[(0, 0, 0, 100)]);
        assert_eq!(ranges(&a, &c, 1000), [0..50, 50..90, 90..100, 200..300]);
        let same_id = SpanMap { chunks: vec![ChunkRef { id: BlobId([3; 32]), plain_len: 200 }], ..c.clone() };
        assert_eq!(ranges(&c, &same_id, 1000).len(), 1, "one of these maps lies");
    }
}
