//! What the archive before says of the same place.
//!
//! Most of a disk is as it was, where it was: the span map of the last archive of that name names most chunks of a span, so that few are looked up in the index,
//! and tells where they end.

use std::sync::Arc;

use super::create::{CreateOptions, OpenSource};
use super::cutter::FormerCuts;
use super::reuse::newest;
use super::span::Store;
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
    /// Whether it was cut as the new one is.
    is_cut_alike: bool,
}

/// What is known of a span from before. Nothing of it need be true.
#[derive(Debug, Default)]
pub(super) struct Former {
    /// Where chunks lie that it had.
    pub(super) places: Places,
    /// Where it was cut.
    pub(super) cuts: FormerCuts,
}

/// Gives each source the image that the last archive of the name has of it. What cannot be read is no help, and no harm.
pub(super) fn find_earlier(
    repository: &Arc<Repository>,
    options: &CreateOptions,
    sources: &mut [OpenSource],
) {
    let Ok(Some((_, record))) = newest(repository, &options.name) else { return };
    let usual = repository.config().chunker;
    let is_cut_alike = record.chunker.unwrap_or(usual) == options.chunker.unwrap_or(usual);
    for source in sources {
        let member = record.members.iter().find(|member| member.name == source.name);
        source.earlier = member.map(|member| {
            let image = Image::of(member, repository.config().span_shift);
            Earlier { maps: Maps::new(repository.clone(), CACHE), image, is_cut_alike }
        });
    }
}

impl Earlier {
    /// What is known of a span.
    pub(super) fn span(&self, span: u64, store: &Store<'_>) -> Former {
        // An index in memory is asked as fast.
        let is_asked = !store.index.is_held();
        if !is_asked && !self.is_cut_alike {
            return Former::default();
        }
        let Some(placed) = self.maps.span(&self.image, span).ok().flatten() else { return Former::default() };
        let places = placed.map.chunks.iter().zip(&placed.locations);
        Former {
            places: places.filter(|_| is_asked).map(|(chunk, location)| (chunk.id, *location)).collect(),
            cuts: if self.is_cut_alike { FormerCuts::of(&placed.map) } else { FormerCuts::default() },
        }
    }
}
