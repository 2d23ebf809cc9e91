//! `copal attach` and `copal detach` on this machine: filesystems that its kernel has, and everything that goes wrong.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use fuse_tests::attached::{
    Attaches, Disk, MIB, PARTS, contents, id, mount_line, mounted, part, said, traces,
};
use fuse_tests::binary::copal;
use fuse_tests::devices::LoopDevice;
use fuse_tests::images::{Names, assert_names, empty_file, filesystem, ntfs, partition};
use fuse_tests::sandbox::{Archiving, Sandbox};
use fuse_tests::trees::{assert_same, scan};
use fuse_tests::{requires, tool};
use serde_json::Value;

#[test]
fn the_filesystems_of_a_disk_are_mounted_with_all_their_files_and_taken_down_again() {
    requires!(
        fuse,
        root,
        loop,
        "fs:ext4",
        "fs:xfs",
        "fs:btrfs",
        "mkfs.xfs",
        "mkfs.btrfs",
        "mkfs.vfat",
        mkswap,
        sfdisk,
        losetup,
        btrfs
    );
    let disk = Disk::new();
    let before = contents(&disk.sandbox);
    let attaches = Attaches::of(&disk.sandbox);
    let directory = disk.sandbox.path("restore");
    let attached = attaches.attach("web01", &[directory.to_str().expect("text")]);
    disk.assert_trees(&attached);
    for (name, ..) in PARTS {
        let line = mount_line(&directory.join(name));
        assert!(line.contains(" ro,nosuid,nodev,noexec"), "{line}");
        assert!(part(&attached, name)["used"].as_u64().is_some_and(|used| used > 0));
        let device = part(&attached, name)["device"].as_str().expect("a device");
        let system = Path::new("/sys/block").join(Path::new(device).file_name().expect("a name"));
        let says = |what: &str| fs::read_to_string(system.join(what)).expect("sysfs").trim().to_owned();
        assert_eq!((says("ro"), says("loop/dio")), ("1".into(), "1".into()));
    }
    assert!(fs::write(directory.join("p2-root/new"), "").is_err());
    let swap = part(&attached, "p5-swap");
    assert_eq!((&swap["device"], swap["note"].as_str()), (&Value::Null, Some("swap space")));
    let listed = attaches.listed();
    assert_eq!((listed.len(), &listed[0]["directory"]), (1, &attached["directory"]));
    assert_eq!(listed[0]["state"], "attached");
    attaches.run(&["detach", directory.to_str().expect("text")]);
    assert!(!directory.exists() && attaches.listed().is_empty());
    assert_eq!(traces(id(&attached)), Vec::<String>::new());
    assert_eq!(contents(&disk.sandbox), before, "the repository has changed");
}

#[test]
fn the_table_says_what_is_where_and_why_not() {
    requires!(
        fuse,
        root,
        loop,
        "fs:ext4",
        "fs:xfs",
        "fs:btrfs",
        "mkfs.xfs",
        "mkfs.btrfs",
        "mkfs.vfat",
        mkswap,
        sfdisk,
        losetup,
        btrfs
    );
    let disk = Disk::new();
    let attaches = Attaches::of(&disk.sandbox);
    let reference = disk.sandbox.reference("web01");
    let output = attaches.output(&["attach", &reference]);
    let table = String::from_utf8(output.stdout.clone()).expect("text");
    let row = |name: &str| table.lines().find(|line| line.starts_with(name)).expect("a row");
    let listed = attaches.listed();
    let directory = listed[0]["directory"].as_str().expect("text");
    assert!(directory.starts_with("/run/copal/web01-"), "{directory}");
    assert!(row("p2-root").ends_with(&format!("{directory}/p2-root")), "{table}");
    assert!(row("p4-büro").contains("btrfs") && row("p4-büro").contains("128.0 MiB"), "{table}");
    assert!(row("p5-swap").ends_with("not mounted: swap space"), "{table}");
    if output.status.code() == Some(1) {
        assert!(row("p1-efi").ends_with("NOT MOUNTED: this kernel has no vfat"), "{table}");
        assert!(said(&output).contains("p1-efi is not mounted"), "{}", said(&output));
    }
    assert!(table.contains(&format!("'copal detach {directory}'")), "{table}");
    // A second attach of the same archive stands beside it; the btrfs would be one with the first.
    let second = attaches.attach("web01", &[]);
    assert_ne!(second["directory"], listed[0]["directory"]);
    let trees = disk.trees.iter().filter(|(name, _)| *name != "p4-büro");
    trees.for_each(|(name, tree)| assert_same(tree, &scan(&mounted(&second, name))));
    let refused = part(&second, "p4-büro");
    assert!(refused["note"].as_str().is_some_and(|note| note.contains("the same btrfs")), "{refused}");
    assert_eq!(refused["device"], Value::Null);
    attaches.run(&["detach", "--all"]);
    assert!(attaches.listed().is_empty() && !Path::new(directory).exists());
    // The kernel has forgotten it.
    let third = attaches.attach("web01", &[]);
    disk.assert_trees(&third);
}

#[test]
fn without_mounting_there_is_a_device_for_each_partition() {
    requires!(
        fuse,
        root,
        loop,
        "fs:ext4",
        "fs:xfs",
        "fs:btrfs",
        "mkfs.xfs",
        "mkfs.btrfs",
        "mkfs.vfat",
        mkswap,
        sfdisk,
        losetup,
        cmp
    );
    let disk = Disk::new();
    let attaches = Attaches::of(&disk.sandbox);
    let attached = attaches.attach("web01", &["--no-mount"]);
    let parts = attached["partitions"].as_array().expect("a list");
    assert_eq!(parts.len(), 5);
    for (part, (start, len)) in parts.iter().zip([(1, 8), (9, 32), (41, 320), (361, 128), (489, 8)]) {
        assert_eq!(part["mounted"], Value::Null);
        let device = part["device"].as_str().expect("a device");
        let skip = format!("0:{}", start * MIB);
        tool!("cmp", "-i", skip, "-n", (len * MIB).to_string(), device, disk.image);
    }
    attaches.run(&["detach", parts[3]["device"].as_str().expect("a device")]);
    assert_eq!(traces(id(&attached)), Vec::<String>::new());
}

#[test]
fn ntfs_is_mounted_by_what_there_is() {
    requires!(fuse, root, loop, "mkfs.ntfs", "ntfs-3g", losetup);
    let sandbox = Sandbox::plain();
    let image = ntfs(&sandbox);
    sandbox.back_up("windows", &image);
    let attaches = Attaches::of(&sandbox);
    let attached = attaches.attach("windows", &[]);
    let root = mounted(&attached, "p1-ntfs");
    assert_names(&scan(&root), Names::Text);
    assert!(mount_line(&root).contains(" ro,nosuid,nodev,noexec"));
}

#[test]
fn a_disk_with_larger_sectors_is_shown_with_them() {
    requires!(fuse, root, loop, "fs:ext4", "mkfs.ext4", sfdisk, losetup);
    let sandbox = Sandbox::plain();
    let image = sandbox.path("disk.img");
    empty_file(&image, 40 * MIB);
    let whole = LoopDevice::attach(&image, &["--sector-size=4096"]);
    partition(whole.path(), "label: gpt\nstart=256, size=8192, type=L, name=root\n");
    drop(whole);
    let args =
        [format!("--offset={MIB}"), format!("--sizelimit={}", 32 * MIB), "--sector-size=4096".to_owned()];
    let device = LoopDevice::attach(&image, &args.each_ref().map(String::as_str));
    tool!("mkfs.ext4", "-q", "-F", device.path());
    drop(device);
    sandbox.back_up("web01", &image);
    let attaches = Attaches::of(&sandbox);
    let attached = attaches.attach("web01", &[]);
    let device = part(&attached, "p1-root")["device"].as_str().expect("a device").to_owned();
    assert!(mounted(&attached, "p1-root").join("lost+found").exists());
    let size =
        Path::new("/sys/block").join(device.trim_start_matches("/dev/")).join("queue/logical_block_size");
    assert_eq!(fs::read_to_string(size).expect("sysfs").trim(), "4096");
}

#[test]
fn a_scan_is_for_kernels_that_know_partitions() {
    requires!(
        fuse,
        root,
        loop,
        "fs:ext4",
        "fs:xfs",
        "fs:btrfs",
        "mkfs.xfs",
        "mkfs.btrfs",
        "mkfs.vfat",
        mkswap,
        sfdisk,
        losetup,
        btrfs
    );
    let disk = Disk::new();
    let attaches = Attaches::of(&disk.sandbox);
    let output = attaches.output(&["attach", "--scan", &disk.sandbox.reference("web01")]);
    if output.status.code() == Some(2) {
        let table = String::from_utf8_lossy(&output.stdout);
        assert!(table.contains("attach without --scan"), "{table}{}", said(&output));
        assert!(attaches.listed().is_empty());
        return;
    }
    let root = attaches.listed()[0]["directory"].as_str().map(|path| Path::new(path).join("p2-root"));
    assert_names(&scan(&root.expect("a directory")), Names::Bytes);
}

#[test]
fn several_members_have_a_directory_each_and_one_can_be_chosen() {
    requires!(fuse, root, loop, "fs:ext4", "mkfs.ext4", losetup);
    let sandbox = Sandbox::new();
    let image = filesystem(&sandbox, "ext4");
    let configuration = sandbox.file("vm.xml", b"<domain/>");
    let source = |name: &str, path: &Path| format!("{name}={}", path.display());
    let [vda, vdb] = ["vda", "vdb"].map(|name| source(name, &image));
    let xml = source("domain.xml", &configuration);
    let sources = [vda.as_ref(), vdb.as_ref(), xml.as_ref()];
    sandbox.create(Archiving { name: "vm", sources: &sources, ..Archiving::default() });
    let attaches = Attaches::of(&sandbox);
    let both = attaches.attach("vm", &[]);
    let directory = Path::new(both["directory"].as_str().expect("text"));
    for member in ["vda", "vdb"] {
        assert_names(&scan(&directory.join(member).join("p1-ext4")), Names::Bytes);
    }
    let one = attaches.attach("vm", &["--member", "vdb"]);
    assert_names(&scan(&mounted(&one, "p1-ext4")), Names::Bytes);
    let reference = sandbox.reference("vm");
    assert!(attaches.fails(&["attach", &reference, "--member", "vdc"]).contains("vdc"));
    assert!(attaches.fails(&["attach", &reference, "--member", "domain.xml"]).contains("no partition"));
}

#[test]
fn a_directory_that_is_of_no_use_is_refused_and_nothing_is_left() {
    requires!(fuse, root, loop, "fs:ext4", "mkfs.ext4", losetup);
    let sandbox = Sandbox::plain();
    sandbox.back_up("ext4", &filesystem(&sandbox, "ext4"));
    let attaches = Attaches::of(&sandbox);
    let path = |name: &str| sandbox.path(name).to_str().expect("text").to_owned();
    let reference = sandbox.reference("ext4");
    let attach = |directory: &str| attaches.fails(&["attach", &reference, directory]);
    fs::create_dir(path("full")).expect("mkdir");
    fs::write(sandbox.path("full/file"), "").expect("write");
    assert!(attach(&path("full")).contains("is not empty"));
    assert!(attach(&path("no/where")).contains("mkdir -p"));
    assert!(attach(&path("ext4.img")).contains("is not a directory"));
    assert!(attach(&path("repo/inside")).contains("lie in each other"));
    let used = attaches.attach("ext4", &[&path("used")]);
    assert!(attach(&path("used")).contains("copal detach"));
    assert!(attach(&path("used/p1-ext4")).contains("copal detach"));
    assert!(attaches.fails(&["detach", &path("full")]).contains("copal attached"));
    assert!(attaches.fails(&["attach", &sandbox.reference("none")]).contains("no archive"));
    assert_eq!(attaches.listed().len(), 1);
    attaches.run(&["detach", id(&used)]);
}

#[test]
fn an_ordinary_user_is_told_what_to_use_instead() {
    requires!(root);
    let sandbox = Sandbox::bare();
    fs::set_permissions(sandbox.path("."), fs::Permissions::from_mode(0o711)).expect("chmod");
    let program = sandbox.path("copal");
    fs::copy(copal(), &program).expect("copy");
    for (args, what) in
        [(&["attach", "/srv/backups::web01"][..], "copal cp"), (&["detach", "--all"], "only root")]
    {
        let output = Command::new(&program).args(args).uid(65534).gid(65534).output().expect("copal starts");
        assert_eq!(output.status.code(), Some(2));
        assert!(said(&output).contains(what), "{}", said(&output));
    }
}

#[test]
fn an_archive_without_a_disk_in_it_is_refused() {
    requires!(fuse, root, loop);
    let sandbox = Sandbox::plain();
    sandbox.back_up_bytes("noise", &[7; 100_000]);
    let attaches = Attaches::of(&sandbox);
    assert!(attaches.fails(&["attach", &sandbox.reference("noise")]).contains("no partition"));
    assert!(attaches.listed().is_empty());
}

#[test]
fn what_cannot_be_mounted_at_all_leaves_nothing() {
    requires!(fuse, root, loop, mkswap);
    let sandbox = Sandbox::plain();
    let image = sandbox.path("swap.img");
    empty_file(&image, 4 * MIB);
    tool!("mkswap", "-q", image);
    sandbox.back_up("swap", &image);
    let attaches = Attaches::of(&sandbox);
    let output = attaches.output(&["attach", &sandbox.reference("swap")]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stdout).contains("swap space"));
    assert!(attaches.listed().is_empty());
}

/// A LUKS of a version, in a file; the passphrase is `secret`.
fn luks(path: &Path, version: &str) {
    empty_file(path, 32 * MIB);
    let args = ["luksFormat", "--batch-mode", "--type", version, "--pbkdf", "pbkdf2"];
    let mut command = Command::new("cryptsetup");
    command.args(args).args(["--pbkdf-force-iterations", "1000", "--key-file", "-"]).arg(path);
    assert!(with_input(&mut command, "secret"));
}

/// Whether a program succeeds that reads this.
fn with_input(command: &mut Command, input: &str) -> bool {
    use std::io::Write;
    let mut child = command.stdin(Stdio::piped()).spawn().expect("it starts");
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("write");
    child.wait().expect("it ends").success()
}

#[test]
fn what_is_said_of_luks_opens_it() {
    requires!(fuse, root, loop, losetup, cryptsetup);
    let sandbox = Sandbox::plain();
    let attaches = Attaches::of(&sandbox);
    for version in ["luks1", "luks2"] {
        luks(&sandbox.path(version), version);
        sandbox.back_up(version, &sandbox.path(version));
        let refused = attaches.output(&["attach", &sandbox.reference(version)]);
        let table = String::from_utf8_lossy(&refused.stdout).into_owned();
        assert!(
            table.contains(
                "'copal attach --no-mount' gives a DEVICE for 'cryptsetup open --readonly DEVICE NAME'"
            ),
            "{table}"
        );
        let attached = attaches.attach(version, &["--no-mount"]);
        let part = &attached["partitions"][0];
        let (device, note) =
            (part["device"].as_str().expect("a device"), part["note"].as_str().expect("text"));
        let said = note.split('\'').nth(1).expect("a command");
        assert_eq!(said, format!("cryptsetup open --readonly {device} NAME"));
        // As it is said, but for the mapping, which needs a device mapper.
        let open = |passphrase| {
            let mut words = said.split(' ');
            let mut command = Command::new(words.next().expect("a program"));
            with_input(command.args(words).args(["--test-passphrase", "--key-file", "-"]), passphrase)
        };
        assert!(open("secret") && !open("wrong"), "{version}");
        attaches.run(&["detach", id(&attached)]);
    }
}
