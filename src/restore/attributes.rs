//! What a file is besides its content: owner, extended attributes, access list, mode, times. In this order: each takes back a part of the one before, and until the mode
//! is set only the owner may do anything with it.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{
    AtFlags, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags, chmodat, chownat, fchmod, fchown,
    fremovexattr, fsetxattr, futimens, lremovexattr, lsetxattr, utimensat,
};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid};

use super::access::{ACCESS, DEFAULT, masked, unknown, without};
use super::tree::Run;
use super::{Fact, Unset, count};
use crate::filesystem::{Attribute, Kind, Metadata, Node};

/// Bits that whoever runs the restore should not grant in somebody else's place: those for other users' identities.
const IDENTITY: u16 = 0o6000;
/// Where the filesystem has no modes: what the umask leaves of these.
const FILE: u16 = 0o666;
const DIRECTORY: u16 = 0o777;
const SPECIAL: u16 = 0o600;

/// Collects what could not be set of one path.
struct Setting<'a, 'r> {
    run: &'a Run<'r>,
    missing: Vec<Unset>,
}

/// Where what is set goes to: something open, or a name in an open directory.
enum Target<'a> {
    Open(BorrowedFd<'a>),
    Named(BorrowedFd<'a>, &'a OsStr),
}

impl Target<'_> {
    fn set_owner(&self, user: Uid, group: Gid) -> rustix::io::Result<()> {
        let (user, group) = (Some(user), Some(group));
        match self {
            Self::Open(fd) => fchown(fd, user, group),
            Self::Named(fd, name) => chownat(fd, *name, user, group, AtFlags::SYMLINK_NOFOLLOW),
        }
    }

    fn set_mode(&self, mode: u16) -> rustix::io::Result<()> {
        let mode = Mode::from_raw_mode(mode.into());
        match self {
            Self::Open(fd) => fchmod(fd, mode),
            Self::Named(fd, name) => chmodat(fd, *name, mode, AtFlags::empty()),
        }
    }

    fn set_attribute(&self, name: &[u8], value: &[u8]) -> rustix::io::Result<()> {
        let name = OsStr::from_bytes(name);
        match self {
            Self::Open(fd) => fsetxattr(fd, name, value, XattrFlags::empty()),
            Self::Named(..) => lsetxattr(&self.path()[..], name, value, XattrFlags::empty()),
        }
    }

    fn remove_attribute(&self, name: &[u8]) -> rustix::io::Result<()> {
        let name = OsStr::from_bytes(name);
        match self {
            Self::Open(fd) => fremovexattr(fd, name),
            Self::Named(..) => lremovexattr(&self.path()[..], name),
        }
    }

    fn set_times(&self, times: &Timestamps) -> rustix::io::Result<()> {
        match self {
            Self::Open(fd) => futimens(fd, times),
            Self::Named(fd, name) => utimensat(fd, *name, times, AtFlags::SYMLINK_NOFOLLOW),
        }
    }

    /// For what goes by paths only: no link is followed on the way, and none at its end.
    fn path(&self) -> Vec<u8> {
        let (Self::Open(fd) | Self::Named(fd, _)) = self;
        let name = if let Self::Named(_, name) = self { name.as_bytes() } else { b"" };
        [format!("/proc/self/fd/{}/", fd.as_raw_fd()).as_bytes(), name].concat()
    }
}

/// Sets everything on an open file or directory. What cannot be set is told.
pub(super) fn set(run: &Run<'_>, fd: BorrowedFd<'_>, node: Node, metadata: &Metadata, shown: &[u8]) {
    Setting { run, missing: Vec::new() }.all(&Target::Open(fd), node, metadata, shown);
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
    Setting { run, missing: Vec::new() }.all(&Target::Named(fd, name), node, metadata, shown);
}

impl Setting<'_, '_> {
    fn all(mut self, target: &Target<'_>, node: Node, metadata: &Metadata, shown: &[u8]) {
        let has_owner = self.owner(metadata, |user, group| target.set_owner(user, group));
        let found = self.wanted(node, shown);
        let is_known = found.is_some();
        let (mut access, mut default) = (None, None);
        for Attribute { name, value } in found.unwrap_or_default() {
            match &name[..] {
                ACCESS => access = Some(value),
                DEFAULT => default = Some(value),
                _ => {
                    let done = target.set_attribute(&name, &value);
                    self.note(Fact::Attribute(name), done);
                }
            }
        }
        match metadata.mode {
            // Links have none.
            _ if metadata.kind == Kind::Link => {}
            Some(mode) => {
                let mode = self.mode(mode, has_owner);
                let mode = self.lists(target, mode, is_known, access.as_deref(), default.as_deref());
                self.note(Fact::Mode(mode), target.set_mode(mode));
            }
            None => {
                let all = match metadata.kind {
                    Kind::Directory => DIRECTORY,
                    Kind::File => FILE,
                    _ => SPECIAL,
                };
                // Where it fails, there are no modes either.
                let _ = target.set_mode(all & !self.run.umask);
            }
        }
        self.note(Fact::Times, target.set_times(&times(metadata)));
        self.tell(shown);
    }

    /// Sets the access lists, or takes away those that came from the directory. Returns the mode that belongs to what is there then.
    fn lists(
        &mut self,
        target: &Target<'_>,
        mode: u16,
        is_known: bool,
        access: Option<&[u8]>,
        default: Option<&[u8]>,
    ) -> u16 {
        match default.map(|list| target.set_attribute(DEFAULT, list)) {
            None => drop(target.remove_attribute(DEFAULT)),
            Some(Ok(())) => {}
            Some(Err(error)) => self.miss(Fact::Attribute(DEFAULT.to_vec()), refused(error, "")),
        }
        let Some(list) = access else {
            let _ = target.remove_attribute(ACCESS);
            return if is_known { mode } else { unknown(mode) };
        };
        let Err(error) = target.set_attribute(ACCESS, list) else { return masked(mode, list) };
        let _ = target.remove_attribute(ACCESS);
        let left = without(mode, list);
        let more = if left == mode {
            String::new()
        } else {
            format!("; its mode is {left:04o} instead of {mode:04o}, so that nobody may more than before")
        };
        self.miss(Fact::Attribute(ACCESS.to_vec()), refused(error, &more));
        left
    }

    fn note(&mut self, what: Fact, done: rustix::io::Result<()>) {
        if let Err(why) = done {
            self.miss(what, why.into());
        }
    }

    fn miss(&mut self, what: Fact, why: io::Error) {
        let counts = &self.run.counts;
        let counter = match &what {
            Fact::Owner(..) => &counts.unset_owners,
            Fact::Mode(_) => &counts.unset_modes,
            Fact::Times => &counts.unset_times,
            Fact::Attribute(_) => &counts.unset_attributes,
        };
        count(counter, 1);
        self.missing.push(Unset { what, why });
    }

    fn tell(self, shown: &[u8]) {
        if !self.missing.is_empty() {
            count(&self.run.counts.unset, 1);
            self.run.teller.unset(shown, &self.missing);
        }
    }

    /// Sets the owner; says whether it is who it was.
    fn owner(&mut self, metadata: &Metadata, set: impl FnOnce(Uid, Gid) -> rustix::io::Result<()>) -> bool {
        let Some((user, group)) = metadata.owner else { return false };
        if !self.run.options.owners {
            let own = (geteuid().as_raw(), getegid().as_raw());
            count(&self.run.counts.left_owners, u64::from((user, group) != own));
            return false;
        }
        // The highest ids mean that nothing is changed.
        let exist = user != u32::MAX && group != u32::MAX;
        let done = if exist { set(Uid::from_raw(user), Gid::from_raw(group)) } else { Err(Errno::INVAL) };
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

    /// Attributes that are to be set: those for anybody, and as root all; `None` if they cannot be read.
    fn wanted(&self, node: Node, shown: &[u8]) -> Option<Vec<Attribute>> {
        let run = self.run;
        let mut found = match run.filesystem.attributes(node) {
            Ok(found) => found,
            Err(error) => {
                run.fail(shown, &format!("it is copied, but not its extended attributes: {}", error.told()));
                return None;
            }
        };
        let all = found.len();
        let is_for_all = |name: &[u8]| name.starts_with(b"user.") || matches!(name, ACCESS | DEFAULT);
        found.retain(|attribute| run.options.owners || is_for_all(&attribute.name));
        count(&run.counts.left_attributes, (all - found.len()) as u64);
        Some(found)
    }
}

/// Why an access list could not be set.
fn refused(error: Errno, more: &str) -> io::Error {
    let why = match error {
        Errno::OPNOTSUPP => "the destination has none".to_owned(),
        Errno::PERM => "only root or the owner of the file may set it".to_owned(),
        error => error.to_string(),
    };
    io::Error::other(format!("{why}{more}"))
}

fn times(metadata: &Metadata) -> Timestamps {
    let time = |time: crate::filesystem::Time| Timespec {
        tv_sec: time.seconds,
        tv_nsec: time.nanoseconds.min(999_999_999).into(),
    };
    Timestamps { last_access: time(metadata.accessed), last_modification: time(metadata.modified) }
}
