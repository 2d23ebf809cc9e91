//! What every writer of archives shares: its store, publishing its packs, and finding what it lost.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;

use super::error::{Error, Result};
use super::span::{Counters, Store, Writers};
use crate::chunker::Chunker;
use crate::codec::compress::Compression;
use crate::format::config::ChunkerParams;
use crate::format::pack::PackKind;
use crate::format::record::ArchiveRecord;
use crate::id::PackId;
use crate::image::maps::Maps;
use crate::image::reach;
use crate::repository::index::Index;
use crate::repository::packer::{PackWriter, StoredPack};
use crate::repository::segments::EARLY;
use crate::repository::session::{Unconfirmed, claimable_packs};
use crate::repository::{self, Repository};
use crate::task::workers;

/// How often a writer starts over because compactions took what it claimed.
pub(super) const MAX_PASSES: usize = 5;
/// Packs of maps are closed at so many bytes: nobody reads them from end to end, so that they need not be large.
const MAPS_PACK: u32 = 8 << 20;
/// Cache for walking the new maps after a lost claim, in bytes.
const WALK_CACHE: usize = 8 << 20;

impl<'a> Store<'a> {
    /// A store that has read which packs may be claimed, and the index. The session of a writer is published before.
    pub(super) fn new(
        repository: &'a Repository,
        chunker: &ChunkerParams,
        compression: Compression,
    ) -> Result<Self> {
        let claimable = claimable_packs(repository.objects())?;
        chunker.check().map_err(crate::repository::Error::from)?;
        Ok(Self {
            repository,
            index: Index::load(repository.packs(), &claimable)?,
            claimable,
            chunker: Chunker::new(*chunker, repository.keyring().gear()?),
            compression,
            writers: None,
            claimed: Mutex::default(),
            counters: Counters::default(),
        })
    }

    /// Forgets lost packs before the next pass.
    pub(super) fn bar(&mut self, lost: &HashSet<PackId>) {
        self.index.bar(lost);
        self.claimable.retain(|pack| !lost.contains(pack));
        self.claimed.lock().clear();
    }
}

impl Writers {
    /// Starts writing packs of both kinds.
    pub(super) fn start(repository: &Repository) -> Result<Self> {
        let pack_size = repository.config().pack_size;
        let start = |kind, pack_size| {
            PackWriter::start(kind, pack_size, repository.objects().clone()).map_err(|source| Error::Io {
                action: "start a thread for",
                path: "the packs".into(),
                source,
            })
        };
        Ok(Self {
            data: start(PackKind::Data, pack_size)?.with_lanes(workers()),
            maps: start(PackKind::Maps, pack_size.min(MAPS_PACK))?,
        })
    }

    /// Makes all packs durable, those of both kinds at once.
    fn finish(self) -> [repository::Result<Vec<StoredPack>>; 2] {
        let Self { mut data, mut maps } = self;
        // Maps first, which are soon taken: packs of data are as many as lanes. Why one failed, its end says.
        let _ = [maps.close(), data.close()];
        [data.finish(), maps.finish()]
    }
}

/// Of the claimed packs that are gone, those of which the new archive needs a blob that was not forwarded.
pub(super) fn lost_packs(
    repository: &Arc<Repository>,
    record: &ArchiveRecord,
    unconfirmed: &Unconfirmed,
) -> Result<HashSet<PackId>> {
    if unconfirmed.gone.is_empty() {
        return Ok(HashSet::new());
    }
    let maps = Maps::new(repository.clone(), WALK_CACHE);
    // Where a map is gone with its pack, everything is stored again.
    Ok(reach::lost_packs(repository, &maps, record, unconfirmed).unwrap_or_else(|_| unconfirmed.gone.clone()))
}

/// Ends the writers of a pass that failed; what they hold is stored, so that the next writer need not do it again. Workers only see that
/// storing has ended; why is known to the writers.
pub(super) fn abandon(writers: Option<Writers>, error: Error) -> Error {
    let Some(writers) = writers else { return error };
    let ended = writers.finish();
    match (&error, ended.into_iter().find_map(repository::Result::err)) {
        (Error::Repository(repository::Error::Panicked { .. }), Some(cause)) => cause.into(),
        _ => error,
    }
}

impl Store<'_> {
    /// Publishes where blobs of packs lie that are durable by now, once there are many: nobody needs them in memory then. Of an archive that
    /// is never published, they are what the next create of that source finds.
    pub(super) fn publish_early(&self) -> Result<()> {
        let Some(Writers { data, maps }) = &self.writers else { return Ok(()) };
        // Together: of maps there are few, which else would stay in memory for a tebibyte.
        if data.stored_blobs() + maps.stored_blobs() < EARLY {
            return Ok(());
        }
        let stored: Vec<StoredPack> = data.take_stored().into_iter().chain(maps.take_stored()).collect();
        Ok(self.index.publish_early(stored.iter().flat_map(StoredPack::index_entries).collect())?)
    }
}

/// Makes all packs durable, then publishes where their blobs lie.
pub(super) fn publish_packs(store: &mut Store<'_>) -> Result<()> {
    let Some(writers) = store.writers.take() else { return Ok(()) };
    let [data, maps] = writers.finish();
    let stored: Vec<StoredPack> = data?.into_iter().chain(maps?).collect();
    let mut entries: Vec<_> = stored.iter().flat_map(StoredPack::index_entries).collect();
    entries.extend(store.index.take_unlisted());
    store.index.publish(entries)?;
    store.claimable.extend(store.index.take_own());
    Ok(())
}
