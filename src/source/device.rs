//! Opening block devices.
//!
//! `O_EXCL` on a block device claims it against mounts, device mapper and other claims, for as long as it is open.
//! Where somebody else holds it already, it is opened plainly and [`Seekable::in_use`] remembers that, because a
//! device that changes while it is read gives a backup that is no single instant. A plain writer (`dd`, a database
//! on the raw device) claims nothing and goes unnoticed.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{Advice, OFlags, SeekFrom, fadvise, ioctl_blkpbszget, ioctl_blksszget, seek};

use super::{Seekable, SourceError, not_an_image};

/// What only block devices know of themselves.
#[derive(Debug, Clone, Copy)]
pub(super) struct DeviceFacts {
    /// Logical sector size in bytes; 0 unknown.
    pub(super) logical_sector: u32,
    /// Physical sector size in bytes; 0 unknown.
    pub(super) physical_sector: u32,
    /// Somebody else had claimed it.
    pub(super) in_use: bool,
}

/// Opens the block device at `path`.
pub(super) fn open(path: &Path) -> Result<Seekable, SourceError> {
    let error = |source| SourceError::opening(path, source);
    let (file, in_use) = open_claiming(path).map_err(error)?;
    let found = file.metadata().map_err(error)?.file_type();
    if !found.is_block_device() {
        // It was replaced since its type was looked up.
        return Err(not_an_image(path, found));
    }
    let len = seek(&file, SeekFrom::End(0)).map_err(|errno| error(errno.into()))?;
    if len == 0 {
        return Err(SourceError::NoMedium { path: path.to_owned() });
    }
    let facts = DeviceFacts {
        logical_sector: ioctl_blksszget(&file).unwrap_or(0),
        physical_sector: ioctl_blkpbszget(&file).unwrap_or(0),
        in_use,
    };
    let absolute = std::path::absolute(path).map_err(error)?;
    // Advice that is refused changes nothing but speed.
    let _ = fadvise(&file, 0, None, Advice::Sequential);
    Ok(Seekable::device(file, absolute, len, facts))
}

/// Opens with a claim, or without one if somebody else has it; says which.
fn open_claiming(path: &Path) -> io::Result<(File, bool)> {
    let claim = OFlags::EXCL.bits().cast_signed();
    match OpenOptions::new().read(true).custom_flags(claim).open(path) {
        Ok(file) => Ok((file, false)),
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            File::open(path).map(|file| (file, true))
        }
        Err(error) => Err(error),
    }
}
