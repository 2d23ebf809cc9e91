//! A diff never misses a changed byte, says no more than its rules allow, costs what changed, and survives damage.

mod common;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::ops::Range;
use std::sync::Arc;

use common::{back_up, file_of, image, make, mixed, noise, open, options};
use copal::archiver::create::{CreateOptions, create};
use copal::archiver::{Silent, Stop};
use copal::codec::compress::Compression;
use copal::codec::keys::BlobKind;
use copal::extent::Extent;
use copal::format::config::{ChunkerKind, ChunkerParams};
use copal::format::limits::MAX_IMAGE;
use copal::format::location::{Location, PackRef};
use copal::format::node;
use copal::format::pack::{PackKind, seal_blob};
use copal::format::record::Root;
use copal::format::span_map::{ChunkRef, SpanMap, with_hints};
use copal::id::{BlobId, PackId};
use copal::image::Image;
use copal::image::diff::{
    ChunkCounts, ChunkTally, ChunkUse, Difference, Findings, Kind, Scope, Side, compare,
};
use copal::image::maps::Maps;
use copal::image::tree_writer::{StoredMap, TreeWriter};
use copal::repository::packer::PackWriter;
use copal::repository::{Error, Repository};
use copal::storage::memory::MemoryStorage;
use copal::storage::recorder::Recorder;
use proptest::prelude::*;

const SHIFT: u8 = 22;
const SPAN: u64 = 1 << SHIFT;

/// All that a comparison said.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    ranges: Vec<(Range<u64>, Kind)>,
    lost: Vec<(Side, Range<u64>)>,
}

impl Findings for Found {
    type Error = Infallible;

    fn difference(&mut self, Difference { range, kind }: Difference) -> Result<(), Infallible> {
        assert!(!range.is_empty());
        if let Some((last, last_kind)) = self.ranges.last() {
            assert!(
                last.end < range.start || last.end == range.start && *last_kind != kind,
                "joined, in order"
            );
        }
        self.ranges.push((range, kind));
        Ok(())
    }

    fn lost(&mut self, side: Side, range: Range<u64>, _: &Error) {
        self.lost.push((side, range));
    }
}

fn diff_in(repository: &Arc<Repository>, images: [&Image; 2], scope: Scope) -> (Found, ChunkCounts) {
    let maps = Maps::new(repository.clone(), 4 << 20);
    let (mut found, mut chunks) = (Found::default(), ChunkUse::default());
    let Ok(()) = compare(&maps, images, scope, &mut chunks, &mut found);
    (found, chunks.counts())
}

fn diff(repository: &Arc<Repository>, images: [&Image; 2]) -> Found {
    diff_in(repository, images, Scope::ChangedSpans).0
}

fn changed(ranges: &[Range<u64>]) -> Found {
    let ranges = ranges.iter().map(|range| (range.clone(), Kind::Changed)).collect();
    Found { ranges, lost: vec![] }
}

/// Backs up bytes with chunks cut in a way of their own.
fn back_up_cut(repository: &Arc<Repository>, bytes: &[u8], chunker: Option<ChunkerParams>) -> Image {
    let file = file_of(bytes);
    let options = CreateOptions { chunker, ..options("disk", &[file.path()]) };
    let created = create(repository, &options, &Stop::default(), &Silent).expect("create");
    image(repository, created.id.expect("an id"))
}

fn fixed(len: u32) -> Option<ChunkerParams> {
    Some(ChunkerParams { kind: ChunkerKind::Fixed, min: len, avg: len, max: len })
}

/// A change of an image's bytes.
#[derive(Debug, Clone)]
enum Edit {
    Noise { at: usize, len: usize },
    Zero { at: usize, len: usize },
    Flip { at: usize },
    Resize { len: usize },
}

fn edit() -> impl Strategy<Value = Edit> {
    let at = 0usize..13 << 20;
    prop_oneof![
        (at.clone(), 1usize..300_000).prop_map(|(at, len)| Edit::Noise { at, len }),
        (at.clone(), 1usize..300_000).prop_map(|(at, len)| Edit::Zero { at, len }),
        at.clone().prop_map(|at| Edit::Flip { at }),
        at.prop_map(|len| Edit::Resize { len }),
    ]
}

fn apply(bytes: &mut Vec<u8>, edit: &Edit) {
    let clip = |at: usize, len: usize| at.min(bytes.len())..(at + len).min(bytes.len());
    match *edit {
        Edit::Noise { at, len } => {
            let range = clip(at, len);
            let fresh = noise(at as u64, range.len());
            bytes[range].copy_from_slice(&fresh);
        }
        Edit::Zero { at, len } => {
            let range = clip(at, len);
            bytes[range].fill(0);
        }
        Edit::Flip { at } => {
            let range = clip(at, 1);
            bytes[range].iter_mut().for_each(|byte| *byte ^= 1);
        }
        Edit::Resize { len } => bytes.resize(len, 7),
    }
}

/// Holds a diff against the plain comparison: every differing byte is reported, and nothing in a span without any.
fn check_against_bytes(found: &Found, a: &[u8], b: &[u8]) {
    let common = a.len().min(b.len());
    let mut reported = vec![false; common];
    for (range, kind) in &found.ranges {
        let range = range.start as usize..range.end as usize;
        if *kind == Kind::Changed {
            reported[range].fill(true);
        } else {
            let kind_here = if a.len() < b.len() { Kind::Added } else { Kind::Removed };
            assert_eq!((range, *kind), (common..a.len().max(b.len()), kind_here));
        }
    }
    let tails = found.ranges.iter().filter(|(_, kind)| *kind != Kind::Changed).count();
    assert_eq!(tails, usize::from(a.len() != b.len()));
    let span = SPAN as usize;
    let end = |bytes: &[u8], at: usize| (at + span).min(bytes.len());
    for at in (0..common).step_by(span) {
        let stop = (at + span).min(common);
        assert!((at..stop).all(|i| a[i] == b[i] || reported[i]), "a changed byte from {at} on is missed");
        if a[at..end(a, at)] == b[at..end(b, at)] {
            assert!(!reported[at..stop].contains(&true), "the span at {at} did not change");
        }
    }
    assert_eq!(found.lost, []);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn no_changed_byte_is_missed(
        seed: u64,
        len in 1usize..11 << 20,
        edits in proptest::collection::vec(edit(), 0..4),
        recut: bool,
    ) {
        let repository = make(MemoryStorage::new());
        let a = mixed(seed, len);
        let mut b = a.clone();
        edits.iter().for_each(|edit| apply(&mut b, edit));
        // Other chunks for equal bytes: more is reported, never less.
        let chunker = recut.then(|| fixed(8192)).flatten();
        let images = [back_up_cut(&repository, &a, None), back_up_cut(&repository, &b, chunker)];
        let found = diff(&repository, images.each_ref());
        if recut {
            let all_equal = a == b && found.ranges.is_empty();
            prop_assert!(all_equal || found.ranges.iter().all(|(range, _)| range.end <= a.len().max(b.len()) as u64));
            let missed = (0..a.len().min(b.len())).find(|i| {
                a[*i] != b[*i] && !found.ranges.iter().any(|(range, _)| range.contains(&(*i as u64)))
            });
            prop_assert_eq!(missed, None);
        } else {
            check_against_bytes(&found, &a, &b);
        }
        // The other way round the same, but for what is added or removed.
        let back = diff(&repository, [&images[1], &images[0]]);
        let ranges = |found: &Found| found.ranges.iter().map(|(range, _)| range.clone()).collect::<Vec<_>>();
        prop_assert_eq!(ranges(&found), ranges(&back));
    }
}

/// Where chunks have a fixed length and no hole moves them, exactly those chunks are reported in which a byte changed.
#[test]
fn fixed_chunks_are_reported_exactly() {
    const LEN: usize = 16 << 10;
    let repository = make(MemoryStorage::new());
    let a = noise(1, (9 << 20) + 777);
    let mut b = a.clone();
    let touched =
        [0, 5, LEN, 5 * LEN - 1, 7 * LEN, SPAN as usize - 1, SPAN as usize, (9 << 20) + 776, 100 * LEN];
    touched.iter().for_each(|at| b[*at] ^= 1);
    let images = [&a, &b].map(|bytes| back_up_cut(&repository, bytes, fixed(LEN as u32)));
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for chunk in touched.iter().map(|at| at / LEN).collect::<BTreeSet<_>>() {
        let range = (chunk * LEN) as u64..((chunk + 1) * LEN).min(a.len()) as u64;
        match ranges.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => ranges.push(range),
        }
    }
    assert_eq!(diff(&repository, images.each_ref()), changed(&ranges));
}

#[test]
fn holes_are_equal_to_holes_only() {
    let repository = make(MemoryStorage::new());
    // Chunks of one block, so that a hole moves no other data into another chunk.
    let back_up = |bytes: &[u8]| back_up_cut(&repository, bytes, fixed(4096));
    let mut a = noise(1, 3 * SPAN as usize);
    a[SPAN as usize..2 * SPAN as usize].fill(0);
    let with_hole = back_up(&a);
    let mut b = a.clone();
    b[40960..49152].fill(0);
    b[SPAN as usize + 8192] = 1;
    let other = back_up(&b);
    let expected = changed(&[40960..49152, SPAN + 8192..SPAN + 12288]);
    assert_eq!(diff(&repository, [&with_hole, &other]), expected);
    assert_eq!(diff(&repository, [&other, &with_hole]), expected);
    // All hole against data, and against nothing.
    let empty = back_up(&vec![0; a.len()]);
    let all = changed(&[0..SPAN, 2 * SPAN..3 * SPAN]);
    assert_eq!(diff(&repository, [&empty, &with_hole]), all);
    let nothing = Image { size: 0, span_shift: SHIFT, root: None, data: 0 };
    let added = Found { ranges: vec![(0..3 * SPAN, Kind::Added)], lost: vec![] };
    assert_eq!(diff(&repository, [&nothing, &with_hole]), added);
    assert_eq!(diff(&repository, [&nothing, &nothing]), Found::default());
}

#[test]
fn a_tail_of_its_own_is_one_range() {
    let repository = make(MemoryStorage::new());
    let long = noise(1, SPAN as usize + 10_000);
    for cut in [10_000, SPAN as usize - 1, SPAN as usize, SPAN as usize + 1, 1] {
        let images = [&long[..cut], &long[..]].map(|bytes| back_up_cut(&repository, bytes, fixed(4096)));
        let found = diff(&repository, images.each_ref());
        let (tail, before) = found.ranges.split_last().expect("a tail");
        assert_eq!(*tail, (cut as u64..long.len() as u64, Kind::Added));
        // The last chunk of the shorter one is another chunk, so it may differ.
        assert!(before.iter().all(|(range, _)| range.start >= (cut as u64 - 1) / 4096 * 4096), "{found:?}");
    }
}

/// Trees made by hand, without data.
struct Forge(Arc<Repository>);

/// A span with one block of data from a chunk with this number, at this offset.
type Block = (u64, u32, u8);

fn chunk_id(number: u32) -> BlobId {
    BlobId(*blake3::hash(&number.to_le_bytes()).as_bytes())
}

fn nowhere() -> Location {
    Location { pack: PackRef { id: PackId([9; 16]), mode: 1, epoch: 1 }, offset: 40, sealed_len: 500 }
}

impl Forge {
    fn blob(&self, writer: &PackWriter, kind: BlobKind, content: &[u8], plain: &[u8]) -> (BlobId, Location) {
        let keyring = self.0.keyring();
        let id = keyring.blob_id(kind, content).expect("an id");
        let sealed = seal_blob(keyring, kind, &id, plain, Compression::None).expect("seal");
        (id, writer.add(kind, &id, plain.len(), &sealed).expect("add"))
    }

    /// An image with a block in each of these spans; the maps of `lost` spans are nowhere.
    fn image(&self, size: u64, blocks: impl IntoIterator<Item = Block>, lost: &[u64]) -> Image {
        let objects = self.0.objects().clone();
        let writer = PackWriter::start(PackKind::Maps, 16 << 20, objects).expect("a writer");
        let mut data = 0;
        let mut tree = TreeWriter::new(SHIFT, |node: &node::Node, locations: &[Location]| {
            let content = node.content();
            Ok::<_, Infallible>(self.blob(
                &writer,
                BlobKind::Node,
                &content,
                &node::to_bytes(&content, locations),
            ))
        });
        for (span, number, block) in blocks {
            let map = SpanMap {
                span_len: u32::try_from((size - span * SPAN).min(SPAN)).expect("a span"),
                chunks: vec![ChunkRef { id: chunk_id(number), plain_len: 4096 }],
                extents: vec![Extent {
                    offset: u32::from(block) * 4096,
                    chunk: 0,
                    chunk_offset: 0,
                    len: 4096,
                }],
            };
            let content = map.content();
            let plain = with_hints(&content, &[nowhere()]);
            let (id, mut location) = self.blob(&writer, BlobKind::SpanMap, &content, &plain);
            if lost.contains(&span) {
                location = nowhere();
            }
            let Ok(()) = tree.push(span, StoredMap { id, location, data: map.data_bytes() }, size);
            data += map.data_bytes();
        }
        let Ok(root) = tree.finish(size);
        writer.finish().expect("finish");
        Image { size, span_shift: SHIFT, root, data }
    }
}

/// A repository behind a recorder, and one to forge in it.
fn forge() -> (Arc<Recorder<MemoryStorage>>, Forge) {
    let storage = MemoryStorage::new();
    make(storage.clone());
    let recorder = Arc::new(Recorder::new(storage));
    let repository = open(recorder.clone());
    (recorder, Forge(repository))
}

#[test]
fn a_diff_costs_what_changed() {
    const SPANS: u64 = 10_000;
    let (recorder, forge) = forge();
    let block = |span: u64, changed: u64| (span, span as u32 + if span == changed { 1 << 20 } else { 0 }, 3);
    let image = |changed| forge.image(SPANS * SPAN, (0..SPANS).map(|span| block(span, changed)), &[]);
    let (a, b) = (image(SPANS), image(4321));
    recorder.clear();
    assert_eq!(diff(&forge.0, [&a, &a]), Found::default());
    assert_eq!(recorder.calls(), [], "equal roots are not even read");

    let (found, counts) = diff_in(&forge.0, [&a, &b], Scope::ChangedSpans);
    let block = 4321 * SPAN + 12288..4321 * SPAN + 16384;
    assert_eq!(found, changed(std::slice::from_ref(&block)));
    // Of each image: the root, one node beneath it, one map.
    assert_eq!(recorder.calls().len(), 6, "{:#?}", recorder.calls());
    let one = ChunkTally { chunks: 1, plain: 4096, sealed: 500 };
    let none = ChunkTally::default();
    assert_eq!(counts, ChunkCounts { shared: none, added: one, removed: one, exact: true, complete: true });

    // Every map of one image, and the few that the other has for itself.
    recorder.clear();
    let (again, counts) = diff_in(&forge.0, [&a, &b], Scope::AllSpans);
    assert_eq!(again, found);
    let most = ChunkTally { chunks: SPANS - 1, plain: 4096 * (SPANS - 1), sealed: 500 * (SPANS - 1) };
    assert_eq!(counts, ChunkCounts { shared: most, added: one, removed: one, exact: true, complete: true });
    assert_eq!(recorder.calls().len() as u64, SPANS + SPANS.div_ceil(256) + 4);
}

#[test]
fn a_chunk_that_only_moved_is_shared() {
    let (_, forge) = forge();
    let a = forge.image(8 * SPAN, [(1, 1, 0), (3, 2, 0), (5, 3, 0)], &[]);
    let b = forge.image(8 * SPAN, [(1, 1, 0), (3, 1, 0), (6, 2, 0)], &[]);
    let (found, counts) = diff_in(&forge.0, [&a, &b], Scope::ChangedSpans);
    let at = |span: u64| span * SPAN..span * SPAN + 4096;
    assert_eq!(found, changed(&[at(3), at(5), at(6)]));
    // Spans 3, 5 and 6 only: chunk 1 looks new there, though A has it elsewhere.
    let [shared, added, removed] = [counts.shared, counts.added, counts.removed].map(|tally| tally.chunks);
    assert_eq!((shared, added, removed), (1, 1, 1));
    let (_, counts) = diff_in(&forge.0, [&a, &b], Scope::AllSpans);
    let [shared, added, removed] = [counts.shared, counts.added, counts.removed].map(|tally| tally.chunks);
    assert_eq!((shared, added, removed), (2, 0, 1));
}

#[test]
fn trees_of_different_heights_compare() {
    let (recorder, forge) = forge();
    let sizes = [100, 256, 257, 70_000, (256 << 16) + 3].map(|spans: u64| spans * SPAN - 1000);
    let first: Vec<Block> = (0..100).map(|span| (span, span as u32, 1)).collect();
    for a_size in sizes {
        for b_size in sizes {
            let low = forge.image(a_size, first.clone(), &[]);
            let last = (b_size - 1) / SPAN;
            let mut blocks = first.clone();
            blocks[7].1 = 77_777;
            if last > 99 {
                blocks.push((last, 5, 0));
            }
            let high = forge.image(b_size, blocks, &[]);
            recorder.clear();
            let found = diff(&forge.0, [&low, &high]);
            let common = a_size.min(b_size);
            let mut expected = vec![(7 * SPAN + 4096..7 * SPAN + 8192, Kind::Changed)];
            if last > 99 && last * SPAN < common {
                expected.push((last * SPAN..last * SPAN + 4096, Kind::Changed));
            }
            if a_size != b_size {
                let kind = if a_size < b_size { Kind::Added } else { Kind::Removed };
                expected.push((common..a_size.max(b_size), kind));
            }
            assert_eq!(found, Found { ranges: expected, lost: vec![] }, "{a_size} {b_size}");
            assert!(recorder.calls().len() <= 24, "{}", recorder.calls().len());
        }
    }
}

#[test]
fn a_lost_map_is_unknown_and_the_rest_goes_on() {
    let (_, forge) = forge();
    let size = 1000 * SPAN - 5000;
    let blocks = |of: u32| [10, 300, 500, 999].map(|span| (span, span as u32 + of, 0));
    let a = forge.image(size, blocks(0), &[300]);
    let b = forge.image(size, blocks(5000), &[300, 999]);
    let (found, counts) = diff_in(&forge.0, [&a, &b], Scope::ChangedSpans);
    let changed = |span: u64| (span * SPAN..span * SPAN + 4096, Kind::Changed);
    let (middle, end) = (300 * SPAN..301 * SPAN, 999 * SPAN..size);
    let unknown = |range: &Range<u64>| (range.clone(), Kind::Unknown);
    assert_eq!(found.ranges, [changed(10), unknown(&middle), changed(500), unknown(&end)]);
    assert_eq!(found.lost, [(Side::A, middle.clone()), (Side::B, middle), (Side::B, end)]);
    assert_eq!((counts.complete, counts.added.chunks, counts.removed.chunks), (false, 2, 2));

    // What is equal is equal, lost or not; only a count of all notices.
    let same = forge.image(size, blocks(0), &[300, 999]);
    let (found, counts) = diff_in(&forge.0, [&same, &same], Scope::AllSpans);
    assert_eq!((found.ranges.len(), found.lost.len()), (0, 4), "both, of each side");
    assert_eq!((counts.complete, counts.shared.chunks), (false, 2));
}

#[test]
fn a_lost_root_is_all_unknown() {
    let (_, forge) = forge();
    let a = forge.image(10 * SPAN, [(3, 3, 0)], &[]);
    let b = forge.image(12 * SPAN, [(3, 4, 0)], &[]);
    let lost = Image { root: b.root.map(|root| Root::new(root.level, root.id, nowhere())), ..b };
    let expected = |tail| {
        let ranges = vec![(0..10 * SPAN, Kind::Unknown), (10 * SPAN..12 * SPAN, tail)];
        Found { ranges, lost: vec![] }.ranges
    };
    let found = diff(&forge.0, [&a, &lost]);
    assert_eq!((found.ranges, found.lost), (expected(Kind::Added), vec![(Side::B, 0..12 * SPAN)]));
    let found = diff(&forge.0, [&lost, &a]);
    assert_eq!((found.ranges, found.lost), (expected(Kind::Removed), vec![(Side::A, 0..12 * SPAN)]));
}

/// Trees that lie about themselves are damage where they lie, and what they claim beyond the end is nobody's.
#[test]
fn hostile_trees_are_damage() {
    let (_, forge) = forge();
    let honest = forge.image(10 * SPAN, [(1, 1, 0), (3, 3, 0)], &[]);
    let other = forge.image(10 * SPAN, [(1, 9, 0), (3, 8, 0)], &[]);
    let unknown = |found: &Found| found.ranges.iter().all(|(_, kind)| *kind == Kind::Unknown);
    // A root of another height, or with other data bytes.
    let root = other.root.expect("a root");
    for level in [1, 5, 255] {
        let tall = Image { root: Some(Root::new(level, root.id, root.location())), ..other };
        let found = diff(&forge.0, [&honest, &tall]);
        assert!(unknown(&found) && found.lost == [(Side::B, 0..10 * SPAN)], "{found:?}");
    }
    let found = diff(&forge.0, [&honest, &Image { data: 1, ..other }]);
    assert!(unknown(&found) && found.lost.len() == 1, "{found:?}");

    // The same tree in a shorter image: a map is too long for its span, another lies beyond the end.
    let short = Image { size: 2 * SPAN - 7, ..other };
    let found = diff(&forge.0, [&honest, &short]);
    let ranges = [(SPAN..2 * SPAN - 7, Kind::Unknown), (2 * SPAN - 7..10 * SPAN, Kind::Removed)];
    assert_eq!((&found.ranges[..], &found.lost[..]), (&ranges[..], &[(Side::B, SPAN..2 * SPAN - 7)][..]));

    // The largest image that there may be.
    let huge = |of| forge.image(MAX_IMAGE, [(0, of, 0), (MAX_IMAGE / SPAN - 1, of, 9)], &[]);
    let found = diff(&forge.0, [&huge(1), &huge(2)]);
    let last = MAX_IMAGE - SPAN + 9 * 4096;
    assert_eq!(found, changed(&[0..4096, last..last + 4096]));
    let empty = Image { size: 0, ..other };
    assert_eq!(diff(&forge.0, [&empty, &empty]), Found::default());
    assert_eq!(diff(&forge.0, [&honest, &empty]).ranges, [(0..10 * SPAN, Kind::Removed)]);
}

#[test]
fn counts_are_those_of_the_chunks() {
    let repository = make(MemoryStorage::new());
    let a = noise(1, 3 << 20);
    let b = [&a[..2 << 20], &noise(2, 2 << 20)].concat();
    let images = [&a, &b].map(|bytes| back_up_cut(&repository, bytes, fixed(1 << 16)));
    let (_, counts) = diff_in(&repository, images.each_ref(), Scope::ChangedSpans);
    let plain = |tally: ChunkTally| (tally.chunks, tally.plain);
    assert_eq!(plain(counts.shared), (32, 2 << 20));
    assert_eq!(plain(counts.removed), (16, 1 << 20));
    assert_eq!(plain(counts.added), (32, 2 << 20));
    assert!(
        counts.added.sealed > 2 << 20 && counts.added.sealed < (2 << 20) + 32 * 64,
        "noise does not shrink"
    );
}

#[test]
fn nothing_but_maps_is_read() {
    let recorder = Arc::new(Recorder::new(MemoryStorage::new()));
    let repository = make(recorder.clone());
    let images = [1, 2].map(|seed| {
        let created = back_up(&repository, "disk", file_of(&mixed(seed, 9 << 20)).path());
        image(&repository, created.id.expect("an id"))
    });
    recorder.clear();
    assert!(!diff(&repository, images.each_ref()).ranges.is_empty());
    let calls = recorder.calls();
    assert!(!calls.is_empty() && calls.iter().all(|call| call.name.starts_with("maps/")), "{calls:#?}");
}
