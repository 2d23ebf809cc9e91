//! Publishing where blobs lie.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{ListedSegment, MAX_PREFIX, list, read, store};
use crate::format::index_segment::{ENTRY_LEN, IndexEntry, IndexSegment};
use crate::format::limits::MAX_SUPERSEDED;
use crate::id::{PackId, SegmentId};
use crate::repository::archives::chain;
use crate::repository::error::Result;
use crate::repository::objects::Objects;
use crate::storage::{Name, Settle};

/// Entries of a segment beyond which it is split by the next digit: as many as are joined in memory, three times over at most.
const MOST: usize = 32 << 10;
/// Entries that are worth publishing before all are known, so that nobody holds more of them.
pub const EARLY: usize = 16 << 10;

/// Publishes where blobs lie: all those of the packs that the entries name. It takes no longer than it must, since a compaction may take packs that the
/// index names and no archive yet: segments are joined when that is over ([`join`]).
///
/// # Errors
/// [`super::Error::Storage`].
pub fn publish(objects: &Objects, entries: Vec<IndexEntry>) -> Result<()> {
    Publisher::anew(objects).publish(entries)
}

/// Joins segments of one prefix until each is much larger than the next.
///
/// # Errors
/// [`super::Error::Storage`].
pub fn join(objects: &Objects) -> Result<()> {
    Publisher::beside(objects)?.join()
}

/// Publishes entries, in segments that are joined and split as they grow.
#[derive(Debug)]
pub struct Publisher {
    objects: Objects,
    /// Segments that may be joined to what comes.
    existing: BTreeMap<String, Vec<ListedSegment>>,
    made: HashMap<SegmentId, ListedSegment>,
    /// What was replaced and is deleted later, if it is not at once.
    spared: Option<Vec<(SegmentId, Name)>>,
}

/// What is to be published together.
#[derive(Debug, Default)]
struct Batch {
    packs: Vec<PackId>,
    entries: Vec<IndexEntry>,
    /// Segments of which all is in here.
    replaces: Vec<(SegmentId, Name)>,
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.packs.is_empty() && self.replaces.is_empty()
    }
}

impl Publisher {
    /// One that joins what it publishes to the segments that there are.
    ///
    /// # Errors
    /// [`super::Error::Storage`].
    pub fn beside(objects: &Objects) -> Result<Self> {
        let mut publisher = Self::anew(objects);
        if may_join(objects) {
            publisher.know(list(objects)?);
        }
        Ok(publisher)
    }

    /// From now on joins what it publishes to these segments, too. One that is gone meanwhile is passed over.
    fn know(&mut self, seen: Vec<ListedSegment>) {
        for segment in seen.into_iter().filter(|_| may_join(&self.objects)) {
            self.existing.entry(segment.prefix.clone()).or_default().push(segment);
        }
    }

    /// One that leaves the segments alone that there are.
    #[must_use]
    pub fn anew(objects: &Objects) -> Self {
        Self { objects: objects.clone(), existing: BTreeMap::new(), made: HashMap::new(), spared: None }
    }

    /// One that joins what it publishes to these segments, and deletes what it replaces only when it is told to ([`Self::delete_replaced`]), so that a
    /// lookup can follow before.
    #[must_use]
    pub fn followed(objects: &Objects, seen: Vec<ListedSegment>) -> Self {
        let mut publisher = Self { spared: Some(Vec::new()), ..Self::anew(objects) };
        publisher.know(seen);
        publisher
    }

    /// What another one has made is joined like its own.
    pub fn take_over(&mut self, other: Publisher) {
        self.know(other.made.values().cloned().collect());
        self.made.extend(other.made);
    }

    /// Segments that it stored since it was last asked, and those that they replace.
    pub fn take_changes(&mut self) -> (Vec<ListedSegment>, &[(SegmentId, Name)]) {
        let made = std::mem::take(&mut self.made);
        (made.into_values().collect(), self.spared.as_deref().unwrap_or_default())
    }

    /// Deletes what it replaced.
    ///
    /// # Errors
    /// [`super::Error::Storage`].
    pub fn delete_replaced(&mut self) -> Result<()> {
        let replaced = self.spared.as_mut().map(std::mem::take);
        replaced.into_iter().flatten().try_for_each(|(_, name)| self.objects.delete(name.as_str()))
    }

    /// Joins segments of one prefix until each is much larger than the next.
    ///
    /// # Errors
    /// As [`Self::publish`].
    pub fn join(&mut self) -> Result<()> {
        let prefixes: Vec<String> = self.existing.keys().cloned().collect();
        for prefix in prefixes {
            while let Some(smallest) = self.take_joinable(&prefix) {
                // One that cannot be read stays as it is, for a repair.
                let Ok(segment) = read(&self.objects, &smallest.name) else { continue };
                let replaces = vec![(smallest.id, smallest.name)];
                self.publish_as(&prefix, segment.entries, segment.packs, replaces)?;
            }
        }
        Ok(())
    }

    /// Segments that it stored and did not replace again.
    pub fn made(&self) -> impl ExactSizeIterator<Item = &SegmentId> {
        self.made.keys()
    }

    /// Publishes all blobs of the packs that the entries name.
    ///
    /// # Errors
    /// [`super::Error::Storage`], [`super::Error::Codec`].
    pub fn publish(&mut self, entries: Vec<IndexEntry>) -> Result<()> {
        let packs: HashSet<PackId> = entries.iter().map(|entry| entry.location.pack.id).collect();
        self.publish_as("", entries, packs.into_iter().collect(), Vec::new())
    }

    /// Publishes entries whose ids begin with `prefix`, and packs of which every blob is in the index then, in place of segments that say nothing else
    /// worth keeping.
    ///
    /// # Errors
    /// As [`Self::publish`].
    pub fn publish_as(
        &mut self,
        prefix: &str,
        entries: Vec<IndexEntry>,
        packs: Vec<PackId>,
        replaces: Vec<(SegmentId, Name)>,
    ) -> Result<()> {
        for (id, _) in &replaces {
            self.existing.values_mut().for_each(|group| group.retain(|segment| segment.id != *id));
        }
        self.place(prefix, Batch { packs, entries, replaces })
    }

    /// The smallest segment of a prefix, if the next one is at most twice as large.
    fn take_joinable(&mut self, prefix: &str) -> Option<ListedSegment> {
        let group = self.existing.get_mut(prefix)?;
        group.sort_unstable_by_key(|segment| std::cmp::Reverse(segment.len));
        let [.., next, smallest] = &group[..] else { return None };
        (next.len <= 2 * smallest.len).then(|| group.pop()).flatten()
    }

    fn place(&mut self, prefix: &str, mut batch: Batch) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        self.absorb(prefix, &mut batch);
        if batch.entries.len().max(batch.packs.len()) <= MOST || prefix.len() == MAX_PREFIX {
            return self.store(prefix, batch);
        }
        // Cut off from behind, so that little is in memory twice.
        // Of runs that are sorted already.
        batch.entries.sort_by_key(|entry| entry.id);
        batch.packs.sort_unstable();
        for digit in (0..16).rev() {
            let comes_before = |id: &[u8]| digit_of(id, prefix.len()) < digit;
            let entries = batch
                .entries
                .split_off(batch.entries.partition_point(|entry| comes_before(entry.id.as_bytes())));
            let packs =
                batch.packs.split_off(batch.packs.partition_point(|pack| comes_before(pack.as_bytes())));
            // Whoever replaces segments is published when all that was in them is.
            let is_last = batch.entries.is_empty() && batch.packs.is_empty();
            let replaces = if is_last { std::mem::take(&mut batch.replaces) } else { Vec::new() };
            self.place(&format!("{prefix}{digit:x}"), Batch { packs, entries, replaces })?;
        }
        Ok(())
    }

    /// Joins segments to the batch while they are at most twice as large. One that cannot be read stays as it is.
    fn absorb(&mut self, prefix: &str, batch: &mut Batch) {
        let Some(group) = self.existing.get_mut(prefix) else { return };
        group.sort_unstable_by_key(|segment| std::cmp::Reverse(segment.len));
        while batch.entries.len() <= MOST
            && batch.replaces.len() < MAX_SUPERSEDED as usize
            && let Some(smallest) =
                group.pop_if(|segment| segment.len / ENTRY_LEN as u64 <= 2 * batch.entries.len() as u64)
        {
            match read(&self.objects, &smallest.name) {
                Ok(segment) => {
                    batch.entries.extend(segment.entries);
                    batch.packs.extend(segment.packs);
                    batch.replaces.push((smallest.id, smallest.name));
                }
                Err(error) if error.is_missing() => {}
                Err(error) => log::warn!("{}; 'copal check --repair' makes the index anew", chain(&error)),
            }
        }
    }

    /// Stores the segment; then what it replaces is deleted, or spared.
    fn store(&mut self, prefix: &str, batch: Batch) -> Result<()> {
        let Batch { packs, entries, replaces } = batch;
        let supersedes = replaces.iter().map(|(id, _)| *id).collect();
        if !entries.is_empty() || !packs.is_empty() {
            let len = (entries.len() * ENTRY_LEN) as u64;
            let name = store(&self.objects, prefix, IndexSegment { supersedes, packs, entries })?;
            if let Some((_, id)) = super::parse_name(&name) {
                let own = ListedSegment { prefix: prefix.to_owned(), id, name, len };
                self.made.insert(id, own.clone());
                self.existing.entry(prefix.to_owned()).or_default().push(own);
            }
        }
        replaces.iter().for_each(|(id, _)| drop(self.made.remove(id)));
        match &mut self.spared {
            Some(spared) => spared.extend(replaces),
            None => replaces.iter().try_for_each(|(_, name)| self.objects.delete(name.as_str()))?,
        }
        Ok(())
    }
}

/// Elsewhere, lists may go on showing what is deleted, and not show what replaces it.
fn may_join(objects: &Objects) -> bool {
    matches!(objects.storage().settle(), Settle::After(_))
}

/// A hex digit of an id.
pub(super) fn digit_of(id: &[u8], number: usize) -> u8 {
    let byte = id.get(number / 2).copied().unwrap_or(0);
    if number.is_multiple_of(2) { byte >> 4 } else { byte & 15 }
}
