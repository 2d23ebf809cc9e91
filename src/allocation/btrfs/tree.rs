//! Trees: nodes that are checked as they are read, walks over all items in order, and look-ups.
//!
//! A node is believed if its checksum is right and it names the filesystem, its own address, its tree, and the level and generation that its
//! parent has for it. Keys ascend over a whole walk, so a node that is reached twice ends it.

use std::ops::Range;

use super::super::{Distrust, checked};
use super::chunks::Chunks;
use super::superblock::Superblock;
use crate::partition::bytes::{Fields, Window};

const HEADER: usize = 101;
const ITEM: usize = 25;
const POINTER: usize = 33;
/// Levels of the highest tree.
const LEVELS: usize = 8;
/// A flag of nodes: written in full.
const WRITTEN: u64 = 1;

/// Kinds of items.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Kind(pub(super) u8);

impl Kind {
    pub(super) const ROOT: Self = Self(132);
    pub(super) const GROUP: Self = Self(192);
    pub(super) const FREE_INFO: Self = Self(198);
    pub(super) const FREE_EXTENT: Self = Self(199);
    pub(super) const FREE_BITMAP: Self = Self(200);
    pub(super) const DEVICE_EXTENT: Self = Self(204);
    pub(super) const CHUNK: Self = Self(228);
}

/// What items are ordered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) object: u64,
    pub(super) kind: Kind,
    pub(super) offset: u64,
}

impl Key {
    pub(super) fn parse(fields: Fields<'_>, at: usize) -> Self {
        Self { object: fields.u64(at), kind: Kind(fields.u8(at + 8)), offset: fields.u64(at + 9) }
    }
}

/// A tree by its number, and its root.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tree {
    pub(super) number: u64,
    pub(super) address: u64,
    pub(super) generation: u64,
    pub(super) level: u8,
}

/// Reads trees.
pub(super) struct Reader<'a> {
    volume: &'a Window<'a>,
    superblock: &'a Superblock,
    chunks: &'a Chunks,
    /// Addresses of the nodes that were read, in no order.
    pub(super) nodes: Vec<u64>,
    /// By level, the nodes of the last look-up: the next one often needs them again.
    path: [Option<(u64, Vec<u8>)>; LEVELS],
}

/// A node that is yet to be read.
struct Wanted {
    address: u64,
    generation: u64,
    level: u8,
    /// The parent's key for it.
    key: Option<Key>,
}

impl Wanted {
    fn root(tree: Tree) -> Self {
        Self { address: tree.address, generation: tree.generation, level: tree.level, key: None }
    }

    fn child(node: Fields<'_>, index: usize, level: u8) -> Self {
        let at = HEADER + index * POINTER;
        let (address, generation) = (node.u64(at + 17), node.u64(at + 25));
        Self { address, generation, level: level - 1, key: Some(Key::parse(node, at)) }
    }
}

type Visit<'a> = &'a mut dyn FnMut(Key, &[u8]) -> Result<(), Distrust>;

impl<'a> Reader<'a> {
    pub(super) fn new(volume: &'a Window<'a>, superblock: &'a Superblock, chunks: &'a Chunks) -> Self {
        Self { volume, superblock, chunks, nodes: Vec::new(), path: Default::default() }
    }

    /// Shows `visit` all items of a tree in order.
    pub(super) fn walk(&mut self, tree: Tree, visit: Visit<'_>) -> Result<(), Distrust> {
        self.walk_below(tree.number, &Wanted::root(tree), &mut None, visit)
    }

    fn walk_below(
        &mut self,
        tree: u64,
        wanted: &Wanted,
        last: &mut Option<Key>,
        visit: Visit<'_>,
    ) -> Result<(), Distrust> {
        let bytes = self.read(tree, wanted)?;
        let node = Fields(&bytes);
        for index in 0..count(node) {
            if wanted.level > 0 {
                self.walk_below(tree, &Wanted::child(node, index, wanted.level), last, visit)?;
                continue;
            }
            let (key, data) = item(node, index).ok_or_else(damaged)?;
            if last.is_some_and(|last| last >= key) {
                return Err(damaged());
            }
            *last = Some(key);
            visit(key, data)?;
        }
        Ok(())
    }

    /// The item of a tree with this key.
    pub(super) fn find(&mut self, tree: Tree, key: Key) -> Result<Option<Vec<u8>>, Distrust> {
        let mut wanted = Wanted::root(tree);
        loop {
            let kept = self.path.get_mut(usize::from(wanted.level)).and_then(Option::take);
            let bytes = match kept {
                Some((address, bytes)) if address == wanted.address => bytes,
                _ => self.read(tree.number, &wanted)?,
            };
            let node = Fields(&bytes);
            let size = if wanted.level > 0 { POINTER } else { ITEM };
            let up_to = partition_point(count(node), |index| Key::parse(node, HEADER + index * size) <= key);
            let next = up_to.checked_sub(1).map(|index| (index, item(node, index)));
            let (address, level) = (wanted.address, wanted.level);
            let found = match next {
                Some((index, _)) if level > 0 => {
                    wanted = Wanted::child(node, index, level);
                    None
                }
                Some((_, Some((at, data)))) if at == key => Some(Some(data.to_vec())),
                _ => Some(None),
            };
            if let Some(slot) = self.path.get_mut(usize::from(level)) {
                *slot = Some((address, bytes));
            }
            if let Some(found) = found {
                return Ok(found);
            }
        }
    }

    fn read(&mut self, tree: u64, wanted: &Wanted) -> Result<Vec<u8>, Distrust> {
        let place = self.chunks.place(&self.node(wanted.address)).ok_or_else(damaged)?;
        let bytes = checked::read(self.volume, place.start, self.superblock.node as usize)?;
        if !self.is_right(Fields(&bytes), tree, wanted) || !self.superblock.checksum.holds(&bytes) {
            return Err(damaged());
        }
        self.nodes.push(wanted.address);
        Ok(bytes)
    }

    fn is_right(&self, node: Fields<'_>, tree: u64, wanted: &Wanted) -> bool {
        let size = if wanted.level == 0 { ITEM } else { POINTER };
        let count = count(node);
        let keys: Vec<Key> = (0..count.min(self.superblock.node as usize / size))
            .map(|index| Key::parse(node, HEADER + index * size))
            .collect();
        node.array(32) == self.superblock.id
            && node.u64(48) == wanted.address
            && node.u64(56) & WRITTEN != 0
            && node.u64(80) == wanted.generation
            && wanted.generation <= self.superblock.generation
            && node.u64(88) == tree
            && node.u8(100) == wanted.level
            && usize::from(wanted.level) < LEVELS
            && HEADER + count.saturating_mul(size) <= self.superblock.node as usize
            && keys.is_sorted_by(|earlier, later| earlier < later)
            // Only a root without items may be empty.
            && (count > 0 || wanted.level == 0 && wanted.key.is_none())
            && wanted.key.is_none_or(|key| keys.first() == Some(&key))
    }

    /// The addresses of a node.
    pub(super) fn node(&self, address: u64) -> Range<u64> {
        address..address.saturating_add(u64::from(self.superblock.node))
    }
}

fn count(node: Fields<'_>) -> usize {
    node.u32(96) as usize
}

/// An item of a leaf, if it lies in it.
fn item(leaf: Fields<'_>, index: usize) -> Option<(Key, &[u8])> {
    let at = HEADER + index * ITEM;
    let [offset, len] = [17, 21].map(|field| leaf.u32(at + field) as usize);
    let data = leaf.slice(HEADER.checked_add(offset)?, len);
    (data.len() == len).then(|| (Key::parse(leaf, at), data))
}

/// The first of `count` indices for which `before` does not hold any more.
fn partition_point(count: usize, before: impl Fn(usize) -> bool) -> usize {
    let (mut from, mut to) = (0, count);
    while from < to {
        let middle = from + (to - from) / 2;
        if before(middle) { from = middle + 1 } else { to = middle }
    }
    from
}

fn damaged() -> Distrust {
    Distrust::because("one of its trees is damaged")
}
