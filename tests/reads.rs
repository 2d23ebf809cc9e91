//! What a read costs, in calls of the storage: the same for a small repository and a large one, a small image and a large one.

mod common;

use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use common::watched::Watched;
use common::{file_of, image_of, make, noise, open, options, reader_of};
use copal::archiver::create::{CreateOptions, create};
use copal::archiver::extract::extract;
use copal::archiver::target::Target;
use copal::archiver::{Silent, Stop};
use copal::format::config::{ChunkerKind, ChunkerParams};
use copal::image::Image;
use copal::image::cache::CacheCounts;
use copal::image::reader::ImageReader;
use copal::repository::packer::MOST_LANES;
use copal::repository::reference::Reference;
use copal::repository::{Error, Repository};
use copal::storage::Storage;
use copal::storage::memory::MemoryStorage;
use copal::storage::patient::{AT_ONCE, Patient};
use copal::storage::recorder::{Call, Op, Recorder};
use copal::task::workers;

/// Small chunks, so that a few megabytes make thousands.
const FIXED: ChunkerParams = ChunkerParams { kind: ChunkerKind::Fixed, min: 4096, avg: 4096, max: 4096 };

/// Two lists, first and second copies, of each of four folders, and of records and states once more, for what a compaction or an undelete does
/// meanwhile; config, catalogue, record, node, map, chunk.
const COST: usize = 12 + 6;

fn back_up(repository: &Arc<Repository>, archive: &str, source: &std::path::Path) {
    let options = CreateOptions { chunker: Some(FIXED), ..options(archive, &[source]) };
    create(repository, &options, &Stop::default(), &Silent).expect("create");
}

fn add_archives(storage: &MemoryStorage, count: usize) {
    let repository = open(storage.clone());
    for i in 0..count {
        back_up(&repository, &format!("host{}", i % 10), file_of(&noise(i as u64, 5000)).path());
    }
}

/// 50 archives, the newest of `disk` with 512 chunks.
fn base() -> MemoryStorage {
    let storage = MemoryStorage::new();
    let repository = make(storage.clone());
    add_archives(&storage, 48);
    back_up(&repository, "disk", file_of(&noise(1 << 40, 1 << 20)).path());
    back_up(&repository, "disk", file_of(&noise(2 << 40, 2 << 20)).path());
    storage
}

/// Opens the repository as a new process would, lists its archives and reads 4 KiB of the newest `disk`.
fn read_one_block(storage: &MemoryStorage, offset: u64) -> Vec<Call> {
    let recorder = Arc::new(Recorder::new(storage.clone()));
    let repository = open(recorder.clone());
    let archives = repository.archives().expect("list");
    let newest = Reference::parse("disk").expect("reference").resolve(&archives).expect("an archive").id();
    let image = common::image(&repository, newest);
    let mut block = [0; 4096];
    assert_eq!(reader_of(&repository).read_at(&image, offset, &mut block).expect("read"), 4096);
    assert!(block != [0; 4096], "it is data");
    recorder.calls()
}

fn bytes_read(calls: &[Call]) -> u64 {
    calls.iter().filter(|call| call.op != Op::List).map(|call| call.len).sum()
}

fn check_path(calls: &[Call]) {
    for call in calls {
        let folder = call.name.strip_prefix("mirror/").unwrap_or(&call.name);
        assert!(!folder.starts_with("index"), "{call:?}: reading needs no index");
        assert!(!matches!(call.op, Op::Put | Op::Delete), "{call:?}: readers never write");
    }
}

#[test]
fn spans_that_are_stored_at_the_same_time_do_not_lie_in_turns() {
    if workers() > MOST_LANES {
        eprintln!("NOT TESTED: with {} cores some spans share a lane", workers());
        return;
    }
    // A span fills four packs; there are enough spans before the last ones for all lanes.
    let spans = 16;
    let repository = make(MemoryStorage::new());
    let source = file_of(&noise(3 << 40, spans << 22));
    let created = create(&repository, &options("disk", &[source.path()]), &Stop::default(), &Silent);
    let (reader, image) = (reader_of(&repository), image_of(&repository, &created.expect("create"), 0));
    for span in spans as u64 / 2..spans as u64 {
        let map = reader.maps().span(&image, span).expect("its map").expect("data");
        assert!(map.locations.len() > 50);
        for two in map.locations.windows(2) {
            let adjoin = two[0].offset + two[0].sealed_len == two[1].offset;
            assert!(two[0].pack != two[1].pack || adjoin, "span {span}: {two:?}");
        }
    }
}

#[test]
fn a_read_costs_the_same_in_a_larger_repository() {
    let storage = base();
    let small = read_one_block(&storage, 1 << 20);
    check_path(&small);
    assert_eq!(small.len(), COST, "{small:#?}");

    // Ten times as many chunks.
    let chunky = MemoryStorage::from_snapshot(storage.snapshot());
    back_up(&open(chunky.clone()), "other", file_of(&noise(3 << 40, 30 << 20)).path());
    let calls = read_one_block(&chunky, 1 << 20);
    check_path(&calls);
    assert_eq!(calls.len(), small.len(), "{calls:#?}");
    assert!(
        bytes_read(&calls) < bytes_read(&small) + 1024,
        "not a byte more, but for the new archive's entry"
    );

    // Ten times as many archives.
    add_archives(&storage, 450);
    assert_eq!(open(storage.clone()).archives().expect("list").len(), 500);
    let calls = read_one_block(&storage, 1 << 20);
    check_path(&calls);
    assert_eq!(calls.len(), small.len(), "{calls:#?}");
}

#[test]
fn a_read_costs_the_same_in_a_larger_image() {
    let storage = base();
    let small = read_one_block(&storage, 0);
    back_up(&open(storage.clone()), "disk", file_of(&noise(4 << 40, 20 << 20)).path());
    let large = read_one_block(&storage, 19 << 20);
    check_path(&large);
    assert_eq!(large.len(), small.len(), "{large:#?}");

    // So large that its tree has one level more, and one more for ever larger ones.
    for (size, levels) in [(5u64 << 30, 1), (2 << 40, 2)] {
        let mut file = tempfile::NamedTempFile::new().expect("file");
        file.write_all(&noise(5 << 40, 100_000)).expect("write");
        file.as_file().set_len(size - 8192).expect("set_len");
        std::os::unix::fs::FileExt::write_all_at(file.as_file(), &noise(6, 8192), size - 8192)
            .expect("write");
        back_up(&open(storage.clone()), "disk", file.path());
        let calls = read_one_block(&storage, size - 4096);
        check_path(&calls);
        assert_eq!(calls.len(), small.len() + levels, "{calls:#?}");
    }
}

/// A repository behind a recorder, and an image in it: data, a hole in the same span, a span that is all hole, data.
fn holed() -> (Arc<Recorder<MemoryStorage>>, Arc<Repository>, Image) {
    let recorder = Arc::new(Recorder::new(MemoryStorage::new()));
    make(recorder.clone());
    let mut bytes = noise(1, 20_000);
    bytes.resize(9 << 20, 0);
    bytes.extend(noise(2, 20_000));
    let repository = open(recorder.clone());
    let created = common::back_up(&repository, "disk", file_of(&bytes).path());
    let image = common::image(&repository, created.id.expect("an id"));
    recorder.clear();
    (recorder, repository, image)
}

#[test]
fn holes_cost_no_call() {
    let (recorder, repository, image) = holed();
    let reader = reader_of(&repository);
    let mut buffer = [1; 4096];
    // The first read of all finds the way: the tree's node. The hole's own span has no map.
    reader.read_at(&image, 5 << 20, &mut buffer).expect("read");
    assert_eq!((buffer, recorder.calls().len()), ([0; 4096], 1));
    reader.read_at(&image, 6 << 20, &mut buffer).expect("read");
    assert_eq!(recorder.calls().len(), 1);
    // Here the span has a map, but no chunk is opened.
    reader.read_at(&image, 1 << 20, &mut buffer).expect("read");
    reader.read_at(&image, 3 << 20, &mut buffer).expect("read");
    assert_eq!((buffer, recorder.calls().len()), ([0; 4096], 2));
    assert_eq!(reader.counts().chunks.loads, 0);

    let all_hole = Image { root: None, data: 0, ..image };
    let fresh = reader_of(&repository);
    recorder.clear();
    fresh.read_at(&all_hole, 5, &mut buffer).expect("read");
    assert_eq!((buffer, recorder.calls().len()), ([0; 4096], 0));
}

#[test]
fn a_second_read_costs_no_call() {
    let (recorder, repository, image) = holed();
    let reader = reader_of(&repository);
    let mut buffer = [0; 4096];
    reader.read_at(&image, 0, &mut buffer).expect("read");
    assert_eq!(recorder.calls().len(), 3, "node, map, chunk");
    // Within the first block, since the shortest chunk is just that long.
    for offset in [0, 1, 4095] {
        reader.read_at(&image, offset as u64, &mut buffer[offset..]).expect("read");
    }
    assert_eq!(recorder.calls().len(), 3);
    assert_eq!(recorder.count(Op::ReadRange), 3);
}

#[test]
fn eight_readers_open_a_chunk_once() {
    const READERS: u64 = 8;
    let (recorder, _, image) = holed();
    let storage = Watched::new(recorder.clone());
    let reader: Arc<OnceLock<ImageReader>> = Arc::default();
    let waiting = reader.clone();
    // The one load ends only when all others wait for it.
    storage.watch(move |op, name| {
        let is_chunk = op == Op::ReadRange && name.starts_with("packs/");
        let others = || waiting.get().map_or(0, |reader| reader.counts().chunks.shared);
        while is_chunk && others() < READERS - 1 {
            std::thread::yield_now();
        }
        Ok(())
    });
    let reader = reader.get_or_init(|| reader_of(&open(storage)));
    recorder.clear();
    std::thread::scope(|scope| {
        for thread in 0..READERS {
            scope.spawn(move || {
                let mut buffer = [0; 1000];
                reader.read_at(&image, thread * 7, &mut buffer).expect("read");
                assert!(buffer[..] == noise(1, 20_000)[thread as usize * 7..][..1000]);
            });
        }
    });
    let counts = reader.counts().chunks;
    assert_eq!((counts.loads, counts.shared, counts.failures), (1, READERS - 1, 0));
    let opened = recorder.calls().iter().filter(|call| call.name.starts_with("packs/")).count();
    assert_eq!(opened, 1);
}

/// A repository behind a recorder, and an image of 512 chunks of 4096 bytes that lie beside each other.
fn many_chunks() -> (Arc<Recorder<MemoryStorage>>, Arc<Repository>, Image, Vec<u8>) {
    let recorder = Arc::new(Recorder::new(MemoryStorage::new()));
    make(recorder.clone());
    let bytes = noise(7, 2 << 20);
    let repository = open(recorder.clone());
    back_up(&repository, "disk", file_of(&bytes).path());
    let newest = repository.archives().expect("list")[0].id();
    let image = common::image(&repository, newest);
    recorder.clear();
    (recorder, repository, image, bytes)
}

fn pack_reads(recorder: &Recorder<MemoryStorage>) -> Vec<u64> {
    let calls = recorder.calls();
    calls.iter().filter(|call| call.name.starts_with("packs/")).map(|call| call.len).collect()
}

#[test]
fn chunks_that_lie_beside_each_other_are_one_read() {
    let (recorder, repository, image, bytes) = many_chunks();
    let reader = reader_of(&repository);
    let read = |range: std::ops::Range<usize>| {
        let mut buffer = vec![0; range.len()];
        reader.read_at(&image, range.start as u64, &mut buffer).expect("read");
        assert!(buffer == bytes[range]);
    };
    // In the middle, so that the next one has chunks on both sides of what is there.
    read(300_000..400_000);
    let reads = pack_reads(&recorder);
    assert!(reads.len() == 1 && reads[0] > 100_000, "{reads:?}");
    read(0..900_000);
    let reads = pack_reads(&recorder);
    assert_eq!(reads.len(), 3, "{reads:?}");
    read(0..2 << 20);
    // The rest in two parts, since one is a megabyte at most; the pack may have chunks in another order than the image.
    let reads = pack_reads(&recorder);
    assert!(reads.len() <= 8, "{reads:?}");
    assert!(reads.iter().all(|len| *len <= 1 << 20));
    let overhead = 512 * 64;
    assert!(reads.iter().sum::<u64>() < (2 << 20) + overhead, "nothing is read twice: {reads:?}");
    assert_eq!(reader.counts().chunks.loads, 512);

    // All at once, with nothing there before: two looks of a megabyte; the pack may have chunks in another order than the image.
    recorder.clear();
    let mut buffer = vec![0; 2 << 20];
    reader_of(&repository).read_at(&image, 0, &mut buffer).expect("read");
    let reads = pack_reads(&recorder);
    assert!(buffer == bytes && reads.len() <= 5, "{reads:?}");
}

#[test]
fn scattered_chunks_are_read_at_once_and_who_wants_another_waits_for_none_of_them() {
    const CHUNK: usize = 4096;
    let (recorder, _, image, bytes) = many_chunks();
    let storage = Watched::new(recorder);
    let (is_on, is_over, begun) =
        (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
    let (on, over, count) = (is_on.clone(), is_over.clone(), begun.clone());
    // As many as are read at once do not come back before all of this is over.
    storage.watch(move |op, name| {
        let is_chunk = op == Op::ReadRange && name.starts_with("packs/");
        if is_chunk && on.load(Ordering::SeqCst) && count.fetch_add(1, Ordering::SeqCst) < AT_ONCE {
            let start = Instant::now();
            while !over.load(Ordering::SeqCst) && start.elapsed() < Duration::from_secs(60) {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    });
    let reader = reader_of(&open(Patient::new(storage, Duration::from_secs(600))));
    let read = |chunk: usize| {
        let mut buffer = vec![0; CHUNK];
        reader.read_at(&image, (chunk * CHUNK) as u64, &mut buffer).expect("read");
        assert!(buffer == bytes[chunk * CHUNK..][..CHUNK]);
    };
    // Every second one is there. Of the others, the last in the order of packs, which may be another.
    (0..128).step_by(2).for_each(read);
    let map = reader.maps().span(&image, 0).expect("map").expect("data");
    let place = |chunk: &usize| {
        let at = map.locations[map.map.extents[*chunk].chunk as usize];
        (at.pack.id, at.offset)
    };
    let last = (1..128).step_by(2).max_by_key(place).expect("one");
    is_on.store(true, Ordering::SeqCst);
    std::thread::scope(|scope| {
        scope.spawn(|| reader.load_ahead(&image, &(0..128 * CHUNK as u64)));
        while begun.load(Ordering::SeqCst) < AT_ONCE {
            std::thread::sleep(Duration::from_millis(1));
        }
        let start = Instant::now();
        read(last);
        assert!(start.elapsed() < Duration::from_secs(60), "it waited for what is loaded ahead");
        assert_eq!(begun.load(Ordering::SeqCst), AT_ONCE + 1);
        is_over.store(true, Ordering::SeqCst);
    });
    let counts = reader.counts().chunks;
    assert_eq!((counts.loads, counts.ahead), (65, 63), "{counts:?}");
}

#[test]
fn a_chunk_that_was_not_found_in_time_is_not_taken_for_lost() {
    let (recorder, repository, image, _) = many_chunks();
    let packs: Vec<_> = recorder.list("packs").expect("list").into_iter().map(|listed| listed.name).collect();
    for pack in &packs {
        recorder.delete(pack).expect("delete");
    }
    drop(repository);
    let storage = Watched::new(recorder);
    let hangs = Arc::new(AtomicBool::new(true));
    let hanging = hangs.clone();
    // What would lead to them does not answer.
    storage.watch(move |_, name| {
        while name.starts_with("index") && hanging.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    });
    let reader = reader_of(&open(Patient::new(storage, Duration::from_millis(500))));
    let read = || reader.read_at(&image, 0, &mut [0; 4096]).expect_err("no pack");
    let error = read();
    assert!(error.is_late(), "{error}");
    hangs.store(false, Ordering::SeqCst);
    let start = Instant::now();
    while read().is_late() && start.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(matches!(*read(), Error::LostBlob { .. }), "{}", read());
}

#[test]
fn readers_that_collide_read_nothing_twice() {
    let (recorder, repository, image, bytes) = many_chunks();
    // Room for all: a chunk of 4 KiB takes a block of 16.
    let reader = ImageReader::new(repository.clone(), 16 << 20);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (reader, bytes) = (&reader, &bytes);
            scope.spawn(move || {
                let step = 100_000 + thread * 7777;
                for start in (0..bytes.len()).step_by(step) {
                    let end = bytes.len().min(start + step);
                    let mut buffer = vec![0; end - start];
                    if thread % 2 == 0 {
                        reader.load_ahead(&image, &(start as u64..end as u64));
                    }
                    reader.read_at(&image, start as u64, &mut buffer).expect("read");
                    assert!(buffer == bytes[start..end]);
                }
            });
        }
    });
    let counts = reader.counts().chunks;
    assert_eq!((counts.loads + counts.ahead, counts.failures), (512, 0), "{counts:?}");
    assert_eq!((counts.ahead_used, counts.ahead_wasted), (counts.ahead, 0), "{counts:?}");
    assert!(pack_reads(&recorder).iter().sum::<u64>() < (2 << 20) + 512 * 64);
}

#[test]
fn what_is_loaded_ahead_is_bounded_and_costs_the_reader_nothing() {
    let (recorder, repository, image, bytes) = many_chunks();
    let reader = ImageReader::new(repository.clone(), 4 << 20);
    reader.load_ahead(&image, &(100_000..200_000));
    assert_eq!(pack_reads(&recorder).len(), 1);
    let mut buffer = vec![0; 100_000];
    reader.read_at(&image, 100_000, &mut buffer).expect("read");
    assert!(buffer == bytes[100_000..200_000] && pack_reads(&recorder).len() == 1);
    // Most of the cache stays free of what nobody has asked for, and beyond the end there is nothing.
    let most = reader.ahead_limit() as u64 + (1 << 20);
    reader.load_ahead(&image, &(0..image.size + 5));
    reader.load_ahead(&image, &(0..image.size));
    reader.load_ahead(&image, &(image.size + 5..image.size + 10));
    let loaded: u64 = pack_reads(&recorder).iter().sum();
    assert!(loaded < most + 100_000, "{loaded}");
}

#[test]
fn an_extract_reads_each_piece_of_a_pack_once_and_keeps_nothing() {
    let (recorder, repository, image, bytes) = many_chunks();
    let reader = reader_of(&repository);
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("disk");
    let target = Target::open(&path, image.size, false).expect("target");
    extract(&reader, &image, &(0..image.size), &target, &Stop::default(), &Silent).expect("extract");
    target.finish().expect("finish");
    assert!(std::fs::read(&path).expect("read") == bytes);
    let reads = pack_reads(&recorder);
    assert!(reads.len() <= 5 && reads.iter().sum::<u64>() < (2 << 20) + 512 * 64, "{reads:?}");
    assert_eq!(reader.counts().chunks, CacheCounts::default());
}

#[test]
fn a_part_of_an_image_is_visited_piece_by_piece_but_for_its_holes() {
    let recorder = Arc::new(Recorder::new(MemoryStorage::new()));
    make(recorder.clone());
    let repository = open(recorder.clone());
    let mut bytes = noise(9, 6 << 20);
    bytes[1_000_000..3_000_000].fill(0);
    // One chunk, again and again.
    let same = bytes[..4096].to_vec();
    bytes[4 << 20..5 << 20].chunks_mut(4096).for_each(|block| block.copy_from_slice(&same));
    back_up(&repository, "disk", file_of(&bytes).path());
    let image = common::image(&repository, repository.archives().expect("list")[0].id());
    let reader = reader_of(&repository);
    recorder.clear();
    for range in [0..6 << 20, 4095..4097, 999_000..3_100_000, (4 << 20) + 5..(5 << 20) - 7, 5 << 20..8 << 20]
    {
        let mut found = vec![0; (range.end - range.start) as usize];
        let mut seen = 0;
        let handed = reader.visit(&image, &range, &mut |offset, part| -> Result<(), Arc<Error>> {
            found[(offset - range.start) as usize..][..part.len()].copy_from_slice(part);
            seen += part.len() as u64;
            Ok(())
        });
        let end = range.end.min(6 << 20).max(range.start);
        assert_eq!(handed.expect("visit"), seen);
        assert!(
            found[..(end - range.start) as usize]
                == bytes[range.start as usize..][..(end - range.start) as usize]
        );
        let holes = (1_003_520..2_998_272).filter(|at| range.contains(at)).count() as u64;
        assert_eq!(seen, end - range.start - holes, "{range:?}");
    }
    assert!(
        pack_reads(&recorder).iter().sum::<u64>() < 11 << 20,
        "what is shown often is read once for each mebibyte"
    );
    let stopped = reader.visit(&image, &(0..6 << 20), &mut |_, _| Err(Stopping));
    assert!(stopped.is_err());
}

/// An error of whoever visits.
#[derive(Debug)]
struct Stopping;

impl From<Arc<Error>> for Stopping {
    fn from(error: Arc<Error>) -> Self {
        panic!("the repository failed: {error}")
    }
}

/// How often the index is read where a disk was backed up that is as it was, but for some blocks; and where its content moved.
#[test]
fn a_create_looks_up_what_the_last_archive_does_not_have() {
    let bytes = common::mixed(5, 24 << 20);
    let source = file_of(&bytes);
    let recorder = Arc::new(Recorder::new(base()));
    let repository = open(recorder.clone());
    back_up(&repository, "disk", source.path());
    let read_of_index = |archive: &str, source: &std::path::Path| {
        recorder.clear();
        let mut options = options(archive, &[source]);
        (options.force_read, options.chunker) = (true, Some(FIXED));
        let created = create(&repository, &options, &Stop::default(), &Silent).expect("create");
        let calls = recorder.calls();
        let reads = calls.iter().filter(|call| call.op == Op::ReadRange && call.name.starts_with("index/"));
        (reads.filter(|call| call.offset > 0).count() as u64, created.record.stats.reused_chunks)
    };
    // Spans and nodes, which are not looked for in the last archive.
    let (same, chunks) = read_of_index("disk", source.path());
    assert!(same <= 8 && chunks > 1000, "{same} pages of the index were read for what has not changed");
    // Under a name that has no archive yet: two chunks lead to what was stored beside them.
    let (other, chunks) = read_of_index("other", source.path());
    assert!(other * 20 <= chunks, "{other} pages of the index were read for {chunks} chunks");
}
