//! Copying what is still needed out of condemned packs, and saying where it went.

use std::collections::{HashMap, HashSet};

use super::sweep::Ground;
use super::{Candidate, Compactor};
use crate::codec::compress::Compression;
use crate::codec::keys::BlobKind;
use crate::format::envelope::ObjectKind;
use crate::format::location::Location;
use crate::format::pack::{PackKind, seal_blob};
use crate::format::protocol::Forwarding;
use crate::id::{BlobId, Nonce16, PackId};
use crate::maintenance::error::{Error, Result};
use crate::repository::archives::chain;
use crate::repository::guards::intents;
use crate::repository::packer::{PackWriter, StoredPack};
use crate::repository::packs::moved_folder;
use crate::repository::segments::publish;

/// Where blobs of one retired pack went.
type Moves = Vec<(BlobKind, BlobId, Location)>;

impl Compactor<'_> {
    /// Copies the live blobs of condemned packs, verified, and publishes index and forwardings. A blob that cannot be read is not copied, so
    /// that the sweep spares its pack.
    pub(super) fn copy_survivors(&mut self, packs: &[Candidate]) -> Result<()> {
        for kind in [PackKind::Data, PackKind::Maps] {
            let packs: Vec<&Candidate> = packs.iter().filter(|pack| pack.kind == kind).collect();
            if packs.is_empty() {
                continue;
            }
            let (stored, moves) = self.copy(kind, &packs)?;
            let copies = if kind == PackKind::Maps && self.repository.objects().mirrors() { 2 } else { 1 };
            self.report.rewritten += stored.iter().map(|pack| pack.len * copies).sum::<u64>();
            let entries: Vec<_> =
                stored.iter().flat_map(|pack| pack.index_entries().collect::<Vec<_>>()).collect();
            publish(self.repository.objects(), entries)?;
            self.publish_moves(moves)?;
        }
        Ok(())
    }

    /// Publishes forwardings that lead straight to where many steps would: readers follow so many only, and each costs time.
    pub(super) fn shorten_ways(&self) -> Result<()> {
        let mut moves: HashMap<PackId, Moves> = HashMap::new();
        for ((pack, kind, id), at) in self.live.distant() {
            moves.entry(*pack).or_default().push((*kind, *id, *at));
        }
        self.publish_moves(moves)
    }

    /// Stores second copies of forwardings, and first ones, that a compaction did not get to which was killed: this one relies on them.
    pub(super) fn complete_forwardings(&self) -> Result<()> {
        let objects = self.repository.objects();
        let named = || -> Result<HashSet<String>> {
            Ok(intents(objects)?.into_iter().flat_map(|(_, intent)| intent.moved).collect())
        };
        let going = named()?;
        let half = objects.half_stored("moved")?;
        let half: Vec<_> = half.into_iter().filter(|copy| !going.contains(&copy.object)).collect();
        for copy in &half {
            objects.complete(copy, ObjectKind::Forwarding.stored_limit())?;
        }
        if half.is_empty() {
            return Ok(());
        }
        objects.settle();
        let going = named()?;
        half.iter().filter(|copy| going.contains(&copy.object)).try_for_each(|copy| objects.undo(copy))?;
        Ok(())
    }

    fn publish_moves(&self, moves: HashMap<PackId, Moves>) -> Result<()> {
        for (pack, blobs) in moves {
            let forwarding = Forwarding { pack, blobs };
            let name = format!("{}/{}", moved_folder(pack), Nonce16::random());
            self.repository.objects().put(ObjectKind::Forwarding, &name, &forwarding.to_bytes())?;
        }
        Ok(())
    }

    fn copy(
        &self,
        kind: PackKind,
        packs: &[&Candidate],
    ) -> Result<(Vec<StoredPack>, HashMap<PackId, Moves>)> {
        let objects = self.repository.objects();
        let writer = PackWriter::start(kind, self.repository.config().pack_size, objects.clone())
            .map_err(|_| Error::Panicked { what: "the thread that stores packs" })?;
        let mut moves: HashMap<PackId, Moves> = HashMap::new();
        let ground = self.ground(&packs.iter().map(|pack| **pack).collect::<Vec<_>>())?;
        for pack in packs {
            self.stop.check()?;
            match self.copy_pack(pack, &ground, &writer) {
                Ok(moved) => drop(moves.insert(pack.id, moved)),
                // Why storing ended is known to the writer.
                Err(Error::Repository(crate::repository::Error::Panicked { .. })) => break,
                Err(error) => return Err(error),
            }
        }
        Ok((writer.finish()?, moves))
    }

    /// What a compaction before this one forwarded to a pack that stays is not copied again.
    fn copy_pack(&self, pack: &Candidate, ground: &Ground, writer: &PackWriter) -> Result<Moves> {
        let mut moved = Moves::new();
        let mut seen = HashSet::new();
        let repository = self.repository;
        let (from, entries) = match repository.packs().located_entries(pack.kind, pack.id) {
            // Another compactor was faster.
            Err(error) if error.is_missing() => return Ok(moved),
            read => read?,
        };
        let current = repository.keyring().current_epoch();
        let was_moved = !repository.packs().forwardings(pack.id).is_empty();
        for (number, entry) in entries.iter().enumerate() {
            // A pack may hold two copies of a blob; its forwarding tells one place for both.
            let needed = self.live.is_live(pack.number, number) && !seen.contains(&(entry.kind, entry.id));
            if !needed || (was_moved && self.is_forwarded(pack.id, entry, ground)) {
                continue;
            }
            match repository.packs().sealed(entry.kind, &entry.id, entry.location(from)) {
                Ok((mut sealed, plain)) => {
                    if from.epoch != current {
                        // A pack has one epoch, that of all its blobs.
                        sealed = seal_blob(
                            repository.keyring(),
                            entry.kind,
                            &entry.id,
                            &plain,
                            Compression::default(),
                        )
                        .map_err(crate::repository::Error::from)?;
                    }
                    let to = writer.add(entry.kind, &entry.id, plain.len(), &sealed)?;
                    seen.insert((entry.kind, entry.id));
                    moved.push((entry.kind, entry.id, to));
                    self.monitor.advanced(sealed.len() as u64, 0);
                }
                Err(error) => log::error!(
                    "{} {} of pack {} cannot be read ({}); its pack stays. Run 'copal check --repair'",
                    crate::repository::packs::kind_name(entry.kind),
                    entry.id,
                    pack.id,
                    chain(&error)
                ),
            }
        }
        Ok(moved)
    }
}
