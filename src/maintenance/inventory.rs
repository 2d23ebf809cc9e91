//! Every stored pack, and where in it each blob begins.
//!
//! Taken from the packs' own trailers, not from the index: what is there counts. Costs 4 bytes of memory for each blob, since blobs lie
//! back to back and one's length is the next one's start.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::error::{Error, Result};
use crate::format::location::Location;
use crate::format::pack::{PackEntry, PackKind};
use crate::id::PackId;
use crate::repository::{self, Repository};
use crate::task::{Stop, workers};

/// A pack whose list of blobs was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Its id.
    pub id: PackId,
    /// What is in it.
    pub kind: PackKind,
    /// Its stored length in bytes; that of one copy, where there are two.
    pub len: u64,
    /// Where each blob begins, ascending.
    starts: Box<[u32]>,
    /// Where the last one ends.
    end: u32,
}

impl Layout {
    /// A pack of `len` bytes with these blobs, in their order.
    #[must_use]
    pub fn new(id: PackId, kind: PackKind, len: u64, entries: &[PackEntry]) -> Self {
        let starts = entries.iter().map(|entry| entry.offset).collect();
        let end = entries.last().map_or(0, |last| last.offset + last.sealed_len);
        Self { id, kind, len, starts, end }
    }

    /// How many blobs it has.
    #[must_use]
    pub fn blobs(&self) -> usize {
        self.starts.len()
    }

    /// The number of the blob that lies at `offset` with this sealed length.
    #[must_use]
    pub fn find(&self, offset: u32, sealed_len: u32) -> Option<usize> {
        let number = self.starts.binary_search(&offset).ok()?;
        (self.blob_len(number) == sealed_len).then_some(number)
    }

    /// The sealed length of a blob.
    #[must_use]
    pub fn blob_len(&self, number: usize) -> u32 {
        let end = self.starts.get(number + 1).copied().unwrap_or(self.end);
        self.starts.get(number).map_or(0, |start| end - start)
    }
}

/// A pack whose list of blobs cannot be read.
#[derive(Debug)]
pub struct Unreadable {
    /// Its id.
    pub id: PackId,
    /// What should be in it.
    pub kind: PackKind,
    /// Its stored length in bytes.
    pub len: u64,
    /// Why.
    pub error: repository::Error,
}

/// Every listed pack.
#[derive(Debug, Default)]
pub struct Inventory {
    packs: Vec<Layout>,
    unreadable: Vec<Unreadable>,
    numbers: HashMap<PackId, u32>,
}

impl Inventory {
    /// Lists the packs and reads the trailer of each, with a thread per core. Packs that vanish meanwhile are left out.
    ///
    /// # Errors
    /// [`repository::Error::Storage`] if packs cannot be listed; [`Error::Stopped`].
    pub fn read(repository: &Repository, stop: &Stop) -> Result<Self> {
        let mut listed = Vec::new();
        for kind in [PackKind::Data, PackKind::Maps] {
            for object in repository.objects().list(kind.folder())? {
                let id = object.name.as_str().rsplit('/').next().and_then(|id| id.parse().ok());
                listed.extend(id.map(|id: PackId| (kind, id, object.len)));
            }
        }
        let read = Mutex::new(Self::default());
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let work = || {
                while let Some((kind, id, len)) = listed.get(next.fetch_add(1, Ordering::Relaxed)) {
                    stop.check()?;
                    match repository.packs().entries(*kind, *id) {
                        Ok(entries) => read.lock().add(Layout::new(*id, *kind, *len, &entries)),
                        Err(error) if error.is_missing() => {}
                        Err(error) => {
                            read.lock().unreadable.push(Unreadable {
                                id: *id,
                                kind: *kind,
                                len: *len,
                                error,
                            });
                        }
                    }
                }
                Ok::<(), Error>(())
            };
            let threads: Vec<_> = (0..workers()).map(|_| scope.spawn(work)).collect();
            let panicked = || Err(Error::Panicked { what: "a thread that reads packs' lists" });
            threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| panicked()))
        })?;
        Ok(read.into_inner())
    }

    /// Adds a pack.
    pub fn add(&mut self, layout: Layout) {
        let number = u32::try_from(self.packs.len()).expect("a storage has fewer than 2^32 packs");
        self.numbers.insert(layout.id, number);
        self.packs.push(layout);
    }

    /// Adds a pack whose list cannot be read.
    pub fn add_unreadable(&mut self, pack: Unreadable) {
        self.unreadable.push(pack);
    }

    /// All packs whose lists could be read, by number.
    #[must_use]
    pub fn packs(&self) -> &[Layout] {
        &self.packs
    }

    /// All others.
    #[must_use]
    pub fn unreadable(&self) -> &[Unreadable] {
        &self.unreadable
    }

    /// The number of a pack.
    #[must_use]
    pub fn number(&self, id: PackId) -> Option<usize> {
        self.numbers.get(&id).map(|number| *number as usize)
    }

    /// A pack by its id.
    #[must_use]
    pub fn pack(&self, id: PackId) -> Option<&Layout> {
        self.packs.get(self.number(id)?)
    }

    /// Which blob of which pack a location means; `None` if nothing begins there with this length.
    #[must_use]
    pub fn find(&self, at: Location) -> Option<(usize, usize)> {
        let number = self.number(at.pack.id)?;
        Some((number, self.packs[number].find(at.offset, at.sealed_len)?))
    }
}

/// A bit for each blob of an inventory.
#[derive(Debug)]
pub struct Marks(Vec<Box<[u64]>>);

impl Marks {
    /// No blob is marked.
    #[must_use]
    pub fn new(inventory: &Inventory) -> Self {
        let words = |pack: &Layout| vec![0; pack.blobs().div_ceil(64)].into_boxed_slice();
        Self(inventory.packs().iter().map(words).collect())
    }

    /// Marks the blob at a location; false if none lies there.
    pub fn mark(&mut self, inventory: &Inventory, at: Location) -> bool {
        let Some((pack, blob)) = inventory.find(at) else { return false };
        self.0[pack][blob / 64] |= 1 << (blob % 64);
        true
    }

    /// Whether a blob is marked, by the numbers of [`Inventory::find`].
    #[must_use]
    pub fn is_marked(&self, pack: usize, blob: usize) -> bool {
        self.0[pack][blob / 64] >> (blob % 64) & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::keys::BlobKind;
    use crate::format::location::PackRef;
    use crate::id::BlobId;

    #[test]
    fn blobs_are_found_by_where_they_begin_and_how_long_they_are() {
        let entry = |offset, sealed_len| PackEntry {
            kind: BlobKind::Chunk,
            id: BlobId([1; 32]),
            offset,
            sealed_len,
            plain_len: 1,
        };
        let id = PackId([7; 16]);
        let mut inventory = Inventory::default();
        inventory.add(Layout::new(
            id,
            PackKind::Data,
            1000,
            &[entry(40, 60), entry(100, 34), entry(134, 66)],
        ));
        let at = |offset, sealed_len| {
            inventory.find(Location { pack: PackRef { id, mode: 1, epoch: 1 }, offset, sealed_len })
        };
        assert_eq!([at(40, 60), at(100, 34), at(134, 66)], [Some((0, 0)), Some((0, 1)), Some((0, 2))]);
        assert_eq!([at(40, 61), at(41, 59), at(134, 67), at(200, 0)], [None; 4]);
        let elsewhere = PackRef { id: PackId([8; 16]), mode: 1, epoch: 1 };
        assert_eq!(inventory.find(Location { pack: elsewhere, offset: 40, sealed_len: 60 }), None);
    }
}
