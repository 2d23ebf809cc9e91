//! A storage that stops answering: readers of the mount get errors in a while, and the right bytes once it answers again.
//!
//! The repository lies in an image that another mount of ours serves, whose server is stopped.

use std::fs;
use std::os::unix::fs::FileExt;

use fuse_tests::devices::{LoopDevice, Mounted};
use fuse_tests::noise::noise;
use fuse_tests::process::wait_until;
use fuse_tests::reading::{check_all, check_range, drop_cache};
use fuse_tests::sandbox::Sandbox;
use fuse_tests::{requires, tool};
use rustix::process::Signal;

#[test]
fn a_hung_storage_gives_errors_and_not_hung_readers() {
    requires!(fuse, root, loop, "fs:ext4", "mkfs.ext4", losetup, mount);
    let bytes = noise(1, 24 << 20);
    let inner = Sandbox::plain();
    inner.back_up_bytes("disk", &bytes);
    let medium = inner.path("medium.img");
    fs::File::create(&medium).and_then(|file| file.set_len(64 << 20)).expect("make file");
    tool!("mkfs.ext4", "-q", "-F", "-d", inner.repository(), medium);

    let outer = Sandbox::plain();
    outer.back_up("medium", &medium);
    let beneath = outer.mount();
    let device = LoopDevice::attach(&beneath.latest("medium"), &["--read-only", "--direct-io=on"]);
    let disk = Mounted::device("ext4", "ro,noload", device.path(), &outer.mountpoint("disk"));

    let mount = inner.mount_elsewhere(disk.path(), "mnt", &["--storage-timeout", "1"]);
    let file = mount.open("disk");
    check_range(&file, &bytes, 0, 4096);

    beneath.signal(Signal::STOP);
    let read = |offset: usize| file.read_at(&mut [0; 4096], offset as u64).map_err(|error| error.kind());
    // Whatever the system has in memory may still be served.
    let answers: Vec<_> = (1..24).map(|at| read(at << 20)).collect();
    let failed = answers.iter().filter(|answer| answer.is_err()).count();
    let log = mount.log();
    // Before anything can fail here, so that nobody is left waiting.
    beneath.signal(Signal::CONT);
    assert!(failed > 0, "{answers:?}");
    assert!(
        answers.iter().all(|answer| answer.is_ok_and(|len| len == 4096) || answer.is_err()),
        "{answers:?}"
    );
    assert!(log.contains("has not answered for 1 s"), "{log}");

    wait_until("the storage answers again", || {
        drop_cache(&file);
        (1..24).all(|at| read(at << 20).is_ok())
    });
    drop(file);
    check_all(&mount.latest("disk"), &bytes, 1 << 20);
    assert!(mount.log().contains("answers again"), "{}", mount.log());
}
