//! Where an image is restored to: a new sparse file, or a block device.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};

use super::error::{Error, Result};
use crate::partition::{ReadAt, TableKind, read_table};

/// A place that takes bytes at offsets.
#[derive(Debug)]
pub enum Target {
    /// A file that appears under its name when it is whole.
    File {
        /// The temporary file beside it.
        file: tempfile::NamedTempFile,
        /// Its name to be.
        path: PathBuf,
        /// Whether a file of that name is replaced.
        force: bool,
    },
    /// A block device: holes must be written, for what it holds is not known to be zero.
    Device {
        /// The device.
        file: File,
        /// Its path.
        path: PathBuf,
    },
}

/// A device as something whose partition table can be read.
struct Device<'a>(&'a File, u64);

impl ReadAt for Device<'_> {
    fn len(&self) -> u64 {
        self.1
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(buf, offset)
    }
}

impl Target {
    /// Opens a target for an image of `size` bytes. With `force`, an existing file is replaced and a device that holds something overwritten.
    ///
    /// # Errors
    /// [`Error::Target`], [`Error::Io`].
    pub fn open(path: &Path, size: u64, force: bool) -> Result<Self> {
        match std::fs::metadata(path) {
            Ok(found) if found.file_type().is_block_device() => Self::open_device(path, size, force),
            Ok(found) if found.is_dir() => Err(refused(path, "is a directory; name a file in it")),
            Ok(found) if !found.is_file() => Err(refused(path, "is neither a file nor a block device")),
            Ok(_) if !force => Err(refused(path, "exists; give another name, or --force to replace it")),
            _ => Self::create_file(path, size, force),
        }
    }

    fn create_file(path: &Path, size: u64, force: bool) -> Result<Self> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let among_devices = std::fs::canonicalize(folder)
            .is_ok_and(|folder| folder.starts_with("/dev") && !folder.starts_with("/dev/shm"));
        if among_devices {
            return Err(refused(
                path,
                "is no device; check its name, since a file there would fill the memory",
            ));
        }
        let made = tempfile::Builder::new().prefix(".copal-").tempfile_in(folder);
        let file = made.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                refused(path, "cannot be made: its directory does not exist; make that first")
            }
            _ => failed("create", path)(error),
        })?;
        file.as_file().set_len(size).map_err(failed("size", path))?;
        Ok(Self::File { file, path: path.to_owned(), force })
    }

    fn open_device(path: &Path, size: u64, force: bool) -> Result<Self> {
        let exclusive = rustix::fs::OFlags::EXCL.bits() as i32;
        let opened = OpenOptions::new().read(true).write(true).custom_flags(exclusive).open(path);
        let file = match opened {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                return Err(refused(path, "is in use (mounted, or part of something); unmount it first"));
            }
            opened => opened.map_err(failed("open", path))?,
        };
        let room = io::Seek::seek(&mut &file, io::SeekFrom::End(0)).map_err(failed("measure", path))?;
        if room < size {
            let reason =
                format!("holds {room} bytes, the image has {size}: it is {} bytes too small", size - room);
            return Err(Error::Target { path: path.to_owned(), reason });
        }
        let table = read_table(&Device(&file, room), 0).map_err(failed("read", path))?;
        let holds = match (&table.kind, &table.filesystem) {
            (_, Some(filesystem)) => Some(format!("a {filesystem} signature")),
            (TableKind::None, None) => None,
            _ => Some("a partition table".to_owned()),
        };
        if let Some(holds) = holds.filter(|_| !force) {
            return Err(refused(path, &format!("holds {holds}; give --force to overwrite it")));
        }
        Ok(Self::Device { file, path: path.to_owned() })
    }

    /// Whether what it held is gone once writing has begun.
    #[must_use]
    pub fn is_device(&self) -> bool {
        matches!(self, Self::Device { .. })
    }

    fn file(&self) -> (&File, &Path) {
        match self {
            Self::File { file, path, .. } => (file.as_file(), path),
            Self::Device { file, path } => (file, path),
        }
    }

    /// Writes data.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let (file, path) = self.file();
        file.write_all_at(bytes, offset).map_err(failed("write", path))
    }

    /// Makes a range read as zeros: a new file's is already, a device's is zeroed, by discarding where that surely gives zeros.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn zero(&self, offset: u64, len: u64) -> Result<()> {
        let Self::Device { file, path } = self else { return Ok(()) };
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if fallocate(file, punch, offset, len).is_ok() {
            return Ok(());
        }
        if fallocate(file, FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE, offset, len).is_ok() {
            return Ok(());
        }
        static ZEROS: [u8; 1 << 20] = [0; 1 << 20];
        let mut at = offset;
        let end = offset + len;
        while at < end {
            let part = (end - at).min(ZEROS.len() as u64);
            file.write_all_at(&ZEROS[..part as usize], at).map_err(failed("write", path))?;
            at += part;
        }
        Ok(())
    }

    /// Makes everything durable, and a file appear under its name.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Target`] if a file of that name has come into being meanwhile.
    pub fn finish(self) -> Result<()> {
        let (file, path) = self.file();
        file.sync_all().map_err(failed("write", path))?;
        let Self::File { file, path, force } = self else { return Ok(()) };
        if force {
            file.persist(&path).map_err(|error| failed("write", &path)(error.error))?;
        } else {
            file.persist_noclobber(&path).map_err(|error| failed("create", &path)(error.error))?;
        }
        Ok(())
    }
}

fn refused(path: &Path, reason: &str) -> Error {
    Error::Target { path: path.to_owned(), reason: reason.to_owned() }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::Io { action, path, source }
}
