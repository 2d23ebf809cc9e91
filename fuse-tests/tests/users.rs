//! Mounts of ordinary users, through the setuid helper.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use fuse_tests::binary::copal;
use fuse_tests::mounted::Server;
use fuse_tests::noise::noise;
use fuse_tests::process::{has_ended, run, signal, wait_until};
use fuse_tests::requires;
use fuse_tests::sandbox::Sandbox;
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
    let sandbox = Sandbox::new();
    fs::set_permissions(sandbox.path("."), Permissions::from_mode(0o711)).expect("chmod");
    sandbox.back_up_bytes("disk", &noise(1, 3 << 20));
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
        chmod 644 disk.source
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
