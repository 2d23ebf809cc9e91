//! The reserve: bytes without meaning that are given up when space must be reclaimed on a full storage, where not even the objects that
//! say so could be written.

use super::Repository;
use super::error::Result;
use super::objects::name;
use crate::storage::Storage;

/// The reserve's name.
pub(super) const RESERVE: &str = "reserve";

/// Stores the reserve, if the repository is to have one and has none.
///
/// # Errors
/// [`super::Error::Storage`]; there is no reserve then.
pub fn set_aside(repository: &Repository) -> Result<()> {
    let (objects, len) = (repository.objects(), repository.config().reserve);
    let name = name(RESERVE);
    if len == 0 || objects.storage().len(&name).is_ok_and(|found| found >= u64::from(len)) {
        return Ok(());
    }
    // Noise: a filesystem that compresses or shares blocks would give nothing for zeros.
    let mut noise = vec![0; len as usize];
    blake3::Hasher::new().update(repository.id().as_bytes()).finalize_xof().fill(&mut noise);
    objects.storage().put(&name, &[&noise]).map_err(objects.failed("write", RESERVE))
}
