//! The tests' own guards: a test that fails leaves nothing behind.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use fuse_tests::devices::{LoopDevice, Mounted};
use fuse_tests::images::filesystem;
use fuse_tests::mounted::Server;
use fuse_tests::process::{has_ended, wait_until};
use fuse_tests::requires;
use fuse_tests::sandbox::Sandbox;
use rustix::process::Signal;

#[test]
fn a_test_that_panics_leaves_nothing_behind() {
    requires!(fuse, root, loop, "fs:ext4", "mkfs.ext4", losetup, mount);
    let (mut place, mut pids) = (None, Vec::new());
    let failed = catch_unwind(AssertUnwindSafe(|| {
        let sandbox = Sandbox::plain();
        place = sandbox.repository().parent().map(Path::to_owned);
        sandbox.back_up("ext4", &filesystem(&sandbox, "ext4"));
        let front = sandbox.mount();
        let back = sandbox.mount_in_background("back", &[]);
        let stopped = sandbox.mount_with("stopped", None, &[]);
        pids.extend([front.pid(), back.pid(), stopped.pid()]);
        let device = LoopDevice::read_only(&back.latest("ext4"));
        let _inner = Mounted::device("ext4", "ro,noload", device.path(), &sandbox.mountpoint("inner"));
        stopped.signal(Signal::STOP);
        let _open = front.open("ext4");
        std::panic::resume_unwind(Box::new("a failing assertion"));
    }));
    assert_eq!(failed.expect_err("it panics").downcast_ref(), Some(&"a failing assertion"));
    let place = place.expect("it began");
    assert!(!place.exists());
    let mounts = copal::fuse::mountpoint::mounts().expect("mounts");
    assert!(mounts.iter().all(|mount| !mount.path.starts_with(&place)), "{mounts:?}");
    for device in fs::read_dir("/sys/block").expect("devices") {
        let file = device.expect("device").path().join("loop/backing_file");
        let file = fs::read_to_string(file).unwrap_or_default();
        assert!(!Path::new(&file).starts_with(&place), "a loop device stays on {file}");
    }
    wait_until("all servers have ended", || pids.iter().all(|pid| has_ended(*pid)));
    assert!(Server::of(&place.join("back")).is_none());
}
