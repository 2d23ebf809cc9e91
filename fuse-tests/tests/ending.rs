//! How mounts begin and end, also when they are not asked, and what stays behind.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use fuse_tests::devices::LoopDevice;
use fuse_tests::mounted::{Mount, Server};
use fuse_tests::noise::noise;
use fuse_tests::process::{run, state, wait_until};
use fuse_tests::reading::{check_all, check_range, drop_cache};
use fuse_tests::requires;
use fuse_tests::sandbox::Sandbox;
use rustix::process::Signal;

const LEN: usize = 5_000_000;

fn with_disk() -> (Sandbox, Vec<u8>) {
    let sandbox = Sandbox::plain();
    let bytes = noise(1, LEN);
    sandbox.back_up_bytes("disk", &bytes);
    (sandbox, bytes)
}

/// A place where a mount has ended looks as if there had never been one.
fn assert_gone(mount: &Mount) {
    assert!(!mount.is_mounted());
    assert_eq!(fs::read_dir(mount.directory()).expect("list").count(), 0);
}

#[test]
fn sigterm_and_sigint_end_the_mount_and_the_server() {
    requires!(fuse, root);
    let (sandbox, bytes) = with_disk();
    for signal in [Signal::TERM, Signal::INT] {
        let mut mount = sandbox.mount();
        check_all(&mount.latest("disk"), &bytes, 1 << 20);
        mount.signal(signal);
        mount.wait_for_end();
        assert_eq!(mount.exit_code(), Some(0), "{signal:?}: {}", mount.log());
        assert_eq!(mount.log(), "");
        assert_gone(&mount);
    }
}

#[test]
fn a_signal_ends_a_background_server_too() {
    requires!(fuse, root);
    let (sandbox, bytes) = with_disk();
    let mut mount = sandbox.mount_in_background("mnt", &[]);
    check_all(&mount.latest("disk"), &bytes, 1 << 20);
    mount.signal(Signal::TERM);
    mount.wait_for_end();
    assert_gone(&mount);
}

#[test]
fn copal_umount_ends_the_mount_and_the_server() {
    requires!(fuse, root);
    let sandbox = Sandbox::new();
    let bytes = noise(2, 100_000);
    sandbox.back_up_bytes("disk", &bytes);
    for background in [true, false] {
        let mut mount = if background { sandbox.mount_in_background("mnt", &[]) } else { sandbox.mount() };
        check_all(&mount.latest("disk"), &bytes, 1 << 20);
        sandbox.run(&["umount", &mount.directory().to_string_lossy()]);
        mount.wait_for_end();
        assert_gone(&mount);
        assert!(background || mount.exit_code() == Some(0), "{}", mount.log());
    }
    let said = sandbox.fails(&["umount", &sandbox.path("mnt").to_string_lossy()]);
    assert!(said.contains("no Copal repository is mounted"), "{said}");
}

#[test]
fn plain_umount_ends_the_server_too() {
    requires!(fuse, root, umount);
    let (sandbox, _) = with_disk();
    let mut mount = sandbox.mount_in_background("mnt", &[]);
    run(Command::new("umount").arg(mount.directory()));
    mount.wait_for_end();
    assert_gone(&mount);
}

#[test]
fn a_background_server_holds_nothing_of_who_started_it() {
    requires!(fuse, root);
    let (sandbox, _) = with_disk();
    let mount = sandbox.mount_in_background("mnt", &[]);
    let process = Path::new("/proc").join(mount.pid().to_string());
    assert_eq!(fs::read_link(process.join("cwd")).expect("cwd"), Path::new("/"));
    for standard in 0..3 {
        // Standard output is let go last, once it has told that the mount is ready.
        let is_null = || {
            fs::read_link(process.join(format!("fd/{standard}"))).is_ok_and(|to| to == Path::new("/dev/null"))
        };
        wait_until("all standard streams are let go", is_null);
    }
    let stat = fs::read_to_string(process.join("stat")).expect("stat");
    let fields: Vec<&str> = stat.rsplit_once(')').expect("stat").1.split_whitespace().collect();
    assert_eq!(fields[3], mount.pid().to_string(), "it leads a session of its own");
}

#[test]
fn umount_says_which_loop_device_holds_the_mount() {
    requires!(fuse, root, loop, losetup);
    let (sandbox, bytes) = with_disk();
    let mut mount = sandbox.mount();
    let device = LoopDevice::read_only(&mount.latest("disk"));
    let name = device.path().to_string_lossy().into_owned();
    let said = sandbox.fails(&["umount", &mount.directory().to_string_lossy()]);
    assert!(said.contains("in use") && said.contains(&format!("losetup -d {name})")), "{said}");
    check_all(&mount.latest("disk"), &bytes, 1 << 20);
    drop(device);
    sandbox.run(&["umount", &mount.directory().to_string_lossy()]);
    mount.wait_for_end();
}

/// A process that is killed with its guard.
struct Holder(Child);

impl Holder {
    fn with_open(path: &Path) -> Self {
        let mut command = Command::new("sleep");
        Self(
            command
                .arg("600")
                .stdin(File::open(path).expect("open"))
                .stdout(Stdio::null())
                .spawn()
                .expect("sleep"),
        )
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn umount_says_which_process_holds_the_mount() {
    requires!(fuse, root, sleep);
    let (sandbox, _) = with_disk();
    let mut mount = sandbox.mount();
    let holder = Holder::with_open(&mount.latest("disk"));
    let said = sandbox.fails(&["umount", &mount.directory().to_string_lossy()]);
    assert!(said.contains(&format!("process {} (sleep)", holder.0.id())), "{said}");
    assert!(mount.is_mounted() && !mount.has_ended());
    drop(holder);
    sandbox.run(&["umount", &mount.directory().to_string_lossy()]);
    mount.wait_for_end();
}

#[test]
fn a_lazy_umount_serves_open_files_until_they_are_closed() {
    requires!(fuse, root);
    let (sandbox, bytes) = with_disk();
    // The last close races with the end of the mount: one round may miss what that does.
    for _ in 0..8 {
        let mut mount = sandbox.mount();
        let file = mount.open("disk");
        sandbox.run(&["umount", "--lazy", &mount.directory().to_string_lossy()]);
        assert_gone(&mount);
        check_range(&file, &bytes, 0, LEN);
        assert!(!mount.has_ended());
        drop(file);
        mount.wait_for_end();
        assert_eq!((mount.exit_code(), mount.log()), (Some(0), String::new()));
    }
}

#[test]
fn a_signal_lets_open_files_be_read_to_their_end() {
    requires!(fuse, root);
    let (sandbox, bytes) = with_disk();
    let mut mount = sandbox.mount();
    let file = mount.open("disk");
    mount.signal(Signal::TERM);
    wait_until("the mount is gone", || !mount.is_mounted());
    check_range(&file, &bytes, 0, LEN);
    drop(file);
    mount.wait_for_end();
}

#[test]
fn after_a_killed_server_the_place_can_be_mounted_again() {
    requires!(fuse, root);
    let (sandbox, bytes) = with_disk();
    let mut dead = sandbox.mount();
    let file = dead.open("disk");
    // What the kernel has cached of the dead mount must not make it look alive.
    fs::metadata(dead.directory()).expect("stat");
    dead.signal(Signal::KILL);
    wait_until("the server has died", || dead.has_ended());
    let error = file.read_at(&mut [0; 100], 0).expect_err("nobody serves it");
    assert!(matches!(error.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED | libc::EIO)), "{error}");
    assert!(fs::read_dir(dead.directory()).is_err() && dead.is_mounted());

    let mut again = sandbox.mount();
    check_all(&again.latest("disk"), &bytes, 1 << 20);
    assert!(again.log().contains("has died"), "{}", again.log());
    sandbox.run(&["umount", &again.directory().to_string_lossy()]);
    again.wait_for_end();
    assert_gone(&again);
}

#[test]
fn copal_umount_clears_away_a_dead_mount() {
    requires!(fuse, root);
    let (sandbox, _) = with_disk();
    let mut mount = sandbox.mount_in_background("mnt", &[]);
    mount.signal(Signal::KILL);
    wait_until("the server has died", || mount.has_ended());
    sandbox.run(&["umount", &mount.directory().to_string_lossy()]);
    assert_gone(&mount);
}

#[test]
fn a_read_waits_for_a_server_that_is_stopped_for_a_while() {
    requires!(fuse, root);
    let (sandbox, bytes) = with_disk();
    let mount = sandbox.mount();
    let file = mount.open("disk");
    drop_cache(&file);
    mount.signal(Signal::STOP);
    wait_until("the server is stopped", || state(mount.pid()) == Some('T'));
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| check_range(&file, &bytes, 1_000_000, 100_000));
        std::thread::sleep(Duration::from_millis(300));
        assert!(!reader.is_finished(), "nobody can have answered");
        mount.signal(Signal::CONT);
        reader.join().expect("the read succeeds");
    });
    check_all(&mount.latest("disk"), &bytes, 1 << 20);
}

#[test]
fn a_mountpoint_in_the_repository_or_around_it_is_refused() {
    requires!(fuse, root);
    let (sandbox, _) = with_disk();
    let repository = sandbox.repository().to_string_lossy().into_owned();
    let inside = sandbox.mountpoint("repo/mnt");
    symlink(&inside, sandbox.path("link")).expect("symlink");
    for place in [inside, sandbox.path("link"), sandbox.path("."), sandbox.repository()] {
        for foreground in ["-f", "--allow-root"] {
            let said = sandbox.fails(&["mount", foreground, &repository, &place.to_string_lossy()]);
            assert!(said.contains("lie in each other"), "{said}");
        }
    }
    let said = sandbox.fails(&["mount", &repository, &sandbox.path("none").to_string_lossy()]);
    assert!(said.contains("does not exist"), "{said}");
}

#[test]
fn a_second_mount_on_the_same_place_is_refused() {
    requires!(fuse, root);
    let (sandbox, bytes) = with_disk();
    let mount = sandbox.mount();
    let [repository, place] = [sandbox.repository(), mount.directory().to_owned()];
    let said = sandbox.fails(&["mount", &repository.to_string_lossy(), &place.to_string_lossy()]);
    assert!(said.contains("already mounted"), "{said}");
    check_all(&mount.latest("disk"), &bytes, 1 << 20);
}

#[test]
fn a_mount_that_fails_leaves_no_server() {
    requires!(fuse, root);
    let sandbox = Sandbox::new();
    let place = sandbox.mountpoint("mnt");
    let mut command = sandbox.copal();
    command.env("COPAL_PASSPHRASE", "not this one").arg("mount").arg(sandbox.repository()).arg(&place);
    let output = command.output().expect("copal runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("wrong passphrase"), "{said}");
    assert!(Server::of(&place).is_none());
}

#[test]
fn who_keeps_a_file_open_long_after_a_signal_gets_errors() {
    requires!(fuse, root, sleep);
    let (sandbox, _) = with_disk();
    let mut mount = sandbox.mount();
    let holder = Holder::with_open(&mount.latest("disk"));
    let file = mount.open("disk");
    drop_cache(&file);
    mount.signal(Signal::TERM);
    mount.wait_for_end();
    let log = mount.log();
    assert!(
        log.contains("still in use by") && log.contains(&format!("process {} (sleep)", holder.0.id())),
        "{log}"
    );
    assert!(file.read_at(&mut [0; 100], 0).is_err());
}

#[test]
fn a_signal_to_a_detached_server_leaves_the_next_mount_alone() {
    requires!(fuse, root);
    let (sandbox, bytes) = with_disk();
    let mut old = sandbox.mount();
    let file = old.open("disk");
    sandbox.run(&["umount", "--lazy", &old.directory().to_string_lossy()]);
    let mut new = sandbox.mount();
    old.signal(Signal::TERM);
    drop(file);
    wait_until("the old server ends", || old.has_ended());
    assert!(new.is_mounted(), "new: {}\nold: {}", new.log(), old.log());
    assert!(!new.has_ended(), "new: {}\nold: {}", new.log(), old.log());
    check_all(&new.latest("disk"), &bytes, 1 << 20);
}

#[test]
fn relative_paths_keep_their_meaning_in_the_background() {
    requires!(fuse, root);
    let (sandbox, bytes) = with_disk();
    let directory = sandbox.mountpoint("mnt");
    let mut command = sandbox.copal();
    run(command.args(["mount", "::disk", "mnt"]).env("COPAL_REPO", "repo").current_dir(sandbox.path(".")));
    let mut mount = sandbox.adopt(directory);
    check_all(&mount.path("latest.img"), &bytes, 1 << 20);
    sandbox.back_up_bytes("disk", b"another");
    wait_until("the new archive is there", || {
        fs::read(mount.path("latest.img")).is_ok_and(|found| found == b"another")
    });
    run(sandbox.copal().args(["umount", "mnt/"]).current_dir(sandbox.path(".")));
    mount.wait_for_end();
}
