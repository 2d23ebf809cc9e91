//! What has to hold when all actors of a round have ended, and when after them everything was compacted.

use std::collections::BTreeSet;
use std::sync::Arc;

use copal::id::{ArchiveId, PackId, SessionId};
use copal::image::maps::Maps;
use copal::image::reach::packs_of_archive;
use copal::image::reader::ImageReader;
use copal::maintenance::compact::{CompactOptions, compact};
use copal::repository::Repository;
use copal::repository::archives::{chain, list_all};
use copal::repository::guards::intents;
use copal::repository::session::listed_packs;
use copal::repository::states::{Change, apply};
use copal::storage::Storage;
use copal::storage::memory::MemoryStorage;
use copal::task::{Silent, Stop};

use super::actors::is_whole;
use super::common::open;
use super::scene::{World, bury, compact_options};

/// What is known for certain.
#[derive(Debug, Default, Clone)]
pub(crate) struct Book {
    /// Reported as done, and deleted by nobody.
    pub(crate) kept: BTreeSet<ArchiveId>,
    /// Deleted, and restored by nobody.
    pub(crate) gone: BTreeSet<ArchiveId>,
    /// What creates were to make that failed.
    pub(crate) failed: BTreeSet<String>,
}

/// What was there in the end that nobody needs, and does no harm.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Left {
    /// Archives of dead creates that are not whole, and had to be deleted.
    pub(crate) broken: u64,
    /// States of archives that are gone.
    pub(crate) states: u64,
    /// Intents of dead compactors that name what was restored in time.
    pub(crate) intents: u64,
    /// Sessions of dead creates whose archives cannot be confirmed, but read.
    pub(crate) sessions: u64,
    /// Packs and forwardings that no archive was seen to need, but a compactor.
    pub(crate) unnamed: u64,
}

/// How many compactions it takes until nothing is left.
const COMPACTIONS: usize = 2;

/// Reads everything, as somebody who opens the repository now.
pub(crate) fn check_archives(world: &World, storage: &MemoryStorage, book: &Book) -> Result<(), String> {
    let repository = open(storage.clone());
    let listing = list_all(repository.objects()).map_err(|error| chain(&error))?;
    let reader = ImageReader::new(repository, 1 << 20);
    let listed: BTreeSet<ArchiveId> =
        listing.archives.iter().map(copal::repository::archives::Archive::id).collect();
    if let Some(lost) = book.kept.difference(&listed).next() {
        return Err(format!("archive {lost} is not listed"));
    }
    if let Some(back) = book.gone.intersection(&listed).next() {
        return Err(format!("archive {back} was deleted and is listed"));
    }
    if let Some(lost) = listing.lost.first() {
        return Err(format!("archive {} is missed: {}", lost.id, lost.reason));
    }
    for archive in &listing.archives {
        let id = archive.id();
        if book.failed.contains(archive.entry.name.as_str()) {
            return Err(format!("archive {id} was not made, and is listed"));
        }
        match is_whole(world, &reader, id) {
            Ok(true) => {}
            Ok(false) => return Err(format!("archive {id} has wrong bytes")),
            Err(reason) if !archive.unconfirmed || book.kept.contains(&id) => {
                return Err(format!("archive {id} is not whole: {reason}"));
            }
            Err(_) => {}
        }
    }
    Ok(())
}

/// Compacts when nobody else is there, and checks that nothing is left that nobody needs.
pub(crate) fn check_quiet(world: &World, storage: &MemoryStorage, book: &Book) -> Result<Left, String> {
    bury(storage);
    let broken = delete_broken(world, storage)?;
    for _ in 0..COMPACTIONS {
        let repository = open(storage.clone());
        let done = compact(&repository, &compact_options(true), &Stop::default(), &Silent);
        let done = done.map_err(|error| format!("a quiet compaction failed: {}", chain(&error)))?;
        if !done.spared.is_empty() {
            return Err(format!("a quiet compaction spared packs: {:?}", done.spared));
        }
        check_archives(world, storage, book)?;
    }
    let unnamed = check_nothing_left(storage)?;
    let intents = storage.list("intents").expect("list").len() as u64;
    let sessions = storage.list("sessions").expect("list").len() as u64;
    Ok(Left { broken, states: stray_states(storage), intents, sessions, unnamed })
}

fn delete_broken(world: &World, storage: &MemoryStorage) -> Result<u64, String> {
    let repository = open(storage.clone());
    let reader = ImageReader::new(repository.clone(), 1 << 20);
    let listing = list_all(repository.objects()).map_err(|error| chain(&error))?;
    let is_broken = |archive: &&copal::repository::archives::Archive| {
        archive.unconfirmed && is_whole(world, &reader, archive.id()) != Ok(true)
    };
    let mut broken = 0;
    for archive in listing.archives.iter().filter(is_broken) {
        let delete = [(archive.id(), Change::Delete)];
        apply(&repository, "delete", &delete).map_err(|error| chain(&error))?;
        broken += 1;
    }
    Ok(broken)
}

/// Returns how many packs and forwardings are not known to be needed.
fn check_nothing_left(storage: &MemoryStorage) -> Result<u64, String> {
    for folder in ["condemned", "mirror/condemned"] {
        if let Some(left) = storage.list(folder).expect("list").first() {
            return Err(format!("{} is left", left.name));
        }
    }
    let repository = open(storage.clone());
    let objects = repository.objects();
    for (id, intent) in intents(objects).map_err(|error| chain(&error))? {
        // Nobody may remove a dead compactor's intent while something is there that it names. Packs are replaced, but what was restored in
        // time stays, and so does a forwarding that is needed again.
        let records = intent.archives.iter().map(|archive| format!("archives/{archive}"));
        if records.chain(intent.moved).all(|name| objects.is_absent(&name)) {
            return Err(format!("intent {id} is left, and what it names is gone"));
        }
    }
    let archives = repository.archives().map_err(|error| chain(&error))?;
    for session in objects.list_ids::<SessionId>("sessions").map_err(|error| chain(&error))? {
        // What a dead create claimed may be found in other packs only, by the index: its archive is readable, and stays unconfirmed.
        if !archives.iter().any(|archive| archive.unconfirmed && archive.is_of(session)) {
            return Err(format!("session {session} is left, and nothing waits for it"));
        }
    }
    let used = used_packs(&repository)?;
    let listed: BTreeSet<PackId> =
        listed_packs(repository.objects()).map_err(|error| chain(&error))?.into_iter().collect();
    // Of a map that lies in two places with other hints in each, compactors may have read the other one; and an archive that is not confirmed
    // may find blobs by the index, in packs that it does not name.
    let unnamed = listed.difference(&used).count() as u64;
    let options = CompactOptions { dry_run: true, ..compact_options(true) };
    let would = compact(&repository, &options, &Stop::default(), &Silent).map_err(|error| chain(&error))?;
    if would.plan.dead() != (0, 0) || would.plan.half_dead().0 > 0 || would.plan.archives > 0 {
        return Err(format!("something is left to compact: {:?}", would.plan));
    }
    let used: BTreeSet<String> = used.iter().map(ToString::to_string).collect();
    let forwarded =
        names(storage, "moved").iter().filter(|name| !used.contains(&part(name, 2))).count() as u64;
    Ok(unnamed + forwarded)
}

/// How many states there are of archives that are gone: they take no part in anything.
fn stray_states(storage: &MemoryStorage) -> u64 {
    let records: BTreeSet<String> = names(storage, "archives").iter().map(|name| part(name, 1)).collect();
    names(storage, "states").iter().filter(|name| !records.contains(&part(name, 1))).count() as u64
}

/// Every pack that an archive names, and those to which what they held was moved.
fn used_packs(repository: &Arc<Repository>) -> Result<BTreeSet<PackId>, String> {
    // Nothing is cached: two copies of a map may hint at different places.
    let maps = Maps::new(repository.clone(), 0);
    let mut used = BTreeSet::new();
    for archive in repository.archives().map_err(|error| chain(&error))? {
        let record = repository.record(archive.id()).map_err(|error| chain(&error))?;
        let packs = packs_of_archive(&maps, &record, repository.config().span_shift);
        used.extend(packs.map_err(|error| error.to_string())?);
    }
    let mut new: Vec<PackId> = used.iter().copied().collect();
    while let Some(pack) = new.pop() {
        for moved in repository.packs().forwardings(pack).iter() {
            let targets = moved.forwarding.blobs.iter().map(|(_, _, at)| at.pack.id);
            new.extend(targets.filter(|target| used.insert(*target)));
        }
    }
    Ok(used)
}

fn names(storage: &MemoryStorage, folder: &str) -> Vec<String> {
    storage.list(folder).expect("list").into_iter().map(|listed| listed.name.to_string()).collect()
}

fn part(name: &str, number: usize) -> String {
    name.split('/').nth(number).unwrap_or_default().to_owned()
}
