//! Bringing a deleted archive back, as long as all of its data is still there.
//!
//! Publish session → look whether all is there → publish the state → settle → list intents, then packs → only now it is back. Whoever sweeps
//! publishes its intent before it lists states, so one of both sees the other. What cannot be confirmed is retracted.
//!
//! No pack is claimed anew: the archive names them already. So packs that are merely condemned are no obstacle; a sweep spares what an
//! archive needs that it did not see before.

use std::collections::HashSet;
use std::sync::Arc;

use super::error::{Error, Result};
use crate::format::record::ArchiveRecord;
use crate::id::{ArchiveId, PackId};
use crate::image::maps::Maps;
use crate::image::reach;
use crate::repository::archives::{chain, list_all};
use crate::repository::session::{Session, Unconfirmed};
use crate::repository::states::{self, Outcome};
use crate::repository::{self, Repository};
use crate::task::Stop;

/// Cache for walking maps, in bytes.
const WALK_CACHE: usize = 8 << 20;
/// How often an archive is restored again because another client restored it at the same time and might retract that.
const MAX_TRIES: usize = 5;

/// Brings an archive back. When this returns, the archive is shown and whole as far as packs go, and confirmed unless its create died before that; after an error it is deleted as it
/// was before. It may have been restored already by somebody who died before confirming that.
///
/// # Errors
/// [`Error::Reclaimed`], [`Error::NotDeleted`], [`Error::DeletedAgain`], and what the repository says.
pub fn undelete(repository: &Arc<Repository>, archive: ArchiveId, stop: &Stop) -> Result<()> {
    let session = Session::begin(repository, &format!("undelete {archive}"))?;
    session.keep_alive(|| bring_back(repository, &session, archive, stop))?;
    if let Err(error) = session.end() {
        log::warn!(
            "archive {archive} is back, but is shown as unconfirmed for now: the session could not be removed: {}",
            chain(&error)
        );
    }
    states::refresh(repository);
    Ok(())
}

fn bring_back(
    repository: &Arc<Repository>,
    session: &Session<'_>,
    archive: ArchiveId,
    stop: &Stop,
) -> Result<()> {
    let record = deleted_record(repository, archive)?;
    let maps = Maps::new(repository.clone(), WALK_CACHE);
    // What is gone already is said before anything is published.
    let nothing = HashSet::new();
    let found = session.confirm(&nothing)?;
    check_whole(repository, &maps, archive, &record, &found)?;
    let packs = reached(&maps, archive, &record, repository.config().span_shift)?;
    for _ in 0..MAX_TRIES {
        stop.check()?;
        let restored = states::restore(session, archive)?;
        let found = session.confirm(&packs)?;
        if !found.gone.is_empty() || found.names(archive) {
            // Maps that were read before may be gone as well.
            let maps = Maps::new(repository.clone(), WALK_CACHE);
            check_whole(repository, &maps, archive, &record, &found)?;
        }
        // Gone meanwhile, or perhaps.
        record_of(repository, archive)?;
        match states::outcome(session, &restored)? {
            Outcome::Wins => return Ok(()),
            Outcome::Contradicted => return Err(Error::DeletedAgain { archive }),
            Outcome::Outdone => {}
        }
    }
    Err(Error::Contended { archive })
}

/// The record of an archive that is deleted, or of which that is not certain.
fn deleted_record(repository: &Repository, archive: ArchiveId) -> Result<ArchiveRecord> {
    let listing = list_all(repository.objects())?;
    let live = listing.archives.iter().find(|live| live.id() == archive);
    if live.is_some_and(|live| !live.unconfirmed && !live.doubtful) {
        return Err(Error::NotDeleted { archive });
    }
    record_of(repository, archive)
}

fn record_of(repository: &Repository, archive: ArchiveId) -> Result<ArchiveRecord> {
    repository.record(archive).map_err(|error| match error.is_missing() {
        true => reclaimed(archive, "its record"),
        false => error.into(),
    })
}

fn reached(
    maps: &Maps,
    archive: ArchiveId,
    record: &ArchiveRecord,
    span_shift: u8,
) -> Result<HashSet<PackId>> {
    reach::packs_of_archive(maps, record, span_shift).map_err(|error| unreadable(archive, error))
}

fn check_whole(
    repository: &Repository,
    maps: &Maps,
    archive: ArchiveId,
    record: &ArchiveRecord,
    found: &Unconfirmed,
) -> Result<()> {
    if found.names(archive) {
        return Err(reclaimed(archive, "its record is about to be deleted"));
    }
    let lost = reach::lost_packs(repository, maps, record, found);
    match lost.map_err(|error| unreadable(archive, error))?.len() {
        0 => Ok(()),
        1 => Err(reclaimed(archive, "1 pack is gone or about to go")),
        packs => Err(reclaimed(archive, &format!("{packs} packs are gone or about to go"))),
    }
}

fn unreadable(archive: ArchiveId, error: Arc<repository::Error>) -> Error {
    match &*error {
        repository::Error::LostBlob { .. } => reclaimed(archive, &error.to_string()),
        _ => error.into(),
    }
}

fn reclaimed(archive: ArchiveId, reason: &str) -> Error {
    Error::Reclaimed { archive, reason: reason.to_owned() }
}
