//! Keeping the index small: few segments, and no entries of packs that are gone.

use std::collections::{BTreeMap, HashSet};

use crate::format::index_segment::IndexSegment;
use crate::id::{PackId, SegmentId};
use crate::maintenance::error::Result;
use crate::repository::Repository;
use crate::repository::archives::chain;
use crate::repository::segments::{self, ListedSegment, Publisher};
use crate::repository::session::listed_packs;

/// Segments of one prefix beyond which all are joined: whoever publishes keeps them below that, where lists are exact.
const MAX_OF_PREFIX: usize = 24;
/// A segment is rewritten when one in so many of its entries names a pack that is gone.
const STALE_PART: usize = 4;

/// Rewrites segments of which much is stale, joins them where a prefix has many, and deletes those that others replace.
///
/// A few segments' entries are in memory.
pub(super) fn merge(repository: &Repository) -> Result<()> {
    let objects = repository.objects();
    let listed = segments::list(objects)?;
    // Listed after the segments: what these name and is not there now is gone, and not yet to come.
    let packs = listed_packs(objects)?;
    let mut of_prefix: BTreeMap<&str, usize> = BTreeMap::new();
    listed.iter().for_each(|segment| *of_prefix.entry(&segment.prefix).or_default() += 1);
    let mut publisher = Publisher::beside(objects)?;
    let mut superseded: HashSet<SegmentId> = HashSet::new();
    for listed in &listed {
        let segment = match segments::read(objects, &listed.name) {
            Ok(segment) => segment,
            // Another compactor has merged it, or this one.
            Err(error) if error.is_missing() => continue,
            Err(error) => {
                log::warn!("{}; 'copal check --repair' makes the index anew", chain(&error));
                continue;
            }
        };
        superseded.extend(&segment.supersedes);
        if is_stale(&segment, &packs) || of_prefix[listed.prefix.as_str()] > MAX_OF_PREFIX {
            rewrite(&mut publisher, listed, segment, &packs)?;
        }
    }
    for listed in listed.iter().filter(|listed| superseded.contains(&listed.id)) {
        objects.delete(listed.name.as_str())?;
    }
    Ok(())
}

fn is_stale(segment: &IndexSegment, packs: &HashSet<PackId>) -> bool {
    let all = segment.entries.len();
    let gone = segment.entries.iter().filter(|entry| !packs.contains(&entry.location.pack.id)).count();
    gone * STALE_PART > all || gone == all
}

fn rewrite(
    publisher: &mut Publisher,
    listed: &ListedSegment,
    mut segment: IndexSegment,
    packs: &HashSet<PackId>,
) -> Result<()> {
    segment.entries.retain(|entry| packs.contains(&entry.location.pack.id));
    segment.packs.retain(|pack| packs.contains(pack));
    let replaces = vec![(listed.id, listed.name.clone())];
    Ok(publisher.publish_as(&listed.prefix, segment.entries, segment.packs, replaces)?)
}
