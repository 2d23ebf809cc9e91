//! What `ntfs-3g` keeps for Unix in an NTFS: owners, modes, extended attributes, links and special files; and what Windows keeps there of its own.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, XattrFlags, lgetxattr, mknodat, setxattr};
use rustix::io::Errno;

use crate::trees::Tree;

/// Options with which it shows them: owners and modes out of access lists, and attributes out of alternate streams.
pub const OPTIONS: &str = "permissions,streams_interface=xattr";
/// A file's own access list, attributes and creation time, which no list of attributes names.
const OWN: [&str; 3] = ["system.ntfs_acl", "system.ntfs_attrib", "system.ntfs_crtime"];
/// What the kernel's driver calls such things.
const OWN_BY_KERNEL: [&str; 3] = ["system.ntfs_security", "system.ntfs_attrib", "system.dos_attrib"];
/// What the largest owner may be that gets a number of Windows without a table.
const FAR_OWNER: u32 = 1_000_000_000;
const MODES: [u32; 7] = [0o000, 0o400, 0o644, 0o755, 0o4755, 0o2755, 0o6755];

/// Fills the directory `unix` of a volume that is mounted with [`OPTIONS`].
///
/// # Panics
/// If that fails.
pub fn populate(root: &Path) {
    let folder = root.join("unix");
    fs::create_dir(&folder).expect("mkdir");
    for (mode, owner) in MODES.into_iter().zip([0, 1000, 65_534, 70_000, 101_000, 601_000, FAR_OWNER]) {
        let path = folder.join(format!("{mode:04o}"));
        fs::write(&path, mode.to_string()).expect("write");
        chown(&path, Some(owner), Some(owner + 1)).expect("chown");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
    }
    let sticky = folder.join("sticky");
    fs::create_dir(&sticky).expect("mkdir");
    fs::set_permissions(&sticky, fs::Permissions::from_mode(0o1777)).expect("chmod");
    symlink("Привет мир", folder.join("link-ü")).expect("symlink");
    mknodat(CWD, folder.join("fifo"), FileType::Fifo, Mode::RUSR, 0).expect("mkfifo");
    for (name, value) in values() {
        setxattr(folder.join("0644"), name, &value, XattrFlags::empty()).expect("setxattr");
    }
    setxattr(&folder, "user.directory", b"\0\xff", XattrFlags::empty()).expect("setxattr");
}

fn values() -> [(&'static str, Vec<u8>); 4] {
    [
        ("user.origin", "Zürich".into()),
        ("user.every byte", (0..=u8::MAX).rev().collect()),
        ("user.empty", Vec::new()),
        ("user.Größe\u{1f5c4}", vec![b'\n']),
    ]
}

/// Reads everything below a directory of such a mount, what is Windows' own as well.
///
/// # Panics
/// If anything cannot be read.
#[must_use]
pub fn scan(directory: &Path) -> Tree {
    scan_own(directory, &OWN)
}

/// As [`scan`], of a mount by the kernel's `ntfs3`.
///
/// # Panics
/// If anything cannot be read.
#[must_use]
pub fn scan_by_kernel(directory: &Path) -> Tree {
    scan_own(directory, &OWN_BY_KERNEL)
}

fn scan_own(directory: &Path, own: &[&str]) -> Tree {
    let mut tree = crate::trees::scan(directory);
    for (path, entry) in &mut tree {
        let path = directory.join(OsStr::from_bytes(path));
        for &name in own {
            let mut value = vec![0; 64 << 10];
            match lgetxattr(&path, name, &mut value[..]) {
                Ok(len) => value.truncate(len),
                Err(Errno::NODATA | Errno::NOTSUP | Errno::NOENT) => continue,
                Err(error) => panic!("{name} of {path:?}: {error}"),
            }
            entry.attributes.insert(name.into(), value);
        }
    }
    tree
}

/// Fails unless a tree has all that [`populate`] makes.
///
/// # Panics
/// If it does not.
pub fn assert_kept(tree: &Tree) {
    let at = |name: &str| &tree[[b"unix/", name.as_bytes()].concat().as_slice()];
    for (name, value) in values() {
        assert_eq!(at("0644").attributes[name.as_bytes()], value, "{name}");
    }
    for mode in MODES {
        assert_eq!(at(&format!("{mode:04o}")).mode & 0o7777, mode);
    }
    assert_eq!(at("sticky").mode & 0o7777, 0o1777);
    assert_eq!(at("6755").owner, (FAR_OWNER, FAR_OWNER + 1));
    assert!(OWN.iter().all(|name| at("0755").attributes.contains_key(name.as_bytes())), "nothing of Windows");
}

/// Fails unless the kernel's driver shows what is Windows' own of a file of [`populate`], whatever it makes of owners and modes.
///
/// # Panics
/// If it does not.
pub fn assert_shown_by_kernel(tree: &Tree) {
    let file = &tree[b"unix/0755".as_slice()];
    for name in OWN_BY_KERNEL {
        assert!(
            file.attributes.get(name.as_bytes()).is_some_and(|value| !value.is_empty()),
            "no {name}: {file:?}"
        );
    }
    assert_eq!(file.content, (0o755).to_string().into_bytes());
}
