//! Reclaiming space: archives that were deleted, packs that nobody needs, and the dead part of packs that are half needed.
//!
//! The order is the protocol's (`docs/format.md`, section 13), and it alone keeps archives whole beside running creates and other compactors:
//! condemned list → settle → list again → copy survivors, index, forwardings → intent → settle → list and walk what is new → spare whatever
//! is needed and not forwarded → delete → retire the intent. Waiting for sessions that began before the condemnation only spares
//! creates from having to store again what they had claimed.
//!
//! What is dead goes first, so that a full storage gives back space before survivors are copied.

mod epitaphs;
mod index;
mod plan;
mod survivors;
mod sweep;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::error::{Error, Result};
use super::inventory::Inventory;
use super::live::{Live, LostMap};
use super::sessions::{self, Cleared};
use crate::format::envelope::ObjectKind;
use crate::format::msgpack;
use crate::format::pack::PackKind;
use crate::format::protocol::{Condemned, LostList};
use crate::id::{ArchiveId, BlobId, Nonce16, PackId, SessionId};
use crate::repository::archives::{LostArchive, chain, list_all, read_record};
use crate::repository::guards::{condemned_lists, condemned_name, intent_name, intents};
use crate::repository::liveness::{ListedSession, list_sessions};
use crate::repository::packs::pack_name;
use crate::repository::reserve;
use crate::repository::session::Session;
use crate::repository::standing::{Standing, Stands, standings};
use crate::repository::states;
use crate::repository::{self, Repository, now};
use crate::storage::Settle;
use crate::task::{Monitor, Stop};

pub use plan::{Candidate, Plan};

/// Packs that one condemned list or intent names at most: a megabyte of ids.
const MAX_NAMED: usize = 64 << 10;
/// Sealed bytes of survivors that are copied before their old packs go: what a compaction needs of free space.
const BATCH: u64 = 256 << 20;

/// How to compact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompactOptions {
    /// A pack is rewritten when this much of it, in percent, is dead.
    pub threshold: u8,
    /// Do not wait for sessions that began before packs were condemned; they store again what they lose.
    pub now: bool,
    /// Only say what would be done.
    pub dry_run: bool,
}

impl Default for CompactOptions {
    fn default() -> Self {
        Self { threshold: 25, now: false, dry_run: false }
    }
}

/// What was done, or would be.
#[derive(Debug, Clone, Default)]
pub struct Compacted {
    /// What was found.
    pub plan: Plan,
    /// Records of deleted or withdrawn archives that went.
    pub archives: u64,
    /// Packs that went.
    pub packs: u64,
    /// Their stored bytes, all copies.
    pub freed: u64,
    /// Stored bytes of new packs, all copies.
    pub rewritten: u64,
    /// Packs that turned out to be needed, or could not be copied whole.
    pub spared: Vec<PackId>,
    /// What waits, by the session that it waits for.
    pub waiting: BTreeMap<SessionId, Waiting>,
    /// Sessions of dead processes.
    pub cleared: Cleared,
    /// What ended the work before all was done: the storage is full.
    pub stopped: Option<String>,
}

/// Packs that stay until a session ends.
#[derive(Debug, Clone)]
pub struct Waiting {
    /// The session.
    pub session: ListedSession,
    /// How many packs.
    pub packs: u64,
    /// Their dead bytes.
    pub bytes: u64,
}

/// Compacts a repository.
///
/// # Errors
/// [`Error`]. Nothing that an archive needs is gone after any error.
pub fn compact(
    repository: &Arc<Repository>,
    options: &CompactOptions,
    stop: &Stop,
    monitor: &dyn Monitor,
) -> Result<Compacted> {
    if repository.objects().storage().settle() == Settle::Unknown && !options.dry_run {
        return Err(Error::Unsettled { storage: repository.objects().storage().describe() });
    }
    if options.dry_run {
        let inventory = Inventory::read(repository, stop)?;
        let mut compactor =
            Compactor::survey(repository, SessionId([0; 16]), &inventory, options, stop, monitor)?;
        let candidates = compactor.report.plan.candidates.clone();
        compactor.split(&candidates, &[])?;
        return Ok(compactor.report);
    }
    repository.objects().allow_reserve();
    let session = Session::begin(repository, "compact")?;
    let done: Result<Compacted> = session.keep_alive(|| {
        let cleared = sessions::clear_dead(repository, &session)?;
        let inventory = Inventory::read(repository, stop)?;
        let mut compactor = Compactor::survey(repository, session.id(), &inventory, options, stop, monitor)?;
        compactor.report.cleared = cleared;
        compactor.run()?;
        Ok(compactor.report)
    });
    states::refresh(repository);
    let ended = session.end();
    reserve::set_aside_again(repository);
    let done = done?;
    ended?;
    Ok(done)
}

/// One compaction.
struct Compactor<'a> {
    repository: &'a Arc<Repository>,
    session: SessionId,
    inventory: &'a Inventory,
    options: &'a CompactOptions,
    stop: &'a Stop,
    monitor: &'a dyn Monitor,
    live: Live<'a>,
    /// Archives whose needs are in `live`.
    walked: HashSet<ArchiveId>,
    /// Maps and nodes that a repair has found lost.
    given_up: HashSet<BlobId>,
    /// Archives that may go, deleted or withdrawn.
    removable: Vec<ArchiveId>,
    report: Compacted,
}

impl<'a> Compactor<'a> {
    /// Walks all archives and plans.
    fn survey(
        repository: &'a Arc<Repository>,
        session: SessionId,
        inventory: &'a Inventory,
        options: &'a CompactOptions,
        stop: &'a Stop,
        monitor: &'a dyn Monitor,
    ) -> Result<Self> {
        let live = Live::new(repository, inventory)?;
        let report = Compacted::default();
        let (walked, removable, given_up) = (HashSet::new(), Vec::new(), given_up(repository)?);
        let mut compactor = Self {
            repository,
            session,
            inventory,
            options,
            stop,
            monitor,
            live,
            walked,
            given_up,
            removable,
            report,
        };
        for LostArchive { id: archive, known, reason } in list_all(repository.objects())?.lost {
            if let Some(known) = known {
                return Err(Error::Lost { archive, name: known.name, reason });
            }
        }
        let standings = compactor.walk_new()?;
        let gone = standings.iter().filter(|stands| stands.standing != Standing::Kept);
        compactor.removable = gone.map(|stands| stands.archive).collect();
        compactor.report.plan = compactor.plan()?;
        Ok(compactor)
    }

    /// Lists archives and marks what those need that were not walked yet.
    fn walk_new(&mut self) -> Result<Vec<Stands>> {
        let standings = standings(self.repository.objects())?;
        let kept = standings.iter().filter(|stands| stands.standing == Standing::Kept);
        for stands in kept {
            self.stop.check()?;
            if self.walked.contains(&stands.archive) {
                continue;
            }
            let unknown = |reason| Error::UnknownNeeds { archive: stands.archive, reason };
            let record = match read_record(self.repository.objects(), stands.archive) {
                Ok(record) => record,
                // Deleted by another compactor since it was listed.
                Err(error) if error.is_missing() => continue,
                Err(error) => return Err(unknown(chain(&error))),
            };
            let lost = self.live.add(&record)?;
            // What a repair has given up is needed by nobody who could have it.
            let known: Vec<&LostMap> = lost.iter().filter(|lost| !self.given_up.contains(&lost.id)).collect();
            if let Some(first) = known.first() {
                if known.iter().all(|lost| self.is_gone(lost)) && self.is_unfinished(stands.archive)? {
                    continue;
                }
                return Err(unknown(chain(&first.error)));
            }
            self.walked.insert(stands.archive);
        }
        self.live.search_index()?;
        Ok(standings)
    }

    /// Whether a map is lost because its pack went, and not because anything is damaged.
    fn is_gone(&self, lost: &LostMap) -> bool {
        let repository::Error::LostBlob { pack, .. } = &*lost.error else { return false };
        let is_there = |pack: PackId| !self.is_absent(pack_name(PackKind::Maps, pack).as_str());
        let packs = self.repository.packs();
        !is_there(*pack) && !packs.is_forwarded(*pack, lost.kind, &lost.id, &|_| true, &is_there)
    }

    /// Whether an archive, a map of which was found gone before, will never be a finished one: it is not confirmed yet, and whoever would confirm it misses
    /// that map's pack, which no compactor takes from then on. Its writer stores it again, or is dead.
    fn is_unfinished(&self, archive: ArchiveId) -> Result<bool> {
        let objects = self.repository.objects();
        let standings = standings(objects)?;
        let stands = standings.iter().find(|stands| stands.archive == archive);
        if stands.is_none_or(|stands| stands.standing != Standing::Kept) {
            return Ok(true);
        }
        Ok(list_all(objects)?.archives.iter().any(|shown| shown.id() == archive && shown.unconfirmed))
    }

    fn run(&mut self) -> Result<()> {
        let candidates = std::mem::take(&mut self.report.plan.candidates);
        let own = self.condemn(&candidates)?;
        self.repository.objects().settle();
        let (ready, waiting) = self.split(&candidates, &own)?;
        self.report.plan.candidates.clone_from(&candidates);
        let (dead, half): (Vec<_>, Vec<_>) = ready.into_iter().partition(|pack| pack.live == 0);
        let result = self.reclaim(&dead, &half);
        let full = match result {
            Err(error) if error.is_full() => {
                self.report.stopped = Some(chain(&error));
                Ok(())
            }
            result => result,
        };
        self.retire_lists(&own, &waiting)?;
        epitaphs::expire(self.repository)?;
        full?;
        match index::merge(self.repository) {
            Err(error) if error.is_full() => Ok(()),
            merged => merged,
        }
    }

    /// Publishes what is condemned; returns the lists.
    fn condemn(&self, candidates: &[Candidate]) -> Result<Vec<Nonce16>> {
        let packs: Vec<PackId> = candidates.iter().map(|candidate| candidate.id).collect();
        let mut lists = Vec::new();
        for packs in packs.chunks(MAX_NAMED) {
            let list = Condemned { session: self.session, time: now(), packs: packs.to_vec() };
            let id = Nonce16::random();
            self.repository.objects().put(
                ObjectKind::Condemned,
                &condemned_name(id),
                &msgpack::to_bytes(&list),
            )?;
            lists.push(id);
        }
        Ok(lists)
    }

    /// What may go now, and what has to wait for a session that began before it was condemned.
    fn split(
        &mut self,
        candidates: &[Candidate],
        own: &[Nonce16],
    ) -> Result<(Vec<Candidate>, HashSet<PackId>)> {
        let mut since: HashMap<PackId, i64> = HashMap::new();
        for (id, list) in condemned_lists(self.repository.objects())? {
            let time = if own.contains(&id) { now() } else { list.time };
            for pack in list.packs {
                since.entry(pack).and_modify(|known| *known = (*known).min(time)).or_insert(time);
            }
        }
        let sessions = list_sessions(self.repository.objects())?;
        let others: Vec<&ListedSession> = sessions
            .iter()
            .filter(|session| session.id != self.session && !session.liveness.is_dead())
            .collect();
        let mut ready = Vec::new();
        let mut waiting = HashSet::new();
        for candidate in candidates {
            let condemned = since.get(&candidate.id).copied().unwrap_or_else(now);
            let older = |listed: &&&ListedSession| {
                listed.session.as_ref().is_none_or(|session| session.started <= condemned)
            };
            match others.iter().find(older) {
                Some(session) if !self.options.now => {
                    waiting.insert(candidate.id);
                    let none = || Waiting { session: (*session).clone(), packs: 0, bytes: 0 };
                    let entry = self.report.waiting.entry(session.id).or_insert_with(none);
                    entry.packs += 1;
                    entry.bytes += candidate.dead;
                }
                // A running create's packs that no index names yet would only be stored again.
                Some(_) if candidate.unindexed => {}
                _ => ready.push(*candidate),
            }
        }
        Ok((ready, waiting))
    }

    /// Sweeps what is dead, then rewrites what is half dead, batch by batch.
    fn reclaim(&mut self, dead: &[Candidate], half: &[Candidate]) -> Result<()> {
        let archives = std::mem::take(&mut self.removable);
        let moved = self.needless_forwardings()?;
        if !dead.is_empty() || !archives.is_empty() || !moved.is_empty() {
            for (number, packs) in dead.chunks(MAX_NAMED).enumerate() {
                if number > 0 {
                    self.sweep(packs, &[], &[])?;
                } else {
                    self.sweep(packs, &archives, &moved)?;
                }
            }
            if dead.is_empty() {
                self.sweep(&[], &archives, &moved)?;
            }
        }
        self.complete_forwardings()?;
        self.shorten_ways()?;
        let mut rest = half;
        while !rest.is_empty() {
            self.stop.check()?;
            let mut bytes = 0;
            let fits = |pack: &&Candidate| {
                bytes += pack.live;
                bytes <= BATCH
            };
            let count = rest.iter().take_while(fits).count().max(1);
            let (batch, left) = rest.split_at(count);
            rest = left;
            self.copy_survivors(batch)?;
            self.sweep(batch, &[], &[])?;
        }
        Ok(())
    }

    /// Removes own condemned lists unless something waits that no other list names, and lists and intents of others of which everything is
    /// gone.
    fn retire_lists(&self, own: &[Nonce16], waiting: &HashSet<PackId>) -> Result<()> {
        let objects = self.repository.objects();
        let lists = condemned_lists(objects)?;
        let is_own = |id: &Nonce16| own.contains(id);
        let named: HashSet<PackId> =
            lists.iter().filter(|(id, _)| !is_own(id)).flat_map(|(_, list)| list.packs.clone()).collect();
        let keep = !waiting.is_subset(&named);
        let mut done = Vec::new();
        for (id, list) in &lists {
            let over = if is_own(id) { !keep } else { self.all_absent(&list.packs)? };
            done.extend(over.then(|| condemned_name(*id)));
        }
        for (id, intent) in intents(objects)? {
            let absent = |name: &String| self.is_absent(name);
            let records: Vec<_> = intent.archives.iter().map(|id| format!("archives/{id}")).collect();
            let over = self.all_absent(&intent.packs)?
                && records.iter().chain(&intent.moved).all(absent)
                && !self.segments_left(&intent.segments)?;
            done.extend(over.then(|| intent_name(id)));
        }
        // What is absent must be so in everybody's lists before nothing says any more that it goes.
        objects.settle();
        done.iter().try_for_each(|name| objects.delete(name))?;
        Ok(())
    }

    fn all_absent(&self, packs: &[PackId]) -> Result<bool> {
        let left = |pack: &PackId| {
            [PackKind::Data, PackKind::Maps]
                .iter()
                .any(|kind| !self.is_absent(pack_name(*kind, *pack).as_str()))
        };
        Ok(!packs.iter().any(left))
    }

    fn segments_left(&self, segments: &[crate::id::SegmentId]) -> Result<bool> {
        if segments.is_empty() {
            return Ok(false);
        }
        let names = self.repository.objects().names("index")?;
        let is_named = |name: &str| segments.iter().any(|id| name.ends_with(&id.to_string()));
        Ok(names.iter().any(|name| is_named(name.as_str())))
    }

    /// Whether an object is in neither of its places. Reads of exact names lag behind nothing.
    fn is_absent(&self, object: &str) -> bool {
        self.repository.objects().is_absent(object)
    }
}

/// Blobs that repairs have listed as lost.
fn given_up(repository: &Repository) -> Result<HashSet<BlobId>> {
    let objects = repository.objects();
    let mut ids = HashSet::new();
    for name in objects.names("lost")? {
        let plain = objects.get(ObjectKind::Lost, name.as_str());
        match plain.and_then(|plain| Ok(LostList::from_bytes(&plain)?)) {
            Ok(list) => ids.extend(list.blobs.iter().map(|blob| blob.id)),
            Err(error) => log::warn!("{}", chain(&error)),
        }
    }
    Ok(ids)
}
