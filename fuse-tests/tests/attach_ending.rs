//! How an attach ends: by `detach`, killed, interrupted, with a dead server, in use, and when others have mounted something over it.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use copal::fuse::mountpoint::mount_on;
use fuse_tests::attached::{Attaches, Disk, id, mounted, part, said, traces};
use fuse_tests::devices::Mounted;
use fuse_tests::images::{Names, assert_names, filesystem};
use fuse_tests::noise::Random;
use fuse_tests::process::{has_ended, signal, wait_until};
use fuse_tests::sandbox::Sandbox;
use fuse_tests::trees::scan;
use fuse_tests::{requires, tool};
use rustix::process::Signal;
use serde_json::Value;

/// A process that works in a directory until it is killed.
fn worker(directory: &Path) -> std::process::Child {
    Command::new("sleep").arg("600").current_dir(directory).stdin(Stdio::null()).spawn().expect("sleep")
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
    // Two of each know of each other, and nothing of the others.
    let attaches = ["here", "there"].map(|records| Attaches::recorded_in(&sandbox, records));
    let attached: Vec<Value> = std::thread::scope(|scope| {
        let attach = |of| scope.spawn(move || Attaches::attach(of, "web01", &[]));
        let started: Vec<_> = attaches.iter().chain(&attaches).map(attach).collect();
        started.into_iter().map(|one| one.join().expect("it is attached")).collect()
    });
    let places: BTreeSet<PathBuf> = attached.iter().map(|one| mounted(one, "p1-ext4")).collect();
    assert_eq!(places.len(), 4, "{attached:?}");
    assert!(places.iter().all(|place| mount_on(place).is_some()), "{attached:?}");
    for attaches in attaches {
        attaches.run(&["detach", "--all"]);
    }
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
