//! What the archive before says of the same place.
//!
//! Most of a disk is as it was, where it was: the span map of the last archive of that name names most chunks of a span, so that few are looked up in the index.

use std::sync::Arc;

use super::create::{CreateOptions, OpenSource};
use super::reuse::newest;
use crate::image::Image;
use crate::image::maps::Maps;
use crate::repository::Repository;
use crate::repository::index::Places;

/// Memory for maps and nodes, in bytes: each map is used once, by one worker.
const CACHE: usize = 4 << 20;

/// An image of the last archive.
#[derive(Debug)]
pub(super) struct Earlier {
    maps: Maps,
    image: Image,
}

/// Gives each source the image that the last archive of the name has of it. What cannot be read is no help, and no harm.
pub(super) fn find_earlier(
    repository: &Arc<Repository>,
    options: &CreateOptions,
    sources: &mut [OpenSource],
) {
    let Ok(Some((_, record))) = newest(repository, &options.name) else { return };
    for source in sources {
        let member = record.members.iter().find(|member| member.name == source.name);
        source.earlier = member.map(|member| {
            let image = Image::of(member, repository.config().span_shift);
            Earlier { maps: Maps::new(repository.clone(), CACHE), image }
        });
    }
}

impl Earlier {
    /// Where chunks lie that this span had.
    pub(super) fn places(&self, span: u64) -> Places {
        let map = self.maps.span(&self.image, span).ok().flatten();
        let Some(map) = map else { return Places::default() };
        map.map.chunks.iter().zip(&map.locations).map(|(chunk, location)| (chunk.id, *location)).collect()
    }
}
