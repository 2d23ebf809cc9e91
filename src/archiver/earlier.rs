//! What the archive before says of the same place.
//!
//! Most of a disk is as it was, where it was: the span map of the last archive of that name names most chunks of a span, so that few are looked up in the index.

use std::sync::Arc;

use crate::format::name::ArchiveName;
use crate::image::Image;
use crate::image::maps::Maps;
use crate::repository::Repository;
use crate::repository::archives::{chain, list_archives, read_record};
use crate::repository::index::Places;

/// Memory for maps and nodes, in bytes: each map is used once, by one worker.
const CACHE: usize = 4 << 20;

/// An image of the last archive.
#[derive(Debug)]
pub(super) struct Earlier {
    maps: Maps,
    image: Image,
}

impl Earlier {
    /// The images of the newest archive of this name, for members of these names. What cannot be read is no help, and no harm.
    pub(super) fn of(
        repository: &Arc<Repository>,
        name: &ArchiveName,
        members: &[&ArchiveName],
    ) -> Vec<Option<Self>> {
        let nothing = || members.iter().map(|_| None).collect();
        let listed = list_archives(repository.objects()).unwrap_or_default();
        let Some(last) = listed.iter().rev().find(|archive| archive.name == *name) else { return nothing() };
        let record = match read_record(repository.objects(), last.id()) {
            Ok(record) => record,
            Err(error) => {
                log::info!("the archive before cannot be read: {}", chain(&error));
                return nothing();
            }
        };
        let image = |member: &&ArchiveName| {
            let member = record.members.iter().find(|elder| elder.name == **member)?;
            let image = Image::of(member, repository.config().span_shift);
            Some(Self { maps: Maps::new(repository.clone(), CACHE), image })
        };
        members.iter().map(image).collect()
    }

    /// Where chunks lie that this span had.
    pub(super) fn places(&self, span: u64) -> Places {
        let map = self.maps.span(&self.image, span).ok().flatten();
        let Some(map) = map else { return Places::default() };
        map.map.chunks.iter().zip(&map.locations).map(|(chunk, location)| (chunk.id, *location)).collect()
    }
}
