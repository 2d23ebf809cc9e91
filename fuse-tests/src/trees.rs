//! Everything that a file system says of its files, to hold one tree against another.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::io::Errno;

/// A file, directory or link.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// Type and permission bits.
    pub mode: u32,
    /// User and group.
    pub owner: (u32, u32),
    /// Links to it.
    pub links: u64,
    /// Seconds and nanoseconds.
    pub modified: (i64, i64),
    /// Those that users set, such as that it never changes.
    pub flags: u32,
    /// Extended attributes by name.
    pub attributes: BTreeMap<Vec<u8>, Vec<u8>>,
    /// A file's bytes or a link's target.
    pub content: Vec<u8>,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { mode, owner, links, modified, flags, attributes, content } = self;
        let start = content[..content.len().min(32)].escape_ascii();
        write!(f, "{mode:o} {owner:?} {links} {modified:?} {flags:#x} {attributes:?} ")?;
        write!(f, "{} bytes: {start}", content.len())
    }
}

/// Entries by their path's bytes.
pub type Tree = BTreeMap<Vec<u8>, Entry>;

/// Reads everything below a directory, itself included.
///
/// # Panics
/// If anything cannot be read.
#[must_use]
pub fn scan(directory: &Path) -> Tree {
    let mut tree = Tree::new();
    scan_into(directory, directory, &mut tree);
    tree
}

fn scan_into(root: &Path, path: &Path, tree: &mut Tree) {
    let found = fs::symlink_metadata(path).unwrap_or_else(|error| panic!("stat {path:?}: {error}"));
    let content = match found.file_type() {
        kind if kind.is_file() => fs::read(path).unwrap_or_else(|error| panic!("read {path:?}: {error}")),
        kind if kind.is_symlink() => fs::read_link(path).expect("read link").into_os_string().into_vec(),
        _ => Vec::new(),
    };
    let entry = Entry {
        mode: found.mode(),
        owner: (found.uid(), found.gid()),
        links: found.nlink(),
        modified: (found.mtime(), found.mtime_nsec()),
        flags: if found.is_file() || found.is_dir() { crate::unix::flags(path) } else { 0 },
        attributes: attributes(path),
        content,
    };
    let name = path.strip_prefix(root).expect("below the root").as_os_str().as_bytes().to_vec();
    tree.insert(name, entry);
    if found.is_dir() {
        for entry in fs::read_dir(path).expect("list") {
            scan_into(root, &entry.expect("entry").path(), tree);
        }
    }
}

/// The extended attributes of a path, links not followed.
///
/// # Panics
/// If they cannot be read.
#[must_use]
pub fn attributes(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 64 << 10];
    let len = match rustix::fs::llistxattr(path, &mut names[..]) {
        Err(Errno::NOTSUP) => return BTreeMap::new(),
        // Told to show no alternate streams as attributes, ntfs-3g ends the list with the error that any request had last, if one had.
        Err(_) if has_none(path) => return BTreeMap::new(),
        len => len.unwrap_or_else(|error| panic!("attributes of {path:?}: {error}")),
    };
    let names = names[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let value = |name: &[u8]| {
        let mut value = vec![0; 64 << 10];
        let text = OsString::from_vec(name.to_vec());
        let len = rustix::fs::lgetxattr(path, &text, &mut value[..]).expect("get attribute");
        value.truncate(len);
        (name.to_vec(), value)
    };
    names.map(value).collect()
}

/// Whether a server in user space says that files have no attributes.
fn has_none(path: &Path) -> bool {
    is_served(path) && rustix::fs::lgetxattr(path, "user.copal", &mut [0_u8; 1][..]) == Err(Errno::NOTSUP)
}

/// Whether a server in user space answers for a path.
pub(crate) fn is_served(path: &Path) -> bool {
    const FUSE: u64 = 0x6573_5546;
    rustix::fs::statfs(path).is_ok_and(|found| found.f_type as u64 == FUSE)
}

/// Fails with all differences if two trees are not the same.
///
/// # Panics
/// If they are not.
pub fn assert_same(original: &Tree, other: &Tree) {
    let mut differences = Vec::new();
    let paths: std::collections::BTreeSet<_> = original.keys().chain(other.keys()).collect();
    for path in paths {
        let (left, right) = (original.get(path), other.get(path));
        if left != right {
            differences.push(format!("{}:\n  {left:?}\n  {right:?}", path.escape_ascii()));
        }
    }
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
}
