//! Every byte of a mounted image is its source's, however it is read.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::Command;

use fuse_tests::devices::LoopDevice;
use fuse_tests::noise::{Random, mixed, noise};
use fuse_tests::process::{run, traffic};
use fuse_tests::reading::{check_all, check_edges, check_random, check_range, drop_cache};
use fuse_tests::requires;
use fuse_tests::sandbox::{Archiving, Sandbox};

/// Three spans, the last with an odd length.
const SEVERAL_SPANS: usize = (33 << 20) + 777;

#[test]
fn images_of_awkward_lengths_equal_their_sources() {
    requires!(fuse, root);
    let sandbox = Sandbox::new();
    let span = 16 << 20;
    let lengths = [0, 1, 511, 512, 513, 4095, 4096, 4097, span - 1, span, span + 1];
    let images: Vec<Vec<u8>> = lengths.iter().map(|len| mixed(*len as u64 + 1, *len)).collect();
    let paths: Vec<_> =
        lengths.iter().zip(&images).map(|(len, bytes)| sandbox.file(&format!("m{len}"), bytes)).collect();
    let sources: Vec<_> = paths.iter().map(|path| path.as_os_str()).collect();
    sandbox.create(Archiving { name: "lengths", sources: &sources, args: &[] });
    let mount = sandbox.mount();
    let extracted = sandbox.mountpoint("extracted");
    run(sandbox.copal().arg("extract").arg(sandbox.reference("lengths")).arg(&extracted));
    for (len, bytes) in lengths.iter().zip(&images) {
        check_all(&mount.path("lengths/latest").join(format!("m{len}.img")), bytes, 1 << 20);
        assert!(
            fs::read(extracted.join(format!("m{len}"))).expect("read") == *bytes,
            "{len} bytes extracted"
        );
    }
}

#[test]
fn sequential_reads_of_any_piece_equal_the_source() {
    requires!(fuse, root);
    let sandbox = Sandbox::new();
    let bytes = mixed(1, SEVERAL_SPANS);
    sandbox.back_up_bytes("disk", &bytes);
    let mount = sandbox.mount();
    for piece in [4096, 100_003, 8 << 20] {
        check_all(&mount.latest("disk"), &bytes, piece);
        drop_cache(&mount.open("disk"));
    }
}

#[test]
fn an_image_of_random_data_equals_its_source() {
    requires!(fuse, root);
    let sandbox = Sandbox::new();
    let bytes = noise(2, (18 << 20) + 5);
    sandbox.back_up_bytes("random", &bytes);
    let mount = sandbox.mount();
    check_all(&mount.latest("random"), &bytes, 1 << 20);
    assert!(fs::read(sandbox.extract("random")).expect("read") == bytes);
}

#[test]
fn reads_at_random_places_and_across_edges_equal_the_source() {
    requires!(fuse, root);
    let sandbox = Sandbox::new();
    let bytes = mixed(3, SEVERAL_SPANS);
    sandbox.back_up_bytes("disk", &bytes);
    let edges = sandbox.edges("disk");
    assert!(edges.len() > 100, "chunks and spans have edges: {}", edges.len());
    let mount = sandbox.mount();
    let file = mount.open("disk");
    check_random(&file, &bytes, 1, 1500);
    drop_cache(&file);
    check_edges(&file, &bytes, edges);
}

#[test]
fn reads_past_the_end_are_short_or_empty() {
    requires!(fuse, root);
    let sandbox = Sandbox::plain();
    let bytes = noise(4, 10_001);
    sandbox.back_up_bytes("disk", &bytes);
    let mount = sandbox.mount();
    let file = mount.open("disk");
    let mut buffer = [0; 100];
    assert_eq!(file.read_at(&mut buffer, 10_000).expect("read"), 1);
    assert_eq!(buffer[0], bytes[10_000]);
    for past in [10_001, 10_002, 12_287, 12_288, 1 << 40, i64::MAX as u64 - 100] {
        assert_eq!(file.read_at(&mut buffer, past).expect("read"), 0, "at {past}");
    }
}

#[test]
fn eight_readers_at_once_see_the_same_bytes() {
    requires!(fuse, root);
    let sandbox = Sandbox::new();
    let bytes = mixed(5, SEVERAL_SPANS);
    sandbox.back_up_bytes("disk", &bytes);
    let mount = sandbox.mount_with("mnt", None, &["--cache-size", "16M"]);
    std::thread::scope(|scope| {
        for reader in 0..8 {
            let (mount, bytes) = (&mount, &bytes);
            scope.spawn(move || {
                let file = mount.open("disk");
                check_random(&file, bytes, reader, 150);
                drop_cache(&file);
                check_random(&file, bytes, reader + 100, 150);
            });
        }
    });
}

#[test]
fn bytes_are_the_same_after_the_page_cache_is_dropped() {
    requires!(fuse, root);
    let sandbox = Sandbox::plain();
    let bytes = mixed(6, 8 << 20);
    sandbox.back_up_bytes("disk", &bytes);
    let mount = sandbox.mount();
    for _ in 0..3 {
        let before = traffic(mount.pid()).written;
        check_all(&mount.latest("disk"), &bytes, 1 << 20);
        assert!(traffic(mount.pid()).written - before >= 8 << 20, "the server was asked again");
        drop_cache(&mount.open("disk"));
    }
}

#[test]
fn a_memory_mapped_image_equals_its_source() {
    requires!(fuse, root, "python3");
    let sandbox = Sandbox::plain();
    let bytes = mixed(7, (17 << 20) + 99);
    sandbox.back_up_bytes("disk", &bytes);
    let mount = sandbox.mount();
    let script = "
import mmap, sys
with open(sys.argv[1], 'rb') as a, open(sys.argv[2], 'rb') as b:
    with mmap.mmap(a.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ) as mapped:
        whole = b.read()
        # Backwards, so that readahead is no help.
        for at in reversed(range(0, len(whole), 65536)):
            assert mapped[at:at + 65536] == whole[at:at + 65536], at
        assert len(mapped) == len(whole)
";
    run(Command::new("python3")
        .args(["-c", script])
        .arg(mount.latest("disk"))
        .arg(sandbox.path("disk.source")));
}

/// Reads with O_DIRECT into a buffer aligned to pages.
fn read_direct(path: &Path, bytes: &[u8], seed: u64, count: usize) {
    let mut options = OpenOptions::new();
    let file = options.read(true).custom_flags(libc::O_DIRECT).open(path).expect("open with O_DIRECT");
    let mut space = vec![0; (1 << 20) + 4096];
    let aligned = space.as_ptr().align_offset(4096);
    let mut random = Random::new(seed);
    for _ in 0..count {
        let offset = random.below(bytes.len() / 4096 + 2) * 4096;
        let len = (random.below(64) + 1) * 4096;
        let buffer = &mut space[aligned..aligned + len];
        let read = file.read_at(buffer, offset as u64).expect("read");
        let expected = &bytes[offset.min(bytes.len())..(offset + len).min(bytes.len())];
        assert!(buffer[..read] == *expected, "{len} bytes at {offset}");
    }
}

#[test]
fn direct_reads_equal_the_source() {
    requires!(fuse, root);
    let sandbox = Sandbox::plain();
    let bytes = mixed(8, (17 << 20) + 1234);
    sandbox.back_up_bytes("disk", &bytes);
    let mount = sandbox.mount();
    read_direct(&mount.latest("disk"), &bytes, 1, 400);
}

#[test]
fn a_loop_device_on_an_image_equals_the_source() {
    requires!(fuse, root, loop, losetup);
    let sandbox = Sandbox::plain();
    let bytes = mixed(9, 9 << 20);
    sandbox.back_up_bytes("disk", &bytes);
    let mount = sandbox.mount();
    for direct in ["--direct-io=off", "--direct-io=on"] {
        let device = LoopDevice::attach(&mount.latest("disk"), &["--read-only", direct]);
        let file = File::open(device.path()).expect("open");
        check_random(&file, &bytes, 1, 200);
        check_range(&file, &bytes, bytes.len() - 4096, 5000);
        assert!(
            OpenOptions::new()
                .write(true)
                .open(device.path())
                .and_then(|file| file.write_at(b"x", 0))
                .is_err()
        );
    }
}
