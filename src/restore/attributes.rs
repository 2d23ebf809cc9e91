//! What a file is besides its content: owner, mode, extended attributes, times. In this order: each takes back a part of the one before.

use std::ffi::OsStr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{
    AtFlags, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags, chownat, fchmod, fchown, fsetxattr, futimens,
    lsetxattr, utimensat,
};

use super::count;
use super::tree::Run;
use crate::filesystem::{Attribute, Kind, Metadata, Node};

/// Bits that whoever runs the restore should not grant in somebody else's place: those for other users' identities.
const IDENTITY: u16 = 0o6000;
/// Where the filesystem has no modes: what the umask leaves of these.
const FILE: u32 = 0o666;
const DIRECTORY: u32 = 0o777;

/// Sets everything on an open file or directory. What cannot be set is counted.
pub(super) fn set(run: &Run<'_>, fd: BorrowedFd<'_>, node: Node, metadata: &Metadata, shown: &[u8]) {
    let has_owner = owner(run, metadata, |user, group| fchown(fd, user, group).is_ok());
    let mode = match metadata.mode {
        Some(mode) if has_owner => u32::from(mode & 0o7777),
        Some(mode) => u32::from(mode & 0o7777 & !IDENTITY),
        None => (if metadata.kind == Kind::Directory { DIRECTORY } else { FILE }) & !run.umask,
    };
    note(run, fchmod(fd, Mode::from_raw_mode(mode)).is_ok());
    for Attribute { name, value } in wanted(run, node, shown) {
        note(run, fsetxattr(fd, OsStr::from_bytes(&name), &value, XattrFlags::empty()).is_ok());
    }
    note(run, futimens(fd, &times(metadata)).is_ok());
}

/// Sets what a symbolic link, device or pipe has, by its name in a directory.
pub(super) fn set_at(
    run: &Run<'_>,
    fd: BorrowedFd<'_>,
    name: &OsStr,
    node: Node,
    metadata: &Metadata,
    shown: &[u8],
) {
    owner(run, metadata, |user, group| chownat(fd, name, user, group, AtFlags::SYMLINK_NOFOLLOW).is_ok());
    let path = [format!("/proc/self/fd/{}/", fd.as_raw_fd()).as_bytes(), name.as_bytes()].concat();
    for Attribute { name, value } in wanted(run, node, shown) {
        let done = lsetxattr(&path[..], OsStr::from_bytes(&name), &value, XattrFlags::empty());
        note(run, done.is_ok());
    }
    note(run, utimensat(fd, name, &times(metadata), AtFlags::SYMLINK_NOFOLLOW).is_ok());
}

fn note(run: &Run<'_>, done: bool) {
    if !done {
        count(&run.counts.attributes, 1);
    }
}

/// Sets the owner; says whether it is who it was.
fn owner(run: &Run<'_>, metadata: &Metadata, set: impl FnOnce(Option<Uid>, Option<Gid>) -> bool) -> bool {
    let Some((user, group)) = metadata.owner else { return false };
    // The highest ids mean that nothing is changed.
    let exist = user != u32::MAX && group != u32::MAX;
    let done = run.options.owners && exist && set(Some(Uid::from_raw(user)), Some(Gid::from_raw(group)));
    if !done {
        count(&run.counts.owners, 1);
    }
    done
}

/// Attributes that are to be set: those for anybody, and as root all.
fn wanted(run: &Run<'_>, node: Node, shown: &[u8]) -> Vec<Attribute> {
    let mut found = match run.filesystem.attributes(node) {
        Ok(found) => found,
        Err(error) => {
            run.fail(shown, &format!("it is copied, but not its extended attributes: {}", error.told()));
            return Vec::new();
        }
    };
    let all = found.len();
    found.retain(|attribute| run.options.owners || attribute.name.starts_with(b"user."));
    count(&run.counts.attributes, (all - found.len()) as u64);
    found
}

fn times(metadata: &Metadata) -> Timestamps {
    let time = |time: crate::filesystem::Time| Timespec {
        tv_sec: time.seconds,
        tv_nsec: time.nanoseconds.min(999_999_999).into(),
    };
    Timestamps { last_access: time(metadata.accessed), last_modification: time(metadata.modified) }
}
