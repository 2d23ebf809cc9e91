//! Images as disks: their partition tables.

use crate::format::record::Member;
use crate::image::Image;
use crate::image::disk::Disk;
use crate::image::reader::ImageReader;
use crate::partition::{Table, read_table};

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
