//! Clearing away sessions of processes that died, after the archives that they left were confirmed for them.
//!
//! An archive that cannot be confirmed stays unconfirmed, and its session stays: nobody withdraws what another one made, who might live
//! after all.

use std::collections::HashSet;
use std::sync::Arc;

use super::error::Result;
use crate::codec::keys::BlobKind;
use crate::format::location::Location;
use crate::id::{ArchiveId, BlobId, PackId, SessionId};
use crate::image::Image;
use crate::image::maps::Maps;
use crate::repository::archives::{Archive, chain, list_archives};
use crate::repository::liveness::{ListedSession, SILENCE, UNPUBLISHED, list_sessions};
use crate::repository::packs::Moved;
use crate::repository::session::{Session, Unconfirmed};
use crate::repository::{self, Repository};

/// Cache for walking maps, in bytes.
const WALK_CACHE: usize = 8 << 20;

/// What became of dead sessions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cleared {
    /// Sessions that were removed.
    pub sessions: u64,
    /// Archives that they had published and that are now confirmed.
    pub confirmed: Vec<ArchiveId>,
    /// Archives that lack something: they stay unconfirmed.
    pub incomplete: Vec<ArchiveId>,
    /// Files that were never published, which they left.
    pub unpublished: u64,
}

/// Removes files that writers left unpublished when they died. What still has its writer after all is not published then, and the writer
/// says so.
fn clear_unpublished(repository: &Repository, own: &Session<'_>) -> Result<u64> {
    let objects = repository.objects();
    let lives = |listed: &ListedSession| listed.id != own.id() && !listed.liveness.is_dead();
    let age = if list_sessions(objects)?.iter().any(lives) { SILENCE } else { UNPUBLISHED };
    match objects.storage().clear_unpublished(age) {
        Ok(cleared) => Ok(cleared),
        Err(error) => {
            log::warn!("what interrupted writers left behind cannot be removed: {error}");
            Ok(0)
        }
    }
}

/// Confirms what dead sessions published, and removes them; removes what they had not published yet.
///
/// # Errors
/// [`crate::repository::Error`].
pub fn clear_dead(repository: &Arc<Repository>, own: &Session<'_>) -> Result<Cleared> {
    let unpublished = clear_unpublished(repository, own)?;
    let mut cleared = Cleared { unpublished, ..Cleared::default() };
    let sessions = list_sessions(repository.objects())?;
    let dead: HashSet<SessionId> =
        sessions.iter().filter(|listed| listed.liveness.is_dead()).map(|listed| listed.id).collect();
    if dead.is_empty() {
        return Ok(cleared);
    }
    // The archives after the sessions: whatever a dead process published is there by now.
    repository.objects().settle();
    let archives = list_archives(repository.objects())?;
    let ground = own.confirm(&HashSet::new())?;
    let maps = Maps::new(repository.clone(), WALK_CACHE);
    for session in dead {
        let left = archives.iter().filter(|archive| archive.unconfirmed && archive.is_of(session));
        let (mut confirmed, mut incomplete) = (Vec::new(), Vec::new());
        for archive in left {
            match is_complete(repository, &maps, archive, &ground) {
                Ok(true) => confirmed.push(archive.id()),
                Ok(false) => incomplete.push(archive.id()),
                Err(error) => {
                    log::warn!("archive {} cannot be confirmed: {error}", archive.id());
                    incomplete.push(archive.id());
                }
            }
        }
        if incomplete.is_empty() {
            repository.objects().delete(&format!("sessions/{session}"))?;
            cleared.sessions += 1;
        }
        cleared.confirmed.extend(confirmed);
        cleared.incomplete.extend(incomplete);
    }
    Ok(cleared)
}

/// Whether every blob of an archive lies in a pack that stays, or is forwarded to one: what its own writer would have asked.
fn is_complete(
    repository: &Arc<Repository>,
    maps: &Maps,
    archive: &Archive,
    ground: &Unconfirmed,
) -> std::result::Result<bool, String> {
    if ground.names(archive.id()) {
        // Its record will go: it was deleted, and its undelete came too late.
        return Ok(false);
    }
    let record = repository.record(archive.id()).map_err(|error| chain(&error))?;
    let mut gone: HashSet<(PackId, BlobKind, BlobId)> = HashSet::new();
    let mut visit = |kind: BlobKind, id: BlobId, at: Location| {
        if !ground.is_safe(at.pack.id) {
            gone.insert((at.pack.id, kind, id));
        }
    };
    for member in &record.members {
        let image = Image::of(member, repository.config().span_shift);
        match maps.walk(&image, &mut visit) {
            Ok(()) => {}
            // Its pack went before the archive was published.
            Err(error) if matches!(*error, repository::Error::LostBlob { .. }) => return Ok(false),
            Err(error) => return Err(chain(&*error)),
        }
    }
    let stays = |moved: &Moved| ground.stays(moved);
    let safe = |pack: PackId| ground.is_safe(pack);
    let packs = repository.packs();
    Ok(gone.iter().all(|(pack, kind, id)| packs.is_forwarded(*pack, *kind, id, &stays, &safe)))
}
