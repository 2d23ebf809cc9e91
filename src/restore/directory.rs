//! A directory of the destination, held open while anything is made in it, and where names become visible.
//!
//! All is done by names without slashes beneath an open descriptor, and no link is followed. A directory that this run made gets its mode, owner and times when the last
//! one who makes something in it is done: when it is dropped. What killed runs left is removed when a directory is opened.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, fstat, linkat, mkdirat, openat, renameat,
    renameat_with, statat, unlinkat,
};
use rustix::io::Errno;

use super::leftovers::{claim, temporary};
use super::names::{Expected, portable, short};
use super::tree::Run;
use super::{attributes, count};
use crate::filesystem::{Metadata, Node};

/// For directories that are being filled; nobody else looks in before their modes are set.
const FILLING: Mode = Mode::RWXU;

/// A directory that is being filled.
pub(super) struct Directory<'r> {
    run: &'r Run<'r>,
    /// `None` where nothing is written.
    fd: Option<OwnedFd>,
    /// Its path in the destination, without a slash in front.
    path: Vec<u8>,
    /// What names come into it.
    expected: Mutex<Expected>,
    /// What it gets at the end, and its path in the image.
    finish: Option<(Node, Metadata, Vec<u8>)>,
    /// Held so that it is finished after this one.
    _above: Option<Arc<Directory<'r>>>,
}

impl<'r> Directory<'r> {
    /// The directory that all is made in, which exists.
    pub(super) fn open(run: &'r Run<'r>, path: &Path) -> io::Result<Self> {
        let fd = match run.options.dry_run {
            true => None,
            false => Some(openat(CWD, path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?),
        };
        let swept = fd.as_ref().map_or(0, |fd| claim(fd.as_fd(), false));
        count(&run.counts.swept, swept);
        Ok(Self { run, fd, path: Vec::new(), expected: Mutex::default(), finish: None, _above: None })
    }

    /// Makes a directory in this one. One that is there already is used as it is, unless it is a link.
    pub(super) fn make(
        self: &Arc<Self>,
        name: &[u8],
        shown: &[u8],
        node: Node,
        metadata: Metadata,
    ) -> io::Result<Self> {
        let (run, above) = (self.run, Some(self.clone()));
        if self.fd.is_none() {
            count(&run.counts.directories, 1);
            let (path, expected) = (Vec::new(), Mutex::default());
            return Ok(Self { run, fd: None, path, expected, finish: None, _above: above });
        }
        let (made, name) = self.under(name, shown, |name| match mkdirat(self.fd()?, name, FILLING) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(error) => Err(error.into()),
        })?;
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = openat(self.fd()?, OsStr::from_bytes(&name), flags, Mode::empty());
        let fd = opened.map_err(|error| match error {
            Errno::NOTDIR | Errno::LOOP => io::Error::other(self.stands_there(&name)),
            error => error.into(),
        })?;
        if made {
            count(&run.counts.directories, 1);
        } else if run.closed.is_some() {
            let found = fstat(&fd)?;
            if run.closed == Some((found.st_dev, found.st_ino)) {
                return Err(io::Error::other("the repository itself lies there"));
            }
        }
        count(&run.counts.swept, claim(fd.as_fd(), made));
        let finish = made.then(|| (node, metadata, shown.to_vec()));
        let (path, expected) = (self.path_of(&name), Mutex::default());
        Ok(Self { run, fd: Some(fd), path, expected, finish, _above: above })
    }

    /// Names that will be made in it, so that each is told from the others.
    pub(super) fn expect<'n>(&self, names: impl Iterator<Item = &'n [u8]> + Clone) {
        self.expected.lock().more(names, || self.ignores_case());
    }

    /// Whether it takes a name in capitals for the same.
    fn ignores_case(&self) -> bool {
        let Some(fd) = &self.fd else { return false };
        let name = temporary();
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        if openat(fd, &name, flags, Mode::RUSR | Mode::WUSR).is_err() {
            return false;
        }
        let found = statat(fd, name.to_ascii_uppercase(), AtFlags::SYMLINK_NOFOLLOW);
        // What cannot be removed now is removed by a later run.
        let _ = unlinkat(fd, &name, AtFlags::empty());
        found.is_ok()
    }

    /// Why no directory can be made where something else stands.
    fn stands_there(&self, name: &[u8]) -> &'static str {
        let find = |fd| statat(fd, OsStr::from_bytes(name), AtFlags::SYMLINK_NOFOLLOW);
        match self.fd().ok().and_then(|fd| find(fd).ok()).map(|found| FileType::from_raw_mode(found.st_mode))
        {
            Some(FileType::Symlink) => {
                "a link stands there, which is not followed: remove it, or give where it leads as destination"
            }
            _ => "a file stands there, which no directory replaces: remove it, or give another destination",
        }
    }

    /// Its descriptor.
    pub(super) fn fd(&self) -> io::Result<BorrowedFd<'_>> {
        // Nothing is made where nothing is written.
        self.fd.as_ref().map(AsFd::as_fd).ok_or_else(|| io::ErrorKind::Unsupported.into())
    }

    /// The path of a name in it, in the destination.
    pub(super) fn path_of(&self, name: &[u8]) -> Vec<u8> {
        if self.path.is_empty() { name.to_vec() } else { [&self.path[..], b"/", name].concat() }
    }

    /// Does something under a name, or under another one if the destination cannot hold it; says which.
    pub(super) fn under<T>(
        &self,
        name: &[u8],
        shown: &[u8],
        mut attempt: impl FnMut(&OsStr) -> io::Result<T>,
    ) -> io::Result<(T, Vec<u8>)> {
        let mut current = self.expected.lock().first(name);
        for _ in 0..3 {
            let error = match attempt(OsStr::from_bytes(&current)) {
                Ok(done) => {
                    if current != name {
                        count(&self.run.counts.renamed, 1);
                        self.run.teller.renamed(shown, &current);
                    }
                    return Ok((done, current));
                }
                Err(error) => error,
            };
            let changed = match Errno::from_io_error(&error) {
                Some(Errno::NAMETOOLONG) => short(&current),
                // What is not UTF-8, or has characters that mean something else there.
                Some(Errno::INVAL | Errno::ILSEQ) if !name.is_empty() => portable(name),
                _ => return Err(error),
            };
            let other = self.expected.lock().free(changed);
            if other == current {
                return Err(error);
            }
            current = other;
        }
        Err(Errno::NAMETOOLONG.into())
    }

    /// Makes something under a temporary name with `make`, then gives it its own. Nothing is left of it if that fails.
    pub(super) fn publish<T>(
        &self,
        name: &[u8],
        shown: &[u8],
        make: impl FnOnce(&OsStr) -> io::Result<T>,
    ) -> io::Result<(T, Vec<u8>)> {
        let fd = self.fd()?;
        let temporary = temporary();
        let temporary = OsStr::new(&temporary);
        let made = make(temporary).and_then(|made| {
            let ((), name) = self.under(name, shown, |name| self.rename(temporary, name))?;
            Ok((made, name))
        });
        // A link to a file that has the name already stays what it is when it is renamed.
        if made.is_err() || self.run.options.force {
            let _ = unlinkat(fd, temporary, AtFlags::empty());
        }
        made
    }

    fn rename(&self, temporary: &OsStr, name: &OsStr) -> io::Result<()> {
        let fd = self.fd()?;
        if self.run.options.force {
            return self.replace(temporary, name);
        }
        match renameat_with(fd, temporary, fd, name, RenameFlags::NOREPLACE) {
            // Some filesystems know no such flag.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
            done => return Ok(done?),
        }
        match linkat(fd, temporary, fd, name, AtFlags::empty()) {
            Ok(()) => return Ok(unlinkat(fd, temporary, AtFlags::empty())?),
            Err(Errno::EXIST) => return Err(Errno::EXIST.into()),
            Err(_) => {}
        }
        match statat(fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Err(Errno::EXIST.into()),
            Err(Errno::NOENT) => Ok(renameat(fd, temporary, fd, name)?),
            Err(error) => Err(error.into()),
        }
    }

    /// Replaces what has the name, unless this run has made that: two names that are one in the destination must not swallow a file.
    fn replace(&self, temporary: &OsStr, name: &OsStr) -> io::Result<()> {
        let fd = self.fd()?;
        let mut made = self.run.made.lock();
        let find = |name: &OsStr| statat(fd, name, AtFlags::SYMLINK_NOFOLLOW);
        let id = |found: rustix::fs::Stat| (found.st_dev, found.st_ino);
        let new = id(find(temporary)?);
        let old = find(name);
        // A device that was named by mistake must not be lost.
        if let Ok(found) = old
            && !matches!(
                FileType::from_raw_mode(found.st_mode),
                FileType::RegularFile | FileType::Symlink | FileType::Directory
            )
        {
            return Err(io::Error::other(
                "what has that name there is a device, pipe or socket, which is not replaced",
            ));
        }
        match old.map(id) {
            Ok(old) if old != new && made.contains(&old) => return Err(Errno::EXIST.into()),
            Ok(_) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        renameat(fd, temporary, fd, name)?;
        made.insert(new);
        Ok(())
    }
}

impl Drop for Directory<'_> {
    fn drop(&mut self) {
        if let (Some((node, metadata, shown)), Some(fd)) = (self.finish.take(), &self.fd) {
            attributes::set(self.run, fd.as_fd(), node, &metadata, &shown);
        }
    }
}

/// Opens a directory by its path in the destination, without following any link.
pub(super) fn descend(from: BorrowedFd<'_>, path: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut at = openat(from, ".", flags, Mode::empty())?;
    for part in path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
        at = openat(&at, OsStr::from_bytes(part), flags, Mode::empty())?;
    }
    Ok(at)
}
