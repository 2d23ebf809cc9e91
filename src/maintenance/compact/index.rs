//! Keeping the index small: few segments, and no entries of packs that are gone.

use std::collections::HashSet;

use crate::format::envelope::ObjectKind;
use crate::format::index_segment::IndexSegment;
use crate::format::limits::MAX_INDEX_ENTRIES;
use crate::id::SegmentId;
use crate::maintenance::error::Result;
use crate::repository::Repository;
use crate::repository::archives::chain;
use crate::repository::session::listed_packs;

/// Small segments are merged when there are more than this many.
const MAX_SMALL: usize = 8;
/// A segment is rewritten when one in so many of its entries names a pack that is gone.
const STALE_PART: usize = 4;

/// Merges small segments, and rewrites those of which much is stale, into segments of at most 1 Mi entries.
///
/// At most one segment's entries and those of one merged segment are in memory.
pub(super) fn merge(repository: &Repository) -> Result<()> {
    let objects = repository.objects();
    let packs = listed_packs(objects)?;
    let mut merged = Merged::default();
    let mut small = Vec::new();
    for listed in objects.list("index")? {
        let name = listed.name.as_str();
        let Some(id) = name.rsplit_once('-').and_then(|(_, id)| id.parse::<SegmentId>().ok()) else {
            continue;
        };
        let plain = objects.get(ObjectKind::Index, name);
        let segment = match plain.and_then(|plain| Ok(IndexSegment::from_bytes(&plain)?)) {
            Ok(segment) => segment,
            // Another compactor has merged it.
            Err(error) if error.is_missing() => continue,
            Err(error) => {
                log::warn!("{}; 'copal check --repair' makes the index anew", chain(&error));
                continue;
            }
        };
        let all = segment.entries.len();
        let stale = segment.entries.iter().filter(|entry| !packs.contains(&entry.location.pack.id)).count();
        let source = Source { id, name: name.to_owned(), segment };
        if stale * STALE_PART > all || stale == all {
            merged.take(repository, source, &packs)?;
        } else if all < MAX_INDEX_ENTRIES as usize / MAX_SMALL {
            small.push((source.id, source.name));
        }
    }
    if small.len() > MAX_SMALL || !merged.sources.is_empty() {
        for (id, name) in small {
            let Ok(plain) = objects.get(ObjectKind::Index, &name) else { continue };
            let Ok(segment) = IndexSegment::from_bytes(&plain) else { continue };
            merged.take(repository, Source { id, name, segment }, &packs)?;
        }
    }
    merged.publish(repository)
}

struct Source {
    id: SegmentId,
    name: String,
    segment: IndexSegment,
}

/// A segment under construction, and those it replaces.
#[derive(Default)]
struct Merged {
    segment: IndexSegment,
    sources: Vec<String>,
}

impl Merged {
    fn take(
        &mut self,
        repository: &Repository,
        source: Source,
        packs: &HashSet<crate::id::PackId>,
    ) -> Result<()> {
        let kept = source.segment.entries.into_iter().filter(|entry| packs.contains(&entry.location.pack.id));
        let kept: Vec<_> = kept.collect();
        if self.segment.entries.len() + kept.len() > MAX_INDEX_ENTRIES as usize {
            std::mem::take(self).publish(repository)?;
        }
        self.segment.entries.extend(kept);
        self.segment.supersedes.push(source.id);
        self.sources.push(source.name);
        Ok(())
    }

    /// Stores the segment, then deletes what it replaces.
    fn publish(self, repository: &Repository) -> Result<()> {
        let objects = repository.objects();
        if self.sources.is_empty() {
            return Ok(());
        }
        if !self.segment.entries.is_empty() {
            let name = format!("index/x-{}", SegmentId::random());
            objects.put(ObjectKind::Index, &name, &self.segment.to_bytes())?;
        }
        for name in &self.sources {
            objects.delete(name)?;
        }
        Ok(())
    }
}
