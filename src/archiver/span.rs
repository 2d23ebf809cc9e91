//! One span's way into the repository: zeros → chunks → ids → claims → sealed blobs → span map.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::cutter::Cutter;
use super::earlier::Former;
use super::error::Result;
use super::gather::{Read, SpanData};
use crate::chunker::{Chunker, lay_out};
use crate::codec::compress::Compression;
use crate::codec::keys::{BlobKind, Keyring};
use crate::format::FormatError;
use crate::format::location::Location;
use crate::format::node::{self, Node};
use crate::format::pack::seal_blob;
use crate::format::record::CreateStats;
use crate::format::span_map::{self, ChunkRef, SpanMap};
use crate::id::{BlobId, PackId};
use crate::image::tree_writer::StoredMap;
use crate::repository::index::{Claim, Index};
use crate::repository::packer::{Lane, PackWriter};
use crate::repository::{self, Repository};

/// What all workers of a create share.
#[derive(Debug)]
pub(super) struct Store<'a> {
    pub(super) repository: &'a Repository,
    pub(super) index: Index<'a>,
    pub(super) claimable: HashSet<PackId>,
    pub(super) chunker: Chunker,
    pub(super) compression: Compression,
    /// Where blobs go; `None` in a dry run, which stores nothing.
    pub(super) writers: Option<Writers>,
    pub(super) claimed: Mutex<HashSet<PackId>>,
    pub(super) counters: Counters,
}

/// One writer per kind of pack.
#[derive(Debug)]
pub(super) struct Writers {
    pub(super) data: PackWriter,
    pub(super) maps: PackWriter,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) read: AtomicU64,
    /// Chunks that are where they were in the archive before.
    in_place: AtomicU64,
    new_chunks: AtomicU64,
    new_plain: AtomicU64,
    new_sealed: AtomicU64,
    reused_chunks: AtomicU64,
    resumed_chunks: AtomicU64,
    resumed_plain: AtomicU64,
}

/// Chunks that were there because a create stored them that did not end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Resumed {
    /// How many.
    pub chunks: u64,
    /// Their plain bytes.
    pub plain: u64,
}

impl Counters {
    pub(super) fn resumed(&self) -> Resumed {
        Resumed {
            chunks: self.resumed_chunks.load(Ordering::Relaxed),
            plain: self.resumed_plain.load(Ordering::Relaxed),
        }
    }

    /// How many chunks are where they were in the archive before.
    pub(super) fn in_place(&self) -> u64 {
        self.in_place.load(Ordering::Relaxed)
    }

    /// So many chunks were there already.
    pub(super) fn reused(&self, chunks: u64) {
        self.reused_chunks.fetch_add(chunks, Ordering::Relaxed);
    }

    pub(super) fn stats(&self) -> CreateStats {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CreateStats {
            read: load(&self.read),
            new_chunks: load(&self.new_chunks),
            new_plain: load(&self.new_plain),
            new_sealed: load(&self.new_sealed),
            reused_chunks: load(&self.reused_chunks),
        }
    }
}

/// A span that is not all hole.
#[derive(Debug, Clone, Copy)]
pub(super) struct SpanOutcome {
    pub(super) map: StoredMap,
    pub(super) chunks: u64,
    /// Plain bytes stored anew.
    pub(super) new: u64,
}

/// How a map or node came to lie where it lies.
#[derive(Debug)]
pub(super) enum Kept {
    /// It was stored now, with the hints it was given.
    New,
    /// This session had stored it.
    Own,
    /// It was there, with these hints.
    Elder(Vec<Location>),
}

impl Store<'_> {
    fn keyring(&self) -> &Keyring {
        self.repository.keyring()
    }

    /// Stores a span, which is read meanwhile; `None` if all of it is zero.
    pub(super) fn span(
        &self,
        data: &mut SpanData,
        read: &mut Read<'_>,
        former: &Former,
    ) -> Result<Option<SpanOutcome>> {
        let mut chunks: Vec<ChunkRef> = Vec::new();
        let mut locations = Vec::new();
        let mut numbers: HashMap<BlobId, u32> = HashMap::new();
        let mut cuts = Vec::new();
        let mut new = 0;
        let mut cutter = Cutter::new(&self.chunker, self.keyring(), &former.cuts);
        let lane = self.lane();
        loop {
            let rest = data.more_than(self.chunker.max_len(), read)?;
            if rest.is_empty() {
                break;
            }
            let (len, id) = cutter.cut(rest)?;
            let plain = &rest[..len];
            let len = u32::try_from(plain.len()).expect("chunks are at most 4 MiB");
            let number = match numbers.get(&id) {
                Some(number) => *number,
                None => {
                    let number = u32::try_from(chunks.len()).expect("a span has few chunks");
                    let (location, stored) = match self.claim_at(former.places.get(&id)) {
                        Some(location) => (location, false),
                        None => self.chunk(lane.as_ref(), &id, plain)?,
                    };
                    new += if stored { u64::from(len) } else { 0 };
                    chunks.push(ChunkRef { id, plain_len: len });
                    locations.push(location);
                    numbers.insert(id, number);
                    number
                }
            };
            cuts.push((number, len));
            data.pass(len as usize);
        }
        if cuts.is_empty() {
            return Ok(None);
        }
        self.counters.in_place.fetch_add(cutter.kept() as u64, Ordering::Relaxed);
        let span_len = u32::try_from(data.span_len()).expect("spans are at most 64 MiB");
        let map = SpanMap { span_len, extents: lay_out(data.runs(), &cuts), chunks };
        let (stored, _) = self.map(&map, &locations)?;
        Ok(Some(SpanOutcome { map: stored, chunks: map.chunks.len() as u64, new }))
    }

    /// Where chunks of one span go; `None` in a dry run.
    pub(super) fn lane(&self) -> Option<Lane<'_>> {
        self.writers.as_ref().map(|writers| writers.data.lane())
    }

    /// Claims or stores a chunk, in a lane if it is no dry run; also says whether it was stored.
    pub(super) fn chunk(
        &self,
        lane: Option<&Lane<'_>>,
        id: &BlobId,
        plain: &[u8],
    ) -> Result<(Location, bool)> {
        let pending = match self.index.claim(BlobKind::Chunk, id, &self.claimable) {
            Claim::Exists(location) => {
                self.counters.reused_chunks.fetch_add(1, Ordering::Relaxed);
                if self.index.is_unlisted(location.pack.id) {
                    self.counters.resumed_chunks.fetch_add(1, Ordering::Relaxed);
                    self.counters.resumed_plain.fetch_add(plain.len() as u64, Ordering::Relaxed);
                }
                self.claimed.lock().insert(location.pack.id);
                return Ok((location, false));
            }
            Claim::Mine(pending) => pending,
        };
        let location = self.blob(lane, BlobKind::Chunk, id, plain)?;
        pending.stored(location);
        self.counters.new_chunks.fetch_add(1, Ordering::Relaxed);
        self.counters.new_plain.fetch_add(plain.len() as u64, Ordering::Relaxed);
        Ok((location, true))
    }

    /// Claims a chunk where it is known to lie, if its pack may be claimed.
    fn claim_at(&self, place: Option<&Location>) -> Option<Location> {
        let location = place.filter(|at| self.claimable.contains(&at.pack.id))?;
        self.counters.reused_chunks.fetch_add(1, Ordering::Relaxed);
        self.claimed.lock().insert(location.pack.id);
        Some(*location)
    }

    /// Claims a chunk if it is there.
    pub(super) fn claim(&self, id: &BlobId) -> Option<Location> {
        let Claim::Exists(location) = self.index.claim(BlobKind::Chunk, id, &self.claimable) else {
            return None;
        };
        self.counters.reused_chunks.fetch_add(1, Ordering::Relaxed);
        self.claimed.lock().insert(location.pack.id);
        Some(location)
    }

    /// Claims all of these packs if each may be claimed or is of this pass.
    pub(super) fn claim_packs(&self, packs: &[PackId]) -> bool {
        let mut claimed = self.claimed.lock();
        let may = packs.iter().all(|pack| self.claimable.contains(pack) || claimed.contains(pack));
        if may {
            claimed.extend(packs);
        }
        may
    }

    /// Seals a map or node and appends it to a pack of maps.
    fn map_blob(&self, kind: BlobKind, id: &BlobId, plain: &[u8]) -> Result<Location> {
        let lane = self.writers.as_ref().map(|writers| writers.maps.lane());
        self.blob(lane.as_ref(), kind, id, plain)
    }

    /// Seals a blob in a lane; only for its length in a dry run, where there is none.
    fn blob(&self, lane: Option<&Lane<'_>>, kind: BlobKind, id: &BlobId, plain: &[u8]) -> Result<Location> {
        let location = match lane {
            Some(lane) => {
                let location = lane.seal(kind, id, plain, self.compression)?;
                self.claimed.lock().insert(location.pack.id);
                location
            }
            None => {
                debug_assert!(self.writers.is_none());
                nowhere(seal_blob(self.keyring(), kind, id, plain, self.compression)?.len())
            }
        };
        self.counters.new_sealed.fetch_add(location.sealed_len.into(), Ordering::Relaxed);
        Ok(location)
    }

    /// Claims or stores a span map. A stored one is used again only if all packs it hints at may be claimed.
    pub(super) fn map(&self, map: &SpanMap, locations: &[Location]) -> Result<(StoredMap, Kept)> {
        let content = map.content();
        let id = self.keyring().blob_id(BlobKind::SpanMap, &content)?;
        let reusable = |plain: &[u8]| {
            let (_, hinted) = span_map::from_bytes(plain)?;
            let safe = hinted.iter().all(|at| self.claimable.contains(&at.pack.id));
            Ok(safe.then_some(hinted))
        };
        let plain = || span_map::with_hints(&content, locations);
        let (location, kept) = self.hinted(BlobKind::SpanMap, &id, plain, reusable)?;
        Ok((StoredMap { id, location, data: map.data_bytes() }, kept))
    }

    /// Claims or stores a tree node. A stored one is used again only if its hints are just these places.
    pub(super) fn node(&self, node: &Node, locations: &[Location]) -> Result<(BlobId, Location)> {
        let content = node.content();
        let id = self.keyring().blob_id(BlobKind::Node, &content)?;
        let reusable = |plain: &[u8]| {
            let (_, hinted) = node::from_bytes(plain)?;
            Ok((hinted == locations).then_some(hinted))
        };
        let plain = || node::to_bytes(&content, locations);
        Ok((id, self.hinted(BlobKind::Node, &id, plain, reusable)?.0))
    }

    /// Where a map or node lies: that of this session, that of an earlier one if `reusable` gives its hints, or a new one.
    fn hinted(
        &self,
        kind: BlobKind,
        id: &BlobId,
        plain: impl Fn() -> Vec<u8>,
        reusable: impl Fn(&[u8]) -> std::result::Result<Option<Vec<Location>>, FormatError>,
    ) -> Result<(Location, Kept)> {
        match self.index.claim(kind, id, &self.claimable) {
            Claim::Mine(pending) => {
                let location = self.map_blob(kind, id, &plain())?;
                pending.stored(location);
                Ok((location, Kept::New))
            }
            // What this session stored hints at what this session claimed.
            Claim::Exists(location) if !self.claimable.contains(&location.pack.id) => {
                Ok((location, Kept::Own))
            }
            Claim::Exists(location) => {
                let opened = self.repository.packs().read(kind, id, location);
                match opened.and_then(|plain| Ok(reusable(&plain)?)) {
                    Ok(Some(hinted)) => {
                        let mut claimed = self.claimed.lock();
                        claimed.insert(location.pack.id);
                        claimed.extend(hinted.iter().map(|at| at.pack.id));
                        drop(claimed);
                        return Ok((location, Kept::Elder(hinted)));
                    }
                    Ok(None) => {}
                    Err(error @ repository::Error::Codec(_)) => return Err(error.into()),
                    Err(error) => log::warn!("{}; stored again", repository::archives::chain(&error)),
                }
                let location = self.map_blob(kind, id, &plain())?;
                self.index.replace(id, location);
                Ok((location, Kept::New))
            }
        }
    }
}

/// The place of a blob that a dry run did not store.
fn nowhere(sealed_len: usize) -> Location {
    let pack = crate::format::location::PackRef { id: PackId([0; 16]), mode: 1, epoch: 0 };
    Location { pack, offset: 0, sealed_len: u32::try_from(sealed_len).unwrap_or(u32::MAX) }
}
