//! Opening chunks that are wanted together: those that lie beside each other in a pack are one read of the storage.

use std::sync::Arc;

use super::blocks::{Blocks, Plain};
use super::cache::{Claim, Purpose};
use crate::codec::keys::BlobKind;
use crate::format::FormatError;
use crate::format::location::Location;
use crate::format::span_map::ChunkRef;
use crate::id::BlobId;
use crate::pool::{Pool, Shelf};
use crate::repository::Error;
use crate::repository::packs::{Packs, is_possible};
use crate::task::workers;

/// Sealed bytes that are read at once, at most, unless a single chunk is longer: a batch of chunks that do not compress, with what seals them.
const LONGEST: u32 = (1 << 20) + (64 << 10);

/// The plain bytes of a chunk.
pub(super) type Chunk = Arc<Plain>;

/// The claim to load a chunk into the cache.
pub(super) type ChunkClaim<'a> = Claim<'a, BlobId, Chunk, Error>;

/// A chunk that is to be opened.
pub(super) struct Wanted<T> {
    pub(super) chunk: ChunkRef,
    pub(super) at: Location,
    /// For whoever wants it.
    pub(super) own: T,
}

/// What takes chunks with their plain bytes, if they have any.
type Opened<'a, T> = dyn FnMut(Wanted<T>, Option<&[u8]>) + 'a;

/// Chunks that lie beside each other in a pack, the first of them first.
pub(super) type Run<T> = Vec<Wanted<T>>;

/// Buffers that are kept beyond one per core: more are in use only while many wait for storage, for a chunk or two each.
const EXTRA_BUFFERS: usize = 10;
/// Buffers that are kept at most: all that a server has beside its cache is to fit into 64 MiB.
const MOST_BUFFERS: usize = 24;

/// Puts chunks in the order of packs, and those together that are one read of the storage.
pub(super) fn into_runs<T>(mut wanted: Vec<Wanted<T>>) -> Vec<Run<T>> {
    wanted.sort_unstable_by_key(|wanted| (wanted.at.pack.id, wanted.at.offset));
    let mut runs: Vec<Run<T>> = Vec::new();
    for next in wanted {
        let fits = |run: &&mut Run<T>| {
            let (first, last) = (run[0].at, run[run.len() - 1].at);
            let end = next.at.offset.saturating_add(next.at.sealed_len);
            next.at.pack == first.pack
                && Some(next.at.offset) == last.offset.checked_add(last.sealed_len)
                && end - first.offset <= LONGEST
        };
        match runs.last_mut().filter(fits) {
            Some(run) => run.push(next),
            None => runs.push(vec![next]),
        }
    }
    runs
}

/// Opens chunks, as many threads do at once.
#[derive(Debug)]
pub(super) struct Opener {
    blocks: Arc<Blocks>,
    /// For bytes as they are stored.
    sealed: Shelf,
    /// One chunk each. Nobody has one while waiting for storage, unless a chunk is not where it should be.
    plain: Pool<Vec<u8>>,
}

impl Opener {
    pub(super) fn new() -> Self {
        let kept = (workers() + EXTRA_BUFFERS).min(MOST_BUFFERS);
        let sealed = Shelf::new(kept * (LONGEST as usize).next_multiple_of(Shelf::GRAIN));
        Self { blocks: Arc::default(), sealed, plain: Pool::new(kept) }
    }

    /// Opens chunks in the order of packs. `take` gets each with its plain bytes, or without if they are not whole where its hint says. Runs
    /// are read at once, as far as the storage does that, and opened as they come.
    pub(super) fn open<T>(&self, packs: &Packs, wanted: Vec<Wanted<T>>, take: &mut Opened<'_, T>) {
        let is_possible = |run: &Run<T>| run.iter().all(|wanted| is_possible(BlobKind::Chunk, wanted.at));
        let (runs, impossible): (Vec<_>, Vec<_>) = into_runs(wanted).into_iter().partition(is_possible);
        impossible.into_iter().flatten().for_each(|wanted| take(wanted, None));
        let mut runs = runs.into_iter().peekable();
        while runs.peek().is_some() {
            // Maps may be hostile: what they call short may be stored as very much.
            let mut bytes = 0;
            let mut together: Vec<Run<T>> = Vec::new();
            while let Some(run) =
                runs.next_if(|run| together.is_empty() || bytes + sealed_len(run) <= LONGEST as usize)
            {
                bytes += sealed_len(&run);
                together.push(run);
            }
            self.open_together(packs, together, take);
        }
    }

    fn open_together<T>(&self, packs: &Packs, runs: Vec<Run<T>>, take: &mut Opened<'_, T>) {
        let ranges = runs.iter().map(|run| (run[0].at, self.sealed.take(sealed_len(run)))).collect();
        let mut runs = runs.into_iter();
        packs.read_ranges(BlobKind::Chunk, ranges, &mut |read| {
            let Some(run) = runs.next() else { return };
            match read {
                Some(mut sealed) => {
                    self.plain.with(|plain| {
                        open_run(packs, run, &mut sealed, plain, take);
                        plain.clear();
                        plain.shrink_to(LONGEST as usize);
                    });
                    self.sealed.put(sealed);
                }
                None => run.into_iter().for_each(|wanted| take(wanted, None)),
            }
        });
    }

    /// Loads chunks that were claimed, and lands their claims; `landed` is told of each, with the number that it came with.
    ///
    /// One that is loaded ahead and not found whole where its hint says is given up: who asks for it looks elsewhere, too.
    pub(super) fn load(
        &self,
        packs: &Packs,
        wanted: Vec<Wanted<(usize, ChunkClaim<'_>)>>,
        landed: &mut dyn FnMut(usize, Result<Chunk, Arc<Error>>),
    ) {
        self.open(packs, wanted, &mut |Wanted { chunk, at, own: (slot, claim) }, opened| {
            if opened.is_none() && claim.purpose() == Purpose::Ahead {
                return;
            }
            let loaded = with_plain(packs, &chunk, at, opened, |plain| {
                let kept = self.blocks.keep(plain);
                let bytes = kept.cost();
                (Arc::new(kept), bytes)
            });
            landed(slot, claim.land(loaded));
        });
    }

    /// Opens a chunk that another loads, for who cannot wait for that one.
    pub(super) fn open_alone(
        &self,
        packs: &Packs,
        chunk: &ChunkRef,
        at: Location,
    ) -> Result<Chunk, Arc<Error>> {
        with_plain(packs, chunk, at, None, |plain| Arc::new(self.blocks.keep(plain))).map_err(Arc::new)
    }
}

fn sealed_len<T>(run: &Run<T>) -> usize {
    run.iter().map(|wanted| wanted.at.sealed_len as usize).sum()
}

/// Opens chunks that lie beside each other, in what was read of them.
fn open_run<T>(
    packs: &Packs,
    run: Run<T>,
    mut sealed: &mut [u8],
    plain: &mut Vec<u8>,
    take: &mut Opened<'_, T>,
) {
    for wanted in run {
        let Wanted { chunk, at, .. } = &wanted;
        let (own, behind) = sealed.split_at_mut(at.sealed_len as usize);
        sealed = behind;
        let is_open = packs.open_into(BlobKind::Chunk, &chunk.id, at.pack.epoch, own, plain).is_ok();
        take(wanted, is_open.then_some(&plain[..]));
    }
}

/// Hands on what was opened, or else what is found wherever the chunk may lie; either is as long as its map says.
pub(super) fn with_plain<T>(
    packs: &Packs,
    chunk: &ChunkRef,
    at: Location,
    opened: Option<&[u8]>,
    take: impl FnOnce(&[u8]) -> T,
) -> Result<T, Error> {
    let elsewhere;
    let plain = match opened {
        Some(plain) => plain,
        None => {
            elsewhere = packs.read(BlobKind::Chunk, &chunk.id, at)?;
            &elsewhere
        }
    };
    if plain.len() == chunk.plain_len as usize {
        Ok(take(plain))
    } else {
        Err(FormatError::malformed("chunk", "its length is not what its map says").into())
    }
}
