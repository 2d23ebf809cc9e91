use std::ops::Range;

use proptest::prelude::*;

use super::*;
use crate::archiver::gather::SpanData;
use crate::chunker::{data_runs, lay_out};
use crate::codec::keys::KeySet;
use crate::format::config::ChunkerParams;
use crate::format::span_map::ChunkRef;
use crate::id::RepositoryId;

fn keyring() -> Keyring {
    let repository = RepositoryId([1; 16]);
    Keyring::new(repository, &KeySet::public(&repository), 1)
}

fn chunker(params: ChunkerParams) -> Chunker {
    Chunker::new(params, keyring().gear().unwrap())
}

/// FastCDC, in chunks so small that a span of a few megabytes has many.
fn small() -> Chunker {
    chunker(ChunkerParams::fastcdc(16 << 10))
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

type Chunks = Vec<(Range<usize>, BlobId)>;

/// The chunks of a stream of which no more is seen at once than there must be.
fn cut(chunker: &Chunker, stream: &[u8], former: &FormerCuts) -> (Chunks, usize) {
    let keyring = keyring();
    let mut cutter = Cutter::new(chunker, &keyring, former);
    let (mut chunks, mut at) = (Chunks::new(), 0);
    while at < stream.len() {
        let seen = at..stream.len().min(at + chunker.max_len() + 1);
        let (len, id) = cutter.cut(&stream[seen]).unwrap();
        chunks.push((at..at + len, id));
        at += len;
    }
    (chunks, cutter.kept())
}

/// The map of a span, as it is stored.
fn map(chunker: &Chunker, span: &[u8]) -> SpanMap {
    let runs = data_runs(span);
    let stream: Vec<u8> = runs.iter().flat_map(|run| &span[run.clone()]).copied().collect();
    let mut chunks: Vec<ChunkRef> = Vec::new();
    let mut cuts = Vec::new();
    for (range, id) in cut(chunker, &stream, &FormerCuts::default()).0 {
        let plain_len = range.len() as u32;
        let number = chunks.iter().position(|chunk| chunk.id == id).unwrap_or_else(|| {
            chunks.push(ChunkRef { id, plain_len });
            chunks.len() - 1
        });
        cuts.push((number as u32, plain_len));
    }
    SpanMap { span_len: span.len() as u32, extents: lay_out(&runs, &cuts), chunks }
}

fn former(chunker: &Chunker, stream: &[u8]) -> FormerCuts {
    FormerCuts::of(&map(chunker, stream))
}

#[test]
fn no_cut_is_looked_for_where_data_is_as_it_was() {
    let stream = [noise(1, 3 << 20), vec![7; 1 << 20], noise(1, 1 << 20)].concat();
    let (chunks, kept) = cut(&small(), &stream, &former(&small(), &stream));
    assert!(chunks.len() > 100);
    assert_eq!(kept, chunks.len());
    assert_eq!(chunks, cut(&small(), &stream, &FormerCuts::default()).0);
}

#[test]
fn holes_within_a_span_do_not_matter() {
    let mut span = noise(2, 4 << 20);
    span[1 << 20..(1 << 20) + 40_960].fill(0);
    span[3 << 20..(3 << 20) + 4096].fill(0);
    let stream: Vec<u8> = data_runs(&span).into_iter().flat_map(|run| span[run].to_vec()).collect();
    let (chunks, kept) = cut(&small(), &stream, &former(&small(), &span));
    assert_eq!(kept, chunks.len());
}

#[test]
fn what_changed_is_cut_anew_and_what_follows_is_not() {
    let stream = noise(3, 4 << 20);
    let former = former(&small(), &stream);
    let mut changed = stream;
    for block in [17, 500, 801] {
        changed[block * 4096..(block + 1) * 4096].copy_from_slice(&noise(block as u64, 4096));
    }
    let (chunks, kept) = cut(&small(), &changed, &former);
    assert!(kept >= chunks.len() - 12 && kept < chunks.len(), "{kept} of {}", chunks.len());
    assert_eq!(chunks, cut(&small(), &changed, &FormerCuts::default()).0);
}

#[test]
fn cuts_of_other_keys_or_lengths_are_not_taken_over() {
    let stream = noise(4, 4 << 20);
    let own = cut(&small(), &stream, &FormerCuts::default()).0;
    let others_key = RepositoryId([2; 16]);
    let others = Keyring::new(others_key, &KeySet::public(&others_key), 1);
    let elsewhere = Chunker::new(ChunkerParams::fastcdc(16 << 10), others.gear().unwrap());
    for other in [elsewhere, chunker(ChunkerParams::fixed(8192))] {
        // Named as here, so that only their ends can tell.
        let (chunks, kept) = cut(&small(), &stream, &former(&other, &stream));
        assert_eq!(chunks, own);
        assert!(kept <= 1, "the last may end with the data");
    }
}

#[test]
fn maps_that_make_no_sense_do_no_harm() {
    let stream = noise(5, 1 << 20);
    let own = cut(&small(), &stream, &FormerCuts::default()).0;
    let mut map = map(&small(), &stream);
    map.chunks.iter_mut().step_by(2).for_each(|chunk| chunk.plain_len = u32::MAX);
    map.chunks.iter_mut().step_by(3).for_each(|chunk| chunk.plain_len = 0);
    map.extents.iter_mut().step_by(5).for_each(|extent| extent.chunk = u32::MAX);
    map.extents.iter_mut().step_by(7).for_each(|extent| extent.len = u32::MAX);
    assert_eq!(cut(&small(), &stream, &FormerCuts::of(&map)).0, own);
}

/// A change of a stream.
#[derive(Debug, Clone)]
enum Edit {
    Overwrite { at: usize, len: usize },
    Insert { at: usize, len: usize },
    Remove { at: usize, len: usize },
    Truncate { by: usize },
    Append { len: usize },
}

fn edit() -> impl Strategy<Value = Edit> {
    let (at, len) = (0..600_000usize, 1..9000usize);
    prop_oneof![
        (at.clone(), len.clone()).prop_map(|(at, len)| Edit::Overwrite { at, len }),
        (at.clone(), len.clone()).prop_map(|(at, len)| Edit::Insert { at, len }),
        (at, len.clone()).prop_map(|(at, len)| Edit::Remove { at, len }),
        (1..70_000usize).prop_map(|by| Edit::Truncate { by }),
        len.prop_map(|len| Edit::Append { len }),
    ]
}

fn apply(stream: &mut Vec<u8>, edit: &Edit, seed: u64) {
    match *edit {
        Edit::Overwrite { at, len } if at + len <= stream.len() => {
            stream[at..at + len].copy_from_slice(&noise(seed, len));
        }
        Edit::Insert { at, len } if at <= stream.len() => drop(stream.splice(at..at, noise(seed, len))),
        Edit::Remove { at, len } if at + len <= stream.len() => drop(stream.drain(at..at + len)),
        Edit::Truncate { by } => stream.truncate(stream.len().saturating_sub(by)),
        Edit::Append { len } => stream.extend(noise(seed, len)),
        _ => {}
    }
}

proptest! {
    #[test]
    fn chunks_are_the_same_with_and_without_former_ones(
        seed: u64,
        len in 0..600_000usize,
        repeats: bool,
        edits in proptest::collection::vec(edit(), 0..4),
    ) {
        let mut stream = noise(seed, len);
        if repeats {
            let start = stream.clone();
            stream.extend_from_slice(&start[..len / 2]);
        }
        let former = former(&small(), &stream);
        for (number, edit) in edits.iter().enumerate() {
            apply(&mut stream, edit, seed ^ number as u64);
        }
        let (chunks, kept) = cut(&small(), &stream, &former);
        let ranges: Vec<_> = chunks.iter().map(|chunk| chunk.0.clone()).collect();
        prop_assert_eq!(&ranges, &small().chunks(&stream).collect::<Vec<_>>());
        prop_assert!(!edits.is_empty() || kept == chunks.len());
    }
}

/// The ends of a span's chunks in its data, and where that lies, as it is gathered and cut of parts that are read.
fn gathered(
    chunker: &Chunker,
    span: &[u8],
    parts: Vec<Range<u64>>,
    former: &FormerCuts,
) -> (Chunks, Vec<Range<usize>>) {
    let (keyring, mut data) = (keyring(), SpanData::default());
    let mut cutter = Cutter::new(chunker, &keyring, former);
    let mut read = |at: u64, buf: &mut [u8]| {
        buf.copy_from_slice(&span[at as usize..][..buf.len()]);
        Ok(())
    };
    data.begin(0, span.len(), parts);
    let (mut chunks, mut at) = (Chunks::new(), 0);
    loop {
        let rest = data.more_than(chunker.max_len(), &mut read).unwrap();
        if rest.is_empty() {
            return (chunks, data.runs().to_vec());
        }
        let (len, id) = cutter.cut(rest).unwrap();
        data.pass(len);
        chunks.push((at..at + len, id));
        at += len;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// A map does not tell how its span was read.
    #[test]
    fn a_span_that_is_read_in_pieces_is_cut_as_a_whole(
        seed: u64,
        blocks in 1..1600usize,
        tail in 0..4096usize,
        holes in proptest::collection::vec((0..1600usize, 1..300usize), 0..6),
        unread in proptest::collection::vec((0..1600u64, 1..300u64), 0..4),
        kind in 0..4usize,
        changed in proptest::option::of(0..1600usize),
    ) {
        let mut span = noise(seed, blocks * 4096);
        let zero = |span: &mut [u8], from: usize, count: usize| {
            let end = span.len().min((from + count) * 4096);
            span[end.min(from * 4096)..end].fill(0);
        };
        holes.iter().for_each(|(from, count)| zero(&mut span, *from, *count));
        span.truncate(span.len() - tail);
        // What is not read is zeros.
        let mut parts: Vec<Range<u64>> = std::iter::once(0..span.len() as u64).collect();
        for (from, count) in unread {
            let hole = from * 4096..(from + count) * 4096;
            parts = parts.iter().flat_map(|part| [
                part.start..part.end.min(hole.start),
                part.start.max(hole.end)..part.end,
            ]).filter(|part| part.start < part.end).collect();
            zero(&mut span, from as usize, count as usize);
        }
        let uneven = ChunkerParams { max: 77_778, ..ChunkerParams::fastcdc(16 << 10) };
        let kinds = [ChunkerParams::fastcdc(16 << 10), uneven, ChunkerParams::fastcdc(1 << 20), ChunkerParams::fixed(1 << 20)];
        let chunker = chunker(kinds[kind]);
        let squeezed = |span: &[u8]| -> Vec<u8> {
            data_runs(span).into_iter().flat_map(|run| span[run].to_vec()).collect()
        };
        let before = former(&chunker, &span);
        if let Some(block) = changed.filter(|block| *block < span.len() / 4096)
            && span[block * 4096..(block + 1) * 4096].iter().any(|byte| *byte != 0)
        {
            span[block * 4096..(block + 1) * 4096].fill(9);
        }
        let stream = squeezed(&span);
        let whole: Vec<Range<usize>> = chunker.chunks(&stream).collect();
        for former in [&FormerCuts::default(), &before] {
            let (chunks, runs) = gathered(&chunker, &span, parts.clone(), former);
            prop_assert_eq!(&runs, &data_runs(&span));
            prop_assert_eq!(chunks.iter().map(|chunk| chunk.0.clone()).collect::<Vec<_>>(), whole.clone());
            prop_assert!(chunks.iter().all(|(range, id)| *id == keyring().blob_id(BlobKind::Chunk, &stream[range.clone()]).unwrap()));
        }
    }
}
