//! The key slots of a repository: listing, adding, replacing, removing.
//!
//! A new slot is read back from storage and opened with its secret before it counts. Nothing removes a slot but [`removal`], which never
//! takes the last one. Keys stay in types that are wiped, and are shown nowhere.

mod copies;
mod places;
pub mod removal;
pub(super) mod search;

pub use removal::{Removed, remove};

use super::error::Result;
use super::objects::{mirror_name, name};
use super::{Repository, now};
use crate::codec::keys::KeySet;
use crate::codec::slot_key::{Derivation, Secret};
use crate::format::config::EncryptionMode;
use crate::format::limits::MAX_SLOTS;
use crate::format::slot::{MAX_SLOT, Slot, SlotPayload, check_label};
use crate::id::{RepositoryId, SlotId};
use places::{Places, slot_name};
use removal::short;

/// Why slots cannot be changed as asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SlotError {
    /// There are no slots.
    #[error("the repository is not encrypted: it has no key slots, and no secret opens or closes it")]
    NotEncrypted,
    /// No such slot.
    #[error("there is no key slot {slot}; 'copal key list' shows what there is")]
    Unknown {
        /// What was asked for.
        slot: SlotId,
    },
    /// Nothing fits a selector.
    #[error(
        "no key slot fits {selector:?}: give the beginning of an id that 'copal key list' shows, or the label of a slot that your secret opens; other slots' labels are sealed"
    )]
    NoMatch {
        /// What was asked for.
        selector: String,
    },
    /// Several fit a selector.
    #[error("{selector:?} fits {} key slots: {}; give more of the id", .slots.len(), ids(.slots))]
    Ambiguous {
        /// What was asked for.
        selector: String,
        /// What fits.
        slots: Vec<SlotId>,
    },
    /// All slots are in use.
    #[error(
        "the repository has {slots} key slots, {MAX_SLOTS} are allowed; remove one first with 'copal key remove'"
    )]
    Full {
        /// How many there are.
        slots: usize,
    },
    /// It would lock out whoever asks.
    #[error(
        "key slot {slot} is the one that your secret opens: open the repository with the secret of another slot to remove it ('copal key add' makes one), or use 'copal key change-passphrase'"
    )]
    OpenedByThis {
        /// The slot.
        slot: SlotId,
    },
    /// Another removal is under way, and both together might take the last slot.
    #[error(
        "key slot {slot} was not removed, since no slot that is known to open would surely remain: {reason}; 'copal key list' shows what is under way; add a slot with 'copal key add', and use its secret"
    )]
    NoneRemains {
        /// The slot that stays.
        slot: SlotId,
        /// Why.
        reason: String,
    },
    /// Lists of the storage may lag by nobody knows how much.
    #[error(
        "key slots cannot be removed in {storage}: its lists may lag behind by an unknown time, so two removals at once could take the last slot; do it on the machine that holds the disk"
    )]
    Unsettled {
        /// The storage.
        storage: String,
    },
    /// Deleting does not help.
    #[error(
        "key slot {slot} was deleted and is there again: somebody stores it anew; look who else changes keys, then remove it again"
    )]
    Reappears {
        /// The slot.
        slot: SlotId,
    },
    /// A new slot is not as it was written.
    #[error(
        "the new key slot {slot} does not read back from storage as it was written: {reason}; nothing else was changed"
    )]
    NotReadBack {
        /// The slot.
        slot: SlotId,
        /// What was found.
        reason: String,
    },
    /// Somebody removes a slot that was just made.
    #[error(
        "the new key slot {slot} is being removed by somebody else; look who else changes keys, then try again"
    )]
    TakenAway {
        /// The slot.
        slot: SlotId,
    },
    /// Nothing would change.
    #[error("the new secret is the old one; nothing was changed")]
    SameSecret,
    /// The keys are another repository's.
    #[error(
        "the recovery form is of repository {form}, this is repository {repository}; find the form that belongs to it"
    )]
    OtherRepository {
        /// Whose the form is.
        form: RepositoryId,
        /// Which repository this is.
        repository: RepositoryId,
    },
}

fn ids(slots: &[SlotId]) -> String {
    slots.iter().map(|slot| short(*slot)).collect::<Vec<_>>().join(", ")
}

/// A slot that a secret opened in this run.
#[derive(Debug)]
pub struct OpenedSlot {
    /// Its id.
    pub id: SlotId,
    /// What the user calls it; may be empty.
    pub label: String,
    /// When it was made, in ns since 1970, UTC.
    pub created: i64,
    slot: Slot,
    keys: KeySet,
}

impl OpenedSlot {
    fn new(id: SlotId, slot: Slot, payload: SlotPayload) -> Self {
        let SlotPayload { keys, label, created } = payload;
        Self { id, label, created, slot, keys }
    }

    /// The keys that it holds.
    #[must_use]
    pub fn keys(&self) -> &KeySet {
        &self.keys
    }
}

/// A slot as everybody sees it who has opened any.
#[derive(Debug, Clone)]
pub struct ListedSlot {
    /// Its id.
    pub id: SlotId,
    /// How its key is derived; what is wrong with it if no copy can be read.
    pub derivation: std::result::Result<Derivation, String>,
    /// Whether its first and second copy are there.
    pub copies: [bool; 2],
    /// Its label and time, where a secret opened it.
    pub opened: Option<(String, i64)>,
    /// Removals of it that began and did not end: when and on which host, where that can be read.
    pub removals: Vec<Option<(i64, String)>>,
}

/// Lists all slots, and those of which only removal markers are left. `opened` are known by their labels.
///
/// # Errors
/// [`super::Error::Storage`], [`SlotError::NotEncrypted`].
pub fn list(repository: &Repository, opened: &[OpenedSlot]) -> Result<Vec<ListedSlot>> {
    check_encrypted(repository)?;
    let places = Places::of(repository);
    let markers = places.markers()?;
    let mut ids = places.slots()?;
    ids.extend(markers.iter().map(|marker| marker.slot));
    ids.sort_unstable();
    ids.dedup();
    let describe = |id: SlotId| {
        let known = opened.iter().find(|slot| slot.id == id);
        let [first, second] = places.read(id);
        let derivation = match (first, second) {
            (Ok(slot), _) | (_, Ok(slot)) => Ok(slot.derivation),
            (Err(error), _) => Err(error),
        };
        let removals = markers.iter().filter(|marker| marker.slot == id);
        let removals =
            removals.map(|marker| places.read_marker(marker).map(|found| (found.time, found.host)));
        Ok(ListedSlot {
            id,
            derivation,
            copies: places.copies(id)?,
            opened: known.map(|slot| (slot.label.clone(), slot.created)),
            removals: removals.collect(),
        })
    };
    ids.into_iter().map(describe).collect()
}

/// Finds the one slot whose id begins with `selector` (a `#` before it does not matter), or whose known label it is.
///
/// # Errors
/// [`SlotError::NoMatch`], [`SlotError::Ambiguous`].
pub fn find<'a>(slots: &'a [ListedSlot], selector: &str) -> std::result::Result<&'a ListedSlot, SlotError> {
    let prefix = selector.strip_prefix('#').unwrap_or(selector).to_ascii_lowercase();
    let fits = |slot: &&ListedSlot| {
        let labelled = slot.opened.as_ref().is_some_and(|(label, _)| label == selector);
        !selector.is_empty() && (labelled || !prefix.is_empty() && slot.id.to_string().starts_with(&prefix))
    };
    let found: Vec<&ListedSlot> = slots.iter().filter(fits).collect();
    match found[..] {
        [slot] => Ok(slot),
        [] => Err(SlotError::NoMatch { selector: selector.into() }),
        _ => {
            let slots = found.iter().map(|slot| slot.id).collect();
            Err(SlotError::Ambiguous { selector: selector.into(), slots })
        }
    }
}

/// All slots that `secret` opens, the cheapest first.
///
/// # Errors
/// [`super::Error::Storage`].
pub fn open_all(repository: &Repository, secret: &Secret) -> Result<Vec<OpenedSlot>> {
    search::open_all(repository.objects().storage(), repository.id(), secret)
}

/// What a new slot is to be like.
#[derive(Debug, Clone)]
pub struct NewSlot<'a> {
    /// What opens it.
    pub secret: &'a Secret,
    /// How a passphrase becomes its key.
    pub derivation: Derivation,
    /// What the user calls it.
    pub label: &'a str,
}

/// Makes a slot with all of `keys`. It was read back and opened when this returns; if it fails, the new slot is removed again, as far
/// as the storage and the slots in `opened`, which must remain, allow.
///
/// # Errors
/// [`SlotError`], [`super::Error::Storage`], [`super::Error::Format`] for a bad label.
pub fn add(
    repository: &Repository,
    keys: &KeySet,
    opened: &[OpenedSlot],
    new: &NewSlot<'_>,
) -> Result<OpenedSlot> {
    check_slots(repository)?;
    check_label(new.label)?;
    let places = Places::of(repository);
    check_room(places.slots()?.len() + 1)?;
    copies::complete_all(repository, None);
    let id = SlotId::random();
    let payload = SlotPayload { keys: keys.clone(), label: new.label.into(), created: now() };
    let derivation = new.derivation.fit_for(new.secret);
    let bytes = Slot::seal(id, repository.id(), derivation, new.secret, &payload)?;
    publish(repository, &places, id, &bytes, new.secret, keys)
        .inspect_err(|_| take_back(repository, opened, id))
}

fn publish(
    repository: &Repository,
    places: &Places,
    id: SlotId,
    bytes: &[u8],
    secret: &Secret,
    keys: &KeySet,
) -> Result<OpenedSlot> {
    repository.objects().put_bytes(&name(&slot_name(id)), &[bytes])?;
    places.settle();
    if places.markers()?.iter().any(|marker| marker.slot == id) {
        return Err(SlotError::TakenAway { slot: id }.into());
    }
    // Others may have added theirs meanwhile.
    check_room(places.slots()?.len())?;
    read_back(repository, id, bytes, secret, keys)
}

/// Reads each copy of a new slot from storage and opens it with its secret.
fn read_back(
    repository: &Repository,
    id: SlotId,
    bytes: &[u8],
    secret: &Secret,
    keys: &KeySet,
) -> Result<OpenedSlot> {
    let bad = |reason: &str| SlotError::NotReadBack { slot: id, reason: reason.into() };
    let objects = repository.objects();
    let first = name(&slot_name(id));
    let second = objects.mirrors().then(|| mirror_name(&first));
    for copy in std::iter::once(first).chain(second) {
        let found = objects.storage().read(&copy, MAX_SLOT).map_err(objects.failed("read", copy.as_str()))?;
        if found != bytes {
            return Err(bad("its bytes are others").into());
        }
    }
    let slot = Slot::from_bytes(bytes)?;
    let payload = slot.open(id, secret)?.ok_or_else(|| bad("its secret does not open it"))?;
    if !payload.keys.iter().eq(keys.iter()) {
        return Err(bad("it holds other keys").into());
    }
    Ok(OpenedSlot::new(id, slot, payload))
}

/// Removes a slot that could not be finished. Somebody may have opened it already and rely on it, so this keeps the rules of removal.
fn take_back(repository: &Repository, opened: &[OpenedSlot], id: SlotId) {
    match remove(repository, opened, id) {
        Ok(_) | Err(super::Error::Slot(SlotError::Unknown { .. })) => {}
        Err(error) => log::warn!(
            "the new key slot {id} was not finished and may still be there: {}; 'copal key list' shows it",
            super::archives::chain(&error)
        ),
    }
}

/// What [`change`] did.
#[derive(Debug)]
pub struct Changed {
    /// The slot that the new secret opens.
    pub slot: OpenedSlot,
    /// The slots that the old secret opened; they are gone.
    pub removed: Vec<SlotId>,
}

/// Replaces a secret: makes a slot with the new one, and once that has opened, removes all slots that the old one opened, which are
/// `old` (the first one's keys and label go on). A slot of this label that the new secret opens already, as an interrupted change
/// leaves, is used as it is.
///
/// # Errors
/// As [`add`] and [`remove`]. Whatever happens, the old secret or the new one opens the repository.
pub fn change(
    repository: &Repository,
    old: &[OpenedSlot],
    secret: &Secret,
    derivation: Derivation,
) -> Result<Changed> {
    check_slots(repository)?;
    let places = Places::of(repository);
    places.check_settles()?;
    let Some(first) = old.first() else { return Err(SlotError::NotEncrypted.into()) };
    for slot in old {
        if slot.slot.open(slot.id, secret)?.is_some() {
            return Err(SlotError::SameSecret.into());
        }
    }
    copies::complete_all(repository, None);
    let slot = match made_before(repository, &places, first, secret)? {
        Some(slot) => slot,
        None => add(repository, &first.keys, old, &NewSlot { secret, derivation, label: &first.label })?,
    };
    let slot = [slot];
    let mut removed = Vec::new();
    for old in old {
        match remove(repository, &slot, old.id) {
            // Somebody else has just removed it: the new one opens all the same.
            Err(super::Error::Slot(SlotError::Unknown { .. })) => {}
            done => drop(done?),
        }
        removed.push(old.id);
    }
    let [slot] = slot;
    Ok(Changed { slot, removed })
}

/// A slot like `old` that `secret` opens, whole and not being removed.
fn made_before(
    repository: &Repository,
    places: &Places,
    old: &OpenedSlot,
    secret: &Secret,
) -> Result<Option<OpenedSlot>> {
    let marked: Vec<SlotId> = places.markers()?.iter().map(|marker| marker.slot).collect();
    let whole = [true, repository.objects().mirrors()];
    for slot in open_all(repository, secret)? {
        let alike = slot.label == old.label && slot.keys.iter().eq(old.keys.iter());
        if alike && !marked.contains(&slot.id) && places.copies(slot.id)? == whole {
            return Ok(Some(slot));
        }
    }
    Ok(None)
}

fn check_room(slots: usize) -> Result<()> {
    if slots > MAX_SLOTS { Err(SlotError::Full { slots }.into()) } else { Ok(()) }
}

fn check_encrypted(repository: &Repository) -> Result<()> {
    match repository.header().encryption {
        EncryptionMode::Slots => Ok(()),
        EncryptionMode::None => Err(SlotError::NotEncrypted.into()),
    }
}

/// Whether slots may be written.
fn check_slots(repository: &Repository) -> Result<()> {
    check_encrypted(repository)?;
    repository.check_writable()
}
