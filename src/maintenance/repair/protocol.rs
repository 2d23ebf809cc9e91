//! What others are about to delete: intents, condemned lists, removal markers.

use std::collections::HashSet;

use crate::id::{ArchiveId, PackId, SessionId, SlotId};
use crate::maintenance::error::Result;
use crate::repository::Repository;
use crate::repository::guards::{condemned_lists, intents};
use crate::repository::liveness::list_sessions;

/// What is named by those who delete.
#[derive(Debug, Default)]
pub(super) struct Doomed {
    /// By intents.
    pub(super) packs: HashSet<PackId>,
    /// By condemned lists.
    pub(super) condemned: HashSet<PackId>,
    pub(super) archives: HashSet<ArchiveId>,
    pub(super) moved: HashSet<String>,
    /// By removal markers.
    pub(super) slots: HashSet<SlotId>,
}

impl Doomed {
    /// Everything that anyone names but the session `own`; with `living`, only what sessions name that may go on.
    pub(super) fn read(repository: &Repository, own: SessionId, living: bool) -> Result<Self> {
        let objects = repository.objects();
        let alive: HashSet<SessionId> = list_sessions(objects)?
            .into_iter()
            .filter(|session| !session.liveness.is_dead())
            .map(|session| session.id)
            .collect();
        let counts = |session: &SessionId| *session != own && (!living || alive.contains(session));
        let mut doomed = Self::default();
        for (_, list) in condemned_lists(objects)?.iter().filter(|(_, list)| counts(&list.session)) {
            doomed.condemned.extend(&list.packs);
        }
        for (_, intent) in intents(objects)?.into_iter().filter(|(_, intent)| counts(&intent.session)) {
            doomed.packs.extend(intent.packs);
            doomed.archives.extend(intent.archives);
            doomed.moved.extend(intent.moved);
        }
        for name in objects.names("key-removals")? {
            let slot = name.as_str().split(['/', '-']).nth(2).and_then(|slot| slot.parse().ok());
            doomed.slots.extend::<Option<SlotId>>(slot);
        }
        Ok(doomed)
    }
}
