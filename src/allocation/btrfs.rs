//! btrfs: the free-space tree of each block group, and what of the device no chunk takes.
//!
//! One device, chunks with one copy or two of them on it, a valid free-space tree, and nothing in the log tree. Superblock, copies and every node that is read
//! are checked against their checksums. The chunks must be those of the device tree; each block group's free space and its own
//! count of used bytes must make up its length, and these counts the superblock's. Of what is free, both copies are. A superblock's
//! copies lie within chunks, in space that the tree calls free: they are kept.
//!
//! Every commit writes the superblocks, and never what an earlier one still refers to: they alone tell of changes.
//! The older roots that a mount with `rescue=usebackuproot` would try may lie in free space.
//!
//! The format is described in "On-disk Format" of the btrfs documentation and by the headers of btrfs-progs. Numbers are little-endian.

mod checksum;
mod chunks;
mod free_space;
mod superblock;
mod tree;

use std::ops::Range;

use self::chunks::{Chunk, Chunks};
use self::free_space::{Collector, GroupFree};
use self::superblock::Superblock;
use self::tree::{Key, Kind, Reader, Tree};
use super::journal::Journal;
use super::{Distrust, FreeRanges, Survey, Usage, checked};
use crate::partition::bytes::{Fields, Window};

/// Trees by their numbers.
const ROOT_TREE: u64 = 1;
const EXTENT_TREE: u64 = 2;
const CHUNK_TREE: u64 = 3;
const DEVICE_TREE: u64 = 4;
const FREE_SPACE_TREE: u64 = 10;
const GROUP_TREE: u64 = 11;
/// Length of an item that tells a tree's root, in its oldest form.
const ROOT_ITEM: usize = 239;
const DEVICE_EXTENT: usize = 48;
const GROUP_ITEM: usize = 24;

/// Surveys a volume that btrfs fills.
pub(super) fn survey(volume: &Window<'_>) -> Survey {
    let superblock = Superblock::read(volume)?;
    let mut nodes = Vec::new();
    let chunks = read_chunks(volume, &superblock, &mut nodes)?;
    let mut reader = Reader::new(volume, &superblock, &chunks);
    let placed = chunks.on_device()?;
    check_device_extents(&mut reader, &superblock, &placed)?;
    let tree = find_tree(&mut reader, &superblock, FREE_SPACE_TREE)?;
    let mut collector = Collector::new(&chunks, superblock.block);
    reader.walk(tree, &mut |key, data| collector.take(key, data))?;
    let (addresses, groups) = collector.finish()?;
    check_groups(&mut reader, &superblock, &chunks, &groups)?;
    nodes.append(&mut reader.nodes);
    let nodes = nodes.into_iter().map(|address| reader.node(address));
    let nodes: Vec<Range<u64>> = nodes.collect();
    if nodes.iter().any(|node| checked::is_partly_free(&addresses, node)) {
        return Err(Distrust::because("it counts blocks as free that it uses"));
    }
    let free = free_of_device(&superblock, &placed, &addresses)?;
    let places = nodes.iter().filter_map(|node| chunks.place(node));
    let copies: u64 =
        chunks.all().iter().map(|chunk| chunk.copies.len() as u64 * used_of(chunk, &groups)).sum();
    Ok(Usage {
        filesystem: "btrfs",
        label: superblock.label.clone(),
        used: copies,
        free,
        fixed: checked::joined(superblock.copies().chain(places).collect()),
    })
}

/// Whether its log tree is empty, by the superblock alone.
pub(super) fn journal(volume: &Window<'_>) -> Journal {
    superblock::journal(volume).unwrap_or(Journal::Unknown)
}

/// All chunks, through those that the superblock names. Adds the nodes of their tree.
fn read_chunks(
    volume: &Window<'_>,
    superblock: &Superblock,
    nodes: &mut Vec<u64>,
) -> Result<Chunks, Distrust> {
    let system = Chunks::of_superblock(superblock)?;
    let (address, generation, level) = superblock.chunks;
    let mut reader = Reader::new(volume, superblock, &system);
    let mut chunks = Vec::new();
    reader.walk(Tree { number: CHUNK_TREE, address, generation, level }, &mut |key, data| {
        if key.kind == Kind::CHUNK {
            chunks.push(Chunk::parse(key, data, superblock)?);
        }
        Ok(())
    })?;
    nodes.append(&mut reader.nodes);
    let chunks = Chunks::new(chunks)?;
    if chunks.include(&system) { Ok(chunks) } else { Err(Distrust::because("its lists of chunks disagree")) }
}

/// The device tree must have exactly the copies of the chunks.
fn check_device_extents(
    reader: &mut Reader<'_>,
    superblock: &Superblock,
    placed: &[(u64, &Chunk)],
) -> Result<(), Distrust> {
    let disagree = || Distrust::because("its lists of chunks disagree");
    let tree = find_tree(reader, superblock, DEVICE_TREE)?;
    let mut rest = placed.iter();
    reader.walk(tree, &mut |key, data| {
        if key.kind != Kind::DEVICE_EXTENT {
            return Ok(());
        }
        let extent = Fields(data);
        let same = |(place, chunk): &&(u64, &Chunk)| {
            (key.object, key.offset) == (superblock.device, *place)
                && data.len() == DEVICE_EXTENT
                && (extent.u64(16), extent.u64(24)) == (chunk.start, chunk.len)
        };
        rest.next().filter(same).map(drop).ok_or_else(disagree)
    })?;
    if rest.next().is_none() { Ok(()) } else { Err(disagree()) }
}

/// The root of a tree, from the tree of trees.
fn find_tree(reader: &mut Reader<'_>, superblock: &Superblock, number: u64) -> Result<Tree, Distrust> {
    let (address, generation, level) = superblock.root;
    let roots = Tree { number: ROOT_TREE, address, generation, level };
    let found = reader.find(roots, Key { object: number, kind: Kind::ROOT, offset: 0 })?;
    let item = found.filter(|item| item.len() >= ROOT_ITEM);
    let item = item.ok_or_else(|| Distrust::because("one of its trees is missing"))?;
    let fields = Fields(&item);
    Ok(Tree { number, address: fields.u64(176), generation: fields.u64(160), level: fields.u8(238) })
}

/// Each chunk has its block group, in which used and free bytes make up all; and the superblock counts the same.
fn check_groups(
    reader: &mut Reader<'_>,
    superblock: &Superblock,
    chunks: &Chunks,
    groups: &[GroupFree],
) -> Result<(), Distrust> {
    let wrong = || Distrust::because("its counts of free space disagree");
    let number = if superblock.has_group_tree { GROUP_TREE } else { EXTENT_TREE };
    let tree = find_tree(reader, superblock, number)?;
    if groups.len() != chunks.all().len() {
        return Err(wrong());
    }
    let mut total = 0_u64;
    for (group, chunk) in groups.iter().zip(chunks.all()) {
        let key = Key { object: group.start, kind: Kind::GROUP, offset: group.len };
        let item = reader.find(tree, key)?.filter(|item| item.len() == GROUP_ITEM).ok_or_else(wrong)?;
        let (used, flags) = (Fields(&item).u64(0), Fields(&item).u64(16));
        let agrees = group.start == chunk.start
            && group.len == chunk.len
            && flags == chunk.flags
            && used.checked_add(group.free) == Some(group.len);
        if !agrees {
            return Err(wrong());
        }
        total = total.checked_add(used).ok_or_else(wrong)?;
    }
    if total == superblock.used { Ok(()) } else { Err(wrong()) }
}

/// What a chunk's group has in use. Groups and chunks were seen to be the same.
fn used_of(chunk: &Chunk, groups: &[GroupFree]) -> u64 {
    let found = groups.binary_search_by_key(&chunk.start, |group| group.start);
    found.ok().and_then(|index| groups.get(index)).map_or(chunk.len, |group| group.len - group.free)
}

/// What is free on the device: in every copy of a chunk what its addresses have free, and all between the chunks.
fn free_of_device(
    superblock: &Superblock,
    placed: &[(u64, &Chunk)],
    addresses: &FreeRanges,
) -> Result<FreeRanges, Distrust> {
    let set_aside = superblock.set_aside();
    let mut free = FreeRanges::default();
    let mut at = 0;
    for (place, chunk) in placed {
        push_outside(&mut free, &set_aside, at..*place)?;
        let all = addresses.as_slice();
        let first = all.partition_point(|range| range.end <= chunk.start);
        for range in all[first..].iter().take_while(|range| range.start < chunk.end()) {
            let (from, to) = (range.start.max(chunk.start), range.end.min(chunk.end()));
            let on_device = place + (from - chunk.start)..place + (to - chunk.start);
            push_outside(&mut free, &set_aside, on_device)?;
        }
        at = place + chunk.len;
    }
    let last = superblock.device_len - superblock.device_len % u64::from(superblock.block);
    push_outside(&mut free, &set_aside, at..last.max(at))?;
    Ok(free)
}

/// Adds a range without what is set aside.
fn push_outside(free: &mut FreeRanges, set_aside: &[Range<u64>], range: Range<u64>) -> Result<(), Distrust> {
    let mut at = range.start;
    let mut all_in_order = true;
    for kept in set_aside.iter().filter(|kept| kept.start < range.end && kept.end > range.start) {
        all_in_order &= free.push(at..kept.start.max(at));
        at = kept.end.min(range.end);
    }
    all_in_order &= free.push(at..range.end);
    if all_in_order { Ok(()) } else { Err(Distrust::because("its chunks overlap")) }
}
