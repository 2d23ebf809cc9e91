//! The index against the packs: what it names must be there, and what archives need must be in it.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::report::{Amount, Fault, Finding};
use crate::codec::keys::BlobKind;
use crate::format::location::Location;
use crate::format::pack::PackKind;
use crate::id::{BlobId, PackId, SegmentId};
use crate::maintenance::error::Result;
use crate::maintenance::inventory::Inventory;
use crate::repository::archives::chain;
use crate::repository::packs::pack_name;
use crate::repository::segments;
use crate::repository::{self, Repository};
use crate::storage::{Name, Storage};
use crate::task::Stop;

/// What the index says.
#[derive(Debug, Default)]
pub struct Index {
    /// What is wrong with it.
    pub findings: Vec<Finding>,
    /// Packs that it names.
    pub named: HashSet<PackId>,
    /// Of the blobs that were asked for, those that it leads to, and where.
    pub found: BTreeMap<(BlobKind, BlobId), Location>,
    /// Segments that were read, and their bytes.
    pub checked: Amount,
    /// Objects with names that mean nothing.
    pub unknown: u64,
    /// Entries that lie in packs that are gone.
    pub stale_entries: u64,
}

/// What is known when the index is read.
#[derive(Debug)]
pub struct Known<'a> {
    /// What is in packs.
    pub inventory: &'a Inventory,
    /// Blobs that are missed elsewhere.
    pub suspects: &'a BTreeSet<(BlobKind, BlobId)>,
    /// Places that are known to be bad.
    pub bad: &'a HashSet<(PackId, u32)>,
}

/// Reads all segments, one at a time.
///
/// # Errors
/// If they cannot be listed; [`Error::Stopped`](crate::maintenance::Error::Stopped).
pub fn check_index(repository: &Repository, known: &Known<'_>, stop: &Stop) -> Result<Index> {
    let objects = repository.objects();
    let mut index = Index::default();
    let mut superseded: HashSet<SegmentId> = HashSet::new();
    let mut judged = Vec::new();
    let names = objects.list("index")?;
    index.unknown = names.iter().filter(|listed| segments::parse_name(&listed.name).is_none()).count() as u64;
    segments::each(objects, |listed, segment| -> Result<()> {
        stop.check()?;
        let segment = match segment {
            Ok(segment) => segment,
            Err(error) => {
                index.findings.push(unreadable(&listed.name, &error));
                return Ok(());
            }
        };
        index.checked.add(listed.len);
        superseded.extend(segment.supersedes.iter().copied());
        let mut wrong = Wrong::default();
        for entry in &segment.entries {
            let (at, key) = (entry.location, (entry.kind, entry.id));
            index.named.insert(at.pack.id);
            wrong.judge(known, repository, entry.kind, at);
            let wanted = known.suspects.contains(&key) && !index.found.contains_key(&key);
            if wanted && !known.bad.contains(&(at.pack.id, at.offset)) {
                let read = repository.packs().read_at(entry.kind, &entry.id, at);
                index.found.extend(read.is_ok().then_some((key, at)));
            }
        }
        if wrong.disagree > 0 || wrong.nowhere > 0 {
            judged.push((listed.id, listed.name.clone(), wrong));
        }
        Ok(())
    })?;
    // What a superseded segment says does not count any more.
    judged.retain(|(id, _, _)| !superseded.contains(id));
    index.stale_entries = judged.iter().map(|(_, _, wrong)| wrong.nowhere).sum();
    index.findings.extend(judged.iter().filter_map(|(_, name, wrong)| wrong.finding(name)));
    Ok(index)
}

fn unreadable(name: &Name, error: &repository::Error) -> Finding {
    let reason = match error {
        repository::Error::Damaged { source, .. } => chain(source),
        error => chain(error),
    };
    Finding { object: name.to_string(), fault: Fault::Index, reason, repairable: true }
}

/// What is wrong with one segment's entries.
#[derive(Debug, Default)]
struct Wrong {
    /// Entries whose packs have no such blob.
    disagree: u64,
    /// Entries whose packs are not there. Compactions leave some, and nobody relies on them: a pack that is needed is missed elsewhere.
    nowhere: u64,
    /// Packs that are not in the inventory, and whether they are there nevertheless.
    elsewhere: BTreeMap<PackId, bool>,
    unreadable: Option<HashSet<PackId>>,
}

impl Wrong {
    fn judge(&mut self, known: &Known<'_>, repository: &Repository, kind: BlobKind, at: Location) {
        let pack = at.pack.id;
        match known.inventory.pack(pack) {
            Some(layout) => {
                let fits = layout.kind == PackKind::of(kind);
                self.disagree += u64::from(!fits || layout.find(at.offset, at.sealed_len).is_none());
            }
            None => {
                let unreadable = self
                    .unreadable
                    .get_or_insert_with(|| known.inventory.unreadable().iter().map(|pack| pack.id).collect());
                // Stored since the packs were listed, or known to be damaged.
                let storage = repository.objects().storage();
                let there = *self.elsewhere.entry(pack).or_insert_with(|| {
                    unreadable.contains(&pack) || storage.len(&pack_name(PackKind::of(kind), pack)).is_ok()
                });
                self.nowhere += u64::from(!there);
            }
        }
    }

    fn finding(&self, name: &Name) -> Option<Finding> {
        let reason = match self.disagree {
            0 => return None,
            disagree => format!("{disagree} of its entries are not what their packs hold"),
        };
        Some(Finding { object: name.to_string(), fault: Fault::Index, reason, repairable: true })
    }
}
