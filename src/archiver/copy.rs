//! Copying archives from one repository to another: read and verified there, sealed again under the other's keys, and published like any
//! archive, in the order that keeps chunks alive.
//!
//! The source is only read. Each archive has a session of its own, so that whatever ends a copy, the archives before are confirmed; what
//! was stored of the one under way is found by the next copy. An archive of the destination never lacks anything: what cannot be read in full is
//! left out.

mod image;
mod known;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use image::{ImageCopy, Learnt};

use super::error::{Error, Result};
use super::pipeline::StoredImage;
use super::span::{Counters, Store, Writers};
use super::writing::{MAX_PASSES, abandon, lost_packs, publish_packs};
use super::{Monitor, Stop};
use crate::codec::compress::Compression;
use crate::format::name::ArchiveName;
use crate::format::record::{ArchiveRecord, Member, Origin};
use crate::id::{ArchiveId, SessionId};
use crate::image::Image;
use crate::image::reader::ImageReader;
use crate::repository::archives::{Archive, chain, refresh_catalogue};
use crate::repository::liveness::list_sessions;
use crate::repository::segments;
use crate::repository::session::{Session, claimable_packs};
use crate::repository::{self, Repository};

/// Cache for reading the source, in bytes; an eighth of it is for maps and nodes, the rest for chunks that are cut anew.
const READ_CACHE: usize = 64 << 20;

/// How to copy.
#[derive(Debug, Clone, Copy, Default)]
pub struct CopyOptions {
    /// How new chunks are compressed.
    pub compression: Compression,
    /// Cut as the destination does, so that chunks are shared with its own archives, not only with other copies. Done in any case where
    /// the repositories' spans differ in length.
    pub recut: bool,
    /// Only count what would be stored.
    pub dry_run: bool,
}

/// What became of an archive.
#[derive(Debug)]
pub enum Outcome {
    /// It is in the destination now, durable and confirmed.
    Copied {
        /// Its id there; `None` in a dry run.
        id: Option<ArchiveId>,
        /// Its record there.
        record: Box<ArchiveRecord>,
        /// What the user should know although the copy is good.
        warnings: Vec<String>,
    },
    /// It was there before, with this id.
    Present(ArchiveId),
    /// It is unconfirmed, and was left out.
    Unconfirmed,
    /// It cannot be read in full, and was left out.
    Damaged(Error),
}

/// Copies archives from `from` to `to`, in this order, and tells of each what became of it as soon as that is certain. Returns when all of them were
/// told; the copies are then durable and confirmed.
///
/// An archive that is there already, neither deleted nor unconfirmed, is not copied again.
///
/// # Errors
/// [`Error`] if the destination fails, a key is missing or a signal came. What was told before stays true, and what was stored is found by the next copy.
pub fn copy(
    from: &Arc<Repository>,
    to: &Arc<Repository>,
    archives: &[&Archive],
    options: &CopyOptions,
    stop: &Stop,
    monitor: &dyn Monitor,
    told: &mut dyn FnMut(&Archive, &Outcome),
) -> Result<()> {
    if from.id() == to.id() {
        return Err(Error::SameRepository { repository: from.id() });
    }
    let there = There::load(to)?;
    let wanted = archives
        .iter()
        .filter(|archive| !archive.unconfirmed && !there.archives.contains_key(&archive.origin(from.id())));
    monitor.total(wanted.map(|archive| archive.size()).sum());
    let recut = options.recut || from.config().span_shift != to.config().span_shift;
    let reader = ImageReader::new(from.clone(), READ_CACHE);
    let mut run = Run {
        to,
        options: CopyOptions { recut, ..*options },
        reader,
        learnt: Learnt::new(),
        store: None,
        there,
        copied: 0,
        stop,
        monitor,
    };
    let result = archives.iter().try_for_each(|archive| {
        stop.check()?;
        told(archive, &run.archive(archive)?);
        Ok(())
    });
    if run.copied > 0
        && let Err(error) = segments::join(to.objects())
    {
        log::warn!("small segments of the index were not joined: {}", chain(&error));
    }
    if run.copied > 0
        && let Err(error) = refresh_catalogue(to.objects())
    {
        log::warn!(
            "the catalogue could not be refreshed: {}; listings are slower until it is",
            chain(&error)
        );
    }
    result
}

/// What the destination has, with what this run adds.
#[derive(Debug, Default)]
struct There {
    /// Its archives by what they are copies of; those that are its own stand for themselves.
    archives: HashMap<Origin, ArchiveId>,
    /// Copies that are unconfirmed, and the sessions that made them.
    leftovers: HashMap<Origin, Vec<(SessionId, ArchiveId)>>,
    /// The newest archive of each name, by time, end and id.
    newest: HashMap<ArchiveName, (i64, i64, ArchiveId)>,
}

impl There {
    fn load(to: &Repository) -> Result<Self> {
        let mut there = Self::default();
        for archive in to.archives()? {
            // Oldest first: the last of a name stays.
            let newest = (archive.time(), archive.entry.finished, archive.id());
            there.newest.insert(archive.name.clone(), newest);
            let origin = archive.origin(to.id());
            if archive.unconfirmed {
                there.leftovers.entry(origin).or_default().push((archive.entry.session, archive.id()));
            } else {
                there.archives.insert(origin, archive.id());
            }
        }
        Ok(there)
    }

    fn add(&mut self, origin: Origin, id: ArchiveId, record: &ArchiveRecord) {
        self.archives.insert(origin, id);
        let newest = (record.time, record.finished, id);
        let known = self.newest.entry(record.name.clone()).or_insert(newest);
        *known = newest.max(*known);
    }
}

/// A copy under way.
struct Run<'a> {
    to: &'a Arc<Repository>,
    options: CopyOptions,
    reader: ImageReader,
    learnt: Learnt,
    /// Made under the first session: the index is read once.
    store: Option<Store<'a>>,
    there: There,
    copied: usize,
    stop: &'a Stop,
    monitor: &'a dyn Monitor,
}

impl<'a> Run<'a> {
    fn archive(&mut self, archive: &Archive) -> Result<Outcome> {
        let origin = archive.origin(self.reader.repository().id());
        if archive.unconfirmed {
            return Ok(Outcome::Unconfirmed);
        }
        if let Some(id) = self.there.archives.get(&origin) {
            return Ok(Outcome::Present(*id));
        }
        let elder = match self.reader.repository().record(archive.id()) {
            Ok(record) => record,
            Err(error @ repository::Error::Codec(_)) => return Err(error.into()),
            Err(error) => return Ok(Outcome::Damaged(error.into())),
        };
        let chunker = elder.chunker.unwrap_or(self.reader.repository().config().chunker);
        let chunker = (!self.options.recut && chunker != self.to.config().chunker).then_some(chunker);
        let record = ArchiveRecord {
            chunker,
            name: archive.name.clone(),
            comment: archive.comment.clone(),
            tags: archive.tags.clone(),
            previous: self.there.newest.get(&archive.name).map(|newest| newest.2),
            origin: Some(origin),
            ..elder
        };
        let copied = if self.options.dry_run { self.count(record) } else { self.store(record, origin) };
        match copied {
            Err(error @ Error::Unreadable { .. }) => Ok(Outcome::Damaged(error)),
            copied => copied,
        }
    }

    /// Stores nothing, but finds out what would be.
    fn count(&mut self, mut record: ArchiveRecord) -> Result<Outcome> {
        let mut store = match self.store.take() {
            Some(store) => store,
            None => self.open_store()?,
        };
        store.counters = Counters::default();
        let members = self.members(&store, &record.members);
        record.stats = store.counters.stats();
        record.session = SessionId([0; 16]);
        self.store = Some(store);
        record.members = members?;
        Ok(Outcome::Copied { id: None, record: Box::new(record), warnings: Vec::new() })
    }

    fn store(&mut self, mut record: ArchiveRecord, origin: Origin) -> Result<Outcome> {
        let to: &'a Arc<Repository> = self.to;
        let session = Session::begin(to, &format!("copy {} from {}", record.name, origin.repository))?;
        record.session = session.id();
        let mut store = match self.store.take() {
            Some(mut store) => {
                store.renew(claimable_packs(to.objects())?)?;
                store
            }
            None => self.open_store()?,
        };
        let stored = session.keep_alive(|| self.passes(&session, &mut store, record));
        self.store = Some(store);
        let (id, record) = stored?;
        let mut warnings = Vec::new();
        if let Err(error) = self.withdraw_leftovers(&session, origin) {
            let reason = chain(&error);
            warnings.push(format!("what an interrupted copy left could not be withdrawn: {reason}"));
        }
        if let Err(error) = session.end() {
            let reason = chain(&error);
            warnings.push(format!("the archive is safe, but is shown as unconfirmed for now: {reason}"));
        }
        self.copied += 1;
        self.there.add(origin, id, &record);
        Ok(Outcome::Copied { id: Some(id), record: Box::new(record), warnings })
    }

    /// Withdraws unconfirmed copies of an archive that dead sessions left, now that there is one that is confirmed.
    fn withdraw_leftovers(&mut self, session: &Session<'_>, origin: Origin) -> repository::Result<()> {
        let Some(leftovers) = self.there.leftovers.remove(&origin) else { return Ok(()) };
        let dead = list_sessions(self.to.objects())?.into_iter().filter(|listed| listed.liveness.is_dead());
        let dead: HashSet<SessionId> = dead.map(|listed| listed.id).collect();
        let mut left = leftovers.iter().filter(|(session, _)| dead.contains(session));
        left.try_for_each(|(_, archive)| session.withdraw(*archive))
    }

    fn open_store(&self) -> Result<Store<'a>> {
        Store::new(self.to, &self.to.config().chunker, self.options.compression)
    }

    /// Stores, publishes and confirms, again if claimed packs disappeared meanwhile.
    fn passes(
        &self,
        session: &Session<'_>,
        store: &mut Store<'a>,
        mut record: ArchiveRecord,
    ) -> Result<(ArchiveId, ArchiveRecord)> {
        let elder = record.members;
        let mut superseded: Option<ArchiveId> = None;
        for _ in 0..MAX_PASSES {
            store.writers = Some(Writers::start(self.to)?);
            record.members = match self.members(store, &elder) {
                Ok(members) => members,
                Err(error) => return Err(self.keep(store, error)),
            };
            record.stats = store.counters.stats();
            publish_packs(store)?;
            self.stop.check()?;
            let id = session.publish(&record)?;
            if let Some(first) = superseded.take() {
                session.withdraw(first)?;
            }
            let unconfirmed = session.confirm(&store.claimed.lock())?;
            let lost = lost_packs(self.to, &record, &unconfirmed)?;
            if lost.is_empty() {
                return Ok((id, record));
            }
            log::warn!(
                "a compaction removed {} packs that this copy relied on; what they held is stored again",
                lost.len()
            );
            superseded = Some(id);
            store.bar(&lost);
        }
        Err(Error::NeverConfirmed)
    }

    /// Ends the writers of a pass that failed. If that was not the destination's fault, what they stored is kept, for the next archive
    /// or the next copy to find.
    fn keep(&self, store: &mut Store<'_>, error: Error) -> Error {
        match error {
            Error::Unreadable { .. } | Error::Stopped { .. } => match publish_packs(store) {
                Ok(()) => error,
                Err(failed) => failed,
            },
            error => abandon(store.writers.take(), error),
        }
    }

    fn members(&self, store: &Store<'_>, elder: &[Member]) -> Result<Vec<Member>> {
        let span_shift = self.reader.repository().config().span_shift;
        let copied = elder.iter().map(|member| {
            let image = Image::of(member, span_shift);
            let copy = ImageCopy { reader: &self.reader, store, learnt: &self.learnt, member, image };
            let stored = if self.options.recut {
                copy.recut(self.stop, self.monitor)?
            } else {
                copy.run(self.stop, self.monitor)?
            };
            let StoredImage { size, data, chunks, root, .. } = stored;
            Ok(Member { size, data, chunks, root, ..member.clone() })
        });
        copied.collect()
    }
}

impl Store<'_> {
    /// Begins a new session's work with what was learnt under an earlier one: only what lies in `claimable` packs may be claimed.
    fn renew(&mut self, claimable: HashSet<crate::id::PackId>) -> Result<()> {
        let gone = self.claimable.difference(&claimable).copied().collect();
        self.bar(&gone);
        self.index.renew()?;
        self.claimable = claimable;
        self.counters = Counters::default();
        Ok(())
    }
}
