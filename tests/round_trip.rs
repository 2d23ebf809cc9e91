//! Images come back as they were: every byte, every hole, at any offset and length.

mod common;

use std::fs::File;
use std::sync::Arc;

use common::{back_up, file_of, image_of, make, mixed, noise, open, options, read_all, reader_of};
use copal::archiver::create::create;
use copal::archiver::extract::{extract, extract_to_stream};
use copal::archiver::stream::Stream;
use copal::archiver::target::Target;
use copal::archiver::{Silent, Stop};
use copal::image::Image;
use copal::image::reader::ImageReader;
use copal::storage::memory::MemoryStorage;
use proptest::prelude::*;

#[test]
fn awkward_sizes_come_back_byte_for_byte() {
    let repository = make(MemoryStorage::new());
    for len in [0, 1, 511, 4095, 4096, 4097, (4 << 20) - 1, 4 << 20, (4 << 20) + 1, (9 << 20) + 777] {
        let bytes = mixed(len as u64, len);
        let created = back_up(&repository, "disk", file_of(&bytes).path());
        assert_eq!(created.record.members[0].size, len as u64);
        let image = image_of(&repository, &created, 0);
        let reader = reader_of(&open_again(&repository));
        assert!(read_all(&reader, &image, 100_003) == bytes, "{len} bytes");
    }
}

fn open_again(repository: &Arc<copal::repository::Repository>) -> Arc<copal::repository::Repository> {
    open(repository.objects().storage().clone())
}

#[test]
fn members_are_separate_images() {
    let repository = make(MemoryStorage::new());
    let [a, b] = [mixed(1, 3 << 20), mixed(2, 5 << 20)];
    let [fa, fb] = [file_of(&a), file_of(&b)];
    let created = create(&repository, &options("vm", &[fa.path(), fb.path()]), &Stop::default(), &Silent)
        .expect("create");
    let reader = reader_of(&repository);
    assert!(read_all(&reader, &image_of(&repository, &created, 0), 1 << 20) == a);
    assert!(read_all(&reader, &image_of(&repository, &created, 1), 1 << 20) == b);
}

/// What SEEK_DATA and SEEK_HOLE should say, from the bytes alone.
fn reference(bytes: &[u8], from: usize, hole: bool) -> Option<usize> {
    let is_hole = |at: usize| {
        let block = at / 4096 * 4096;
        bytes[block..bytes.len().min(block + 4096)].iter().all(|byte| *byte == 0)
    };
    (from..bytes.len()).find(|at| is_hole(*at) == hole)
}

#[test]
fn holes_are_exactly_the_zero_blocks() {
    let repository = make(MemoryStorage::new());
    let bytes = mixed(5, 13 << 20);
    let created = back_up(&repository, "disk", file_of(&bytes).path());
    let image = image_of(&repository, &created, 0);
    let reader = reader_of(&repository);
    let zero_blocks = bytes.chunks(4096).filter(|block| block.iter().all(|byte| *byte == 0));
    assert_eq!(image.data, bytes.len() as u64 - zero_blocks.map(|block| block.len() as u64).sum::<u64>());
    for from in (0..bytes.len()).step_by(65_537) {
        let data = reader.maps().next_data(&image, from as u64).expect("seek");
        assert_eq!(data, reference(&bytes, from, false).map(|at| at as u64), "data from {from}");
        let hole = reader.maps().next_hole(&image, from as u64).expect("seek");
        assert_eq!(hole, reference(&bytes, from, true).unwrap_or(bytes.len()) as u64, "hole from {from}");
    }
    assert_eq!(reader.maps().next_data(&image, image.size).expect("seek"), None);
    assert_eq!(reader.maps().next_data(&image, u64::MAX).expect("seek"), None);
}

#[test]
fn a_terabyte_of_hole_costs_nothing() {
    let repository = make(MemoryStorage::new());
    let file = tempfile::NamedTempFile::new().expect("file");
    file.as_file().set_len(1 << 40).expect("set_len");
    let created = back_up(&repository, "hole", file.path());
    assert_eq!(created.record.stats.read, 0);
    assert_eq!(created.record.stats.new_sealed, 0);
    let image = image_of(&repository, &created, 0);
    let mut buffer = [1; 4096];
    assert_eq!(reader_of(&repository).read_at(&image, (1 << 40) - 4000, &mut buffer).expect("read"), 4000);
    assert!(buffer[..4000].iter().all(|byte| *byte == 0));
}

#[test]
fn lone_data_far_out_makes_a_high_tree() {
    let repository = make(MemoryStorage::new());
    let file = tempfile::NamedTempFile::new().expect("file");
    let at = [0, (1 << 30) - 5, 1 << 36, (1 << 42) + 12345];
    for (i, at) in at.iter().enumerate() {
        std::os::unix::fs::FileExt::write_all_at(file.as_file(), &noise(i as u64, 9000), *at).expect("write");
    }
    let created = back_up(&repository, "thin", file.path());
    let image = image_of(&repository, &created, 0);
    assert!(image.root.expect("there is data").level >= 2);
    let reader = reader_of(&repository);
    for (i, at) in at.iter().enumerate() {
        let mut buffer = [0; 9000];
        reader.read_at(&image, *at, &mut buffer).expect("read");
        assert!(buffer[..] == noise(i as u64, 9000));
        let block = at / 4096 * 4096;
        assert_eq!(reader.maps().next_data(&image, block).expect("seek"), Some(block));
    }
    assert_eq!(reader.maps().next_data(&image, 20_000).expect("seek"), Some(((1 << 30) - 5) / 4096 * 4096));
}

#[test]
fn an_unchanged_image_stores_nothing_but_its_record() {
    let repository = make(MemoryStorage::new());
    let file = file_of(&mixed(7, 12 << 20));
    let first = back_up(&repository, "disk", file.path());
    let second = back_up(&open_again(&repository), "disk", file.path());
    assert_eq!(second.record.stats.new_chunks, 0);
    assert_eq!(second.record.stats.new_sealed, 0, "maps and nodes are used again too");
    assert_eq!(second.record.previous, first.id);
    assert_eq!(first.record.members[0].root, second.record.members[0].root);
}

#[test]
fn eight_readers_at_once_see_the_same_bytes() {
    let repository = make(MemoryStorage::new());
    let bytes = mixed(11, 16 << 20);
    let created = back_up(&repository, "disk", file_of(&bytes).path());
    let image = image_of(&repository, &created, 0);
    let reader = ImageReader::new(repository, 2 << 20);
    std::thread::scope(|scope| {
        for thread in 0..8u64 {
            let (reader, bytes) = (&reader, &bytes);
            scope.spawn(move || check_random_reads(reader, &image, bytes, thread, 300));
        }
    });
}

fn check_random_reads(reader: &ImageReader, image: &Image, bytes: &[u8], seed: u64, count: usize) {
    let mut step = seed + 1;
    let mut buffer = vec![0; 300_000];
    for _ in 0..count {
        step = step.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let offset = (step >> 20) as usize % (bytes.len() + 5000);
        let len = (step >> 7) as usize % buffer.len();
        let read = reader.read_at(image, offset as u64, &mut buffer[..len]).expect("read");
        let expected = &bytes[offset.min(bytes.len())..(offset + len).min(bytes.len())];
        assert!(buffer[..read] == *expected, "{offset} + {len}");
    }
}

#[test]
fn extracts_equal_the_source_and_are_sparse() {
    use std::os::unix::fs::MetadataExt;
    let repository = make(MemoryStorage::new());
    let bytes = mixed(13, (21 << 20) + 333);
    let created = back_up(&repository, "disk", file_of(&bytes).path());
    let image = image_of(&repository, &created, 0);
    let reader = reader_of(&repository);
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("out.img");
    let target = Target::open(&path, image.size, false).expect("target");
    extract(&reader, &image, &(0..image.size), &target, &Stop::default(), &Silent).expect("extract");
    assert!(!path.exists(), "the file appears only when it is whole");
    target.finish().expect("finish");
    assert!(std::fs::read(&path).expect("read") == bytes);
    assert!(std::fs::metadata(&path).expect("stat").blocks() * 512 < image.data + (1 << 20));
    assert!(Target::open(&path, image.size, false).is_err(), "an existing file is not replaced");

    let path = dir.path().join("stream");
    let stream = Stream::new(File::create(&path).expect("file").into());
    extract_to_stream(&reader, &image, &(0..image.size), stream, &Stop::default(), &Silent).expect("extract");
    assert!(std::fs::read(&path).expect("read") == bytes);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_image_comes_back(seed: u64, len in 0usize..(10 << 20), piece in 1usize..(1 << 20)) {
        let repository = make(MemoryStorage::new());
        let bytes = mixed(seed, len);
        let created = back_up(&repository, "disk", file_of(&bytes).path());
        let image = image_of(&repository, &created, 0);
        let reader = reader_of(&repository);
        prop_assert!(read_all(&reader, &image, piece) == bytes);
        check_random_reads(&reader, &image, &bytes, seed, 20);
    }
}
