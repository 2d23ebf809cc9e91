//! What `stat`, `statfs` and extended attributes show, who may look, and that nobody may write.

use std::fs::{self, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use fuse_tests::mounted::Mount;
use fuse_tests::need::find_tool;
use fuse_tests::noise::{mixed, noise};
use fuse_tests::reading::{check_all, data_of, total};
use fuse_tests::sandbox::{Archiving, Sandbox};
use fuse_tests::trees::attributes;
use fuse_tests::{requires, tool};

const NOBODY: u32 = 65534;

#[test]
fn an_image_has_its_size_and_the_time_of_its_archive() {
    requires!(fuse, root);
    let sandbox = Sandbox::plain();
    let bytes = mixed(1, 1_000_001);
    sandbox.back_up_at("disk", "2026-11-20T03:00:00.25Z", &bytes);
    sandbox.back_up_at("old", "1969-12-31T23:59:59Z", b"before the epoch");
    let mount = sandbox.mount();
    let found = fs::metadata(mount.latest("disk")).expect("stat");
    assert_eq!(found.len(), bytes.len() as u64);
    assert_eq!(found.blocks(), total(&data_of(&bytes)).div_ceil(512));
    assert_eq!((found.mtime(), found.mtime_nsec()), (1_795_143_600, 250_000_000));
    assert_eq!((found.ctime(), found.atime(), found.nlink()), (found.mtime(), found.mtime(), 1));
    assert_eq!(fs::metadata(mount.latest("old")).expect("stat").mtime(), -1);
    assert_eq!(fs::metadata(mount.path("disk")).expect("stat").mtime(), 1_795_143_600);
}

/// Permission bits, user and group.
fn ownership(path: &Path) -> (u32, u32, u32) {
    let found = fs::symlink_metadata(path).expect("stat");
    (found.mode() & 0o7777, found.uid(), found.gid())
}

#[test]
fn images_belong_to_who_mounts_and_only_that_user_reads() {
    requires!(fuse, root);
    let sandbox = Sandbox::plain();
    sandbox.back_up_bytes("disk", b"x");
    let mount = sandbox.mount();
    assert_eq!(ownership(&mount.path("disk/latest.img").canonicalize().expect("link")), (0o400, 0, 0));
    assert_eq!(ownership(&mount.path("disk")), (0o500, 0, 0));
    assert_eq!(ownership(mount.directory()), (0o500, 0, 0));
}

#[test]
fn owner_group_and_mode_can_be_chosen() {
    requires!(fuse, root);
    let sandbox = Sandbox::plain();
    sandbox.back_up_bytes("disk", b"x");
    let ways: [&[&str]; 2] =
        [&["--uid", "1234", "--gid", "5678", "--mode", "0666"], &["-o", "uid=1234,gid=5678,mode=0444"]];
    for args in ways {
        let mount = sandbox.mount_with("mnt", None, args);
        assert_eq!(
            ownership(&mount.path("disk/latest.img").canonicalize().expect("link")),
            (0o444, 1234, 5678)
        );
        assert_eq!(ownership(&mount.path("disk")), (0o555, 1234, 5678));
    }
}

/// Reads a file as another user; `Ok` with its bytes, or what the tool said.
fn read_as(user: u32, path: &Path) -> Result<Vec<u8>, String> {
    let ids = [format!("--reuid={user}"), format!("--regid={user}")];
    let setpriv = find_tool("setpriv").expect("setpriv");
    let output = Command::new(setpriv).args(ids).args(["--clear-groups", "cat", "--"]).arg(path).output();
    let output = output.expect("setpriv starts");
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

fn assert_denied(mount: &Mount, why: &str) {
    let said = read_as(NOBODY, &mount.latest("disk")).expect_err(why);
    assert!(said.contains("Permission denied"), "{why}: {said}");
}

#[test]
fn other_users_are_let_in_only_as_far_as_options_say() {
    requires!(fuse, root, setpriv);
    let sandbox = Sandbox::plain();
    // Others must be able to get as far as the mountpoint.
    fs::set_permissions(sandbox.path("."), Permissions::from_mode(0o711)).expect("chmod");
    sandbox.back_up_bytes("disk", b"contents");
    let plain_file = sandbox.file("plain", b"to be read");
    assert_eq!(read_as(NOBODY, &plain_file).as_deref(), Ok(&b"to be read"[..]));

    let denied: [(&str, &[&str]); 5] = [
        ("without options", &[]),
        ("readable by all, but not let in", &["--mode", "0444"]),
        ("only root is let in", &["--allow-root", "--mode", "0444"]),
        ("let in, but another's", &["--allow-other"]),
        ("let in, but readable by the group", &["--allow-other", "--mode", "0440"]),
    ];
    for (why, args) in denied {
        let mount = sandbox.mount_with("mnt", None, args);
        assert_denied(&mount, why);
        check_all(&mount.latest("disk"), b"contents", 100);
    }
    let nobody = NOBODY.to_string();
    let allowed: [&[&str]; 3] = [
        &["--allow-other", "--mode", "0444"],
        &["-o", "allow_other,mode=444"],
        &["--allow-other", "--uid", &nobody, "--gid", &nobody],
    ];
    for args in allowed {
        let mount = sandbox.mount_with("mnt", None, args);
        assert_eq!(read_as(NOBODY, &mount.latest("disk")).as_deref(), Ok(&b"contents"[..]), "{args:?}");
    }
}

#[test]
fn mount_options_are_taken_and_unknown_ones_refused() {
    requires!(fuse, root);
    let sandbox = Sandbox::plain();
    sandbox.back_up_bytes("disk", b"x");
    let options = "rw,noexec,cache_size=32M,x-systemd.automount,noauto,_netdev,allow_root";
    let mount = sandbox.mount_with("mnt", None, &["-o", options]);
    let table = fs::read_to_string("/proc/self/mounts").expect("mounts");
    let line =
        table.lines().find(|line| line.contains(&*mount.directory().to_string_lossy())).expect("mounted");
    let fields: Vec<&str> = line.split(' ').collect();
    assert_eq!(
        fields[..3],
        [&*sandbox.repository().to_string_lossy(), &*mount.directory().to_string_lossy(), "fuse.copal"]
    );
    for option in ["ro", "nosuid", "nodev", "noexec", "noatime", "default_permissions"] {
        assert!(fields[3].split(',').any(|found| found == option), "{option} is not in {line}");
    }
    drop(mount);
    let directory = sandbox.mountpoint("mnt");
    for (option, part) in [
        ("frobnicate", "cannot mount"),
        ("uid=x", "uid=x"),
        ("mode=9", "mode"),
        ("cache_size=1M", "too small"),
    ] {
        let said = sandbox.fails(&[
            "mount",
            &sandbox.repository().to_string_lossy(),
            &directory.to_string_lossy(),
            "-o",
            option,
        ]);
        assert!(said.contains(part), "{option}: {said}");
    }
}

#[test]
fn nothing_can_be_written() {
    requires!(fuse, root);
    let sandbox = Sandbox::plain();
    sandbox.back_up_bytes("disk", b"contents");
    let mount = sandbox.mount();
    let image = mount.latest("disk").canonicalize().expect("link");
    let new = mount.path("disk/new");
    let flags = rustix::fs::XattrFlags::empty();
    let refused: [(&str, io::Result<()>); 11] = [
        ("write", OpenOptions::new().write(true).open(&image).map(drop)),
        ("append", OpenOptions::new().append(true).open(&image).map(drop)),
        ("create", fs::File::create(&new).map(drop)),
        ("link", fs::hard_link(&image, &new)),
        ("unlink", fs::remove_file(&image)),
        ("rename", fs::rename(&image, &new)),
        ("mkdir", fs::create_dir(&new)),
        ("rmdir", fs::remove_dir(mount.path("disk"))),
        ("symlink", symlink("x", &new)),
        ("chmod", fs::set_permissions(&image, Permissions::from_mode(0o600))),
        ("setxattr", rustix::fs::setxattr(&image, "user.x", b"x", flags).map_err(Into::into)),
    ];
    for (what, result) in refused {
        assert_eq!(result.expect_err(what).raw_os_error(), Some(libc::EROFS), "{what}");
    }
    check_all(&image, b"contents", 100);
}

#[test]
fn extended_attributes_tell_the_facts_of_the_archive() {
    requires!(fuse, root, getfattr);
    let sandbox = Sandbox::plain();
    let source = sandbox.file("web01-root", &[noise(1, 5000), vec![0; 100_000]].concat());
    let args = [
        "--timestamp",
        "2026-11-20T03:00:00Z",
        "--comment",
        "vor dem Umzug, 日本",
        "--tag",
        "monthly",
        "--tag",
        "büro",
    ];
    let told = sandbox.create(Archiving { name: "web01", sources: &[source.as_os_str()], args: &args });
    let mount = sandbox.mount();
    let image = mount.latest("web01").canonicalize().expect("link");
    let found = attributes(&image);
    let id = told["id"].as_str().expect("id");
    let expected = [
        ("archive", "web01"),
        ("archive_id", id),
        ("bad_ranges", ""),
        ("comment", "vor dem Umzug, 日本"),
        ("data_bytes", "8192"),
        ("member", "web01-root"),
        ("tags", "monthly,büro"),
        ("time", "20261120T030000Z"),
        ("unconfirmed", "0"),
    ];
    let expected =
        expected.map(|(name, value)| (format!("user.copal.{name}").into_bytes(), value.as_bytes().to_vec()));
    assert_eq!(found, expected.into());
    let said = tool!("getfattr", "--only-values", "--name=user.copal.archive_id", &image);
    assert_eq!(said, id);
    let mut small = [0; 2];
    let get = |name: &str, buffer: &mut [u8]| rustix::fs::getxattr(&image, name, buffer);
    assert_eq!(get("user.copal.archive_id", &mut small), Err(rustix::io::Errno::RANGE));
    assert_eq!(get("user.copal.none", &mut small), Err(rustix::io::Errno::NODATA));
    assert_eq!(get("security.selinux", &mut small), Err(rustix::io::Errno::NODATA));
    assert!(attributes(&mount.path("web01")).is_empty());
}

#[test]
fn statfs_is_as_large_as_all_data_and_full() {
    requires!(fuse, root, df);
    let sandbox = Sandbox::plain();
    let all = [noise(1, 3 << 20), [noise(2, 1 << 20), vec![0; 5 << 20]].concat()];
    sandbox.back_up_bytes("one", &all[0]);
    sandbox.back_up_bytes("two", &all[1]);
    let mount = sandbox.mount();
    let found = rustix::fs::statvfs(mount.directory()).expect("statvfs");
    assert_eq!(found.f_blocks * found.f_frsize, 4 << 20);
    assert_eq!((found.f_bfree, found.f_bavail, found.f_ffree), (0, 0, 0));
    // The root, two names, two images, a directory of parts for each, and two links for each.
    assert_eq!((found.f_files, found.f_namemax), (11, 255));
    assert!(tool!("df", "--output=pcent", mount.directory()).contains("100%"));
}
