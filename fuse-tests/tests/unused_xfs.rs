//! What XFS does not use: nothing is lost without it, whatever the geometry, and nothing is left out where there is doubt.

use std::fs::{self, File};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

use fuse_tests::devices::{LoopDevice, Mounted};
use fuse_tests::images::{Names, populate};
use fuse_tests::lean::restored;
use fuse_tests::noise::noise;
use fuse_tests::patched::{Patched, assert_partclone_copies_no_free_block, overwritten};
use fuse_tests::process::{run, tool};
use fuse_tests::sandbox::Sandbox;
use fuse_tests::trees::{Tree, assert_same, scan};
use fuse_tests::{requires, tool};

const LEN: u64 = 128 << 20;
/// An image that is smaller than `mkfs.xfs` finds reasonable.
const SMALL: &str = "--unsupported";

/// Makes a filesystem; `args` are those of `mkfs.xfs`.
fn make(sandbox: &Sandbox, len: u64, args: &[&str]) -> PathBuf {
    let image = sandbox.path("xfs.img");
    File::create(&image).and_then(|file| file.set_len(len)).expect("make file");
    let args = [&["-q", "-f", "-L", "Büro", SMALL], args, &[image.to_str().expect("text")]].concat();
    tool("mkfs.xfs", &args.iter().map(AsRef::as_ref).collect::<Vec<_>>());
    image
}

fn mount(sandbox: &Sandbox, device: &LoopDevice, options: &str) -> Mounted {
    Mounted::device("xfs", options, device.path(), &sandbox.mountpoint("look"))
}

/// Many files of a few blocks, of which every other goes: free space is in pieces, and stale.
fn fragment(root: &Path, files: usize, len: usize) {
    let folder = root.join("fragments");
    fs::create_dir(&folder).expect("mkdir");
    let path = |number: usize| folder.join(number.to_string());
    for number in 0..files {
        fs::write(path(number), noise(number as u64, 1 + number * 37 % len)).expect("write");
    }
    // What is deleted before it was written would leave nothing behind.
    tool!("sync", "-f", root);
    (0..files).step_by(2).for_each(|number| fs::remove_file(path(number)).expect("remove"));
}

/// Files that share blocks, where that is possible.
fn share(root: &Path) {
    let original = root.join("contents/large");
    for copy in ["copy", "other copy"] {
        tool!("cp", "--reflink=auto", &original, root.join(copy));
    }
    use std::os::unix::fs::FileExt;
    let file = File::options().write(true).open(root.join("copy")).expect("open");
    file.write_all_at(&noise(7, 100_000), 1 << 20).expect("write");
}

fn fill(root: &Path) {
    populate(root, Names::Bytes);
    share(root);
    fragment(root, 600, 20_000);
}

fn tree_of(sandbox: &Sandbox, image: &Path, options: &str) -> Tree {
    let device = LoopDevice::writable(image);
    let mounted = mount(sandbox, &device, options);
    let tree = scan(mounted.path());
    mounted.unmount();
    tree
}

/// What `xfs_db` prints of a field in the header of each group.
fn field_sum(image: &Path, field: &str) -> u64 {
    let superblock = tool!("xfs_db", "-r", "-c", "sb 0", "-c", "print agcount", image);
    let groups: u64 = value(&superblock);
    let print = format!("print {field}");
    let one = |group| value(&tool!("xfs_db", "-r", "-c", format!("agf {group}"), "-c", &print, image));
    (0..groups).map(one).sum()
}

fn value(printed: &str) -> u64 {
    printed.rsplit('=').next().expect("a value").trim().parse().expect("a number")
}

/// Overwrites what is free and shows that nothing misses it. `block` is the filesystem's block.
fn prove(sandbox: &Sandbox, image: &Path, block: u64) {
    let usage = Patched::open("xfs", image).usage();
    assert_eq!(usage.label, "Büro");
    assert_eq!(usage.free.bytes(), field_sum(image, "freeblks") * block);
    assert_partclone_copies_no_free_block("partclone.xfs", image, &usage);
    let copy = overwritten(image, &usage);
    tool!("xfs_repair", "-n", "-f", &copy);
    let before = tree_of(sandbox, image, "ro,norecovery");
    assert_same(&before, &tree_of(sandbox, &copy, "ro,norecovery"));
    let restored = restored("xfs", &copy, usage.free.as_slice());
    tool!("xfs_repair", "-n", "-f", restored.path());
    assert_same(&before, &tree_of(sandbox, restored.path(), "ro,norecovery"));
}

fn fill_and_prove(len: u64, block: u64, args: &[&str]) {
    let sandbox = Sandbox::bare();
    let image = make(&sandbox, len, args);
    let device = LoopDevice::writable(&image);
    let mounted = mount(&sandbox, &device, "rw");
    fill(mounted.path());
    mounted.unmount();
    drop(device);
    prove(&sandbox, &image, block);
}

macro_rules! geometries {
    ($($name:ident: $len:expr, $block:expr, $args:expr;)*) => {$(
        #[test]
        fn $name() {
            requires!(root, loop, "fs:xfs", "mkfs.xfs", xfs_repair, xfs_db, losetup, mount, "partclone.xfs", sfdisk);
            fill_and_prove($len, $block, &$args);
        }
    )*};
}

geometries! {
    nothing_is_lost_with_defaults: 320 << 20, 4096, [];
    nothing_is_lost_with_blocks_of_1_kib: LEN, 1024, ["-b", "size=1024"];
    nothing_is_lost_with_blocks_of_64_kib: 320 << 20, 65536, ["-b", "size=65536"];
    nothing_is_lost_with_reverse_maps: LEN, 4096, ["-m", "rmapbt=1,reflink=1", "-i", "sparse=1"];
    nothing_is_lost_without_reflinks: LEN, 4096, ["-m", "reflink=0,finobt=0", "-i", "sparse=0"];
    nothing_is_lost_in_many_small_groups: 320 << 20, 4096, ["-d", "agcount=18"];
    nothing_is_lost_with_a_striped_log: LEN, 4096, ["-l", "su=262144"];
    nothing_is_lost_with_sectors_of_4_kib: LEN, 4096, ["-s", "size=4096"];
    nothing_is_lost_with_large_counters: LEN, 4096, ["-m", "bigtime=1,inobtcount=1"];
}

/// Where the log lies, in bytes.
fn log_of(volume: &Patched) -> Range<u64> {
    let number = |at, len| volume.bytes(at, len).iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    let (block, blocks, of_group) = (number(4, 4), number(96, 4), number(84, 4));
    // The number of the group stands above as many bits as numbers within a group have.
    let (start, bits) = (number(48, 8), number(124, 1));
    let first = (start >> bits) * of_group + (start & ((1 << bits) - 1));
    first * block..(first + blocks) * block
}

#[test]
fn trees_of_several_levels_are_read() {
    requires!(root, loop, "fs:xfs", "mkfs.xfs", xfs_repair, xfs_db, losetup, mount, "partclone.xfs", sfdisk);
    let sandbox = Sandbox::bare();
    let image = make(&sandbox, LEN, &["-b", "size=1024", "-d", "agcount=2"]);
    let device = LoopDevice::writable(&image);
    let mounted = mount(&sandbox, &device, "rw");
    fragment(mounted.path(), 6000, 2000);
    mounted.unmount();
    drop(device);
    // Of two groups.
    assert!(field_sum(&image, "bnolevel") > 2);
    prove(&sandbox, &image, 1024);
    let mut volume = Patched::open("xfs", &image);
    // All but the log's last record has a checksum.
    let log = log_of(&volume);
    assert_eq!(volume.damage_outside(&log, 200), 200);
}

#[test]
fn a_disk_that_is_nearly_full_is_read() {
    requires!(root, loop, "fs:xfs", "mkfs.xfs", xfs_repair, xfs_db, losetup, mount, "partclone.xfs", sfdisk);
    let sandbox = Sandbox::bare();
    let image = make(&sandbox, LEN, &[]);
    let device = LoopDevice::writable(&image);
    let mounted = mount(&sandbox, &device, "rw");
    let mut written = 0;
    while fs::write(mounted.path().join(format!("fill-{written}")), noise(written, 1 << 20)).is_ok() {
        written += 1;
    }
    assert!(written > 10);
    mounted.unmount();
    drop(device);
    prove(&sandbox, &image, 4096);
}

#[test]
fn a_frozen_filesystem_is_at_rest_and_a_busy_one_is_not() {
    requires!(root, loop, "fs:xfs", "mkfs.xfs", xfs_repair, xfs_freeze, losetup, mount);
    let sandbox = Sandbox::bare();
    let image = make(&sandbox, LEN, &[]);
    let device = LoopDevice::writable(&image);
    let mounted = mount(&sandbox, &device, "rw");
    fill(mounted.path());
    tool!("xfs_freeze", "-f", mounted.path());
    let [frozen, busy] = ["frozen.img", "busy.img"].map(|name| sandbox.path(name));
    tool!("cp", "--sparse=always", &image, &frozen);
    tool!("xfs_freeze", "-u", mounted.path());
    fs::write(mounted.path().join("later"), "x").expect("write");
    File::open(mounted.path().join("later")).and_then(|file| file.sync_all()).expect("sync");
    tool!("cp", "--sparse=always", &image, &busy);
    fs::remove_file(mounted.path().join("later")).expect("remove");
    mounted.unmount();
    drop(device);

    assert_eq!(Patched::open("xfs", &busy).distrust(), "its log was not replayed");
    let mut volume = Patched::open("xfs", &frozen);
    let usage = volume.usage();
    let copy = overwritten(&frozen, &usage);
    // Mounting replays the log.
    assert_same(&tree_of(&sandbox, &frozen, "rw,noatime"), &tree_of(&sandbox, &copy, "rw,noatime"));
    tool!("xfs_repair", "-n", "-f", &copy);
    volume.damage(300);
    let log = log_of(&volume);
    assert_eq!(volume.damage_outside(&log, 300), 300);
}

#[test]
fn version_4_is_read_and_cross_checked() {
    requires!(root, "mkfs.xfs", xfs_repair, xfs_db, "partclone.xfs");
    let sandbox = Sandbox::bare();
    let content = sandbox.file("content", &noise(1, 3 << 20));
    let prototype = sandbox.path("prototype");
    let lines =
        format!("/boot\n0 0\nd--755 0 0\none ---644 0 0 {0}\ntwo ---644 0 0 {0}\n$\n", content.display());
    fs::write(&prototype, lines).expect("write");
    // Kernels no longer mount it, so that the tools fill it and look at it.
    let image = make(&sandbox, LEN, &["-m", "crc=0", "-p", prototype.to_str().expect("text")]);
    let mut volume = Patched::open("xfs", &image);
    let usage = volume.usage();
    assert_eq!(usage.free.bytes(), field_sum(&image, "freeblks") * 4096);
    tool!("xfs_repair", "-n", "-f", overwritten(&image, &usage));
    assert!(usage.used > 2 * (3 << 20));

    let by_place =
        u64::from(u32::from_be_bytes(volume.bytes(512 + 16, 4).try_into().expect("4 bytes"))) * 4096;
    let changes: [(u64, u32, &str); 9] = [
        (512 + 52, 1, "its free space is described in two ways that disagree"),
        (512 + 56, 1, "its free space is described in two ways that disagree"),
        (512 + 28, 2, "a tree of its free space is damaged"),
        (512 + 48, 200, "the list of an allocation group's spare blocks is damaged"),
        (512 + 8, 1, "the headers of an allocation group are damaged"),
        (by_place + 8, 1, "a tree of its free space is damaged"),
        (by_place + 16, 0, "its free space is described in two ways that disagree"),
        (by_place + 20, 0, "a tree of its free space is damaged"),
        (148, 1, "its count of free blocks is wrong"),
    ];
    for (at, number, reason) in changes {
        volume.set(at, &number.to_be_bytes());
        assert_eq!(volume.distrust(), reason, "{number} at {at}");
        volume.restore();
    }
    volume.damage(500);
}

/// Changes a number in the superblock of version 5 and makes its checksum right again.
fn set_sealed(volume: &mut Patched, at: usize, bytes: &[u8]) {
    let mut sector = volume.bytes(0, 512);
    sector[at..at + bytes.len()].copy_from_slice(bytes);
    sector[224..228].fill(0);
    let sum = crc32c::crc32c(&sector);
    sector[224..228].copy_from_slice(&sum.to_le_bytes());
    volume.set(0, &sector);
}

#[test]
fn doubt_takes_it_whole() {
    requires!("mkfs.xfs");
    let sandbox = Sandbox::bare();
    let image = make(&sandbox, LEN, &[]);
    let mut volume = Patched::open("xfs", &image);
    let changes: [(usize, &[u8], &str); 9] = [
        (16, &[0, 0, 0, 0, 0, 0, 0, 9], "it has a realtime section"),
        (48, &[0; 8], "its log lies on another device"),
        (126, &[1], "it was never made to its end"),
        (212, &[0x80, 0, 0, 0], "it has features that are not known here"),
        (216, &[0, 0, 1, 0], "it has features that are not known here"),
        (216, &[0, 0, 0, 0x10], "it is marked as needing repair"),
        (220, &[0, 0, 0, 1], "it has features that are not known here"),
        (84, &[0, 0, 0, 9], "its superblock is damaged"),
        (144, &[0; 8], "its count of free blocks is wrong"),
    ];
    for (at, bytes, reason) in changes {
        set_sealed(&mut volume, at, bytes);
        assert_eq!(volume.distrust(), reason, "{bytes:x?} at {at}");
        volume.restore();
    }
    volume.set(0, b"X");
    volume.set(20, b"X");
    assert_eq!(volume.distrust(), "the checksum of its superblock is wrong");
    volume.restore();
    volume.damage(500);
    // The record that mkfs leaves in the log has no checksum.
    let log = log_of(&volume);
    assert_eq!(volume.damage_outside(&log, 500), 500);
    volume.cut(LEN - 4096);
    assert_eq!(volume.distrust(), "the filesystem is longer than what holds it");
}

#[test]
fn logs_and_realtime_sections_elsewhere_are_refused() {
    requires!("mkfs.xfs");
    let sandbox = Sandbox::bare();
    let other = sandbox.path("other.img");
    let other_device = other.to_str().expect("text");
    for (option, what, reason) in [
        ("-l", format!("logdev={other_device},size=64m"), "its log lies on another device"),
        ("-r", format!("rtdev={other_device}"), "it has a realtime section"),
    ] {
        File::create(&other).and_then(|file| file.set_len(LEN)).expect("make file");
        let image = sandbox.path("xfs.img");
        File::create(&image).and_then(|file| file.set_len(320 << 20)).expect("make file");
        run(Command::new("mkfs.xfs")
            .args(["-q", "-f", "-m", "rmapbt=0,reflink=0", option, &what])
            .arg(&image));
        assert_eq!(Patched::open("xfs", &image).distrust(), reason);
    }
}
