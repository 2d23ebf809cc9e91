//! The index, made anew from the packs' own lists.

use std::collections::HashSet;

use super::Repaired;
use super::packs::Candidates;
use crate::format::index_segment::IndexEntry;
use crate::format::limits::MAX_SUPERSEDED;
use crate::format::pack::PackKind;
use crate::id::PackId;
use crate::maintenance::check::packs::copies;
use crate::maintenance::error::Result;
use crate::repository::Repository;
use crate::repository::segments::{self, EARLY, Publisher};

/// Writes segments that name every blob of every pack whose list can be read, and those of other packs that the old index names; then
/// deletes the old segments. Holds the entries of one segment at a time.
pub(super) fn rebuild(
    repository: &Repository,
    candidates: &Candidates,
    repaired: &mut Repaired,
) -> Result<()> {
    let objects = repository.objects();
    // Before the packs: a segment that comes later names what may not be among them.
    let mut old: Vec<_> =
        segments::list(objects)?.into_iter().map(|segment| (segment.id, segment.name)).collect();
    // What one segment can supersede; the rest is left for the next repair.
    old.truncate(MAX_SUPERSEDED as usize);
    let mut publisher = Publisher::anew(objects);
    let mut entries: Vec<IndexEntry> = Vec::new();
    for kind in [PackKind::Data, PackKind::Maps] {
        for id in objects.list_ids::<PackId>(kind.folder())? {
            let of_pack = entries_of(repository, kind, id).unwrap_or_else(|| candidates.indexed(id));
            entries.extend(of_pack);
            if entries.len() > EARLY {
                publisher.publish(std::mem::take(&mut entries))?;
                publisher.join()?;
            }
        }
    }
    let packs: HashSet<PackId> = entries.iter().map(|entry| entry.location.pack.id).collect();
    publisher.publish(entries)?;
    publisher.join()?;
    // Only when all is there: these are named once more, in what replaces the old index.
    publisher.publish_as("", Vec::new(), packs.into_iter().collect(), old)?;
    repaired.segments += publisher.made().len() as u64;
    Ok(())
}

fn entries_of(repository: &Repository, kind: PackKind, id: PackId) -> Option<Vec<IndexEntry>> {
    let names = copies(repository, kind, id);
    let (pack, entries) = names.iter().find_map(|name| repository.packs().entries_in(kind, id, name).ok())?;
    let entry = |entry: &crate::format::pack::PackEntry| IndexEntry {
        kind: entry.kind,
        id: entry.id,
        location: entry.location(pack),
        plain_len: entry.plain_len,
    };
    Some(entries.iter().map(entry).collect())
}
