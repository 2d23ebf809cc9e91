//! How each archive stands, as one who deletes must see it: whatever cannot be read counts as kept.

use std::collections::HashMap;

use super::archives::{chain, deletion, state_names};
use super::error::Result;
use super::objects::Objects;
use crate::format::state::{ChangeKind, StateName, believable};
use crate::id::ArchiveId;

/// What became of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is there, confirmed or not.
    Kept,
    /// It was deleted, and can be restored while its record is there.
    Deleted,
    /// It never was a finished archive.
    Withdrawn,
}

/// A listed record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stands {
    /// The archive.
    pub archive: ArchiveId,
    /// What became of it.
    pub standing: Standing,
    /// The state that it was deleted or withdrawn by.
    pub decided_by: Option<StateName>,
    /// All states of it that are listed.
    pub states: Vec<StateName>,
}

/// How every archive stands whose record is listed. Records are listed before states: one that is restored meanwhile is kept.
///
/// # Errors
/// [`super::Error::Storage`] if records or states cannot be listed.
pub fn standings(objects: &Objects) -> Result<Vec<Stands>> {
    let archives: Vec<ArchiveId> = objects.list_ids("archives")?;
    let mut states: HashMap<ArchiveId, Vec<StateName>> = HashMap::new();
    for state in state_names(objects)? {
        states.entry(state.archive).or_default().push(state);
    }
    let stands = |archive| {
        let states = states.remove(&archive).unwrap_or_default();
        let (standing, decided_by) = standing(objects, &states);
        Stands { archive, standing, decided_by, states }
    };
    Ok(archives.into_iter().map(stands).collect())
}

fn standing(objects: &Objects, states: &[StateName]) -> (Standing, Option<StateName>) {
    if let Some(withdrawn) = states.iter().find(|state| state.kind == ChangeKind::Withdrawn) {
        return (Standing::Withdrawn, Some(*withdrawn));
    }
    match deletion(objects, &believable(states.to_vec())) {
        Ok(Some((name, state))) if state.deleted == Some(true) => (Standing::Deleted, Some(name)),
        Ok(_) => (Standing::Kept, None),
        Err(error) => {
            log::warn!("{}; its archive is kept", chain(&error));
            (Standing::Kept, None)
        }
    }
}
