//! What several hands at once have been told of archives: done, deleted, or nobody knows.

use std::collections::{BTreeMap, BTreeSet};

use copal::id::ArchiveId;
use parking_lot::Mutex;

use super::dice::Dice;

/// What is sure of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    /// Reported as done, and nobody has touched it since.
    Done,
    /// A hand works on it.
    Busy,
    /// Reported as deleted.
    Deleted,
    /// A hand was killed over it.
    Unsure,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    known: Known,
    /// Counts what was done to it.
    changes: u64,
}

/// All archives that were ever reported. Of those that a pruner may take nothing is kept here.
#[derive(Debug, Default)]
pub(crate) struct Ledger(Mutex<BTreeMap<ArchiveId, Entry>>);

impl Ledger {
    pub(crate) fn set(&self, archive: ArchiveId, known: Known) {
        let mut entries = self.0.lock();
        let entry = entries.entry(archive).or_insert(Entry { known, changes: 0 });
        *entry = Entry { known, changes: entry.changes + 1 };
    }

    /// Takes an archive of which one of these is known, so that no other hand does.
    pub(crate) fn take(&self, known: &[Known], dice: &mut Dice) -> Option<ArchiveId> {
        let mut entries = self.0.lock();
        let fit: Vec<ArchiveId> =
            entries.iter().filter(|(_, entry)| known.contains(&entry.known)).map(|(id, _)| *id).collect();
        let id = dice.pick(&fit).copied()?;
        let entry = entries.get_mut(&id).expect("it was just found");
        *entry = Entry { known: Known::Busy, changes: entry.changes + 1 };
        Some(id)
    }

    /// An archive that is there, and a mark that changes with whatever is done to it.
    pub(crate) fn look(&self, dice: &mut Dice) -> Option<(ArchiveId, u64)> {
        let entries = self.0.lock();
        let done: Vec<_> = entries.iter().filter(|(_, entry)| entry.known == Known::Done).collect();
        dice.pick(&done).map(|(id, entry)| (**id, entry.changes))
    }

    /// Whether nothing was done to an archive since.
    pub(crate) fn is_unchanged(&self, archive: ArchiveId, mark: u64) -> bool {
        self.0.lock().get(&archive).is_some_and(|entry| entry.changes == mark)
    }

    pub(crate) fn all(&self, known: Known) -> BTreeSet<ArchiveId> {
        let entries = self.0.lock();
        entries.iter().filter(|(_, entry)| entry.known == known).map(|(id, _)| *id).collect()
    }
}
