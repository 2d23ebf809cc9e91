//! Volumes of LVM as sources, and volume groups inside of mounted archives.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use fuse_tests::devices::LoopDevice;
use fuse_tests::images::{assert_names, empty_file, partition, populate};
use fuse_tests::noise::noise;
use fuse_tests::process::wait_until;
use fuse_tests::sandbox::Sandbox;
use fuse_tests::trees::{assert_same, scan};
use fuse_tests::{requires, tool};

use crate::recipes::Shell;
use crate::{look, mount, names_of, with_partitions};

/// A volume group, active until it goes.
pub(crate) struct Group(pub(crate) &'static str);

impl Group {
    pub(crate) fn new(name: &'static str, device: &Path) -> Self {
        tool!("pvcreate", "-q", device);
        tool!("vgcreate", "-q", name, device);
        Self(name)
    }

    /// The node of a volume.
    pub(crate) fn volume(&self, volume: &str) -> PathBuf {
        PathBuf::from(format!("/dev/{}/{volume}", self.0))
    }

    /// Makes an ext4 in a volume and fills it.
    pub(crate) fn fill(&self, sandbox: &Sandbox, volume: &str) {
        tool!("mkfs.ext4", "-q", self.volume(volume));
        let mounted = mount("ext4", "rw", &self.volume(volume), &sandbox.mountpoint("fill"));
        populate(mounted.path(), names_of("ext4"));
        mounted.unmount();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // What is left when a test fails is taken away as far as it goes.
        let _ = Command::new("vgremove").args(["-q", "-ff", "--yes", self.0]).output();
    }
}

pub(crate) fn device(sandbox: &Sandbox, name: &str, mib: u64) -> LoopDevice {
    let file = sandbox.path(name);
    empty_file(&file, mib << 20);
    LoopDevice::writable(&file)
}

#[test]
#[ignore = "for the guest of scripts/vm-test"]
fn a_snapshot_of_a_mounted_volume_is_a_source() {
    requires!(root, fuse, loop, "fs:ext4", "mkfs.ext4", pvcreate, vgcreate, lvcreate, cmp);
    let sandbox = Sandbox::plain();
    let device = device(&sandbox, "pv", 96);
    let group = Group::new("copal0", device.path());
    tool!("lvcreate", "-q", "-W", "n", "-L", "40M", "-n", "root", group.0);
    group.fill(&sandbox, "root");
    let live = mount("ext4", "rw", &group.volume("root"), &sandbox.mountpoint("live"));
    tool!("lvcreate", "-q", "--snapshot", "-L", "24M", "-n", "now", group.volume("root"));
    // The volume goes on meanwhile.
    fs::remove_dir_all(live.path().join("names")).expect("remove");
    fs::write(live.path().join("later"), noise(3, 1 << 20)).expect("write");
    rustix::fs::syncfs(fs::File::open(live.path()).expect("open")).expect("sync");
    sandbox.back_up("root", &group.volume("now"));
    let mounted = sandbox.mount();
    tool!("cmp", mounted.latest("root"), group.volume("now"));
    let archived = LoopDevice::read_only(&mounted.latest("root"));
    let found = look(&sandbox, "ext4", archived.path());
    assert_same(&look(&sandbox, "ext4", &group.volume("now")), &found);
    assert_names(&found, names_of("ext4"));
    live.unmount();
}

#[test]
#[ignore = "for the guest of scripts/vm-test"]
fn thin_snapshots_are_backed_up_by_what_changed() {
    requires!(
        root,
        fuse,
        loop,
        "fs:ext4",
        "mkfs.ext4",
        pvcreate,
        vgcreate,
        lvcreate,
        thin_delta,
        dmsetup,
        cmp
    );
    let sandbox = Sandbox::bare();
    sandbox.run(&[
        "init",
        "--encryption",
        "none",
        "--span-size",
        "4M",
        &sandbox.repository().to_string_lossy(),
    ]);
    let device = device(&sandbox, "pv", 160);
    let group = Group::new("vg0", device.path());
    tool!("lvcreate", "-q", "--type", "thin-pool", "-L", "96M", "-n", "pool", group.0);
    tool!("lvcreate", "-q", "-V", "64M", "--thinpool", "pool", "-n", "web01", group.0);
    group.fill(&sandbox, "web01");
    let (repository, delta) = (sandbox.repository(), sandbox.path("delta"));
    let names = [("/srv/backups", repository.as_path()), ("/run/web01.delta", &delta)];
    let mut shell = Shell::new(&sandbox);
    // What each create says goes to a file, and one with a map is tried without its sample before.
    let (trusting, said) = (sandbox.path("trusting.json"), sandbox.path("said.json"));
    let counting = format!(
        "copal() {{
            if [ \"$1\" != create ]; then command copal \"$@\"; return; fi
            if [[ $* = *--changed-map* ]]; then command copal \"$@\" --trust --dry-run --json > '{}'; fi
            command copal \"$@\" --json > '{}'
        }}",
        trusting.display(),
        said.display()
    );
    shell.run("counting", &counting);
    shell.follow("LVM thin volumes", 0, &names);
    let whole = read_by_create(&said);
    assert_eq!(whole, 64 << 20);
    tool!("lvchange", "-q", "--ignoreactivationskip", "--activate", "y", group.volume("web01-last"));
    assert_archived(&sandbox, &group.volume("web01-last"));

    let live = mount("ext4", "rw", &group.volume("web01"), &sandbox.mountpoint("live"));
    fs::write(live.path().join("more"), noise(4, 2 << 20)).expect("write");
    fs::remove_file(live.path().join("contents/large")).expect("remove");
    live.unmount();
    shell.follow("LVM thin volumes", 1, &names);
    let changed = spans_of(&delta, 4 << 20) * (4 << 20);
    assert!(changed > 0 && changed <= whole / 2, "{changed} bytes in spans that changed");
    assert_eq!(read_by_create(&trusting), changed);
    // And of the others, the data.
    let sampled = read_by_create(&said);
    println!("of {whole} bytes {changed} in spans that changed, read with the sample {sampled}");
    assert!(sampled > changed && sampled < whole, "{sampled}");

    tool!("lvchange", "-q", "--ignoreactivationskip", "--activate", "y", group.volume("web01-last"));
    assert_archived(&sandbox, &group.volume("web01-last"));
    let archives = sandbox.run(&["list", "--json", repository.to_str().expect("text")]);
    let archives: serde_json::Value = serde_json::from_str(&archives).expect("JSON");
    assert_eq!(archives["archives"].as_array().map(Vec::len), Some(2));
}

/// What a create read, by its report.
fn read_by_create(report: &Path) -> u64 {
    let report: serde_json::Value =
        serde_json::from_slice(&fs::read(report).expect("a report")).expect("JSON");
    report["read"].as_u64().expect("a number")
}

/// How many spans of a length hold blocks that are not the same, by `thin_delta`.
fn spans_of(delta: &Path, span: u64) -> u64 {
    let delta = fs::read_to_string(delta).expect("a map");
    let value = |line: &str, name: &str| -> Option<u64> {
        let (_, rest) = line.split_once(&format!("{name}=\""))?;
        rest.split('"').next()?.parse().ok()
    };
    let block = 512 * value(&delta, "data_block_size").expect("the length of a block");
    let mut spans = std::collections::BTreeSet::new();
    for line in delta.lines().filter(|line| !line.contains("<same")) {
        if let (Some(begin), Some(length)) = (value(line, "begin"), value(line, "length")) {
            spans.extend(begin * block / span..=((begin + length) * block - 1) / span);
        }
    }
    spans.len() as u64
}

/// The newest archive is what the snapshot is, byte by byte and file by file.
fn assert_archived(sandbox: &Sandbox, snapshot: &Path) {
    let mounted = sandbox.mount();
    tool!("cmp", mounted.latest("web01"), snapshot);
    let archived = LoopDevice::read_only(&mounted.latest("web01"));
    let found = look(sandbox, "ext4", archived.path());
    assert_names(&found, names_of("ext4"));
    assert_same(&look(sandbox, "ext4", snapshot), &found);
}

#[test]
#[ignore = "for the guest of scripts/vm-test"]
fn a_volume_group_inside_an_image_is_activated_beside_its_original() {
    requires!(root, fuse, loop, "fs:ext4", "mkfs.ext4", pvcreate, vgcreate, lvcreate, vgimportclone, sfdisk);
    let sandbox = Sandbox::plain();
    let image = sandbox.path("disk.img");
    empty_file(&image, 80 << 20);
    let disk = with_partitions(&image, &[]);
    partition(disk.path(), "label: gpt\nsize=8M, type=U\nsize=64M, type=V\n");
    // The group of the host goes on beside that of its backup.
    let group = Group::new("vg0", &disk.partition(2));
    tool!("lvcreate", "-q", "-W", "n", "-L", "32M", "-n", "root", group.0);
    group.fill(&sandbox, "root");
    let live = mount("ext4", "rw", &group.volume("root"), &sandbox.mountpoint("live"));
    // While it is mounted: what was written last is in its journal alone.
    let last = live.path().join("written last");
    fs::write(&last, "all of it").expect("write");
    fs::File::open(&last).and_then(|file| file.sync_all()).expect("sync");
    let copy = sandbox.path("copy.img");
    tool!("cp", "--sparse=always", &image, &copy);
    sandbox.back_up("web01", &copy);
    let volumes =
        || tool!("vgs", "--noheadings", "-o", "vg_uuid,lv_count", "--devices", disk.partition(2), "vg0");
    let before = volumes();

    let (repository, mnt, restore) = (sandbox.repository(), sandbox.path("mnt"), sandbox.path("restore"));
    let names: [(&str, &Path); 3] =
        [("/srv/backups", &repository), ("/mnt/backups", &mnt), ("/mnt/restore", &restore)];
    let mut shell = Shell::new(&sandbox);
    shell.follow("LVM inside an image", 0, &names);
    let found = scan(&restore);
    assert_names(&found, names_of("ext4"));
    // Nothing of the host's has changed, and it can be written to.
    assert_same(&scan(live.path()), &found);
    fs::write(live.path().join("still alive"), "yes").expect("write");
    assert_eq!(before, volumes());
    assert!(may_grow(&group), "LVM is kept from changing the original");
    shell.follow("LVM inside an image", 1, &names);
    live.unmount();
    assert_eq!(before, volumes());
    assert!(may_grow(&group));

    // And where the original is gone, as after a disaster.
    drop(group);
    drop(disk);
    shell.follow("LVM inside an image", 0, &names);
    assert_same(&found, &scan(&restore));
    assert!(!Path::new("/dev/vg0").exists(), "it is active under the name of its original");
    shell.follow("LVM inside an image", 1, &names);
}

/// Whether LVM would make a volume in a group.
pub(crate) fn may_grow(group: &Group) -> bool {
    let tried = Command::new("lvcreate").args(["-q", "--test", "-L", "4M", "-n", "more", group.0]).output();
    tried.expect("lvcreate").status.success()
}

/// What the recipe keeps from happening: groups of an image that come up as if they were this machine's.
#[test]
#[ignore = "for the guest of scripts/vm-test"]
fn without_the_recipe_a_group_of_an_image_takes_the_place_of_its_original() {
    requires!(root, fuse, loop, pvcreate, vgcreate, lvcreate, vgchange, udevadm);
    let sandbox = Sandbox::plain();
    let original = device(&sandbox, "pv", 24);
    let group = Group::new("vg2", original.path());
    tool!("lvcreate", "-q", "-W", "n", "-L", "8M", "-n", "root", group.0);
    let copy = sandbox.path("copy.img");
    tool!("cp", "--sparse=always", sandbox.path("pv"), &copy);
    sandbox.back_up("web01", &copy);
    // As LVM's own rules do when a disk goes.
    tool!("vgchange", "-q", "--activate", "n", group.0);
    drop(original);
    let volume = Path::new("/dev/vg2/root");
    assert!(!volume.exists());
    let mounted = sandbox.mount();
    let image = mounted.latest("web01");
    let attach = || {
        let device = LoopDevice::read_only(&image);
        tool!("udevadm", "settle");
        device
    };
    let device = attach();
    wait_until("udev has activated it", || volume.exists());
    tool!("vgchange", "-q", "--activate", "n", "vg2");
    drop(device);

    let mut shell = Shell::new(&sandbox);
    shell.follow_until("LVM inside an image", 0, "copal mount");
    let device = attach();
    let vgs = Command::new("vgs").args(["--noheadings", "-o", "lv_count", "vg2"]).output().expect("vgs");
    assert!(vgs.status.success(), "LVM does not see it: {vgs:?}");
    assert!(!volume.exists(), "the rules of the recipe do nothing");
    drop(device);
    tool!("rm", "/run/udev/rules.d/57-copal-restore.rules");
    tool!("udevadm", "control", "--reload");
}
