//! Writable images under pressure: whatever happens to what is written, the repository stays as it is.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use fuse_tests::devices::{LoopDevice, Mounted};
use fuse_tests::images::empty_file;
use fuse_tests::mounted::Mount;
use fuse_tests::noise::noise;
use fuse_tests::process::wait_until;
use fuse_tests::sandbox::Sandbox;
use fuse_tests::{requires, tool};
use rustix::process::Signal;

use crate::trouble::available;
use crate::{mount, scratch_disk};

const MIB: usize = 1 << 20;

/// An archive of an empty ext4, and the disk on which what is written goes.
struct Scene {
    sandbox: Sandbox,
    before: String,
    elsewhere: Mounted,
}

impl Scene {
    fn new() -> Self {
        let sandbox = Sandbox::plain();
        let image = sandbox.path("disk");
        empty_file(&image, 96 << 20);
        tool!("mkfs.ext4", "-q", "-F", &image);
        sandbox.back_up("disk", &image);
        let disk = scratch_disk();
        tool!("mkfs.ext4", "-q", "-F", &disk);
        let elsewhere = mount("ext4", "rw", &disk, &sandbox.mountpoint("elsewhere"));
        let before = sandbox.digest();
        Self { sandbox, before, elsewhere }
    }

    fn serve(&self, size: &str) -> (Mount, LoopDevice) {
        let place = self.elsewhere.path().to_str().expect("text");
        let args = ["--overlay", "--overlay-dir", place, "--overlay-size", size, "--cache-size", "16M"];
        let served = self.sandbox.mount_with("mnt", Some("disk"), &args);
        let image = served.path("latest.img").canonicalize().expect("an image");
        let device = LoopDevice::attach(&image, &["--direct-io=on"]);
        (served, device)
    }

    fn end(self) {
        assert_eq!(self.sandbox.digest(), self.before, "the repository has changed");
        let disk = scratch_disk();
        self.elsewhere.unmount();
        tool!("wipefs", "--all", "--force", "--quiet", &disk);
    }
}

/// Writes files of a mebibyte until there are so many, or one fails; the bytes of each are its number's.
fn fill(directory: &Path, count: u64) -> std::io::Result<()> {
    for number in 0..count {
        let mut file = File::create(directory.join(number.to_string()))?;
        file.write_all(&noise(number, MIB))?;
        file.sync_all()?;
    }
    Ok(())
}

#[test]
#[ignore = "for the guest of scripts/vm-test"]
fn an_overlay_is_written_to_while_memory_is_short_and_full_of_dirty_pages() {
    requires!(root, fuse, loop, "fs:ext4", "mkfs.ext4", sha256sum);
    let scene = Scene::new();
    let (served, device) = scene.serve("1G");
    let written = mount("ext4", "rw", device.path(), &scene.sandbox.mountpoint("look"));
    let taken: Vec<u8> = vec![1; available().saturating_sub(300 * MIB)];
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let piece = noise(8, MIB);
            for number in 0.. {
                if done.load(Ordering::Relaxed) {
                    return;
                }
                let path = scene.elsewhere.path().join(format!("dirty-{}", number % 200));
                match fs::write(path, &piece) {
                    Err(error) if error.kind() != ErrorKind::StorageFull => panic!("{error}"),
                    _ => {}
                }
            }
        });
        let filled = fill(written.path(), 48);
        let free = available();
        done.store(true, Ordering::Relaxed);
        wait_until("the writer is done", || writer.is_finished());
        filled.expect("48 files are written");
        assert!(free < 400 * MIB, "memory was not short: {free} bytes");
    });
    assert!(taken.iter().step_by(4096).all(|byte| *byte == 1));
    fs::write("/proc/sys/vm/drop_caches", "3").expect("drop");
    for number in 0..48 {
        let found = fs::read(written.path().join(number.to_string())).expect("read");
        assert!(found == noise(number, MIB), "file {number}");
    }
    written.unmount();
    tool!("e2fsck", "-fn", device.path());
    drop((device, served));
    scene.end();
}

#[test]
#[ignore = "for the guest of scripts/vm-test"]
fn a_full_overlay_gives_errors_and_hangs_nobody() {
    requires!(root, fuse, loop, "fs:ext4", "mkfs.ext4", sha256sum);
    let scene = Scene::new();
    let (served, device) = scene.serve("16M");
    let written = mount("ext4", "rw,errors=remount-ro", device.path(), &scene.sandbox.mountpoint("look"));
    assert!(fill(written.path(), 60).is_err(), "more was written than is allowed");
    written.unmount();
    drop((device, served));
    scene.end();
}

#[test]
#[ignore = "for the guest of scripts/vm-test"]
fn writers_of_a_killed_server_get_errors_and_the_repository_is_as_it_was() {
    requires!(root, fuse, loop, "fs:ext4", "mkfs.ext4", sha256sum);
    let scene = Scene::new();
    for round in 0..3 {
        let (mut served, device) = scene.serve("1G");
        let written = mount("ext4", "rw", device.path(), &scene.sandbox.mountpoint("look"));
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| fill(written.path(), 80));
            std::thread::sleep(std::time::Duration::from_millis(300 + 500 * round));
            served.signal(Signal::KILL);
            wait_until("the server has died", || served.has_ended());
            wait_until("the writer has an error", || writer.is_finished());
            assert!(writer.join().expect("the writer").is_err());
        });
        // The filesystem above cannot be written back; it goes all the same.
        let gone = Command::new("umount").arg(written.path()).output().expect("umount");
        assert!(gone.status.success(), "{}", String::from_utf8_lossy(&gone.stderr));
        drop((written, device));
        scene.sandbox.run(&["umount", served.directory().to_str().expect("text")]);
        let left = fs::read_dir(scene.elsewhere.path())
            .expect("list")
            .map(|entry| entry.expect("entry").file_name());
        assert_eq!(left.collect::<Vec<_>>(), ["lost+found"]);
    }
    scene.end();
}
