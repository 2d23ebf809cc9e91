//! Reading map trees: from a span's number to its map, and from an offset to the next data or hole.

use std::ops::Range;
use std::sync::Arc;

use super::cache::{Cache, CacheCounts};
use super::{Image, root_level};
use crate::codec::keys::BlobKind;
use crate::extent::{span_count, span_len};
use crate::format::FormatError;
use crate::format::location::Location;
use crate::format::node::{self, Child, Node};
use crate::format::span_map::{self, SpanMap};
use crate::id::{BlobId, PackId};
use crate::repository::{Error, Repository};

/// A span map with the places of its chunks.
#[derive(Debug)]
pub struct LocatedMap {
    /// The map.
    pub map: SpanMap,
    /// One place for each chunk.
    pub locations: Vec<Location>,
}

/// A span map, and where it lies itself.
#[derive(Debug, Clone)]
pub struct PlacedMap {
    /// Its id.
    pub id: BlobId,
    /// Where its tree says that it lies.
    pub location: Location,
    /// The map.
    pub map: Arc<LocatedMap>,
}

/// A node with the places of its children.
#[derive(Debug)]
pub(super) struct LocatedNode {
    pub(super) node: Node,
    pub(super) locations: Vec<Location>,
}

/// A child found in a node, and where it lies.
pub(super) type Found = (Child, Location);

/// A node or map where it lies: the same one elsewhere may hint at other places for what is beneath it, and only they may be right.
type Place = (BlobId, PackId, u32);

fn place(id: &BlobId, at: Location) -> Place {
    (*id, at.pack.id, at.offset)
}

/// Reads trees and maps, through caches of their own so that no flood of chunks displaces them.
#[derive(Debug)]
pub struct Maps {
    repository: Arc<Repository>,
    nodes: Cache<Place, Arc<LocatedNode>, Error>,
    maps: Cache<Place, Arc<LocatedMap>, Error>,
}

impl Maps {
    /// Caches of at most `capacity` bytes, a quarter of it for nodes.
    #[must_use]
    pub fn new(repository: Arc<Repository>, capacity: usize) -> Self {
        let nodes = capacity / 4;
        Self { repository, nodes: Cache::new(nodes), maps: Cache::new(capacity - nodes) }
    }

    /// How the caches were used: nodes, span maps.
    #[must_use]
    pub fn counts(&self) -> (CacheCounts, CacheCounts) {
        (self.nodes.counts(), self.maps.counts())
    }

    /// Capacity and use of the caches, in bytes: nodes, span maps.
    #[must_use]
    pub fn memory(&self) -> [(usize, usize); 2] {
        [(self.nodes.capacity(), self.nodes.bytes()), (self.maps.capacity(), self.maps.bytes())]
    }

    /// The map of a span; `None` if all of it is a hole.
    ///
    /// # Errors
    /// [`Error::LostBlob`] and the like.
    pub fn span(&self, image: &Image, span: u64) -> Result<Option<Arc<LocatedMap>>, Arc<Error>> {
        let Some((child, location)) = self.found(image, span)? else { return Ok(None) };
        self.map(image, span, &child, location).map(Some)
    }

    /// What leads to the map of a span.
    fn found(&self, image: &Image, span: u64) -> Result<Option<Found>, Arc<Error>> {
        let Some(mut node) = self.root(image)? else { return Ok(None) };
        loop {
            let level = node.node.level;
            let Some((child, location)) = node.child(slot(span, level)) else { return Ok(None) };
            if level == 0 {
                return Ok(Some((child, location)));
            }
            node = self.node(level - 1, &child, location)?;
        }
    }

    /// The map of a span with its own id and place; `None` if all of it is a hole.
    ///
    /// # Errors
    /// As [`Self::span`].
    pub fn placed(&self, image: &Image, span: u64) -> Result<Option<PlacedMap>, Arc<Error>> {
        let Some((child, location)) = self.found(image, span)? else { return Ok(None) };
        let map = self.map(image, span, &child, location)?;
        Ok(Some(PlacedMap { id: child.id, location, map }))
    }

    /// The first span at or after `from` that is not all hole. Reads nodes only.
    ///
    /// # Errors
    /// As [`Self::span`].
    pub fn next_span(&self, image: &Image, from: u64) -> Result<Option<u64>, Arc<Error>> {
        let Some(root) = self.root(image)? else { return Ok(None) };
        self.span_beneath(image, &root, 0, from)
    }

    fn span_beneath(
        &self,
        image: &Image,
        node: &LocatedNode,
        first_span: u64,
        from: u64,
    ) -> Result<Option<u64>, Arc<Error>> {
        let level = node.node.level;
        // The slot of `from`, if it lies beneath; all slots, if it lies before.
        let least = if from > first_span { slot_beneath(from - first_span, level) } else { 0 };
        let least = node.node.children.partition_point(|child| u64::from(child.slot) < least);
        for (child, location) in node.iter().skip(least) {
            let (span, _) = reach(image, node, first_span, &child);
            if level == 0 {
                return Ok(Some(span));
            }
            let below = self.node(level - 1, &child, location)?;
            let found = self.span_beneath(image, &below, span, from)?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    pub(super) fn root(&self, image: &Image) -> Result<Option<Arc<LocatedNode>>, Arc<Error>> {
        let Some((level, whole, location)) = self.root_child(image)? else { return Ok(None) };
        self.node(level, &whole, location).map(Some)
    }

    /// The root of an image's tree as if it were a child, with its level. Reads nothing.
    pub(super) fn root_child(&self, image: &Image) -> Result<Option<(u8, Child, Location)>, Arc<Error>> {
        let Some(root) = image.root else { return Ok(None) };
        if root.level != root_level(span_count(image.size, image.span_shift)) {
            return Err(damaged("map tree", "its height does not fit the image"));
        }
        let whole = Child { slot: 0, id: root.id, data: image.data, full: false };
        Ok(Some((root.level, whole, root.location())))
    }

    pub(super) fn node(
        &self,
        level: u8,
        child: &Child,
        location: Location,
    ) -> Result<Arc<LocatedNode>, Arc<Error>> {
        let node =
            self.nodes.get_or_load(place(&child.id, location), self.repository.request_ends(), || {
                let plain = self.repository.packs().read(BlobKind::Node, &child.id, location)?;
                let (node, locations) = node::from_bytes(&plain)?;
                let bytes = node.children.len() * (size_of::<Child>() + size_of::<Location>());
                Ok((Arc::new(LocatedNode { node, locations }), bytes))
            })?;
        if node.node.level != level || node.node.data_bytes() != child.data {
            return Err(damaged("tree node", "it does not fit its parent"));
        }
        Ok(node)
    }

    pub(super) fn map(
        &self,
        image: &Image,
        span: u64,
        child: &Child,
        at: Location,
    ) -> Result<Arc<LocatedMap>, Arc<Error>> {
        let map = self.maps.get_or_load(place(&child.id, at), self.repository.request_ends(), || {
            let plain = self.repository.packs().read(BlobKind::SpanMap, &child.id, at)?;
            let (map, locations) = span_map::from_bytes(&plain)?;
            let bytes = plain.len() + locations.len() * size_of::<Location>();
            Ok((Arc::new(LocatedMap { map, locations }), bytes))
        })?;
        let fits = u64::from(map.map.span_len) == span_len(image.size, image.span_shift, span);
        if !fits || map.map.data_bytes() != child.data {
            return Err(damaged("span map", "it does not fit its place"));
        }
        Ok(map)
    }

    /// The first offset at or after `from` that is not in a hole; `None` if only holes follow. Takes one map or two, and as many
    /// nodes as the tree is high, twice.
    ///
    /// # Errors
    /// As [`Self::span`].
    pub fn next_data(&self, image: &Image, from: u64) -> Result<Option<u64>, Arc<Error>> {
        if from >= image.size {
            return Ok(None);
        }
        let Some(root) = self.root(image)? else { return Ok(None) };
        self.data_beneath(image, &root, 0, from)
    }

    fn data_beneath(
        &self,
        image: &Image,
        node: &LocatedNode,
        first_span: u64,
        from: u64,
    ) -> Result<Option<u64>, Arc<Error>> {
        for (child, location) in node.iter() {
            let (span, end) = reach(image, node, first_span, &child);
            if end <= from {
                continue;
            }
            check_place(image, span, end, &child)?;
            let start = from.max(span << image.span_shift);
            if child.full {
                return Ok(Some(start));
            }
            let found = if node.node.level == 0 {
                let map = self.map(image, span, &child, location)?;
                let base = span << image.span_shift;
                let extent = map.map.extents.iter().find(|extent| base + extent.end() > start);
                extent.map(|extent| start.max(base + u64::from(extent.offset)))
            } else {
                let below = self.node(node.node.level - 1, &child, location)?;
                self.data_beneath(image, &below, span, start)?
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// How many bytes of a range are not in holes. Takes two maps at most, and the nodes above them.
    ///
    /// # Errors
    /// As [`Self::span`].
    pub fn data_in(&self, image: &Image, range: &Range<u64>) -> Result<u64, Arc<Error>> {
        let Some(root) = self.root(image)? else { return Ok(0) };
        self.data_within(image, &root, 0, range)
    }

    fn data_within(
        &self,
        image: &Image,
        node: &LocatedNode,
        first_span: u64,
        range: &Range<u64>,
    ) -> Result<u64, Arc<Error>> {
        let mut data = 0;
        for (child, location) in node.iter() {
            let (span, end) = reach(image, node, first_span, &child);
            let start = span << image.span_shift;
            if end <= range.start || range.end <= start {
                continue;
            }
            check_place(image, span, end, &child)?;
            data += if range.start <= start && end <= range.end {
                child.data
            } else if node.node.level == 0 {
                let part = range.start.max(start) - start..range.end.min(end) - start;
                data_of(&self.map(image, span, &child, location)?.map, &part)
            } else {
                let below = self.node(node.node.level - 1, &child, location)?;
                self.data_within(image, &below, span, range)?
            };
        }
        Ok(data)
    }

    /// The first offset at or after `from`, which lies in the image, that is in a hole; the image's size if only data follows.
    ///
    /// # Errors
    /// As [`Self::span`].
    pub fn next_hole(&self, image: &Image, from: u64) -> Result<u64, Arc<Error>> {
        let Some(root) = self.root(image)? else { return Ok(from) };
        Ok(self.hole_beneath(image, &root, 0, from)?.unwrap_or(image.size))
    }

    /// `None` if all beneath this node is data from `from` on.
    fn hole_beneath(
        &self,
        image: &Image,
        node: &LocatedNode,
        first_span: u64,
        from: u64,
    ) -> Result<Option<u64>, Arc<Error>> {
        let mut at = from;
        for (child, location) in node.iter() {
            let (span, end) = reach(image, node, first_span, &child);
            if end <= at {
                continue;
            }
            let start = span << image.span_shift;
            if start > at {
                return Ok(Some(at));
            }
            check_place(image, span, end, &child)?;
            let found = if child.full {
                None
            } else if node.node.level == 0 {
                hole_in(&self.map(image, span, &child, location)?.map, start, at)
            } else {
                let below = self.node(node.node.level - 1, &child, location)?;
                self.hole_beneath(image, &below, span, at)?
            };
            if found.is_some() {
                return Ok(found);
            }
            at = end;
        }
        let (_, end) = reach_of(image, first_span, u32::from(node.node.level) + 1, 0);
        Ok((at < end).then_some(at))
    }
}

impl LocatedNode {
    pub(super) fn iter(&self) -> impl Iterator<Item = Found> + '_ {
        self.node.children.iter().copied().zip(self.locations.iter().copied())
    }

    pub(super) fn child(&self, slot: u8) -> Option<Found> {
        let at = self.node.children.binary_search_by_key(&slot, |child| child.slot).ok()?;
        Some((*self.node.children.get(at)?, *self.locations.get(at)?))
    }
}

/// In which slot of a node of `level` a span lies.
fn slot(span: u64, level: u8) -> u8 {
    (span >> (8 * u32::from(level)) & 0xff) as u8
}

/// Which slot of a node of `level` holds the span that is so many behind the node's first one; more than any slot, if none does.
fn slot_beneath(spans: u64, level: u8) -> u64 {
    spans >> (8 * u32::from(level))
}

/// The first span beneath a child, and the image offset where it ends.
pub(super) fn reach(image: &Image, node: &LocatedNode, first_span: u64, child: &Child) -> (u64, u64) {
    reach_of(image, first_span, node.node.level.into(), child.slot)
}

fn reach_of(image: &Image, first_span: u64, level: u32, slot: u8) -> (u64, u64) {
    let span = first_span + (u64::from(slot) << (8 * level));
    let end = span.saturating_add(1 << (8 * level));
    let end =
        if end >= 1 << (63 - u32::from(image.span_shift)) { image.size } else { end << image.span_shift };
    (span, end.min(image.size))
}

/// Whether a child, whose first span and end these are, lies in the image and is right about holes beneath it. A tree in which some are
/// not could make the search for a hole visit every span of the largest image.
fn check_place(image: &Image, span: u64, end: u64, child: &Child) -> Result<(), Arc<Error>> {
    let beneath = end.saturating_sub(span << image.span_shift);
    if child.data <= beneath && child.full == (child.data == beneath) {
        return Ok(());
    }
    Err(damaged("tree node", "a child holds more data than fits its place, or is wrong about its holes"))
}

/// The first hole of a map at or after `from`, given the image offset where its span starts.
fn hole_in(map: &SpanMap, start: u64, from: u64) -> Option<u64> {
    let mut at = from - start;
    for extent in &map.extents {
        if u64::from(extent.offset) > at {
            break;
        }
        at = at.max(extent.end());
    }
    (at < u64::from(map.span_len)).then_some(start + at)
}

/// How many bytes of a part of a span are not in holes.
fn data_of(map: &SpanMap, part: &Range<u64>) -> u64 {
    let inside = map
        .extents
        .iter()
        .map(|extent| extent.end().min(part.end).saturating_sub(part.start.max(extent.offset.into())));
    inside.sum()
}

fn damaged(what: &'static str, reason: &str) -> Arc<Error> {
    Arc::new(Error::Format(FormatError::malformed(what, reason)))
}
