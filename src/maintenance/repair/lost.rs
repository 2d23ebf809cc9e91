//! The account of what is lost: listed once it is given up, forwarded and struck off once it was stored again.

use std::collections::{BTreeMap, BTreeSet};

use super::Repaired;
use super::packs::publish_forwarding;
use crate::codec::keys::BlobKind;
use crate::format::envelope::ObjectKind;
use crate::format::limits::MAX_LOST;
use crate::format::location::Location;
use crate::format::msgpack;
use crate::format::protocol::{LostBlob, LostList};
use crate::id::{BlobId, Nonce16, PackId};
use crate::maintenance::check::Examined;
use crate::maintenance::error::Result;
use crate::repository::{Repository, now};

/// Publishes forwardings to what was found again, then lists what is lost; lists that are out of date go last.
pub(super) fn keep_account(repository: &Repository, found: &Examined, repaired: &mut Repaired) -> Result<()> {
    let old: BTreeSet<LostBlob> = found.objects.lost.iter().map(|(_, blob)| *blob).collect();
    let place = |blob: &LostBlob| found.found.get(&(BlobKind::from_tag(blob.kind)?, blob.id)).copied();
    let healed: BTreeSet<LostBlob> = old.iter().filter(|blob| place(blob).is_some()).copied().collect();
    let missed = found.astray.iter().filter_map(|((kind, id), at)| {
        let to = *found.found.get(&(*kind, *id))?;
        Some((LostBlob { kind: *kind as u8, id: *id, pack: at.pack.id, offset: at.offset }, to))
    });
    let found_again: BTreeMap<LostBlob, Location> =
        healed.iter().filter_map(|blob| Some((*blob, place(blob)?))).chain(missed).collect();
    forward(repository, &found_again)?;
    repaired.healed = found_again.len() as u64;

    let lost = found.lost.iter().map(|((kind, id), at)| LostBlob {
        kind: *kind as u8,
        id: *id,
        pack: at.pack.id,
        offset: at.offset,
    });
    let new: BTreeSet<LostBlob> = lost.filter(|blob| !old.contains(blob)).collect();
    repaired.given_up = new.len() as u64;
    if healed.is_empty() {
        return publish(repository, &new.into_iter().collect::<Vec<_>>());
    }
    let kept: Vec<LostBlob> = old.difference(&healed).copied().chain(new).collect();
    publish(repository, &kept)?;
    let lists: BTreeSet<_> = found.objects.lost.iter().map(|(name, _)| name).collect();
    for list in lists {
        repository.objects().delete(list.as_str())?;
    }
    Ok(())
}

fn publish(repository: &Repository, blobs: &[LostBlob]) -> Result<()> {
    for part in blobs.chunks(MAX_LOST) {
        let list = LostList { time: now(), blobs: part.to_vec() };
        let name = format!("lost/{}", Nonce16::random());
        repository.objects().put(ObjectKind::Lost, &name, &msgpack::to_bytes(&list))?;
    }
    Ok(())
}

/// Forwards each blob from the pack where it should be to where it is, but for those that lie in that very pack.
fn forward(repository: &Repository, blobs: &BTreeMap<LostBlob, Location>) -> Result<()> {
    let mut by_pack: BTreeMap<PackId, BTreeMap<(BlobKind, BlobId), Location>> = BTreeMap::new();
    for (blob, to) in blobs.iter().filter(|(blob, to)| blob.pack != to.pack.id) {
        let Some(kind) = BlobKind::from_tag(blob.kind) else { continue };
        by_pack.entry(blob.pack).or_default().insert((kind, blob.id), *to);
    }
    by_pack.into_iter().try_for_each(|(pack, blobs)| publish_forwarding(repository, pack, blobs))
}
