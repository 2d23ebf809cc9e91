//! Writing a missing or damaged copy again from the good one.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::Repaired;
use super::packs::keep_copies;
use super::protocol::Doomed;
use crate::format::envelope::ObjectKind;
use crate::format::limits::MAX_PACK;
use crate::format::pack::PackKind;
use crate::id::{PackId, SessionId};
use crate::maintenance::check::Examined;
use crate::maintenance::check::objects::Form;
use crate::maintenance::check::packs::copies;
use crate::maintenance::error::Result;
use crate::repository::Repository;
use crate::repository::objects::{mirror_name, name};
use crate::storage::{Name, Storage};

/// A copy to write, and the one it comes from.
struct Healing {
    form: Option<Form>,
    pack: Option<PackId>,
    good: Name,
    copy: Name,
}

impl Healing {
    /// Whether somebody is about to delete the object: then nobody heals it.
    fn is_doomed(&self, doomed: &Doomed) -> bool {
        match (self.form, self.pack) {
            (_, Some(pack)) => doomed.packs.contains(&pack),
            (Some(Form::Record(id)), _) => doomed.archives.contains(&id),
            (Some(Form::Slot(id)), _) => doomed.slots.contains(&id),
            (Some(Form::Moved(_)), _) => {
                doomed.moved.contains(self.good.as_str().trim_start_matches("mirror/"))
            }
            _ => false,
        }
    }
}

/// Heals what has one good copy of two. Returns the map packs of which no copy is good, but which may be good together.
pub(super) fn heal(
    repository: &Repository,
    found: &Examined,
    repaired: &mut Repaired,
) -> Result<BTreeSet<PackId>> {
    let nobody = SessionId([0; 16]);
    let mut healings = objects(found);
    let (packs, mixed) = packs(repository, found)?;
    healings.extend(packs);
    let storage = repository.objects().storage();
    let mut healed = Vec::new();
    if !healings.is_empty() {
        let doomed = Doomed::read(repository, nobody, false)?;
        for healing in healings.into_iter().filter(|healing| !healing.is_doomed(&doomed)) {
            let limit = if healing.pack.is_some() { MAX_PACK } else { ObjectKind::Intent.stored_limit() };
            let bytes = match storage.read(&healing.good, limit) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                bytes => bytes.map_err(repository.objects().failed("read", healing.good.as_str()))?,
            };
            let put = storage.put(&healing.copy, &[&bytes]);
            put.map_err(repository.objects().failed("write", healing.copy.as_str()))?;
            healed.push(healing);
        }
    }
    if !healed.is_empty() {
        repository.objects().settle();
        let doomed = Doomed::read(repository, nobody, false)?;
        for healing in &healed {
            let gone = |error: std::io::Error| error.kind() == std::io::ErrorKind::NotFound;
            if healing.is_doomed(&doomed) || storage.len(&healing.good).is_err_and(gone) {
                repository.objects().delete_copy(&healing.copy)?;
            } else {
                repaired.copies += 1;
            }
        }
    }
    for ailing in found.objects.ailing.iter().filter(|ailing| !ailing.is_readable()) {
        // Nobody can use it, and others say the same: records, the index, or the lost list of this repair.
        if ailing.is_replaceable() {
            let second = repository.objects().second_copy(&ailing.name);
            let copies: Vec<Name> = std::iter::once(ailing.name.clone()).chain(second).collect();
            keep_copies(repository, &copies)?;
            repository.objects().delete(ailing.name.as_str())?;
        }
    }
    Ok(mixed)
}

fn objects(found: &Examined) -> Vec<Healing> {
    let readable = found.objects.ailing.iter().filter(|ailing| ailing.is_readable());
    // A session is rewritten by its own process, and a copy that came back after it ended would have it seem to run for ever.
    let readable = readable.filter(|ailing| !matches!(ailing.form, Form::Session(_)));
    let healing = |ailing: &crate::maintenance::check::objects::Ailing| {
        let (first, second) = (ailing.name.clone(), mirror_name(&ailing.name));
        let (good, copy) = if ailing.first_good { (first, second) } else { (second, first) };
        Healing { form: Some(ailing.form), pack: None, good, copy }
    };
    readable.map(healing).collect()
}

/// Map packs whose every blob is good in one copy; and those of which no copy is whole.
fn packs(repository: &Repository, found: &Examined) -> Result<(Vec<Healing>, BTreeSet<PackId>)> {
    let inventory = &found.packs.inventory;
    let mut bad: BTreeMap<PackId, HashSet<usize>> = BTreeMap::new();
    for blob in &found.bad_copies {
        let pack = &inventory.packs()[blob.pack];
        if pack.kind == PackKind::Maps {
            bad.entry(pack.id).or_default().insert(blob.copy);
        }
    }
    let unreadable: HashMap<PackId, &Name> =
        found.packs.ailing.iter().map(|pack| (pack.id, &pack.copy)).collect();
    let (mut healings, mut mixed) = (Vec::new(), BTreeSet::new());
    let ids: BTreeSet<PackId> = bad.keys().chain(unreadable.keys()).copied().collect();
    for id in ids {
        let names = copies(repository, PackKind::Maps, id);
        let is_bad = |number: &usize| {
            bad.get(&id).is_some_and(|copies| copies.contains(number))
                || unreadable.get(&id).is_some_and(|copy| **copy == names[*number])
        };
        let (bad, good): (Vec<usize>, Vec<usize>) = (0..names.len()).partition(is_bad);
        let [good] = good[..] else {
            mixed.insert(id);
            continue;
        };
        // The check may not have opened its blobs, and the other copy's may be better than they look.
        if !is_whole(repository, id, &names[good])? {
            mixed.insert(id);
            continue;
        }
        healings.extend(bad.iter().map(|number| Healing {
            form: None,
            pack: Some(id),
            good: names[good].clone(),
            copy: names[*number].clone(),
        }));
    }
    Ok((healings, mixed))
}

fn is_whole(repository: &Repository, id: PackId, copy: &Name) -> Result<bool> {
    let Ok((pack, entries)) = repository.packs().entries_in(PackKind::Maps, id, copy) else {
        return Ok(false);
    };
    for entry in &entries {
        if repository
            .packs()
            .read_copy(entry.kind, &entry.id, entry.location(pack), &name(copy.as_str()))
            .is_err()
        {
            return Ok(false);
        }
    }
    Ok(true)
}
