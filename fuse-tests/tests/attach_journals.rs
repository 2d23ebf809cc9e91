//! `copal attach` of what was in use when it was backed up, and above an overlay.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use fuse_tests::attached::{Attaches, contents, mount_line, mounted, said};
use fuse_tests::devices::{LoopDevice, Mounted};
use fuse_tests::images::filesystem;
use fuse_tests::sandbox::{Sandbox, files_below};
use fuse_tests::trees::{Tree, assert_same, scan};
use fuse_tests::{requires, tool};

/// A copy of an image that is mounted and was just written to, with its journal not replayed.
fn unclean(sandbox: &Sandbox, kind: &str) -> (PathBuf, Tree) {
    let image = filesystem(sandbox, kind);
    let device = LoopDevice::writable(&image);
    let live = Mounted::device(kind, "rw", device.path(), &sandbox.mountpoint("live"));
    fs::remove_file(live.path().join("contents/text")).expect("remove");
    rustix::fs::syncfs(File::open(live.path()).expect("open")).expect("sync");
    let file = live.path().join("written last");
    fs::write(&file, "all of it").expect("write");
    // In the journal, and not in its place.
    for path in [file.as_path(), live.path()] {
        File::open(path).and_then(|file| file.sync_all()).expect("sync");
    }
    let tree = scan(live.path());
    let copy = sandbox.path("unclean.img");
    // What is behind the device: its own cache may be older than what the filesystem wrote past it.
    tool!("cp", "--sparse=always", image, copy);
    live.unmount();
    (copy, tree)
}

#[test]
fn a_journal_is_replayed_in_an_overlay_and_the_archive_stays_as_it_is() {
    requires!(
        fuse,
        root,
        loop,
        "fs:ext4",
        "fs:xfs",
        "fs:btrfs",
        "mkfs.ext4",
        "mkfs.xfs",
        "mkfs.btrfs",
        losetup
    );
    for kind in ["ext4", "xfs", "btrfs"] {
        let sandbox = Sandbox::plain();
        let (image, tree) = unclean(&sandbox, kind);
        sandbox.back_up("web01", &image);
        let before = contents(&sandbox);
        let attaches = Attaches::of(&sandbox);
        let attached = attaches.attach("web01", &[]);
        let name = format!("p1-{kind}");
        assert_same(&tree, &scan(&mounted(&attached, &name)));
        assert_eq!(attached["overlay"], true);
        assert!(mount_line(&mounted(&attached, &name)).contains(" ro,nosuid,nodev,noexec"));
        attaches.run(&["detach", "--all"]);
        assert_eq!(contents(&sandbox), before, "the repository has changed");
    }
}

#[test]
fn without_a_replay_what_is_shown_is_said_to_be_doubtful() {
    requires!(
        fuse,
        root,
        loop,
        "fs:ext4",
        "fs:xfs",
        "fs:btrfs",
        "mkfs.ext4",
        "mkfs.xfs",
        "mkfs.btrfs",
        losetup
    );
    for kind in ["ext4", "xfs", "btrfs"] {
        let sandbox = Sandbox::plain();
        let (image, _) = unclean(&sandbox, kind);
        sandbox.back_up("web01", &image);
        let attaches = Attaches::of(&sandbox);
        let output = attaches.output(&["attach", &sandbox.reference("web01"), "--no-replay"]);
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(said(&output).contains("JOURNAL NOT REPLAYED"), "{}", said(&output));
        let listed = attaches.listed();
        assert_eq!(listed[0]["overlay"], false);
        let root = PathBuf::from(listed[0]["mounts"][0]["path"].as_str().expect("a path"));
        // The kernel shows ext4's noload by this name, too.
        let option = if kind == "btrfs" { "nologreplay" } else { "norecovery" };
        assert!(mount_line(&root).contains(option), "{}", mount_line(&root));
    }
}

#[test]
fn an_overlay_is_written_to_and_thrown_away_or_kept() {
    requires!(fuse, root, loop, "fs:ext4", "mkfs.ext4", losetup);
    let sandbox = Sandbox::plain();
    sandbox.back_up("ext4", &filesystem(&sandbox, "ext4"));
    let before = contents(&sandbox);
    let attaches = Attaches::of(&sandbox);
    let place = sandbox.mountpoint("overlays");
    let place = place.to_str().expect("text");
    let first = attaches.attach("ext4", &["--overlay", "--overlay-dir", place, "--overlay-size", "64M"]);
    let file = mounted(&first, "p1-ext4").join("new");
    assert!(mount_line(&mounted(&first, "p1-ext4")).contains(" rw,nosuid,nodev,noexec"));
    fs::write(&file, "written").expect("write");
    assert_eq!(fs::read(&file).expect("read"), b"written");
    attaches.run(&["detach", "--all"]);
    assert_eq!(files_below(Path::new(place)), Vec::<PathBuf>::new());
    let kept = sandbox.path("kept");
    let kept = kept.to_str().expect("text");
    let second = attaches.attach("ext4", &["--keep-overlay", kept]);
    assert!(!mounted(&second, "p1-ext4").join("new").exists());
    fs::write(mounted(&second, "p1-ext4").join("new"), "kept").expect("write");
    assert!(attaches.run(&["detach", "--all"]).contains(kept));
    let third = attaches.attach("ext4", &["--keep-overlay", kept]);
    assert_eq!(fs::read(mounted(&third, "p1-ext4").join("new")).expect("read"), b"kept");
    attaches.run(&["detach", "--all"]);
    assert_eq!(contents(&sandbox), before, "the repository has changed");
}
