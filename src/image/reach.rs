//! What archives reach, and whether it stays: for whoever relies on packs that a compactor may be about to remove.

use std::collections::HashSet;
use std::sync::Arc;

use super::Image;
use super::maps::Maps;
use crate::codec::keys::BlobKind;
use crate::format::location::Location;
use crate::format::record::ArchiveRecord;
use crate::id::{BlobId, PackId};
use crate::repository::session::Unconfirmed;
use crate::repository::{Error, Repository};

/// Calls `visit` with every blob that an archive's members reach, nodes before what is beneath them, and where it is hinted to lie.
///
/// # Errors
/// What keeps a node or map from being read.
pub fn walk_archive(
    maps: &Maps,
    record: &ArchiveRecord,
    span_shift: u8,
    visit: &mut dyn FnMut(BlobKind, BlobId, Location),
) -> Result<(), Arc<Error>> {
    record.members.iter().try_for_each(|member| maps.walk(&Image::of(member, span_shift), visit))
}

/// Every pack in which an archive's blobs are hinted to lie.
///
/// # Errors
/// As [`walk_archive`].
pub fn packs_of_archive(
    maps: &Maps,
    record: &ArchiveRecord,
    span_shift: u8,
) -> Result<HashSet<PackId>, Arc<Error>> {
    let mut packs = HashSet::new();
    walk_archive(maps, record, span_shift, &mut |_, _, at| {
        packs.insert(at.pack.id);
    })?;
    Ok(packs)
}

/// The packs that are gone or will be, and of which an archive needs a blob that is not forwarded to one that stays. None: all of the archive
/// stays.
///
/// # Errors
/// As [`walk_archive`].
pub fn lost_packs(
    repository: &Repository,
    maps: &Maps,
    record: &ArchiveRecord,
    found: &Unconfirmed,
) -> Result<HashSet<PackId>, Arc<Error>> {
    let mut lost = HashSet::new();
    walk_archive(maps, record, repository.config().span_shift, &mut |kind, id, at| {
        let pack = at.pack.id;
        if !lost.contains(&pack) && !found.keeps(repository.packs(), pack, kind, &id) {
            lost.insert(pack);
        }
    })?;
    Ok(lost)
}
