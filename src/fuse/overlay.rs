//! A writable layer over an image: what is written goes to a file of its own, and the repository stays as it is.
//!
//! The file is sparse and as long as the image; a block of 4 KiB that was written lies in it where it lies in the image, and everything else is
//! read from the image. Nobody else reaches the file: it has no name, unless it is to be kept ([`kept`]), and then mode 0600 and a lock.
//!
//! Invariants: a block counts as written only once all of it is in the file; the blocks of all layers of a mount are never more than its
//! [`Budget`]. Memory: 16 bytes for every 256 KiB in which something was written, at most 16 for each block, made when it is first written to; a
//! write needs no other.

mod kept;

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use super::errno::Errno;
use crate::id::ArchiveId;

/// The unit in which a layer covers its image: page size, and the block size of nearly all filesystems.
pub const BLOCK: u64 = 4096;
/// Blocks whose bits lie in one word.
const GROUP: u64 = u64::BITS as u64;

/// Where writable layers go, and how much may be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverlayOptions {
    /// The directory of files that are not kept.
    pub directory: PathBuf,
    /// The most bytes that may be written, of all members together.
    pub size: u64,
    /// Where to keep what was written; with several members, each name has the member's behind it.
    pub keep: Option<PathBuf>,
}

/// Why there is no writable layer.
#[derive(Debug, thiserror::Error)]
pub enum OverlayError {
    /// Writes would end up in memory, which the readers of the mount need.
    #[error("{path} is in memory ({filesystem}): give a directory on a disk with --overlay-dir")]
    InMemory {
        /// The directory.
        path: PathBuf,
        /// Its filesystem.
        filesystem: &'static str,
    },
    /// Nothing but Copal writes to a repository.
    #[error("{path} lies in the repository: give another directory with --overlay-dir or --keep-overlay")]
    InRepository {
        /// The directory.
        path: PathBuf,
    },
    /// A file that is there belongs to something else.
    #[error("{path} is not the overlay of this image: {reason}; give another name")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: &'static str,
    },
    /// Somebody uses it.
    #[error("{path} is in use by another mount")]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot make an overlay at {path}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl OverlayError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}

/// How many blocks may still be written.
#[derive(Debug)]
pub struct Budget(AtomicU64);

impl Budget {
    /// As many whole blocks as so many bytes have.
    #[must_use]
    pub fn of_bytes(bytes: u64) -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(bytes / BLOCK)))
    }

    fn take(&self, blocks: u64) -> Result<(), Errno> {
        let left = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(blocks));
        left.map(drop).map_err(|_| Errno::NO_SPACE)
    }

    fn give_back(&self, blocks: u64) {
        self.0.fetch_add(blocks, Ordering::Relaxed);
    }
}

/// The writable layer of one image.
#[derive(Debug)]
pub struct Overlay {
    file: File,
    /// Length of the image in bytes.
    len: u64,
    kept: bool,
    budget: Arc<Budget>,
    /// Which blocks lie in the file: a bit each, by groups of 64.
    written: RwLock<HashMap<u64, u64>>,
    /// Held while something is written.
    writing: Mutex<Writing>,
}

/// What a write needs, made before.
#[derive(Debug)]
struct Writing {
    block: Box<[u8; BLOCK as usize]>,
    /// Groups whose bits a kept file does not have yet.
    unsaved: HashSet<u64>,
}

/// Fills a buffer from an offset of the image beneath; all of it lies in the image.
pub type Beneath<'a> = &'a dyn Fn(u64, &mut [u8]) -> Result<(), Errno>;

impl Overlay {
    /// A layer over an image of `len` bytes that is gone when the mount is.
    ///
    /// # Errors
    /// [`OverlayError`].
    pub fn discarded(directory: &Path, len: u64, budget: &Arc<Budget>) -> Result<Self, OverlayError> {
        check_directory(directory)?;
        let file = tempfile::tempfile_in(directory).map_err(OverlayError::io(directory))?;
        Ok(Self::over(file, len, false, budget, HashMap::new()))
    }

    /// A layer over a member of an archive, in a file that stays and is used again the next time.
    ///
    /// # Errors
    /// [`OverlayError`].
    pub fn kept(
        path: &Path,
        archive: ArchiveId,
        member: u32,
        len: u64,
        budget: &Arc<Budget>,
    ) -> Result<Self, OverlayError> {
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        check_directory(directory.unwrap_or(Path::new(".")))?;
        let (file, written) = kept::open(path, &kept::Header { archive, member, len })?;
        let blocks = written.values().map(|bits| u64::from(bits.count_ones())).sum();
        budget.take(blocks).map_err(|_| OverlayError::Io {
            path: path.to_owned(),
            source: io::Error::other("it holds more than --overlay-size allows; give a larger size"),
        })?;
        Ok(Self::over(file, len, true, budget, written))
    }

    fn over(file: File, len: u64, kept: bool, budget: &Arc<Budget>, written: HashMap<u64, u64>) -> Self {
        let writing = Writing { block: Box::new([0; BLOCK as usize]), unsaved: HashSet::new() };
        let (written, writing) = (RwLock::new(written), Mutex::new(writing));
        Self { file, len, kept, budget: budget.clone(), written, writing }
    }

    /// Fills `buf`, all of which lies in the image, from byte `offset`.
    ///
    /// # Errors
    /// Those of the image, [`Errno::IO`].
    pub fn read(&self, offset: u64, buf: &mut [u8], beneath: Beneath<'_>) -> Result<(), Errno> {
        let mut rest = buf;
        let mut at = offset;
        while !rest.is_empty() {
            let (written, end) = self.run(at, at + rest.len() as u64);
            let (part, more) = rest.split_at_mut((end - at) as usize);
            if written {
                self.file.read_exact_at(part, at).map_err(|error| failed("read", &error))?;
            } else {
                beneath(at, part)?;
            }
            (rest, at) = (more, end);
        }
        Ok(())
    }

    /// Whether the block at `at` was written, and how far, up to `end`, the same holds.
    fn run(&self, at: u64, end: u64) -> (bool, u64) {
        let written = self.written.read();
        let is_written = |block: u64| has(&written, block);
        let first = is_written(at / BLOCK);
        let other = (at / BLOCK + 1..end.div_ceil(BLOCK)).find(|block| is_written(*block) != first);
        (first, other.map_or(end, |block| block * BLOCK))
    }

    /// Writes `data` at byte `offset`. After an error, any part of it may be there.
    ///
    /// # Errors
    /// [`Errno::NO_SPACE`] behind the image's end, beyond the budget, or if the disk is full; those of the image, where a part of a block is written.
    pub fn write(&self, offset: u64, data: &[u8], beneath: Beneath<'_>) -> Result<(), Errno> {
        let end = offset.checked_add(data.len() as u64).filter(|end| *end <= self.len);
        let Some(end) = end else { return Err(Errno::NO_SPACE) };
        let Writing { block, unsaved } = &mut *self.writing.lock();
        let mut at = offset;
        while at < end {
            let start = at - at % BLOCK;
            // Whole blocks together, parts of blocks one by one.
            let is_whole = at == start && end - at >= BLOCK;
            let to = if is_whole { end - end % BLOCK } else { end.min(start + BLOCK) };
            let part = &data[(at - offset) as usize..(to - offset) as usize];
            if is_whole || has(&self.written.read(), start / BLOCK) {
                self.put(unsaved, at, part)?;
            } else {
                // The rest of the block comes from the image, as far as that goes.
                let used = (self.len - start).min(BLOCK) as usize;
                block[used..].fill(0);
                beneath(start, &mut block[..used])?;
                block[(at - start) as usize..(to - start) as usize].copy_from_slice(part);
                self.put(unsaved, start, &block[..])?;
            }
            at = to;
        }
        Ok(())
    }

    /// Writes whole blocks, or a part of one that is in the file.
    fn put(&self, unsaved: &mut HashSet<u64>, at: u64, data: &[u8]) -> Result<(), Errno> {
        let blocks = at / BLOCK..(at + data.len() as u64).div_ceil(BLOCK);
        let new = {
            let written = self.written.read();
            blocks.clone().filter(|block| !has(&written, *block)).count() as u64
        };
        self.budget.take(new)?;
        if let Err(error) = self.file.write_all_at(data, at) {
            self.budget.give_back(new);
            return Err(failed("write", &error));
        }
        if new > 0 {
            let mut written = self.written.write();
            for block in blocks {
                *written.entry(block / GROUP).or_default() |= 1 << (block % GROUP);
                if self.kept {
                    unsaved.insert(block / GROUP);
                }
            }
        }
        Ok(())
    }

    /// Makes what was written last, if it is to be kept; what is discarded need not.
    ///
    /// # Errors
    /// [`Errno::IO`], [`Errno::NO_SPACE`].
    pub fn sync(&self) -> Result<(), Errno> {
        if !self.kept {
            return Ok(());
        }
        let unsaved = &mut self.writing.lock().unsaved;
        // Bits must not be there before their blocks.
        self.file.sync_data().map_err(|error| failed("sync", &error))?;
        if unsaved.is_empty() {
            return Ok(());
        }
        let written = self.written.read();
        let groups = unsaved.iter().map(|group| (*group, written.get(group).copied().unwrap_or(0)));
        let saved = kept::save(&self.file, self.len, groups).and_then(|()| self.file.sync_data());
        saved.map_err(|error| failed("sync", &error))?;
        unsaved.clear();
        Ok(())
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        // What failed was logged.
        let _ = self.sync();
    }
}

fn has(written: &HashMap<u64, u64>, block: u64) -> bool {
    written.get(&(block / GROUP)).is_some_and(|bits| bits >> (block % GROUP) & 1 == 1)
}

fn failed(what: &str, error: &io::Error) -> Errno {
    log::error!("cannot {what} the overlay: {error}");
    match error.raw_os_error() {
        // A file as long as the image may be longer than its filesystem allows.
        Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => Errno::NO_SPACE,
        _ => Errno::IO,
    }
}

/// Only a disk will do: what is written to memory takes it from those who read.
fn check_directory(path: &Path) -> Result<(), OverlayError> {
    const TMPFS: i64 = 0x0102_1994;
    const RAMFS: i64 = 0x8584_58f6;
    let found = rustix::fs::statfs(path).map_err(io::Error::from).map_err(OverlayError::io(path))?;
    let filesystem = match found.f_type & 0xffff_ffff {
        TMPFS => "tmpfs",
        RAMFS => "ramfs",
        _ => return Ok(()),
    };
    Err(OverlayError::InMemory { path: path.to_owned(), filesystem })
}

#[cfg(test)]
mod tests;
