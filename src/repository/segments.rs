//! The index as it is stored: segments, each of ids with a common beginning.
//!
//! A lookup opens one page of a segment or two, and filters say which, so that nobody needs the index in memory. Whoever publishes joins small segments to larger
//! ones and splits those that have grown, by the next digit of the ids: of each beginning there are few segments, in sizes that grow geometrically, and an
//! entry is rewritten a few times in the life of a repository.

mod filters;
mod groups;
mod lookup;
mod publisher;
#[cfg(test)]
mod tests;

use std::collections::HashSet;

pub use self::lookup::Lookup;
pub use self::publisher::{EARLY, Publisher, join, publish};
use super::error::{Error, Result};
use super::objects::{Objects, name};
use crate::format::index_segment::{IndexEntry, IndexSegment, MAX_STORED};
use crate::id::{BlobId, SegmentId};
use crate::storage::Name;

/// Digits that a prefix has at most.
pub const MAX_PREFIX: usize = 4;
/// How often segments are listed again when those that were listed are gone.
const TRIES: usize = 8;
/// What stands in a name for no prefix.
const NO_PREFIX: &str = "x";

/// A segment that is listed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListedSegment {
    /// Hex digits that all ids in it begin with.
    pub prefix: String,
    /// Its id.
    pub id: SegmentId,
    /// Its name.
    pub name: Name,
    /// Its stored length in bytes.
    pub len: u64,
}

/// A segment's name in its parts; `None` for names that are no segment's.
#[must_use]
pub fn parse_name(of: &Name) -> Option<(&str, SegmentId)> {
    let (prefix, id) = of.as_str().strip_prefix("index/")?.split_once('-')?;
    let hex = |digit: u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
    let is_hex = (1..=MAX_PREFIX).contains(&prefix.len()) && prefix.bytes().all(hex);
    let prefix = if prefix == NO_PREFIX { Some("") } else { Some(prefix).filter(|_| is_hex) };
    Some((prefix?, id.parse().ok()?))
}

fn segment_name(prefix: &str, id: SegmentId) -> Name {
    let prefix = if prefix.is_empty() { NO_PREFIX } else { prefix };
    name(&format!("index/{prefix}-{id}"))
}

/// Lists the segments. Names that are none are left out.
///
/// # Errors
/// [`Error::Storage`].
pub fn list(objects: &Objects) -> Result<Vec<ListedSegment>> {
    let listed = objects.list("index")?.into_iter();
    let segment = |listed: crate::storage::Listed| {
        let (prefix, id) = parse_name(&listed.name)?;
        Some(ListedSegment { prefix: prefix.to_owned(), id, len: listed.len, name: listed.name.clone() })
    };
    Ok(listed.filter_map(segment).collect())
}

/// Reads all of a segment.
///
/// # Errors
/// [`Error::Storage`], [`Error::Damaged`].
pub fn read(objects: &Objects, segment: &Name) -> Result<IndexSegment> {
    let mut bytes =
        objects.storage().read(segment, MAX_STORED).map_err(objects.failed("read", segment.as_str()))?;
    let opened = IndexSegment::open(objects.keyring(), segment.as_str(), &mut bytes);
    opened.map_err(|source| Error::Damaged { name: segment.to_string(), source })
}

/// Reads all segments, one at a time, those among them that replace others while that goes on; `act` is told of each but those that are gone.
///
/// # Errors
/// [`Error::Storage`] if they cannot be listed, or go on vanishing; those of `act`.
pub fn each<E: From<Error>>(
    objects: &Objects,
    mut act: impl FnMut(&ListedSegment, Result<IndexSegment>) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    let mut seen = HashSet::new();
    let mut vanished = None;
    for _ in 0..TRIES {
        vanished = None;
        for listed in list(objects)? {
            if !seen.insert(listed.id) {
                continue;
            }
            match read(objects, &listed.name) {
                Err(error) if error.is_missing() => vanished = Some(error),
                segment => act(&listed, segment)?,
            }
        }
        if vanished.is_none() {
            break;
        }
    }
    vanished.map_or(Ok(()), |error| Err(error.into()))
}

/// The entries of an id in a segment, of which only what is needed is read.
///
/// # Errors
/// [`Error::Storage`], [`Error::Damaged`].
pub fn entries_of(objects: &Objects, listed: &ListedSegment, id: &BlobId) -> Result<Vec<IndexEntry>> {
    let (header, directory) = lookup::directory(objects, listed)?;
    lookup::entries_of(objects, (&listed.name, &header, &directory.firsts), id)
}

/// Stores a segment under a new name.
///
/// # Errors
/// [`Error::Storage`], [`Error::Codec`].
pub fn store(objects: &Objects, prefix: &str, segment: IndexSegment) -> Result<ListedSegment> {
    let id = SegmentId::random();
    let name = segment_name(prefix, id);
    let bytes = segment.seal(objects.keyring(), name.as_str())?;
    objects.put_bytes(&name, &[&bytes])?;
    Ok(ListedSegment { prefix: prefix.to_owned(), id, name, len: bytes.len() as u64 })
}
