//! The index in a writer's memory: which blobs may be claimed, and which are being stored right now.
//!
//! Only blobs of packs that were listed and are not condemned stand in it, so whatever it gives may be claimed. A blob
//! that two workers meet at once is stored once: the second waits for the first.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

use parking_lot::{Condvar, Mutex};

use super::error::Result;
use super::objects::Objects;
use super::packs::Packs;
use crate::format::envelope::ObjectKind;
use crate::format::index_segment::{IndexEntry, IndexSegment};
use crate::format::limits::MAX_INDEX_ENTRIES;
use crate::format::location::Location;
use crate::format::pack::{PackEntry, PackKind};
use crate::id::{BlobId, PackId, SegmentId};

/// How often the index is read while others go on replacing segments.
const INDEX_TRIES: usize = 4;

/// Ids are keyed hashes already: their first bytes are the hash.
#[derive(Debug, Default)]
pub struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk() {
            self.0 = u64::from_le_bytes(*first);
        }
    }

    fn write_usize(&mut self, _len: usize) {}
}

type IdMap<T> = HashMap<BlobId, T, BuildHasherDefault<IdHasher>>;

#[derive(Debug, Clone, Copy)]
enum Slot {
    Stored(Location),
    Pending,
}

/// What a worker may do with a blob.
#[derive(Debug)]
pub enum Claim<'a> {
    /// It is there, or will be with this session's packs.
    Exists(Location),
    /// The worker stores it and says where.
    Mine(Pending<'a>),
}

/// A blob that its holder is to store; dropping it lets another worker do so.
#[derive(Debug)]
pub struct Pending<'a> {
    index: &'a Index,
    id: BlobId,
    done: bool,
}

impl Pending<'_> {
    /// Says where the blob was stored.
    pub fn stored(mut self, location: Location) {
        self.done = true;
        self.index.slots.lock().insert(self.id, Slot::Stored(location));
        self.index.stored.notify_all();
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.index.slots.lock().remove(&self.id);
            self.index.stored.notify_all();
        }
    }
}

/// One lock guards all: claims are some microseconds apart, for a chunk costs fifty times as much to hash and compress.
#[derive(Debug, Default)]
pub struct Index {
    slots: Mutex<IdMap<Slot>>,
    stored: Condvar,
    unlisted: Vec<IndexEntry>,
    unlisted_packs: HashSet<PackId>,
}

impl Index {
    /// Reads all segments and keeps what lies in `claimable` packs. Of claimable packs that no segment names, as a create leaves them that
    /// did not end, the own lists are read.
    ///
    /// A segment or pack that is damaged is only a lost chance to share, and logged.
    ///
    /// # Errors
    /// [`super::Error::Storage`] if the segments cannot be listed.
    pub fn load(packs: &Packs, claimable: &HashSet<PackId>) -> Result<Self> {
        let objects = packs.objects();
        let mut slots = IdMap::default();
        let mut named = HashSet::new();
        for entry in live_entries(objects)? {
            named.insert(entry.location.pack.id);
            if claimable.contains(&entry.location.pack.id) {
                slots.insert(entry.id, Slot::Stored(entry.location));
            }
        }
        let mut unlisted = Vec::new();
        if claimable.iter().any(|pack| !named.contains(pack)) {
            for kind in [PackKind::Data, PackKind::Maps] {
                for id in objects.list_ids::<PackId>(kind.folder())? {
                    if claimable.contains(&id) && !named.contains(&id) {
                        unlisted.extend(own_list(packs, kind, id));
                    }
                }
            }
        }
        for entry in &unlisted {
            slots.entry(entry.id).or_insert(Slot::Stored(entry.location));
        }
        let unlisted_packs = unlisted.iter().map(|entry| entry.location.pack.id).collect();
        Ok(Self { slots: Mutex::new(slots), stored: Condvar::new(), unlisted, unlisted_packs })
    }

    /// Blobs of claimable packs that no segment names, for the first who asks: whoever publishes a segment names them too, once.
    #[must_use]
    pub fn take_unlisted(&mut self) -> Vec<IndexEntry> {
        std::mem::take(&mut self.unlisted)
    }

    /// Whether a pack was left by a create that did not end.
    #[must_use]
    pub fn is_unlisted(&self, pack: PackId) -> bool {
        self.unlisted_packs.contains(&pack)
    }

    /// Claims a blob, waiting while another worker is storing it.
    pub fn claim(&self, id: &BlobId) -> Claim<'_> {
        let mut slots = self.slots.lock();
        loop {
            match slots.entry(*id) {
                Entry::Vacant(vacant) => {
                    vacant.insert(Slot::Pending);
                    return Claim::Mine(Pending { index: self, id: *id, done: false });
                }
                Entry::Occupied(occupied) => match occupied.get() {
                    Slot::Stored(location) => return Claim::Exists(*location),
                    Slot::Pending => {}
                },
            }
            self.stored.wait(&mut slots);
        }
    }

    /// Says that a blob lies better elsewhere.
    pub fn replace(&self, id: &BlobId, location: Location) {
        self.slots.lock().insert(*id, Slot::Stored(location));
    }

    /// Forgets whatever lies in `packs`, so that it is stored again.
    pub fn bar(&self, packs: &HashSet<PackId>) {
        let stays = |slot: &Slot| !matches!(slot, Slot::Stored(at) if packs.contains(&at.pack.id));
        self.slots.lock().retain(|_, slot| stays(slot));
    }

    /// How many blobs may be claimed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.lock().len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The entries of all segments that no other one supersedes. A maintenance that replaces segments meanwhile is waited for.
fn live_entries(objects: &Objects) -> Result<Vec<IndexEntry>> {
    for tries in 1.. {
        let mut superseded = HashSet::new();
        let mut segments = Vec::new();
        let mut vanished = false;
        let listing = objects.list("index")?;
        for listed in listing.iter().filter(|listed| segment_id(listed.name.as_str()).is_some()) {
            let read = objects.get(ObjectKind::Index, listed.name.as_str());
            match read.and_then(|plain| Ok(IndexSegment::from_bytes(&plain)?)) {
                Ok(segment) => {
                    superseded.extend(segment.supersedes.iter().copied());
                    segments.push((segment_id(listed.name.as_str()), segment.entries));
                }
                Err(error) if error.is_missing() => vanished = true,
                Err(error) => log::warn!("{error}; 'copal check --repair' makes the index anew"),
            }
        }
        if vanished && tries < INDEX_TRIES {
            continue;
        }
        segments.retain(|(id, _)| id.is_none_or(|id| !superseded.contains(&id)));
        return Ok(segments.into_iter().flat_map(|(_, entries)| entries).collect());
    }
    Ok(Vec::new())
}

/// What a pack says of itself.
fn own_list(packs: &Packs, kind: PackKind, id: PackId) -> Vec<IndexEntry> {
    match packs.located_entries(kind, id) {
        Ok((pack, entries)) => {
            let entry = |entry: PackEntry| IndexEntry {
                kind: entry.kind,
                id: entry.id,
                location: entry.location(pack),
                plain_len: entry.plain_len,
            };
            entries.into_iter().map(entry).collect()
        }
        Err(error) if error.is_missing() => Vec::new(),
        Err(error) => {
            log::warn!("pack {id}: {}; what it holds will be stored again", super::archives::chain(&error));
            Vec::new()
        }
    }
}

/// The id behind the prefix in a segment's name.
fn segment_id(name: &str) -> Option<SegmentId> {
    name.rsplit_once('-')?.1.parse().ok()
}

/// Publishes where blobs lie, in as few segments as their bounds allow.
///
/// # Errors
/// [`super::Error::Storage`].
pub fn publish_segments(objects: &Objects, entries: &[IndexEntry]) -> Result<()> {
    for part in entries.chunks(MAX_INDEX_ENTRIES as usize) {
        let segment = IndexSegment { supersedes: Vec::new(), entries: part.to_vec() };
        objects.put(ObjectKind::Index, &format!("index/x-{}", SegmentId::random()), &segment.to_bytes())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::span_map::tests::location;

    #[test]
    fn two_workers_store_one_chunk_once() {
        let index = Index::default();
        let id = BlobId([5; 32]);
        let stores = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| match index.claim(&id) {
                    Claim::Exists(found) => assert_eq!(found, location(1, 2)),
                    Claim::Mine(pending) => {
                        stores.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                        std::thread::yield_now();
                        pending.stored(location(1, 2));
                    }
                });
            }
        });
        assert_eq!(stores.into_inner(), 1);
    }

    #[test]
    fn an_abandoned_claim_can_be_claimed_again() {
        let index = Index::default();
        let id = BlobId([5; 32]);
        drop(index.claim(&id));
        assert!(matches!(index.claim(&id), Claim::Mine(_)));
    }

    #[test]
    fn barred_packs_are_forgotten() {
        let index = Index::default();
        let Claim::Mine(pending) = index.claim(&BlobId([5; 32])) else { panic!("a new blob") };
        pending.stored(location(1, 2));
        index.bar(&HashSet::from([PackId([1; 16])]));
        assert!(matches!(index.claim(&BlobId([5; 32])), Claim::Mine(_)));
    }
}
