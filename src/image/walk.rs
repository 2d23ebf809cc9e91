//! Walking an image's map tree: every node, map and chunk that it reaches, in the order of the image.

use std::ops::Range;
use std::sync::Arc;

use super::Image;
use super::maps::{LocatedMap, LocatedNode, Maps, reach};
use crate::codec::keys::BlobKind;
use crate::format::location::Location;
use crate::id::BlobId;
use crate::repository::Error;

/// Is shown what an image reaches.
pub trait Visitor {
    /// A tree node or span map that covers `range` of the image; it is not read yet. False: do not look into it.
    fn enter(&mut self, kind: BlobKind, id: &BlobId, at: Location, range: &Range<u64>) -> bool;

    /// A span map that was entered and read; `start` is where its span begins in the image.
    fn map(&mut self, start: u64, map: &LocatedMap);

    /// A node or map that was entered could not be read: nobody knows what is in `range` of the image. An error ends the walk.
    ///
    /// # Errors
    /// What ends the walk, if this does.
    fn lost(
        &mut self,
        kind: BlobKind,
        id: &BlobId,
        at: Location,
        range: &Range<u64>,
        error: Arc<Error>,
    ) -> Result<(), Arc<Error>>;

    /// All beneath a node or map that was entered has been visited.
    fn leave(&mut self, _kind: BlobKind, _id: &BlobId, _at: Location) {}
}

impl Maps {
    /// Shows an image's tree to `visitor`: nodes before what is beneath them.
    ///
    /// # Errors
    /// What [`Visitor::lost`] returns.
    pub fn visit(&self, image: &Image, visitor: &mut dyn Visitor) -> Result<(), Arc<Error>> {
        let Some(root) = image.root else { return Ok(()) };
        let whole = 0..image.size;
        if !visitor.enter(BlobKind::Node, &root.id, root.location(), &whole) {
            return Ok(());
        }
        match self.root(image) {
            Err(error) => visitor.lost(BlobKind::Node, &root.id, root.location(), &whole, error)?,
            Ok(None) => {}
            Ok(Some(node)) => self.visit_beneath(image, &node, 0, visitor)?,
        }
        visitor.leave(BlobKind::Node, &root.id, root.location());
        Ok(())
    }

    fn visit_beneath(
        &self,
        image: &Image,
        node: &LocatedNode,
        first_span: u64,
        visitor: &mut dyn Visitor,
    ) -> Result<(), Arc<Error>> {
        let leaf = node.node.level == 0;
        let kind = if leaf { BlobKind::SpanMap } else { BlobKind::Node };
        for (child, location) in node.iter() {
            let (span, end) = reach(image, node, first_span, &child);
            let range = (span << image.span_shift).min(end)..end;
            if !visitor.enter(kind, &child.id, location, &range) {
                continue;
            }
            if leaf {
                match self.map(image, span, &child, location) {
                    Ok(map) => visitor.map(range.start, &map),
                    Err(error) => visitor.lost(kind, &child.id, location, &range, error)?,
                }
            } else {
                match self.node(node.node.level - 1, &child, location) {
                    Ok(below) => self.visit_beneath(image, &below, span, visitor)?,
                    Err(error) => visitor.lost(kind, &child.id, location, &range, error)?,
                }
            }
            visitor.leave(kind, &child.id, location);
        }
        Ok(())
    }

    /// Calls `visit` with every blob that an image reaches, nodes before what is beneath them.
    ///
    /// # Errors
    /// As [`Self::span`].
    pub fn walk(
        &self,
        image: &Image,
        visit: &mut dyn FnMut(BlobKind, BlobId, Location),
    ) -> Result<(), Arc<Error>> {
        self.visit(image, &mut Every(visit))
    }
}

/// Calls a function with every blob, and ends at the first that cannot be read.
struct Every<'a>(&'a mut dyn FnMut(BlobKind, BlobId, Location));

impl Visitor for Every<'_> {
    fn enter(&mut self, kind: BlobKind, id: &BlobId, at: Location, _range: &Range<u64>) -> bool {
        (self.0)(kind, *id, at);
        true
    }

    fn map(&mut self, _start: u64, map: &LocatedMap) {
        for (chunk, location) in map.map.chunks.iter().zip(&map.locations) {
            (self.0)(BlobKind::Chunk, chunk.id, *location);
        }
    }

    fn lost(
        &mut self,
        _kind: BlobKind,
        _id: &BlobId,
        _at: Location,
        _range: &Range<u64>,
        error: Arc<Error>,
    ) -> Result<(), Arc<Error>> {
        Err(error)
    }
}
