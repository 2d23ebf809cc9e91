//! What a file is besides its content: owner, mode, extended attributes, times. In this order: each takes back a part of the one before.

use std::ffi::OsStr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{
    AtFlags, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags, chownat, fchmod, fchown, fsetxattr, futimens,
    lsetxattr, utimensat,
};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid};

use super::tree::Run;
use super::{Fact, Unset, count};
use crate::filesystem::{Attribute, Kind, Metadata, Node};

/// Bits that whoever runs the restore should not grant in somebody else's place: those for other users' identities.
const IDENTITY: u16 = 0o6000;
/// Where the filesystem has no modes: what the umask leaves of these.
const FILE: u32 = 0o666;
const DIRECTORY: u32 = 0o777;

/// Collects what could not be set of one path.
struct Setting<'a, 'r> {
    run: &'a Run<'r>,
    missing: Vec<Unset>,
}

/// Sets everything on an open file or directory. What cannot be set is told.
pub(super) fn set(run: &Run<'_>, fd: BorrowedFd<'_>, node: Node, metadata: &Metadata, shown: &[u8]) {
    let mut setting = Setting { run, missing: Vec::new() };
    let has_owner = setting.owner(metadata, |user, group| fchown(fd, user, group));
    match metadata.mode {
        Some(mode) => {
            let mode = setting.mode(mode, has_owner);
            setting.note(Fact::Mode(mode), fchmod(fd, Mode::from_raw_mode(mode.into())));
        }
        None => {
            let mode = (if metadata.kind == Kind::Directory { DIRECTORY } else { FILE }) & !run.umask;
            // Where it fails, there are no modes either.
            let _ = fchmod(fd, Mode::from_raw_mode(mode));
        }
    }
    for Attribute { name, value } in setting.wanted(node, shown) {
        let done = fsetxattr(fd, OsStr::from_bytes(&name), &value, XattrFlags::empty());
        setting.note(Fact::Attribute(name), done);
    }
    setting.note(Fact::Times, futimens(fd, &times(metadata)));
    setting.tell(shown);
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
    let mut setting = Setting { run, missing: Vec::new() };
    setting.owner(metadata, |user, group| chownat(fd, name, user, group, AtFlags::SYMLINK_NOFOLLOW));
    let path = [format!("/proc/self/fd/{}/", fd.as_raw_fd()).as_bytes(), name.as_bytes()].concat();
    for Attribute { name, value } in setting.wanted(node, shown) {
        let done = lsetxattr(&path[..], OsStr::from_bytes(&name), &value, XattrFlags::empty());
        setting.note(Fact::Attribute(name), done);
    }
    setting.note(Fact::Times, utimensat(fd, name, &times(metadata), AtFlags::SYMLINK_NOFOLLOW));
    setting.tell(shown);
}

impl Setting<'_, '_> {
    fn note(&mut self, what: Fact, done: rustix::io::Result<()>) {
        let Err(why) = done else { return };
        let counts = &self.run.counts;
        let counter = match &what {
            Fact::Owner(..) => &counts.unset_owners,
            Fact::Mode(_) => &counts.unset_modes,
            Fact::Times => &counts.unset_times,
            Fact::Attribute(_) => &counts.unset_attributes,
        };
        count(counter, 1);
        self.missing.push(Unset { what, why: why.into() });
    }

    fn tell(self, shown: &[u8]) {
        if !self.missing.is_empty() {
            count(&self.run.counts.unset, 1);
            self.run.teller.unset(shown, &self.missing);
        }
    }

    /// Sets the owner; says whether it is who it was.
    fn owner(
        &mut self,
        metadata: &Metadata,
        set: impl FnOnce(Option<Uid>, Option<Gid>) -> rustix::io::Result<()>,
    ) -> bool {
        let Some((user, group)) = metadata.owner else { return false };
        if !self.run.options.owners {
            let own = (geteuid().as_raw(), getegid().as_raw());
            count(&self.run.counts.left_owners, u64::from((user, group) != own));
            return false;
        }
        // The highest ids mean that nothing is changed.
        let exist = user != u32::MAX && group != u32::MAX;
        let done = if exist {
            set(Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))
        } else {
            Err(Errno::INVAL)
        };
        self.note(Fact::Owner(user, group), done);
        done.is_ok()
    }

    /// The permission bits that are to be set.
    fn mode(&self, mode: u16, has_owner: bool) -> u16 {
        if has_owner {
            return mode & 0o7777;
        }
        count(&self.run.counts.left_identities, u64::from(mode & IDENTITY != 0));
        mode & 0o7777 & !IDENTITY
    }

    /// Attributes that are to be set: those for anybody, and as root all.
    fn wanted(&self, node: Node, shown: &[u8]) -> Vec<Attribute> {
        let run = self.run;
        let mut found = match run.filesystem.attributes(node) {
            Ok(found) => found,
            Err(error) => {
                run.fail(shown, &format!("it is copied, but not its extended attributes: {}", error.told()));
                return Vec::new();
            }
        };
        let all = found.len();
        found.retain(|attribute| run.options.owners || attribute.name.starts_with(b"user."));
        count(&run.counts.left_attributes, (all - found.len()) as u64);
        found
    }
}

fn times(metadata: &Metadata) -> Timestamps {
    let time = |time: crate::filesystem::Time| Timespec {
        tv_sec: time.seconds,
        tv_nsec: time.nanoseconds.min(999_999_999).into(),
    };
    Timestamps { last_access: time(metadata.accessed), last_modification: time(metadata.modified) }
}
