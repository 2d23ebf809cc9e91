//! Reading the catalogue: segments that describe archives, of which newer ones replace older ones.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashSet};

use super::error::{Result, chain};
use super::objects::Objects;
use crate::format::catalogue::{CatalogueEntry, CatalogueSegment, KnownState, SegmentName};
use crate::format::envelope::ObjectKind;
use crate::format::state::StateName;
use crate::id::{ArchiveId, Nonce16};

/// How often the catalogue is read while creates go on replacing its segments.
const CATALOGUE_TRIES: usize = 4;

/// What segments describe, those that were opened with their number of entries and stored length, and all that are listed.
pub(super) type Catalogue =
    (BTreeMap<ArchiveId, CatalogueEntry>, Vec<(SegmentName, usize, u64)>, Vec<SegmentName>);

/// Reads the catalogue, again while a create replaces segments that were just listed.
pub(super) fn read_whole_catalogue(objects: &Objects) -> Result<Catalogue> {
    for _ in 1..CATALOGUE_TRIES {
        if let (catalogue, false) = read_catalogue(objects)? {
            return Ok(catalogue);
        }
    }
    Ok(read_catalogue(objects)?.0)
}

/// What the catalogue says, and whether a segment vanished meanwhile. One that cannot be read costs only time.
fn read_catalogue(objects: &Objects) -> Result<(Catalogue, bool)> {
    let mut entries: BTreeMap<ArchiveId, CatalogueEntry> = BTreeMap::new();
    let mut opened = Vec::new();
    let OpenedSegments { listed, vanished, .. } = open_segments(objects, &mut |name, len, segment| {
        opened.push((name, segment.archives.len(), len));
        for entry in segment.archives {
            merge_entry(&mut entries, entry);
        }
    })?;
    Ok(((entries, opened, listed), vanished))
}

/// What was met when segments of the catalogue were opened.
struct OpenedSegments {
    listed: Vec<SegmentName>,
    /// Whether one was gone that was listed.
    vanished: bool,
    /// Whether one could not be read.
    damaged: bool,
}

/// Opens the segments of the catalogue that no other one supersedes, newest first; `take` gets the name, the stored length and the content of each.
fn open_segments(
    objects: &Objects,
    take: &mut dyn FnMut(SegmentName, u64, CatalogueSegment),
) -> Result<OpenedSegments> {
    let (mut vanished, mut damaged) = (false, false);
    let mut listed: Vec<(SegmentName, u64)> = objects
        .list("catalogue")?
        .iter()
        .filter_map(|listed| Some((SegmentName::parse(listed.name.as_str())?, listed.len)))
        .collect();
    listed.sort_by_key(|(name, _)| std::cmp::Reverse(*name));
    let mut superseded = HashSet::new();
    for (name, len) in &listed {
        if superseded.contains(&name.suffix()) {
            continue;
        }
        let plain = objects.get(ObjectKind::Catalogue, &name.to_string());
        match plain.and_then(|plain| Ok(CatalogueSegment::from_bytes(&plain)?)) {
            Ok(mut segment) => {
                superseded.extend(std::mem::take(&mut segment.supersedes));
                take(*name, *len, segment);
            }
            Err(error) if error.is_missing() => vanished = true,
            Err(error) => {
                damaged = true;
                log::warn!("{}; its archives are read one by one", chain(&error));
            }
        }
    }
    Ok(OpenedSegments { listed: listed.into_iter().map(|(name, _)| name).collect(), vanished, damaged })
}

fn merge_entry(entries: &mut BTreeMap<ArchiveId, CatalogueEntry>, entry: CatalogueEntry) {
    match entries.entry(entry.id) {
        Entry::Vacant(vacant) => {
            vacant.insert(entry);
        }
        Entry::Occupied(mut occupied) => {
            let known = &mut occupied.get_mut().states;
            for state in entry.states {
                if known.iter().all(|before| before.name != state.name) {
                    known.push(state);
                }
            }
            // Whoever applies them in turn ends with the last.
            known.sort_by_key(rank);
        }
    }
}

/// Archives that some segment of the catalogue describes without knowing that they were deleted: those that do may be replaced before it is. `None` if
/// a segment cannot be read.
///
/// # Errors
/// [`Error::Storage`].
pub fn described_as_living(objects: &Objects) -> Result<Option<HashSet<ArchiveId>>> {
    let mut living = HashSet::new();
    let opened = open_segments(objects, &mut |_, _, segment| {
        let described = segment.archives.iter().filter(|entry| !knows_a_deletion(entry));
        living.extend(described.map(|entry| entry.id));
    })?;
    Ok((!opened.vanished && !opened.damaged).then_some(living))
}

/// Whether the last of its states that says whether it was deleted says so.
pub(super) fn knows_a_deletion(entry: &CatalogueEntry) -> bool {
    let says = entry.states.iter().filter(|known| known.state.deleted.is_some());
    let last = says.max_by_key(|known| rank(known));
    last.is_some_and(|known| known.state.deleted == Some(true))
}

/// Of states of one kind the one with the highest counts.
fn rank(known: &KnownState) -> Option<(u64, Nonce16)> {
    StateName::parse(&known.name).map(|name| (name.counter, name.nonce))
}
