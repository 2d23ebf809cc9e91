//! Which names a mount shows, which of them stay, and how soon new ones come.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use fuse_tests::mounted::Mount;
use fuse_tests::noise::noise;
use fuse_tests::process::wait_until;
use fuse_tests::reading::{check_all, check_range};
use fuse_tests::requires;
use fuse_tests::sandbox::{Archiving, Sandbox};

fn listed(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).expect("list");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("entry").file_name().into_string().expect("text")).collect();
    names.sort();
    names
}

/// What is listed for archives with a single image that have these names.
fn shown(archives: &[&str]) -> Vec<String> {
    archives.iter().flat_map(|name| [format!("{name}.img"), format!("{name}.parts")]).collect()
}

fn link(mount: &Mount, name: &str) -> String {
    fs::read_link(mount.latest(name)).expect("a link").to_string_lossy().into_owned()
}

#[test]
fn an_archive_is_a_file_named_by_its_time_in_a_directory_of_its_name() {
    requires!(fuse, root);
    let sandbox = Sandbox::plain();
    sandbox.back_up_at("web01", "2026-11-19T03:00:00Z", b"first");
    sandbox.back_up_at("web01", "2026-11-20T04:00:00+01:00", b"second");
    sandbox.back_up_at("db01", "2026-11-20T05:00:00Z", b"other");
    let mount = sandbox.mount();
    assert_eq!(listed(mount.directory()), ["db01", "web01"]);
    assert_eq!(listed(&mount.path("web01")), shown(&["20261119T030000Z", "20261120T030000Z", "latest"]));
    check_all(&mount.path("web01/20261119T030000Z.img"), b"first", 100);
    check_all(&mount.path("web01/20261120T030000Z.img"), b"second", 100);
    assert_eq!(link(&mount, "web01"), "20261120T030000Z.img");
    check_all(&mount.latest("db01"), b"other", 100);
}

#[test]
fn a_second_archive_of_the_same_second_has_its_id_behind_the_time() {
    requires!(fuse, root);
    let sandbox = Sandbox::plain();
    sandbox.back_up_at("web01", "2026-11-20T03:00:00.1Z", b"first");
    let second = sandbox.back_up_at("web01", "2026-11-20T03:00:00.9Z", b"second");
    let id = second["id"].as_str().expect("id");
    let second = format!("20261120T030000Z-{}", &id[..8]);
    let name = format!("{second}.img");
    let mount = sandbox.mount();
    assert_eq!(listed(&mount.path("web01")), shown(&[&second, "20261120T030000Z", "latest"]));
    check_all(&mount.path("web01/20261120T030000Z.img"), b"first", 100);
    check_all(&mount.path("web01").join(&name), b"second", 100);
    assert_eq!(link(&mount, "web01"), name);
}

#[test]
fn an_archive_of_several_members_is_a_directory_of_them() {
    requires!(fuse, root);
    let sandbox = Sandbox::plain();
    let [disk, data, domain] = ["root", "data", "d.xml"].map(|name| sandbox.file(name, name.as_bytes()));
    let sources = [("vda", disk), ("vdb", data), ("domain.xml", domain)];
    let sources = sources.map(|(member, path)| format!("{member}={}", path.display()));
    let sources = sources.each_ref().map(|source| OsStr::new(source.as_str()));
    let args = ["--timestamp", "2026-11-20T03:00:00Z"];
    sandbox.create(Archiving { name: "db01", sources: &sources, args: &args });
    let mount = sandbox.mount();
    assert_eq!(listed(&mount.path("db01")), ["20261120T030000Z", "latest"]);
    assert_eq!(fs::read_link(mount.path("db01/latest")).expect("a link"), Path::new("20261120T030000Z"));
    assert_eq!(listed(&mount.path("db01/latest")), ["domain.xml", "vda.img", "vdb.img"]);
    check_all(&mount.path("db01/latest/vda.img"), b"root", 100);
    check_all(&mount.path("db01/latest/vdb.img"), b"data", 100);
    check_all(&mount.path("db01/latest/domain.xml"), b"d.xml", 100);
}

#[test]
fn long_directories_are_listed_whole() {
    requires!(fuse, root);
    let sandbox = Sandbox::plain();
    let long = "ü".repeat(90);
    let names: Vec<String> = (0..60).map(|number| format!("{number:02}{long}")).collect();
    let source = sandbox.file("source", b"x");
    let sources: Vec<String> = names.iter().map(|name| format!("{name}={}", source.display())).collect();
    let sources: Vec<&OsStr> = sources.iter().map(|source| OsStr::new(source.as_str())).collect();
    sandbox.create(Archiving { name: "many", sources: &sources, args: &[] });
    let mount = sandbox.mount();
    let expected: Vec<String> = names.iter().map(|name| format!("{name}.img")).collect();
    assert_eq!(listed(&mount.path("many/latest")), expected);
}

#[test]
fn a_name_is_found_in_either_normal_form() {
    requires!(fuse, root);
    let sandbox = Sandbox::plain();
    for (name, bytes) in [("b\u{fc}ro", b"umlaut"), ("\u{65e5}\u{672c} \u{1f600}", b"others")] {
        sandbox.back_up_bytes(name, bytes);
    }
    let mount = sandbox.mount();
    assert_eq!(listed(mount.directory()), ["b\u{fc}ro", "\u{65e5}\u{672c} \u{1f600}"]);
    check_all(&mount.latest("b\u{fc}ro"), b"umlaut", 100);
    check_all(&mount.latest("bu\u{308}ro"), b"umlaut", 100);
    assert!(!mount.path("buro").exists());
}

/// Inode numbers by path.
fn inodes(root: &Path) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(path) = waiting.pop() {
        let found = fs::symlink_metadata(&path).expect("stat");
        all.insert(path.strip_prefix(root).expect("below").display().to_string(), found.ino());
        if found.is_dir() {
            waiting.extend(fs::read_dir(&path).expect("list").map(|entry| entry.expect("entry").path()));
        }
    }
    all
}

#[test]
fn inode_numbers_are_the_same_in_every_mount() {
    requires!(fuse, root);
    let sandbox = Sandbox::plain();
    sandbox.back_up_at("web01", "2026-11-19T03:00:00Z", b"first");
    sandbox.back_up_at("web01", "2026-11-20T03:00:00Z", b"first");
    let both = [sandbox.file("a", b"a"), sandbox.file("b", b"b")];
    sandbox.create(Archiving {
        name: "db01",
        sources: &both.each_ref().map(|path| path.as_os_str()),
        args: &[],
    });
    let before = inodes(sandbox.mount().directory());
    let distinct: std::collections::BTreeSet<u64> = before.values().copied().collect();
    assert_eq!((before.len(), distinct.len()), (13, 13));
    assert_eq!(inodes(sandbox.mount().directory()), before);
    sandbox.back_up_at("web01", "2026-11-18T03:00:00Z", b"older");
    sandbox.back_up_at("abc", "2026-11-18T03:00:00Z", b"new name");
    let after = inodes(sandbox.mount_with("elsewhere", None, &[]).directory());
    for (path, inode) in before {
        assert_eq!(after.get(&path), Some(&inode), "{path}");
    }
}

#[test]
fn a_directory_is_the_same_whether_somebody_has_looked_into_it() {
    requires!(fuse, root);
    let sandbox = Sandbox::plain();
    sandbox.back_up_at("web01", "2026-11-19T03:00:00Z", b"first");
    sandbox.back_up_at("web01", "2026-11-20T03:00:00Z", b"second");
    let both = [sandbox.file("a", b"a"), sandbox.file("b", b"b")];
    let sources = both.each_ref().map(|path| path.as_os_str());
    for day in ["2026-11-19", "2026-11-20", "2026-11-21"] {
        sandbox.create(Archiving { name: "db01", sources: &sources, args: &["--timestamp", day] });
    }
    let mount = sandbox.mount();
    let look = |name: &str| {
        let found = fs::symlink_metadata(mount.path(name)).expect("stat");
        (found.ino(), found.mode(), found.nlink(), found.modified().expect("a time"))
    };
    let before = ["web01", "db01"].map(look);
    assert_eq!((before[0].2, before[1].2), (4, 5));
    assert_eq!((listed(&mount.path("web01")).len(), listed(&mount.path("db01")).len()), (6, 4));
    // Longer than the kernel keeps what it was told.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert_eq!(["web01", "db01"].map(look), before);
}

#[test]
fn what_is_renamed_is_the_same_file_in_another_directory() {
    requires!(fuse, root);
    let sandbox = Sandbox::plain();
    sandbox.back_up_at("web01", "2026-11-19T03:00:00Z", b"first");
    sandbox.back_up_at("web01", "2026-11-20T03:00:00Z", b"second");
    sandbox.back_up_at("db01", "2026-11-20T03:00:00Z", b"other");
    let mount = sandbox.mount();
    let inode = |path: &str| fs::symlink_metadata(mount.path(path)).expect("stat").ino();
    let before = inode("web01/20261119T030000Z.img");
    let open = File::open(mount.path("web01/20261119T030000Z.img")).expect("open");
    sandbox.run(&["rename", &sandbox.reference("web01@2026-11-19"), "db01", "--merge"]);
    wait_until("it is gone from its directory", || listed(&mount.path("web01")).len() == 4);
    // Nobody looked into this one before.
    assert_eq!(inode("db01/20261119T030000Z.img"), before);
    assert_eq!(listed(&mount.path("db01")), shown(&["20261119T030000Z", "20261120T030000Z", "latest"]));
    assert_eq!(link(&mount, "db01"), "20261120T030000Z.img");
    check_range(&open, b"first", 0, 100);
    check_all(&mount.path("db01/20261119T030000Z.img"), b"first", 100);
}

#[test]
fn a_directory_entry_has_the_inode_that_stat_shows() {
    requires!(fuse, root);
    let sandbox = Sandbox::plain();
    sandbox.back_up_at("web01", "2026-11-19T03:00:00Z", b"first");
    let mount = sandbox.mount();
    for directory in [mount.directory().to_owned(), mount.path("web01")] {
        for entry in fs::read_dir(&directory).expect("list") {
            let entry = entry.expect("entry");
            let found = fs::symlink_metadata(entry.path()).expect("stat");
            assert_eq!(std::os::unix::fs::DirEntryExt::ino(&entry), found.ino());
            assert_eq!(entry.file_type().expect("type"), found.file_type());
        }
    }
}

#[test]
fn new_archives_appear_without_a_new_mount_and_latest_moves() {
    requires!(fuse, root);
    let sandbox = Sandbox::plain();
    sandbox.back_up_at("web01", "2026-11-19T03:00:00Z", b"first");
    let mount = sandbox.mount();
    assert_eq!(listed(&mount.path("web01")), shown(&["20261119T030000Z", "latest"]));
    assert_eq!(link(&mount, "web01"), "20261119T030000Z.img");
    assert!(!mount.path("db01").exists());
    let open = mount.open("web01");

    sandbox.back_up_at("web01", "2026-11-20T03:00:00Z", b"second");
    sandbox.back_up_at("db01", "2026-11-20T03:00:00Z", b"other");
    wait_until("the new archive is listed", || listed(&mount.path("web01")).len() == 6);
    wait_until("latest.img moves", || link(&mount, "web01") == "20261120T030000Z.img");
    wait_until("the new name is there", || mount.path("db01").exists());
    wait_until("the new name is listed", || listed(mount.directory()) == ["db01", "web01"]);
    wait_until("latest.img shows the new bytes", || {
        fs::read(mount.latest("web01")).expect("read") == b"second"
    });
    check_all(&mount.latest("db01"), b"other", 100);
    check_range(&open, b"first", 0, 100);
}

#[test]
fn an_older_archive_that_comes_later_does_not_move_latest() {
    requires!(fuse, root);
    let sandbox = Sandbox::plain();
    sandbox.back_up_at("web01", "2026-11-20T03:00:00Z", b"newest");
    let mount = sandbox.mount();
    sandbox.back_up_at("web01", "2026-11-01T03:00:00Z", b"older");
    wait_until("the new archive is listed", || listed(&mount.path("web01")).len() == 6);
    assert_eq!(link(&mount, "web01"), "20261120T030000Z.img");
}

#[test]
fn a_mount_of_a_name_shows_just_its_archives() {
    requires!(fuse, root);
    let sandbox = Sandbox::plain();
    sandbox.back_up_at("web01", "2026-11-19T03:00:00Z", b"first");
    sandbox.back_up_at("web01", "2026-11-20T03:00:00Z", b"second");
    sandbox.back_up_at("db01", "2026-11-20T03:00:00Z", b"other");
    let mount = sandbox.mount_with("mnt", Some("web01"), &[]);
    assert_eq!(listed(mount.directory()), shown(&["20261119T030000Z", "20261120T030000Z", "latest"]));
    check_all(&mount.path("latest.img"), b"second", 100);
    sandbox.back_up_at("web01", "2026-11-21T03:00:00Z", b"third");
    wait_until("the new archive is listed", || listed(mount.directory()).len() == 8);
}

#[test]
fn a_mount_of_one_archive_shows_just_that() {
    requires!(fuse, root);
    let sandbox = Sandbox::plain();
    sandbox.back_up_at("web01", "2026-11-19T03:00:00Z", b"first");
    sandbox.back_up_at("web01", "2026-11-20T03:00:00Z", b"second");
    for (number, reference) in ["web01@2026-11-19", "web01~1"].into_iter().enumerate() {
        let mount = sandbox.mount_with(&format!("mnt{number}"), Some(reference), &[]);
        assert_eq!(listed(mount.directory()), shown(&["20261119T030000Z", "latest"]), "{reference}");
        check_all(&mount.path("latest.img"), b"first", 100);
    }
}

#[test]
fn an_unknown_name_is_refused_and_nothing_is_mounted() {
    requires!(fuse, root);
    let sandbox = Sandbox::plain();
    sandbox.back_up_bytes("web01", b"first");
    let directory = sandbox.mountpoint("mnt");
    for reference in ["web02", "web01@2001-01-01", "#ffffffffffffffffffffffffffffffff"] {
        let said = sandbox.fails(&["mount", &sandbox.reference(reference), &directory.to_string_lossy()]);
        assert!(said.contains("no archive fits") && said.contains(reference), "{said}");
    }
    assert!(listed(&directory).is_empty());
    assert!(fuse_tests::mounted::Server::of(&directory).is_none(), "no server is left");
}

#[test]
fn an_empty_repository_is_an_empty_directory() {
    requires!(fuse, root);
    let sandbox = Sandbox::plain();
    let mount = sandbox.mount();
    assert!(listed(mount.directory()).is_empty());
    sandbox.back_up_bytes("web01", &noise(1, 5000));
    wait_until("the first archive is there", || File::open(mount.latest("web01")).is_ok());
}
