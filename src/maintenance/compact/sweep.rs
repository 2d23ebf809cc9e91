//! Deleting what nobody needs, after everybody could see that it will go.

use std::collections::{HashMap, HashSet};

use super::{Candidate, Compactor};
use crate::format::envelope::ObjectKind;
use crate::format::msgpack;
use crate::format::pack::PackEntry;
use crate::format::protocol::Intent;
use crate::id::{ArchiveId, Nonce16, PackId};
use crate::maintenance::error::Result;
use crate::repository::archives::record_name;
use crate::repository::guards::{condemned_lists, intent_name, intents};
use crate::repository::now;
use crate::repository::packs::{Moved, pack_name};
use crate::repository::session::listed_packs;
use crate::repository::standing::{Standing, Stands};

/// How often a deletion is repeated while somebody's late copy of an object comes back.
const MAX_DELETIONS: usize = 4;

/// What must not be relied on, or is.
pub(super) struct Ground {
    /// Packs that are listed, and that nobody is about to delete or replace.
    safe: HashSet<PackId>,
    /// Forwardings that somebody is about to delete.
    going: HashSet<String>,
}

impl Compactor<'_> {
    /// Publishes that these packs, archives and forwardings will go, looks once more who needs them, and deletes the others.
    pub(super) fn sweep(
        &mut self,
        packs: &[Candidate],
        archives: &[ArchiveId],
        moved: &[String],
    ) -> Result<()> {
        let intent = Intent {
            session: self.session,
            time: now(),
            packs: packs.iter().map(|pack| pack.id).collect(),
            segments: Vec::new(),
            archives: archives.to_vec(),
            moved: moved.to_vec(),
        };
        let name = intent_name(Nonce16::random());
        let objects = self.repository.objects();
        if let Err(error) = objects.put(ObjectKind::Intent, &name, &msgpack::to_bytes(&intent)) {
            // One of two copies may be there; nothing will be deleted under it.
            let _ = objects.delete(&name);
            return Err(error.into());
        }
        objects.settle();
        let doomed = self.doomed(packs, archives, moved);
        let deleted = doomed.and_then(|doomed| self.delete_all(&doomed));
        // Whatever happened, nothing more is deleted under this intent. It goes when lists show what is gone.
        self.repository.objects().settle();
        self.repository.objects().delete(&name)?;
        deleted
    }

    /// Of what an intent names, all that is still not needed, as object names in the order in which they go.
    fn doomed(
        &mut self,
        packs: &[Candidate],
        archives: &[ArchiveId],
        moved: &[String],
    ) -> Result<Vec<Doomed>> {
        // Intents first: what another compactor deletes before it takes its intent back would otherwise seem to stay.
        let ground = self.ground(packs)?;
        self.live.refresh()?;
        let standings = self.walk_new()?;
        let mut doomed = Vec::new();
        for pack in packs {
            match self.is_needed(pack, &ground) {
                // Another compactor was faster.
                _ if self.is_absent(pack_name(pack.kind, pack.id).as_str()) => {}
                Ok(true) => self.report.spared.push(pack.id),
                Ok(false) => doomed.push(Doomed::Pack(*pack)),
                Err(error) => return Err(error),
            }
        }
        let standings: HashMap<ArchiveId, Stands> =
            standings.into_iter().map(|stands| (stands.archive, stands)).collect();
        for archive in archives {
            match standings.get(archive) {
                Some(stands) if stands.standing != Standing::Kept => {
                    // What tells that it was deleted stays, see `epitaphs`.
                    let others = stands.states.iter().filter(|state| Some(**state) != stands.decided_by);
                    let states = others.map(ToString::to_string).collect();
                    doomed.push(Doomed::Archive(*archive, states));
                }
                // Restored, or already gone.
                _ => {}
            }
        }
        let needless = |name: &&String| retired_pack(name).is_some_and(|pack| !self.live.is_named(pack));
        doomed.extend(moved.iter().filter(needless).map(|name| Doomed::Forwarding(name.clone())));
        Ok(doomed)
    }

    /// Lists once more, now that the intent can be seen.
    pub(super) fn ground(&self, packs: &[Candidate]) -> Result<Ground> {
        let objects = self.repository.objects();
        let mut unsafe_packs: HashSet<PackId> = packs.iter().map(|pack| pack.id).collect();
        unsafe_packs.extend(condemned_lists(objects)?.into_iter().flat_map(|(_, list)| list.packs));
        let mut going = HashSet::new();
        for (_, intent) in intents(objects)? {
            unsafe_packs.extend(intent.packs);
            going.extend(intent.moved);
        }
        let mut safe = listed_packs(objects)?;
        safe.retain(|pack| !unsafe_packs.contains(pack));
        Ok(Ground { safe, going })
    }

    /// Whether an archive needs a blob of this pack that no forwarding leads to a safe place.
    fn is_needed(&self, pack: &Candidate, ground: &Ground) -> Result<bool> {
        let layout = &self.inventory.packs()[pack.number];
        let live: Vec<usize> =
            (0..layout.blobs()).filter(|blob| self.live.is_live(pack.number, *blob)).collect();
        if live.is_empty() {
            return Ok(false);
        }
        let entries = self.repository.packs().entries(pack.kind, pack.id)?;
        let forwarded =
            |blob: &usize| entries.get(*blob).is_some_and(|entry| self.is_forwarded(pack.id, entry, ground));
        Ok(!live.iter().all(forwarded))
    }

    /// Whether a blob can be read without its pack, by a forwarding that stays, in a pack that stays.
    pub(super) fn is_forwarded(&self, pack: PackId, entry: &PackEntry, ground: &Ground) -> bool {
        let stays = |moved: &Moved| !ground.going.contains(&moved.name);
        let safe = |pack: PackId| ground.safe.contains(&pack);
        self.repository.packs().is_forwarded(pack, entry.kind, &entry.id, &stays, &safe)
    }

    fn delete_all(&mut self, doomed: &[Doomed]) -> Result<()> {
        let objects = self.repository.objects().clone();
        let mut names = Vec::new();
        for doomed in doomed {
            self.stop.check()?;
            match doomed {
                Doomed::Pack(pack) => {
                    names.push(pack_name(pack.kind, pack.id).to_string());
                    objects.delete(names.last().expect("pushed above"))?;
                    self.report.packs += 1;
                    self.report.freed += pack.stored;
                }
                Doomed::Archive(archive, states) => {
                    // The record before its states: without them it would stand as never deleted.
                    self.delete_for_good(std::slice::from_ref(&record_name(*archive)))?;
                    for state in states {
                        objects.delete(state)?;
                    }
                    self.report.archives += 1;
                }
                Doomed::Forwarding(name) => {
                    names.push(name.clone());
                    objects.delete(name)?;
                }
            }
        }
        self.delete_for_good(&names)
    }

    /// Deletes until neither copy is there: somebody who heals copies may have put one back.
    fn delete_for_good(&self, names: &[String]) -> Result<()> {
        let objects = self.repository.objects();
        for _ in 0..MAX_DELETIONS {
            let left: Vec<&String> = names.iter().filter(|name| !objects.is_absent(name)).collect();
            if left.is_empty() {
                return Ok(());
            }
            for name in left {
                objects.delete(name)?;
            }
            objects.settle();
        }
        Ok(())
    }

    /// Forwardings of packs that nothing live names any more.
    pub(super) fn needless_forwardings(&self) -> Result<Vec<String>> {
        let names = self.repository.objects().names("moved")?;
        let names = names.iter().map(ToString::to_string);
        Ok(names.filter(|name| retired_pack(name).is_some_and(|pack| !self.live.is_named(pack))).collect())
    }
}

/// Something that goes.
enum Doomed {
    Pack(Candidate),
    Archive(ArchiveId, Vec<String>),
    Forwarding(String),
}

/// Which pack a forwarding's name is about.
fn retired_pack(name: &str) -> Option<PackId> {
    name.split('/').nth(2)?.parse().ok()
}
