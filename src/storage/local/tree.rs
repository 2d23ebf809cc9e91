//! Directories below one root, reached without following links.
//!
//! Invariants: a path is walked one component at a time, so a symbolic link anywhere below the root is an error, and
//! nothing outside the root is ever reached. The root itself is held open: moving it or mounting something over it
//! does not change what a running process sees. Only [`Tree::make`] and [`make_root`] write. Nothing here removes
//! anything.

use parking_lot::Mutex;
use rustix::fs::{AtFlags, Dir, DirEntry, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::collections::HashSet;
use std::fs::DirBuilder;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::storage::FolderMark;

/// Only the owner enters: names and lengths are not for everybody.
const DIR_MODE: Mode = Mode::RWXU;

const OPEN_ROOT: OFlags = OFlags::DIRECTORY.union(OFlags::CLOEXEC);
const OPEN_DIR: OFlags = OPEN_ROOT.union(OFlags::NOFOLLOW);

/// Reaches the directories below a root.
#[derive(Debug)]
pub(super) struct Tree {
    root: OwnedFd,
    /// Directories whose entry in their parent this object has synced.
    durable: Mutex<HashSet<String>>,
}

/// Magic numbers of file systems whose lists may lag behind other machines' puts: NFS, SMB (three generations), 9P, FUSE (sshfs and the
/// like), as in statfs(2).
const CACHING_FILE_SYSTEMS: [u32; 6] = [0x6969, 0x517b, 0xff53_4d42, 0xfe53_4d42, 0x0102_1997, 0x6573_5546];

/// Magic numbers of file systems that give a directory another time whenever an entry comes or goes, and finer times than [`SETTLED`] by far: ext2 to ext4,
/// XFS, btrfs, tmpfs, ZFS.
pub(super) const TIMED_FILE_SYSTEMS: [u32; 5] = [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0x2fc1_2fc1];
/// How long ago a directory must have changed, in ns, for its next change to have another time.
const SETTLED: i128 = 1_000_000_000;

impl Tree {
    /// Opens the root, which alone may be reached through links.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { root: rustix::fs::open(path, OPEN_ROOT, Mode::empty())?, durable: Mutex::default() })
    }

    /// Whether lists here show at once what other machines put: not where clients of a network file system cache directories.
    pub(super) fn lists_are_exact(&self) -> bool {
        rustix::fs::fstatfs(&self.root)
            .is_ok_and(|found| !CACHING_FILE_SYSTEMS.contains(&(found.f_type as u32)))
    }

    /// The state of a directory below the root, where its times tell it: one that changed just now may change again and keep them.
    pub(super) fn mark(&self, path: &str) -> Option<FolderMark> {
        let dir = self.find(path).ok()?;
        // The type is a signed word on some machines; only its lower half is used.
        let file_system = rustix::fs::fstatfs(&dir).ok()?.f_type as u32;
        let stat = rustix::fs::fstat(&dir).ok()?;
        let ns = |seconds: i64, ns: u64| i128::from(seconds) * 1_000_000_000 + i128::from(ns);
        let times = [ns(stat.st_mtime, stat.st_mtime_nsec), ns(stat.st_ctime, stat.st_ctime_nsec)];
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_nanos() as i128;
        let is_settled = times.iter().all(|time| now - time > SETTLED);
        let told = TIMED_FILE_SYSTEMS.contains(&file_system) && is_settled;
        told.then_some(FolderMark { directory: [stat.st_dev, stat.st_ino], times })
    }

    /// Reads the names in the root; see [`entries`].
    pub(super) fn root_entries(&self) -> io::Result<impl Iterator<Item = io::Result<DirEntry>>> {
        entries(&self.root)
    }

    /// Opens a directory below the root for reading. `NotFound` also where a component is a file, since no object is
    /// under it.
    pub(super) fn find(&self, path: &str) -> io::Result<OwnedFd> {
        let mut dir = self.root.try_clone()?;
        for segment in segments(path) {
            dir = match rustix::fs::openat(&dir, segment, OPEN_DIR, Mode::empty()) {
                Err(Errno::NOTDIR) if is_file(&dir, segment) => return Err(ErrorKind::NotFound.into()),
                found => found?,
            };
        }
        Ok(dir)
    }

    /// Opens a directory below the root for writing into it; makes and syncs what is missing on the way.
    ///
    /// A directory that another thread or process made counts as missing until this object has synced its entry once:
    /// its maker may not have come to that yet.
    pub(super) fn make(&self, path: &str) -> io::Result<OwnedFd> {
        let mut dir = self.root.try_clone()?;
        let mut walked = String::new();
        for segment in segments(path) {
            walked.extend(["/", segment]);
            let next = open_or_make_dir(&dir, segment)?;
            if !self.durable.lock().contains(&walked) {
                sync(&dir)?;
                self.durable.lock().insert(walked.clone());
            }
            dir = next;
        }
        Ok(dir)
    }
}

/// Makes a root directory, durably. Its parent must exist.
pub(super) fn make_root(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(DIR_MODE.bits()).create(path)?;
    let path = path.canonicalize()?;
    sync(&rustix::fs::open(path.parent().unwrap_or(&path), OPEN_ROOT, Mode::empty())?)
}

/// The components of a path below the root; none for the empty path.
pub(super) fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|segment| !segment.is_empty())
}

/// Reads the names in a directory, and what each is, which not every file system tells.
pub(super) fn entries(dir: &OwnedFd) -> io::Result<impl Iterator<Item = io::Result<DirEntry>>> {
    let is_itself = |entry: &DirEntry| matches!(entry.file_name().to_bytes(), b"." | b"..");
    let entries = Dir::read_from(dir)?.map(|entry| Ok(entry?));
    Ok(entries.filter(move |entry| !entry.as_ref().is_ok_and(is_itself)))
}

fn open_or_make_dir(parent: &OwnedFd, segment: &str) -> io::Result<OwnedFd> {
    match rustix::fs::openat(parent, segment, OPEN_DIR, Mode::empty()) {
        Err(Errno::NOENT) => {}
        found => return Ok(found?),
    }
    match rustix::fs::mkdirat(parent, segment, DIR_MODE) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(rustix::fs::openat(parent, segment, OPEN_DIR, Mode::empty())?)
}

/// Makes the entries of a directory durable.
///
/// `EINVAL` is how file systems that cannot sync a directory (some network ones) say so; nothing more can be done
/// there.
pub(super) fn sync(dir: &OwnedFd) -> io::Result<()> {
    match rustix::fs::fsync(dir) {
        Err(Errno::INVAL | Errno::NOTSUP) => Ok(()),
        synced => Ok(synced?),
    }
}

fn is_file(dir: &OwnedFd, segment: &str) -> bool {
    rustix::fs::statat(dir, segment, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
}
