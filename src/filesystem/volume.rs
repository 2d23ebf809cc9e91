//! The part of a disk that a filesystem fills.

use std::io;
use std::ops::Range;

use super::Result;
use crate::partition::ReadAt;
use crate::partition::bytes::Window;

/// Reads within its bounds only.
pub(super) struct Volume<'a> {
    disk: &'a (dyn ReadAt + Sync),
    start: u64,
    len: u64,
}

impl<'a> Volume<'a> {
    /// A range of a disk, cut at its end.
    pub(super) fn new(disk: &'a (dyn ReadAt + Sync), range: Range<u64>) -> Self {
        let start = range.start.min(disk.len());
        let end = range.end.clamp(start, disk.len());
        Self { disk, start, len: end - start }
    }

    /// Bytes.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// The same for parsers of other layers.
    pub(super) fn window(&self) -> Window<'a> {
        Window::part(self.disk, self.start, self.len)
    }

    /// Fills `buf` from `offset`.
    pub(super) fn fill(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        if buf.is_empty() {
            return Ok(());
        }
        let end = offset.checked_add(buf.len() as u64).filter(|end| *end <= self.len);
        if end.is_none() {
            let what = "the filesystem is longer than what holds it";
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, what).into());
        }
        Ok(self.disk.read_at(self.start + offset, buf)?)
    }

    /// `len` bytes from `offset`. The caller bounds `len`.
    pub(super) fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>> {
        if offset.checked_add(len as u64).is_none_or(|end| end > self.len) {
            self.fill(self.len, &mut [0])?;
        }
        let mut bytes = vec![0; len];
        self.fill(offset, &mut bytes)?;
        Ok(bytes)
    }
}
