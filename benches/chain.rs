//! The ceiling of creating: `cargo bench --bench chain -- IMAGE`.
//!
//! Holds the first data of an image in memory, zeros taken out, in spans of the default length, and does with them what a create does, without
//! a repository: on one core, and on all of them, each thread with spans of its own. Prints one JSON object, figures in MB/s (10^6 plain bytes):
//!
//! | key | what is done |
//! |---|---|
//! | `read` | large reads of the same data from the page cache: what reading alone allows |
//! | `zeros` | finding that memory is zero |
//! | `hash` | cutting into chunks and naming them: the ceiling for an image that is there already |
//! | `seal` | as well compressing and sealing every chunk, also one met before: a create does less where an image repeats itself |
//! | `store` | the same, but for chunks met before: the ceiling for a first create |
//!
//! and beside them `cores`, `plain` bytes, `chunks`, and how many of these are `distinct`.

mod common;

use std::collections::HashSet;
use std::fs::File;
use std::hint::black_box;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use copal::chunker::{Chunker, data_runs};
use copal::codec::compress::Compression;
use copal::codec::keys::{BlobKind, FIRST_EPOCH, KeySet, Keyring};
use copal::extent::HOLE_UNIT;
use copal::format::pack::seal_blob;
use copal::id::{BlobId, RepositoryId};
use copal::repository::unlock::InitOptions;
use copal::source::{Source, SourceSpec};
use parking_lot::Mutex;

use common::{each, median};

/// Data held in memory at most.
const SAMPLE: u64 = 1 << 30;
/// Zeros looked at: more than any cache of a processor holds.
const ZEROS: usize = 1 << 30;
/// Each measurement is repeated, and the median taken.
const ROUNDS: usize = 3;

type Failure = Box<dyn std::error::Error>;

/// The data of one span: where it lies in the image, and what it is.
struct Piece {
    span: u64,
    parts: Vec<Range<u64>>,
    data: Vec<u8>,
}

fn main() -> Result<(), Failure> {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let [path] = &words[..] else { return Err("usage: chain IMAGE".into()) };
    let cores = std::thread::available_parallelism()?.get();
    let defaults = InitOptions::default();
    let pieces = load(path.as_ref(), defaults.span_shift)?;
    let plain: usize = pieces.iter().map(|piece| piece.data.len()).sum();
    if plain == 0 {
        return Err(format!("{path} holds no data").into());
    }
    let repository = RepositoryId::random();
    let keyring = Keyring::new(repository, &KeySet::generate(), FIRST_EPOCH);
    let chain = Chain { chunker: Chunker::new(defaults.chunker, keyring.gear()?), keyring };

    let read = reading(path, &pieces, cores)?;
    let zeros = finding_zeros(1 << defaults.span_shift);
    let [hash, seal, store] = [Work::Hash, Work::Seal, Work::Store].map(|work| {
        [1, cores].map(|threads| plain as f64 / 1e6 / median(ROUNDS, || chain.run(work, &pieces, threads)))
    });
    let met = chain.run(Work::Hash, &pieces, cores);
    let both = |[one, all]: [f64; 2]| format!("{{\"one_core\": {one:.1}, \"all_cores\": {all:.1}}}");
    println!(
        "{{\"read\": {}, \"zeros\": {{\"one_core\": {zeros:.1}}}, \"hash\": {}, \"seal\": {}, \"store\": {}, \
         \"cores\": {cores}, \"plain\": {plain}, \"chunks\": {}, \"distinct\": {}}}",
        both(read),
        both(hash),
        both(seal),
        both(store),
        met.chunks,
        met.distinct,
    );
    Ok(())
}

/// The first data of an image. Reading it here also puts it into the page cache.
fn load(path: &Path, span_shift: u8) -> Result<Vec<Piece>, Failure> {
    let Source::Seekable(source) = Source::open(&SourceSpec::Path(path.into()))? else {
        return Err("a stream cannot be read twice".into());
    };
    let (mut pieces, mut at, mut left): (Vec<Piece>, _, _) = (Vec::new(), 0, SAMPLE);
    let mut bytes = Vec::new();
    while let Some(found) = source.data_ranges(at)
        && left > 0
    {
        let start = found.start & !(HOLE_UNIT - 1);
        let span = start >> span_shift;
        let part = start..found.end.min((span + 1) << span_shift).min(start + left);
        at = part.end;
        left -= length(&part) as u64;
        bytes.resize(length(&part), 0);
        source.read_at(part.start, &mut bytes)?;
        if pieces.last().is_none_or(|last| last.span != span) {
            pieces.push(Piece { span, parts: Vec::new(), data: Vec::new() });
        }
        let piece = pieces.last_mut().expect("one was pushed");
        piece.parts.push(part);
        data_runs(&bytes).into_iter().for_each(|run| piece.data.extend_from_slice(&bytes[run]));
    }
    Ok(pieces)
}

fn length(part: &Range<u64>) -> usize {
    (part.end - part.start) as usize
}

/// MB/s of plain reads, on one core and on all.
fn reading(path: &str, pieces: &[Piece], cores: usize) -> Result<[f64; 2], Failure> {
    let file = File::open(path)?;
    let bytes: usize = pieces.iter().flat_map(|piece| &piece.parts).map(length).sum();
    let read = |piece: &Piece, buffer: &mut Vec<u8>| {
        for part in &piece.parts {
            // Grown once, then only overwritten.
            buffer.resize(length(part).max(buffer.len()), 0);
            file.read_exact_at(&mut buffer[..length(part)], part.start).expect("it was read before");
        }
    };
    Ok([1, cores].map(|threads| bytes as f64 / 1e6 / median(ROUNDS, || each(pieces, threads, read))))
}

/// MB/s of looking for data where there is none, a span at a time, on one core.
fn finding_zeros(span: usize) -> f64 {
    // Written, or all of it would be one page of the kernel's.
    let mut zeros = vec![1; ZEROS];
    zeros.fill(0);
    ZEROS as f64
        / 1e6
        / median(ROUNDS, || zeros.chunks(span).map(|span| data_runs(black_box(span)).len()).sum::<usize>())
}

/// How far along the chain chunks go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Work {
    Hash,
    Seal,
    Store,
}

/// What was met on the way.
struct Met {
    chunks: usize,
    distinct: usize,
}

struct Chain {
    chunker: Chunker,
    keyring: Keyring,
}

impl Chain {
    fn run(&self, work: Work, pieces: &[Piece], threads: usize) -> Met {
        let chunks = AtomicUsize::new(0);
        let met: Mutex<HashSet<BlobId>> = Mutex::default();
        each(pieces, threads, |piece, (): &mut ()| {
            for range in self.chunker.chunks(&piece.data) {
                let plain = &piece.data[range];
                let id =
                    self.keyring.blob_id(BlobKind::Chunk, plain).expect("a full set of keys names chunks");
                chunks.fetch_add(1, Ordering::Relaxed);
                let new = met.lock().insert(id);
                if work == Work::Seal || (work == Work::Store && new) {
                    self.seal(&id, plain);
                }
            }
        });
        Met { chunks: chunks.into_inner(), distinct: met.into_inner().len() }
    }

    fn seal(&self, id: &BlobId, plain: &[u8]) {
        let sealed = seal_blob(&self.keyring, BlobKind::Chunk, id, plain, Compression::default());
        black_box(sealed.expect("a full set of keys seals"));
    }
}
