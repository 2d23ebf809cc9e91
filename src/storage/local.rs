//! Objects as files below one directory.
//!
//! An object `packs/ab/cd` is the file of that path. Every path is walked one component at a time from a descriptor
//! of the root, and no symbolic link below the root is followed: a hostile repository cannot point outside itself,
//! and moving the root or mounting over it does not turn a running process's lists into empty ones.
//!
//! Invariants: a file under its final name is complete and was synced before it got that name. Files being written
//! live in `tmp/` under names that break the [`Name`] grammar, so no object is ever one of them. Opening and reading
//! write nothing. Anything but a file or a directory under a name that keeps the grammar is an error, also to a list,
//! which could otherwise miss what hides behind it. Directories are made on demand and never removed.
//!
//! What it does not do: it cannot hold both `a` and `a/b` (the second put fails). It holds nothing under `tmp/`. It
//! deletes temporary files that a crash left only when told to. It takes the medium's word on durability. On network file
//! systems, whose clients cache directories, its settle time is unknown.

mod descriptors;
mod durable;
mod tree;

use self::descriptors::Descriptors;
use self::durable::Growing;
use self::tree::Tree;
use super::uncached::Uncached;
use super::{Begun, FolderMark, Listed, Name, Settle, Storage};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::{Errno, ReadWriteFlags};
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Where files are written before they are published.
const TMP: &str = "tmp";
/// Begins the names of files in `tmp/`; the underscore keeps them out of the [`Name`] grammar.
const TMP_PREFIX: &str = "put_";
/// What a new file system has in its root directory; it does not make that directory a used one.
const LOST_AND_FOUND: &[u8] = b"lost+found";

/// Non-blocking, so that a pipe in an object's place is refused instead of waited for.
const OPEN_OBJECT: OFlags =
    OFlags::NOFOLLOW.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK).union(OFlags::NOCTTY);

/// Breaks the grammar, in place of what is no text.
const NO_NAME: &str = "?";

/// A read that long is of many blobs at once, in bytes.
const LONG_READ: usize = 256 << 10;

/// Keeps objects in a local directory.
///
/// Ranged reads share up to 64 open descriptors. One of a file that another process has since deleted or replaced may
/// go on showing the old bytes; since objects are immutable, these are what the name meant when a reader learned of
/// it.
#[derive(Debug)]
pub struct LocalStorage {
    path: PathBuf,
    tree: Tree,
    descriptors: Descriptors,
    uncached: Uncached,
}

impl LocalStorage {
    /// Opens `path` for a new repository, making the directory, but not its parents, if it is missing.
    ///
    /// # Errors
    /// `DirectoryNotEmpty` if it holds anything but a `lost+found`; the medium's.
    pub fn create(path: &Path) -> io::Result<Self> {
        match tree::make_root(path) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        let storage = Self::open(path)?;
        for entry in storage.tree.root_entries()? {
            if entry?.file_name().to_bytes() != LOST_AND_FOUND {
                let message = format!("{} is not empty", path.display());
                return Err(io::Error::new(ErrorKind::DirectoryNotEmpty, message));
            }
        }
        storage.tree.make(TMP)?;
        Ok(storage)
    }

    /// Opens an existing directory. Writes nothing, and does not look at what is in it.
    ///
    /// # Errors
    /// `NotFound`, `NotADirectory`, or the medium's.
    pub fn open(path: &Path) -> io::Result<Self> {
        let tree = Tree::open(path)?;
        Ok(Self {
            path: path.to_owned(),
            tree,
            descriptors: Descriptors::default(),
            uncached: Uncached::default(),
        })
    }

    /// The directory, as it was given.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Lists the files of interrupted puts that were last written at least `older_than` ago. A younger one may belong
    /// to a put that is still running. Ages compare this machine's clock with the medium's.
    ///
    /// # Errors
    /// The medium's.
    pub fn stale_temporaries(&self, older_than: Duration) -> io::Result<Vec<PathBuf>> {
        let tmp = match self.tree.find(TMP) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            tmp => tmp?,
        };
        let mut stale = Vec::new();
        for entry in tree::entries(&tmp)? {
            let entry = entry?.file_name().to_string_lossy().into_owned();
            if !entry.starts_with(TMP_PREFIX) {
                continue;
            }
            let path = self.path.join(TMP).join(entry);
            let written = match path.symlink_metadata() {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                metadata => metadata?.modified()?,
            };
            if SystemTime::now().duration_since(written).is_ok_and(|age| age >= older_than) {
                stale.push(path);
            }
        }
        stale.sort();
        Ok(stale)
    }

    fn open_object(&self, name: &Name) -> io::Result<(File, u64)> {
        let (dir, file) = split(name);
        let dir = self.tree.find(dir)?;
        let file = rustix::fs::openat(&dir, file, OPEN_OBJECT, Mode::empty())?;
        let len = object_len(name, &rustix::fs::fstat(&file)?)?;
        Ok((file.into(), len))
    }

    /// Fills `buf`. Long reads leave nothing behind in the page cache: their bytes are wanted once.
    fn fill(&self, file: &File, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        if buf.len() < LONG_READ {
            return file.read_exact_at(buf, offset);
        }
        let mut filled = 0;
        while filled < buf.len() {
            match self.uncached.read_at(file, offset + filled as u64, &mut buf[filled..]) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(read) => filled += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes of everything beneath a prefix that is not a directory what is asked for, unless it is gone.
    fn walk<T>(&self, prefix: &str, take: impl Fn(Entry<'_>) -> io::Result<Option<T>>) -> io::Result<Vec<T>> {
        let mut taken = Vec::new();
        if Name::new(prefix).is_none() || is_reserved(prefix) {
            return Ok(taken);
        }
        let mut dirs = vec![prefix.to_owned()];
        while let Some(path) = dirs.pop() {
            let dir = match self.tree.find(&path) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                dir => dir?,
            };
            let mut text = path + "/";
            let folder = text.len();
            for entry in tree::entries(&dir)? {
                let entry = entry?;
                text.truncate(folder);
                text.push_str(entry.file_name().to_str().unwrap_or(NO_NAME));
                let Some(name) = Name::new(&text) else { continue };
                let mut entry = Entry { dir: &dir, file: entry.file_name(), name, kind: entry.file_type() };
                if entry.kind == FileType::Unknown {
                    let Some(stat) = entry.stat()? else { continue };
                    entry.kind = FileType::from_raw_mode(stat.st_mode);
                }
                if entry.kind == FileType::Directory {
                    dirs.push(entry.name.as_str().to_owned());
                } else {
                    taken.extend(take(entry)?);
                }
            }
        }
        Ok(taken)
    }
}

/// What a directory has under a name that keeps the grammar.
struct Entry<'a> {
    dir: &'a OwnedFd,
    file: &'a CStr,
    name: Name,
    /// As the directory says.
    kind: FileType,
}

impl Entry<'_> {
    /// `None` if it is gone.
    fn stat(&self) -> io::Result<Option<Stat>> {
        match rustix::fs::statat(self.dir, self.file, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(None),
            stat => Ok(Some(stat?)),
        }
    }
}

/// `None` if it is gone.
fn listed(entry: Entry<'_>) -> io::Result<Option<Listed>> {
    let len = entry.stat()?.map(|stat| object_len(&entry.name, &stat)).transpose()?;
    Ok(len.map(|len| Listed { name: entry.name, len }))
}

/// A name, for which a regular file is not looked at. `None` if it is gone.
fn named(entry: Entry<'_>) -> io::Result<Option<Name>> {
    if entry.kind == FileType::RegularFile {
        return Ok(Some(entry.name));
    }
    Ok(listed(entry)?.map(|listed| listed.name))
}

impl Storage for LocalStorage {
    fn read(&self, name: &Name, limit: u64) -> io::Result<Vec<u8>> {
        let (file, len) = self.open_object(name)?;
        if len > limit {
            let message = format!("{name} has {len} bytes, more than {limit}");
            return Err(io::Error::new(ErrorKind::InvalidData, message));
        }
        let len = usize::try_from(len).map_err(|_| ErrorKind::OutOfMemory)?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len)?;
        bytes.resize(len, 0);
        file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    fn read_range(&self, name: &Name, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let file = self.descriptors.get(name, || self.open_object(name).map(|(file, _)| file))?;
        // The kernel refuses offsets beyond i64 with another error, and an empty read never reaches it.
        let end = offset.checked_add(buf.len() as u64).filter(|end| i64::try_from(*end).is_ok());
        match end {
            None => Err(ends_early(name)),
            Some(end) if buf.is_empty() && end > file.metadata()?.len() => Err(ends_early(name)),
            Some(_) => self.fill(&file, offset, buf).inspect_err(|_| self.descriptors.forget(name)),
        }
    }

    fn read_if_cached(&self, name: &Name, offset: u64, buf: &mut [u8]) -> bool {
        // Opening a file may have to wait. What an empty read says is left to the other way.
        let Some(file) = self.descriptors.held(name).filter(|_| !buf.is_empty()) else { return false };
        let len = buf.len();
        let read =
            rustix::io::preadv2(&file, &mut [io::IoSliceMut::new(buf)], offset, ReadWriteFlags::NOWAIT);
        read == Ok(len)
    }

    fn gains_from_threads(&self) -> bool {
        true
    }

    fn len(&self, name: &Name) -> io::Result<u64> {
        let (dir, file) = split(name);
        let dir = self.tree.find(dir)?;
        object_len(name, &rustix::fs::statat(&dir, file, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    fn put(&self, name: &Name, parts: &[&[u8]]) -> io::Result<()> {
        if is_reserved(name.as_str()) {
            return Err(io::Error::new(ErrorKind::InvalidInput, format!("{name} is a reserved name")));
        }
        let (dir, file) = split(name);
        let dir = self.tree.make(dir)?;
        let tmp = self.tree.make(TMP)?;
        let temporary = temporary_name()?;
        let published = durable::write_new(&tmp, &temporary, parts)
            .and_then(|()| Ok(rustix::fs::renameat(&tmp, &temporary, &dir, file)?));
        if let Err(error) = published {
            // The first error is the one to report; what stays behind is listed as stale.
            let _ = rustix::fs::unlinkat(&tmp, &temporary, AtFlags::empty());
            return Err(error);
        }
        self.descriptors.forget(name);
        tree::sync(&dir)
    }

    fn begin_put(&self) -> io::Result<Option<Box<dyn Begun + '_>>> {
        let tmp = self.tree.make(TMP)?;
        let temporary = temporary_name()?;
        let file = Growing::create(&tmp, &temporary)?;
        Ok(Some(Box::new(BegunFile { storage: self, tmp, temporary, file, published: false })))
    }

    fn list(&self, prefix: &str) -> io::Result<Vec<Listed>> {
        let mut found = self.walk(prefix, listed)?;
        found.sort_unstable();
        // A directory that changes while it is read may return an entry twice.
        found.dedup_by(|a, b| a.name == b.name);
        Ok(found)
    }

    fn names(&self, prefix: &str) -> io::Result<Vec<Name>> {
        self.walk(prefix, named)
    }

    fn folder_mark(&self, folder: &str) -> Option<FolderMark> {
        self.tree.mark(folder)
    }

    fn delete(&self, name: &Name) -> io::Result<()> {
        let (dir, file) = split(name);
        let dir = self.tree.find(dir)?;
        match rustix::fs::unlinkat(&dir, file, AtFlags::empty()) {
            Err(Errno::ISDIR) => return Err(ErrorKind::NotFound.into()),
            unlinked => unlinked?,
        }
        self.descriptors.forget(name);
        tree::sync(&dir)
    }

    fn clear_unpublished(&self, older_than: Duration) -> io::Result<u64> {
        let stale = self.stale_temporaries(older_than)?;
        if stale.is_empty() {
            return Ok(0);
        }
        let tmp = self.tree.find(TMP)?;
        let mut cleared = 0;
        for name in stale.iter().filter_map(|path| path.file_name()) {
            match rustix::fs::unlinkat(&tmp, name, AtFlags::empty()) {
                Ok(()) => cleared += 1,
                // Somebody else was faster.
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(cleared)
    }

    fn settle(&self) -> Settle {
        if self.tree.lists_are_exact() { Settle::After(Duration::ZERO) } else { Settle::Unknown }
    }

    fn describe(&self) -> String {
        self.path.display().to_string()
    }
}

/// An object that is being written.
struct BegunFile<'a> {
    storage: &'a LocalStorage,
    tmp: OwnedFd,
    temporary: String,
    file: Growing,
    published: bool,
}

impl Begun for BegunFile<'_> {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.append(bytes)
    }

    fn publish(&mut self, name: &Name, last: &[&[u8]]) -> io::Result<()> {
        if is_reserved(name.as_str()) {
            return Err(io::Error::new(ErrorKind::InvalidInput, format!("{name} is a reserved name")));
        }
        let (dir, file) = split(name);
        let dir = self.storage.tree.make(dir)?;
        if !self.published {
            self.file.finish(last)?;
            rustix::fs::renameat(&self.tmp, &self.temporary, &dir, file)?;
            self.published = true;
            self.storage.descriptors.forget(name);
        }
        // Which is all that is left, should it have failed before.
        tree::sync(&dir)
    }

    fn touch(&self) -> io::Result<()> {
        self.file.touch()
    }
}

impl Drop for BegunFile<'_> {
    fn drop(&mut self) {
        if !self.published {
            // What stays behind is listed as stale.
            let _ = rustix::fs::unlinkat(&self.tmp, &self.temporary, AtFlags::empty());
        }
    }
}

/// Splits a name into its directory, empty for the root, and its last segment.
fn split(name: &Name) -> (&str, &str) {
    name.as_str().rsplit_once('/').unwrap_or(("", name.as_str()))
}

fn is_reserved(name: &str) -> bool {
    tree::segments(name).next() == Some(TMP)
}

/// The length of an object from what the kernel says of its path. A directory is no object; other things have no
/// business there.
fn object_len(name: &Name, stat: &Stat) -> io::Result<u64> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => u64::try_from(stat.st_size).map_err(io::Error::other),
        FileType::Directory => Err(ErrorKind::NotFound.into()),
        other => Err(io::Error::other(format!("{name} is not a regular file but a {other:?}"))),
    }
}

/// Makes a name that no other put uses, on whatever machine.
fn temporary_name() -> io::Result<String> {
    let [high, low] = [getrandom::u64()?, getrandom::u64()?];
    Ok(format!("{TMP_PREFIX}{high:016x}{low:016x}"))
}

fn ends_early(name: &Name) -> io::Error {
    io::Error::new(ErrorKind::UnexpectedEof, format!("{name} ends early"))
}

#[cfg(test)]
mod tests;
