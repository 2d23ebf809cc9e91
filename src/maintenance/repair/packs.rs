//! Bad packs: their good blobs go to new packs, their bytes to `quarantine/`.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::Repaired;
use super::protocol::Doomed;
use crate::codec::compress::Compression;
use crate::codec::keys::BlobKind;
use crate::format::envelope::ObjectKind;
use crate::format::index_segment::IndexEntry;
use crate::format::limits::{MAX_PACK, MAX_PACK_ENTRIES};
use crate::format::location::Location;
use crate::format::msgpack;
use crate::format::pack::{self, PackKind};
use crate::format::protocol::{Condemned, Forwarding, Intent};
use crate::id::{BlobId, Nonce16, PackId, SessionId};
use crate::maintenance::check::Examined;
use crate::maintenance::check::packs::copies;
use crate::maintenance::error::{Error, Result};
use crate::repository::archives::chain;
use crate::repository::guards::{condemned_lists, condemned_name, intent_name, intents};
use crate::repository::objects::name;
use crate::repository::packer::PackWriter;
use crate::repository::packs::{moved_folder, pack_name};
use crate::repository::segments::{self, publish};
use crate::repository::session::listed_packs;
use crate::repository::{self, Repository, now};
use crate::storage::{Name, Storage};

/// A pack that is not whole in any copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct BadPack {
    pub(super) kind: PackKind,
    pub(super) id: PackId,
}

/// Packs whose lists cannot be read, and those with blobs that no copy has.
pub(super) fn bad_packs(found: &Examined, mixed: &BTreeSet<PackId>) -> Vec<BadPack> {
    let inventory = &found.packs.inventory;
    let unreadable = inventory.unreadable().iter().map(|pack| BadPack { kind: pack.kind, id: pack.id });
    let holding = found.bad.iter().map(|blob| {
        let pack = &inventory.packs()[blob.pack];
        BadPack { kind: pack.kind, id: pack.id }
    });
    let mixed = mixed.iter().map(|id| BadPack { kind: PackKind::Maps, id: *id });
    unreadable.chain(holding).chain(mixed).collect::<BTreeSet<_>>().into_iter().collect()
}

/// What the index, forwardings and archives say of packs whose own lists cannot be read.
#[derive(Debug, Default)]
pub(super) struct Candidates(HashMap<PackId, Vec<IndexEntry>>);

impl Candidates {
    /// Reads the index and the forwardings, one at a time, and keeps what is said of unreadable packs.
    pub(super) fn collect(repository: &Repository, found: &Examined) -> Result<Self> {
        let unreadable: HashSet<PackId> =
            found.packs.inventory.unreadable().iter().map(|pack| pack.id).collect();
        let mut all: HashMap<PackId, Vec<IndexEntry>> = HashMap::new();
        if unreadable.is_empty() {
            return Ok(Self(all));
        }
        let objects = repository.objects();
        let mut keep = |entry: IndexEntry| {
            if unreadable.contains(&entry.location.pack.id) {
                all.entry(entry.location.pack.id).or_default().push(entry);
            }
        };
        segments::each(objects, |_, segment| -> repository::Result<()> {
            segment.into_iter().flat_map(|segment| segment.entries).for_each(&mut keep);
            Ok(())
        })?;
        // How long these are shows when they are opened.
        let mut hinted = |kind, id, location| keep(IndexEntry { kind, id, location, plain_len: 0 });
        for ((kind, id), at) in &found.astray {
            hinted(*kind, *id, *at);
        }
        for name in objects.names("moved")? {
            let Ok(plain) = objects.get(ObjectKind::Forwarding, name.as_str()) else { continue };
            let Ok(forwarding) = Forwarding::from_bytes(&plain) else { continue };
            forwarding.blobs.into_iter().for_each(|(kind, id, at)| hinted(kind, id, at));
        }
        for entries in all.values_mut() {
            entries.sort_by_key(|entry| (entry.location.offset, std::cmp::Reverse(entry.plain_len)));
            entries.dedup_by_key(|entry| (entry.location.offset, entry.id));
        }
        Ok(Self(all))
    }

    /// What is said of a pack by the index.
    pub(super) fn indexed(&self, pack: PackId) -> Vec<IndexEntry> {
        let entries = self.0.get(&pack).map(Vec::as_slice).unwrap_or_default();
        entries.iter().filter(|entry| entry.plain_len > 0).copied().collect()
    }
}

/// Takes bad packs away, in the order of a sweep: condemned list, settle, survivors, index, forwardings, quarantine, intent, settle, a look at
/// what others do, deletion. Returns the packs that are gone from their places.
pub(super) fn quarantine(
    repository: &Repository,
    session: SessionId,
    bad: &[BadPack],
    candidates: &Candidates,
    repaired: &mut Repaired,
) -> Result<Vec<BadPack>> {
    let objects = repository.objects();
    // Others who live and take them away do so without us; what the dead left behind is condemned anew.
    let others = Doomed::read(repository, session, true)?;
    let theirs = |pack: &BadPack| others.packs.contains(&pack.id) || others.condemned.contains(&pack.id);
    let (theirs, bad): (Vec<BadPack>, Vec<BadPack>) = bad.iter().partition(|pack| theirs(pack));
    if !theirs.is_empty() {
        repaired.refused.push(format!(
            "{} bad packs are left to another command that runs and is about to take them away; repair again when it has ended",
            theirs.len()
        ));
    }
    if bad.is_empty() {
        return Ok(Vec::new());
    }
    let packs: Vec<PackId> = bad.iter().map(|pack| pack.id).collect();
    let condemned = condemned_name(Nonce16::random());
    let list = Condemned { session, time: now(), packs: packs.clone() };
    objects.put(ObjectKind::Condemned, &condemned, &msgpack::to_bytes(&list))?;
    objects.settle();
    let mut targets: HashSet<PackId> = HashSet::new();
    let mut unmovable: HashSet<PackId> = HashSet::new();
    for pack in &bad {
        targets.extend(salvage(repository, *pack, candidates, repaired)?);
    }
    for pack in &bad {
        if let Err(error) = keep_bytes(repository, *pack) {
            if error.is_full() {
                return Err(error.into());
            }
            let id = pack.id;
            unmovable.insert(id);
            repaired.refused.push(format!("pack {id} stays where it is: {}", chain(&error)));
        }
    }
    let intent = intent_name(Nonce16::random());
    let intended = Intent { session, time: now(), packs, segments: vec![], archives: vec![], moved: vec![] };
    objects.put(ObjectKind::Intent, &intent, &msgpack::to_bytes(&intended))?;
    objects.settle();
    // In this order: what another compactor deletes before it takes its intent back would otherwise seem to stay.
    let others = Doomed::read(repository, session, false)?;
    let listed = listed_packs(objects)?;
    let unsafe_target = |pack: &PackId| {
        !listed.contains(pack) || others.packs.contains(pack) || others.condemned.contains(pack)
    };
    let mut taken = Vec::new();
    if targets.iter().any(unsafe_target) {
        let refused = "bad packs stay where they are: a compaction took what was saved of them; repair again";
        repaired.refused.push(refused.into());
    } else {
        for pack in bad.into_iter().filter(|pack| !unmovable.contains(&pack.id)) {
            let name = pack_name(pack.kind, pack.id);
            let len = copies(repository, pack.kind, pack.id)
                .iter()
                .find_map(|copy| objects.storage().len(copy).ok());
            objects.delete(name.as_str())?;
            repaired.quarantined.add(len.unwrap_or(0));
            taken.push(pack);
        }
    }
    // They go when everybody's lists show what is gone.
    objects.settle();
    objects.delete(&intent)?;
    objects.delete(&condemned)?;
    retire_leftovers(repository, session)?;
    Ok(taken)
}

/// Removes lists of the dead of which nothing is left.
fn retire_leftovers(repository: &Repository, session: SessionId) -> Result<()> {
    let objects = repository.objects();
    let listed = listed_packs(objects)?;
    objects.settle();
    let living = Doomed::read(repository, session, true)?;
    let gone = |packs: &[PackId]| {
        !packs.is_empty()
            && packs.iter().all(|pack| !listed.contains(pack) && !living.condemned.contains(pack))
    };
    for (id, list) in condemned_lists(objects)? {
        if gone(&list.packs) {
            objects.delete(&condemned_name(id))?;
        }
    }
    for (id, intent) in intents(objects)? {
        let only_packs = intent.segments.is_empty() && intent.archives.is_empty() && intent.moved.is_empty();
        if only_packs && gone(&intent.packs) && !intent.packs.iter().any(|pack| living.packs.contains(pack)) {
            objects.delete(&intent_name(id))?;
        }
    }
    Ok(())
}

/// Copies the good blobs of a pack to new packs, indexed and forwarded; returns those packs.
fn salvage(
    repository: &Repository,
    bad: BadPack,
    candidates: &Candidates,
    repaired: &mut Repaired,
) -> Result<Vec<PackId>> {
    let objects = repository.objects();
    let names = copies(repository, bad.kind, bad.id);
    let lists = names.iter().filter_map(|name| repository.packs().entries_in(bad.kind, bad.id, name).ok());
    let mut entries: Vec<(BlobKind, BlobId, Location)> = lists
        .flat_map(|(pack, list)| list.into_iter().map(move |e| (e.kind, e.id, e.location(pack))))
        .collect();
    let said = candidates.0.get(&bad.id).map(Vec::as_slice).unwrap_or_default();
    entries.extend(said.iter().map(|entry| (entry.kind, entry.id, entry.location)));
    entries.retain(|(kind, _, _)| PackKind::of(*kind) == bad.kind);
    entries.sort_by_key(|(kind, id, at)| (at.offset, *kind, *id));
    entries.dedup();

    let writer = PackWriter::start(bad.kind, repository.config().pack_size, objects.clone())
        .map_err(|_| Error::Panicked { what: "the start of a thread" })?;
    let mut moved: BTreeMap<(BlobKind, BlobId), Location> = BTreeMap::new();
    for (kind, id, at) in entries {
        if moved.contains_key(&(kind, id)) {
            continue;
        }
        let Ok((mut sealed, plain)) = repository.packs().sealed(kind, &id, at) else { continue };
        let keyring = repository.keyring();
        // New packs are of the current epoch as a whole.
        if at.pack.epoch != keyring.current_epoch() {
            let anew = pack::seal_blob(keyring, kind, &id, &plain, Compression::default());
            sealed = anew.map_err(repository::Error::from)?;
        }
        let to = writer.add(kind, &id, plain.len(), &sealed)?;
        repaired.salvaged.add(sealed.len() as u64);
        moved.insert((kind, id), to);
    }
    let stored = writer.finish()?;
    let index: Vec<IndexEntry> =
        stored.iter().flat_map(|pack| pack.index_entries().collect::<Vec<_>>()).collect();
    publish(objects, index)?;
    publish_forwarding(repository, bad.id, moved)?;
    Ok(stored.iter().map(|pack| pack.pack.id).collect())
}

/// Puts a bad pack's bytes where nobody looks for blobs.
fn keep_bytes(repository: &Repository, bad: BadPack) -> repository::Result<()> {
    keep_copies(repository, &copies(repository, bad.kind, bad.id))
}

/// Puts the bytes of each of these that is there into quarantine.
pub(super) fn keep_copies(repository: &Repository, copies: &[Name]) -> repository::Result<()> {
    let objects = repository.objects();
    for copy in copies {
        // Damage may have made it longer than any pack is.
        let limit = MAX_PACK + MAX_PACK / 2;
        let bytes = match objects.storage().read(copy, limit) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            bytes => bytes.map_err(objects.failed("read", copy.as_str()))?,
        };
        let kept = name(&format!("quarantine/{copy}"));
        objects.storage().put(&kept, &[&bytes]).map_err(objects.failed("write", kept.as_str()))?;
    }
    Ok(())
}

/// Says where blobs of a pack went, if any did.
pub(super) fn publish_forwarding(
    repository: &Repository,
    pack: PackId,
    blobs: BTreeMap<(BlobKind, BlobId), Location>,
) -> Result<()> {
    let blobs: Vec<_> = blobs.into_iter().map(|((kind, id), to)| (kind, id, to)).collect();
    for part in blobs.chunks(MAX_PACK_ENTRIES as usize) {
        let forwarding = Forwarding { pack, blobs: part.to_vec() };
        let name = format!("{}/{}", moved_folder(pack), Nonce16::random());
        repository.objects().put(ObjectKind::Forwarding, &name, &forwarding.to_bytes())?;
    }
    Ok(())
}
