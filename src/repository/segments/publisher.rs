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
const MOST: usize = 64 << 10;
/// Entries that are worth publishing before all are known, so that nobody holds more of them.
pub const EARLY: usize = 32 << 10;

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
    /// Whether what it makes and knows may be joined.
    joins: bool,
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
    /// About what all of it takes when it is stored, in bytes, to be compared with segments.
    weight: u64,
}

impl Batch {
    fn new(packs: Vec<PackId>, entries: Vec<IndexEntry>, replaces: Vec<(SegmentId, Name)>) -> Self {
        let weight = (entries.len() * ENTRY_LEN) as u64;
        Self { packs, entries, replaces, weight }
    }

    fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.packs.is_empty() && self.replaces.is_empty()
    }
}

impl Publisher {
    /// One that leaves the segments alone that there are, and joins only its own.
    #[must_use]
    pub fn anew(objects: &Objects) -> Self {
        Self {
            objects: objects.clone(),
            joins: true,
            existing: BTreeMap::new(),
            made: HashMap::new(),
            spared: None,
        }
    }

    /// One that joins what it publishes to the segments that there are.
    ///
    /// # Errors
    /// [`super::Error::Storage`].
    pub fn beside(objects: &Objects) -> Result<Self> {
        let mut publisher = Self { joins: may_join(objects), ..Self::anew(objects) };
        if publisher.joins {
            publisher.know(list(objects)?);
        }
        Ok(publisher)
    }

    /// One that joins what it publishes to these segments, and deletes what it replaces only when it is told to ([`Self::delete_replaced`]), so that a
    /// lookup can follow before.
    #[must_use]
    pub fn followed(objects: &Objects, seen: Vec<ListedSegment>) -> Self {
        let spared = Some(Vec::new());
        let mut publisher = Self { joins: may_join(objects), spared, ..Self::anew(objects) };
        publisher.know(seen);
        publisher
    }

    /// From now on joins what it publishes to these segments, too. One that is gone meanwhile is passed over.
    fn know(&mut self, segments: Vec<ListedSegment>) {
        for segment in segments.into_iter().filter(|_| self.joins) {
            self.existing.entry(segment.prefix.clone()).or_default().push(segment);
        }
    }

    /// Segments that it stored since it was last asked, and those that they replace.
    pub fn take_changes(&mut self) -> (Vec<ListedSegment>, &[(SegmentId, Name)]) {
        let made = std::mem::take(&mut self.made);
        (made.into_values().collect(), self.spared.as_deref().unwrap_or_default())
    }

    /// Deletes what it replaced, as far as it can.
    ///
    /// # Errors
    /// [`super::Error::Storage`].
    pub fn delete_replaced(&mut self) -> Result<()> {
        let replaced = self.spared.as_mut().map(std::mem::take).into_iter().flatten();
        replaced.map(|(_, name)| self.objects.delete(name.as_str())).fold(Ok(()), Result::and)
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
                let batch = Batch::new(segment.packs, segment.entries, replaces);
                self.place(&prefix, Batch { weight: smallest.len, ..batch })?;
            }
        }
        Ok(())
    }

    /// Segments that it stored, since its changes were last asked for, and did not replace again.
    pub fn made(&self) -> impl ExactSizeIterator<Item = &SegmentId> {
        self.made.keys()
    }

    /// Publishes all blobs of the packs that the entries name, in segments of their own: a pack that the index names has to have all its blobs there, should
    /// this be the end. They are joined to others later ([`Self::join`]).
    ///
    /// # Errors
    /// [`super::Error::Storage`], [`super::Error::Codec`].
    pub fn publish(&mut self, mut entries: Vec<IndexEntry>) -> Result<()> {
        while !entries.is_empty() {
            let portion = whole_packs(&mut entries);
            let packs: HashSet<PackId> = portion.iter().map(pack_of).collect();
            let packs = packs.into_iter().collect();
            let mut alone = Self::anew(&self.objects);
            if portion.len() <= MOST {
                alone.publish_as("", portion, packs, Vec::new())?;
            } else {
                // Of one pack, in several segments: it is named when all are there.
                alone.publish_as("", portion, Vec::new(), Vec::new())?;
                alone.publish_as("", Vec::new(), packs, Vec::new())?;
            }
            self.know(alone.made.values().cloned().collect());
            self.made.extend(alone.made);
        }
        Ok(())
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
        self.place(prefix, Batch::new(packs, entries, replaces))
    }

    /// The smallest segment of a prefix that the next one is joined to ([`is_joined`]), so that [`Self::absorb`] takes that, and those that are smaller.
    fn take_joinable(&mut self, prefix: &str) -> Option<ListedSegment> {
        let group = self.existing.get_mut(prefix)?;
        group.sort_unstable_by_key(|segment| std::cmp::Reverse(segment.len));
        // Of the longest prefix, none is split that has grown beyond that.
        let is_taken = |len: u64| prefix.len() < MAX_PREFIX || len <= (MOST * ENTRY_LEN) as u64;
        let joins = |pair: &[ListedSegment]| match pair {
            [next, segment] => is_taken(segment.len) && is_joined(next.len, segment.len),
            _ => false,
        };
        let at = group.windows(2).rposition(joins)?;
        Some(group.remove(at + 1))
    }

    fn place(&mut self, prefix: &str, mut batch: Batch) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        self.absorb(prefix, &mut batch);
        if batch.entries.len().max(batch.packs.len()) <= MOST || prefix.len() == MAX_PREFIX {
            return self.store(prefix, batch);
        }
        // Of runs that are sorted already, which takes room for as many while it lasts.
        batch.entries.sort_by_key(|entry| entry.id);
        batch.packs.sort_unstable();
        // Cut off from behind, so that little is in memory twice.
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
            self.place(&format!("{prefix}{digit:x}"), Batch::new(packs, entries, replaces))?;
        }
        Ok(())
    }

    /// Joins segments to the batch while they are small enough ([`is_joined`]). One that cannot be read stays as it is.
    fn absorb(&mut self, prefix: &str, batch: &mut Batch) {
        let Some(group) = self.existing.get_mut(prefix) else { return };
        group.sort_unstable_by_key(|segment| std::cmp::Reverse(segment.len));
        while batch.entries.len() <= MOST
            && batch.replaces.len() < MAX_SUPERSEDED as usize
            && let Some(smallest) = group.pop_if(|segment| is_joined(segment.len, batch.weight))
        {
            match read(&self.objects, &smallest.name) {
                Ok(segment) => {
                    batch.weight += smallest.len;
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
        let Batch { packs, entries, replaces, .. } = batch;
        let supersedes = replaces.iter().map(|(id, _)| *id).collect();
        if !entries.is_empty() || !packs.is_empty() {
            let own = store(&self.objects, prefix, IndexSegment { supersedes, packs, entries })?;
            self.made.insert(own.id, own.clone());
            self.existing.entry(prefix.to_owned()).or_default().push(own);
        }
        replaces.iter().for_each(|(id, _)| drop(self.made.remove(id)));
        match &mut self.spared {
            Some(spared) => spared.extend(replaces),
            None => replaces.iter().try_for_each(|(_, name)| self.objects.delete(name.as_str()))?,
        }
        Ok(())
    }
}

/// Whether a segment of this length is joined to what is smaller, given the lengths of both: if it is at most half as large again. Of segments of random ids
/// that come in equal numbers those of one size then meet in pairs, for those differ by hundredths, and the next size is twice that.
fn is_joined(len: u64, smaller: u64) -> bool {
    2 * len <= 3 * smaller
}

fn pack_of(entry: &IndexEntry) -> PackId {
    entry.location.pack.id
}

/// Takes so many entries that one segment holds them, of whole packs, or all of one that has more.
fn whole_packs(entries: &mut Vec<IndexEntry>) -> Vec<IndexEntry> {
    if entries.len() <= MOST {
        return std::mem::take(entries);
    }
    entries.sort_by_key(pack_of);
    let mut cut = entries.len() - MOST;
    let first = pack_of(&entries[cut]);
    if pack_of(&entries[cut - 1]) == first {
        cut = entries.partition_point(|entry| pack_of(entry) <= first);
    }
    if cut == entries.len() {
        cut = entries.partition_point(|entry| pack_of(entry) < first);
    }
    entries.split_off(cut)
}

/// Elsewhere, lists may go on showing what is deleted, and not show what replaces it.
fn may_join(objects: &Objects) -> bool {
    matches!(objects.storage().settle(), Settle::After(_))
}

/// A hex digit of an id.
fn digit_of(id: &[u8], number: usize) -> u8 {
    let byte = id.get(number / 2).copied().unwrap_or(0);
    if number.is_multiple_of(2) { byte >> 4 } else { byte & 15 }
}
