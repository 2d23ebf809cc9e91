//! Which bytes of which archives cannot be read, once something is known to be damaged.
//!
//! The first walk over all archives ([`Live`](crate::maintenance::live::Live)) finds blobs that are not where they should be. This is the
//! second one: what a reader would get counts, so each such blob is tried as a reader does. Subtrees without damage are walked once.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use super::report::{DamagedMember, merged};
use crate::codec::keys::BlobKind;
use crate::format::location::Location;
use crate::format::record::ArchiveRecord;
use crate::id::{BlobId, PackId};
use crate::image::Image;
use crate::image::maps::{LocatedMap, Maps};
use crate::image::walk::Visitor;
use crate::maintenance::error::Result;
use crate::maintenance::inventory::Inventory;
use crate::repository::{self, Repository};

/// A blob at the place where something says that it lies.
type Placed = (BlobKind, BlobId, PackId, u32);

/// Finds what archives lost.
#[derive(Debug)]
pub struct Damage<'a> {
    maps: Maps,
    search: Search<'a>,
}

#[derive(Debug)]
struct Search<'a> {
    repository: &'a Arc<Repository>,
    inventory: &'a Inventory,
    /// Blobs of which some place is not good.
    suspects: &'a BTreeSet<(BlobKind, BlobId)>,
    /// Those of them that the index leads to.
    indexed: &'a BTreeMap<(BlobKind, BlobId), Location>,
    /// Places in the inventory that are known to be bad.
    bad: &'a HashSet<(PackId, u32)>,
    /// What became of suspects that were tried.
    tried: HashMap<Placed, bool>,
    /// Nodes and maps beneath which nothing is damaged.
    clean: HashSet<Placed>,
    /// How many ranges were there when each open node was entered.
    open: Vec<usize>,
    ranges: Vec<Range<u64>>,
    lost: BTreeMap<(BlobKind, BlobId), Location>,
}

impl<'a> Damage<'a> {
    /// Nothing is looked at yet.
    #[must_use]
    pub fn new(
        repository: &'a Arc<Repository>,
        inventory: &'a Inventory,
        suspects: &'a BTreeSet<(BlobKind, BlobId)>,
        indexed: &'a BTreeMap<(BlobKind, BlobId), Location>,
        bad: &'a HashSet<(PackId, u32)>,
    ) -> Self {
        let search = Search {
            repository,
            inventory,
            suspects,
            indexed,
            bad,
            tried: HashMap::new(),
            clean: HashSet::new(),
            open: Vec::new(),
            ranges: Vec::new(),
            lost: BTreeMap::new(),
        };
        Self { maps: Maps::new(repository.clone(), 0), search }
    }

    /// The damaged members of an archive.
    ///
    /// # Errors
    /// None yet: damage is the result.
    pub fn of(&mut self, record: &ArchiveRecord) -> Result<Vec<DamagedMember>> {
        let mut members = Vec::new();
        for (number, member) in record.members.iter().enumerate() {
            let image = Image::of(member, self.search.repository.config().span_shift);
            self.maps.visit(&image, &mut self.search)?;
            self.search.open.clear();
            let ranges = merged(std::mem::take(&mut self.search.ranges));
            if !ranges.is_empty() {
                members.push(DamagedMember { number, name: member.name.clone(), size: member.size, ranges });
            }
        }
        Ok(members)
    }

    /// Every blob that is lost to what was looked at, and where it should be.
    #[must_use]
    pub fn lost(self) -> BTreeMap<(BlobKind, BlobId), Location> {
        self.search.lost
    }
}

fn placed(kind: BlobKind, id: &BlobId, at: Location) -> Placed {
    (kind, *id, at.pack.id, at.offset)
}

impl Search<'_> {
    fn is_lost(&mut self, id: &BlobId, at: Location) -> bool {
        let key = (BlobKind::Chunk, *id);
        if !self.suspects.contains(&key) || self.indexed.contains_key(&key) {
            return false;
        }
        if self.inventory.find(at).is_some() && !self.bad.contains(&(at.pack.id, at.offset)) {
            return false;
        }
        let packs = self.repository.packs();
        let tried = self.tried.entry(placed(BlobKind::Chunk, id, at));
        let lost = *tried.or_insert_with(|| packs.read_unindexed(BlobKind::Chunk, id, at).is_err());
        if lost {
            self.lost.insert(key, at);
        }
        lost
    }
}

impl Visitor for Search<'_> {
    fn enter(&mut self, kind: BlobKind, id: &BlobId, at: Location, _range: &Range<u64>) -> bool {
        if self.clean.contains(&placed(kind, id, at)) {
            return false;
        }
        self.open.push(self.ranges.len());
        true
    }

    fn map(&mut self, start: u64, map: &LocatedMap) {
        let chunks = map.map.chunks.iter().zip(&map.locations);
        let lost: Vec<bool> = chunks.map(|(chunk, at)| self.is_lost(&chunk.id, *at)).collect();
        let over = |extent: &&crate::extent::Extent| lost.get(extent.chunk as usize) == Some(&true);
        let ranges = map.map.extents.iter().filter(over);
        self.ranges.extend(ranges.map(|extent| start + u64::from(extent.offset)..start + extent.end()));
    }

    fn lost(
        &mut self,
        kind: BlobKind,
        id: &BlobId,
        at: Location,
        range: &Range<u64>,
        _error: Arc<repository::Error>,
    ) -> std::result::Result<(), Arc<repository::Error>> {
        self.ranges.push(range.clone());
        self.lost.insert((kind, *id), at);
        Ok(())
    }

    fn leave(&mut self, kind: BlobKind, id: &BlobId, at: Location) {
        if self.open.pop() == Some(self.ranges.len()) {
            self.clean.insert(placed(kind, id, at));
        }
    }
}
