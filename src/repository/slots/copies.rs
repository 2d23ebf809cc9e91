//! The second copy of a slot, where a crash or a disk left only one.

use super::places::{Places, slot_name};
use crate::format::slot::{MAX_SLOT, Slot};
use crate::id::SlotId;
use crate::repository::Repository;
use crate::repository::archives::chain;
use crate::repository::error::Result;
use crate::repository::objects::{mirror_name, name};

/// Stores again the missing copy of each slot that nobody removes, but for `except`; returns these slots. A failure is logged: the
/// slot opens with the copy that it has.
pub(super) fn complete_all(repository: &Repository, except: Option<SlotId>) -> Vec<SlotId> {
    let places = Places::of(repository);
    if !repository.config().mirror || places.check_settles().is_err() {
        return vec![];
    }
    let completed = || -> Result<Vec<SlotId>> {
        let marked: Vec<SlotId> = places.markers()?.iter().map(|marker| marker.slot).collect();
        let mut completed = Vec::new();
        for id in places.slots()? {
            if Some(id) != except && !marked.contains(&id) && complete(repository, &places, id)? {
                completed.push(id);
            }
        }
        Ok(completed)
    };
    completed().unwrap_or_else(|error| {
        log::warn!("a second copy of a key slot could not be stored: {}", chain(&error));
        vec![]
    })
}

/// Copies what there is to where it is missing. Somebody may have begun to remove the slot meanwhile; then the copy goes again.
fn complete(repository: &Repository, places: &Places, id: SlotId) -> Result<bool> {
    let first = name(&slot_name(id));
    let second = mirror_name(&first);
    let (from, to) = match places.copies(id)? {
        [true, false] => (first, second),
        [false, true] => (second, first),
        _ => return Ok(false),
    };
    let objects = repository.objects();
    let storage = objects.storage();
    let Ok(bytes) = storage.read(&from, MAX_SLOT) else { return Ok(false) };
    if Slot::from_bytes(&bytes).is_err() {
        return Ok(false);
    }
    storage.put(&to, &[&bytes]).map_err(objects.failed("write", to.as_str()))?;
    places.settle();
    let marked = places.markers()?.iter().any(|marker| marker.slot == id);
    let source_is_gone = storage.len(&from).is_err();
    if marked || source_is_gone {
        storage.delete(&to).map_err(objects.failed("delete", to.as_str()))?;
        return Ok(false);
    }
    Ok(true)
}
