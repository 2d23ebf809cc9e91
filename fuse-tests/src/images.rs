//! Disk images with file systems in them, made by the tests themselves.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::devices::{LoopDevice, Mounted};
use crate::noise::noise;
use crate::sandbox::Sandbox;
use crate::tool;
use crate::trees::Tree;
use crate::unix::populate_as_unix;

/// Where the partition of [`gpt`] begins, in bytes.
pub const PARTITION: u64 = 1 << 20;
/// How long it is.
pub const PARTITION_LEN: u64 = 32 << 20;

/// What a file system takes as a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// Any bytes but NUL and slash.
    Bytes,
    /// Only text.
    Text,
    /// Only text, and not all of it, as in DOS; there are no links, owners or modes either.
    Dos,
}

/// Names that restores get wrong.
#[must_use]
pub fn awkward_names(names: Names) -> Vec<OsString> {
    // As many bytes as Linux takes, and as many characters as Windows does.
    let (long, longest) = ("長".repeat(85), "n".repeat(255));
    let text = [
        "Grüße aus Köln.txt",
        "e\u{301}-twin",
        "\u{e9}-twin",
        "日本語ファイル.txt",
        "Привет мир",
        "שלום עולם",
        "😀🗄\u{fe0f}.bin",
        "-rf",
        &long,
        &longest,
    ];
    let mut all: Vec<OsString> = text.into_iter().map(OsString::from).collect();
    if names != Names::Dos {
        let awkward = ["trailing space ", "trailing dot.", "new\nline", "*?[]", "back\\slash"];
        all.extend(awkward.map(OsString::from));
    }
    if names == Names::Bytes {
        all.extend(
            [&b"caf\xe9-latin1"[..], b"bad\xff\xfeutf8", b"\x01\x7f"]
                .map(|raw| OsString::from_vec(raw.to_vec())),
        );
    }
    all
}

/// Fills a mounted file system with awkward names, modes, owners, attributes, links and contents.
///
/// # Panics
/// If that fails.
pub fn populate(root: &Path, names: Names) {
    let folder = root.join("names");
    fs::create_dir(&folder).expect("mkdir");
    for (number, name) in awkward_names(names).iter().enumerate() {
        let path = folder.join(name);
        fs::write(&path, noise(number as u64, 100 + number * 700)).expect("write");
    }
    let contents = root.join("contents");
    fs::create_dir(&contents).expect("mkdir");
    fs::write(contents.join("empty"), "").expect("write");
    fs::write(contents.join("large"), noise(99, 3 << 20)).expect("write");
    fs::write(contents.join("text"), "the same again\n".repeat(30_000)).expect("write");
    let sparse = File::create(contents.join("sparse")).expect("create");
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"end", 2 << 20).expect("write");
    if names != Names::Dos {
        fs::hard_link(contents.join("text"), contents.join("hard link")).expect("link");
    }
    if names == Names::Bytes {
        populate_as_unix(root);
    }
}

/// Fails if the awkward names of a tree are not all those that [`populate`] made, with what it wrote, or it has no extended attributes.
///
/// # Panics
/// If they are not.
pub fn assert_names(tree: &Tree, names: Names) {
    let found: BTreeSet<OsString> = tree
        .keys()
        .filter_map(|path| path.strip_prefix(b"names/"))
        .map(|name| OsString::from_vec(name.to_vec()))
        .collect();
    let made = awkward_names(names);
    for (number, name) in made.iter().enumerate() {
        let path = [b"names/", name.as_bytes()].concat();
        let written = noise(number as u64, 100 + number * 700);
        assert!(
            tree.get(&path).is_some_and(|entry| entry.content == written),
            "{name:?} holds something else"
        );
    }
    assert_eq!(found, made.into_iter().collect());
    if names == Names::Bytes {
        let attributes = &tree[&b"unix/0644"[..]].attributes;
        assert_eq!(attributes[&b"user.origin"[..]], "Zürich".as_bytes());
    }
}

/// A file that is one hole.
///
/// # Panics
/// If it cannot be made.
pub fn empty_file(path: &Path, len: u64) {
    File::create(path).and_then(|file| file.set_len(len)).expect("make file");
}

/// An image of a file system that the kernel mounts.
///
/// # Panics
/// If that fails.
#[must_use]
pub fn filesystem(sandbox: &Sandbox, kind: &str) -> PathBuf {
    let path = sandbox.path(&format!("{kind}.img"));
    let (len, args): (u64, &[&str]) = match kind {
        "ext4" => (32 << 20, &["-q", "-F"]),
        // The smallest that its mkfs accepts is 300 MB.
        "xfs" => (320 << 20, &["-q", "-f"]),
        "btrfs" => (128 << 20, &["-q", "-f"]),
        other => panic!("no recipe for {other}"),
    };
    empty_file(&path, len);
    let mut all: Vec<&OsStr> = args.iter().map(OsStr::new).collect();
    all.push(path.as_os_str());
    crate::process::tool(&format!("mkfs.{kind}"), &all);
    let device = LoopDevice::writable(&path);
    fill(sandbox, kind, &device);
    path
}

fn fill(sandbox: &Sandbox, kind: &str, device: &LoopDevice) {
    let mounted = Mounted::device(kind, "rw", device.path(), &sandbox.mountpoint("fill"));
    populate(mounted.path(), Names::Bytes);
    mounted.unmount();
}

/// An NTFS image.
///
/// # Panics
/// If that fails.
#[must_use]
pub fn ntfs(sandbox: &Sandbox) -> PathBuf {
    let path = sandbox.path("ntfs.img");
    empty_file(&path, 24 << 20);
    tool!("mkfs.ntfs", "-q", "-F", "-f", path);
    let mounted = Mounted::ntfs("streams_interface=none", &path, &sandbox.mountpoint("fill"));
    populate(mounted.path(), Names::Text);
    mounted.unmount();
    path
}

/// Writes a partition table, as `sfdisk` reads it, to a disk.
///
/// # Panics
/// If that fails.
pub fn partition(disk: &Path, table: &str) {
    let program = crate::need::find_tool("sfdisk").expect("sfdisk");
    let mut sfdisk = Command::new(program).arg("-q").arg(disk).stdin(Stdio::piped()).spawn().expect("sfdisk");
    sfdisk.stdin.take().expect("piped").write_all(table.as_bytes()).expect("write");
    assert!(sfdisk.wait().expect("sfdisk").success());
}

/// A disk with a GPT and one partition with ext4.
///
/// # Panics
/// If that fails.
#[must_use]
pub fn gpt(sandbox: &Sandbox) -> PathBuf {
    let path = sandbox.path("gpt.img");
    empty_file(&path, PARTITION + PARTITION_LEN + (1 << 20));
    let script =
        format!("label: gpt\nstart={}, size={}, type=L, name=root\n", PARTITION / 512, PARTITION_LEN / 512);
    partition(&path, &script);
    let device = LoopDevice::attach(&path, &partition_args().each_ref().map(String::as_str));
    tool!("mkfs.ext4", "-q", device.path());
    fill(sandbox, "ext4", &device);
    path
}

/// What `losetup` needs to show just the partition of [`gpt`].
#[must_use]
pub fn partition_args() -> [String; 2] {
    [format!("--offset={PARTITION}"), format!("--sizelimit={PARTITION_LEN}")]
}
