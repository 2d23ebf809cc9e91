//! Damage takes away the bytes that it hit, and nothing else.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use fuse_tests::damage::{Damaged, flip_chunk_at};
use fuse_tests::mounted::Mount;
use fuse_tests::noise::noise;
use fuse_tests::reading::{check_all, drop_cache};
use fuse_tests::requires;
use fuse_tests::sandbox::Sandbox;

const PAGE: u64 = 4096;
/// Where the damage is done.
const PLACE: u64 = 5_000_000;

/// Random data in one span and a bit, with one chunk damaged.
fn damaged() -> (Sandbox, Vec<u8>, Damaged) {
    let sandbox = Sandbox::new();
    let bytes = noise(1, (17 << 20) + 100);
    sandbox.back_up_bytes("disk", &bytes);
    let damaged = flip_chunk_at(&sandbox, "disk", PLACE);
    (sandbox, bytes, damaged)
}

/// Reads a page at a time; checks what is read, and that just those pages fail that need the damaged chunk.
fn check_pages(file: &File, bytes: &[u8], damaged: &Damaged) {
    let mut buffer = [0; PAGE as usize];
    for (number, page) in bytes.chunks(PAGE as usize).enumerate() {
        let start = number as u64 * PAGE;
        let end = start + page.len() as u64;
        let hit = damaged.ranges.iter().any(|range| range.start < end && start < range.end);
        match file.read_at(&mut buffer, start) {
            Ok(read) => assert!(!hit && buffer[..read] == *page, "page at {start}, damaged: {hit}"),
            Err(error) => assert!(hit && error.raw_os_error() == Some(libc::EIO), "page at {start}: {error}"),
        }
    }
}

#[test]
fn a_damaged_chunk_fails_only_reads_that_need_it() {
    requires!(fuse, root);
    let (sandbox, bytes, damaged) = damaged();
    let other = noise(2, 1 << 20);
    sandbox.back_up_bytes("other", &other);
    let mut mount = sandbox.mount();
    let file = mount.open("disk");
    check_pages(&file, &bytes, &damaged);
    drop_cache(&file);
    check_pages(&file, &bytes, &damaged);
    check_all(&mount.latest("other"), &other, 1 << 20);
    assert!(!mount.has_ended(), "the mount lives");
}

#[test]
fn one_line_tells_of_a_damaged_chunk_whoever_asks_for_it() {
    requires!(fuse, root);
    let (sandbox, bytes, damaged) = damaged();
    let mount = sandbox.mount();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let file = mount.open("disk");
                for _ in 0..3 {
                    check_pages(&file, &bytes, &damaged);
                }
            });
        }
    });
    let log = mount.log();
    let lines: Vec<&str> = log.lines().collect();
    let [line] = lines[..] else { panic!("one line is expected:\n{log}") };
    let (archive, ..) = sandbox.image("disk");
    for part in ["error", "archive disk", &archive.id().to_string(), "offset ", &damaged.chunk, &damaged.pack]
    {
        assert!(line.contains(part), "{part:?} is not in {line:?}");
    }
    let offset = line.split("offset ").nth(1).and_then(|rest| rest.split(':').next()?.parse::<u64>().ok());
    let offset = offset.expect("the image's offset is a number");
    let near = damaged.ranges.iter().any(|range| offset < range.end && range.start < offset + (8 << 20));
    assert!(near, "{offset} is not where {:?} is read", damaged.ranges);
}

#[test]
fn extract_tells_of_a_damaged_chunk_and_leaves_no_file() {
    requires!(fuse, root);
    let (sandbox, _, damaged) = damaged();
    let target = sandbox.path("target");
    let said = sandbox.fails(&["extract", &sandbox.reference("disk"), &target.to_string_lossy()]);
    assert!(said.contains(&damaged.chunk) && said.contains(&damaged.pack), "{said}");
    assert!(!target.exists());
}

/// Overwrites the middle of every file in a folder of the repository.
fn spoil(folder: &Path) {
    for path in fuse_tests::sandbox::files_below(folder) {
        let file = fs::OpenOptions::new().read(true).write(true).open(&path).expect("open");
        let at = file.metadata().expect("stat").len() / 2;
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).expect("read");
        file.write_all_at(&[!byte[0]], at).expect("write");
    }
}

fn is_unharmed(mount: &Mount, bytes: &[u8]) {
    check_all(&mount.latest("disk"), bytes, 1 << 20);
}

#[test]
fn damaged_maps_and_records_are_read_from_their_second_copy() {
    requires!(fuse, root);
    let sandbox = Sandbox::new();
    let bytes = noise(3, (17 << 20) + 100);
    sandbox.back_up_bytes("disk", &bytes);
    for folder in ["maps", "archives", "keys", "catalogue"] {
        spoil(&sandbox.repository().join(folder));
    }
    is_unharmed(&sandbox.mount(), &bytes);
}

#[test]
fn a_missing_pack_fails_with_eio_and_the_mount_lives() {
    requires!(fuse, root);
    let sandbox = Sandbox::new();
    let [lost, kept] = [noise(4, 1 << 20), noise(5, 1 << 20)];
    sandbox.back_up_bytes("lost", &lost);
    fs::rename(sandbox.repository().join("packs"), sandbox.path("away")).expect("rename");
    sandbox.back_up_bytes("kept", &kept);
    let mut mount = sandbox.mount();
    let error = mount.open("lost").read_at(&mut [0; 100], 0).expect_err("its pack is away");
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    assert!(mount.log().contains("its pack is missing"), "{}", mount.log());
    check_all(&mount.latest("kept"), &kept, 1 << 20);
    assert!(!mount.has_ended(), "the mount lives");
}
