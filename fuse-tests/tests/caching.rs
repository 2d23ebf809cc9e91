//! What is kept in memory, and what is asked for again: counted, not timed.

use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use fuse_tests::noise::{mixed, noise};
use fuse_tests::process::traffic;
use fuse_tests::reading::check_all;
use fuse_tests::requires;
use fuse_tests::sandbox::Sandbox;

const LEN: usize = 12 << 20;
/// Requests and listings beside the data: far less than any image here.
const BESIDE: u64 = 1 << 20;

/// Reads all of a file past the page cache.
fn read_direct(path: &Path, bytes: &[u8]) {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path).expect("open");
    let mut space = vec![0; (256 << 10) + 4096];
    let aligned = space.as_ptr().align_offset(4096);
    let buffer = &mut space[aligned..aligned + (256 << 10)];
    for (number, part) in bytes.chunks(buffer.len()).enumerate() {
        let read = file.read_at(buffer, (number * buffer.len()) as u64).expect("read");
        assert!(buffer[..read] == *part);
    }
}

#[test]
fn the_page_cache_is_kept_when_an_image_is_opened_again() {
    requires!(fuse, root);
    let sandbox = Sandbox::plain();
    let bytes = noise(1, LEN);
    sandbox.back_up_bytes("disk", &bytes);
    let mount = sandbox.mount();
    let start = traffic(mount.pid());
    check_all(&mount.latest("disk"), &bytes, 1 << 20);
    let first = traffic(mount.pid());
    assert!(first.written - start.written >= LEN as u64);
    for _ in 0..3 {
        check_all(&mount.latest("disk"), &bytes, 1 << 20);
    }
    let second = traffic(mount.pid());
    assert!(
        second.written - first.written < BESIDE,
        "the server sent {} bytes",
        second.written - first.written
    );
}

#[test]
fn a_chunk_is_read_from_storage_once_however_many_readers_want_it() {
    requires!(fuse, root);
    let sandbox = Sandbox::plain();
    let bytes = noise(2, LEN);
    sandbox.back_up_bytes("disk", &bytes);
    let mount = sandbox.mount();
    let start = traffic(mount.pid());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| read_direct(&mount.latest("disk"), &bytes));
        }
    });
    let end = traffic(mount.pid());
    assert!(end.written - start.written >= 8 * LEN as u64, "all readers were served by the server");
    assert!(end.read - start.read < LEN as u64 + BESIDE, "{} bytes read for {LEN}", end.read - start.read);
}

#[test]
fn archives_share_what_is_cached_of_their_common_chunks() {
    requires!(fuse, root);
    let sandbox = Sandbox::plain();
    let bytes = noise(3, LEN);
    sandbox.back_up_at("disk", "2026-11-19T03:00:00Z", &bytes);
    let mut changed = bytes.clone();
    changed[LEN / 2] ^= 1;
    sandbox.back_up_at("disk", "2026-11-20T03:00:00Z", &changed);
    let mount = sandbox.mount();
    read_direct(&mount.path("disk/20261119T030000Z.img"), &bytes);
    let first = traffic(mount.pid());
    read_direct(&mount.path("disk/20261120T030000Z.img"), &changed);
    let second = traffic(mount.pid());
    assert!(second.read - first.read < BESIDE, "{} bytes read", second.read - first.read);
}

#[test]
fn holes_are_served_without_storage() {
    requires!(fuse, root);
    let sandbox = Sandbox::plain();
    let bytes = [noise(4, 4096), vec![0; LEN]].concat();
    sandbox.back_up_bytes("disk", &bytes);
    let mount = sandbox.mount();
    let start = traffic(mount.pid());
    read_direct(&mount.latest("disk"), &bytes);
    assert!(traffic(mount.pid()).read - start.read < BESIDE);
}

#[test]
fn a_mount_reads_little_before_the_first_byte() {
    requires!(fuse, root);
    let sandbox = Sandbox::plain();
    let bytes = noise(5, (40 << 20) + 7);
    sandbox.back_up_bytes("disk", &bytes);
    let mount = sandbox.mount();
    let file =
        OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(mount.latest("disk")).expect("open");
    let mut space = vec![0; 8192];
    let aligned = space.as_ptr().align_offset(4096);
    assert_eq!(file.read_at(&mut space[aligned..aligned + 4096], 30 << 20).expect("read"), 4096);
    let read = traffic(mount.pid()).read;
    assert!(read < BESIDE, "{read} bytes read from start to first byte");
}

#[test]
fn two_mounts_at_once_serve_the_same_repository() {
    requires!(fuse, root);
    let sandbox = Sandbox::new();
    let bytes = mixed(6, LEN);
    sandbox.back_up_bytes("disk", &bytes);
    let mounts = [sandbox.mount_with("a", None, &[]), sandbox.mount_with("b", Some("disk"), &[])];
    std::thread::scope(|scope| {
        scope.spawn(|| check_all(&mounts[0].latest("disk"), &bytes, 100_000));
        scope.spawn(|| check_all(&mounts[1].path("latest.img"), &bytes, 100_000));
    });
    let [first, second] = mounts;
    drop(first);
    check_all(&second.path("latest.img"), &bytes, 1 << 20);
}
