//! What lies beside what was found: chunks that were stored together are met together again.
//!
//! A disk that has moved, or another that resembles it, would look up every chunk in the stored index, where neighbours are far apart. Once two chunks of a pack were
//! found, the pack's own list is read, and answers for the rest. B. Zhu, K. Li, H. Patterson: Avoiding the Disk Bottleneck in the Data Domain Deduplication
//! File System, 2008.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use lru::LruCache;

use super::IdMap;
use crate::format::index_segment::IndexEntry;
use crate::format::location::Location;
use crate::id::{BlobId, PackId};

/// Chunks whose places are kept, at most, beyond those of one pack.
const MOST: usize = 64 << 10;
/// Packs that are remembered, at most.
const MOST_PACKS: usize = 4096;

/// Chunks of packs that were used last.
#[derive(Debug)]
pub(super) struct Neighbours {
    chunks: IdMap<Location>,
    /// What each pack has put into `chunks`; `None` if it was only met once.
    packs: LruCache<PackId, Option<Vec<BlobId>>>,
}

impl Default for Neighbours {
    fn default() -> Self {
        Self { chunks: HashMap::default(), packs: LruCache::unbounded() }
    }
}

impl Neighbours {
    /// Where a chunk lies, if its pack's list was read.
    pub(super) fn find(&mut self, id: &BlobId) -> Option<Location> {
        let location = *self.chunks.get(id)?;
        self.packs.promote(&location.pack.id);
        Some(location)
    }

    /// Takes note of a chunk that was found in this pack. True for the second one.
    pub(super) fn is_worth_loading(&mut self, pack: PackId) -> bool {
        match self.packs.get(&pack) {
            Some(list) => list.is_none(),
            None => {
                self.packs.put(pack, None);
                self.shrink();
                false
            }
        }
    }

    /// Keeps a pack's list.
    pub(super) fn keep(&mut self, pack: PackId, entries: &[IndexEntry]) {
        let mut own = Vec::with_capacity(entries.len());
        for entry in entries {
            if let Entry::Vacant(vacant) = self.chunks.entry(entry.id) {
                vacant.insert(entry.location);
                own.push(entry.id);
            }
        }
        match self.packs.get_mut(&pack) {
            // Another worker has read it at the same time.
            Some(Some(list)) => list.extend(own),
            _ => drop(self.packs.put(pack, Some(own))),
        }
        self.shrink();
    }

    fn shrink(&mut self) {
        while self.packs.len() > 1 && (self.chunks.len() > MOST || self.packs.len() > MOST_PACKS) {
            let Some((_, own)) = self.packs.pop_lru() else { return };
            self.forget(own.as_deref().unwrap_or_default());
        }
    }

    fn forget(&mut self, own: &[BlobId]) {
        for id in own {
            self.chunks.remove(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::keys::BlobKind;
    use crate::format::span_map::tests::location;

    fn list(pack: u8, count: u32) -> Vec<IndexEntry> {
        let entry = |at: u32| IndexEntry {
            kind: BlobKind::Chunk,
            id: BlobId(*blake3::hash(&[&[pack][..], &at.to_le_bytes()].concat()).as_bytes()),
            location: location(pack, at),
            plain_len: 1,
        };
        (0..count).map(entry).collect()
    }

    #[test]
    fn a_list_is_worth_reading_at_the_second_chunk_and_once() {
        let mut neighbours = Neighbours::default();
        let (pack, entries) = (PackId([1; 16]), list(1, 10));
        assert!(!neighbours.is_worth_loading(pack) && neighbours.is_worth_loading(pack));
        neighbours.keep(pack, &entries);
        assert!(!neighbours.is_worth_loading(pack));
        // Nor is one that could not be read.
        let lost = PackId([2; 16]);
        assert!(!neighbours.is_worth_loading(lost) && neighbours.is_worth_loading(lost));
        neighbours.keep(lost, &[]);
        assert!(!neighbours.is_worth_loading(lost));
        assert_eq!(neighbours.find(&entries[3].id), Some(entries[3].location));
    }

    #[test]
    fn what_was_used_last_is_kept_within_the_bound() {
        let mut neighbours = Neighbours::default();
        let first = list(0, 1000);
        neighbours.keep(PackId([0; 16]), &first);
        for pack in 1..100 {
            neighbours.keep(PackId([pack; 16]), &list(pack, 1000));
            assert!(neighbours.find(&first[0].id).is_some());
            assert!(neighbours.chunks.len() <= MOST);
        }
        assert!(neighbours.find(&list(1, 1)[0].id).is_none());
    }
}
