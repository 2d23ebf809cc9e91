//! An image as a disk: something whose partitions and filesystems can be read.

use std::io;

use super::Image;
use super::reader::ImageReader;

/// An image, read at offsets through the caches of its reader.
#[derive(Debug, Clone, Copy)]
pub struct Disk<'a>(pub &'a ImageReader, pub Image);

impl Disk<'_> {
    /// Its size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.1.size
    }

    /// Fills all of `buf` from byte `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` beyond the end; [`crate::repository::Error`] in an `Other`, if any of these bytes cannot be had.
    pub fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        match self.0.read_at(&self.1, offset, buf) {
            Ok(len) if len == buf.len() => Ok(()),
            Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) => Err(io::Error::other(error)),
        }
    }
}
