//! Loading chunks that were claimed together: those that lie beside each other in a pack are one read of the storage.

use std::cell::RefCell;
use std::sync::Arc;

use super::blocks::{Blocks, Plain};
use super::cache::{Claim, Purpose};
use crate::codec::keys::BlobKind;
use crate::format::FormatError;
use crate::format::location::Location;
use crate::id::BlobId;
use crate::repository::Error;
use crate::repository::packs::{Packs, is_possible};

/// Sealed bytes that are read at once, at most, unless a single chunk is longer: a batch of chunks that do not compress, with what seals them.
const LONGEST: u32 = (1 << 20) + (64 << 10);

/// The plain bytes of a chunk.
pub(super) type Chunk = Arc<Plain>;

/// A chunk that the holder of its claim is to load.
pub(super) struct Wanted<'a> {
    /// For the caller.
    pub(super) slot: usize,
    pub(super) claim: Claim<'a, BlobId, Chunk, Error>,
    pub(super) plain_len: u32,
    pub(super) at: Location,
}

/// Where a thread opens chunks: bytes as they are stored, and one chunk's plain bytes.
#[derive(Default)]
struct Bench {
    sealed: Vec<u8>,
    plain: Vec<u8>,
}

thread_local! {
    static BENCH: RefCell<Bench> = RefCell::default();
}

/// Loads chunks and lands their claims, in the order of packs; `landed` is told of each.
///
/// One that is loaded ahead and not found whole where its hint says is given up: who asks for it looks elsewhere, too.
pub(super) fn load(
    packs: &Packs,
    blocks: &Arc<Blocks>,
    mut wanted: Vec<Wanted<'_>>,
    landed: &mut dyn FnMut(usize, Result<Chunk, Arc<Error>>),
) {
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
        load_run(packs, blocks, run, landed);
    }
}

/// Loads chunks that lie beside each other.
fn load_run(
    packs: &Packs,
    blocks: &Arc<Blocks>,
    run: Vec<Wanted<'_>>,
    landed: &mut dyn FnMut(usize, Result<Chunk, Arc<Error>>),
) {
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
        for Wanted { slot, claim, plain_len, at } in run {
            let is_open = read && {
                let (own, behind) = rest.split_at_mut(at.sealed_len as usize);
                rest = behind;
                packs.open_into(BlobKind::Chunk, &claim.key(), at.pack.epoch, own, plain).is_ok()
            };
            let opened = match claim.purpose() {
                _ if is_open => Ok(()),
                Purpose::Ahead => continue,
                Purpose::Demand => {
                    packs.read(BlobKind::Chunk, &claim.key(), at).map(|elsewhere| *plain = elsewhere)
                }
            };
            let loaded = opened.and_then(|()| {
                if plain.len() != plain_len as usize {
                    return Err(FormatError::malformed("chunk", "its length is not what its map says").into());
                }
                let kept = blocks.keep(plain);
                let bytes = kept.cost();
                Ok((Arc::new(kept), bytes))
            });
            landed(slot, claim.land(loaded));
        }
        // One chunk may be of any length, and there are many threads.
        sealed.shrink_to(LONGEST as usize);
        plain.shrink_to(LONGEST as usize);
    });
}
