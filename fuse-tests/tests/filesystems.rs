//! File systems in mounted images: their own checkers find nothing wrong, and every file is as it was.

use std::path::Path;

use fuse_tests::devices::{LoopDevice, Mounted};
use fuse_tests::images::{Names, assert_names, filesystem, gpt, ntfs, partition_args};
use fuse_tests::mounted::Mount;
use fuse_tests::ntfs as owners;
use fuse_tests::sandbox::Sandbox;
use fuse_tests::trees::{Tree, assert_same, scan};
use fuse_tests::unix::{assert_flags, assert_unix};
use fuse_tests::{requires, tool};

/// All files of an image of which the kernel mounts a part.
fn tree_of(sandbox: &Sandbox, kind: &str, options: &str, image: &Path, part: &[&str]) -> Tree {
    let device = LoopDevice::attach(image, &[&["--read-only"], part].concat());
    let mounted = Mounted::device(kind, options, device.path(), &sandbox.mountpoint("look"));
    let tree = scan(mounted.path());
    mounted.unmount();
    tree
}

fn back_up_and_mount(sandbox: &Sandbox, name: &str, image: &Path) -> Mount {
    sandbox.back_up(name, image);
    let mount = sandbox.mount();
    // What a checker does not look at is compared byte by byte.
    tool!("cmp", mount.latest(name), image);
    tool!("cmp", sandbox.extract(name), image);
    mount
}

#[test]
fn an_ext4_image_comes_back_with_all_its_files() {
    requires!(fuse, root, loop, "fs:ext4", "mkfs.ext4", e2fsck, losetup, mount, cmp);
    let sandbox = Sandbox::new();
    let image = filesystem(&sandbox, "ext4");
    let original = tree_of(&sandbox, "ext4", "ro,noload", &image, &[]);
    assert_names(&original, Names::Bytes);
    assert_unix(&original);
    assert_flags(&original);
    let mount = back_up_and_mount(&sandbox, "ext4", &image);
    tool!("e2fsck", "-fn", mount.latest("ext4"));
    assert_same(&original, &tree_of(&sandbox, "ext4", "ro,noload", &mount.latest("ext4"), &[]));
}

#[test]
fn an_xfs_image_comes_back_with_all_its_files() {
    requires!(fuse, root, loop, "fs:xfs", "mkfs.xfs", xfs_repair, losetup, mount, cmp);
    let sandbox = Sandbox::new();
    let image = filesystem(&sandbox, "xfs");
    let original = tree_of(&sandbox, "xfs", "ro,norecovery", &image, &[]);
    assert_names(&original, Names::Bytes);
    assert_unix(&original);
    assert_flags(&original);
    let mount = back_up_and_mount(&sandbox, "xfs", &image);
    tool!("xfs_repair", "-n", "-f", mount.latest("xfs"));
    assert_same(&original, &tree_of(&sandbox, "xfs", "ro,norecovery", &mount.latest("xfs"), &[]));
}

#[test]
fn a_btrfs_image_comes_back_with_all_its_files() {
    requires!(fuse, root, loop, "fs:btrfs", "mkfs.btrfs", btrfs, losetup, mount, cmp);
    let sandbox = Sandbox::new();
    let image = filesystem(&sandbox, "btrfs");
    let original = tree_of(&sandbox, "btrfs", "ro", &image, &[]);
    assert_names(&original, Names::Bytes);
    assert_unix(&original);
    assert_flags(&original);
    let mount = back_up_and_mount(&sandbox, "btrfs", &image);
    tool!("btrfs", "check", "--readonly", "--check-data-csum", mount.latest("btrfs"));
    assert_same(&original, &tree_of(&sandbox, "btrfs", "ro", &mount.latest("btrfs"), &[]));
}

#[test]
fn an_ntfs_image_comes_back_with_all_its_files() {
    requires!(fuse, root, "mkfs.ntfs", "ntfs-3g", ntfsfix, cmp);
    let sandbox = Sandbox::new();
    let image = ntfs(&sandbox);
    let mounted = Mounted::ntfs(owners::OPTIONS, &image, &sandbox.mountpoint("fill"));
    owners::populate(mounted.path());
    mounted.unmount();
    let tree = |image: &Path| {
        let options = format!("ro,{}", owners::OPTIONS);
        let mounted = Mounted::ntfs(&options, image, &sandbox.mountpoint("look"));
        let tree = owners::scan(mounted.path());
        mounted.unmount();
        tree
    };
    let original = tree(&image);
    assert_names(&original, Names::Text);
    owners::assert_kept(&original);
    let mount = back_up_and_mount(&sandbox, "ntfs", &image);
    tool!("ntfsfix", "-n", mount.latest("ntfs"));
    assert_same(&original, &tree(&mount.latest("ntfs")));
}

#[test]
fn a_partition_of_a_gpt_disk_comes_back_with_all_its_files() {
    requires!(fuse, root, loop, "fs:ext4", "mkfs.ext4", sfdisk, e2fsck, losetup, mount, cmp);
    let sandbox = Sandbox::new();
    let image = gpt(&sandbox);
    let part = partition_args();
    let part = part.each_ref().map(String::as_str);
    let original = tree_of(&sandbox, "ext4", "ro,noload", &image, &part);
    assert_names(&original, Names::Bytes);
    assert_unix(&original);
    assert_flags(&original);
    let mount = back_up_and_mount(&sandbox, "gpt", &image);
    assert_eq!(tool!("sfdisk", "--dump", &image).replace(&*image.to_string_lossy(), ""), {
        let mounted = mount.latest("gpt");
        tool!("sfdisk", "--dump", &mounted).replace(&*mounted.to_string_lossy(), "")
    });
    let device = LoopDevice::attach(&mount.latest("gpt"), &[&["--read-only"], &part[..]].concat());
    tool!("e2fsck", "-fn", device.path());
    assert_same(&original, &tree_of(&sandbox, "ext4", "ro,noload", &mount.latest("gpt"), &part));
}

#[test]
fn a_partition_node_of_a_mounted_disk_can_be_mounted() {
    requires!(fuse, root, loop, "fs:ext4", "mkfs.ext4", sfdisk, losetup, partx, mount);
    let sandbox = Sandbox::new();
    let image = gpt(&sandbox);
    sandbox.back_up("gpt", &image);
    let mount = sandbox.mount();
    let device = LoopDevice::attach(&mount.latest("gpt"), &["--read-only"]);
    tool!("partx", "--add", device.path());
    let node = format!("{}p1", device.path().display());
    let mounted = Mounted::device("ext4", "ro,noload", Path::new(&node), &sandbox.mountpoint("look"));
    assert_names(&scan(mounted.path()), Names::Bytes);
    mounted.unmount();
    tool!("partx", "--delete", device.path());
}
