//! Where key slots and their removal markers lie: both places, whatever the config says, since a slot in either opens.
//!
//! Whether one object is there is asked by its exact name, which never lags; only what nobody has named is looked for in lists.

use std::io;
use std::sync::Arc;

use super::SlotError;
use super::search::read_copy;
use crate::codec::keys::{FIRST_EPOCH, KeySet, Keyring};
use crate::format::envelope::ObjectKind;
use crate::format::msgpack;
use crate::format::protocol::RemovalMarker;
use crate::format::slot::Slot;
use crate::id::{Nonce16, RepositoryId, SlotId};
use crate::repository::Repository;
use crate::repository::error::Result;
use crate::repository::objects::{Objects, mirror_name, name};
use crate::storage::{Name, Settle, Storage};

const SLOTS: &str = "keys";
const MARKERS: &str = "key-removals";

/// The name of a slot's object.
pub(super) fn slot_name(id: SlotId) -> String {
    format!("{SLOTS}/{id}")
}

/// A removal marker, by its name: whether it opens does not matter to who must spare or avoid its slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Marker {
    /// The slot that is being removed.
    pub(super) slot: SlotId,
    /// The object.
    pub(super) name: String,
}

impl Marker {
    fn new(slot: SlotId) -> Self {
        Self { slot, name: format!("{MARKERS}/{slot}-{}", Nonce16::random()) }
    }

    fn parse(object: &Name) -> Option<Self> {
        let (slot, nonce) = object.as_str().strip_prefix(MARKERS)?.strip_prefix('/')?.split_once('-')?;
        nonce.parse::<Nonce16>().ok()?;
        Some(Self { slot: slot.parse().ok()?, name: object.to_string() })
    }
}

/// Slots and markers in both places.
#[derive(Debug)]
pub(super) struct Places {
    objects: Objects,
}

impl Places {
    /// Those of an open repository.
    pub(super) fn of(repository: &Repository) -> Self {
        let objects = repository.objects();
        Self { objects: Objects::new(objects.storage().clone(), objects.keyring().clone(), true) }
    }

    /// Those of a repository whose keys are not open: names only, markers cannot be read or written.
    pub(super) fn nameless(storage: Arc<dyn Storage>, repository: RepositoryId) -> Self {
        let nobody = Arc::new(Keyring::new(repository, &KeySet::default(), FIRST_EPOCH));
        Self { objects: Objects::new(storage, nobody, true) }
    }

    /// Refuses a storage of which nobody knows when its lists show a marker.
    pub(super) fn check_settles(&self) -> Result<()> {
        match self.storage().settle() {
            Settle::After(_) => Ok(()),
            Settle::Unknown => Err(SlotError::Unsettled { storage: self.storage().describe() }.into()),
        }
    }

    pub(super) fn storage(&self) -> &Arc<dyn Storage> {
        self.objects.storage()
    }

    pub(super) fn settle(&self) {
        self.objects.settle();
    }

    /// All listed slots, by id.
    pub(super) fn slots(&self) -> Result<Vec<SlotId>> {
        let names = self.objects.names(SLOTS)?;
        let id_of = |name: &Name| name.as_str().strip_prefix(SLOTS)?.strip_prefix('/')?.parse().ok();
        Ok(names.iter().filter_map(id_of).collect())
    }

    /// All listed markers.
    pub(super) fn markers(&self) -> Result<Vec<Marker>> {
        Ok(self.objects.names(MARKERS)?.iter().filter_map(Marker::parse).collect())
    }

    /// Whether the slot's first and second copy are there.
    pub(super) fn copies(&self, id: SlotId) -> Result<[bool; 2]> {
        let first = name(&slot_name(id));
        Ok([self.is_there(&first)?, self.is_there(&mirror_name(&first))?])
    }

    fn is_there(&self, object: &Name) -> Result<bool> {
        match self.storage().len(object) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(self.objects.failed("look at", object.as_str())(error)),
        }
    }

    /// Each copy of a slot as it is now.
    pub(super) fn read(&self, id: SlotId) -> [std::result::Result<Slot, String>; 2] {
        let first = name(&slot_name(id));
        [&first, &mirror_name(&first)].map(|copy| read_copy(self.storage(), copy))
    }

    /// Whether a slot that was opened before is still there, in every copy that it should have. One copy alone does not count: it may be
    /// what a deletion has not reached yet, or what a healer is about to take back.
    pub(super) fn still_has(&self, id: SlotId, slot: &Slot, mirrors: bool) -> bool {
        let [first, second] = self.read(id).map(|copy| copy.as_ref() == Ok(slot));
        first && (second || !mirrors)
    }

    /// Publishes a marker. If that fails, none is left, as far as the storage allows.
    pub(super) fn mark(&self, repository: &Repository, slot: SlotId) -> Result<Marker> {
        let marker = Marker::new(slot);
        let object = RemovalMarker {
            slot,
            time: crate::repository::now(),
            host: crate::repository::session::host_name(),
        };
        let put =
            repository.objects().put(ObjectKind::RemovalMarker, &marker.name, &msgpack::to_bytes(&object));
        put.inspect_err(|_| self.withdraw(&marker))?;
        Ok(marker)
    }

    /// What a marker says, if it opens and is about the slot in its name.
    pub(super) fn read_marker(&self, marker: &Marker) -> Option<RemovalMarker> {
        let plain = self.objects.get(ObjectKind::RemovalMarker, &marker.name).ok()?;
        let object: RemovalMarker = msgpack::from_bytes("removal marker", &plain).ok()?;
        (object.slot == marker.slot).then_some(object)
    }

    /// Deletes a marker; a failure is logged.
    pub(super) fn withdraw(&self, marker: &Marker) {
        if let Err(error) = self.objects.delete(&marker.name) {
            log::warn!(
                "the removal marker {} could not be deleted and keeps its slot from counting: {}",
                marker.name,
                crate::repository::archives::chain(&error)
            );
        }
    }

    /// Deletes both copies of a slot, the second first.
    pub(super) fn delete_slot(&self, id: SlotId) -> Result<()> {
        self.objects.delete(&slot_name(id))
    }
}
