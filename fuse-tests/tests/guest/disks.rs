//! Whole disks: the kernel finds the partitions of a mounted archive, and every filesystem in them is as it was.

use std::path::{Path, PathBuf};

use copal::fuse::mountpoint::mount_on;
use fuse_tests::devices::LoopDevice;
use fuse_tests::images::{Names, assert_names, empty_file, partition, populate};
use fuse_tests::noise::noise;
use fuse_tests::ntfs;
use fuse_tests::process::{traffic, wait_until};
use fuse_tests::requires;
use fuse_tests::sandbox::{Archiving, Sandbox};
use fuse_tests::tool;
use fuse_tests::trees::{Tree, assert_same, scan};
use fuse_tests::unix::{assert_flags, assert_unix};

use crate::recipes::Shell;
use crate::{drivers, look, mount, names_of, scratch_disk, with_partitions};

/// A filesystem in a partition.
struct Part {
    number: u32,
    kind: &'static str,
}

impl Part {
    const fn new(number: u32, kind: &'static str) -> Self {
        Self { number, kind }
    }

    fn make(&self, node: &Path) {
        match self.kind {
            "ext4" => tool!("mkfs.ext4", "-q", "-F", node),
            "xfs" => tool!("mkfs.xfs", "-q", "-f", node),
            "btrfs" => tool!("mkfs.btrfs", "-q", "-f", node),
            "vfat" => tool!("mkfs.vfat", node),
            "exfat" => tool!("mkfs.exfat", node),
            "ntfs" => tool!("mkfs.ntfs", "-q", "-F", "-f", node),
            other => panic!("no recipe for {other}"),
        };
    }
}

/// A disk with a table and filesystems, which loop devices with these arguments show.
fn disk(sandbox: &Sandbox, mib: u64, table: &str, args: &[&str], parts: &[Part]) -> PathBuf {
    let path = sandbox.path("disk.img");
    empty_file(&path, mib << 20);
    let device = with_partitions(&path, args);
    partition(device.path(), table);
    fill(sandbox, parts, |number| device.partition(number));
    path
}

fn fill(sandbox: &Sandbox, parts: &[Part], node: impl Fn(u32) -> PathBuf) {
    for part in parts {
        let node = node(part.number);
        part.make(&node);
        let mounted = mount(drivers(part.kind)[0], "rw", &node, &sandbox.mountpoint("fill"));
        populate(mounted.path(), names_of(part.kind));
        if part.kind == "ntfs" {
            ntfs::populate(mounted.path());
        }
        mounted.unmount();
    }
}

/// What every driver shows of every partition.
fn trees(sandbox: &Sandbox, parts: &[Part], node: impl Fn(u32) -> PathBuf) -> Vec<(String, Tree)> {
    let mut trees = Vec::new();
    for part in parts {
        for driver in drivers(part.kind) {
            let tree = look(sandbox, driver, &node(part.number));
            assert_names(&tree, names_of(part.kind));
            if names_of(part.kind) == Names::Bytes {
                assert_unix(&tree);
                assert_flags(&tree);
            } else if driver == "ntfs-3g" {
                ntfs::assert_kept(&tree);
            } else if driver == "ntfs3" {
                ntfs::assert_shown_by_kernel(&tree);
            }
            trees.push((format!("partition {} by {driver}", part.number), tree));
        }
    }
    trees
}

/// Backs a disk up and looks at it through a mount of the archive, on a loop device attached in each of these ways.
fn assert_comes_back(sandbox: &Sandbox, image: &Path, args: &[&str], parts: &[Part], ways: &[&str]) {
    let read_only = [&["--read-only"], args].concat();
    let original = {
        let device = with_partitions(image, &read_only);
        trees(sandbox, parts, |number| device.partition(number))
    };
    sandbox.back_up("disk", image);
    let mounted = sandbox.mount();
    tool!("cmp", mounted.latest("disk"), image);
    for way in ways {
        // What the comparison has brought into the page cache is not what is looked at.
        std::fs::write("/proc/sys/vm/drop_caches", "3").expect("drop");
        let before = traffic(mounted.pid()).written;
        let device = with_partitions(&mounted.latest("disk"), &[&read_only[..], &[way]].concat());
        assert_eq!(device.is_direct(), way.ends_with("=on"));
        let found = trees(sandbox, parts, |number| device.partition(number));
        for ((what, original), (_, found)) in original.iter().zip(&found) {
            println!("{way}, {what}: {} entries", original.len());
            assert_same(original, found);
        }
        let contents =
            |(_, tree): &(String, Tree)| tree.values().map(|entry| entry.content.len()).sum::<usize>();
        let (shown, served) =
            (found.iter().map(contents).sum::<usize>(), traffic(mounted.pid()).written - before);
        assert!(served as usize > shown / 2, "{served} bytes were served for {shown} of files");
    }
}

/// Through the page cache, and past it.
const BOTH: [&str; 2] = ["--direct-io=off", "--direct-io=on"];

#[test]
#[ignore = "for the guest of scripts/vm-test"]
fn a_gpt_disk_with_six_filesystems() {
    requires!(
        root,
        fuse,
        loop,
        "fs:ext4",
        "fs:xfs",
        "fs:btrfs",
        "fs:vfat",
        "fs:exfat",
        sfdisk,
        "mkfs.ext4",
        "mkfs.xfs",
        "mkfs.btrfs",
        "mkfs.vfat",
        "mkfs.exfat",
        "mkfs.ntfs",
        "ntfs-3g",
        cmp
    );
    let table = "label: gpt\nsize=20M, type=U\nsize=24M, type=L\nsize=302M, type=L\nsize=128M, type=L\nsize=16M\nsize=16M\n";
    let parts = [
        Part::new(1, "vfat"),
        Part::new(2, "ext4"),
        Part::new(3, "xfs"),
        Part::new(4, "btrfs"),
        Part::new(5, "exfat"),
        Part::new(6, "ntfs"),
    ];
    let sandbox = Sandbox::new();
    let image = disk(&sandbox, 512, table, &[], &parts);
    assert_comes_back(&sandbox, &image, &[], &parts, &BOTH);
}

#[test]
#[ignore = "for the guest of scripts/vm-test"]
fn an_mbr_disk_with_logical_partitions() {
    requires!(
        root,
        fuse,
        loop,
        "fs:ext4",
        "fs:vfat",
        "fs:btrfs",
        "fs:xfs",
        "mkfs.xfs",
        "fs:exfat",
        sfdisk,
        "mkfs.ext4",
        "mkfs.vfat",
        "mkfs.btrfs",
        "mkfs.exfat",
        "mkfs.ntfs",
        "ntfs-3g",
        cmp
    );
    let table = "label: dos\nd1: size=16M, type=c\nd2: size=540M, type=5\nd5: size=24M, type=83\nd6: size=16M, type=7\nd7: size=16M, type=c\nd8: size=128M, type=83\nd9: size=16M, type=7\nd10: size=302M, type=83\n";
    let parts = [
        Part::new(1, "vfat"),
        Part::new(5, "ext4"),
        Part::new(6, "ntfs"),
        Part::new(7, "vfat"),
        Part::new(8, "btrfs"),
        Part::new(9, "exfat"),
        Part::new(10, "xfs"),
    ];
    let sandbox = Sandbox::plain();
    let image = disk(&sandbox, 568, table, &[], &parts);
    assert_comes_back(&sandbox, &image, &[], &parts, &BOTH);
}

#[test]
#[ignore = "for the guest of scripts/vm-test"]
fn a_disk_with_sectors_of_4096_bytes() {
    requires!(
        root,
        fuse,
        loop,
        "fs:ext4",
        "fs:xfs",
        "fs:btrfs",
        "fs:vfat",
        "fs:exfat",
        sfdisk,
        "mkfs.ext4",
        "mkfs.xfs",
        "mkfs.btrfs",
        "mkfs.vfat",
        "mkfs.exfat",
        "mkfs.ntfs",
        "ntfs-3g",
        cmp
    );
    let args = ["--sector-size", "4096"];
    let table = "label: gpt\nsize=280M, type=U\nsize=24M, type=L\nsize=302M, type=L\nsize=128M, type=L\nsize=32M\nsize=32M\n";
    let parts = [
        Part::new(1, "vfat"),
        Part::new(2, "ext4"),
        Part::new(3, "xfs"),
        Part::new(4, "btrfs"),
        Part::new(5, "exfat"),
        Part::new(6, "ntfs"),
    ];
    let sandbox = Sandbox::plain();
    let image = disk(&sandbox, 816, table, &args, &parts);
    assert_comes_back(&sandbox, &image, &args, &parts, &BOTH);
}

#[test]
#[ignore = "for the guest of scripts/vm-test"]
fn a_whole_disk_is_a_source() {
    requires!(root, fuse, loop, "fs:ext4", "fs:vfat", sfdisk, "mkfs.ext4", "mkfs.vfat", cmp);
    let source = scratch_disk();
    let parts = [Part::new(1, "vfat"), Part::new(2, "ext4")];
    let sandbox = Sandbox::plain();
    partition(&source, "label: gpt\nsize=16M, type=U\nsize=24M, type=L\n");
    let node = |number: u32| {
        let node = PathBuf::from(format!("{}{number}", source.display()));
        fuse_tests::process::wait_until("the partition has a node", || node.exists());
        node
    };
    fill(&sandbox, &parts, node);
    let original = trees(&sandbox, &parts, node);
    sandbox.back_up("disk", &source);
    let mounted = sandbox.mount();
    tool!("cmp", mounted.latest("disk"), &source);
    let device = with_partitions(&mounted.latest("disk"), &["--read-only"]);
    for ((_, original), (_, found)) in
        original.iter().zip(trees(&sandbox, &parts, |number| device.partition(number)))
    {
        assert_same(original, &found);
    }
    drop(device);
    tool!("wipefs", "--all", "--force", "--quiet", &source);
}

#[test]
#[ignore = "for the guest of scripts/vm-test"]
fn a_loop_device_is_a_source() {
    requires!(root, fuse, loop, "fs:ext4", "mkfs.ext4", cmp);
    let sandbox = Sandbox::plain();
    let image = sandbox.path("volume.img");
    empty_file(&image, 24 << 20);
    let source = LoopDevice::writable(&image);
    Part::new(0, "ext4").make(source.path());
    let mounted = mount("ext4", "rw", source.path(), &sandbox.mountpoint("fill"));
    populate(mounted.path(), names_of("ext4"));
    mounted.unmount();
    let original = look(&sandbox, "ext4", source.path());
    sandbox.back_up("volume", source.path());
    let mounted = sandbox.mount();
    tool!("cmp", mounted.latest("volume"), source.path());
    let device = LoopDevice::read_only(&mounted.latest("volume"));
    assert_same(&original, &look(&sandbox, "ext4", device.path()));
}

/// What files hold, by their names.
fn contents(tree: &Tree) -> Vec<(&[u8], &[u8])> {
    tree.iter().map(|(name, entry)| (&name[..], &entry.content[..])).collect()
}

/// A disk as the recipes speak of it: a Linux in partition 2, a Windows in partition 3. What either holds.
fn recipes_disk(sandbox: &Sandbox) -> [Tree; 2] {
    let parts = [Part::new(2, "ext4"), Part::new(3, "ntfs")];
    let table = "label: gpt\nsize=2M, type=U\nsize=24M, type=L\nsize=16M\n";
    let image = disk(sandbox, 48, table, &[], &parts);
    sandbox.back_up("web01", &image);
    let device = with_partitions(&image, &["--read-only"]);
    parts.map(|part| look(sandbox, drivers(part.kind)[0], &device.partition(part.number)))
}

#[test]
#[ignore = "for the guest of scripts/vm-test"]
fn the_recipes_for_files_give_them() {
    requires!(root, fuse, loop, "fs:ext4", sfdisk, "mkfs.ext4", "mkfs.ntfs", "ntfs-3g", lsblk);
    let sandbox = Sandbox::new();
    let originals = recipes_disk(&sandbox);
    let (repository, mnt, restore) = (sandbox.repository(), sandbox.path("mnt"), sandbox.path("restore"));
    let names: [(&str, &Path); 3] =
        [("/srv/backups", &repository), ("/mnt/backups", &mnt), ("/mnt/restore", &restore)];
    for (recipe, original) in
        ["A file from a Linux disk", "A file from a Windows disk"].iter().zip(&originals)
    {
        let mut shell = Shell::new(&sandbox);
        shell.follow(recipe, 0, &names);
        assert!(contents(&scan(&restore)) == contents(original), "{recipe}: other files");
        shell.follow(recipe, 1, &names);
        assert!(mount_on(&mnt).is_none() && mount_on(&restore).is_none());
    }
}

#[test]
#[ignore = "for the guest of scripts/vm-test"]
fn the_recipe_without_root_gives_files() {
    requires!(root, fuse, loop, "fs:ext4", sfdisk, "mkfs.ext4", "mkfs.ntfs", "ntfs-3g", fusermount3, fuse2fs);
    let sandbox = Sandbox::plain();
    let table = "label: gpt\nsize=2M, type=U\nsize=24M, type=L, name=root\nsize=16M, name=windows\n";
    let image = disk(&sandbox, 48, table, &[], &[Part::new(2, "ext4"), Part::new(3, "ntfs")]);
    sandbox.back_up("web01", &image);
    // As the recipe says for ntfs-3g.
    std::fs::write("/etc/fuse.conf", "user_allow_other\n").expect("write");
    /// `nobody`: fusermount3 wants to know its user's name.
    const USER: u32 = 65534;
    let (repository, mnt, restore) =
        (sandbox.repository(), sandbox.mountpoint("mnt"), sandbox.mountpoint("restore"));
    tool!("chown", "-R", USER.to_string(), &repository, sandbox.path("state"), &mnt, &restore);
    tool!("chmod", "711", sandbox.path(""));
    let names: [(&str, &Path); 3] =
        [("/srv/backups", &repository), ("~/backups", &mnt), ("~/restore", &restore)];
    let mut shell = Shell::of(&sandbox, USER);
    shell.follow("A mount without root", 0, &names);
    // Others, root among them, do not see into a user's mount.
    std::fs::read_dir(&restore).expect_err("a user's own mount");
    let copy = shell.copy_of(&restore.join("contents/large"));
    assert!(copy == noise(99, 3 << 20), "another content");
    // The fifth of the awkward names.
    assert!(shell.copy_of(&restore.join("names/Привет мир")) == noise(4, 2900), "another content");
    shell.follow("A mount without root", 1, &names);

    shell.follow("A mount without root", 2, &names);
    assert!(shell.copy_of(&restore.join("contents/large")) == noise(99, 3 << 20), "another content");
    assert!(shell.copy_of(&restore.join("names/Привет мир")) == noise(4, 2900), "another content");
    let stranger = std::process::Command::new("setpriv")
        .args(["--reuid=65533", "--regid=65533", "--clear-groups", "ls"])
        .arg(&restore)
        .output()
        .expect("setpriv");
    assert!(!stranger.status.success(), "somebody else sees the files");
    shell.follow("A mount without root", 3, &names);
    assert!(mount_on(&mnt).is_none() && mount_on(&restore).is_none());
}

#[test]
#[ignore = "for the guest of scripts/vm-test"]
fn the_recipe_without_root_or_a_mount_gives_files() {
    requires!(root, loop, "fs:ext4", sfdisk, "mkfs.ext4", setpriv);
    let sandbox = Sandbox::plain();
    let table = "label: gpt\nsize=2M, type=U\nsize=24M, type=L, name=root\n";
    let image = disk(&sandbox, 32, table, &[], &[Part::new(2, "ext4")]);
    let device = with_partitions(&image, &[]);
    let filled = mount("ext4", "rw", &device.partition(2), &sandbox.mountpoint("fill"));
    let files = [
        ("etc/ssh/config", 1),
        ("home/anna/Brief.odt", 2),
        ("home/anna/ä/deep/b.odt", 3),
        ("home/anna/c.txt", 4),
    ];
    for (name, seed) in files {
        let path = filled.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("mkdir");
        std::fs::write(path, noise(seed, 50_000)).expect("write");
    }
    filled.unmount();
    drop(device);
    let at = ["--timestamp", "2026-11-20T03:00:00Z"];
    sandbox.create(Archiving { name: "web01", sources: &[image.as_os_str()], args: &at });

    const USER: u32 = 65534;
    let (repository, home) = (sandbox.repository(), sandbox.mountpoint("home"));
    tool!("chown", "-R", USER.to_string(), &repository, sandbox.path("state"), &home);
    tool!("chmod", "711", sandbox.path(""));
    let names: [(&str, &Path); 2] = [("/srv/backups", &repository), ("~", &home)];
    Shell::of(&sandbox, USER).follow("A file without root or a mount", 0, &names);
    let copied = |name: &str, seed| {
        let path = home.join(name);
        assert!(
            std::fs::read(&path).is_ok_and(|found| found == noise(seed, 50_000)),
            "{path:?}: {:?}",
            fuse_tests::sandbox::files_below(&home)
        );
    };
    copied("etc.restored/ssh/config", 1);
    copied("restored/Brief.odt", 2);
    copied("restored/b.odt", 3);
    assert_eq!(fuse_tests::sandbox::files_below(&home).len(), 3, "what was not asked for");
}

/// Where udev shows the disk for tests, as a user would name a new one.
const NEW_DISK: &str = "/dev/disk/by-id/virtio-copal";

#[test]
#[ignore = "for the guest of scripts/vm-test"]
fn the_recipe_for_a_whole_disk_gives_it_back() {
    requires!(root, fuse, loop, "fs:ext4", sfdisk, sgdisk, "mkfs.ext4", "mkfs.ntfs", "ntfs-3g", lsblk, cmp);
    let sandbox = Sandbox::plain();
    let originals = recipes_disk(&sandbox);
    let image = sandbox.path("disk.img");
    let len = std::fs::metadata(&image).expect("stat").len();
    let target = scratch_disk();
    wait_until("the new disk has a name", || Path::new(NEW_DISK).exists());
    let repository = sandbox.repository();
    let names: [(&str, &Path); 2] =
        [("/srv/backups", &repository), ("/dev/disk/by-id/ata-NEW_DISK_S3R1AL", Path::new(NEW_DISK))];

    // One that is in use is not taken for new.
    partition(&target, "label: gpt\nsize=16M, type=L\n");
    let said = sandbox.fails(&["extract", &sandbox.reference("web01"), NEW_DISK]);
    assert!(said.contains("--force"), "{said}");
    tool!("wipefs", "--all", "--force", "--quiet", &target);
    // What is there shows nowhere: holes are written, too.
    std::fs::File::options()
        .write(true)
        .open(&target)
        .and_then(|disk| std::os::unix::fs::FileExt::write_all_at(&disk, &noise(6, len as usize), 0))
        .expect("write");

    let mut shell = Shell::new(&sandbox);
    shell.follow("A whole disk back", 0, &names);
    tool!("cmp", "-n", len.to_string(), &image, &target);
    shell.follow("A whole disk back", 1, &names);
    let checked = tool!("sgdisk", "--verify", &target);
    assert!(checked.contains("No problems found"), "{checked}");
    for ((number, kind), original) in [(2, "ext4"), (3, "ntfs")].into_iter().zip(&originals) {
        let node = PathBuf::from(format!("{}{number}", target.display()));
        wait_until("the partition has a node", || node.exists());
        assert_same(original, &look(&sandbox, drivers(kind)[0], &node));
        mount(drivers(kind)[0], "rw", &node, &sandbox.mountpoint("look")).unmount();
    }
    tool!("sgdisk", "--zap-all", &target);
}
