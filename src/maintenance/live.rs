//! Which blobs archives need: a bit for each blob of the inventory, set by walking every map tree once.
//!
//! A location counts, not an id: of two copies of a chunk, only that is live which a map, or a forwarding of what a map names, points at.
//! Bits are never taken back, so that what was live when a walk began stays so. Memory: a bit for each blob, 24 bytes for each map.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::Arc;

use lru::LruCache;

use super::error::Result;
use super::inventory::{Inventory, Marks};
use crate::codec::keys::BlobKind;
use crate::format::location::Location;
use crate::format::record::ArchiveRecord;
use crate::id::{BlobId, PackId};
use crate::image::Image;
use crate::image::maps::{LocatedMap, Maps};
use crate::image::walk::Visitor;
use crate::repository::packs::Moved;
use crate::repository::{self, Repository, segments};

/// How many forwardings are followed from one location: as many as a read follows.
const MAX_FORWARDS: usize = 16;
/// How many packs' forwardings are kept in memory while walking: some 50 MB of common ones.
const FORWARDINGS: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");
/// From so many forwardings on, one that leads straight to a blob is worth its space; far fewer than a read follows.
const DISTANT: usize = 4;

/// A part of an image of which nobody knows what is in it.
#[derive(Debug, Clone)]
pub struct LostMap {
    /// Which member of its archive.
    pub member: usize,
    /// Where, in bytes of the image.
    pub range: Range<u64>,
    /// What cannot be read.
    pub kind: BlobKind,
    /// Its id.
    pub id: BlobId,
    /// Why.
    pub error: Arc<repository::Error>,
}

/// A node or map at its place. The same one elsewhere may hint at other places.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Visited {
    id: u64,
    pack: u64,
    offset: u32,
}

impl Visited {
    fn new(id: &BlobId, at: Location) -> Self {
        let first = |bytes: &[u8]| u64::from_le_bytes(*bytes.first_chunk().expect("ids are longer"));
        Self { id: first(id.as_bytes()), pack: first(at.pack.id.as_bytes()), offset: at.offset }
    }
}

/// What archives need of an inventory.
#[derive(Debug)]
pub struct Live<'a> {
    repository: &'a Arc<Repository>,
    inventory: &'a Inventory,
    maps: Maps,
    needs: Needs<'a>,
}

/// The part of [`Live`] that a walk changes.
#[derive(Debug)]
struct Needs<'a> {
    repository: &'a Arc<Repository>,
    inventory: &'a Inventory,
    marks: Marks,
    visited: HashSet<Visited>,
    /// Packs that live maps, nodes, records and forwardings name, whether they are there or not.
    named: HashSet<PackId>,
    /// Forwardings that were listed, by the packs that they are about.
    retired: HashMap<PackId, BTreeSet<String>>,
    forwardings: LruCache<PackId, Arc<Vec<Moved>>>,
    /// Blobs that many forwardings lead to: from which pack, and where they lie.
    distant: BTreeMap<(PackId, BlobKind, BlobId), Location>,
    /// Blobs that are neither where a map says nor forwarded from there.
    astray: BTreeMap<(BlobKind, BlobId), Location>,
    member: usize,
    lost: Vec<LostMap>,
    /// Why forwardings could not be read.
    failed: Option<repository::Error>,
}

impl<'a> Live<'a> {
    /// Nothing is live yet.
    ///
    /// # Errors
    /// [`repository::Error::Storage`] if forwardings cannot be listed.
    pub fn new(repository: &'a Arc<Repository>, inventory: &'a Inventory) -> Result<Self> {
        let mut needs = Needs {
            repository,
            inventory,
            marks: Marks::new(inventory),
            visited: HashSet::new(),
            named: HashSet::new(),
            retired: HashMap::new(),
            forwardings: LruCache::new(FORWARDINGS),
            distant: BTreeMap::new(),
            astray: BTreeMap::new(),
            member: 0,
            lost: Vec::new(),
            failed: None,
        };
        needs.list_retired()?;
        // What one location's copy hints at must not be taken for what another one's does: nothing is cached.
        Ok(Self { repository, inventory, maps: Maps::new(repository.clone(), 0), needs })
    }

    /// Learns of forwardings that came since, and marks all that they lead to: what was walked before may need it now.
    ///
    /// # Errors
    /// [`repository::Error::Storage`].
    pub fn refresh(&mut self) -> Result<()> {
        self.needs.forwardings.clear();
        let new = self.needs.list_retired()?;
        for (pack, names) in new {
            let moved = self.needs.forwardings(pack);
            for moved in moved.iter().filter(|moved| names.contains(&moved.name)) {
                for (kind, id, at) in &moved.forwarding.blobs {
                    self.needs.follow(*kind, id, *at);
                }
            }
        }
        self.needs.check()
    }

    /// Marks all that an archive reaches, and says which parts of it could not be walked.
    ///
    /// # Errors
    /// [`repository::Error::Storage`] if forwardings cannot be read: what they lead to is not marked. Damage is part of the result.
    pub fn add(&mut self, record: &ArchiveRecord) -> Result<Vec<LostMap>> {
        for (number, member) in record.members.iter().enumerate() {
            self.needs.member = number;
            let image = Image::of(member, self.repository.config().span_shift);
            self.maps.visit(&image, &mut self.needs)?;
        }
        self.needs.check()?;
        Ok(std::mem::take(&mut self.needs.lost))
    }

    /// Looks in the index, the last place where readers look, for what is nowhere else, and marks what it finds.
    ///
    /// # Errors
    /// [`repository::Error::Storage`] if the index cannot be listed or read. A damaged segment leads nobody anywhere.
    pub fn search_index(&mut self) -> Result<BTreeMap<(BlobKind, BlobId), Location>> {
        let mut found = BTreeMap::new();
        if self.needs.astray.is_empty() {
            return Ok(found);
        }
        let objects = self.repository.objects();
        segments::each(objects, |_, segment| {
            let segment = match segment {
                Ok(segment) => segment,
                Err(error @ repository::Error::Storage { .. }) => return Err(error),
                Err(_) => return Ok(()),
            };
            for entry in segment.entries {
                let key = (entry.kind, entry.id);
                if self.needs.astray.contains_key(&key) && self.needs.mark(entry.location) {
                    found.insert(key, entry.location);
                }
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// Blobs that no pack has where maps, and the forwardings of what they name, say; with the place where they should be. Some may be in
    /// the index ([`Self::search_index`]).
    #[must_use]
    pub fn astray(&self) -> &BTreeMap<(BlobKind, BlobId), Location> {
        &self.needs.astray
    }

    /// Blobs that are [`DISTANT`] forwardings or more away from the pack that a map names, by that pack.
    #[must_use]
    pub fn distant(&self) -> &BTreeMap<(PackId, BlobKind, BlobId), Location> {
        &self.needs.distant
    }

    /// Whether a blob is needed, by the numbers of [`Inventory::find`].
    #[must_use]
    pub fn is_live(&self, pack: usize, blob: usize) -> bool {
        self.needs.marks.is_marked(pack, blob)
    }

    /// How many blobs of a pack are needed, and their sealed bytes.
    #[must_use]
    pub fn of_pack(&self, pack: usize) -> (usize, u64) {
        let layout = &self.inventory.packs()[pack];
        let live = (0..layout.blobs()).filter(|blob| self.is_live(pack, *blob));
        live.fold((0, 0), |(count, bytes), blob| (count + 1, bytes + u64::from(layout.blob_len(blob))))
    }

    /// Whether something that is live names this pack, so that its forwardings are needed.
    #[must_use]
    pub fn is_named(&self, pack: PackId) -> bool {
        self.needs.named.contains(&pack)
    }
}

impl Needs<'_> {
    /// Lists forwardings, and returns those that are new.
    fn list_retired(&mut self) -> Result<HashMap<PackId, HashSet<String>>> {
        let mut new: HashMap<PackId, HashSet<String>> = HashMap::new();
        for name in self.repository.objects().names("moved")? {
            let name = name.as_str();
            let Some(pack) = name.split('/').nth(2).and_then(|id| id.parse().ok()) else { continue };
            if self.retired.entry(pack).or_default().insert(name.to_owned()) {
                new.entry(pack).or_default().insert(name.to_owned());
            }
        }
        Ok(new)
    }

    /// Fails if forwardings could not be read since this was asked last.
    fn check(&mut self) -> Result<()> {
        self.failed.take().map_or(Ok(()), |error| Err(error.into()))
    }

    /// Notes that a blob is needed at a location, and wherever forwardings of that location's pack say that it went.
    fn need(&mut self, kind: BlobKind, id: &BlobId, at: Location) {
        if !self.follow(kind, id, at) {
            self.astray.insert((kind, *id), at);
        }
    }

    /// Marks a location and wherever forwardings lead from there; false if the blob is in none of these places.
    fn follow(&mut self, kind: BlobKind, id: &BlobId, at: Location) -> bool {
        let mut found = self.mark(at);
        if found && !self.retired.contains_key(&at.pack.id) {
            self.named.insert(at.pack.id);
            return true;
        }
        let mut next = vec![(at, 0)];
        let mut seen = HashSet::from([at.pack.id]);
        let mut nearest: Option<(usize, Location)> = found.then_some((0, at));
        for _ in 0..MAX_FORWARDS {
            let Some((here, steps)) = next.pop() else { break };
            if self.mark(here) {
                found = true;
                nearest = nearest.filter(|(known, _)| *known <= steps).or(Some((steps, here)));
            }
            self.named.insert(here.pack.id);
            if !self.retired.contains_key(&here.pack.id) {
                continue;
            }
            for target in self.forwardings(here.pack.id).iter().filter_map(|m| m.forwarding.find(kind, id)) {
                if seen.insert(target.pack.id) {
                    next.push((target, steps + 1));
                }
            }
        }
        if let Some((_, place)) = nearest.filter(|(steps, _)| *steps >= DISTANT) {
            self.distant.insert((at.pack.id, kind, *id), place);
        }
        found
    }

    /// The forwardings of a pack, of those that were listed: what [`Live::refresh`] takes for known must have been followed.
    fn forwardings(&mut self, pack: PackId) -> Arc<Vec<Moved>> {
        if let Some(known) = self.forwardings.get(&pack) {
            return known.clone();
        }
        let names = self.retired.get(&pack).into_iter().flatten().map(String::as_str);
        let moved = self.repository.packs().named_forwardings(pack, names).unwrap_or_else(|error| {
            self.failed = Some(error);
            Arc::default()
        });
        self.forwardings.put(pack, moved.clone());
        moved
    }

    /// Sets the bit of a location; false if nothing lies there.
    fn mark(&mut self, at: Location) -> bool {
        self.marks.mark(self.inventory, at)
    }
}

impl Visitor for Needs<'_> {
    fn enter(&mut self, kind: BlobKind, id: &BlobId, at: Location, _range: &Range<u64>) -> bool {
        if !self.visited.insert(Visited::new(id, at)) {
            return false;
        }
        self.need(kind, id, at);
        true
    }

    fn map(&mut self, _start: u64, map: &LocatedMap) {
        for (chunk, at) in map.map.chunks.iter().zip(&map.locations) {
            self.need(BlobKind::Chunk, &chunk.id, *at);
        }
    }

    fn lost(
        &mut self,
        kind: BlobKind,
        id: &BlobId,
        at: Location,
        range: &Range<u64>,
        error: Arc<repository::Error>,
    ) -> std::result::Result<(), Arc<repository::Error>> {
        // Another archive that needs it is told of it too.
        self.visited.remove(&Visited::new(id, at));
        self.lost.push(LostMap { member: self.member, range: range.clone(), kind, id: *id, error });
        Ok(())
    }
}
