//! Images that can be written to: what is written is there, and the repository never changes.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use fuse_tests::devices::{LoopDevice, Mounted};
use fuse_tests::images::{PARTITION, PARTITION_LEN, empty_file, filesystem, gpt};
use fuse_tests::mounted::Mount;
use fuse_tests::noise::noise;
use fuse_tests::process::wait_until;
use fuse_tests::reading::check_all;
use fuse_tests::sandbox::Sandbox;
use fuse_tests::{requires, tool};
use rustix::process::Signal;

fn writable(sandbox: &Sandbox, name: &str, args: &[&str]) -> Mount {
    sandbox.mount_with("mnt", Some(name), &[&["--overlay"], args].concat())
}

fn image(mount: &Mount) -> PathBuf {
    mount.path("latest.img").canonicalize().expect("an image")
}

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).expect("open")
}

/// A writable loop device that leaves no page in the kernel for its file.
fn direct(image: &Path, args: &[&str]) -> LoopDevice {
    let device = LoopDevice::attach(image, &[&["--direct-io=on"], args].concat());
    let name = device.path().file_name().expect("a name").to_string_lossy().into_owned();
    let dio = fs::read_to_string(format!("/sys/block/{name}/loop/dio")).expect("dio");
    assert_eq!(dio.trim(), "1");
    device
}

#[test]
fn a_filesystem_in_a_writable_image_is_changed_and_the_repository_is_not() {
    requires!(fuse, root, loop, "fs:ext4", "mkfs.ext4", sfdisk, e2fsck, losetup, mount, sha256sum);
    let sandbox = Sandbox::new();
    let original = gpt(&sandbox);
    sandbox.back_up("gpt", &original);
    let before = sandbox.digest();
    let mount = writable(&sandbox, "gpt", &[]);
    assert_eq!(image(&mount).metadata().expect("stat").mode() & 0o777, 0o600);
    let part = [format!("--offset={PARTITION}"), format!("--sizelimit={PARTITION_LEN}")];
    let part = part.each_ref().map(String::as_str);
    let large = noise(7, 6 << 20);
    {
        let device = direct(&image(&mount), &part);
        let mounted = Mounted::device("ext4", "rw", device.path(), &sandbox.mountpoint("look"));
        fs::write(mounted.path().join("large"), &large).expect("write");
        fs::remove_file(mounted.path().join("contents/text")).expect("remove");
        mounted.unmount();
        tool!("e2fsck", "-fn", device.path());
    }
    {
        let device = direct(&image(&mount), &[&["--read-only"], &part[..]].concat());
        let mounted = Mounted::device("ext4", "ro", device.path(), &sandbox.mountpoint("look"));
        assert!(fs::read(mounted.path().join("large")).expect("read") == large);
        assert!(!mounted.path().join("contents/text").exists());
        mounted.unmount();
    }
    // The part shows what was written to the image, and the other way round.
    let file = open(&mount.path("latest.parts/1-root.img"));
    let of_image = |len: usize| {
        let mut bytes = vec![0; len];
        open(&image(&mount)).read_exact_at(&mut bytes, PARTITION).expect("read");
        bytes
    };
    let mut of_part = vec![0; 2 << 20];
    file.read_exact_at(&mut of_part, 0).expect("read");
    assert!(of_part == of_image(2 << 20) && of_part != fs::read(&original).expect("read")[1 << 20..3 << 20]);
    file.write_all_at(b"through the part", 5).expect("write");
    assert_eq!(of_image(21)[5..], *b"through the part");
    drop((file, mount));

    assert_eq!(sandbox.digest(), before);
    let mount = sandbox.mount();
    check_all(&mount.latest("gpt"), &fs::read(&original).expect("read"), 1 << 20);
}

/// A copy of an image made while it was mounted and changed, as a snapshot of a running machine is.
fn crashed(sandbox: &Sandbox, kind: &str) -> PathBuf {
    let image = filesystem(sandbox, kind);
    let copy = sandbox.path("crashed");
    let device = LoopDevice::writable(&image);
    let mounted = Mounted::device(kind, "rw", device.path(), &sandbox.mountpoint("fill"));
    fs::write(mounted.path().join("in the journal"), "as it should be").expect("write");
    fs::rename(mounted.path().join("contents"), mounted.path().join("renamed")).expect("rename");
    let file = File::open(mounted.path().join("in the journal")).expect("open");
    file.sync_all().expect("sync");
    drop(file);
    // All that fsync promised is in the journal, on the device; and what the device keeps is brought to its file.
    tool!("blockdev", "--flushbufs", device.path());
    fs::copy(&image, &copy).expect("copy");
    mounted.unmount();
    copy
}

#[test]
fn a_journal_is_replayed_in_the_overlay() {
    requires!(
        fuse,
        root,
        loop,
        "fs:ext4",
        "fs:xfs",
        "mkfs.ext4",
        "mkfs.xfs",
        losetup,
        mount,
        blockdev,
        sha256sum
    );
    for kind in ["ext4", "xfs"] {
        let sandbox = Sandbox::new();
        sandbox.back_up("crashed", &crashed(&sandbox, kind));
        let before = sandbox.digest();
        let mount = writable(&sandbox, "crashed", &[]);
        let device = direct(&image(&mount), &[]);
        let options = if kind == "xfs" { "ro,nouuid" } else { "ro" };
        let mounted = Mounted::device(kind, options, device.path(), &sandbox.mountpoint("look"));
        let text = fs::read_to_string(mounted.path().join("in the journal")).expect("replayed");
        assert_eq!(text, "as it should be", "{kind}");
        assert!(mounted.path().join("renamed/large").exists() && !mounted.path().join("contents").exists());
        mounted.unmount();
        drop((device, mount));
        assert_eq!(sandbox.digest(), before, "{kind}");
    }
}

#[test]
fn what_does_not_fit_is_refused_and_the_server_goes_on() {
    requires!(fuse, root);
    let sandbox = Sandbox::plain();
    let bytes = noise(1, 8 << 20);
    sandbox.back_up_bytes("disk", &bytes);
    let mount = writable(&sandbox, "disk", &["--overlay-size", "1M"]);
    let file = open(&image(&mount));
    file.write_all_at(&[1; 1 << 20], 1 << 20).expect("all that may be written");
    let full = file.write_at(&[2; 4096], 0).expect_err("full");
    assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    file.write_all_at(&[3; 5000], (1 << 20) + 77).expect("over what was written");
    let behind = file.write_at(&[2; 10], 8 << 20).expect_err("the end");
    assert_eq!(behind.kind(), io::ErrorKind::StorageFull);
    assert!(file.set_len(0).is_err() && fs::remove_file(image(&mount)).is_err());
    assert_eq!(
        file.write_at(&[4; 4096], (2 << 20) - 2048).map_err(|error| error.kind()),
        Err(io::ErrorKind::StorageFull)
    );
    let mut expected = bytes;
    expected[1 << 20..2 << 20].fill(1);
    expected[(1 << 20) + 77..(1 << 20) + 5077].fill(3);
    let mut found = vec![0; 8 << 20];
    file.read_exact_at(&mut found, 0).expect("read");
    // The last one was written up to where no more could be.
    expected[(2 << 20) - 2048..2 << 20].fill(4);
    assert!(found == expected);
}

#[test]
fn what_is_kept_is_gone_on_with() {
    requires!(fuse, root);
    let sandbox = Sandbox::plain();
    let bytes = noise(1, 40 << 20);
    sandbox.back_up_bytes("disk", &bytes);
    let kept = sandbox.path("kept");
    let args = ["--keep-overlay", kept.to_str().expect("text")];
    for (number, offset) in [(1, 100), (2, 33 << 20), (3, 20_000)] {
        let mount = writable(&sandbox, "disk", &args);
        let file = open(&image(&mount));
        file.write_all_at(&[number; 9000], offset).expect("write");
    }
    let stat = kept.metadata().expect("stat");
    assert_eq!(stat.mode() & 0o777, 0o600);
    assert!(stat.blocks() * 512 < 200 << 10, "{} bytes", stat.blocks() * 512);
    let mut expected = bytes.clone();
    expected[100..9100].fill(1);
    expected[33 << 20..(33 << 20) + 9000].fill(2);
    expected[20_000..29_000].fill(3);
    let mut mount = writable(&sandbox, "disk", &args);
    check_all(&image(&mount), &expected, 1 << 20);
    let file = open(&image(&mount));
    file.write_all_at(&[4; 100], 0).expect("write");
    file.sync_all().expect("sync");
    mount.signal(Signal::KILL);
    wait_until("the server has died", || mount.has_ended());
    drop((file, mount));
    expected[..100].fill(4);
    let mount = writable(&sandbox, "disk", &args);
    check_all(&image(&mount), &expected, 1 << 20);
    drop(mount);

    sandbox.back_up_bytes("disk", &bytes);
    let directory = sandbox.mountpoint("mnt");
    let said = sandbox.fails(&[
        "mount",
        "--overlay",
        args[0],
        args[1],
        &sandbox.reference("disk"),
        directory.to_str().expect("text"),
    ]);
    assert!(said.contains("belongs to another archive"), "{said}");
    check_all(&image(&writable(&sandbox, "disk~1", &args)), &expected, 1 << 20);
}

#[test]
fn nothing_is_left_of_a_discarded_overlay_not_even_of_a_killed_server() {
    requires!(fuse, root);
    let sandbox = Sandbox::plain();
    sandbox.back_up_bytes("disk", &noise(1, 8 << 20));
    let place = sandbox.mountpoint("place");
    let mut mount = writable(&sandbox, "disk", &["--overlay-dir", place.to_str().expect("text")]);
    let file = open(&image(&mount));
    file.write_all_at(&[1; 1 << 20], 0).expect("write");
    assert_eq!(fs::read_dir(&place).expect("list").count(), 0, "it has no name");
    mount.signal(Signal::KILL);
    wait_until("the server has died", || mount.has_ended());
    assert!(file.write_at(&[1; 4096], 0).is_err());
    assert_eq!(fs::read_dir(&place).expect("list").count(), 0);
}

#[test]
fn an_image_is_read_only_unless_it_is_asked_for() {
    requires!(fuse, root);
    let sandbox = Sandbox::plain();
    sandbox.back_up_at("disk", "2026-11-19T03:00:00Z", b"first");
    sandbox.back_up_at("disk", "2026-11-20T03:00:00Z", b"second");
    let mount = sandbox.mount();
    let refused = OpenOptions::new().write(true).open(mount.latest("disk")).expect_err("read-only");
    assert_eq!(refused.kind(), io::ErrorKind::ReadOnlyFilesystem);
    drop(mount);
    let mount = writable(&sandbox, "disk", &[]);
    open(&image(&mount)).write_all_at(b"SE", 0).expect("write");
    check_all(&image(&mount), b"SEcond", 100);
}

#[test]
fn a_place_that_will_not_do_is_refused_before_anything_is_mounted() {
    requires!(fuse, root, mount);
    let sandbox = Sandbox::plain();
    sandbox.back_up_bytes("disk", b"content");
    let directory = sandbox.mountpoint("mnt");
    let directory = directory.to_str().expect("text");
    let refused = |what: &str, args: &[&str]| {
        let said = sandbox.fails(&[&["mount", "--overlay"], args, &[what, directory]].concat());
        assert_eq!(fs::read_dir(directory).expect("list").count(), 0);
        said
    };
    let disk = sandbox.reference("disk");
    let memory = sandbox.mountpoint("memory");
    let tmpfs = Mounted::new(&["-t".as_ref(), "tmpfs".as_ref(), "tmpfs".as_ref(), memory.as_os_str()]);
    let text = |path: &Path| path.to_str().expect("text").to_owned();
    assert!(refused(&disk, &["--overlay-dir", &text(&memory)]).contains("is in memory (tmpfs)"));
    tmpfs.unmount();
    let inside = sandbox.repository().join("packs");
    let inside = if inside.is_dir() { inside } else { sandbox.repository() };
    assert!(refused(&disk, &["--overlay-dir", &text(&inside)]).contains("lies in the repository"));
    let kept = sandbox.repository().join("kept");
    assert!(refused(&disk, &["--keep-overlay", &text(&kept)]).contains("lies in the repository"));
    assert!(!kept.exists());
    assert!(refused(&disk, &["--overlay-dir", "/nowhere"]).contains("/nowhere"));
    let all = text(&sandbox.repository());
    assert!(refused(&all, &[]).contains("--overlay makes one archive writable"));
    empty_file(&sandbox.path("other"), 4096);
    assert!(
        refused(&disk, &["--keep-overlay", &text(&sandbox.path("other"))])
            .contains("is not the overlay of this image")
    );
}
