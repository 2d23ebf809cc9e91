//! Images: their map trees, span maps and chunks, read lazily through byte-bounded caches.

pub mod blocks;
pub mod cache;
pub mod diff;
pub mod disk;
pub mod maps;
pub mod prefetcher;
pub mod reach;
pub mod reader;
mod runs;
pub mod streams;
pub mod tree_writer;
pub mod walk;

use crate::format::record::{Member, Root};

/// What is needed to read one image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Image {
    /// Size in bytes.
    pub size: u64,
    /// Spans are `1 << span_shift` bytes.
    pub span_shift: u8,
    /// Where its map tree begins; `None` where all is hole.
    pub root: Option<Root>,
    /// Bytes that are not in holes.
    pub data: u64,
}

impl Image {
    /// The image of a member, in a repository with this span size.
    #[must_use]
    pub fn of(member: &Member, span_shift: u8) -> Self {
        Self { size: member.size, span_shift, root: member.root, data: member.data }
    }
}

/// The level of the root of a tree over `spans` spans.
#[must_use]
pub fn root_level(spans: u64) -> u8 {
    let mut level = 0;
    while level < crate::format::limits::MAX_LEVEL && spans > 1 << (8 * (u32::from(level) + 1)) {
        level += 1;
    }
    level
}
