//! Reading key slots, and finding those that a secret opens.
//!
//! Names of slots come from lists, their bytes from exact reads. What cannot be used is logged and passed over: one bad slot never keeps a
//! good one from being found.

use std::sync::Arc;

use super::OpenedSlot;
use super::places::{Places, slot_name};
use crate::codec::CodecError;
use crate::codec::slot_key::{Derivation, Secret};
use crate::format::limits::MAX_SLOTS;
use crate::format::slot::{MAX_SLOT, Slot};
use crate::id::{RepositoryId, SlotId};
use crate::repository::error::{Error, Result};
use crate::repository::objects::{mirror_name, name};
use crate::storage::{Name, Storage};

/// Finds the slot that `secret` opens, the cheapest first.
///
/// # Errors
/// [`Error::WrongPassphrase`], [`Error::WrongKeyFile`], [`Error::NoKeySlot`], [`Error::Storage`]; [`Error::Codec`] where no slot could be
/// tried for lack of memory.
pub(in crate::repository) fn open_first(
    storage: &Arc<dyn Storage>,
    repository: RepositoryId,
    secret: &Secret,
) -> Result<OpenedSlot> {
    let mut tried = 0;
    let mut untried = None;
    for (id, slot) in readable(storage, repository)? {
        match try_slot(id, slot, secret) {
            Ok(Some(opened)) => return Ok(opened),
            Ok(None) => tried += 1,
            Err(error) => untried = Some(error),
        }
    }
    Err(match (tried, untried, secret) {
        (0, Some(error), _) => error.into(),
        (0, None, _) => Error::NoKeySlot { repository },
        (slots, _, Secret::Passphrase(_)) => Error::WrongPassphrase { repository, slots },
        (slots, _, Secret::KeyFile(_)) => Error::WrongKeyFile { repository, slots },
    })
}

/// Finds all slots that `secret` opens.
///
/// # Errors
/// [`Error::Storage`].
pub(in crate::repository) fn open_all(
    storage: &Arc<dyn Storage>,
    repository: RepositoryId,
    secret: &Secret,
) -> Result<Vec<OpenedSlot>> {
    let slots = readable(storage, repository)?.into_iter();
    Ok(slots.filter_map(|(id, slot)| try_slot(id, slot, secret).ok().flatten()).collect())
}

/// Tries one slot; a failure is logged.
fn try_slot(id: SlotId, slot: Slot, secret: &Secret) -> std::result::Result<Option<OpenedSlot>, CodecError> {
    let opened = match (secret, available_memory()) {
        (Secret::Passphrase(_), Some(available)) if !fits(slot.derivation, available) => {
            let reason =
                format!("it takes {} MiB of memory, there is not so much", slot.derivation.memory() >> 20);
            Err(CodecError::Derivation { reason })
        }
        _ => slot.open(id, secret),
    };
    match opened {
        Ok(payload) => Ok(payload.map(|payload| OpenedSlot::new(id, slot, payload))),
        Err(error) => {
            log::warn!("key slot {id} could not be tried: {error}");
            Err(error)
        }
    }
}

fn fits(derivation: Derivation, available: u64) -> bool {
    derivation.memory() <= available
}

/// Bytes that can be had without anything being killed, swap included; `None` where the system does not say.
fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let kib = |field: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(field))?;
        line.trim_start_matches(':').split_whitespace().next()?.parse().ok()
    };
    Some((kib("MemAvailable")? + kib("SwapFree").unwrap_or(0)) << 10)
}

/// The slots of this repository that can be read, the cheapest first, so that a greedy one is met only when no other fits.
fn readable(storage: &Arc<dyn Storage>, repository: RepositoryId) -> Result<Vec<(SlotId, Slot)>> {
    let mut slots = Vec::new();
    for id in Places::nameless(storage.clone(), repository).slots()?.into_iter().take(MAX_SLOTS) {
        match read_slot(storage, &name(&slot_name(id))) {
            Some(slot) if slot.repository == repository => slots.push((id, slot)),
            Some(_) => log::warn!("keys/{id} belongs to another repository"),
            None => {}
        }
    }
    slots.sort_by_key(|(_, slot)| slot.derivation.cost());
    Ok(slots)
}

fn read_slot(storage: &Arc<dyn Storage>, name: &Name) -> Option<Slot> {
    let error = match read_copy(storage, name) {
        Ok(slot) => return Some(slot),
        Err(error) => error,
    };
    match read_copy(storage, &mirror_name(name)) {
        Ok(slot) => {
            log::warn!("key slot {name}: {error}; read from its second copy");
            Some(slot)
        }
        Err(_) => {
            log::warn!("key slot {name} cannot be used: {error}");
            None
        }
    }
}

/// Reads one copy of a slot; the error is for people.
pub(super) fn read_copy(storage: &Arc<dyn Storage>, copy: &Name) -> std::result::Result<Slot, String> {
    let bytes = storage.read(copy, MAX_SLOT).map_err(|error| error.to_string())?;
    Slot::from_bytes(&bytes).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_looked_at_before_it_is_taken() {
        let greedy = Derivation::Argon2id { memory_kib: 4 << 20, iterations: 1, lanes: 1 };
        assert!(!fits(greedy, (4 << 30) - 1) && fits(greedy, 4 << 30));
        assert!(fits(Derivation::KeyFile, 0));
        if cfg!(target_os = "linux") {
            assert!(available_memory().is_some_and(|bytes| bytes > 1 << 20));
        }
    }
}
