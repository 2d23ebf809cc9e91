//! The index, made anew from the packs' own lists.

use super::Repaired;
use super::packs::Candidates;
use crate::format::envelope::ObjectKind;
use crate::format::index_segment::{IndexEntry, IndexSegment};
use crate::format::limits::{MAX_INDEX_ENTRIES, MAX_SUPERSEDED};
use crate::format::pack::PackKind;
use crate::id::{PackId, SegmentId};
use crate::maintenance::check::index::segment_of;
use crate::maintenance::check::packs::copies;
use crate::maintenance::error::Result;
use crate::repository::Repository;

/// Writes segments that name every blob of every pack whose list can be read, and those of other packs that the old index names; then
/// deletes the old segments. Holds the entries of one segment at a time.
pub(super) fn rebuild(
    repository: &Repository,
    candidates: &Candidates,
    repaired: &mut Repaired,
) -> Result<()> {
    let objects = repository.objects();
    // Before the packs: a segment that comes later names what may not be among them.
    let old = objects.list("index")?;
    let mut old: Vec<_> =
        old.into_iter().filter_map(|listed| Some((segment_of(&listed.name)?, listed.name))).collect();
    // What one segment can supersede; the rest is left for the next repair.
    old.truncate(MAX_SUPERSEDED as usize);
    let mut entries: Vec<IndexEntry> = Vec::new();
    let publish = |entries: &mut Vec<IndexEntry>, supersedes: Vec<SegmentId>| {
        let segment = IndexSegment { supersedes, entries: std::mem::take(entries) };
        objects.put(ObjectKind::Index, &format!("index/x-{}", SegmentId::random()), &segment.to_bytes())
    };
    for kind in [PackKind::Data, PackKind::Maps] {
        for id in objects.list_ids::<PackId>(kind.folder())? {
            let of_pack = entries_of(repository, kind, id).unwrap_or_else(|| candidates.indexed(id));
            if entries.len() + of_pack.len() > MAX_INDEX_ENTRIES as usize {
                publish(&mut entries, Vec::new())?;
                repaired.segments += 1;
            }
            entries.extend(of_pack);
        }
    }
    publish(&mut entries, old.iter().map(|(id, _)| *id).collect())?;
    repaired.segments += 1;
    for (_, name) in &old {
        objects.delete(name.as_str())?;
    }
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
