//! Files that `copal cp` takes out of archives are what the kernel, `ntfs-3g` and the Sleuth Kit see in the original image. Nothing is mounted for it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use fuse_tests::copies::{copied, filled, seen};
use fuse_tests::devices::{LoopDevice, Mounted};
use fuse_tests::images::{Names, assert_names, ntfs, populate};
use fuse_tests::noise::noise;
use fuse_tests::process::run;
use fuse_tests::sandbox::Sandbox;
use fuse_tests::trees::{Tree, assert_same, scan};
use fuse_tests::unix::{access_list, assert_unix};
use fuse_tests::{requires, tool};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, makedev, mknodat, setxattr, utimensat,
};

fn set_times(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).expect("utimensat");
}

/// What goes beyond ordinary files: devices, times of other centuries, long attributes, access lists, many names.
fn populate_oddly(root: &Path) {
    let odd = root.join("odd");
    fs::create_dir(&odd).expect("mkdir");
    for (name, kind, device) in [
        ("null", FileType::CharacterDevice, makedev(1, 3)),
        ("far", FileType::BlockDevice, makedev(300, 70_000)),
        ("socket", FileType::Socket, 0),
    ] {
        mknodat(CWD, odd.join(name), kind, Mode::RUSR, device).expect("mknod");
    }
    for (name, seconds, nanoseconds) in [
        ("1960", -315_619_200, 123_456_789),
        ("2100", 4_102_444_800, 999_999_999),
        ("2400", 13_569_465_600, 1),
    ] {
        fs::write(odd.join(name), name).expect("write");
        set_times(&odd.join(name), seconds, nanoseconds);
    }
    std::os::unix::fs::symlink("x".repeat(1000), odd.join("long link")).expect("symlink");
    set_times(&odd.join("long link"), 77, 7);
    for number in 0..6 {
        let value = noise(number, 80);
        setxattr(&odd, format!("user.number {number}"), &value, XattrFlags::empty()).expect("setxattr");
    }
    // Only where values may have inodes of their own.
    let _ = setxattr(&odd, "user.long", &noise(9, 2500), XattrFlags::empty());
    // user::rw-, user:1000:r--, group::r--, mask::r--, other::---
    let none = u32::MAX;
    let list = access_list(&[(1, 6, none), (2, 4, 1000), (4, 4, none), (16, 4, none), (32, 0, none)]);
    setxattr(odd.join("2100"), "system.posix_acl_access", &list, XattrFlags::empty()).expect("access list");
    set_times(&odd.join("2100"), 4_102_444_800, 999_999_999);
    let many = root.join("many");
    fs::create_dir(&many).expect("mkdir");
    for number in 0..10_000_u64 {
        fs::write(many.join(format!("file number {number}")), noise(number, (number % 700) as usize))
            .expect("write");
    }
}

#[test]
fn files_of_ext4_are_what_the_kernel_sees() {
    requires!(root, loop, "fs:ext4", "mkfs.ext4", losetup, mount);
    let sandbox = Sandbox::new();
    for args in [
        &["-b", "4096"][..],
        &["-b", "1024", "-O", "^metadata_csum,^64bit"],
        &["-O", "inline_data,ea_inode", "-b", "1024", "-I", "512"],
    ] {
        let image = filled(&sandbox, "ext4", 96 << 20, args, |root| {
            populate(root, Names::Bytes);
            populate_oddly(root);
        });
        let original = seen(&sandbox, "ext4", "ro,noload", &image);
        assert_names(&original, Names::Bytes);
        assert_unix(&original);
        assert!(original.len() > 10_000);
        sandbox.back_up("x", &image);
        assert_same(&original, &copied(&sandbox, "x", "1"));
    }
}

#[test]
fn files_of_ext2_and_ext3_are_what_the_kernel_sees() {
    requires!(root, loop, "fs:ext4", "mkfs.ext4", losetup, mount);
    let sandbox = Sandbox::plain();
    for (kind, args) in [("ext2", &["-b", "1024"][..]), ("ext3", &["-b", "1024"]), ("ext3", &["-b", "4096"])]
    {
        let image = filled(&sandbox, kind, 96 << 20, args, |root| {
            populate(root, Names::Bytes);
            // Long enough for lists of lists of lists of blocks.
            let deep = fs::File::create(root.join("deep")).expect("create");
            for at in [0, 5 << 20, 68 << 20] {
                std::os::unix::fs::FileExt::write_all_at(&deep, &noise(at, 5000), at).expect("write");
            }
        });
        let original = seen(&sandbox, kind, "ro", &image);
        assert_unix(&original);
        sandbox.back_up("x", &image);
        assert_same(&original, &copied(&sandbox, "x", "1"));
    }
}

#[test]
fn a_journal_is_replayed_in_memory_as_the_kernel_replays_it() {
    requires!(root, loop, "fs:ext4", "mkfs.ext4", losetup, mount);
    for (kind, args, options) in [
        ("ext4", &["-b", "4096"][..], "rw"),
        ("ext4", &["-b", "1024", "-O", "^64bit,^metadata_csum"], "rw,data=journal"),
        ("ext3", &["-b", "1024"], "rw"),
    ] {
        let sandbox = Sandbox::plain();
        let image = filled(&sandbox, kind, 64 << 20, args, |_| ());
        let (dirty, replayed) = (sandbox.path("dirty.img"), sandbox.path("replayed.img"));
        let device = LoopDevice::writable(&image);
        let mounted = Mounted::device(kind, options, device.path(), &sandbox.mountpoint("busy"));
        for round in 0..3 {
            let directory = mounted.path().join(format!("round {round}"));
            fs::create_dir(&directory).expect("mkdir");
            for number in 0..300 {
                fs::write(directory.join(format!("{number}")), noise(number, 900)).expect("write");
            }
            // What begins like the journal itself is changed in it.
            fs::write(directory.join("magic"), 0xc03b_3998_u32.to_be_bytes().repeat(3000)).expect("write");
            rustix::fs::syncfs(fs::File::open(&directory).expect("open")).expect("sync");
            (0..100).for_each(|number| fs::remove_file(directory.join(format!("{number}"))).expect("remove"));
        }
        rustix::fs::syncfs(fs::File::open(mounted.path()).expect("open")).expect("sync");
        fs::copy(&image, &dirty).expect("copy");
        mounted.unmount();
        fs::copy(&dirty, &replayed).expect("copy");
        let device = LoopDevice::writable(&replayed);
        let mounted = Mounted::device(kind, "rw,noatime", device.path(), &sandbox.mountpoint("look"));
        let original = scan(mounted.path());
        mounted.unmount();
        assert!(original.len() > 600);
        sandbox.back_up("x", &dirty);
        let listed =
            sandbox.copal().args(["ls", &format!("{}:1:/", sandbox.reference("x"))]).output().expect("ls");
        assert!(
            String::from_utf8_lossy(&listed.stderr).contains("its journal was replayed in memory"),
            "{listed:?}"
        );
        assert_same(&original, &copied(&sandbox, "x", "1"));
    }
}

/// A damaged transaction is not replayed, as by the kernel, which refuses the whole; those before it are, and it is told.
#[test]
fn a_damaged_journal_is_replayed_as_far_as_it_is_whole() {
    requires!(root, loop, "fs:ext4", "mkfs.ext4", losetup, mount);
    let sandbox = Sandbox::plain();
    let image = filled(&sandbox, "ext4", 64 << 20, &["-b", "4096"], |_| ());
    let dirty = sandbox.path("dirty.img");
    let device = LoopDevice::writable(&image);
    let options = "rw,data=journal,commit=300";
    let mounted = Mounted::device("ext4", options, device.path(), &sandbox.mountpoint("busy"));
    for word in [b"FIRST---", b"SECOND--", b"THIRD---"] {
        let name = String::from_utf8_lossy(word).into_owned();
        fs::write(mounted.path().join(name), word.repeat(512)).expect("write");
        rustix::fs::syncfs(fs::File::open(mounted.path()).expect("open")).expect("sync");
    }
    fs::copy(&image, &dirty).expect("copy");
    mounted.unmount();
    let bytes = fs::read(&dirty).expect("read");
    let blocks = |word: &[u8]| -> Vec<usize> {
        (0..bytes.len()).step_by(4096).filter(|at| bytes[*at..].starts_with(word)).collect()
    };
    // Of what the second transaction wrote to the journal, a byte; then of the block that commits it.
    let content = blocks(b"SECOND--");
    let commit = blocks(&[0xc0, 0x3b, 0x39, 0x98, 0, 0, 0, 2]);
    let behind = *commit.iter().find(|at| content.iter().any(|content| *at > content)).expect("a commit");
    for (number, places) in [content, vec![behind + 60]].into_iter().enumerate() {
        let mut damaged = bytes.clone();
        places.iter().for_each(|at| damaged[*at + 1] ^= 0x20);
        let name = format!("damaged-{number}");
        sandbox.back_up(&name, &sandbox.file(&name, &damaged));
        let out = sandbox.mountpoint(&format!("out-{number}"));
        let from = format!("{}:1:/", sandbox.reference(&name));
        let copied = sandbox.copal().args(["cp", "-r", &from]).arg(&out).output().expect("cp");
        let said = String::from_utf8_lossy(&copied.stderr);
        assert_eq!(copied.status.code(), Some(1), "{said}");
        assert!(said.contains("its journal is damaged"), "{said}");
        assert!(fs::read(out.join("FIRST---")).expect("the first").starts_with(b"FIRST---"));
        assert!(!out.join("SECOND--").exists() && !out.join("THIRD---").exists(), "{number}");
    }
}

/// What NTFS has of a file: whether it is a directory, links, time, content.
type Plain = (bool, u64, (i64, i64), Vec<u8>);

#[test]
fn files_of_ntfs_are_what_ntfs_3g_sees() {
    requires!(fuse, root, "mkfs.ntfs", "ntfs-3g", ntfsinfo);
    let sandbox = Sandbox::new();
    let image = ntfs(&sandbox);
    let mounted = Mounted::ntfs("streams_interface=none,compression", &image, &sandbox.mountpoint("fill"));
    // Compressed files.
    let squeezed = mounted.path().join("squeezed");
    fs::create_dir(&squeezed).expect("mkdir");
    setxattr(&squeezed, "system.ntfs_attrib_be", &0x0000_0810_u32.to_be_bytes(), XattrFlags::empty())
        .expect("compress");
    fs::write(squeezed.join("text"), "the same again and again\n".repeat(9000)).expect("write");
    fs::write(squeezed.join("noise"), noise(3, 200_000)).expect("write");
    let mixed = [noise(4, 70_000), vec![0; 200_000], b"tail".repeat(30_000)].concat();
    fs::write(squeezed.join("mixed"), mixed).expect("write");
    // Runs of one content, and names of one file, that need several records each.
    let islands = fs::File::create(mounted.path().join("islands")).expect("create");
    for number in 0..600 {
        std::os::unix::fs::FileExt::write_all_at(&islands, &noise(number, 4096), number * 40_960)
            .expect("write");
    }
    drop(islands);
    fs::write(mounted.path().join("known as"), noise(8, 50_000)).expect("write");
    for number in 0..40 {
        let name = format!("{}{number}", "x".repeat(100));
        fs::hard_link(mounted.path().join("known as"), mounted.path().join(name)).expect("link");
    }
    for number in 0..1500 {
        fs::write(mounted.path().join(format!("Datei Nummer {number}.txt")), format!("{number}"))
            .expect("write");
    }
    mounted.unmount();
    for name in ["islands", "known as"] {
        let told = tool!("ntfsinfo", "-v", "-F", name, &image);
        assert!(told.contains("$ATTRIBUTE_LIST"), "{name} fits in one record: {told}");
    }
    let mounted = Mounted::ntfs("ro,streams_interface=none", &image, &sandbox.mountpoint("look"));
    let original = scan(mounted.path());
    mounted.unmount();
    assert_names(&original, Names::Text);
    sandbox.back_up("x", &image);
    let copied = copied(&sandbox, "x", "1");
    let plain = |tree: &Tree| -> BTreeMap<Vec<u8>, Plain> {
        let facts = tree.iter().map(|(path, entry)| {
            let is_directory = entry.mode & 0o170_000 == 0o040_000;
            let links = if is_directory { 0 } else { entry.links };
            (path.clone(), (is_directory, links, entry.modified, entry.content.clone()))
        });
        facts.collect()
    };
    let (original, copied) = (plain(&original), plain(&copied));
    for (path, entry) in &original {
        assert!(copied.get(path) == Some(entry), "{} differs", path.escape_ascii());
    }
    assert_eq!(original.len(), copied.len());
}

/// Files in a partition of a disk by their paths, as the Sleuth Kit sees them.
fn allocated(disk: &Path, offset: &str) -> BTreeMap<String, Vec<u8>> {
    let listed = tool!("fls", "-r", "-u", "-F", "-p", "-o", offset, disk);
    let mut found = BTreeMap::new();
    for line in listed.lines().filter(|line| line.starts_with("r/r ")) {
        let Some((about, name)) = line.split_once(":\t") else { continue };
        if name.starts_with('$') || name.contains(':') {
            continue;
        }
        let inode = about.split_whitespace().last().expect("a number");
        let content = Command::new("icat").args(["-o", offset]).arg(disk).arg(inode).output().expect("icat");
        found.insert(name.to_owned(), content.stdout);
    }
    found
}

#[test]
fn files_of_other_peoples_disks_are_what_the_sleuth_kit_sees() {
    requires!(root, mmls, fls, icat, xz, "/usr/share/forensics-samples/fs.ext2.xz");
    for name in ["ext2", "ext4", "ntfs", "vfat"] {
        let sandbox = Sandbox::plain();
        let packed = format!("/usr/share/forensics-samples/fs.{name}.xz");
        let disk = sandbox.path("disk");
        let unpacked = run(Command::new("xz").args(["-dc", &packed])).stdout;
        fuse_tests::noise::write_sparse(&disk, &unpacked);
        sandbox.back_up("x", &disk);
        let table = tool!("mmls", &disk);
        let start = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let start = start
            .filter(|row| {
                row.len() > 4 && row[0].ends_with(':') && row[1].starts_with(|c: char| c.is_ascii_digit())
            })
            .map(|row| row[2].to_owned())
            .next()
            .expect("a partition");
        let original = allocated(&disk, &start);
        assert!(original.len() > 10, "{name}: {} files", original.len());
        let copied = copied(&sandbox, "x", "1");
        for (path, content) in &original {
            let ours = copied.get(path.as_bytes()).unwrap_or_else(|| panic!("{name}: {path} is missing"));
            assert!(ours.content == *content, "{name}: {path} differs");
        }
    }
}
