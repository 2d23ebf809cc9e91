//! The reserve: bytes without meaning that are given up when space must be reclaimed on a full storage, where not even the objects that
//! say so could be written.

use super::Repository;
use super::archives::chain;
use super::error::Result;
use super::objects::{is_full, name};
use crate::storage::Storage;

/// The reserve's name.
pub(super) const RESERVE: &str = "reserve";

/// How many parts it is cut into: where the whole does not fit any more, as many of them are set aside as do.
const PARTS: usize = 8;

/// Stores the reserve, if the repository is to have one and has none. From now on no put uses it.
///
/// # Errors
/// [`super::Error::Storage`]; what there was of a reserve is as it was.
pub fn set_aside(repository: &Repository) -> Result<()> {
    set_aside_parts(repository, PARTS)
}

/// As [`set_aside`], but takes what fits of it: another deletion may need it before there is room for the whole. That nothing fits is only
/// logged.
pub fn set_aside_again(repository: &Repository) {
    if let Err(error) = set_aside_parts(repository, 1) {
        log::info!("no reserve could be set aside again: {}", chain(&error));
    }
}

/// Stores as much as fits of the reserve, but no less than `least` parts of it.
fn set_aside_parts(repository: &Repository, least: usize) -> Result<()> {
    let objects = repository.objects();
    objects.keep_reserve();
    let name = name(RESERVE);
    let len = repository.config().reserve as usize;
    let there = objects.storage().len(&name).unwrap_or(0);
    if len as u64 <= there {
        return Ok(());
    }
    // Noise: a filesystem that compresses or shares blocks would give nothing for zeros.
    let mut noise = vec![0; len];
    blake3::Hasher::new().update(repository.id().as_bytes()).finalize_xof().fill(&mut noise);
    let mut stored = Ok(());
    for parts in (least..=PARTS).rev() {
        let fewer = &noise[..len / PARTS * parts + len % PARTS];
        if fewer.len() as u64 <= there {
            break;
        }
        stored = objects.storage().put(&name, &[fewer]);
        if !stored.as_ref().is_err_and(is_full) {
            break;
        }
    }
    stored.map_err(objects.failed("write", RESERVE))
}
