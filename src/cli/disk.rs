//! Images as disks: their partition tables.

use std::io;

use crate::format::record::Member;
use crate::image::Image;
use crate::image::reader::ImageReader;
use crate::partition::{ReadAt, Table, read_table};

/// An image as something whose partitions can be read.
struct Disk<'a>(&'a ImageReader, Image);

impl ReadAt for Disk<'_> {
    fn len(&self) -> u64 {
        self.1.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        match self.0.read_at(&self.1, offset, buf) {
            Ok(len) if len == buf.len() => Ok(()),
            Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) => Err(io::Error::other(error)),
        }
    }
}

/// The partitions of an image; damage there is told and no failure.
pub(super) fn table(reader: &ImageReader, member: &Member) -> Option<Table> {
    let disk = Disk(reader, Image::of(member, reader.repository().config().span_shift));
    match read_table(&disk, member.logical_sector) {
        Ok(table) => Some(table),
        Err(error) => {
            log::warn!("the partitions of {} cannot be read: {error}", member.name);
            None
        }
    }
}
