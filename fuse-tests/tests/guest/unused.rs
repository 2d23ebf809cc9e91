//! `create --skip-unused` of volumes in use, through snapshots of LVM.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use fuse_tests::devices::{LoopDevice, Mounted};
use fuse_tests::images::{Names, assert_names, populate};
use fuse_tests::noise::noise;
use fuse_tests::sandbox::{Archiving, Sandbox};
use fuse_tests::trees::{Tree, assert_same, scan};
use fuse_tests::unix::{assert_flags, assert_unix};
use fuse_tests::{requires, tool};

use crate::lvm::{Group, device};
use crate::mount;

const MIB: usize = 1 << 20;
/// How much of what was deleted is still on the disk.
const STALE: usize = 8 * MIB;

/// All of a filesystem that was in use, once its journal was replayed.
fn seen(sandbox: &Sandbox, kind: &str, device: &Path) -> Tree {
    // The original is mounted, and two of one id are too many for XFS.
    let options = if kind == "xfs" { "rw,nouuid" } else { "rw" };
    let mounted = Mounted::device(kind, options, device, &sandbox.mountpoint("look"));
    let tree = scan(mounted.path());
    mounted.unmount();
    tree
}

/// What differs is zero in the archive; says how much that is.
fn zeroed(original: &Path, archived: &Path) -> u64 {
    let (mut original, mut archived) =
        (File::open(original).expect("open"), File::open(archived).expect("open"));
    let (mut before, mut after) = (vec![0; MIB], vec![0; MIB]);
    let mut zeroed = 0;
    loop {
        let len = original.read(&mut before).expect("read");
        if len == 0 {
            assert_eq!(archived.read(&mut after).expect("read"), 0, "the archive is longer");
            return zeroed;
        }
        archived.read_exact(&mut after[..len]).expect("read");
        if before[..len] == after[..len] {
            continue;
        }
        for (before, after) in before[..len].chunks(4096).zip(after[..len].chunks(4096)) {
            if before != after {
                assert!(after.iter().all(|byte| *byte == 0), "bytes differ");
                zeroed += after.len() as u64;
            }
        }
    }
}

fn assert_only_what_is_used_comes_back(kind: &str, mib: u64, check: impl Fn(&Path) -> String) {
    let sandbox = Sandbox::plain();
    let device = device(&sandbox, "pv", mib + 40);
    let group = Group::new("copal1", device.path());
    tool!("lvcreate", "-q", "-W", "n", "-L", format!("{mib}M"), "-n", "root", group.0);
    tool!(&format!("mkfs.{kind}"), "-q", group.volume("root"));
    let live = mount(kind, "rw", &group.volume("root"), &sandbox.mountpoint("live"));
    let sync = || rustix::fs::syncfs(File::open(live.path()).expect("open")).expect("sync");
    populate(live.path(), Names::Bytes);
    fs::write(live.path().join("deleted"), noise(7, STALE)).expect("write");
    sync();
    fs::remove_file(live.path().join("deleted")).expect("remove");
    // Not on the disk yet when the snapshot is taken, which sees to it.
    fs::write(live.path().join("new"), noise(8, MIB)).expect("write");
    tool!("lvcreate", "-q", "--snapshot", "-L", "24M", "-n", "now", group.volume("root"));
    // The volume goes on meanwhile.
    fs::remove_dir_all(live.path().join("names")).expect("remove");
    fs::write(live.path().join("later"), noise(3, MIB)).expect("write");
    sync();

    let snapshot = group.volume("now");
    let args = ["--skip-unused"];
    let created = sandbox.create(Archiving { name: "root", sources: &[snapshot.as_os_str()], args: &args });
    let left_out = created["left_out"].as_u64().expect("a number");
    println!("{kind}: {left_out} bytes left out, {} read", created["read"]);
    assert!(left_out >= STALE as u64, "{created:#}");
    let mounted = sandbox.mount();
    let stale = zeroed(&snapshot, &mounted.latest("root"));
    assert!((STALE as u64 / 2..=left_out).contains(&stale), "{stale} of {left_out}");
    // Where its journal can be replayed.
    let copy = sandbox.path("copy.img");
    tool!("cp", "--sparse=always", mounted.latest("root"), &copy);
    let archived = LoopDevice::writable(&copy);
    let found = seen(&sandbox, kind, archived.path());
    assert_same(&seen(&sandbox, kind, &snapshot), &found);
    check(archived.path());
    assert_names(&found, Names::Bytes);
    assert_unix(&found);
    assert_flags(&found);
    assert!(found[&b"new"[..]].content == noise(8, MIB) && !found.contains_key(&b"later"[..]));
    live.unmount();
}

#[test]
#[ignore = "for the guest of scripts/vm-test"]
fn unused_blocks_of_a_live_ext4_are_left_out_through_a_snapshot() {
    requires!(root, fuse, loop, "fs:ext4", "mkfs.ext4", e2fsck, pvcreate, vgcreate, lvcreate);
    assert_only_what_is_used_comes_back("ext4", 48, |device| tool!("e2fsck", "-fn", device));
}

#[test]
#[ignore = "for the guest of scripts/vm-test"]
fn unused_blocks_of_a_live_xfs_are_left_out_through_a_snapshot() {
    requires!(root, fuse, loop, "fs:xfs", "mkfs.xfs", xfs_repair, pvcreate, vgcreate, lvcreate);
    // XFS takes 300 MB at least.
    assert_only_what_is_used_comes_back("xfs", 304, |device| tool!("xfs_repair", "-n", device));
}
