//! What is left of an archive that is gone: the state that it was deleted or withdrawn by.
//!
//! It stays for a while. A client that knew the archive learns from it that nobody rolled the repository back, and a catalogue that somebody
//! read before the deletion and wrote after it misses nothing. However long that takes, it stays as long as the catalogue does not know of it: an archive that
//! is described there, and whose record is gone though nothing tells why, is missed.

use std::collections::HashSet;
use std::time::Duration;

use crate::format::state::StateName;
use crate::id::ArchiveId;
use crate::maintenance::error::Result;
use crate::repository::archives::{read_state, record_name, state_names};
use crate::repository::catalogue::described_as_living;
use crate::repository::{Repository, now};

/// How long: beyond what any command takes, and most machines are switched off.
const KEPT: Duration = Duration::from_secs(90 * 24 * 3600);

/// Removes what was said long ago of archives whose records are gone. One that cannot be read stays, and so does that of which the catalogue does not know before:
/// it learns of it as this compaction ends.
pub(super) fn expire(repository: &Repository) -> Result<()> {
    let objects = repository.objects();
    let there: HashSet<ArchiveId> = objects.list_ids("archives")?.into_iter().collect();
    let before = now().saturating_sub(i64::try_from(KEPT.as_nanos()).unwrap_or(i64::MAX));
    let is_old = |name: &StateName| read_state(objects, name).is_ok_and(|state| state.time < before);
    let mut old = state_names(objects)?;
    old.retain(|name| {
        !there.contains(&name.archive) && is_old(name) && objects.is_absent(&record_name(name.archive))
    });
    if old.is_empty() {
        return Ok(());
    }
    let Some(living) = described_as_living(objects)? else { return Ok(()) };
    old.retain(|name| !living.contains(&name.archive));
    old.iter().try_for_each(|name| Ok(objects.delete(&name.to_string())?))
}
