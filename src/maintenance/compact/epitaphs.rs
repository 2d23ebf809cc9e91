//! What is left of an archive that is gone: the state that it was deleted or withdrawn by.
//!
//! It stays for a while. A client that knew the archive learns from it that nobody rolled the repository back, and a catalogue that somebody
//! read before the deletion and wrote after it misses nothing.

use std::collections::HashSet;
use std::time::Duration;

use crate::id::ArchiveId;
use crate::maintenance::error::Result;
use crate::repository::archives::{read_state, record_name, state_names};
use crate::repository::{Repository, now};

/// How long: beyond what any command takes, and most machines are switched off.
const KEPT: Duration = Duration::from_secs(90 * 24 * 3600);

/// Removes what was said long ago of archives whose records are gone. One that cannot be read stays.
pub(super) fn expire(repository: &Repository) -> Result<()> {
    let objects = repository.objects();
    let there: HashSet<ArchiveId> = objects.list_ids("archives")?.into_iter().collect();
    let before = now().saturating_sub(i64::try_from(KEPT.as_nanos()).unwrap_or(i64::MAX));
    for name in state_names(objects)? {
        if there.contains(&name.archive) {
            continue;
        }
        let is_old = read_state(objects, &name).is_ok_and(|state| state.time < before);
        if is_old && objects.is_absent(&record_name(name.archive)) {
            objects.delete(&name.to_string())?;
        }
    }
    Ok(())
}
