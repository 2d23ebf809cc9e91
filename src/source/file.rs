//! Opening regular files, and noticing that they changed.
//!
//! A file is opened without updating its access time where the system permits it (the owner and root may), since a
//! backup should leave no trace. The kernel is told that reading will be sequential.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{Advice, OFlags, fadvise};

use super::{Seekable, SourceError, not_an_image};

/// Opens the regular file at `path`.
pub(super) fn open(path: &Path) -> Result<Seekable, SourceError> {
    let error = |source| SourceError::opening(path, source);
    let file = open_quietly(path).map_err(error)?;
    let metadata = file.metadata().map_err(error)?;
    if !metadata.is_file() {
        // It was replaced since its type was looked up.
        return Err(not_an_image(path, metadata.file_type()));
    }
    let absolute = std::path::absolute(path).map_err(error)?;
    // Advice that is refused changes nothing but speed.
    let _ = fadvise(&file, 0, None, Advice::Sequential);
    Ok(Seekable::file(file, absolute, metadata.len(), Fingerprint::of(&metadata)))
}

/// Opens for reading, without touching the access time if that is allowed.
fn open_quietly(path: &Path) -> io::Result<File> {
    let quiet = OFlags::NOATIME.bits().cast_signed();
    match OpenOptions::new().read(true).custom_flags(quiet).open(path) {
        // Only the owner and root may leave the access time alone.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => File::open(path),
        opened => opened,
    }
}

/// What tells one state of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fingerprint {
    device: u64,
    inode: u64,
    len: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Fingerprint {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            len: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether `file`, or what now stands at `path`, differs from this. What cannot be looked at counts as changed.
    pub(super) fn differs(&self, file: &File, path: &Path) -> bool {
        let same = |metadata: io::Result<Metadata>| metadata.is_ok_and(|now| Self::of(&now) == *self);
        !(same(file.metadata()) && same(fs::metadata(path)))
    }
}
