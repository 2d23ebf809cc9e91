//! Building a map tree, span by span in order, without holding more than one open node per level.

use super::root_level;
use crate::extent::{span_count, span_len};
use crate::format::limits::{MAX_IMAGE, MAX_LEVEL};
use crate::format::location::Location;
use crate::format::node::{Child, Node};
use crate::format::record::Root;
use crate::id::BlobId;

/// A stored span map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredMap {
    /// Its id.
    pub id: BlobId,
    /// Where it lies.
    pub location: Location,
    /// Bytes of the span that are not in holes.
    pub data: u64,
}

/// An open node.
#[derive(Debug, Default)]
struct Open {
    /// Which node of its level it is.
    number: u64,
    children: Vec<(Child, Location)>,
}

/// Gathers span maps into nodes; `store` keeps a node and says its id and place.
pub struct TreeWriter<F> {
    span_shift: u8,
    levels: Vec<Open>,
    store: F,
}

impl<F> std::fmt::Debug for TreeWriter<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TreeWriter").field("levels", &self.levels).finish_non_exhaustive()
    }
}

impl<E, F: FnMut(&Node, &[Location]) -> Result<(BlobId, Location), E>> TreeWriter<F> {
    /// A tree over spans of `1 << span_shift` bytes.
    pub fn new(span_shift: u8, store: F) -> Self {
        Self { span_shift, levels: Vec::new(), store }
    }

    /// Adds the map of a span that is not all hole. Spans come in ascending order; `size` is at least the end of this one.
    ///
    /// # Errors
    /// What `store` returns.
    pub fn push(&mut self, span: u64, map: StoredMap, size: u64) -> Result<(), E> {
        let full = map.data == span_len(size, self.span_shift, span);
        let child = Child { slot: (span & 0xff) as u8, id: map.id, data: map.data, full };
        // While spans follow, the image is at least as long as any node that is closed here.
        self.add(0, span >> 8, child, map.location, MAX_IMAGE)
    }

    fn add(
        &mut self,
        level: usize,
        number: u64,
        child: Child,
        location: Location,
        size: u64,
    ) -> Result<(), E> {
        if self.levels.len() <= level {
            self.levels.push(Open { number, children: Vec::new() });
        }
        if self.levels[level].number != number {
            self.close(level, size)?;
            self.levels[level].number = number;
        }
        self.levels[level].children.push((child, location));
        Ok(())
    }

    /// Stores the open node of a level and hands it to the one above.
    fn close(&mut self, level: usize, size: u64) -> Result<(), E> {
        let number = self.levels[level].number;
        let Some((child, location)) = self.seal(level, size)? else { return Ok(()) };
        self.add(level + 1, number >> 8, child, location, size)
    }

    fn seal(&mut self, level: usize, size: u64) -> Result<Option<(Child, Location)>, E> {
        let open = &mut self.levels[level];
        let children = std::mem::take(&mut open.children);
        if children.is_empty() {
            return Ok(None);
        }
        let number = open.number;
        let (children, locations): (Vec<Child>, Vec<Location>) = children.into_iter().unzip();
        let narrow = u8::try_from(level).expect("an image of 64 PiB has six levels");
        let node = Node { level: narrow, children };
        let data = node.data_bytes();
        let shift = u32::from(self.span_shift) + 8 * (u32::from(narrow) + 1);
        let beneath = bytes_beneath(number, shift, size);
        let (id, location) = (self.store)(&node, &locations)?;
        Ok(Some((Child { slot: (number & 0xff) as u8, id, data, full: data == beneath }, location)))
    }

    /// Stores what is open and says where the tree begins: `None` if no map was added.
    ///
    /// # Errors
    /// What `store` returns.
    pub fn finish(mut self, size: u64) -> Result<Option<Root>, E> {
        let top = root_level(span_count(size, self.span_shift));
        for level in 0..usize::from(top) {
            if level < self.levels.len() {
                self.close(level, size)?;
            }
        }
        debug_assert!(top <= MAX_LEVEL);
        if self.levels.len() <= usize::from(top) {
            return Ok(None);
        }
        let root = self.seal(top.into(), size)?;
        Ok(root.map(|(child, location)| Root::new(top, child.id, location)))
    }
}

/// How many bytes of an image of `size` bytes lie beneath node `number` of a level whose nodes cover `1 << shift` bytes.
fn bytes_beneath(number: u64, shift: u32, size: u64) -> u64 {
    if shift >= 63 {
        return size;
    }
    size.saturating_sub(number << shift).min(1 << shift)
}
