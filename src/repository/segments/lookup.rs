//! Looking up blobs in stored segments, of which only directories are in memory.

use std::collections::{HashMap, HashSet};
use std::io;

use super::filters::{FiledFilters, Filter, IN_MEMORY};
use super::groups::Groups;
use super::{ListedSegment, TRIES, list, parse_name};
use crate::format::envelope::EnvelopeError;
use crate::format::index_segment::{Directory, HEADER_LEN, Header, IndexEntry, pages_of};
use crate::id::{BlobId, PackId, SegmentId};
use crate::repository::archives::chain;
use crate::repository::error::{Error, Result};
use crate::repository::objects::Objects;
use crate::storage::Name;

/// What is read first of a segment, in bytes: enough for the directory of a small one.
const FIRST_READ: u64 = 16 << 10;

/// An open segment.
#[derive(Debug)]
struct Segment {
    listed: ListedSegment,
    header: Header,
    firsts: Vec<u64>,
    filter: Filter,
}

/// Reads a segment's directory.
///
/// # Errors
/// [`Error::Storage`], [`Error::Damaged`].
pub(super) fn directory(objects: &Objects, listed: &ListedSegment) -> Result<(Header, Directory)> {
    let name = listed.name.as_str();
    let damaged = |source: EnvelopeError| Error::Damaged { name: name.to_owned(), source };
    let fetch = |offset, len| {
        let read = objects.storage().read_into(&listed.name, offset, vec![0; len]);
        read.map_err(objects.failed("read", name))
    };
    let mut bytes = fetch(0, listed.len.clamp(HEADER_LEN as u64, FIRST_READ) as usize)?;
    let header = Header::from_bytes(&bytes[..HEADER_LEN]).map_err(|source| damaged(source.into()))?;
    let missing = (HEADER_LEN + header.directory_len()).saturating_sub(bytes.len());
    if missing > 0 {
        let rest = fetch(bytes.len() as u64, missing)?;
        bytes.extend_from_slice(&rest);
    }
    bytes.truncate(HEADER_LEN + header.directory_len());
    let sealed = bytes.split_off(HEADER_LEN);
    let opened = header.open_directory(objects.keyring(), name, sealed);
    Ok((header, opened.map_err(damaged)?))
}

/// The entries of an id in one segment.
///
/// # Errors
/// [`Error::Storage`], [`Error::Damaged`].
pub(super) fn entries_of(
    objects: &Objects,
    (name, header, firsts): (&Name, &Header, &[u64]),
    id: &BlobId,
) -> Result<Vec<IndexEntry>> {
    let mut found = Vec::new();
    for number in pages_of(firsts, id) {
        let Some((offset, len)) = header.page(number) else { break };
        let read = objects.storage().read_into(name, offset, vec![0; len]);
        let mut sealed = read.map_err(objects.failed("read", name.as_str()))?;
        let page = header.open_page(objects.keyring(), name.as_str(), number, &mut sealed);
        let page = page.map_err(|source| Error::Damaged { name: name.to_string(), source })?;
        found.extend(page.into_iter().filter(|entry| entry.id == *id));
    }
    Ok(found)
}

fn has(group: &[Segment], id: SegmentId) -> bool {
    group.iter().any(|segment| segment.listed.id == id)
}

fn no_room(source: io::Error) -> Error {
    let storage = std::env::temp_dir().display().to_string();
    Error::Storage { action: "write", name: "a temporary file".to_owned(), storage, source }
}

/// Finds blobs in the segments that there were when it was opened or refreshed.
#[derive(Debug)]
pub struct Lookup {
    objects: Objects,
    groups: Groups<Segment>,
    filed: FiledFilters,
    /// Bytes of filters in memory since those without room last left it.
    added: usize,
    /// Segments that others replace, and that are still listed.
    superseded: HashSet<SegmentId>,
    /// Packs of which the index has every blob.
    packs: HashSet<PackId>,
}

impl Lookup {
    /// Opens the directories of all segments. A damaged segment is only a lost chance to share, and logged.
    ///
    /// # Errors
    /// [`Error::Storage`] if the segments cannot be listed, or many filters not be kept in a temporary file.
    pub fn open(objects: &Objects) -> Result<Self> {
        Self::within(objects, IN_MEMORY)
    }

    /// As [`Self::open`], with filters of so many bytes in memory.
    pub(super) fn within(objects: &Objects, in_memory: usize) -> Result<Self> {
        let mut lookup = Self {
            objects: objects.clone(),
            groups: Groups::default(),
            filed: FiledFilters::beyond(in_memory),
            added: 0,
            superseded: HashSet::new(),
            packs: HashSet::new(),
        };
        lookup.refresh()?;
        Ok(lookup)
    }

    /// Packs of which the index has every blob.
    #[must_use]
    pub fn packs(&self) -> &HashSet<PackId> {
        &self.packs
    }

    /// Opens segments that came since, and forgets those that are gone.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn refresh(&mut self) -> Result<()> {
        for tries in 1.. {
            let new = self.forget_gone()?;
            // What replaces others while they are read is in the next list.
            if self.open_new(new)? || tries == TRIES {
                break;
            }
        }
        Ok(())
    }

    /// The segments that are open.
    #[must_use]
    pub fn seen(&self) -> Vec<ListedSegment> {
        self.groups.all().map(|segment| segment.listed.clone()).collect()
    }

    /// Closes segments that are not listed any more, and says which are listed that are not open.
    fn forget_gone(&mut self) -> Result<Vec<ListedSegment>> {
        if self.groups.all().next().is_none() {
            return list(&self.objects);
        }
        // Of thousands, few are new: only they are looked at for their lengths.
        let names = self.objects.names("index")?;
        let mut there: HashMap<SegmentId, &Name> =
            names.iter().filter_map(|name| Some((parse_name(name)?.1, name))).collect();
        self.groups.retain(|segment| there.remove(&segment.listed.id).is_some());
        self.superseded.retain(|id| there.remove(id).is_some());
        let listed = |(id, name): (SegmentId, &Name)| {
            let (prefix, _) = parse_name(name)?;
            let len = match self.objects.storage().len(name) {
                // Whoever opens it finds that out, and looks for what replaces it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
                len => len.ok()?,
            };
            Some(ListedSegment { prefix: prefix.to_owned(), id, name: name.clone(), len })
        };
        Ok(there.into_iter().filter_map(listed).collect())
    }

    /// Whether all were there.
    fn open_new(&mut self, new: Vec<ListedSegment>) -> Result<bool> {
        let mut whole = true;
        for listed in new {
            match self.add(listed) {
                Err(error) if error.is_missing() => whole = false,
                supersedes => self.superseded.extend(supersedes?.into_iter().flatten()),
            }
        }
        let superseded = &self.superseded;
        self.groups.retain(|segment| !superseded.contains(&segment.listed.id));
        Ok(whole)
    }

    /// Opens segments that were made in place of others. If all could be opened, which it says, the others are forgotten.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn follow(&mut self, made: Vec<ListedSegment>, replaced: &[(SegmentId, Name)]) -> Result<bool> {
        let mut superseded: Vec<SegmentId> = replaced.iter().map(|(id, _)| *id).collect();
        let (mut all, mut missing) = (true, false);
        for listed in made {
            // Met already when it was looked for what others have joined.
            if has(self.groups.of(&listed.prefix), listed.id) {
                continue;
            }
            match self.add(listed) {
                // Somebody else has joined it.
                Err(error) if error.is_missing() => missing = true,
                opened => match opened? {
                    Some(supersedes) => superseded.extend(supersedes),
                    None => all = false,
                },
            }
        }
        if missing {
            self.refresh()?;
        }
        if all {
            self.superseded.extend(superseded);
            for (id, name) in replaced {
                if let Some((prefix, _)) = parse_name(name) {
                    self.groups.of(prefix).retain(|segment| segment.listed.id != *id);
                }
            }
        }
        Ok(all)
    }

    /// Opens a segment, and says which it replaces. One that is damaged or cannot be read is logged and left out.
    fn add(&mut self, listed: ListedSegment) -> Result<Option<Vec<SegmentId>>> {
        let (header, directory) = match directory(&self.objects, &listed) {
            Err(error) if !error.is_missing() => {
                log::warn!("{}; 'copal check --repair' makes the index anew", chain(&error));
                return Ok(None);
            }
            opened => opened?,
        };
        self.packs.extend(directory.packs);
        self.added += directory.filter.len();
        let filter = Filter::Held(directory.filter);
        let group = self.groups.of(&listed.prefix);
        group.push(Segment { listed, header, firsts: directory.firsts, filter });
        if self.added > self.filed.slack() {
            self.file_filters()?;
            self.added = 0;
        }
        Ok(Some(directory.supersedes))
    }

    /// Takes filters out of memory for which there is no room: those of long prefixes first, which few lookups ask.
    fn file_filters(&mut self) -> Result<()> {
        let classes = self.groups.longest_first().map(|all| all.map(|segment| &mut segment.filter).collect());
        self.filed.file(&mut classes.collect::<Vec<_>>()).map_err(no_room)
    }

    /// The lengths of the prefixes of segments whose filters are in memory as a whole, and of the others.
    #[cfg(test)]
    pub(super) fn filters(&self) -> (Vec<usize>, Vec<usize>) {
        let (held, filed): (Vec<_>, Vec<_>) =
            self.groups.all().partition(|segment| matches!(segment.filter, Filter::Held(_)));
        let digits = |of: Vec<&Segment>| of.iter().map(|segment| segment.listed.prefix.len()).collect();
        (digits(held), digits(filed))
    }

    /// The first entry of an id that `accepts` takes.
    ///
    /// # Errors
    /// [`Error::Storage`] that a segment is missing, so that [`Self::refresh`] is worth a try. One that is damaged, or cannot be read, is
    /// logged and left out.
    pub fn find(&self, id: &BlobId, accepts: &dyn Fn(&IndexEntry) -> bool) -> Result<Option<IndexEntry>> {
        for segment in self.groups.along(id) {
            if !self.filed.may_hold(&segment.filter, id) {
                continue;
            }
            match entries_of(&self.objects, (&segment.listed.name, &segment.header, &segment.firsts), id) {
                Ok(entries) => {
                    if let Some(found) = entries.into_iter().find(accepts) {
                        return Ok(Some(found));
                    }
                }
                Err(error) if error.is_missing() => return Err(error),
                Err(error) => {
                    log::warn!("{}; 'copal check --repair' makes the index anew", chain(&error));
                }
            }
        }
        Ok(None)
    }
}
