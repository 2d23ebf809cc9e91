//! What a mounted image says of its holes is true, and tools that ask make sparse copies.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use fuse_tests::noise::{mixed, noise};
use fuse_tests::reading::{check_all, data_of, data_ranges, read_at, total};
use fuse_tests::sandbox::Sandbox;
use fuse_tests::{requires, tool};
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

const LEN: usize = (33 << 20) + 777;

/// Bytes that a file has allocated.
fn allocated(path: &Path) -> u64 {
    fs::metadata(path).expect("stat").blocks() * 512
}

fn assert_within_two_percent(found: u64, truth: u64, what: &str) {
    assert!(found.abs_diff(truth) * 50 <= truth, "{what}: {found}, in truth {truth}");
}

#[test]
fn seek_shows_every_block_of_zeros_as_a_hole_and_nothing_else() {
    requires!(fuse, root);
    let sandbox = Sandbox::new();
    for (name, bytes) in [
        ("mixed", mixed(1, LEN)),
        ("full", noise(2, 17 << 20)),
        ("tail", [vec![0; 17 << 20], noise(3, 5000), vec![0; 100_000]].concat()),
        ("zeros", vec![0; 5000]),
        ("empty", vec![]),
    ] {
        sandbox.back_up_bytes(name, &bytes);
        let mount = sandbox.mount();
        let found = data_ranges(mount.open(name));
        assert_eq!(found, data_of(&bytes), "{name}");
    }
}

#[test]
fn holes_of_a_source_are_holes_in_the_image() {
    requires!(fuse, root);
    let sandbox = Sandbox::plain();
    sandbox.back_up_bytes("disk", &mixed(4, LEN));
    let mount = sandbox.mount();
    let source = data_ranges(File::open(sandbox.path("disk.source")).expect("open"));
    for data in data_ranges(mount.open("disk")) {
        let inside = source.iter().any(|range| range.start <= data.start && data.end <= range.end);
        assert!(inside, "the source has a hole within {data:?}");
    }
}

#[test]
fn seek_behind_the_last_data_is_enxio() {
    requires!(fuse, root);
    let sandbox = Sandbox::plain();
    let size = (1 << 20) + 5;
    sandbox.back_up_bytes("disk", &[noise(1, 8192), vec![0; size - 8192]].concat());
    sandbox.back_up_bytes("full", &noise(1, 8193));
    sandbox.back_up_bytes("empty", &[]);
    let mount = sandbox.mount();
    let [disk, full, empty] = ["disk", "full", "empty"].map(|name| mount.open(name));
    let size = size as u64;
    assert_eq!(seek(&disk, SeekFrom::Data(8191)), Ok(8191));
    assert_eq!(seek(&disk, SeekFrom::Hole(0)), Ok(8192));
    assert_eq!(seek(&disk, SeekFrom::Hole(size - 1)), Ok(size - 1));
    for at in [8192, size - 1, size, size + 1, 1 << 50] {
        assert_eq!(seek(&disk, SeekFrom::Data(at)), Err(Errno::NXIO), "data at {at}");
    }
    for at in [size, size + 1, 1 << 50] {
        assert_eq!(seek(&disk, SeekFrom::Hole(at)), Err(Errno::NXIO), "hole at {at}");
    }
    assert_eq!(seek(&full, SeekFrom::Data(8192)), Ok(8192));
    assert_eq!(seek(&full, SeekFrom::Hole(8192)), Ok(8193), "the end counts as a hole");
    assert_eq!(seek(&full, SeekFrom::Data(8193)), Err(Errno::NXIO));
    assert_eq!(seek(&empty, SeekFrom::Data(0)), Err(Errno::NXIO));
    assert_eq!(seek(&empty, SeekFrom::Hole(0)), Err(Errno::NXIO));
}

#[test]
fn blocks_count_the_data_and_du_agrees() {
    requires!(fuse, root, du);
    let sandbox = Sandbox::plain();
    let bytes = mixed(5, LEN);
    sandbox.back_up_bytes("disk", &bytes);
    let mount = sandbox.mount();
    let data = total(&data_of(&bytes));
    assert_eq!(allocated(&mount.latest("disk")), data.next_multiple_of(512));
    let du = |path: &Path| -> u64 {
        let said = tool!("du", "--dereference", "--block-size=1", path);
        said.split_whitespace().next().expect("a number").parse().expect("a number")
    };
    assert_within_two_percent(du(&mount.latest("disk")), data, "du of the image");
    assert_within_two_percent(
        du(&mount.latest("disk")),
        du(&sandbox.path("disk.source")),
        "du of image and source",
    );
}

#[test]
fn cp_makes_a_sparse_copy() {
    requires!(fuse, root, cp);
    let sandbox = Sandbox::plain();
    let bytes = mixed(6, LEN);
    sandbox.back_up_bytes("disk", &bytes);
    let mount = sandbox.mount();
    let copy = sandbox.path("copy");
    tool!("cp", "--sparse=auto", mount.latest("disk"), copy);
    check_all(&copy, &bytes, 4 << 20);
    assert_within_two_percent(allocated(&copy), total(&data_of(&bytes)), "the copy");
}

#[test]
fn qemu_img_makes_a_sparse_copy_and_sees_the_holes() {
    requires!(fuse, root, "qemu-img");
    let sandbox = Sandbox::plain();
    // QEMU rounds a disk up to whole sectors.
    let bytes = mixed(7, LEN.next_multiple_of(512));
    sandbox.back_up_bytes("disk", &bytes);
    let mount = sandbox.mount();
    let copy = sandbox.path("copy");
    tool!("qemu-img", "convert", "-f", "raw", "-O", "raw", mount.latest("disk"), copy);
    check_all(&copy, &bytes, 4 << 20);
    assert_within_two_percent(allocated(&copy), total(&data_of(&bytes)), "the copy");
    tool!("qemu-img", "compare", "-f", "raw", "-F", "raw", mount.latest("disk"), sandbox.path("disk.source"));
    let map = tool!("qemu-img", "map", "-f", "raw", "--output=json", mount.latest("disk"));
    let map: serde_json::Value = serde_json::from_str(&map).expect("JSON");
    let parts = map.as_array().expect("a list").iter().filter(|part| part["data"] == true);
    let data: u64 = parts.map(|part| part["length"].as_u64().expect("length")).sum();
    assert_within_two_percent(data, total(&data_of(&bytes)), "qemu-img map");
}

#[test]
fn extract_makes_a_sparse_copy() {
    requires!(fuse, root);
    let sandbox = Sandbox::new();
    let bytes = mixed(8, LEN);
    sandbox.back_up_bytes("disk", &bytes);
    let extracted = sandbox.extract("disk");
    check_all(&extracted, &bytes, 4 << 20);
    assert_within_two_percent(allocated(&extracted), total(&data_of(&bytes)), "the extracted image");
}

#[test]
fn a_tebibyte_of_hole_costs_nothing_to_store_and_to_look_at() {
    requires!(fuse, root, cp, timeout);
    let sandbox = Sandbox::new();
    let source = sandbox.path("hole");
    let size = 1u64 << 40;
    File::create(&source).and_then(|file| file.set_len(size)).expect("make file");
    let before = sandbox.stored_bytes();
    let told = sandbox.back_up("hole", &source);
    assert_eq!((told["read"].as_u64(), told["size"].as_u64()), (Some(0), Some(size)));
    let stored = sandbox.stored_bytes() - before;
    assert!(stored < 8 << 10, "{stored} bytes stored");

    let mount = sandbox.mount();
    let found = fs::metadata(mount.latest("hole")).expect("stat");
    assert_eq!((found.len(), found.blocks()), (size, 0));
    let file = mount.open("hole");
    assert_eq!(data_ranges(&file), []);
    for offset in [0, 12345, size / 2, size - 4000] {
        let bytes = read_at(&file, offset, 8192);
        assert_eq!(bytes.len() as u64, 8192.min(size - offset));
        assert!(bytes.iter().all(|byte| *byte == 0));
    }
    // Reading all of it would take an hour: this ends only because the hole is seen.
    let copy = sandbox.path("copy");
    tool!("timeout", "60", "cp", "--sparse=auto", mount.latest("hole"), copy);
    assert_eq!((fs::metadata(&copy).expect("stat").len(), allocated(&copy)), (size, 0));
}
