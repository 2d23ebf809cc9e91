//! Mounts of ordinary users, through the setuid helper.

use std::fs::{self, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use fuse_tests::binary::copal;
use fuse_tests::images::{empty_file, partition};
use fuse_tests::mounted::Server;
use fuse_tests::noise::noise;
use fuse_tests::process::{has_ended, run, signal, wait_until};
use fuse_tests::sandbox::Sandbox;
use fuse_tests::{requires, tool};
use rustix::process::Signal;

/// Kills a server that a script left behind, should one still be there.
struct Leftover<'a>(&'a Path);

impl Drop for Leftover<'_> {
    fn drop(&mut self) {
        if let Some(server) = Server::of(self.0) {
            signal(server.pid(), Signal::KILL);
        }
    }
}

/// Runs a script as root in a mount namespace of its own, where `/dev/fuse` and `/etc/fuse.conf` are those of a system that lets
/// ordinary users mount. In the script, `user` runs a command as nobody, and `stranger` as somebody else.
fn as_user(script: &str) {
    as_user_of(|sandbox| drop(sandbox.back_up_bytes("disk", &noise(1, 3 << 20))), script);
}

/// As [`as_user`], with other archives in the repository. Files that the user is to read are named `*.source`.
fn as_user_of(back_up: impl FnOnce(&Sandbox), script: &str) {
    let sandbox = Sandbox::new();
    fs::set_permissions(sandbox.path("."), Permissions::from_mode(0o711)).expect("chmod");
    back_up(&sandbox);
    let directory = sandbox.mountpoint("mnt");
    let _leftover = Leftover(&directory);
    let prologue = r#"
        set -eu
        cd "$1"
        here=$(pwd)
        mkdir dev
        mount -t tmpfs tmpfs dev
        mknod -m 666 dev/fuse c 10 229
        mount --bind dev/fuse /dev/fuse
        echo user_allow_other > fuse.conf
        mount --bind fuse.conf /etc/fuse.conf
        cp "$2" copal
        chown -R 65534:65534 repo state mnt
        chmod 644 *.source
        user() { setpriv --reuid=65534 --regid=65534 --clear-groups "$@"; }
        stranger() { setpriv --reuid=65533 --regid=65533 --clear-groups "$@"; }
        trap 'umount -l "$here/mnt" 2>/dev/null || :' EXIT
        set -x
    "#;
    let mut command = Command::new("unshare");
    sandbox.set_environment(&mut command);
    command.args(["--mount", "--propagation", "private", "sh", "-c"]).arg(format!("{prologue}{script}"));
    run(command.arg("sh").arg(sandbox.path(".")).arg(copal()));
    wait_until("the server ends", || Server::of(&directory).is_none_or(|server| has_ended(server.pid())));
}

#[test]
fn an_ordinary_user_mounts_for_himself_alone() {
    requires!(fuse, root, fusermount3, unshare, setpriv, mknod);
    as_user(
        r#"
        user ./copal mount repo mnt
        grep " $here/mnt fuse.copal ro," /proc/self/mounts
        user cmp mnt/disk/latest.img disk.source
        test "$(user stat -L -c '%u %g %a' mnt/disk/latest.img)" = '65534 65534 400'
        if cat mnt/disk/latest.img > /dev/null; then exit 1; fi
        if stranger cat mnt/disk/latest.img > /dev/null; then exit 1; fi
        user ./copal umount mnt
        if grep " $here/mnt " /proc/self/mounts; then exit 1; fi
        "#,
    );
}

#[test]
fn a_users_mount_reaches_roots_loop_devices_if_root_is_let_in() {
    requires!(fuse, root, loop, fusermount3, unshare, setpriv, mknod, losetup);
    as_user(
        r#"
        user ./copal mount --allow-root repo mnt
        cmp mnt/disk/latest.img disk.source
        device=$(losetup --find --show --read-only mnt/disk/latest.img)
        trap 'losetup -d "$device" || :; umount -l "$here/mnt" 2>/dev/null || :' EXIT
        cmp "$device" disk.source
        if stranger cat mnt/disk/latest.img > /dev/null; then exit 1; fi
        if user ./copal umount mnt 2> said; then exit 1; fi
        grep "losetup -d $device" said
        losetup -d "$device"
        trap 'umount -l "$here/mnt" 2>/dev/null || :' EXIT
        user ./copal umount mnt
        "#,
    );
}

#[test]
fn a_users_mount_ends_with_a_signal() {
    requires!(fuse, root, fusermount3, unshare, setpriv, mknod);
    as_user(
        r#"
        setpriv --reuid=65534 --regid=65534 --clear-groups ./copal mount -f repo mnt &
        server=$!
        for try in $(seq 300); do user test -e mnt/disk/latest.img && break; sleep 0.1; done
        user cmp mnt/disk/latest.img disk.source
        kill -TERM $server
        wait $server
        if grep " $here/mnt " /proc/self/mounts; then exit 1; fi
        "#,
    );
}

/// A disk with an ext4 and an NTFS, each with a file in it, made without a mount.
fn disk_of_two_systems(sandbox: &Sandbox) -> PathBuf {
    let disk = sandbox.path("disk.source");
    empty_file(&disk, 48 << 20);
    partition(
        &disk,
        "label: gpt\nstart=2048, size=32768, type=L, name=linux\nstart=36864, size=53248, type=EBD0A0A2-B9E5-4433-87C0-68B6B72699C7\n",
    );
    let files = sandbox.mountpoint("files");
    fs::write(files.join("Grüße.txt"), "Viele Grüße").expect("write");
    let [linux, windows] = ["linux.source", "windows.source"].map(|name| sandbox.path(name));
    empty_file(&linux, 16 << 20);
    tool!("mkfs.ext4", "-q", "-d", &files, &linux);
    empty_file(&windows, 26 << 20);
    tool!("mkfs.ntfs", "-q", "-F", "-f", &windows);
    tool!("ntfscp", &windows, files.join("Grüße.txt"), "Grüße.txt");
    for (part, at) in [(linux, 1_u64 << 20), (windows, 18 << 20)] {
        let bytes = fs::read(part).expect("read");
        fs::OpenOptions::new()
            .write(true)
            .open(&disk)
            .and_then(|disk| disk.write_all_at(&bytes, at))
            .expect("write");
    }
    disk
}

#[test]
fn partitions_are_mounted_without_root() {
    requires!(
        fuse,
        root,
        fusermount3,
        unshare,
        setpriv,
        mknod,
        "mkfs.ext4",
        "mkfs.ntfs",
        ntfscp,
        "ntfs-3g",
        fuse2fs,
        sfdisk
    );
    as_user_of(
        |sandbox| drop(sandbox.back_up("disk", &disk_of_two_systems(sandbox))),
        r#"
        # Debian's ntfs-3g is set-uid root, so root has to be let in.
        user ./copal mount --allow-root repo mnt
        mkdir look
        chown 65534:65534 look
        trap 'umount -l "$here/look" 2>/dev/null || :; umount -l "$here/mnt" 2>/dev/null || :' EXIT
        user fuse2fs -o ro mnt/disk/latest.parts/1-linux.img look
        test "$(user cat look/Grüße.txt)" = 'Viele Grüße'
        user fusermount3 -u look
        for try in $(seq 100); do user ls mnt/disk > /dev/null && break; sleep 0.1; done
        mkdir home
        chown 65534:65534 home
        (cd home; user ntfs-3g -o ro "$here/mnt/disk/latest.parts/2-ntfs.img" "$here/look")
        test "$(user cat look/Grüße.txt)" = 'Viele Grüße'
        umount look
        for try in $(seq 100); do user ./copal umount mnt 2> said && break; sleep 0.1; done
        if grep " $here/mnt " /proc/self/mounts; then cat said; exit 1; fi
        "#,
    );
}
