//! Disks that are full. A small filesystem of its own, in a mount namespace of its own, needs root.

use std::fs;

use super::space::Space;
use super::support::{Place, is_root, noise, sparse, tree};

const TMPFS: &str = "mkdir small; mount -t tmpfs -o size=90m,mode=755 none small";

#[test]
fn a_backup_to_a_full_disk_fails_cleanly_and_works_when_there_is_space() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let space = Space::new(&place, TMPFS);
    space.copal("init small/repo --encryption none --reserve 0").ok();
    place.write("disk.img", &noise(1, 1 << 20));
    space.copal("create small/repo::web01 disk.img").ok();
    space.shell("head -c 56M /dev/zero > small/filler").ok();
    // The second pack does not fit, and workers still have a third one to give.
    place.write("big.img", &noise(2, 75 << 20));
    let failed = space.copal("create small/repo::big big.img");
    failed.fails(&["No space left on device", "copal: no space is left: free some, or use another disk"]);
    space.copal("create small/repo::big big.img").fails(&["No space left on device"]);
    let listed = space.copal("list small/repo --json").ok().json();
    assert_eq!(listed["archives"].as_array().map(Vec::len), Some(1));
    assert!(space.copal("extract small/repo::web01 --stdout").ok().stdout == place.read("disk.img"));
    space.shell("rm small/filler").ok();
    let resumed = space.copal("create small/repo::big big.img").ok();
    assert!(String::from_utf8_lossy(&resumed.stdout).contains("were there from a backup that did not end"));
    assert!(space.copal("extract small/repo::big --stdout").ok().stdout == place.read("big.img"));
}

#[test]
fn a_disk_without_one_free_byte() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let space = Space::new(&place, "mkdir small; mount -t tmpfs -o size=4m,mode=755 none small");
    space.copal("init small/repo --encryption none --reserve 0").ok();
    place.write("disk.img", &noise(1, 100_000));
    space.copal("create small/repo::web01 disk.img").ok();
    space.shell("head -c 8M /dev/zero > small/filler || true").end();
    let words = ["No space left on device", "no space is left: free some"];
    space.copal("create small/repo::web01 disk.img").fails(&words);
    space.copal("init small/other --encryption none").fails(&words[..1]);
    space.copal("list small/repo").ok();
    space.copal("extract small/repo::web01 small/out.img").fails(&[
        "small/out.img was not made",
        words[0],
        words[1],
    ]);
    space.copal("extract small/repo::web01 out.img").ok();
    assert!(place.read("out.img") == place.read("disk.img"));
    let left = tree(&space.path("small"));
    assert!(!left.iter().any(|(path, _)| path.display().to_string().contains(".copal-")), "{left:?}");
}

#[test]
fn a_restore_to_a_full_disk_leaves_nothing() {
    if !is_root() {
        return;
    }
    let place = Place::with_repository();
    let space = Space::new(&place, "mkdir small; mount -t tmpfs -o size=8m,mode=755 none small");
    sparse(&place.path("disk.img"), 1 << 30, &[(0, 1000), (500 << 20, 20 << 20)]);
    space.copal("create repo::x disk.img").ok();
    let failed = space.copal("extract repo::x small/out.img");
    failed.fails(&["small/out.img was not made", "No space left on device", "no space is left: free some"]);
    assert_eq!(fs::read_dir(space.path("small")).expect("read_dir").count(), 0);
}
