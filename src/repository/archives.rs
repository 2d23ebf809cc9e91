//! Which archives there are: the listing of records and states, with the catalogue as a cache of what they say.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};

use super::catalogue::{Catalogue, knows_a_deletion, read_whole_catalogue};
pub use super::error::chain;
use super::error::{Error, Result};
use super::objects::Objects;
use crate::format::catalogue::{CatalogueEntry, CatalogueSegment, KnownState, SegmentName};
use crate::format::envelope::ObjectKind;
use crate::format::limits::MAX_CATALOGUE_ENTRIES;
use crate::format::msgpack;
use crate::format::name::ArchiveName;
use crate::format::record::{ArchiveRecord, Origin};
use crate::format::state::{ArchiveState, ChangeKind, StateName, believable};
use crate::id::{ArchiveId, Nonce16, RepositoryId, SessionId};
use crate::storage::patient::carried;
use crate::task::both;

/// A create absorbs older catalogue segments of so many bytes together, as they are stored, and its own have no more, before they are.
const MAX_ABSORBED_BYTES: u64 = 8 << 20;

/// When and where an archive was deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deletion {
    /// When, in ns since 1970, UTC, by that machine's clock.
    pub time: i64,
    /// On which machine.
    pub host: String,
}

/// An archive as it stands now, states applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archive {
    /// What its record says, in short.
    pub entry: CatalogueEntry,
    /// Its name now.
    pub name: ArchiveName,
    /// Its tags now.
    pub tags: Vec<ArchiveName>,
    /// Its comment now.
    pub comment: String,
    /// Whether its create or undelete has not ended, or died.
    pub unconfirmed: bool,
    /// Whether one of its states cannot be read: it may have been deleted, or be called otherwise.
    pub doubtful: bool,
    /// That it was deleted, if it was; its record and perhaps its data are still there.
    pub deleted: Option<Deletion>,
}

/// An archive that nobody deleted, and that cannot be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostArchive {
    /// Its id.
    pub id: ArchiveId,
    /// As the catalogue describes it, if its record is gone.
    pub known: Option<Archive>,
    /// What is wrong with its record.
    pub reason: String,
}

/// All archives that were not withdrawn, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Listing {
    /// What was listed when this began; see [`listing_mark`].
    pub mark: [u8; 32],
    /// Those that are neither deleted nor withdrawn.
    pub archives: Vec<Archive>,
    /// Those that were deleted, and may come back until their space is reclaimed.
    pub deleted: Vec<Archive>,
    /// Those whose record is gone from both its places, or that no catalogue describes and whose record is damaged.
    pub lost: Vec<LostArchive>,
}

impl Archive {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> ArchiveId {
        self.entry.id
    }

    /// Whether this session made it, or changed it to what it is.
    #[must_use]
    pub fn is_of(&self, session: SessionId) -> bool {
        self.entry.session == session || self.entry.states.iter().any(|known| known.state.session == session)
    }

    /// The moment it stands for, in ns since 1970, UTC.
    #[must_use]
    pub fn time(&self) -> i64 {
        self.entry.time
    }

    /// What it stands for in every repository that holds it: the archive it is a copy of, or itself in its `repository`.
    #[must_use]
    pub fn origin(&self, repository: RepositoryId) -> Origin {
        self.entry.origin.unwrap_or(Origin { repository, archive: self.id() })
    }

    /// The size of all members in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.entry.members.iter().map(|member| member.size).sum()
    }

    /// Bytes not in holes, of all members.
    #[must_use]
    pub fn data(&self) -> u64 {
        self.entry.members.iter().map(|member| member.data).sum()
    }
}

/// Where a record is stored.
#[must_use]
pub fn record_name(id: ArchiveId) -> String {
    format!("archives/{id}")
}

/// Reads an archive's record.
///
/// # Errors
/// [`Error::Storage`], [`Error::Damaged`], [`Error::Format`].
pub fn read_record(objects: &Objects, id: ArchiveId) -> Result<ArchiveRecord> {
    let plain = objects.get(ObjectKind::Record, &record_name(id))?;
    Ok(ArchiveRecord::from_bytes(&plain)?)
}

/// All archives that are neither deleted nor withdrawn, oldest first. One that no catalogue describes and whose record is damaged is logged
/// and left out.
///
/// # Errors
/// [`Error::Storage`] if something cannot be listed.
pub fn list_archives(objects: &Objects) -> Result<Vec<Archive>> {
    Ok(list_all(objects)?.archives)
}

/// All archives that are not withdrawn, the deleted ones apart. See [`list_archives`].
///
/// # Errors
/// [`Error::Storage`] if something cannot be listed.
pub fn list_all(objects: &Objects) -> Result<Listing> {
    let (lists, catalogue) = lists_and_catalogue(objects);
    let found = put_together(objects, lists?, catalogue?);
    let Loaded { mark, entries, sessions, doubtful, late, gone, damaged, .. } = found;
    let mut lost: Vec<LostArchive> =
        damaged.into_iter().map(|(id, reason)| LostArchive { id, known: None, reason }).collect();
    lost.extend(gone.into_iter().map(|entry| LostArchive {
        id: entry.id,
        reason: "its record is gone from both its places, and nobody deleted it".into(),
        known: Some(apply_states(entry, &sessions)),
    }));
    let apply = |entry: CatalogueEntry| {
        let (doubtful, late) = (doubtful.contains(&entry.id), late.contains(&entry.id));
        let archive = apply_states(entry, &sessions);
        Archive { doubtful, unconfirmed: archive.unconfirmed || late, ..archive }
    };
    let mut all: Vec<Archive> = entries.into_values().map(apply).collect();
    all.sort_by_cached_key(|archive| (archive.time(), archive.entry.finished, archive.id()));
    let deleted = all.extract_if(.., |archive| archive.deleted.is_some()).collect();
    Ok(Listing { mark, archives: all, deleted, lost })
}

/// Whether states say that an archive was deleted or withdrawn. Where its record is gone any that was deleted says so, whatever came after: an
/// undelete that came too late, and died, leaves a restoration above the deletion.
///
/// # Errors
/// [`Error::Storage`], [`Error::Damaged`], [`Error::Format`].
pub fn is_deleted(objects: &Objects, archive: ArchiveId) -> Result<bool> {
    let states = believable(list_states(objects, archive)?);
    if states.iter().any(|state| state.kind == ChangeKind::Withdrawn) {
        return Ok(true);
    }
    let says_so = |state: &ArchiveState| state.deleted == Some(true);
    if deletion(objects, &states)?.is_some_and(|(_, state)| says_so(&state)) {
        return Ok(true);
    }
    let mut deletions = states.iter().filter(|name| name.kind == ChangeKind::Deleted);
    Ok(deletions.any(|name| read_state(objects, name).is_ok_and(|state| says_so(&state)))
        && objects.is_absent(&record_name(archive)))
}

/// The states that are listed for one archive, in no order.
pub(super) fn list_states(objects: &Objects, archive: ArchiveId) -> Result<Vec<StateName>> {
    let names = objects.names(&format!("states/{archive}"))?;
    let states = names.iter().filter_map(|name| StateName::parse(name.as_str()));
    Ok(states.filter(|state| state.archive == archive).collect())
}

/// A mark of what is listed now: another one means that archives came, went or changed. Opens nothing.
///
/// # Errors
/// [`Error::Storage`].
pub fn listing_mark(objects: &Objects) -> Result<[u8; 32]> {
    Ok(mark_of(
        &objects.list_ids_at_once("archives")?,
        &state_names(objects)?,
        &objects.list_ids("sessions")?,
    ))
}

/// The mark of what was listed, each in order.
fn mark_of(archives: &[ArchiveId], states: &[StateName], sessions: &[SessionId]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for count in [archives.len(), states.len(), sessions.len()] {
        hasher.update(&(count as u64).to_le_bytes());
    }
    for id in archives {
        hasher.update(id.as_bytes());
    }
    for state in states {
        hasher.update(state.to_string().as_bytes());
    }
    for id in sessions {
        hasher.update(id.as_bytes());
    }
    *hasher.finalize().as_bytes()
}

/// What is listed and what the catalogue says of it.
struct Loaded {
    mark: [u8; 32],
    sessions: HashSet<SessionId>,
    entries: BTreeMap<ArchiveId, CatalogueEntry>,
    /// Those of which a state cannot be read.
    doubtful: HashSet<ArchiveId>,
    /// Those that were deleted or restored after sessions were listed.
    late: HashSet<ArchiveId>,
    /// Archives of the catalogue that have no record, though nothing says that they were deleted.
    gone: Vec<CatalogueEntry>,
    /// Archives that no catalogue describes, and why their records cannot be read.
    damaged: Vec<(ArchiveId, String)>,
    /// Segments that were opened, with their number of entries and stored length.
    segments: Vec<(SegmentName, usize, u64)>,
    /// All listed segments.
    listed: Vec<SegmentName>,
}

/// What is listed, but for what is withdrawn.
struct Lists {
    mark: [u8; 32],
    /// In order.
    ids: Vec<ArchiveId>,
    by_archive: HashMap<ArchiveId, Vec<StateName>>,
    sessions: HashSet<SessionId>,
    /// See [`Loaded::late`].
    late: HashSet<ArchiveId>,
}

fn lists(objects: &Objects) -> Result<Lists> {
    // In this order: a session that is gone has confirmed what it published, or taken it back before; and what comes after the sessions were
    // listed is unconfirmed.
    let marks = objects.folder_marks("archives");
    let mut ids: Vec<ArchiveId> = objects.list_ids_at_once("archives")?;
    let before = state_names(objects)?;
    let sessions: Vec<SessionId> = objects.list_ids("sessions")?;
    let mark = mark_of(&ids, &before, &sessions);
    let before: HashSet<StateName> = before.into_iter().collect();
    let sessions: HashSet<SessionId> = sessions.into_iter().collect();
    let mut by_archive: HashMap<ArchiveId, Vec<StateName>> = HashMap::new();
    let mut late = HashSet::new();
    for state in state_names(objects)? {
        if state.kind == ChangeKind::Deleted && !before.contains(&state) {
            late.insert(state.archive);
        }
        by_archive.entry(state.archive).or_default().push(state);
    }
    // The name of such a state says all, whatever became of its content.
    let is_withdrawn =
        |states: &Vec<StateName>| states.iter().any(|state| state.kind == ChangeKind::Withdrawn);
    ids.retain(|id| !by_archive.get(id).is_some_and(is_withdrawn));
    // Once more, unless none can have gone, for a record is removed before its states: one that went meanwhile must not show without them.
    if marks.is_none() || marks != objects.folder_marks("archives") {
        let still: Vec<ArchiveId> = objects.list_ids_at_once("archives")?;
        ids.retain(|id| still.binary_search(id).is_ok());
    }
    Ok(Lists { mark, ids, by_archive, sessions, late })
}

fn put_together(objects: &Objects, lists: Lists, catalogue: Catalogue) -> Loaded {
    let Lists { mark, ids, mut by_archive, sessions, late } = lists;
    let (mut entries, segments, listed) = catalogue;
    let gone = entries.extract_if(.., |id, _| ids.binary_search(id).is_err()).map(|(_, entry)| entry);
    let gone = gone.filter(|entry| {
        let states = by_archive.get(&entry.id).map_or(&[][..], Vec::as_slice);
        !sessions.contains(&entry.session) && is_missed(objects, entry, states)
    });
    let gone = gone.collect();
    let mut damaged = Vec::new();
    for id in ids {
        if let Entry::Vacant(vacant) = entries.entry(id) {
            match read_record(objects, id) {
                Ok(record) => {
                    vacant.insert(CatalogueEntry::of(id, &record));
                }
                // Deleted since it was listed.
                Err(error) if error.is_missing() => {}
                Err(error) => {
                    log::error!("archive {id} cannot be shown: {}", chain(&error));
                    damaged.push((id, chain(&error)));
                }
            }
        }
    }
    let mut doubtful = HashSet::new();
    entries.retain(|id, entry| {
        let states = believable(by_archive.remove(id).unwrap_or_default());
        match refresh_states(objects, entry, states) {
            States::Known => true,
            States::Doubtful => {
                doubtful.insert(*id);
                true
            }
            States::Gone => false,
        }
    });
    // One that a state tells to be deleted is not missed.
    damaged.retain(|(id, _)| {
        let states = believable(by_archive.remove(id).unwrap_or_default());
        !deletion(objects, &states).is_ok_and(|found| found.is_some_and(|(_, it)| it.deleted == Some(true)))
    });
    Loaded { mark, sessions, entries, doubtful, late, gone, damaged, segments, listed }
}

/// Whether an archive of the catalogue, whose record is not listed, ought to be there. What it was deleted by outlives its record by far: longer
/// than anybody who has read the catalogue takes to write it. A restoration counts only if the catalogue knows it, for it was confirmed then: an
/// undelete that came too late, and died, says the same.
fn is_missed(objects: &Objects, entry: &CatalogueEntry, listed: &[StateName]) -> bool {
    if listed.iter().any(|state| state.kind == ChangeKind::Withdrawn) || knows_a_deletion(entry) {
        return false;
    }
    let rank = |name: &StateName| (name.counter, name.nonce);
    let restored = entry.states.iter().filter(|known| known.state.deleted.is_some());
    let restored = restored.filter_map(|known| StateName::parse(&known.name)).map(|name| rank(&name)).max();
    let says_nothing = |name: &StateName| match read_state(objects, name) {
        Ok(state) => state.deleted != Some(true),
        // One that cannot be read may say so.
        Err(error) => error.is_missing(),
    };
    let mut later =
        listed.iter().filter(|name| name.kind == ChangeKind::Deleted && Some(rank(name)) > restored);
    later.all(says_nothing) && objects.is_absent(&record_name(entry.id))
}

/// The names of all states that are listed.
///
/// # Errors
/// [`Error::Storage`].
pub fn state_names(objects: &Objects) -> Result<Vec<StateName>> {
    Ok(objects.names("states")?.iter().filter_map(|name| StateName::parse(name.as_str())).collect())
}

/// What is listed, and the catalogue, read meanwhile where storage gains from that: of thousands of archives, either takes some ms of a core. For what is
/// shown, not for what is written: a catalogue that is older than the lists misses an archive that was deleted and cleared away in between.
fn lists_and_catalogue(objects: &Objects) -> (Result<Lists>, Result<Catalogue>) {
    let catalogue = || read_whole_catalogue(objects);
    if objects.storage().gains_from_threads() {
        let (catalogue, lists) = both(carried(catalogue), || lists(objects));
        return (lists, catalogue);
    }
    (lists(objects), catalogue())
}

/// What became of an archive's states.
enum States {
    Known,
    /// One cannot be read. The archive is shown without it: rather one too many than one too few.
    Doubtful,
    /// They were removed, and so was the record, before them.
    Gone,
}

/// Leaves just the winning states, opening those that the catalogue does not have.
fn refresh_states(objects: &Objects, entry: &mut CatalogueEntry, listed: Vec<StateName>) -> States {
    let known = std::mem::take(&mut entry.states);
    let mut settled = HashSet::new();
    let mut found = States::Known;
    for state in listed.into_iter().rev() {
        if settled.contains(&state.kind) {
            continue;
        }
        let name = state.to_string();
        let known = known.iter().find(|known| known.name == name).map(|known| known.state.clone());
        match known.map_or_else(|| read_state(objects, &state), Ok) {
            Ok(content) => entry.states.push(KnownState { name, state: content }),
            Err(error) if error.is_missing() => {
                if read_record(objects, entry.id).is_err_and(|error| error.is_missing()) {
                    return States::Gone;
                }
                // Retracted since it was listed: the next one counts.
                continue;
            }
            Err(error) => {
                log::error!(
                    "{name} cannot be applied: {}; archive {} ({}) is shown without what it says{}",
                    chain(&error),
                    entry.id,
                    entry.name,
                    if state.kind == ChangeKind::Deleted { ", and may have been deleted" } else { "" },
                );
                found = States::Doubtful;
            }
        }
        settled.insert(state.kind);
    }
    found
}

/// The state that decides whether an archive is deleted, of those that are [`believable`], and what it says. One that was removed after it
/// was listed is passed over: only what is retracted goes before its record does.
///
/// # Errors
/// [`Error::Storage`], and what is wrong with the state.
pub(super) fn deletion(objects: &Objects, states: &[StateName]) -> Result<Option<(StateName, ArchiveState)>> {
    for name in states.iter().rev().filter(|name| name.kind == ChangeKind::Deleted) {
        match read_state(objects, name) {
            Ok(state) => return Ok(Some((*name, state))),
            Err(error) if error.is_missing() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Reads a state.
///
/// # Errors
/// [`Error::Storage`], [`Error::Damaged`], [`Error::Format`].
pub fn read_state(objects: &Objects, name: &StateName) -> Result<ArchiveState> {
    let plain = objects.get(ObjectKind::State, &name.to_string())?;
    Ok(ArchiveState::from_bytes(name, &plain)?)
}

fn apply_states(entry: CatalogueEntry, sessions: &HashSet<SessionId>) -> Archive {
    let mut archive = Archive {
        name: entry.name.clone(),
        tags: entry.tags.clone(),
        comment: entry.comment.clone(),
        unconfirmed: sessions.contains(&entry.session),
        doubtful: false,
        deleted: None,
        entry,
    };
    for KnownState { state, .. } in &archive.entry.states {
        match state.deleted {
            Some(true) => archive.deleted = Some(Deletion { time: state.time, host: state.host.clone() }),
            // Of all changes only this one relies on packs.
            Some(false) => {
                archive.unconfirmed |= sessions.contains(&state.session);
                archive.deleted = None;
            }
            None => {}
        }
        if let Some(name) = &state.name {
            archive.name = name.clone();
        }
        if let Some(tags) = &state.tags {
            archive.tags.clone_from(tags);
        }
        if let Some(comment) = &state.comment {
            archive.comment.clone_from(comment);
        }
    }
    archive
}

/// Publishes a catalogue segment that describes every confirmed archive not yet described, absorbing small older segments, and large ones of which less than
/// half is still so; they are then deleted. Only a cache, and the memory of which archives there should be: the caller may ignore an error. What is missing stays in it.
///
/// # Errors
/// [`Error::Storage`].
pub fn refresh_catalogue(objects: &Objects) -> Result<()> {
    let Loaded { mut entries, segments, listed, sessions, late, gone, .. } =
        put_together(objects, lists(objects)?, read_whole_catalogue(objects)?);
    // What is not confirmed may be taken back, and is not missed then.
    let is_open = |id: &ArchiveId, entry: &mut CatalogueEntry| {
        late.contains(id) || apply_states(entry.clone(), &sessions).unconfirmed
    };
    let unconfirmed: HashSet<ArchiveId> = entries.extract_if(.., is_open).map(|(id, _)| id).collect();
    entries.extend(gone.into_iter().map(|entry| (entry.id, entry)));
    let mut absorbed = HashSet::new();
    let (mut bytes, mut absorbed_bytes) = (0, 0);
    let mut large = Vec::new();
    for (name, count, len) in &segments {
        bytes += len;
        if *count < MAX_CATALOGUE_ENTRIES && bytes <= MAX_ABSORBED_BYTES {
            absorbed.insert(name.suffix());
            absorbed_bytes += len;
        } else {
            large.push((name, len));
        }
    }
    for (name, len) in large {
        let plain = objects.get(ObjectKind::Catalogue, &name.to_string())?;
        let described = CatalogueSegment::from_bytes(&plain)?.archives;
        let is_so = |described: &CatalogueEntry| {
            entries.get(&described.id).is_some_and(|entry| entry.states == described.states)
        };
        let so: Vec<ArchiveId> =
            described.iter().filter(|entry| is_so(entry)).map(|entry| entry.id).collect();
        let is_settled = described.iter().all(|entry| !unconfirmed.contains(&entry.id));
        // Otherwise what it says of archives that are gone would stay for ever, and with it their states.
        if 2 * so.len() < described.len() && is_settled && absorbed_bytes + len <= MAX_ABSORBED_BYTES {
            absorbed.insert(name.suffix());
            absorbed_bytes += len;
        } else {
            so.iter().for_each(|id| drop(entries.remove(id)));
        }
    }
    // What was superseded before and is still listed stays superseded.
    let opened: HashSet<String> = segments.iter().map(|(name, _, _)| name.suffix()).collect();
    let old = listed.iter().map(SegmentName::suffix).filter(|suffix| !opened.contains(suffix));
    let supersedes: Vec<String> = old.chain(absorbed).collect();

    let mut counter = listed.iter().map(|name| name.counter).max().unwrap_or(0);
    let mut parts = parts(entries.into_values()).into_iter().peekable();
    let is_any = parts.peek().is_some();
    while let Some(archives) = parts.next() {
        counter = counter.saturating_add(1);
        // Only the last part may supersede: before it, not all entries are durable.
        let supersedes = if parts.peek().is_none() { supersedes.clone() } else { Vec::new() };
        let segment = CatalogueSegment { supersedes, archives };
        let name = SegmentName { counter, nonce: Nonce16::random() };
        objects.put(ObjectKind::Catalogue, &name.to_string(), &segment.to_bytes())?;
    }
    if is_any {
        for suffix in &supersedes {
            objects.delete(&format!("catalogue/{suffix}"))?;
        }
    }
    Ok(())
}

/// Entries as segments hold them, neither too many nor too long together.
fn parts(entries: impl Iterator<Item = CatalogueEntry>) -> Vec<Vec<CatalogueEntry>> {
    let mut parts: Vec<Vec<CatalogueEntry>> = Vec::new();
    let mut bytes = 0;
    for entry in entries {
        let len = msgpack::to_bytes(&entry).len() as u64;
        bytes += len;
        match parts.last_mut() {
            Some(part) if part.len() < MAX_CATALOGUE_ENTRIES && bytes <= MAX_ABSORBED_BYTES => {
                part.push(entry);
            }
            _ => {
                bytes = len;
                parts.push(vec![entry]);
            }
        }
    }
    parts
}

impl super::Repository {
    /// See [`list_archives`].
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub fn archives(&self) -> Result<Vec<Archive>> {
        list_archives(self.objects())
    }

    /// See [`read_record`].
    ///
    /// # Errors
    /// [`Error`].
    pub fn record(&self, id: ArchiveId) -> Result<ArchiveRecord> {
        read_record(self.objects(), id)
    }
}

impl From<crate::format::envelope::EnvelopeError> for Error {
    fn from(error: crate::format::envelope::EnvelopeError) -> Self {
        match error {
            crate::format::envelope::EnvelopeError::Format(error) => Self::Format(error),
            crate::format::envelope::EnvelopeError::Codec(error) => Self::Codec(error),
        }
    }
}
