//! Removing a slot so that never the last one goes, however many remove at once (`docs/format.md`, section 13).
//!
//! publish a marker → settle → list markers, then read the slots that were opened in this run: one that no marker names must be there →
//! delete the slot → settle, until it is gone from both places → delete its markers. Of two removers, one that relies on the slot that the
//! other removes sees either the other's marker, or that the slot is gone: markers are looked at before slots, and stay longer than slots.

use super::places::{Marker, Places};
use super::{OpenedSlot, SlotError};
use crate::id::SlotId;
use crate::repository::Repository;
use crate::repository::error::Result;

/// How often a deletion is repeated while a copy reappears, as one can that somebody stored meanwhile.
const ROUNDS: usize = 4;

/// What a removal found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removed {
    /// The slot, and it is gone now.
    Now,
    /// Only what an earlier removal of it had left behind, and that is gone now.
    Before,
}

/// Removes the slot `target`; one of the slots in `opened`, which were opened in this run, must remain.
///
/// # Errors
/// [`SlotError::Unsettled`], [`SlotError::Unknown`], [`SlotError::OpenedByThis`], [`SlotError::NoneRemains`]: nothing was removed, and the
/// marker is withdrawn. [`super::super::Error::Storage`]: where the deletion had begun, the slot stays marked, and the same again completes it.
pub fn remove(repository: &Repository, opened: &[OpenedSlot], target: SlotId) -> Result<Removed> {
    super::check_slots(repository)?;
    let places = Places::of(repository);
    places.check_settles()?;
    let cleaned = clean_markers(&places)?;
    if places.copies(target)? == [false; 2] {
        let before = cleaned.contains(&target);
        return if before { Ok(Removed::Before) } else { Err(SlotError::Unknown { slot: target }.into()) };
    }
    if opened.iter().all(|slot| slot.id == target) {
        return Err(SlotError::OpenedByThis { slot: target }.into());
    }
    let marker = places.mark(repository, target)?;
    places.settle();
    check_remains(&places, opened, target, repository.config().mirror)
        .inspect_err(|_| places.withdraw(&marker))?;
    // From here on the marker stays until the slot is gone: a delete that failed may still have worked, or work later.
    delete_for_good(&places, target)?;
    places
        .markers()?
        .iter()
        .filter(|marker| marker.slot == target)
        .for_each(|marker| places.withdraw(marker));
    Ok(Removed::Now)
}

/// Deletes the markers that removals left behind whose slots are gone.
///
/// # Errors
/// [`SlotError::Unsettled`], [`super::super::Error::Storage`].
pub fn clean(repository: &Repository) -> Result<()> {
    super::check_slots(repository)?;
    let places = Places::of(repository);
    places.check_settles()?;
    clean_markers(&places).map(drop)
}

/// Looks for a slot that was opened in this run, that nobody removes, and that is still what it was.
fn check_remains(places: &Places, opened: &[OpenedSlot], target: SlotId, mirrors: bool) -> Result<()> {
    let markers = places.markers()?;
    let marked = |id: SlotId| markers.iter().any(|marker| marker.slot == id);
    let others = || opened.iter().filter(|slot| slot.id != target);
    if others().any(|slot| !marked(slot.id) && places.still_has(slot.id, &slot.slot, mirrors)) {
        return Ok(());
    }
    let reason = match others().find(|slot| marked(slot.id)) {
        Some(slot) => format!("slot {}, which your secret opens, is being removed too", short(slot.id)),
        None => "the slot that your secret opened is gone, or one of its copies is missing or damaged".into(),
    };
    Err(SlotError::NoneRemains { slot: target, reason }.into())
}

/// Deletes until neither copy is there or listed.
fn delete_for_good(places: &Places, target: SlotId) -> Result<()> {
    for _ in 0..ROUNDS {
        places.delete_slot(target)?;
        places.settle();
        if places.copies(target)? == [false; 2] && !places.slots()?.contains(&target) {
            return Ok(());
        }
    }
    Err(SlotError::Reappears { slot: target }.into())
}

/// Deletes the markers of slots that are gone from both places, whoever left them; returns those slots.
fn clean_markers(places: &Places) -> Result<Vec<SlotId>> {
    let mut dead: Vec<Marker> = Vec::new();
    for marker in places.markers()? {
        if places.copies(marker.slot)? == [false; 2] {
            dead.push(marker);
        }
    }
    if !dead.is_empty() {
        // Lists of others may show the slot a little longer; the marker must outlast that.
        places.settle();
        dead.iter().for_each(|marker| places.withdraw(marker));
    }
    Ok(dead.into_iter().map(|marker| marker.slot).collect())
}

pub(super) fn short(id: SlotId) -> String {
    id.to_string()[..8].to_owned()
}
