//! The layer that fuser calls: from requests to [`Tree`] and [`Files`], and back to replies.
//!
//! It holds no logic of its own. Every handler catches panics, since a panicking loop thread of fuser ends.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr,
    Request, TimeOrNow, WriteFlags,
};
use parking_lot::RwLock;

use super::attributes::{Attributes, Kind, Ownership};
use super::errno::Errno;
use super::files::{Files, Seek, Shown};
use super::tree::{REFRESH, Tree};
use crate::pool::{Pool, Turns};
use crate::storage::patient::as_request;
use crate::task::workers;

/// Images never change: the kernel may keep what it knows of them.
const FOREVER: Duration = Duration::from_secs(24 * 3600);
/// Requests that the kernel may have waiting in the background, readahead among them.
const MAX_BACKGROUND: u16 = 64;
/// Reads of more bytes take turns: there are more threads than there is memory for.
const SMALL: usize = 128 << 10;
/// How many of them may go on at once, beyond one per core: one that waits for storage or for another's chunk keeps no core busy. Each holds up
/// to 3 MiB.
const EXTRA_LARGE: usize = 6;
/// Block size that statfs and stat speak of.
const BLOCK: u32 = 4096;
/// Longest file name, in bytes: a name, a time and an ending.
const MAX_FILE_NAME: u32 = 255;

type Listing = Arc<Vec<(String, Attributes)>>;

/// A repository as a file system.
#[derive(Debug)]
pub(super) struct Kernel {
    tree: Tree,
    files: Arc<Files>,
    owner: Ownership,
    directories: RwLock<HashMap<u64, Listing>>,
    next_directory: AtomicU64,
    /// For small reads. The kernel hands requests to threads in turn: with a buffer each, none would find its own in a processor's cache.
    small: Pool<Vec<u8>>,
    large: Turns<Vec<u8>>,
}

/// Runs a handler, for a time that is bounded however slow the storage is; a panic becomes EIO.
fn guarded<T>(work: impl FnOnce() -> Result<T, Errno>) -> Result<T, fuser::Errno> {
    let result = as_request(|| catch_unwind(AssertUnwindSafe(work))).unwrap_or_else(|_| {
        log::error!("internal error: a request panicked; please report this");
        Err(Errno::IO)
    });
    result.map_err(|errno| fuser::Errno::from_i32(errno.0))
}

/// Answers with what a handler returned, or with its errno.
macro_rules! answer {
    ($reply:ident, $work:expr, $ok:expr) => {
        match guarded(|| $work) {
            Ok(value) => $ok($reply, value),
            Err(errno) => $reply.error(errno),
        }
    };
}

impl Kernel {
    pub(super) fn new(tree: Tree, files: Arc<Files>, owner: Ownership) -> Self {
        Self {
            tree,
            files,
            owner,
            directories: RwLock::default(),
            next_directory: AtomicU64::new(1),
            // No more than there are threads.
            small: Pool::new(usize::MAX),
            large: Turns::new(workers() + EXTRA_LARGE),
        }
    }

    fn attr(&self, attributes: &Attributes) -> FileAttr {
        let Attributes { inode, kind, size, blocks, time, links } = *attributes;
        FileAttr {
            ino: INodeNo(inode),
            size,
            blocks,
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind: file_type(kind),
            perm: self.owner.mode_of(kind) | self.write_permission(kind),
            nlink: links,
            uid: self.owner.uid,
            gid: self.owner.gid,
            rdev: 0,
            blksize: BLOCK,
            flags: 0,
        }
    }

    /// With writable layers, images can be written to by their owner.
    fn write_permission(&self, kind: Kind) -> u16 {
        if kind == Kind::File && self.files.are_writable() { 0o200 } else { 0 }
    }

    fn listing(&self, handle: FileHandle) -> Result<Listing, Errno> {
        self.directories.read().get(&handle.0).cloned().ok_or(Errno::STALE)
    }
}

fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::Directory => FileType::Directory,
        Kind::File | Kind::Report => FileType::RegularFile,
        Kind::Link => FileType::Symlink,
    }
}

/// How long the kernel may trust attributes: those of images for ever, of what can change as long as a snapshot.
fn lifetime(kind: Kind) -> Duration {
    if kind == Kind::File { FOREVER } else { REFRESH }
}

fn text(name: &OsStr) -> Result<&str, Errno> {
    // All names in the mount are UTF-8: others are not there.
    name.to_str().ok_or(Errno::NOT_FOUND)
}

impl Filesystem for Kernel {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let wanted = [
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
        ];
        for flag in wanted {
            if config.add_capabilities(flag).is_err() {
                log::debug!("this kernel has no {flag:?}");
            }
        }
        let _ = config.set_max_background(MAX_BACKGROUND);
        if let Err(most) = config.set_max_readahead(4 << 20) {
            let _ = config.set_max_readahead(most);
        }
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        answer!(reply, self.tree.lookup(parent.0, text(name)?), |reply: ReplyEntry, found: Attributes| {
            // The name may come to mean another archive when archives are deleted, so it is asked for again soon.
            reply.entry_with_ttls(&lifetime(found.kind), &REFRESH, &self.attr(&found), Generation(0));
        });
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        answer!(reply, self.tree.attributes(ino.0), |reply: ReplyAttr, found: Attributes| {
            reply.attr(&lifetime(found.kind), &self.attr(&found));
        });
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        answer!(reply, self.tree.read_link(ino.0), |reply: ReplyData, target: String| reply
            .data(target.as_bytes()));
    }

    fn open(&self, _req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let open = || {
            let shown = self.tree.shown(ino.0)?;
            let is_writable = self.files.is_writable(&shown);
            if !is_writable && flags.0 & libc::O_ACCMODE != libc::O_RDONLY {
                return Err(Errno::READ_ONLY);
            }
            // What can be written never has pages of the kernel: none can become dirty and wait for us, and image and parts show the same.
            let caching = match shown {
                Shown::Image(..) | Shown::Text(_) if !is_writable => FopenFlags::FOPEN_KEEP_CACHE,
                _ => FopenFlags::FOPEN_DIRECT_IO,
            };
            Ok((self.files.open(shown)?, caching))
        };
        answer!(reply, open(), |reply: ReplyOpen, (handle, flags)| {
            reply.opened(FileHandle(handle), flags | FopenFlags::FOPEN_NOFLUSH);
        });
    }

    fn read(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let size = size as usize;
        let read = |buffer: &mut Vec<u8>, reply: ReplyData| {
            if buffer.len() < size {
                buffer.resize(size, 0);
            }
            let read = guarded(|| self.files.read(fh.0, offset, &mut buffer[..size]));
            match read {
                Ok(bytes) => reply.data(bytes),
                Err(errno) => reply.error(errno),
            }
        };
        if size <= SMALL {
            self.small.with(|buffer| read(buffer, reply));
        } else {
            // It may wait as long for its turn as it may then take.
            match self.large.take(as_request(|| self.files.reader().repository().request_ends())) {
                Some(mut turn) => read(&mut turn, reply),
                None => {
                    self.files.had_no_turn();
                    reply.error(fuser::Errno::EIO);
                }
            }
        }
    }

    fn write(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        answer!(reply, self.files.write(fh.0, offset, data), |reply: ReplyWrite, len| {
            reply.written(u32::try_from(len).unwrap_or(u32::MAX));
        });
    }

    fn fsync(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        answer!(reply, self.files.sync(fh.0), |reply: ReplyEmpty, ()| reply.ok());
    }

    fn setattr(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        _size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply.error(fuser::Errno::EROFS);
    }

    fn create(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        reply.error(fuser::Errno::EROFS);
    }

    fn mkdir(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        reply.error(fuser::Errno::EROFS);
    }

    fn unlink(&self, _req: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(fuser::Errno::EROFS);
    }

    fn lseek(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let seek = || {
            let offset = u64::try_from(offset).map_err(|_| Errno::NO_SUCH_OFFSET)?;
            let found = match whence {
                libc::SEEK_DATA => self.files.seek(fh.0, offset, Seek::Data)?,
                libc::SEEK_HOLE => self.files.seek(fh.0, offset, Seek::Hole)?,
                _ => return Err(Errno::INVALID),
            };
            i64::try_from(found).map_err(|_| Errno::INVALID)
        };
        answer!(reply, seek(), |reply: ReplyLseek, found| reply.offset(found));
    }

    fn flush(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.files.close(fh.0);
        reply.ok();
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        answer!(reply, self.tree.list(ino.0), |reply: ReplyOpen, listing| {
            let handle = self.next_directory.fetch_add(1, Ordering::Relaxed);
            self.directories.write().insert(handle, Arc::new(listing));
            reply.opened(FileHandle(handle), FopenFlags::empty());
        });
    }

    fn readdir(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let listing = match guarded(|| self.listing(fh)) {
            Ok(listing) => listing,
            Err(errno) => return reply.error(errno),
        };
        for (next, (name, found)) in
            (1..).zip(listing.iter()).skip(usize::try_from(offset).unwrap_or(usize::MAX))
        {
            if reply.add(INodeNo(found.inode), next, file_type(found.kind), name) {
                break;
            }
        }
        reply.ok();
    }

    fn readdirplus(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let listing = match guarded(|| self.listing(fh)) {
            Ok(listing) => listing,
            Err(errno) => return reply.error(errno),
        };
        for (next, (name, found)) in
            (1..).zip(listing.iter()).skip(usize::try_from(offset).unwrap_or(usize::MAX))
        {
            // One lifetime serves name and attributes here: the shorter.
            let full =
                reply.add(INodeNo(found.inode), next, name, &REFRESH, &self.attr(found), Generation(0));
            if full {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.directories.write().remove(&fh.0);
        reply.ok();
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        // As large as all images' data, and full: nothing can be written here.
        let (bytes, inodes) = self.tree.totals();
        reply.statfs(bytes.div_ceil(BLOCK.into()), 0, 0, inodes, 0, BLOCK, MAX_FILE_NAME, BLOCK);
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let find = || {
            let found = self.tree.attribute(ino.0, name.as_bytes())?;
            sized(found.ok_or(Errno::NO_ATTRIBUTE)?, size)
        };
        answer!(reply, find(), |reply, value| send_sized(reply, value, size));
    }

    fn listxattr(&self, _req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let list = || {
            let all = self.tree.attribute_names(ino.0)?;
            let names = all.into_iter().flat_map(|name| [name.into_bytes(), vec![0]].concat()).collect();
            sized(names, size)
        };
        answer!(reply, list(), |reply, value| send_sized(reply, value, size));
    }
}

/// Checks a value against the caller's buffer; a buffer of no bytes asks for the length.
fn sized(value: Vec<u8>, size: u32) -> Result<Vec<u8>, Errno> {
    if size != 0 && value.len() > size as usize { Err(Errno::RANGE) } else { Ok(value) }
}

#[allow(clippy::needless_pass_by_value, reason = "called with what a handler returned")]
fn send_sized(reply: ReplyXattr, value: Vec<u8>, size: u32) {
    if size == 0 {
        reply.size(u32::try_from(value.len()).unwrap_or(u32::MAX));
    } else {
        reply.data(&value);
    }
}
