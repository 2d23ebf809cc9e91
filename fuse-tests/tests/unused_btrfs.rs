//! What btrfs does not use: nothing is lost without it, and nothing is left out where there is doubt.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use fuse_tests::devices::{LoopDevice, Mounted};
use fuse_tests::images::{Names, populate};
use fuse_tests::lean::restored;
use fuse_tests::noise::noise;
use fuse_tests::patched::{Patched, is_partly_free, overwritten};
use fuse_tests::process::tool;
use fuse_tests::sandbox::Sandbox;
use fuse_tests::trees::{Tree, assert_same, scan};
use fuse_tests::{requires, tool};

const LEN: u64 = 400 << 20;
const SUPERBLOCK: u64 = 64 << 10;
const FIRST_COPY: u64 = 64 << 20;
const FREE_SPACE_TREE: [&str; 2] = ["-R", "free-space-tree"];

/// Makes a filesystem; `args` are those of `mkfs.btrfs`.
fn make(sandbox: &Sandbox, args: &[&str]) -> PathBuf {
    let image = sandbox.path("btrfs.img");
    File::create(&image).and_then(|file| file.set_len(LEN)).expect("make file");
    let args = [&["-q", "-f", "-L", "Büro"], args, &[image.to_str().expect("text")]].concat();
    tool("mkfs.btrfs", &args.iter().map(AsRef::as_ref).collect::<Vec<_>>());
    image
}

/// Files, snapshots, a subvolume that is gone, and free space in pieces.
fn fill(root: &Path) {
    let volume = root.join("volume");
    tool!("btrfs", "subvolume", "create", &volume);
    populate(&volume, Names::Bytes);
    for snapshot in ["snapshot", "gone"] {
        tool!("btrfs", "subvolume", "snapshot", &volume, root.join(snapshot));
    }
    fragment(root, 1500);
    fs::remove_file(volume.join("contents/large")).expect("remove");
    fs::write(root.join("gone/more"), noise(3, 5 << 20)).expect("write");
    tool!("btrfs", "filesystem", "sync", root);
    tool!("btrfs", "subvolume", "delete", "--commit-after", root.join("gone"));
    tool!("btrfs", "subvolume", "sync", root);
}

fn fragment(root: &Path, files: usize) {
    let folder = root.join("fragments");
    fs::create_dir(&folder).expect("mkdir");
    let path = |number: usize| folder.join(number.to_string());
    for number in 0..files {
        fs::write(path(number), noise(number as u64, 4096 + number * 37 % 9000)).expect("write");
    }
    // What is deleted before it was written would leave nothing behind.
    tool!("sync", "-f", root);
    (0..files).step_by(2).for_each(|number| fs::remove_file(path(number)).expect("remove"));
}

fn filled(sandbox: &Sandbox, options: &str, args: &[&str]) -> PathBuf {
    let image = make(sandbox, args);
    let device = LoopDevice::writable(&image);
    let mounted = Mounted::device("btrfs", options, device.path(), &sandbox.mountpoint("look"));
    fill(mounted.path());
    mounted.unmount();
    image
}

fn tree_of(sandbox: &Sandbox, image: &Path) -> Tree {
    let device = LoopDevice::read_only(image);
    let mounted = Mounted::device("btrfs", "ro", device.path(), &sandbox.mountpoint("look"));
    let tree = scan(mounted.path());
    mounted.unmount();
    tree
}

/// What the superblock counts as used, in one copy.
fn used(image: &Path) -> u64 {
    let printed = tool!("btrfs", "inspect-internal", "dump-super", image);
    let line = printed.lines().find_map(|line| line.strip_prefix("bytes_used")).expect("bytes_used");
    line.trim().parse().expect("a number")
}

/// Overwrites what is free and shows that nothing misses it. All data and metadata has at most `copies` copies.
fn prove(sandbox: &Sandbox, image: &Path, copies: u64) {
    let usage = Patched::open("btrfs", image).usage();
    assert_eq!(usage.label, "Büro");
    assert!((used(image)..=used(image) * copies).contains(&usage.used));
    // All that is neither used nor set aside for boot loaders and superblocks is free.
    let kept = LEN - usage.free.bytes() - usage.used;
    assert!(kept <= (1 << 20) + (64 << 10), "{kept} bytes are neither used nor free");
    assert!(!is_partly_free(&usage, &(0..1 << 20)));
    assert!(!is_partly_free(&usage, &(FIRST_COPY..FIRST_COPY + 4096)));
    let before = tree_of(sandbox, image);
    let copy = overwritten(image, &usage);
    tool!("btrfs", "check", "--readonly", "--check-data-csum", &copy);
    fs::rename(&copy, image).expect("rename");
    assert_same(&before, &tree_of(sandbox, image));
    let restored = restored("btrfs", image, usage.free.as_slice());
    tool!("btrfs", "check", "--readonly", "--check-data-csum", restored.path());
    assert_same(&before, &tree_of(sandbox, restored.path()));
}

macro_rules! profiles {
    ($($name:ident: $copies:expr, $options:expr, $args:expr;)*) => {$(
        #[test]
        fn $name() {
            requires!(root, loop, "fs:btrfs", "mkfs.btrfs", btrfs, losetup, mount, sfdisk);
            let sandbox = Sandbox::bare();
            let image = filled(&sandbox, $options, &[&FREE_SPACE_TREE[..], &$args[..]].concat());
            prove(&sandbox, &image, $copies);
        }
    )*};
}

profiles! {
    nothing_is_lost_with_two_copies_of_metadata: 2, "rw", ["-m", "dup", "-d", "single"];
    nothing_is_lost_compressed: 2, "rw,compress-force=zstd", ["-m", "dup", "-d", "single"];
    nothing_is_lost_with_two_copies_of_all: 2, "rw", ["-m", "dup", "-d", "dup"];
    nothing_is_lost_with_one_copy_of_all: 1, "rw", ["-m", "single", "-d", "single"];
    nothing_is_lost_with_mixed_groups: 1, "rw", ["--mixed", "-m", "single", "-d", "single"];
    nothing_is_lost_with_small_nodes: 2, "rw", ["-n", "4096"];
    nothing_is_lost_with_large_nodes: 2, "rw", ["-n", "65536"];
    nothing_is_lost_with_checksums_of_blake2: 2, "rw", ["--csum", "blake2"];
}

#[test]
fn bitmaps_of_free_space_are_read() {
    requires!(root, loop, "fs:btrfs", "mkfs.btrfs", btrfs, losetup, mount, sfdisk);
    let sandbox = Sandbox::bare();
    let image =
        make(&sandbox, &[&FREE_SPACE_TREE[..], &["--mixed", "-m", "single", "-d", "single"]].concat());
    let device = LoopDevice::writable(&image);
    let mounted = Mounted::device("btrfs", "rw,max_inline=0", device.path(), &sandbox.mountpoint("look"));
    for round in 0..4 {
        let folder = mounted.path().join(round.to_string());
        fs::create_dir(&folder).expect("mkdir");
        fragment(&folder, 4000);
        tool!("btrfs", "filesystem", "sync", mounted.path());
    }
    mounted.unmount();
    drop(device);
    let dump = tool!("btrfs", "inspect-internal", "dump-tree", "-t", "10", &image);
    assert!(dump.contains("FREE_SPACE_BITMAP"), "no group has bitmaps");
    prove(&sandbox, &image, 1);
}

#[test]
fn a_copy_of_a_frozen_filesystem_is_read() {
    requires!(root, loop, "fs:btrfs", "mkfs.btrfs", btrfs, fsfreeze, losetup, mount, sfdisk);
    let sandbox = Sandbox::bare();
    let image = make(&sandbox, &FREE_SPACE_TREE);
    let device = LoopDevice::writable(&image);
    let mounted = Mounted::device("btrfs", "rw", device.path(), &sandbox.mountpoint("look"));
    fill(mounted.path());
    tool!("fsfreeze", "--freeze", mounted.path());
    let frozen = sandbox.path("frozen.img");
    tool!("cp", "--sparse=always", &image, &frozen);
    tool!("fsfreeze", "--unfreeze", mounted.path());
    mounted.unmount();
    drop(device);
    prove(&sandbox, &frozen, 2);
}

#[test]
fn a_log_that_was_not_replayed_takes_it_whole() {
    requires!(root, loop, "fs:btrfs", "mkfs.btrfs", btrfs, losetup, mount);
    let sandbox = Sandbox::bare();
    let image = make(&sandbox, &FREE_SPACE_TREE);
    let device = LoopDevice::writable(&image);
    let mounted = Mounted::device("btrfs", "rw", device.path(), &sandbox.mountpoint("look"));
    let file = mounted.path().join("file");
    fs::write(&file, noise(1, 100_000)).expect("write");
    tool!("btrfs", "filesystem", "sync", mounted.path());
    fs::write(&file, noise(2, 100_000)).expect("write");
    File::open(&file).and_then(|file| file.sync_all()).expect("sync");
    let busy = sandbox.path("busy.img");
    tool!("cp", "--sparse=always", &image, &busy);
    mounted.unmount();
    assert_eq!(Patched::open("btrfs", &busy).distrust(), "its log was not replayed");
}

#[test]
fn what_has_no_free_space_tree_or_spans_devices_is_taken_whole() {
    requires!(root, loop, "fs:btrfs", "mkfs.btrfs", btrfs, losetup, mount);
    let sandbox = Sandbox::bare();
    for (args, reason) in [
        (&["-R", "^free-space-tree"][..], "it has no free-space tree"),
        (&["-R", "free-space-tree", "--csum", "sha256"], "its kind of checksum is not known here"),
    ] {
        let image = filled(&sandbox, "rw", args);
        assert_eq!(Patched::open("btrfs", &image).distrust(), reason);
    }
    let second = sandbox.path("second.img");
    File::create(&second).and_then(|file| file.set_len(LEN)).expect("make file");
    let image =
        make(&sandbox, &[&FREE_SPACE_TREE[..], &["-d", "raid0", second.to_str().expect("text")]].concat());
    assert_eq!(Patched::open("btrfs", &image).distrust(), "it spans several devices");
}

/// Changes bytes of the superblock and of its copy, and makes their checksums right again.
fn set_sealed(volume: &mut Patched, at: usize, bytes: &[u8]) {
    for place in [SUPERBLOCK, FIRST_COPY] {
        let mut superblock = volume.bytes(place, 4096);
        superblock[at..at + bytes.len()].copy_from_slice(bytes);
        let sum = crc32c::crc32c(&superblock[32..]);
        superblock[..4].copy_from_slice(&sum.to_le_bytes());
        volume.set(place, &superblock);
    }
}

#[test]
fn doubt_takes_it_whole() {
    requires!(root, loop, "fs:btrfs", "mkfs.btrfs", btrfs, losetup, mount);
    let sandbox = Sandbox::bare();
    let image = filled(&sandbox, "rw", &FREE_SPACE_TREE);
    let mut volume = Patched::open("btrfs", &image);
    let changes: [(usize, &[u8], &str); 12] = [
        (56, &[4], "its superblock tells of errors or of an unfinished change"),
        (96, &[0, 0x10], "its log was not replayed"),
        (136, &[2], "it spans several devices"),
        (180, &[1], "its free-space tree is marked as out of date"),
        (180, &[0], "it has no free-space tree"),
        (180, &[0x43], "it has features that are not known here"),
        (189, &[0x13], "it is a zoned filesystem"),
        (190, &[0x08], "it has features that are not known here"),
        (112, &[0, 0x10], "its superblock is damaged"),
        (120, &[1], "its counts of free space disagree"),
        (80, &[1], "one of its trees is damaged"),
        (811 + 17 + 48 + 8, &[1], "its list of chunks is damaged"),
    ];
    for (at, bytes, reason) in changes {
        set_sealed(&mut volume, at, bytes);
        assert_eq!(volume.distrust(), reason, "{bytes:x?} at {at}");
        volume.restore();
    }
    volume.set(FIRST_COPY + 200, &[0xff]);
    assert_eq!(volume.distrust(), "the copies of its superblock disagree");
    volume.restore();
    volume.set(SUPERBLOCK + 200, &[0xff]);
    assert_eq!(volume.distrust(), "the checksum of its superblock is wrong");
    volume.restore();
    // Of the room for a checksum a short one leaves most to chance.
    assert!(volume.damage(500) >= 480);
    volume.cut(LEN - 4096);
    assert_eq!(volume.distrust(), "the filesystem is longer than what holds it");
}
