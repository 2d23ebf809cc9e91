//! What a file system of Unix keeps of its files beside names and contents: modes, owners, links, extended attributes, access lists, capabilities, flags.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

use rustix::fs::{IFlags, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use crate::noise::noise;
use crate::trees::{Entry, Tree, is_served};

/// Flags that users set. What else the kernel calls one says how a file is stored.
const FLAGS: IFlags =
    IFlags::IMMUTABLE.union(IFlags::APPEND).union(IFlags::NODUMP).union(IFlags::NOATIME).union(IFlags::SYNC);
/// Files by the flag that each of them has.
const FLAGGED: [(&str, IFlags); 4] = [
    ("immutable", IFlags::IMMUTABLE),
    ("append only", IFlags::APPEND),
    ("no dump", IFlags::NODUMP),
    ("immutable directory", IFlags::IMMUTABLE),
];
const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";
const CAPABILITY: &str = "security.capability";
/// `cap_net_bind_service,cap_net_raw=ep`, in the second version of the attribute.
const CAPABLE: [u32; 5] = [0x0200_0001, 1 << 10 | 1 << 13, 0, 0, 0];
/// The same for the root of a container, whose user this is, in the third.
const CONTAINED: [u32; 6] = [0x0300_0001, 1 << 10 | 1 << 13, 0, 0, 0, 100_000];
/// Just below the one that means none, and beyond what is a positive number of 32 bits.
const FAR_OWNER: (u32, u32) = (u32::MAX - 1, 4_000_000_000);

/// Fills the directory `unix` of a mounted file system.
///
/// # Panics
/// If that fails.
pub fn populate_as_unix(root: &Path) {
    let folder = root.join("unix");
    fs::create_dir(&folder).expect("mkdir");
    let modes = [0o000, 0o400, 0o644, 0o755, 0o4755, 0o2755, 0o1777, 0o6755];
    for (number, mode) in modes.into_iter().enumerate() {
        let path = folder.join(format!("{mode:04o}"));
        fs::write(&path, mode.to_string()).expect("write");
        let owner = 1000 + number as u32 * 100_000;
        chown(&path, Some(owner), Some(owner + 1)).expect("chown");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
    }
    symlink("Привет мир", folder.join("link-ü")).expect("symlink");
    symlink(OsString::from_vec(b"../names/caf\xe9-latin1".to_vec()), folder.join("link-bytes"))
        .expect("symlink");
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, folder.join("fifo"), fifo, Mode::RUSR, 0).expect("mkfifo");
    attributed(&folder);
    access_lists(&folder);
    capabilities(&folder);
    flags_set(&folder);
}

fn set(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::setxattr(path, name, value, XattrFlags::empty())
        .unwrap_or_else(|error| panic!("{name} of {path:?}: {error}"));
}

fn attributed(folder: &Path) {
    let attributed = folder.join("0644");
    set(&attributed, "user.origin", "Zürich".as_bytes());
    set(&attributed, "user.raw", &noise(5, 300));
    set(&attributed, "trusted.copal", b"root only");
    set(folder, "user.directory", b"\0\xff");
    let binary = folder.join("binary");
    fs::write(&binary, "attributes").expect("write");
    set(&binary, "user.every byte", &every_byte());
    set(&binary, "user.empty", b"");
    set(&binary, "user.Größe\u{1f5c4}", b"\n");
}

fn every_byte() -> Vec<u8> {
    (0..=u8::MAX).rev().collect()
}

fn access_lists(folder: &Path) {
    let listed = folder.join("access list");
    fs::write(&listed, "for some").expect("write");
    // user::rw-, user:1000:r--, user:4000000000:rwx, group::r--, group:70000:--x, mask::rwx, other::---
    set(&listed, ACCESS, &listed_access());
    let shared = folder.join("shared");
    fs::create_dir(&shared).expect("mkdir");
    set(&shared, DEFAULT, &listed_access());
    // Inherits it.
    fs::write(shared.join("heir"), "from above").expect("write");
}

/// An access list as its attribute: what an entry is about, its permissions, whose it is.
#[must_use]
pub fn access_list(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let entry = |(about, permissions, id): &(u16, u16, u32)| {
        [&about.to_le_bytes()[..], &permissions.to_le_bytes(), &id.to_le_bytes()].concat()
    };
    [2_u32.to_le_bytes().to_vec()].into_iter().chain(entries.iter().map(entry)).flatten().collect()
}

fn listed_access() -> Vec<u8> {
    const NOBODY: u32 = u32::MAX;
    access_list(&[
        (0x01, 6, NOBODY),
        (0x02, 4, 1000),
        (0x02, 7, 4_000_000_000),
        (0x04, 4, NOBODY),
        (0x08, 1, 70_000),
        (0x10, 7, NOBODY),
        (0x20, 0, NOBODY),
    ])
}

fn capabilities(folder: &Path) {
    for (name, value) in [("capable", &CAPABLE[..]), ("capable in a container", &CONTAINED)] {
        let path = folder.join(name);
        fs::write(&path, "#!/bin/true\n").expect("write");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
        // Once it has its owner: another one takes them away.
        chown(&path, Some(FAR_OWNER.0), Some(FAR_OWNER.1)).expect("chown");
        set(&path, CAPABILITY, &words(value));
    }
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn flags_set(folder: &Path) {
    for (name, flag) in FLAGGED {
        let path = folder.join(name);
        if name.ends_with("directory") {
            fs::create_dir(&path).expect("mkdir");
            fs::write(path.join("stays"), "here").expect("write");
        } else {
            fs::write(&path, name).expect("write");
        }
        let file = fs::File::open(&path).expect("open");
        let before = rustix::fs::ioctl_getflags(&file).expect("flags");
        rustix::fs::ioctl_setflags(&file, before | flag).expect("set flags");
    }
}

/// The flags of a file or directory that users set; none where there are no flags.
///
/// # Panics
/// If they cannot be read.
#[must_use]
pub fn flags(path: &Path) -> u32 {
    let open = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let found = rustix::fs::open(path, open, Mode::empty()).and_then(rustix::fs::ioctl_getflags);
    match found {
        Ok(flags) => (flags & FLAGS).bits(),
        Err(Errno::NOTTY | Errno::NOTSUP) => 0,
        // ntfs-3g has no other answer to what it does not know.
        Err(Errno::INVAL) if is_served(path) => 0,
        Err(error) => panic!("flags of {path:?}: {}", io::Error::from(error)),
    }
}

/// Fails unless a tree has all that [`populate_as_unix`] makes, but for flags, which copies of files do not have.
///
/// # Panics
/// If it does not.
pub fn assert_unix(tree: &Tree) {
    let at = |name: &str| -> &Entry { &tree[[b"unix/", name.as_bytes()].concat().as_slice()] };
    let value = |name: &str, attribute: &str| {
        let found = at(name).attributes.get(attribute.as_bytes());
        found.unwrap_or_else(|| panic!("{name} has no {attribute}: {:?}", at(name))).clone()
    };
    assert_eq!(value("0644", "user.origin"), "Zürich".as_bytes());
    assert_eq!(value("binary", "user.every byte"), every_byte());
    assert_eq!(value("binary", "user.empty"), b"");
    assert_eq!(value("access list", ACCESS), listed_access());
    assert_eq!(value("shared", DEFAULT), listed_access());
    assert!(!value("shared/heir", ACCESS).is_empty());
    assert_eq!(value("capable", CAPABILITY), words(&CAPABLE));
    assert_eq!(value("capable in a container", CAPABILITY), words(&CONTAINED));
    assert_eq!(at("capable").owner, FAR_OWNER);
    assert_eq!(at("6755").mode & 0o7777, 0o6755);
}

/// Fails unless files have the flags that [`populate_as_unix`] gave them.
///
/// # Panics
/// If one does not.
pub fn assert_flags(tree: &Tree) {
    for (name, flag) in FLAGGED {
        let entry = &tree[[b"unix/", name.as_bytes()].concat().as_slice()];
        assert_eq!(entry.flags, flag.bits(), "flags of {name}");
    }
}
