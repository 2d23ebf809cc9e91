//! Opening chunks that are wanted together: those that lie beside each other in a pack are one read of the storage.

use std::cell::RefCell;
use std::sync::Arc;

use super::blocks::{Blocks, Plain};
use super::cache::{Claim, Purpose};
use crate::codec::keys::BlobKind;
use crate::format::FormatError;
use crate::format::location::Location;
use crate::format::span_map::ChunkRef;
use crate::id::BlobId;
use crate::repository::Error;
use crate::repository::packs::{Packs, is_possible};

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

/// Where a thread opens chunks: bytes as they are stored, and one chunk's plain bytes.
#[derive(Default)]
struct Bench {
    sealed: Vec<u8>,
    plain: Vec<u8>,
}

thread_local! {
    static BENCH: RefCell<Bench> = RefCell::default();
}

/// Opens chunks in the order of packs. `take` gets each with its plain bytes, or without if they are not whole where its hint says; it must not
/// open chunks itself.
pub(super) fn open<T>(packs: &Packs, mut wanted: Vec<Wanted<T>>, take: &mut Opened<'_, T>) {
    wanted.sort_unstable_by_key(|wanted| (wanted.at.pack.id, wanted.at.offset));
    let mut wanted = wanted.into_iter().peekable();
    while let Some(first) = wanted.next() {
        let (pack, start) = (first.at.pack, first.at.offset);
        let mut end = start.saturating_add(first.at.sealed_len);
        let mut run = vec![first];
        while let Some(next) = wanted.next_if(|next| {
            let next_end = next.at.offset.saturating_add(next.at.sealed_len);
            next.at.pack == pack && next.at.offset == end && next_end - start <= LONGEST
        }) {
            end = next.at.offset.saturating_add(next.at.sealed_len);
            run.push(next);
        }
        open_run(packs, run, take);
    }
}

/// Opens chunks that lie beside each other.
fn open_run<T>(packs: &Packs, run: Vec<Wanted<T>>, take: &mut Opened<'_, T>) {
    BENCH.with_borrow_mut(|Bench { sealed, plain }| {
        let start = run[0].at;
        let possible = run.iter().all(|wanted| is_possible(BlobKind::Chunk, wanted.at));
        let len: usize = run.iter().map(|wanted| wanted.at.sealed_len as usize).sum();
        let mut buffer = std::mem::take(sealed);
        let read = possible && {
            buffer.resize(len, 0);
            let read = packs.read_range(BlobKind::Chunk, start, buffer);
            read.map(|bytes| *sealed = bytes).is_ok()
        };
        let mut rest = &mut sealed[..];
        for wanted in run {
            let Wanted { chunk, at, .. } = &wanted;
            let is_open = read && {
                let (own, behind) = rest.split_at_mut(at.sealed_len as usize);
                rest = behind;
                packs.open_into(BlobKind::Chunk, &chunk.id, at.pack.epoch, own, plain).is_ok()
            };
            take(wanted, is_open.then_some(&plain[..]));
        }
        // One chunk may be of any length, and there are many threads.
        sealed.shrink_to(LONGEST as usize);
        plain.shrink_to(LONGEST as usize);
    });
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

/// Loads chunks that were claimed, and lands their claims; `landed` is told of each, with the number that it came with.
///
/// One that is loaded ahead and not found whole where its hint says is given up: who asks for it looks elsewhere, too.
pub(super) fn load(
    packs: &Packs,
    blocks: &Arc<Blocks>,
    wanted: Vec<Wanted<(usize, ChunkClaim<'_>)>>,
    landed: &mut dyn FnMut(usize, Result<Chunk, Arc<Error>>),
) {
    open(packs, wanted, &mut |Wanted { chunk, at, own: (slot, claim) }, opened| {
        if opened.is_none() && claim.purpose() == Purpose::Ahead {
            return;
        }
        let loaded = with_plain(packs, &chunk, at, opened, |plain| {
            let kept = blocks.keep(plain);
            let bytes = kept.cost();
            (Arc::new(kept), bytes)
        });
        landed(slot, claim.land(loaded));
    });
}
