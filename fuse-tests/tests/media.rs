//! Repositories on media that cannot be written, and mounts made by mount(8).

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use fuse_tests::binary::copal;
use fuse_tests::devices::{LoopDevice, Mounted};
use fuse_tests::mounted::Server;
use fuse_tests::noise::{mixed, noise};
use fuse_tests::process::{has_ended, run, signal, wait_until};
use fuse_tests::reading::check_all;
use fuse_tests::sandbox::Sandbox;
use fuse_tests::{requires, tool};
use rustix::process::Signal;

/// An ext4 image with a copy of the repository.
fn burn(sandbox: &Sandbox) -> std::path::PathBuf {
    let medium = sandbox.path("medium.img");
    fs::File::create(&medium).and_then(|file| file.set_len(64 << 20)).expect("make file");
    tool!("mkfs.ext4", "-q", "-F", "-d", sandbox.repository(), medium);
    medium
}

#[test]
fn a_repository_on_read_only_media_is_mounted_listed_and_extracted() {
    requires!(fuse, root, loop, "fs:ext4", "mkfs.ext4", losetup, mount);
    let sandbox = Sandbox::new();
    let bytes = mixed(1, 17 << 20);
    sandbox.back_up_bytes("disk", &bytes);
    let device = LoopDevice::read_only(&burn(&sandbox));
    let medium = Mounted::device("ext4", "ro,noload", device.path(), &sandbox.mountpoint("medium"));
    let repository = medium.path().to_string_lossy().into_owned();

    assert!(sandbox.run(&["list", &repository]).contains("disk"));
    assert!(sandbox.run(&["info", &format!("{repository}::disk")]).contains("disk"));
    let target = sandbox.path("target");
    sandbox.run(&["extract", &format!("{repository}::disk"), &target.to_string_lossy()]);
    check_all(&target, &bytes, 1 << 20);
    {
        let mount = sandbox.mount_elsewhere(medium.path(), "mnt", &[]);
        check_all(&mount.latest("disk"), &bytes, 1 << 20);
        assert_eq!(mount.log(), "");
    }
    let source = sandbox.path("disk.source").to_string_lossy().into_owned();
    let said = sandbox.fails(&["create", &format!("{repository}::disk"), &source]);
    assert!(said.contains("Read-only file system"), "{said}");
}

#[test]
fn a_mount_writes_nothing_to_the_repository() {
    requires!(fuse, root);
    let sandbox = Sandbox::new();
    let bytes = noise(2, 2 << 20);
    sandbox.back_up_bytes("disk", &bytes);
    let state = || {
        let files = fuse_tests::sandbox::files_below(&sandbox.repository());
        let time = |path: &Path| fs::metadata(path).and_then(|found| found.modified()).expect("stat");
        files.into_iter().map(|path| (time(&path), path)).collect::<Vec<_>>()
    };
    let before = state();
    let mount = sandbox.mount();
    check_all(&mount.latest("disk"), &bytes, 1 << 20);
    drop(mount);
    assert_eq!(state(), before);
}

/// Kills the server that mount(8) or its helper left behind, should one still be there.
struct Leftover<'a>(&'a Path);

impl Drop for Leftover<'_> {
    fn drop(&mut self) {
        if let Some(server) = Server::of(self.0) {
            signal(server.pid(), Signal::KILL);
        }
    }
}

#[test]
fn the_mount_helper_mounts_as_mount_8_asks_it_to() {
    requires!(fuse, root);
    let sandbox = Sandbox::new();
    let bytes = noise(3, 100_000);
    sandbox.back_up_bytes("disk", &bytes);
    fs::write(sandbox.path("secret"), "grün ist die Heide\n").expect("write");
    let helper = sandbox.path("mount.fuse.copal");
    symlink(copal(), &helper).expect("symlink");
    let directory = sandbox.mountpoint("mnt");
    let mut command = Command::new(&helper);
    sandbox.set_environment(&mut command);
    let options = format!("rw,noexec,mode=0440,passphrase_file={}", sandbox.path("secret").display());
    command.env_remove("COPAL_PASSPHRASE");
    run(command.arg(sandbox.repository()).arg(&directory).args(["-n", "-o", &options]));
    let mount = sandbox.adopt(directory);
    check_all(&mount.latest("disk"), &bytes, 1 << 20);
    sandbox.run(&["umount", &mount.directory().to_string_lossy()]);
}

#[test]
fn mount_8_mounts_a_repository_by_its_type() {
    requires!(fuse, root, "fs:overlay", mount, unshare);
    let sandbox = Sandbox::plain();
    let bytes = noise(4, 100_000);
    sandbox.back_up_bytes("disk", &bytes);
    // mount(8) looks for its helpers in /sbin only. In a namespace of its own that has one more, and nobody else sees it.
    let overlay = sandbox.mountpoint("overlay");
    symlink(copal(), overlay.join("mount.fuse.copal")).expect("symlink");
    let directory = sandbox.mountpoint("mnt");
    let _leftover = Leftover(&directory);
    let script = r#"
        set -eu
        sbin=$(readlink -f /sbin)
        mount -t overlay -o "ro,lowerdir=$1:$sbin" overlay "$sbin"
        trap 'umount -l "$3" 2>/dev/null || :' EXIT
        mount -t fuse.copal -o ro,mode=0444,allow_other "$2" "$3"
        cmp "$3/disk/latest.img" "$4"
        grep " $3 fuse.copal ro," /proc/self/mounts
        stat -L -c %a "$3/disk/latest.img"
        umount "$3"
    "#;
    let mut command = Command::new("unshare");
    sandbox.set_environment(&mut command);
    command.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]);
    command.args([&overlay, &sandbox.repository(), &directory, &sandbox.path("disk.source")]);
    let said = String::from_utf8_lossy(&run(&mut command).stdout).into_owned();
    assert!(said.ends_with("444\n"), "{said}");
    wait_until("the server ends", || Server::of(&directory).is_none_or(|server| has_ended(server.pid())));
}
