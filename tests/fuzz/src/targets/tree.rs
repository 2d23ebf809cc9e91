//! A whole map tree of well-sealed, well-formed nodes and maps that need not fit each other: what a writer who holds the keys could
//! store. Searching it for data and holes ends soon, and within the image.

use std::sync::Arc;

use copal::codec::compress::Compression;
use copal::codec::keys::{BlobKind, Keyring};
use copal::extent::Extent;
use copal::format::location::{Location, PackRef};
use copal::format::node::{Child, Node};
use copal::format::pack::{PackKind, seal_blob};
use copal::format::record::Root;
use copal::format::span_map::{self, ChunkRef, SpanMap};
use copal::format::wire::Reader;
use copal::id::{BlobId, PackId};
use copal::image::maps::Maps;
use copal::image::{Image, root_level};
use copal::repository::Repository;
use copal::repository::packs::pack_name;
use copal::repository::unlock::{InitOptions, init};
use copal::storage::memory::MemoryStorage;

const PACK: PackRef = PackRef { id: PackId([1; 16]), mode: 1, epoch: 1 };

thread_local! {
    static REPOSITORY: (Arc<MemoryStorage>, Arc<Repository>) = {
        let storage = Arc::new(MemoryStorage::new());
        let options = InitOptions { mirror: false, span_shift: 22, reserve: 0, ..InitOptions::default() };
        let repository = init(storage.clone(), &options).expect("memory takes everything");
        (storage, Arc::new(repository))
    };
}

/// What stands in the pack so far.
struct Blobs<'a> {
    ring: &'a Keyring,
    bytes: Vec<u8>,
    stored: Vec<(BlobId, Location)>,
}

impl Blobs<'_> {
    fn add(&mut self, kind: BlobKind, content: &[u8], hints: &[Location]) {
        let id = self.ring.blob_id(kind, content).expect("all keys are there");
        let plain = span_map::with_hints(content, hints);
        let sealed = seal_blob(self.ring, kind, &id, &plain, Compression::None).expect("all keys are there");
        let narrow = |len: usize| u32::try_from(len).expect("inputs are short");
        let location =
            Location { pack: PACK, offset: narrow(self.bytes.len()), sealed_len: narrow(sealed.len()) };
        self.bytes.extend_from_slice(&sealed);
        self.stored.push((id, location));
    }
}

/// Where to search (u64), the image's size (u64) and its data (u64); then maps and nodes, each after those that it names. The last one is the root.
pub(super) fn image(input: &[u8]) -> bool {
    REPOSITORY.with(|(storage, repository)| {
        let mut reader = Reader::new("tree", input);
        let mut blobs = Blobs { ring: repository.keyring(), bytes: vec![0; 40], stored: Vec::new() };
        let mut root_at = 0;
        let mut numbers = || Some([reader.u64().ok()?, reader.u64().ok()?, reader.u64().ok()?]);
        let Some([from, size, data]) = numbers() else { return false };
        while let Ok(kind) = reader.u8() {
            let level = if kind % 8 == 7 {
                span_map(&mut reader, &mut blobs)
            } else {
                tree_node(kind % 8, &mut reader, &mut blobs)
            };
            let Some(level) = level else { break };
            root_at = level;
        }
        let Some((id, location)) = blobs.stored.last().copied() else { return false };
        let size = size % ((1 << 56) + 1);
        storage.overwrite(&pack_name(PackKind::Maps, PACK.id), blobs.bytes);
        let image = Image { size, span_shift: 22, root: Some(Root::new(root_at, id, location)), data };
        search(&Maps::new(repository.clone(), 1 << 20), &image, from)
    })
}

/// Reads extents, of a chunk each: a count (u8), the span's length (u32), offsets and lengths (u32). A map counts as level 0.
fn span_map(reader: &mut Reader<'_>, blobs: &mut Blobs<'_>) -> Option<u8> {
    let count = u32::from(reader.u8().ok()?);
    let mut map = SpanMap { span_len: reader.u32().ok()?, ..SpanMap::default() };
    for chunk in 0..count {
        let [offset, len] = [reader.u32().ok()?, reader.u32().ok()?];
        map.chunks.push(ChunkRef { id: BlobId([chunk as u8; 32]), plain_len: len });
        map.extents.push(Extent { offset, chunk, chunk_offset: 0, len });
    }
    let hint = Location { pack: PACK, offset: 40, sealed_len: 40 };
    blobs.add(BlobKind::SpanMap, &map.content(), &vec![hint; map.chunks.len()]);
    Some(0)
}

/// Reads children: a count (u8), for each its slot and which blob it is, counted back (u8), its data (u64), and whether it is full (u8).
fn tree_node(level: u8, reader: &mut Reader<'_>, blobs: &mut Blobs<'_>) -> Option<u8> {
    let mut node = Node { level, children: Vec::new() };
    let mut hints = Vec::new();
    for _ in 0..reader.u8().ok()? {
        let [slot, back] = [reader.u8().ok()?, reader.u8().ok()?];
        let (id, hint) = *blobs.stored.iter().rev().nth(usize::from(back))?;
        node.children.push(Child { slot, id, data: reader.u64().ok()?, full: reader.u8().ok()? & 1 == 1 });
        hints.push(hint);
    }
    blobs.add(BlobKind::Node, &node.content(), &hints);
    Some(level)
}

fn search(maps: &Maps, image: &Image, from: u64) -> bool {
    let size = image.size;
    if from >= size {
        return false;
    }
    let mut accepted = true;
    match maps.next_data(image, from) {
        Ok(Some(at)) => assert!(at >= from && at < size, "data at {at}, searched from {from} of {size}"),
        Ok(None) => {}
        Err(_) => accepted = false,
    }
    match maps.next_hole(image, from) {
        Ok(at) => assert!(at >= from && at <= size, "a hole at {at}, searched from {from} of {size}"),
        Err(_) => accepted = false,
    }
    match maps.span(image, from >> image.span_shift) {
        Ok(Some(map)) => assert!(u64::from(map.map.span_len) <= 1 << image.span_shift),
        Ok(None) => {}
        Err(_) => accepted = false,
    }
    let (nodes, found) = maps.counts();
    let height = u64::from(root_level(size >> image.span_shift)) + 2;
    assert!(nodes.loads + found.loads <= 8 * height, "a search takes one map or two");
    accepted
}

fn numbers(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

pub(super) fn image_seeds() -> Vec<Vec<u8>> {
    const SPAN: u64 = 1 << 22;
    let map = |len: u64, extents: &[(u32, u32)]| {
        let pairs =
            extents.iter().flat_map(|(offset, len)| [offset.to_le_bytes(), len.to_le_bytes()].concat());
        [vec![7, extents.len() as u8], (len as u32).to_le_bytes().to_vec(), pairs.collect()].concat()
    };
    let child =
        |slot: u8, back: u8, data: u64, full: u8| [&[slot, back][..], &data.to_le_bytes(), &[full]].concat();
    let small = [
        numbers(&[5000, 3 * SPAN, SPAN + 8192]),
        map(SPAN, &[(0, 4096), (8192, 4096)]),
        map(SPAN, &[(0, 1 << 22)]),
        [vec![0, 2], child(0, 1, 8192, 0), child(2, 0, SPAN, 1)].concat(),
    ];
    // Two levels, in which one full node stands many times.
    let full: Vec<u8> = (0..=255).flat_map(|slot| child(slot, 0, SPAN, 1)).collect();
    let large = [
        numbers(&[7 * SPAN, 1024 * SPAN, 510 * SPAN]),
        map(SPAN, &[(0, 1 << 22)]),
        [vec![0, 255], full[..255 * 11].to_vec()].concat(),
        [vec![1, 2], child(0, 0, 255 * SPAN, 0), child(3, 0, 255 * SPAN, 0)].concat(),
    ];
    vec![small.concat(), large.concat()]
}
