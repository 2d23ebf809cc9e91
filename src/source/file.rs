//! Opening regular files, and noticing that they changed.
//!
//! A file is opened without updating its access time where the system permits it (the owner and root may), since a
//! backup should leave no trace. The kernel is told that reading will be sequential.
//!
//! A file is *settled* if whatever is written to it from now on changes its times: then equal times mean equal content. Its times lie further back than any
//! file system's clock is coarse, are those of this machine's clock, and its pages are clean, so that a write through a mapping of it is noticed as well.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{Advice, OFlags, fadvise, fstatfs};

use super::{Seekable, SourceError, not_an_image};
use crate::format::record::FileState;
use crate::repository::now;

/// How long ago a file's times must lie, in ns: FAT counts in 2 s, everything else in 10 ms at most.
const COARSEST_CLOCK: i64 = 2_000_000_000;

/// Where files are pages of memory, one by one.
const TMPFS: u32 = 0x0102_1994;

/// File systems whose files' times are another machine's, or do not change with every write: NFS, NCP, SMB and CIFS, SMB2, 9P, Ceph, AFS, FUSE; tmpfs and ramfs,
/// which do not notice writes through mappings.
const TELL_NOTHING: [u32; 10] = [
    0x6969,
    0x517b,
    0xff53_4d42,
    0xfe53_4d42,
    0x0102_1997,
    0x00c3_6400,
    0x5346_414f,
    0x6573_5546,
    TMPFS,
    0x8584_58f6,
];

/// Opens the regular file at `path`.
pub(super) fn open(path: &Path) -> Result<Seekable, SourceError> {
    let error = |source| SourceError::opening(path, source);
    let file = open_quietly(path).map_err(error)?;
    // Before its times are looked at.
    let began = now();
    let metadata = file.metadata().map_err(error)?;
    if !metadata.is_file() {
        // It was replaced since its type was looked up.
        return Err(not_an_image(path, metadata.file_type()));
    }
    let absolute = std::path::absolute(path).map_err(error)?;
    // Advice that is refused changes nothing but speed.
    let _ = fadvise(&file, 0, None, Advice::Sequential);
    let fingerprint = Fingerprint::of(&metadata);
    let is_settled = fingerprint.is_settled(began) && settles(&file, &fingerprint);
    let may_have_holes = may_have_holes(&file, &metadata);
    Ok(Seekable::file(file, absolute, metadata.len(), fingerprint, is_settled, may_have_holes))
}

/// Whether to ask for holes. A search for one in tmpfs passes all pages on its way, 10 ms for each GiB before the first byte is read; a file there that has a page
/// for every byte has none. Elsewhere blocks count that were never written, and holes cost nothing to find.
fn may_have_holes(file: &File, metadata: &Metadata) -> bool {
    let is_in_memory = fstatfs(file).is_ok_and(|found| found.f_type as u32 == TMPFS);
    !is_in_memory || metadata.blocks().saturating_mul(512) < metadata.len()
}

/// Makes pages of a file clean that were written through a mapping, since only the first write to a clean page changes the file's times. False where times
/// tell nothing, and where that fails.
fn settles(file: &File, before: &Fingerprint) -> bool {
    let tells = fstatfs(file).is_ok_and(|found| {
        // The type is a signed word on some machines; only its lower half is used.
        !TELL_NOTHING.contains(&(found.f_type as u32))
    });
    tells && file.sync_data().is_ok() && file.metadata().is_ok_and(|now| Fingerprint::of(&now) == *before)
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

    /// Whether its times lie further before `now`, in ns since 1970, than any clock is coarse.
    fn is_settled(&self, now: i64) -> bool {
        let nanoseconds = |(seconds, rest): (i64, i64)| seconds.checked_mul(1_000_000_000)?.checked_add(rest);
        let lies_back = |time| {
            nanoseconds(time)
                .is_some_and(|time| time.checked_add(COARSEST_CLOCK).is_some_and(|time| time < now))
        };
        lies_back(self.modified) && lies_back(self.changed)
    }

    /// As archive records hold it.
    pub(super) fn state(&self) -> FileState {
        let nanoseconds =
            |(seconds, rest): (i64, i64)| seconds.wrapping_mul(1_000_000_000).wrapping_add(rest);
        FileState {
            device: self.device,
            inode: self.inode,
            modified: nanoseconds(self.modified),
            changed: nanoseconds(self.changed),
        }
    }

    /// Whether `file`, or what now stands at `path`, differs from this. What cannot be looked at counts as changed.
    pub(super) fn differs(&self, file: &File, path: &Path) -> bool {
        let same = |metadata: io::Result<Metadata>| metadata.is_ok_and(|now| Self::of(&now) == *self);
        !(same(file.metadata()) && same(fs::metadata(path)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_must_lie_back_further_than_clocks_are_coarse() {
        let at = |modified, changed| Fingerprint { device: 1, inode: 2, len: 3, modified, changed };
        let now = 100_000_000_000;
        assert!(at((97, 999_999_999), (97, 0)).is_settled(now));
        assert!(!at((98, 0), (97, 0)).is_settled(now), "it may be written to again within the same 2 s");
        assert!(!at((97, 0), (98, 0)).is_settled(now), "its times were set by hand just now");
        assert!(!at((500, 0), (97, 0)).is_settled(now), "the clock was set back");
        assert!(at((-5, 0), (0, 0)).is_settled(now));
        assert!(!at((i64::MAX, 0), (0, 0)).is_settled(now) && !at((0, 0), (i64::MIN, 0)).is_settled(now));
    }
}
