//! What a writer may claim: blobs that are there, and those that are being stored right now.
//!
//! Only blobs of packs that were listed and are not condemned are given, so that they may be claimed. A blob that two workers
//! meet at once is stored once: the second waits for the first.

mod neighbours;

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

use parking_lot::{Condvar, Mutex, RwLock};

use self::neighbours::Neighbours;
use super::error::Result;
use super::packs::Packs;
use super::segments::{self, Lookup, Publisher};
use crate::codec::keys::BlobKind;
use crate::format::index_segment::IndexEntry;
use crate::format::location::Location;
use crate::format::pack::{PackEntry, PackKind};
use crate::id::{BlobId, PackId};

/// Stored bytes of an index that is held in memory, where it takes about as much again: looking blobs up where they lie costs a read each.
const HELD: u64 = 16 << 20;

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

/// Where blobs lie.
pub type Places = IdMap<Location>;

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
    slots: &'a Mutex<IdMap<Slot>>,
    stored: &'a Condvar,
    id: BlobId,
    done: bool,
}

impl Pending<'_> {
    /// Says where the blob was stored.
    pub fn stored(mut self, location: Location) {
        self.done = true;
        self.slots.lock().insert(self.id, Slot::Stored(location));
        self.stored.notify_all();
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.slots.lock().remove(&self.id);
            self.stored.notify_all();
        }
    }
}

/// Which blobs a session may claim.
///
/// What it stores, or finds in packs that no segment names, is in memory until it is published; the rest is looked up in the stored segments. One lock guards the
/// former: claims are some microseconds apart, for a chunk costs fifty times as much to hash and compress.
#[derive(Debug)]
pub struct Index<'a> {
    packs: &'a Packs,
    slots: Mutex<IdMap<Slot>>,
    stored: Condvar,
    segments: RwLock<Lookup>,
    neighbours: Mutex<Neighbours>,
    /// Who publishes early, since it first did.
    early: Mutex<Option<Publisher>>,
    /// Packs of this session that were published already.
    own: RwLock<HashSet<PackId>>,
    unlisted: Vec<IndexEntry>,
    unlisted_packs: HashSet<PackId>,
    is_held: bool,
}

impl<'a> Index<'a> {
    /// Opens all segments. Of claimable packs that no segment names, as a create leaves them that did not end, the own lists are read.
    ///
    /// A segment or pack that is damaged is only a lost chance to share, and logged.
    ///
    /// # Errors
    /// [`super::Error::Storage`] if the segments or packs cannot be listed.
    pub fn load(packs: &'a Packs, claimable: &HashSet<PackId>) -> Result<Self> {
        let objects = packs.objects();
        let segments = Lookup::open(objects)?;
        let is_held = segments::list(objects)?.iter().map(|segment| segment.len).sum::<u64>() <= HELD;
        let named = segments.packs().clone();
        let mut held = Vec::new();
        if is_held {
            segments::each(objects, |_, segment| -> Result<()> {
                for entry in segment.into_iter().flat_map(|segment| segment.entries) {
                    if claimable.contains(&entry.location.pack.id) {
                        held.push((entry.id, Slot::Stored(entry.location)));
                    }
                }
                Ok(())
            })?;
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
        let slots = unlisted.iter().map(|entry: &IndexEntry| (entry.id, Slot::Stored(entry.location)));
        Ok(Self {
            packs,
            slots: Mutex::new(slots.chain(held).collect()),
            is_held,
            stored: Condvar::new(),
            segments: RwLock::new(segments),
            neighbours: Mutex::default(),
            early: Mutex::default(),
            own: RwLock::default(),
            unlisted_packs: unlisted.iter().map(|entry| entry.location.pack.id).collect(),
            unlisted,
        })
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

    /// Claims a blob in a claimable pack or one of this session, waiting while another worker is storing it.
    pub fn claim(&self, kind: BlobKind, id: &BlobId, claimable: &HashSet<PackId>) -> Claim<'_> {
        let mut slots = self.slots.lock();
        loop {
            match slots.entry(*id) {
                Entry::Vacant(vacant) => {
                    vacant.insert(Slot::Pending);
                    break;
                }
                Entry::Occupied(occupied) => match occupied.get() {
                    Slot::Stored(location) => return Claim::Exists(*location),
                    Slot::Pending => {}
                },
            }
            self.stored.wait(&mut slots);
        }
        drop(slots);
        // Given up where it is found: what can be looked up need not be in memory.
        let pending = Pending { slots: &self.slots, stored: &self.stored, id: *id, done: false };
        match self.look_up(kind, id, claimable) {
            Some(location) => Claim::Exists(location),
            None => Claim::Mine(pending),
        }
    }

    fn look_up(&self, kind: BlobKind, id: &BlobId, claimable: &HashSet<PackId>) -> Option<Location> {
        let may_claim = |pack: &PackId| claimable.contains(pack) || self.own.read().contains(pack);
        if let Some(location) = self.neighbours.lock().find(id).filter(|at| may_claim(&at.pack.id)) {
            return Some(location);
        }
        let accepts = |entry: &IndexEntry| entry.kind == kind && may_claim(&entry.location.pack.id);
        let found = self.segments.read().find(id, &accepts);
        let entry = found.or_else(|_| {
            // Another writer has joined segments.
            let mut segments = self.segments.write();
            segments.refresh()?;
            segments.find(id, &accepts)
        });
        let location = entry.ok().flatten()?.location;
        if kind == BlobKind::Chunk && self.neighbours.lock().is_worth_loading(location.pack.id) {
            let entries = own_list(self.packs, PackKind::Data, location.pack.id);
            self.neighbours.lock().keep(location.pack.id, &entries);
        }
        Some(location)
    }

    /// Whether all that there was when it was loaded is in memory. What this session stores is not, beyond what [`Self::publish_early`] takes.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.is_held
    }

    /// Looks for what was published since, by this session or others.
    ///
    /// # Errors
    /// [`super::Error::Storage`].
    pub fn renew(&mut self) -> Result<()> {
        *self.early.get_mut() = None;
        self.segments.get_mut().refresh()
    }

    /// Says that a blob lies better elsewhere.
    pub fn replace(&self, id: &BlobId, location: Location) {
        self.slots.lock().insert(*id, Slot::Stored(location));
    }

    /// Publishes blobs of whole packs of this session. Until an archive names them, a compaction that does not wait may take these packs: what follows
    /// has to be quick.
    ///
    /// # Errors
    /// [`super::Error::Storage`].
    pub fn publish(&self, entries: Vec<IndexEntry>) -> Result<()> {
        self.publish_by(&mut Publisher::anew(self.packs.objects()), entries)
    }

    fn publish_by(&self, publisher: &mut Publisher, entries: Vec<IndexEntry>) -> Result<()> {
        if entries.is_empty() {
            return Ok(());
        }
        let packs: HashSet<PackId> = entries.iter().map(|entry| entry.location.pack.id).collect();
        publisher.publish(entries)?;
        self.own.write().extend(packs);
        Ok(())
    }

    /// Publishes blobs of whole packs of this session long before an archive names them, and forgets them: they are looked up from then on.
    ///
    /// # Errors
    /// [`super::Error::Storage`].
    pub fn publish_early(&self, entries: Vec<IndexEntry>) -> Result<()> {
        let mut early = self.early.lock();
        let publisher = match &mut *early {
            Some(publisher) => publisher,
            None => {
                let mut segments = self.segments.write();
                segments.refresh()?;
                early.insert(Publisher::followed(self.packs.objects(), segments.seen()))
            }
        };
        self.publish_by(publisher, entries)?;
        // What was joined before an error is followed all the same.
        let joined = publisher.join();
        let (made, replaced) = publisher.take_changes();
        let is_followed = self.segments.write().follow(made, replaced)?;
        if !is_followed {
            // What cannot be read may be damaged, and what it replaces all that there is. What was published stays in memory.
            *early = None;
            return joined;
        }
        publisher.delete_replaced()?;
        joined?;
        let own = self.own.read();
        let stays = |slot: &Slot| !matches!(slot, Slot::Stored(at) if own.contains(&at.pack.id));
        self.slots.lock().retain(|_, slot| stays(slot));
        Ok(())
    }

    /// Packs of this session that were published, for the first who asks: they are claimable like any others from then on.
    #[must_use]
    pub fn take_own(&mut self) -> HashSet<PackId> {
        std::mem::take(self.own.get_mut())
    }

    /// Forgets whatever lies in `packs`, so that it is stored again; they are claimable no more.
    pub fn bar(&self, packs: &HashSet<PackId>) {
        let stays = |slot: &Slot| !matches!(slot, Slot::Stored(at) if packs.contains(&at.pack.id));
        self.slots.lock().retain(|_, slot| stays(slot));
        self.own.write().retain(|pack| !packs.contains(pack));
    }
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::codec::keys::{KeySet, Keyring};
    use crate::format::span_map::tests::location;
    use crate::id::RepositoryId;
    use crate::repository::objects::Objects;
    use crate::storage::Storage;
    use crate::storage::faults::Faults;
    use crate::storage::memory::MemoryStorage;
    use crate::storage::recorder::{Call, Op, Recorder};
    use std::io::ErrorKind;

    /// Blobs of an early publication.
    const BLOBS: u32 = 34_000;

    fn packs() -> Packs {
        packs_in(Arc::new(MemoryStorage::new()))
    }

    fn packs_in(storage: Arc<dyn Storage>) -> Packs {
        let keyring = Keyring::new(RepositoryId([1; 16]), &KeySet::public(&RepositoryId([1; 16])), 1);
        Packs::new(Objects::new(storage, Arc::new(keyring), false))
    }

    /// The blob of this number, in the pack of its publication.
    fn entry(number: u32) -> IndexEntry {
        IndexEntry {
            kind: BlobKind::Chunk,
            id: BlobId(*blake3::hash(&number.to_le_bytes()).as_bytes()),
            location: location((number / BLOBS) as u8, number),
            plain_len: 7,
        }
    }

    /// Stores and publishes, as a create does, what a publication has.
    fn publish(index: &Index<'_>, publication: u32) {
        let entries: Vec<_> = (publication * BLOBS..(publication + 1) * BLOBS).map(entry).collect();
        entries.iter().for_each(|entry| index.replace(&entry.id, entry.location));
        index.publish_early(entries).unwrap();
    }

    fn is_found(index: &Index<'_>, number: u32) -> bool {
        let claimed = index.claim(BlobKind::Chunk, &entry(number).id, &HashSet::new());
        matches!(claimed, Claim::Exists(at) if at == entry(number).location)
    }

    fn claim<'a>(index: &'a Index<'_>, id: [u8; 32]) -> Claim<'a> {
        index.claim(BlobKind::Chunk, &BlobId(id), &HashSet::new())
    }

    #[test]
    fn two_workers_store_one_chunk_once() {
        let packs = packs();
        let index = Index::load(&packs, &HashSet::new()).unwrap();
        let stores = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| match claim(&index, [5; 32]) {
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
        let packs = packs();
        let index = Index::load(&packs, &HashSet::new()).unwrap();
        drop(claim(&index, [5; 32]));
        assert!(matches!(claim(&index, [5; 32]), Claim::Mine(_)));
    }

    #[test]
    fn what_is_published_is_claimed_without_memory_until_it_is_barred() {
        let packs = packs();
        let index = Index::load(&packs, &HashSet::new()).unwrap();
        let own = HashSet::from([PackId([1; 16])]);
        for id in 0..9 {
            let Claim::Mine(pending) = claim(&index, [id; 32]) else { panic!("a new blob") };
            pending.stored(location(1, id.into()));
        }
        let entry = |id: u8| IndexEntry {
            kind: BlobKind::Chunk,
            id: BlobId([id; 32]),
            location: location(1, id.into()),
            plain_len: 7,
        };
        index.publish_early((0..9).map(entry).collect()).unwrap();
        assert!(index.slots.lock().is_empty());
        for id in 0..9 {
            assert!(
                matches!(claim(&index, [id; 32]), Claim::Exists(found) if found == location(1, id.into()))
            );
            assert!(matches!(index.claim(BlobKind::Node, &BlobId([id; 32]), &own), Claim::Mine(_)));
        }
        index.bar(&own);
        assert!(matches!(claim(&index, [5; 32]), Claim::Mine(_)));
        assert!(matches!(index.claim(BlobKind::Chunk, &BlobId([5; 32]), &own), Claim::Exists(_)));
    }

    #[test]
    fn a_pack_that_the_index_names_has_all_its_blobs_there_wherever_it_ends() {
        // Packs of all digits, each of 680 blobs of all digits, and none twice.
        let place = |number: u32| location((number / 680 * 7 % 256) as u8, number % 680);
        let entry = |number: u32| IndexEntry { location: place(number), ..entry(number) };
        for ends_at in [1, 2, 3, 9, 17] {
            let storage = Arc::new(Faults::new(MemoryStorage::new()));
            let packs = packs_in(storage.clone());
            let index = Index::load(&packs, &HashSet::new()).unwrap();
            index.publish_early((0..BLOBS).map(entry).collect()).unwrap();
            storage.fail_nth(Op::Put, "index", ends_at, ErrorKind::StorageFull);
            let ended = index.publish_early((BLOBS..4 * BLOBS).map(entry).collect());
            assert!(ended.is_err(), "put {ends_at} is one of it");
            let lookup = Lookup::open(packs.objects()).unwrap();
            assert!(lookup.packs().len() >= 50);
            // What was replaced until then is deleted.
            let mut superseded = HashSet::new();
            segments::each(packs.objects(), |_, segment| -> Result<()> {
                superseded.extend(segment?.supersedes);
                Ok(())
            })
            .unwrap();
            let listed = segments::list(packs.objects()).unwrap();
            assert!(!listed.iter().any(|segment| superseded.contains(&segment.id)), "ends at put {ends_at}");
            let named = (0..4 * BLOBS).map(entry).filter(|it| lookup.packs().contains(&it.location.pack.id));
            for wanted in named.step_by(13) {
                assert!(lookup.find(&wanted.id, &|_| true).unwrap().is_some(), "ends at put {ends_at}");
            }
        }
    }

    #[test]
    fn who_publishes_early_follows_without_a_list_and_nobody_looks_where_nothing_is() {
        let storage = Arc::new(Recorder::new(MemoryStorage::new()));
        let packs = packs_in(storage.clone());
        let index = Index::load(&packs, &HashSet::new()).unwrap();
        for publication in 0..20 {
            publish(&index, publication);
            if publication == 0 {
                storage.clear();
            }
            // What was found in segments of before is found in those that replace them.
            assert!((0..(publication + 1) * BLOBS).step_by(997).all(|number| is_found(&index, number)));
        }
        let in_vain =
            |call: &Call| matches!(call.op, Op::List | Op::Len) || call.op == Op::ReadRange && call.len == 0;
        let calls =
            storage.calls().into_iter().filter(|call| call.name.starts_with("index") && in_vain(call));
        assert_eq!(calls.collect::<Vec<_>>(), []);
        let there = segments::list(packs.objects()).unwrap();
        assert!(there.len() < 60, "what was replaced is deleted: {}", there.len());
        assert_eq!(there.len(), index.segments.read().seen().len());
    }

    #[test]
    fn what_cannot_be_followed_replaces_nothing_and_is_met_again() {
        let storage = Arc::new(Faults::new(MemoryStorage::new()));
        let packs = packs_in(storage.clone());
        let index = Index::load(&packs, &HashSet::new()).unwrap();
        (0..3).for_each(|publication| publish(&index, publication));
        storage.fail_nth(Op::ReadRange, "index", 1, ErrorKind::TimedOut);
        publish(&index, 3);
        let all_found = |numbers: std::ops::Range<u32>| numbers.step_by(997).all(|it| is_found(&index, it));
        assert!(all_found(0..4 * BLOBS), "what was replaced is there");
        publish(&index, 4);
        assert!(all_found(0..5 * BLOBS));
    }

    #[test]
    fn who_begins_again_meets_what_others_have_published() {
        let packs = packs();
        let mut index = Index::load(&packs, &HashSet::new()).unwrap();
        let entry =
            IndexEntry { kind: BlobKind::Chunk, id: BlobId([5; 32]), location: location(1, 2), plain_len: 7 };
        segments::publish(packs.objects(), vec![entry]).unwrap();
        let claimable = HashSet::from([PackId([1; 16])]);
        assert!(matches!(index.claim(BlobKind::Chunk, &entry.id, &claimable), Claim::Mine(_)));
        index.renew().unwrap();
        assert!(matches!(index.claim(BlobKind::Chunk, &entry.id, &claimable), Claim::Exists(_)));
    }

    #[test]
    fn barred_packs_are_forgotten() {
        let packs = packs();
        let index = Index::load(&packs, &HashSet::new()).unwrap();
        let Claim::Mine(pending) = claim(&index, [5; 32]) else { panic!("a new blob") };
        pending.stored(location(1, 2));
        index.bar(&HashSet::from([PackId([1; 16])]));
        assert!(matches!(claim(&index, [5; 32]), Claim::Mine(_)));
    }
}
