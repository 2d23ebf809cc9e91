//! `copal cp`: what becomes of names, links, owners and access lists at the destination, and of files that are damaged.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use fuse_tests::binary::copal;
use fuse_tests::copies::{copied, filled, seen};
use fuse_tests::devices::{LoopDevice, Mounted};
use fuse_tests::images::{Names, assert_names, empty_file, filesystem, gpt, populate};
use fuse_tests::noise::{Random, noise};
use fuse_tests::process::run;
use fuse_tests::sandbox::Sandbox;
use fuse_tests::trees::{Tree, assert_same, scan};
use fuse_tests::{requires, tool};
use rustix::fs::{CWD, FileType, Mode, XattrFlags, makedev, mknodat, setxattr};

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
