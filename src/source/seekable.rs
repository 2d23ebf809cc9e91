//! Reading a file or a block device at offsets, from many threads at once.
//!
//! Invariants: a read fills its whole buffer or fails; the length never changes after open; a byte is reported as
//! lying in a hole only if the filesystem said so while the file had its full length.
//!
//! Reads are positional (`pread`) and never use the descriptor's own position, which the search for holes moves.

use std::fs::File;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use rustix::fs::{Advice, SeekFrom, fadvise, seek};
use rustix::io::Errno;

use super::device::DeviceFacts;
use super::file::Fingerprint;
use super::{SourceError, SourceKind};
use crate::format::record::FileState;
use crate::storage::uncached::Uncached;

/// A source with a length, read at offsets by any number of threads.
#[derive(Debug)]
pub struct Seekable {
    file: File,
    path: PathBuf,
    len: u64,
    origin: Origin,
    /// Whether asking for holes is worth it; also keeps one thread's seek from interleaving with another's.
    finds_holes: Mutex<bool>,
    uncached: Uncached,
}

#[derive(Debug)]
enum Origin {
    File { before: Fingerprint, is_settled: bool },
    Device(DeviceFacts),
}

impl Seekable {
    pub(super) fn file(
        file: File,
        path: PathBuf,
        len: u64,
        before: Fingerprint,
        is_settled: bool,
        may_have_holes: bool,
    ) -> Self {
        Self::new(file, path, len, Origin::File { before, is_settled }, may_have_holes)
    }

    pub(super) fn device(file: File, path: PathBuf, len: u64, facts: DeviceFacts) -> Self {
        Self::new(file, path, len, Origin::Device(facts), false)
    }

    fn new(file: File, path: PathBuf, len: u64, origin: Origin, finds_holes: bool) -> Self {
        Self { file, path, len, origin, finds_holes: Mutex::new(finds_holes), uncached: Uncached::default() }
    }

    /// Its length in bytes when it was opened.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Fills all of `buf` from byte `offset`.
    ///
    /// # Errors
    /// [`SourceError::Shrank`] if it ends too early, [`SourceError::Read`] with the first unreadable byte,
    /// [`SourceError::OutOfRange`] if the range goes beyond [`Self::len`]. `buf` then holds nothing of use.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), SourceError> {
        let wanted = buf.len();
        if offset.checked_add(wanted as u64).is_none_or(|end| end > self.len) {
            return Err(SourceError::OutOfRange { path: self.path.clone(), offset, wanted, len: self.len });
        }
        let mut filled = 0;
        while filled < wanted {
            let at = offset + filled as u64;
            match self.uncached.read_at(&self.file, at, &mut buf[filled..]) {
                Ok(0) => {
                    return Err(SourceError::Shrank {
                        path: self.path.clone(),
                        offset: at,
                        expected: self.len,
                    });
                }
                Ok(count) => filled += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(source) => return Err(SourceError::Read { path: self.path.clone(), offset: at, source }),
            }
        }
        Ok(())
    }

    /// The first range of bytes at or after `from` that may hold data; `None` if only a hole follows.
    ///
    /// What lies between is a hole, which reads as zeros. Block devices, and filesystems that do not tell, are all
    /// data. Nothing beyond [`Self::len`] is reported. A file that shrank has data where it used to be, so that
    /// reading there tells of it.
    #[must_use]
    pub fn data_ranges(&self, from: u64) -> Option<Range<u64>> {
        if from >= self.len {
            return None;
        }
        let mut finds_holes = self.finds_holes.lock();
        if !*finds_holes {
            return Some(from..self.len);
        }
        let start = match seek(&self.file, SeekFrom::Data(from)) {
            Ok(start) => start.max(from),
            Err(Errno::NXIO) => return self.lost_tail(from),
            Err(_) => {
                *finds_holes = false;
                return Some(from..self.len);
            }
        };
        if start >= self.len {
            return None;
        }
        let end = match seek(&self.file, SeekFrom::Hole(start)) {
            Ok(end) if end > start => end.min(self.len),
            _ => self.len,
        };
        Some(start..end)
    }

    /// The system knows of no data after `from`: either that is a hole, or the file has lost its end.
    fn lost_tail(&self, from: u64) -> Option<Range<u64>> {
        let now = self.file.metadata().map_or(0, |metadata| metadata.len());
        (now < self.len).then(|| now.max(from)..self.len)
    }

    /// Tells the system that the pages of `range` are not needed again. Best effort; they leave the page cache even
    /// if another process would have liked to find them there.
    pub fn drop_behind(&self, range: Range<u64>) {
        if let Some(len) = range.end.checked_sub(range.start).and_then(NonZeroU64::new) {
            let _ = fadvise(&self.file, range.start, Some(len), Advice::DontNeed);
        }
    }

    /// Whether a regular file was written to, resized or replaced since it was opened. Always false for a block
    /// device, which does not tell.
    #[must_use]
    pub fn changed_since_open(&self) -> bool {
        matches!(&self.origin, Origin::File { before, .. } if before.differs(&self.file, &self.path))
    }

    /// The regular file that was opened, as long as equal states of it mean equal content: not if it was written to in the last moments, or lies where times
    /// tell nothing.
    #[must_use]
    pub fn settled_state(&self) -> Option<FileState> {
        match &self.origin {
            Origin::File { before, is_settled: true } => Some(before.state()),
            _ => None,
        }
    }

    /// Looks whether nobody writes to it: no process, no mount, no device that is stacked upon it.
    ///
    /// # Errors
    /// Who may, as the end of a sentence.
    pub fn check_stillness(&self) -> Result<(), String> {
        super::stillness::check(self, &self.file)
    }

    /// A file or a device.
    #[must_use]
    pub fn kind(&self) -> SourceKind {
        match self.origin {
            Origin::File { .. } => SourceKind::File,
            Origin::Device(_) => SourceKind::Device,
        }
    }

    /// Its absolute path; symbolic links are not resolved.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The bytes of [`Self::path`].
    #[must_use]
    pub fn path_bytes(&self) -> &[u8] {
        self.path.as_os_str().as_bytes()
    }

    /// The logical sector size in bytes; 0 unknown.
    #[must_use]
    pub fn logical_sector(&self) -> u32 {
        self.facts().map_or(0, |facts| facts.logical_sector)
    }

    /// The physical sector size in bytes; 0 unknown.
    #[must_use]
    pub fn physical_sector(&self) -> u32 {
        self.facts().map_or(0, |facts| facts.physical_sector)
    }

    /// Whether it is a block device that somebody else had claimed when it was opened.
    #[must_use]
    pub fn in_use(&self) -> bool {
        self.facts().is_some_and(|facts| facts.in_use)
    }

    fn facts(&self) -> Option<&DeviceFacts> {
        match &self.origin {
            Origin::File { .. } => None,
            Origin::Device(facts) => Some(facts),
        }
    }
}
