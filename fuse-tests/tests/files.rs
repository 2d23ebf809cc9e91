//! Files that `copal cp` takes out of archives are what the kernel, `ntfs-3g` and the Sleuth Kit see in the original image. Nothing is mounted for it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use fuse_tests::binary::copal;
use fuse_tests::devices::{LoopDevice, Mounted};
use fuse_tests::images::{Names, assert_names, empty_file, filesystem, gpt, ntfs, populate};
use fuse_tests::noise::{Random, noise};
use fuse_tests::process::run;
use fuse_tests::sandbox::Sandbox;
use fuse_tests::trees::{Tree, assert_same, scan};
use fuse_tests::unix::{access_list, assert_unix};
use fuse_tests::{requires, tool};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, makedev, mknodat, setxattr, utimensat,
};

/// Copies all of a part as root would, and reads what is there then.
fn copied(sandbox: &Sandbox, archive: &str, part: &str) -> Tree {
    let to = sandbox.path("copied");
    let from = format!("{}:{part}:/", sandbox.reference(archive));
    run(sandbox.copal().args(["cp", "-r", "--devices", &from]).arg(&to));
    let tree = scan(&to);
    fs::remove_dir_all(&to).expect("remove");
    tree
}

/// What the kernel sees of an image, but for flags, which no copy has.
fn seen(sandbox: &Sandbox, kind: &str, options: &str, image: &Path) -> Tree {
    let device = LoopDevice::attach(image, &["--read-only"]);
    let mounted = Mounted::device(kind, options, device.path(), &sandbox.mountpoint("look"));
    let mut tree = scan(mounted.path());
    mounted.unmount();
    tree.values_mut().for_each(|entry| entry.flags = 0);
    tree
}

/// An image that the kernel fills.
fn filled(sandbox: &Sandbox, kind: &str, len: u64, args: &[&str], fill: impl FnOnce(&Path)) -> PathBuf {
    let image = sandbox.path("filled.img");
    empty_file(&image, len);
    let mkfs = fuse_tests::need::find_tool("mke2fs").expect("mke2fs");
    run(Command::new(mkfs).args(["-q", "-F", "-t", kind]).args(args).arg(&image));
    let device = LoopDevice::writable(&image);
    let mounted = Mounted::device(kind, "rw", device.path(), &sandbox.mountpoint("fill"));
    fill(mounted.path());
    mounted.unmount();
    image
}

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

#[test]
fn an_ordinary_user_copies_files_without_a_mount() {
    requires!(root, loop, "fs:ext4", "mkfs.ext4", sfdisk, losetup, mount, setpriv);
    let sandbox = Sandbox::new();
    let image = gpt(&sandbox);
    sandbox.back_up("x", &image);
    run(Command::new("chmod").args(["-R", "a+rX"]).arg(sandbox.path(".")));
    let (to, state, program) = (sandbox.path("to"), sandbox.path("theirs"), sandbox.path("copal"));
    fs::copy(copal(), &program).expect("copy");
    for directory in [&to, &state] {
        fs::create_dir(directory).expect("mkdir");
        fs::set_permissions(directory, fs::Permissions::from_mode(0o777)).expect("chmod");
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program).arg("cp");
    sandbox.set_environment(&mut command);
    command.env("COPAL_STATE_DIR", &state);
    let from = format!("{}:1-root:/", sandbox.reference("x"));
    let output = command.args(["-r", &from]).arg(to.join("all")).output().expect("run");
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("attribute") && said.contains("only root may"), "{said}");
    let copied = scan(&to.join("all"));
    assert_names(&copied, Names::Bytes);
    let suid = &copied[&b"unix/4755"[..]];
    assert_eq!((suid.owner, suid.mode & 0o7777), ((65534, 65534), 0o755), "no identity is lent");
    assert_eq!(copied[&b"unix/0000"[..]].content, b"0");
    assert!(!copied.contains_key(&b"unix/fifo"[..]), "told and skipped");
    assert_eq!(copied[&b"unix/link-bytes"[..]].content, b"../names/caf\xe9-latin1");
    let sparse = fs::metadata(to.join("all/contents/sparse")).expect("stat");
    assert!(sparse.blocks() * 512 < 64 << 10 && sparse.len() > 2 << 20);
}

#[test]
fn names_that_a_destination_cannot_hold_are_mapped_and_told() {
    requires!(fuse, root, loop, "fs:ext4", "mkfs.ext4", "mkfs.ntfs", "ntfs-3g", losetup, mount);
    let sandbox = Sandbox::plain();
    let image = filesystem(&sandbox, "ext4");
    sandbox.back_up("x", &image);
    let target = sandbox.path("ntfs.img");
    empty_file(&target, 48 << 20);
    tool!("mkfs.ntfs", "-q", "-F", "-f", &target);
    let mounted = Mounted::ntfs("windows_names,streams_interface=none", &target, &sandbox.mountpoint("to"));
    let from = format!("{}:1:/names", sandbox.reference("x"));
    let output =
        sandbox.copal().args(["cp", "-r", "--json", &from]).arg(mounted.path()).output().expect("run");
    let report: serde_json::Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let original = seen(&sandbox, "ext4", "ro,noload", &image);
    let copied = scan(&mounted.path().join("names"));
    mounted.unmount();
    assert_eq!(report["copied"]["failed"], 0, "{report:#}");
    let mut wanted: Vec<_> = original
        .iter()
        .filter(|(path, _)| path.starts_with(b"names/"))
        .map(|(_, entry)| &entry.content)
        .collect();
    let mut there: Vec<_> =
        copied.iter().filter(|(path, _)| !path.is_empty()).map(|(_, entry)| &entry.content).collect();
    wanted.sort();
    there.sort();
    assert!(wanted == there, "every file is there under some name");
    assert!(report["renamed"].as_array().is_some_and(|renamed| !renamed.is_empty()), "{report:#}");
    assert!(copied.contains_key(&b"caf%e9-latin1"[..]), "{:?}", copied.keys());
}

#[test]
fn names_that_a_destination_takes_for_one_stay_apart() {
    requires!(fuse, root, loop, "fs:ext4", "mkfs.ext4", "mkfs.ntfs", "ntfs-3g", "lowntfs-3g", losetup, mount);
    let sandbox = Sandbox::plain();
    let files = [
        "names/Case",
        "names/case",
        "names/CASE",
        "names/a:b",
        "names/a%3ab",
        "names/CON",
        "names/con",
        "names/Dir/Ä",
        "names/Dir/ä",
        "names/dir/Ä",
        "names/Single",
    ];
    let image = filled(&sandbox, "ext4", 16 << 20, &[], |root| {
        for file in files {
            let path = root.join(file);
            fs::create_dir_all(path.parent().expect("a directory")).expect("mkdir");
            fs::write(path, file).expect("write");
        }
    });
    sandbox.back_up("x", &image);
    let target = sandbox.path("ntfs.img");
    empty_file(&target, 16 << 20);
    tool!("mkfs.ntfs", "-q", "-F", "-f", &target);
    let options = "windows_names,ignore_case,streams_interface=none";
    let mounted = Mounted::ntfs(options, &target, &sandbox.mountpoint("to"));
    let from = format!("{}:1:/names", sandbox.reference("x"));
    // Twice: the same names the second time.
    for force in [&[][..], &["--force"]] {
        let mut command = sandbox.copal();
        let output = command.args(["cp", "-r", "--json", &from]).args(force).arg(mounted.path()).output();
        let output = output.expect("run");
        let report: serde_json::Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
        assert_eq!(report["copied"]["failed"], 0, "{report:#}");
        let copied = scan(&mounted.path().join("names"));
        let contents = copied.values().map(|entry| String::from_utf8_lossy(&entry.content).into_owned());
        let mut there: Vec<String> = contents.filter(|content| content.starts_with("names/")).collect();
        there.sort();
        let mut wanted = files.map(str::to_owned);
        wanted.sort();
        assert_eq!(there, wanted);
        let read = |path: &str| fs::read_to_string(mounted.path().join("names").join(path)).expect(path);
        assert_eq!(read("case"), "names/case");
        assert_eq!(read("%43%41%53%45"), "names/CASE");
        assert_eq!(read("%44ir/%c3%84"), "names/Dir/Ä");
        assert_eq!(read("a%3ab"), "names/a%3ab");
        assert_eq!(read("Single"), "names/Single");
    }
    mounted.unmount();
}

#[test]
fn a_damaged_pack_costs_only_the_files_in_it() {
    requires!(root, loop, "fs:ext4", "mkfs.ext4", losetup, mount);
    let sandbox = Sandbox::plain();
    let mut numbers = Random::new(7);
    let image = filled(&sandbox, "ext4", 64 << 20, &[], |root| {
        (0..30).for_each(|number| {
            fs::write(root.join(format!("{number}")), noise(number + 100, 1 << 20)).expect("write");
        });
    });
    sandbox.back_up("x", &image);
    let original = seen(&sandbox, "ext4", "ro,noload", &image);
    let mut packs: Vec<PathBuf> =
        fuse_tests::sandbox::files_below(&sandbox.repository().join("packs")).into_iter().collect();
    packs.sort_by_key(|pack| fs::metadata(pack).expect("stat").len());
    let largest = packs.pop().expect("a pack");
    let mut bytes = fs::read(&largest).expect("read");
    // Near its end: what tells of all files lies near the beginning.
    let at = bytes.len() / 4 * 3 + numbers.below(bytes.len() / 8);
    bytes[at] ^= 1;
    fs::write(&largest, bytes).expect("write");
    let to = sandbox.path("copied");
    let output = sandbox
        .copal()
        .args(["cp", "-r", &format!("{}:1:/", sandbox.reference("x"))])
        .arg(&to)
        .output()
        .expect("run");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let copied = scan(&to);
    let mut lost = 0;
    for (path, entry) in original.iter().filter(|(path, _)| !path.is_empty()) {
        match copied.get(path) {
            Some(found) => assert!(found.content == entry.content),
            None => {
                lost += 1;
                let name = format!("/{}: it cannot be read", String::from_utf8_lossy(path));
                assert!(String::from_utf8_lossy(&output.stderr).contains(&name), "{output:?}");
            }
        }
    }
    assert!((1..=2).contains(&lost), "{lost} files are lost: {}", String::from_utf8_lossy(&output.stderr));
}

/// What `ntfs-3g` makes of things that Windows does not know, in both of its ways.
#[test]
fn links_devices_and_pipes_of_ntfs_are_what_they_are() {
    requires!(fuse, root, "mkfs.ntfs", "ntfs-3g");
    for options in ["special_files=interix", "special_files=wsl"] {
        let sandbox = Sandbox::new();
        let image = sandbox.path("ntfs.img");
        empty_file(&image, 24 << 20);
        tool!("mkfs.ntfs", "-q", "-F", "-f", &image);
        let mounted = Mounted::ntfs(options, &image, &sandbox.mountpoint("fill"));
        let odd = mounted.path().join("odd");
        fs::create_dir(&odd).expect("mkdir");
        // Longer than fits beside a record, and one that would lead out of the destination.
        for (name, target) in
            [("long", "ü/".repeat(300)), ("out", "../../../etc".into()), ("abs", "/etc/passwd".into())]
        {
            std::os::unix::fs::symlink(target, odd.join(name)).expect("symlink");
        }
        for (name, kind, device) in [
            ("null", FileType::CharacterDevice, makedev(1, 3)),
            ("far", FileType::BlockDevice, makedev(300, 70_000)),
            ("pipe", FileType::Fifo, 0),
            ("socket", FileType::Socket, 0),
        ] {
            mknodat(CWD, odd.join(name), kind, Mode::RUSR, device).expect("mknod");
        }
        // Files of the system that are nothing else, one of them hidden.
        for (name, content, attributes) in
            [("desktop.ini", "[x]", 0x24_u32), ("empty", "", 0x26), ("like", "IntxLNK\u{1}", 0x24)]
        {
            fs::write(odd.join(name), content).expect("write");
            setxattr(odd.join(name), "system.ntfs_attrib_be", &attributes.to_be_bytes(), XattrFlags::empty())
                .expect("setxattr");
        }
        mounted.unmount();
        let mounted = Mounted::ntfs("ro,streams_interface=none", &image, &sandbox.mountpoint("look"));
        let original = scan(mounted.path());
        let numbers = |root: &Path, name: &str| fs::symlink_metadata(root.join(name)).expect("stat").rdev();
        let devices = ["odd/null", "odd/far"].map(|name| numbers(mounted.path(), name));
        mounted.unmount();
        sandbox.back_up("x", &image);
        let from = format!("{}:1:/", sandbox.reference("x"));
        let to = sandbox.path("to");
        run(sandbox.copal().args(["cp", "-r", "--devices", &from]).arg(&to));
        let copied = scan(&to);
        assert_eq!(["odd/null", "odd/far"].map(|name| numbers(&to, name)), devices);
        let plain = |tree: &Tree| -> BTreeMap<Vec<u8>, (u32, Vec<u8>)> {
            tree.iter()
                .map(|(path, entry)| (path.clone(), (entry.mode & 0o170_000, entry.content.clone())))
                .collect()
        };
        let (original, copied) = (plain(&original), plain(&copied));
        assert_eq!(copied, original, "{options}");
        assert_eq!(copied[&b"odd/out"[..]], (0o120_000, b"../../../etc".to_vec()));
        assert_eq!(copied[&b"odd/empty"[..]].0, 0o100_000);
        // Without being asked, no device is made, and each is told.
        let to = sandbox.mountpoint("plain");
        let output = sandbox.copal().args(["cp", "-r", "--json", &from]).arg(&to).output().expect("cp");
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let skipped = report["skipped"].as_array().expect("a list").iter();
        let mut skipped: Vec<_> =
            skipped.filter_map(|one| Some((one["path"].as_str()?, one["kind"].as_str()?))).collect();
        skipped.sort_unstable();
        let expected = [
            ("/odd/far", "block"),
            ("/odd/null", "character"),
            ("/odd/pipe", "fifo"),
            ("/odd/socket", "socket"),
        ];
        assert_eq!(skipped, expected);
        assert!(!to.join("odd/null").exists() && to.join("odd/abs").is_symlink());
    }
}

#[test]
fn ntfs_files_without_content_are_empty_and_not_damaged() {
    requires!(root, "mkfs.ntfs");
    let sandbox = Sandbox::plain();
    let image = sandbox.path("ntfs.img");
    empty_file(&image, 24 << 20);
    tool!("mkfs.ntfs", "-q", "-F", "-f", &image);
    sandbox.back_up("x", &image);
    let to = sandbox.mountpoint("to");
    let from = format!("{}:1:/", sandbox.reference("x"));
    let output = sandbox.copal().args(["cp", "-r", "--all", &from]).arg(&to).output().expect("cp");
    assert!(output.status.success(), "{output:?}");
    for name in ["$Secure", "$Extend/$Quota", "$Extend/$ObjId", "$Extend/$Reparse", "$BadClus"] {
        assert_eq!(fs::read(to.join(name)).expect("it is there"), b"", "{name}");
    }
    assert_eq!(fs::read(to.join("$MFTMirr")).expect("it is there").len(), 4096);
}

#[test]
fn a_destination_without_links_and_owners_is_told_of_by_name() {
    requires!(fuse, root, loop, "fs:ext4", "mkfs.ext4", losetup, mount, "mkfs.exfat", "mount.exfat-fuse");
    let sandbox = Sandbox::plain();
    let image = filled(&sandbox, "ext4", 64 << 20, &["-b", "4096"], |root| {
        std::os::unix::fs::symlink("../away", root.join("link")).expect("symlink");
        for number in 0..30 {
            let path = root.join(format!("{number}"));
            fs::write(&path, "content").expect("write");
            std::os::unix::fs::chown(&path, Some(1000 + number), None).expect("chown");
        }
    });
    sandbox.back_up("x", &image);
    let target = sandbox.path("exfat.img");
    empty_file(&target, 48 << 20);
    tool!("mkfs.exfat", &target);
    let directory = sandbox.mountpoint("to");
    let device = LoopDevice::writable(&target);
    tool!("mount.exfat-fuse", device.path(), &directory);
    let mounted = Mounted::over(&directory);
    let from = format!("{}:1:/", sandbox.reference("x"));
    let output =
        sandbox.copal().args(["cp", "-r", "--json", &from]).arg(mounted.path()).output().expect("cp");
    let copied = fs::read(mounted.path().join("7")).expect("it is there");
    mounted.unmount();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((copied, output.status.code()), (b"content".to_vec(), Some(1)), "{said}");
    assert!(
        said.contains(
            "/link: cannot write it: the destination has no symbolic links; it leads to \"../away\""
        ),
        "{said}"
    );
    assert_eq!(report["copied"]["failed"], 1, "{report:#}");
    let owner = |entry: &serde_json::Value| {
        let missing = entry["missing"].as_array().expect("a list");
        missing.iter().find(|one| one["what"] == "owner").and_then(|one| one["uid"].as_u64())
    };
    let listed = report["not_set"].as_array().expect("a list");
    let seventh = listed.iter().find(|entry| entry["path"] == "/7").unwrap_or_else(|| panic!("{report:#}"));
    assert_eq!(owner(seventh), Some(1007), "{report:#}");
    assert!(listed.len() >= 30 && said.matches("is copied without").count() == 20, "{said}");
    assert!(said.contains("20 of them are named here"), "{said}");
}

/// Access lists and modes of what was copied, without who owns it.
fn lists_in(directory: &Path) -> String {
    let output = run(Command::new("getfacl").args(["-n", "-R", "lists"]).current_dir(directory));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut files: Vec<String> = text
        .split("\n\n")
        .map(|file| {
            let is_owner = |line: &&str| line.starts_with("# owner:") || line.starts_with("# group:");
            file.lines().filter(|line| !is_owner(line)).map(|line| format!("{line}\n")).collect()
        })
        .collect();
    files.sort();
    files.join("\n")
}

#[test]
fn access_lists_come_back_and_without_them_nobody_gets_more() {
    requires!(root, loop, "fs:ext4", "fs:ramfs", "mkfs.ext4", losetup, mount, setpriv, setfacl, getfacl);
    let sandbox = Sandbox::new();
    let mut original = String::new();
    let image = filled(&sandbox, "ext4", 64 << 20, &["-b", "4096"], |root| {
        let script = "mkdir lists; cd lists; for name in named group refused bare plain; do echo $name > $name; done
            chmod 0640 named group plain; chmod 0644 refused; chmod 0600 bare; mkdir directory; chmod 0750 directory
            setfacl -m u:1000:rwx named; setfacl -m g:2000:rw group; setfacl -m u:1001:- refused
            setfacl -m u:1000:rw bare; setfacl -m g:2000:rwx,d:u:1000:rwx directory; touch directory/inherits";
        run(Command::new("sh").args(["-e", "-c", script]).current_dir(root));
        original = lists_in(root);
    });
    assert!(original.contains("user:1000:rwx") && original.contains("default:user:1000:rwx"), "{original}");
    sandbox.back_up("x", &image);
    run(Command::new("chmod").args(["-R", "a+rX"]).arg(sandbox.path(".")));
    let (state, program) = (sandbox.path("theirs"), sandbox.path("copal"));
    fs::copy(copal(), &program).expect("copy");
    fs::create_dir(&state).expect("mkdir");
    fs::set_permissions(&state, fs::Permissions::from_mode(0o777)).expect("chmod");
    let plain = sandbox.mountpoint("plain");
    tool!("mount", "-t", "ramfs", "ramfs", &plain);
    let mounted = Mounted::over(&plain);
    let from = format!("{}:1:/lists", sandbox.reference("x"));
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    for (number, (ids, more)) in
        [(&nobody[..], &[][..]), (&[], &["--no-owner"]), (&[], &[])].into_iter().enumerate()
    {
        for (above, knows_lists) in [(sandbox.path("."), true), (plain.clone(), false)] {
            let to = above.join(format!("to-{number}"));
            fs::create_dir(&to).expect("mkdir");
            fs::set_permissions(&to, fs::Permissions::from_mode(0o777)).expect("chmod");
            if knows_lists {
                // What the destination would give to others does not come on top.
                tool!("setfacl", "-m", "d:u:7777:rwx", &to);
            }
            let mut command = Command::new("setpriv");
            command.args(ids).arg(&program).arg("cp");
            sandbox.set_environment(&mut command);
            command.env("COPAL_STATE_DIR", &state);
            let output = command.args(["-r", "--json", &from]).args(more).arg(&to).output().expect("cp");
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
            if knows_lists {
                assert!(output.status.success(), "{number}: {said}");
                assert_eq!(lists_in(&to), original, "{number}");
                continue;
            }
            assert_eq!(report["copied"]["failed"], 0, "{number}: {said}");
            assert_eq!(report["copied"]["attributes_not_set"], 7, "{number}: {report:#}");
            assert!(said.contains("/lists/named is copied without its access list (the destination has none; its mode is 0640 instead of 0670"), "{said}");
            let mode = |name: &str| fs::metadata(to.join("lists").join(name)).expect("stat").mode() & 0o7777;
            let modes = ["named", "group", "refused", "bare", "plain", "directory"].map(mode);
            assert_eq!(modes, [0o640, 0o640, 0o600, 0o600, 0o640, 0o750], "{number}");
        }
    }
    mounted.unmount();
}

#[test]
fn directories_of_ext4_without_kinds_are_whole() {
    requires!(root, loop, "fs:ext4", "mkfs.ext4", losetup, mount);
    for args in [&["-O", "^filetype"][..], &["-b", "1024", "-O", "^filetype,^dir_index"]] {
        let sandbox = Sandbox::plain();
        let image = filled(&sandbox, "ext4", 64 << 20, args, |root| {
            populate(root, Names::Bytes);
            fs::write(root.join("x".repeat(255)), "long").expect("write");
            fs::create_dir(root.join("many")).expect("mkdir");
            for number in 0..2000 {
                fs::write(root.join(format!("many/file number {number}")), "").expect("write");
            }
        });
        let original = seen(&sandbox, "ext4", "ro,noload", &image);
        assert!(original.len() > 2000);
        sandbox.back_up("x", &image);
        assert_same(&original, &copied(&sandbox, "x", "1"));
    }
}
