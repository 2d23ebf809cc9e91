//! Packs: the list of blobs at the end of each, in every copy, and the blobs themselves.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::codec::keys::BlobKind;
use crate::format::location::PackRef;
use crate::format::pack::{PackEntry, PackKind};
use crate::id::{BlobId, PackId};
use crate::maintenance::error::Result;
use crate::maintenance::inventory::{Inventory, Layout, Unreadable};
use crate::maintenance::parallel::for_each;
use crate::repository::packs::{pack_name, reason};
use crate::repository::{self, Repository};
use crate::storage::{Name, Storage};
use crate::task::{Monitor, Stop};

/// How much of a pack is read at once, at least: far more than a disk's seek costs.
const WINDOW: u32 = 4 << 20;

/// A map pack of which one copy is good and the other is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AilingPack {
    /// The pack; its kind is [`PackKind::Maps`].
    pub id: PackId,
    /// The copy that is missing or damaged.
    pub copy: Name,
    /// The one that is good.
    pub good: Name,
    /// Whether it is the second copy that is not there.
    pub second_missing: bool,
    /// What is wrong.
    pub reason: String,
}

/// The packs that are listed.
#[derive(Debug, Default)]
pub struct Packs {
    /// What is in them.
    pub inventory: Inventory,
    /// Map packs with one good copy of two.
    pub ailing: Vec<AilingPack>,
    /// Files among them with names that mean nothing.
    pub unknown: u64,
}

/// Where a pack's copies are, those that a pack of its kind should have.
#[must_use]
pub fn copies(repository: &Repository, kind: PackKind, id: PackId) -> Vec<Name> {
    let first = pack_name(kind, id);
    let second = repository.objects().second_copy(&first);
    std::iter::once(first).chain(second).collect()
}

/// Reads the list of every copy of every pack. A pack that vanishes meanwhile is left out.
///
/// # Errors
/// If packs cannot be listed; [`Error::Stopped`](crate::maintenance::Error::Stopped).
pub fn check_packs(repository: &Repository, stop: &Stop) -> Result<Packs> {
    let mut listed = Vec::new();
    let mut found = Packs::default();
    for kind in [PackKind::Data, PackKind::Maps] {
        for (name, [first, second]) in repository.objects().list_copies(kind.folder())? {
            let id = name.as_str().rsplit('/').next().and_then(|id| id.parse().ok());
            match id.filter(|id| pack_name(kind, *id) == name) {
                Some(id) => listed.push((kind, id, first.or(second).unwrap_or(0))),
                None => found.unknown += 1,
            }
        }
    }
    let found = Mutex::new(found);
    for_each(&listed, stop, "a thread that reads packs' lists", |(kind, id, len)| {
        let names = copies(repository, *kind, *id);
        let read = |name: &Name| repository.packs().entries_in(*kind, *id, name).map(|(_, entries)| entries);
        let lists: Vec<_> = names.iter().map(read).collect();
        let Some(good) = lists.iter().position(std::result::Result::is_ok) else {
            let errors = lists.into_iter().filter_map(repository::Result::err);
            // What is wrong with a copy that is there says more than that another is missing.
            let mut errors: Vec<_> = errors.filter(|error| !error.is_missing()).collect();
            if !errors.is_empty() {
                let error = errors.swap_remove(0);
                found.lock().inventory.add_unreadable(Unreadable { id: *id, kind: *kind, len: *len, error });
            }
            return Ok(());
        };
        let mut found = found.lock();
        for (number, (name, list)) in names.iter().zip(&lists).enumerate() {
            match list {
                Ok(entries) if number == good => {
                    found.inventory.add(Layout::new(*id, *kind, *len, entries));
                }
                Ok(_) => {}
                Err(error) => found.ailing.push(AilingPack {
                    id: *id,
                    copy: name.clone(),
                    good: names[good].clone(),
                    second_missing: number == 1 && error.is_missing(),
                    reason: reason(error),
                }),
            }
        }
        Ok(())
    })?;
    Ok(found.into_inner())
}

/// A blob that does not open in one copy of its pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadBlob {
    /// The pack's number in the inventory.
    pub pack: usize,
    /// Which copy of the pack.
    pub copy: usize,
    /// What the blob is.
    pub kind: BlobKind,
    /// Its id.
    pub id: BlobId,
    /// Where it lies.
    pub offset: u32,
}

/// What opening blobs found.
#[derive(Debug, Default)]
pub struct Verified {
    /// Blobs that are not what their packs say.
    pub bad: Vec<BadBlob>,
    /// How many were opened, and their sealed bytes; copies counted.
    pub blobs: AtomicU64,
    /// See `blobs`.
    pub bytes: AtomicU64,
}

/// Opens the blobs of these packs (by their numbers) for which `wanted` holds, in each copy, and recomputes their ids. Each pack is read once
/// from its beginning to its end; memory is a window and a blob for each thread. A pack that vanishes meanwhile is left out.
///
/// # Errors
/// [`repository::Error::Codec`] without the keys for blobs; [`Error::Stopped`](crate::maintenance::Error::Stopped).
pub fn verify(
    repository: &Repository,
    inventory: &Inventory,
    packs: &[usize],
    wanted: &(dyn Fn(usize, usize) -> bool + Sync),
    stop: &Stop,
    monitor: &dyn Monitor,
) -> Result<Verified> {
    let verified = Mutex::new(Vec::new());
    let (blobs, bytes) = (AtomicU64::new(0), AtomicU64::new(0));
    for_each(packs, stop, "a thread that opens blobs", |pack| {
        let layout = &inventory.packs()[*pack];
        for (copy, name) in copies(repository, layout.kind, layout.id).iter().enumerate() {
            // A copy whose list cannot be read is known to be damaged, or is gone.
            let Ok((sealed, entries)) = repository.packs().entries_in(layout.kind, layout.id, name) else {
                continue;
            };
            let entries: Vec<_> =
                entries.iter().enumerate().filter(|(blob, _)| wanted(*pack, *blob)).collect();
            let mut left = &entries[..];
            while let Some((_, first)) = left.first() {
                stop.check()?;
                let within = |(_, entry): &&(usize, &PackEntry)| {
                    entry.offset + entry.sealed_len
                        <= first.offset.saturating_add(WINDOW.max(first.sealed_len))
                };
                let count = left.iter().take_while(within).count().max(1);
                let (window, rest) = left.split_at(count);
                left = rest;
                let window: Vec<&PackEntry> = window.iter().map(|(_, entry)| *entry).collect();
                let bad = verify_window(repository, sealed, name, &window)?;
                let bad = bad.iter().map(|entry| BadBlob {
                    pack: *pack,
                    copy,
                    kind: entry.kind,
                    id: entry.id,
                    offset: entry.offset,
                });
                verified.lock().extend(bad);
                let len: u64 = window.iter().map(|entry| u64::from(entry.sealed_len)).sum();
                blobs.fetch_add(window.len() as u64, Ordering::Relaxed);
                bytes.fetch_add(len, Ordering::Relaxed);
                monitor.advanced(len, 0);
            }
        }
        Ok(())
    })?;
    Ok(Verified { bad: verified.into_inner(), blobs, bytes })
}

/// Opens neighbouring blobs and returns those that are bad; none if the pack is gone.
fn verify_window<'a>(
    repository: &Repository,
    pack: PackRef,
    name: &Name,
    window: &[&'a PackEntry],
) -> Result<Vec<&'a PackEntry>> {
    let (Some(first), Some(last)) = (window.first(), window.last()) else { return Ok(Vec::new()) };
    let storage = repository.objects().storage();
    let mut bytes = vec![0; (last.offset + last.sealed_len - first.offset) as usize];
    match storage.read_range(name, first.offset.into(), &mut bytes) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        // Some of it may be readable yet.
        Err(_) if window.len() > 1 => {
            let one = |entry: &&'a PackEntry| verify_window(repository, pack, name, &[*entry]);
            return Ok(window.iter().map(one).collect::<Result<Vec<_>>>()?.concat());
        }
        Err(_) => return Ok(vec![*first]),
    }
    let mut bad = Vec::new();
    for entry in window {
        let start = (entry.offset - first.offset) as usize;
        let sealed = &mut bytes[start..start + entry.sealed_len as usize];
        match repository.packs().open(entry.kind, &entry.id, pack.epoch, sealed) {
            Ok(plain) if plain.len() == entry.plain_len as usize => {}
            Err(error @ repository::Error::Codec(_)) => return Err(error.into()),
            _ => bad.push(*entry),
        }
    }
    Ok(bad)
}
