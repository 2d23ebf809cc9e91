//! Reads that leave nothing behind in the page cache, where the system has them: what is wanted once pushes out nothing that others want, and fresh pages cost
//! more than the bytes in them.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{Errno, ReadWriteFlags};

/// `RWF_DONTCACHE`, since Linux 6.14: pages that this read brings into the page cache leave it with the read. Those that are there before are read and stay.
const DONTCACHE: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);

/// Reads of files of one file system, which may not have such reads.
#[derive(Debug, Default)]
pub struct Uncached {
    keeps_pages: AtomicBool,
}

impl Uncached {
    /// Takes the file system for one that has no such reads, or may have them.
    #[cfg(test)]
    pub(super) fn set_keeps_pages(&self, keeps_pages: bool) {
        self.keeps_pages.store(keeps_pages, Ordering::Relaxed);
    }

    /// Reads bytes at an offset, as [`FileExt::read_at`].
    ///
    /// # Errors
    /// As [`FileExt::read_at`].
    pub fn read_at(&self, file: &File, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        if !self.keeps_pages.load(Ordering::Relaxed) {
            match rustix::io::preadv2(file, &mut [IoSliceMut::new(buf)], offset, DONTCACHE) {
                Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => {
                    self.keeps_pages.store(true, Ordering::Relaxed);
                }
                read => return Ok(read?),
            }
        }
        file.read_at(buf, offset)
    }
}
