//! `copal attach` on stock kernels: partition scanning, the filesystems of Windows, volume groups, and a host whose own disk the image is of.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use fuse_tests::attached::{Attaches, mounted, part, traces};
use fuse_tests::devices::LoopDevice;
use fuse_tests::images::{assert_names, empty_file, partition, populate};
use fuse_tests::process::wait_until;
use fuse_tests::sandbox::Sandbox;
use fuse_tests::trees::{Tree, assert_same, scan};
use fuse_tests::{requires, tool};
use serde_json::Value;

use crate::lvm::{Group, may_grow};
use crate::recipes::Shell;
use crate::{mount, names_of, scratch_disk, with_partitions};

/// A partition: its name when it is attached, what makes its filesystem, and which one that is.
type Made = (&'static str, &'static [&'static str], &'static str);

const TABLE: &str = "label: gpt\nsize=40M, type=U\nsize=24M, type=L, name=root\nsize=24M, type=L\nsize=8M, type=S\nsize=24M, type=L, name=data\n";
const PARTS: [Made; 4] = [
    ("p1-efi", &["mkfs.vfat", "-n", "ESP"], "vfat"),
    ("p2-root", &["mkfs.ext4", "-q", "-F"], "ext4"),
    ("p3-ntfs", &["mkfs.ntfs", "-q", "-F", "-f"], "ntfs"),
    ("p5-data", &["mkfs.exfat"], "exfat"),
];

/// Fills a disk as [`TABLE`] and [`PARTS`] say.
fn fill(sandbox: &Sandbox, node: impl Fn(u32) -> PathBuf) -> Vec<(&'static str, Tree)> {
    tool!("mkswap", "-q", node(4));
    let mut trees = Vec::new();
    for (name, make, kind) in PARTS {
        let number = name[1..2].parse().expect("a digit");
        let node = node(number);
        let mut args: Vec<&std::ffi::OsStr> = make[1..].iter().map(std::ffi::OsStr::new).collect();
        args.push(node.as_os_str());
        fuse_tests::process::tool(make[0], &args);
        let filled = mount(crate::drivers(kind)[0], "rw", &node, &sandbox.mountpoint("fill"));
        populate(filled.path(), names_of(kind));
        filled.unmount();
        trees.push((name, names_and_contents(&crate::look(sandbox, crate::drivers(kind)[0], &node))));
    }
    trees
}

/// What any driver shows of files, however they are mounted: names and contents.
fn names_and_contents(tree: &Tree) -> Tree {
    let mut tree = tree.clone();
    for entry in tree.values_mut() {
        (entry.owner, entry.links, entry.modified) = ((0, 0), 0, (0, 0));
        entry.mode &= 0o170_000;
        entry.attributes.clear();
    }
    tree
}

/// An image of such a disk, backed up as `web01`.
fn disk(sandbox: &Sandbox) -> Vec<(&'static str, Tree)> {
    let image = sandbox.path("disk.img");
    empty_file(&image, 130 << 20);
    partition(&image, TABLE);
    let device = with_partitions(&image, &[]);
    let trees = fill(sandbox, |number| device.partition(number));
    drop(device);
    sandbox.back_up("web01", &image);
    trees
}

fn assert_trees(attached: &Value, trees: &[(&'static str, Tree)]) {
    for (name, tree) in trees {
        let found = scan(&mounted(attached, name));
        let kind = part(attached, name)["filesystem"].as_str().expect("a filesystem");
        assert_names(&found, names_of(kind));
        assert_same(tree, &names_and_contents(&found));
    }
}

#[test]
#[ignore = "for the guest of scripts/vm-test"]
fn every_filesystem_of_a_disk_is_attached() {
    requires!(
        root,
        fuse,
        loop,
        "fs:ext4",
        "fs:vfat",
        "fs:exfat",
        "mkfs.vfat",
        "mkfs.exfat",
        "mkfs.ntfs",
        "ntfs-3g",
        sfdisk
    );
    let sandbox = Sandbox::plain();
    let trees = disk(&sandbox);
    let attaches = Attaches::of(&sandbox);
    for args in [&[][..], &["--scan"], &["--overlay"]] {
        let attached = attaches.attach("web01", args);
        assert_trees(&attached, &trees);
        let device = part(&attached, "p2-root")["device"].as_str().expect("a device");
        assert_eq!(device.ends_with("p2"), args == ["--scan"], "{device}");
        attaches.run(&["detach", "--all"]);
        let id = attached["id"].as_str().expect("an id");
        assert_eq!(traces(id), Vec::<String>::new());
    }
}

#[test]
#[ignore = "for the guest of scripts/vm-test"]
fn the_recipe_for_a_file_from_a_disk_works() {
    requires!(
        root,
        fuse,
        loop,
        "fs:ext4",
        "fs:vfat",
        "fs:exfat",
        "mkfs.vfat",
        "mkfs.exfat",
        "mkfs.ntfs",
        "ntfs-3g",
        sfdisk
    );
    let sandbox = Sandbox::plain();
    disk(&sandbox);
    let (repository, restore) = (sandbox.repository(), sandbox.path("restore"));
    let names: [(&str, &Path); 2] = [("/srv/backups", &repository), ("/mnt/restore", &restore)];
    Shell::new(&sandbox).follow("A file from a disk", 0, &names);
    assert!(!restore.exists());
}

/// All links to block devices that udev keeps, and where they lead; but for those by a number that no two devices ever have.
fn links() -> BTreeMap<PathBuf, PathBuf> {
    let mut links = BTreeMap::new();
    let folders = fs::read_dir("/dev/disk").into_iter().flatten().flatten();
    for folder in folders.filter(|folder| folder.file_name() != "by-diskseq") {
        for link in fs::read_dir(folder.path()).into_iter().flatten().flatten() {
            links.insert(link.path(), fs::read_link(link.path()).expect("a link"));
        }
    }
    links
}

/// Lets udev look at every block device anew.
fn trigger() {
    tool!("udevadm", "trigger", "--subsystem-match=block", "--settle");
}

fn properties(device: &str) -> String {
    tool!("udevadm", "info", "--query=property", device)
}

/// Fails unless udev tells everybody to leave the devices alone.
fn assert_hidden(attached: &Value) {
    for part in attached["partitions"].as_array().expect("a list") {
        let Some(device) = part["device"].as_str() else { continue };
        let said = properties(device);
        for wanted in ["UDISKS_IGNORE=1", "SYSTEMD_READY=0", "UDEV_DISABLE_PERSISTENT_STORAGE_RULES_FLAG=1"] {
            assert!(said.lines().any(|line| line == wanted), "{device}: {said}");
        }
        assert!(!said.contains("ID_FS_UUID="), "{device}: {said}");
    }
}

#[test]
#[ignore = "for the guest of scripts/vm-test"]
fn a_host_does_not_notice_that_an_image_of_its_own_disk_is_attached() {
    requires!(root, fuse, loop, udevadm, "fs:ext4", "mkfs.ext4", sfdisk);
    let sandbox = Sandbox::plain();
    let disk = scratch_disk();
    partition(&disk, TABLE);
    trigger();
    let node = |number: u32| PathBuf::from(format!("{}{number}", disk.display()));
    wait_until("the disk has partitions", || node(5).exists());
    let trees = fill(&sandbox, node);
    trigger();
    let before = links();
    let own = before.values().filter(|target| target.ends_with("vda2")).count();
    assert!(own >= 2, "udev has links to the disk: {before:?}");
    sandbox.back_up("self", &disk);

    // Without a rule, the image's devices would take them.
    let mounted = sandbox.mount();
    let taken = with_partitions(&mounted.latest("self"), &["--read-only"]);
    let _ = taken.partition(2);
    // Of devices of one priority, udev leaves it to chance which has a link.
    wait_until("links move without a rule", || {
        trigger();
        links() != before
    });
    drop(taken);
    drop(mounted);
    trigger();
    wait_until("udev has all links again", || links() == before);

    let attaches = Attaches::of(&sandbox);
    // udev compares the times of its directories, to see whether there is anything to read; here a clock was ahead.
    let rules = Path::new("/run/udev/rules.d");
    fs::create_dir_all(rules).expect("a directory");
    let ahead = SystemTime::now() + Duration::from_secs(3600);
    fs::File::open(rules).and_then(|rules| rules.set_modified(ahead)).expect("another time");
    tool!("udevadm", "control", "--reload");

    let live = mount("ext4", "rw", &node(2), &sandbox.mountpoint("live"));
    for args in [&["--no-replay"][..], &["--scan"], &["--no-mount"], &["--overlay"]] {
        let attached = attaches.attach("self", args);
        trigger();
        assert_eq!(links(), before, "{args:?}");
        assert_hidden(&attached);
        if !args.contains(&"--no-mount") {
            assert_trees(&attached, &trees);
        }
        attaches.run(&["detach", "--all"]);
        trigger();
        assert_eq!(links(), before, "after {args:?}");
        assert!(
            fs::read_dir("/run/udev/rules.d")
                .into_iter()
                .flatten()
                .flatten()
                .all(|rule| { !rule.file_name().to_string_lossy().contains("copal") })
        );
    }
    fs::write(live.path().join("still alive"), "yes").expect("write");
    live.unmount();
    tool!("sfdisk", "--delete", "--force", &disk);
}

#[test]
#[ignore = "for the guest of scripts/vm-test"]
fn an_attach_that_udev_does_not_hide_is_told() {
    requires!(root, fuse, loop, udevadm, "fs:ext4", "mkfs.ext4");
    let sandbox = Sandbox::plain();
    let image = sandbox.path("disk.img");
    empty_file(&image, 16 << 20);
    tool!("mkfs.ext4", "-q", "-F", &image);
    sandbox.back_up("web01", &image);
    let attaches = Attaches::of(&sandbox);
    let reference = sandbox.reference("web01");
    tool!("udevadm", "control", "--stop-exec-queue");
    let output = attaches.output(&["attach", &reference, "--no-mount"]);
    tool!("udevadm", "control", "--start-exec-queue");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "done with warnings: {said}");
    assert!(said.contains("udev has not applied /run/udev/rules.d/12-copal"), "{said}");
    attaches.run(&["detach", "--all"]);
    trigger();
    // Devices that it hides are not spoken of.
    let output = attaches.output(&["attach", &reference, "--no-mount"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("udev"), "{said}");
    attaches.run(&["detach", "--all"]);
}

/// A disk with a volume group on its second partition, with ext4 in `root`; its archive is `web01`.
fn with_group(sandbox: &Sandbox) -> (LoopDevice, Group, Tree) {
    let image = sandbox.path("lvm.img");
    empty_file(&image, 100 << 20);
    let disk = with_partitions(&image, &[]);
    partition(disk.path(), "label: gpt\nsize=8M, type=U\nsize=88M, type=V\n");
    let group = Group::new("vg-0", &disk.partition(2));
    tool!("lvcreate", "-q", "-W", "n", "-L", "32M", "-n", "root", group.0);
    tool!("lvcreate", "-q", "-W", "n", "-L", "4M", "-n", "swap-1", group.0);
    tool!("mkswap", "-q", group.volume("swap-1"));
    group.fill(sandbox, "root");
    tool!("lvcreate", "-q", "-W", "n", "-L", "8M", "-n", "clean", group.0);
    tool!("mkfs.ext4", "-q", group.volume("clean"));
    let live = mount("ext4", "rw", &group.volume("root"), &sandbox.mountpoint("live"));
    fs::write(live.path().join("written last"), "all of it").expect("write");
    fs::File::open(live.path().join("written last")).and_then(|file| file.sync_all()).expect("sync");
    let tree = scan(live.path());
    // While it is mounted: its journal is to be replayed.
    let copy = sandbox.path("copy.img");
    tool!("cp", "--sparse=always", image, copy);
    sandbox.back_up("web01", &copy);
    live.unmount();
    (disk, group, tree)
}

fn assert_volumes(attaches: &Attaches<'_>, tree: &Tree, original: Option<&Group>) {
    let plain = attaches.output(&["attach", &attaches.reference("web01")]);
    let said = String::from_utf8_lossy(&plain.stdout).into_owned();
    assert!(plain.status.code() == Some(2) && said.contains("--lvm"), "{said}");
    let before = links();
    let attached = attaches.attach("web01", &["--lvm"]);
    assert_same(tree, &scan(&mounted(&attached, "p2-lv-root")));
    assert!(mounted(&attached, "p2-lv-clean").join("lost+found").exists());
    let read_only = |volume: &str| {
        let device = part(&attached, volume)["device"].as_str().expect("a device");
        tool!("blockdev", "--getro", device).trim() == "1"
    };
    assert_eq!(
        ["p2-lv-clean", "p2-lv-swap-1", "p2-lv-root"].map(read_only),
        [true, true, false],
        "only where a journal is replayed"
    );
    let swap = part(&attached, "p2-lv-swap-1");
    assert!(swap["note"].as_str().is_some_and(|note| note.contains("swap")), "{swap}");
    if let Some(original) = original {
        assert!(may_grow(original), "LVM is kept from changing the original");
    }
    trigger();
    let new: Vec<_> = links().into_keys().filter(|link| !before.contains_key(link)).collect();
    assert_eq!(new, Vec::<PathBuf>::new());
    attaches.run(&["detach", "--all"]);
    assert_eq!(traces(attached["id"].as_str().expect("an id")), Vec::<String>::new());
    let left = Command::new("dmsetup").arg("ls").output().expect("dmsetup");
    assert!(!String::from_utf8_lossy(&left.stdout).contains("copal_"), "{left:?}");
}

#[test]
#[ignore = "for the guest of scripts/vm-test"]
fn volumes_of_an_image_are_attached_beside_their_originals_and_without_them() {
    requires!(
        root,
        fuse,
        loop,
        "fs:ext4",
        "mkfs.ext4",
        pvcreate,
        vgcreate,
        lvcreate,
        vgimportclone,
        dmsetup,
        sfdisk,
        mkswap
    );
    let sandbox = Sandbox::plain();
    let (disk, group, tree) = with_group(&sandbox);
    let attaches = Attaches::of(&sandbox);
    let about =
        |device: &Path| tool!("vgs", "--noheadings", "-o", "vg_name,vg_uuid,lv_count", "--devices", device);
    let (original, node) = (about(&disk.partition(2)), disk.partition(2));
    let live = mount("ext4", "rw", &group.volume("root"), &sandbox.mountpoint("live"));
    assert_volumes(&attaches, &tree, Some(&group));
    fs::write(live.path().join("still alive"), "yes").expect("write");
    live.unmount();
    assert_eq!(about(&node), original);
    drop(group);
    drop(disk);
    assert_volumes(&attaches, &tree, None);
}

#[test]
#[ignore = "for the guest of scripts/vm-test"]
fn volumes_are_taken_down_when_the_server_was_killed() {
    requires!(
        root,
        fuse,
        loop,
        "fs:ext4",
        "mkfs.ext4",
        pvcreate,
        vgcreate,
        lvcreate,
        vgimportclone,
        dmsetup,
        sfdisk,
        mkswap
    );
    let sandbox = Sandbox::plain();
    let (disk, group, _) = with_group(&sandbox);
    drop((group, disk));
    let attaches = Attaches::of(&sandbox);
    let attached = attaches.attach("web01", &["--lvm"]);
    let pid =
        attaches.listed()[0]["server"]["pid"].as_u64().and_then(|pid| pid.try_into().ok()).expect("a server");
    fuse_tests::process::signal(pid, rustix::process::Signal::KILL);
    wait_until("the server has ended", || fuse_tests::process::has_ended(pid));
    attaches.run(&["detach", "--all"]);
    assert_eq!(traces(attached["id"].as_str().expect("an id")), Vec::<String>::new());
}
