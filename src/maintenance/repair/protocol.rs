//! What others are about to delete: intents, condemned lists, removal markers.

use std::collections::HashSet;

use crate::format::envelope::ObjectKind;
use crate::format::msgpack;
use crate::format::protocol::{Condemned, Intent};
use crate::id::{ArchiveId, Nonce16, PackId, SessionId, SlotId};
use crate::maintenance::error::Result;
use crate::repository::Repository;
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
        for (_, list) in condemned_lists(repository)?.iter().filter(|(_, list)| counts(&list.session)) {
            doomed.condemned.extend(&list.packs);
        }
        for (_, intent) in intents(repository)?.into_iter().filter(|(_, intent)| counts(&intent.session)) {
            doomed.packs.extend(intent.packs);
            doomed.archives.extend(intent.archives);
            doomed.moved.extend(intent.moved);
        }
        for listed in objects.list("key-removals")? {
            let slot = listed.name.as_str().split(['/', '-']).nth(2).and_then(|slot| slot.parse().ok());
            doomed.slots.extend::<Option<SlotId>>(slot);
        }
        Ok(doomed)
    }
}

/// All intents and their names. One that cannot be read is an error: nobody knows what it names.
pub(super) fn intents(repository: &Repository) -> Result<Vec<(String, Intent)>> {
    let objects = repository.objects();
    let mut found = Vec::new();
    for id in objects.list_ids::<Nonce16>("intents")? {
        let name = format!("intents/{id}");
        match objects.get(ObjectKind::Intent, &name) {
            Err(error) if error.is_missing() => {}
            plain => {
                let intent = msgpack::from_bytes("intent", &plain?);
                found.push((name, intent.map_err(crate::repository::Error::from)?));
            }
        }
    }
    Ok(found)
}

/// All condemned lists and their names; errors as for [`intents`].
pub(super) fn condemned_lists(repository: &Repository) -> Result<Vec<(String, Condemned)>> {
    let objects = repository.objects();
    let mut found = Vec::new();
    for id in objects.list_ids::<Nonce16>("condemned")? {
        let name = format!("condemned/{id}");
        match objects.get(ObjectKind::Condemned, &name) {
            Err(error) if error.is_missing() => {}
            plain => {
                let list = msgpack::from_bytes("condemned list", &plain?);
                found.push((name, list.map_err(crate::repository::Error::from)?));
            }
        }
    }
    Ok(found)
}
