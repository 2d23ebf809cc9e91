//! A storage of which a test says when reads come back.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEntry, ReplyOpen,
    Request,
};

/// What is done before each read of a file.
pub type Gate = dyn Fn(&Path) + Send + Sync;

/// More reads than any server has under way.
const THREADS: usize = 96;
/// Nothing changes beneath.
const FOREVER: Duration = Duration::from_secs(3600);

/// A directory's files, as they were when it was mounted, read-only, elsewhere. Nothing that is read stays in the page cache.
#[derive(Debug)]
pub struct SlowStorage {
    _session: BackgroundSession,
    directory: PathBuf,
}

impl SlowStorage {
    /// Shows `below` on the directory `on`, which must be there; each read of a file goes through `gate` first.
    ///
    /// # Panics
    /// If that fails.
    #[must_use]
    pub fn mount(below: &Path, on: &Path, gate: Box<Gate>) -> Self {
        let mut files = Files { entries: Vec::new(), gate };
        files.add(below.to_owned(), 0);
        let mut config = Config::default();
        config.mount_options = vec![MountOption::RO, MountOption::FSName("slow".into())];
        config.n_threads = Some(THREADS);
        let session = fuser::spawn_mount(files, on, &config).expect("mount a slow storage");
        Self { _session: session, directory: on.to_owned() }
    }

    /// Where it is mounted.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

struct Entry {
    path: PathBuf,
    parent: usize,
    found: Metadata,
}

/// A tree of files; an inode is a place in it and one more.
struct Files {
    entries: Vec<Entry>,
    gate: Box<Gate>,
}

impl Files {
    fn add(&mut self, path: PathBuf, parent: usize) {
        let found = fs::symlink_metadata(&path).expect("stat");
        let own = self.entries.len();
        let below = found.is_dir().then(|| fs::read_dir(&path).expect("list"));
        self.entries.push(Entry { path, parent, found });
        for entry in below.into_iter().flatten() {
            self.add(entry.expect("list").path(), own);
        }
    }

    fn get(&self, inode: INodeNo) -> Result<&Entry, Errno> {
        let place = usize::try_from(inode.0).ok().and_then(|inode| inode.checked_sub(1));
        place.and_then(|place| self.entries.get(place)).ok_or(Errno::ENOENT)
    }

    /// What lies in a directory, with its inode.
    fn below(&self, parent: INodeNo) -> impl Iterator<Item = (u64, &Entry)> {
        let all = (1..).zip(&self.entries).skip(1);
        all.filter(move |(_, entry)| entry.parent as u64 + 1 == parent.0)
    }

    fn read(&self, inode: INodeNo, offset: u64, size: u32) -> Result<Vec<u8>, Errno> {
        let path = &self.get(inode)?.path;
        (self.gate)(path);
        let mut bytes = vec![0; size as usize];
        let read = File::open(path).and_then(|file| file.read_at(&mut bytes, offset)).map_err(Errno::from)?;
        bytes.truncate(read);
        Ok(bytes)
    }
}

fn kind(found: &Metadata) -> FileType {
    let kind = found.file_type();
    match kind {
        _ if kind.is_dir() => FileType::Directory,
        _ if kind.is_symlink() => FileType::Symlink,
        _ if kind.is_fifo() => FileType::NamedPipe,
        _ => FileType::RegularFile,
    }
}

fn attributes(inode: u64, found: &Metadata) -> FileAttr {
    let time = found.modified().expect("time");
    FileAttr {
        ino: INodeNo(inode),
        size: found.size(),
        blocks: found.blocks(),
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind: kind(found),
        perm: (found.mode() & 0o7777) as u16,
        nlink: found.nlink() as u32,
        uid: found.uid(),
        gid: found.gid(),
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl Filesystem for Files {
    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.below(parent).find(|(_, entry)| entry.path.file_name() == Some(name)) {
            Some((inode, entry)) => reply.entry(&FOREVER, &attributes(inode, &entry.found), Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.get(ino) {
            Ok(entry) => reply.attr(&FOREVER, &attributes(ino.0, &entry.found)),
            Err(errno) => reply.error(errno),
        }
    }

    fn open(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match Files::read(self, ino, offset, size) {
            Ok(bytes) => reply.data(&bytes),
            Err(errno) => reply.error(errno),
        }
    }

    fn readdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let own =
            [(ino.0, FileType::Directory, OsStr::new(".")), (ino.0, FileType::Directory, OsStr::new(".."))];
        let below = self.below(ino);
        let below =
            below.filter_map(|(inode, entry)| Some((inode, kind(&entry.found), entry.path.file_name()?)));
        for (next, (inode, kind, name)) in (1..).zip(own.into_iter().chain(below)).skip(offset as usize) {
            if reply.add(INodeNo(inode), next, kind, name) {
                break;
            }
        }
        reply.ok();
    }
}
