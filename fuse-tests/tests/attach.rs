//! `copal attach` and `copal detach` on this machine: filesystems that its kernel has, and everything that goes wrong.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use fuse_tests::attached::{Attaches, contents, mount_line, mounted, part, said, traces};
use fuse_tests::binary::copal;
use fuse_tests::devices::{LoopDevice, Mounted};
use fuse_tests::images::{Names, assert_names, empty_file, filesystem, ntfs, partition, populate};
use fuse_tests::noise::Random;
use fuse_tests::process::{has_ended, signal, wait_until};
use fuse_tests::sandbox::{Archiving, Sandbox};
use fuse_tests::trees::{Tree, assert_same, scan};
use fuse_tests::{requires, tool};
use rustix::process::Signal;
use serde_json::Value;

const MIB: u64 = 1 << 20;

/// A disk with a GPT: ext4 (2), XFS (3), btrfs (4), swap (5), and an EFI partition (1).
struct Disk {
    sandbox: Sandbox,
    image: PathBuf,
    /// What is in each filesystem.
    trees: Vec<(&'static str, Tree)>,
}

/// Partitions of [`Disk`]: name, filesystem, first byte and length.
const PARTS: [(&str, &str, u64, u64); 3] =
    [("p2-root", "ext4", 9, 32), ("p3-xfs", "xfs", 41, 320), ("p4-büro", "btrfs", 361, 128)];
const TABLE: &str = "label: gpt\n\
    start=1MiB, size=8MiB, type=U\n\
    start=9MiB, size=32MiB, type=L, name=root\n\
    start=41MiB, size=320MiB, type=L\n\
    start=361MiB, size=128MiB, type=L, name=\"B\u{fc}ro\"\n\
    start=489MiB, size=8MiB, type=S\n";

impl Disk {
    fn new() -> Self {
        let sandbox = Sandbox::plain();
        let image = sandbox.path("disk.img");
        empty_file(&image, 500 * MIB);
        partition(&image, TABLE);
        let esp = at(&image, 1, 8);
        tool!("mkfs.vfat", "-n", "ESP", esp.path());
        drop(esp);
        let swap = at(&image, 489, 8);
        tool!("mkswap", "-q", swap.path());
        drop(swap);
        let mut trees = Vec::new();
        for (name, kind, start, len) in PARTS {
            let device = at(&image, start, len);
            let force = if kind == "ext4" { "-F" } else { "-f" };
            tool!(&format!("mkfs.{kind}"), "-q", force, device.path());
            let filled = Mounted::device(kind, "rw", device.path(), &sandbox.mountpoint("fill"));
            populate(filled.path(), Names::Bytes);
            trees.push((name, scan(filled.path())));
            filled.unmount();
        }
        sandbox.back_up("web01", &image);
        Self { sandbox, image, trees }
    }

    fn assert_trees(&self, attached: &Value) {
        for (name, tree) in &self.trees {
            let found = scan(&mounted(attached, name));
            assert_names(&found, Names::Bytes);
            assert_same(tree, &found);
        }
    }
}

/// A part of an image as a device; offsets and lengths in MiB.
fn at(image: &Path, start: u64, len: u64) -> LoopDevice {
    let args = [format!("--offset={}", start * MIB), format!("--sizelimit={}", len * MIB)];
    LoopDevice::attach(image, &args.each_ref().map(String::as_str))
}

fn id(attached: &Value) -> &str {
    attached["id"].as_str().expect("an id")
}

/// A process that works in a directory until it is killed.
fn worker(directory: &Path) -> std::process::Child {
    Command::new("sleep").arg("600").current_dir(directory).stdin(Stdio::null()).spawn().expect("sleep")
}

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

#[test]
fn what_is_in_use_stays_and_names_its_users() {
    requires!(fuse, root, loop, "fs:ext4", "mkfs.ext4", losetup, sleep);
    let sandbox = Sandbox::plain();
    sandbox.back_up("ext4", &filesystem(&sandbox, "ext4"));
    let attaches = Attaches::of(&sandbox);
    let attached = attaches.attach("ext4", &[]);
    let root = mounted(&attached, "p1-ext4");
    let mut worker = worker(&root.join("names"));
    let said = attaches.fails(&["detach", "--all"]);
    assert!(said.contains(&format!("process {} (sleep)", worker.id())), "{said}");
    assert_names(&scan(&root), Names::Bytes);
    worker.kill().and_then(|()| worker.wait()).expect("kill");
    // A mount of somebody else within it.
    let within =
        Mounted::new(&["--bind".as_ref(), sandbox.repository().as_os_str(), root.join("unix").as_os_str()]);
    let said = attaches.fails(&["detach", id(&attached)]);
    assert!(said.contains(&format!("mount {}", root.join("unix").display())), "{said}");
    within.unmount();
    // A mount of the same device elsewhere holds the device.
    let device = part(&attached, "p1-ext4")["device"].as_str().expect("a device").to_owned();
    let elsewhere = Mounted::device("ext4", "ro", Path::new(&device), &sandbox.mountpoint("elsewhere"));
    let said = attaches.fails(&["detach", id(&attached)]);
    assert!(said.contains("elsewhere"), "{said}");
    assert_eq!(attaches.listed()[0]["state"], "incomplete; detach takes it down");
    elsewhere.unmount();
    attaches.run(&["detach", id(&attached)]);
    assert_eq!(traces(id(&attached)), Vec::<String>::new());
}

#[test]
fn a_mount_namespace_that_keeps_a_mount_is_named_by_its_process() {
    requires!(fuse, root, loop, "fs:ext4", "mkfs.ext4", losetup, unshare, sleep);
    let sandbox = Sandbox::plain();
    sandbox.back_up("ext4", &filesystem(&sandbox, "ext4"));
    let attaches = Attaches::of(&sandbox);
    let attached = attaches.attach("ext4", &[]);
    let mut other = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sleep", "600"])
        .stdin(Stdio::null())
        .spawn()
        .expect("unshare");
    let program = format!("/proc/{}/comm", other.id());
    wait_until("it sleeps", || fs::read_to_string(&program).is_ok_and(|name| name.trim() == "sleep"));
    let said = attaches.fails(&["detach", id(&attached)]);
    assert!(said.contains(&format!("process {} (sleep), which has a mount namespace", other.id())), "{said}");
    other.kill().and_then(|()| other.wait()).expect("kill");
    attaches.run(&["detach", id(&attached)]);
    assert_eq!(traces(id(&attached)), Vec::<String>::new());
}

#[test]
fn what_others_mounted_over_it_is_left_alone() {
    requires!(fuse, root, loop, "fs:ext4", "mkfs.ext4", losetup);
    let sandbox = Sandbox::plain();
    sandbox.back_up("ext4", &filesystem(&sandbox, "ext4"));
    let attaches = Attaches::of(&sandbox);
    let attached = attaches.attach("ext4", &[]);
    let root = mounted(&attached, "p1-ext4");
    let over = Mounted::new(&["-t".as_ref(), "tmpfs".as_ref(), "none".as_ref(), root.as_os_str()]);
    fs::write(root.join("theirs"), "").expect("write");
    let said = attaches.fails(&["detach", id(&attached)]);
    assert!(said.contains("tmpfs of none"), "{said}");
    assert!(root.join("theirs").exists());
    over.unmount();
    attaches.run(&["detach", id(&attached)]);
}

/// The server of an attach.
fn server(attaches: &Attaches<'_>) -> u32 {
    attaches.listed()[0]["server"]["pid"].as_u64().and_then(|pid| pid.try_into().ok()).expect("a server")
}

#[test]
fn detach_touches_nothing_while_the_server_is_stopped() {
    requires!(fuse, root, loop, "fs:ext4", "mkfs.ext4");
    let sandbox = Sandbox::plain();
    sandbox.back_up("web01", &filesystem(&sandbox, "ext4"));
    let attaches = Attaches::of(&sandbox);
    let _attached = attaches.attach("web01", &[]);
    let pid = server(&attaches);
    signal(pid, Signal::STOP);
    let detached = attaches.output(&["detach", "--all"]);
    signal(pid, Signal::CONT);
    assert!(!detached.status.success());
    assert!(said(&detached).contains(&format!("kill -CONT {pid}")), "{}", said(&detached));
    attaches.run(&["detach", "--all"]);
}

#[test]
fn attaches_of_one_archive_at_once_show_it_in_different_places() {
    requires!(fuse, root, loop, "fs:ext4", "mkfs.ext4");
    let sandbox = Sandbox::plain();
    sandbox.back_up("web01", &filesystem(&sandbox, "ext4"));
    let attaches = Attaches::of(&sandbox);
    let attached: Vec<Value> = std::thread::scope(|scope| {
        let started = [(); 4].map(|()| scope.spawn(|| attaches.attach("web01", &[])));
        started.into_iter().map(|one| one.join().expect("it is attached")).collect()
    });
    let places: BTreeSet<&str> = attached.iter().filter_map(|one| one["directory"].as_str()).collect();
    assert_eq!(places.len(), 4, "{attached:?}");
    attaches.run(&["detach", "--all"]);
}

#[test]
fn detach_works_when_the_server_was_killed_or_has_ended() {
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
    for number in [Signal::KILL, Signal::TERM] {
        let attached = attaches.attach("web01", &[]);
        let pid = server(&attaches);
        signal(pid, number);
        if number == Signal::KILL {
            wait_until("the server has ended", || has_ended(pid));
            assert!(attaches.listed()[0]["state"].as_str().is_some_and(|state| state.contains("died")));
        } else {
            let image = format!("/run/copal/attach/{}/image", id(&attached));
            wait_until("the mount is gone", || {
                !fs::read_to_string("/proc/self/mountinfo").expect("mounts").contains(&image)
            });
        }
        attaches.run(&["detach", "--all"]);
        wait_until("the server has ended", || has_ended(pid));
        assert_eq!(traces(id(&attached)), Vec::<String>::new());
        let files: Vec<_> = fs::read_dir("/sys/block").expect("list").flatten().collect();
        let orphans = files.iter().filter(|device| {
            let file = fs::read_to_string(device.path().join("loop/backing_file")).unwrap_or_default();
            file.starts_with("/20") && file.trim_end().ends_with("Z.img")
        });
        assert_eq!(orphans.count(), 0);
    }
}

#[test]
fn a_record_of_another_boot_leaves_only_directories_to_clean() {
    requires!(fuse, root, loop, "fs:ext4", "mkfs.ext4", losetup);
    let sandbox = Sandbox::plain();
    sandbox.back_up("ext4", &filesystem(&sandbox, "ext4"));
    let attaches = Attaches::of(&sandbox);
    let directory = sandbox.path("restore");
    let attached = attaches.attach("ext4", &[directory.to_str().expect("text")]);
    let record = attaches.records().join(format!("{}.json", id(&attached)));
    let text = fs::read_to_string(&record).expect("read");
    attaches.run(&["detach", "--all"]);
    // As after a reboot: the record and the directories are there, and nothing else is.
    let mut old: Value = serde_json::from_str(&text).expect("JSON");
    old["boot"] = "another".into();
    fs::write(&record, old.to_string()).expect("write");
    fs::create_dir_all(directory.join("p1-ext4")).expect("mkdir");
    assert!(attaches.listed()[0]["state"].as_str().is_some_and(|state| state.contains("reboot")));
    attaches.run(&["detach", directory.to_str().expect("text")]);
    assert!(!directory.exists() && attaches.listed().is_empty());
}

#[test]
fn an_attach_that_is_killed_at_any_moment_is_taken_down() {
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
    let mut random = Random::new(7);
    let (mut incomplete, mut ids) = (0, Vec::new());
    for _ in 0..40 {
        let mut attach = attaches.command(&["attach", &reference]);
        let mut attach = attach.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("copal starts");
        std::thread::sleep(Duration::from_millis(random.below(120) as u64));
        let _ = attach.kill();
        attach.wait().expect("wait");
        let listed = attaches.listed();
        incomplete += listed.iter().filter(|record| record["complete"] == false).count();
        ids.extend(listed.iter().map(|record| id(record).to_owned()));
        attaches.run(&["detach", "--all"]);
        assert!(attaches.listed().is_empty());
    }
    assert!(incomplete > 0, "every attach was too fast or too slow to be caught");
    for id in ids {
        wait_until("nothing is left", || traces(&id).is_empty());
    }
}

#[test]
fn a_signal_takes_back_what_was_done() {
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
    let mut random = Random::new(8);
    for _ in 0..20 {
        let mut attach = attaches.command(&["attach", &reference]);
        let mut attach = attach.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("copal starts");
        std::thread::sleep(Duration::from_millis(random.below(100) as u64));
        signal(attach.id(), Signal::TERM);
        let status = attach.wait().expect("wait");
        let mut said = String::new();
        attach.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
        let complete = attaches.listed().iter().filter(|record| record["complete"] == true).count();
        assert_eq!(attaches.listed().len(), complete, "{status}: {said}");
        attaches.run(&["detach", "--all"]);
    }
}

#[test]
fn an_attach_without_a_record_that_can_be_read_is_named_and_taken_down_all_the_same() {
    requires!(fuse, root, loop, "fs:ext4", "mkfs.ext4", losetup);
    let sandbox = Sandbox::plain();
    sandbox.back_up("ext4", &filesystem(&sandbox, "ext4"));
    let attaches = Attaches::of(&sandbox);
    let directory = sandbox.path("here");
    let first = attaches.attach("ext4", &[directory.to_str().expect("text")]);
    let others = ["one", "two"].map(|_| attaches.attach("ext4", &[]));
    let record = |attached: &Value| attaches.records().join(format!("{}.json", id(attached)));
    let damaged = fs::read(record(&first)).expect("a record");
    fs::write(record(&first), &damaged[..damaged.len() / 2]).expect("write");
    let listed = attaches.output(&["attached"]);
    assert_eq!(listed.status.code(), Some(1), "{listed:?}");
    assert!(said(&listed).contains(&format!("'copal detach {}' takes down what can be found", id(&first))));
    assert!(said(&listed).contains(record(&first).to_str().expect("text")));
    attaches.run(&["detach", id(&first)]);
    assert_eq!(traces(id(&first)), Vec::<String>::new());
    assert!(!record(&first).exists());
    // The directory may have been there before.
    assert_eq!(fs::read_dir(&directory).expect("it is there").count(), 0);
    // All of them: one with a record of another version, one that is whole, and a file that is none.
    let mut version: Value =
        serde_json::from_slice(&fs::read(record(&others[0])).expect("a record")).expect("JSON");
    version["version"] = 99.into();
    fs::write(record(&others[0]), version.to_string()).expect("write");
    let odd = attaches.records().join("odd.json");
    fs::write(&odd, "{").expect("write");
    let all = attaches.output(&["detach", "--all"]);
    assert_eq!(all.status.code(), Some(1), "{all:?}");
    assert!(said(&all).contains("odd.json") && said(&all).contains("delete it"), "{}", said(&all));
    for attached in &others {
        assert_eq!(traces(id(attached)), Vec::<String>::new());
        let shown = attached["directory"].as_str().expect("text");
        assert!(!Path::new(shown).exists() && !record(attached).exists());
    }
    fs::remove_file(odd).expect("remove");
}

#[test]
fn what_was_mounted_over_an_attach_is_named_with_what_to_do() {
    requires!(fuse, root, loop, "fs:ext4", "mkfs.ext4", losetup, mount, umount);
    let sandbox = Sandbox::plain();
    sandbox.back_up("ext4", &filesystem(&sandbox, "ext4"));
    let attaches = Attaches::of(&sandbox);
    let directory = sandbox.path("here");
    let attached = attaches.attach("ext4", &[directory.to_str().expect("text")]);
    tool!("mount", "-t", "tmpfs", "over", &directory);
    let refused = attaches.output(&["detach", directory.to_str().expect("text")]);
    let over = format!(
        "{0} shows tmpfs of over now, which 'copal attach' has not mounted; 'umount {0}'",
        directory.display()
    );
    let told = said(&refused);
    tool!("umount", &directory);
    assert!(
        refused.status.code() == Some(2) && told.contains(&over) && !told.contains("try again"),
        "{told}"
    );
    attaches.run(&["detach", directory.to_str().expect("text")]);
    assert_eq!(traces(id(&attached)), Vec::<String>::new());
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
