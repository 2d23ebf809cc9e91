//! Where a blob is stored, and the hints beside maps and nodes.

use serde::{Deserialize, Serialize};

use super::FormatError;
use super::wire::Reader;
use crate::id::PackId;

/// The only key mode there is yet: sealed with a class key.
pub const KEY_MODE_CLASS: u8 = 1;

/// A pack and how it is sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PackRef {
    /// Its id.
    pub id: PackId,
    /// Its key mode.
    pub mode: u8,
    /// Its key epoch.
    pub epoch: u32,
}

impl PackRef {
    /// Stored length in bytes.
    pub const LEN: usize = 21;

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.id.as_bytes());
        out.push(self.mode);
        out.extend_from_slice(&self.epoch.to_le_bytes());
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, FormatError> {
        Ok(Self { id: PackId(reader.array()?), mode: reader.u8()?, epoch: reader.u32()? })
    }
}

/// Where a blob lies: a hint, never trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Location {
    /// The pack.
    pub pack: PackRef,
    /// Offset of the sealed bytes in the pack.
    pub offset: u32,
    /// Length of the sealed bytes.
    pub sealed_len: u32,
}

/// Bytes of one child's hint behind the pack table.
const HINT_LEN: usize = 10;

/// Appends the hints for `locations`, at most 65535 of them.
pub(crate) fn write_hints(out: &mut Vec<u8>, locations: &[Location]) {
    let mut packs: Vec<PackRef> = Vec::new();
    let mut hints = Vec::with_capacity(locations.len() * HINT_LEN);
    let mut numbers = std::collections::HashMap::new();
    for location in locations {
        let number = *numbers.entry(location.pack).or_insert_with(|| {
            packs.push(location.pack);
            u16::try_from(packs.len() - 1).expect("a map or node has fewer children than a u16 holds")
        });
        hints.extend_from_slice(&number.to_le_bytes());
        hints.extend_from_slice(&location.offset.to_le_bytes());
        hints.extend_from_slice(&location.sealed_len.to_le_bytes());
    }
    let count = u16::try_from(packs.len()).expect("numbered above");
    out.extend_from_slice(&count.to_le_bytes());
    packs.iter().for_each(|pack| pack.write(out));
    out.extend_from_slice(&hints);
}

/// Reads the hints of `count` children.
///
/// # Errors
/// Truncation, pack numbers beyond the table, packs that repeat or that nothing uses.
pub(crate) fn read_hints(reader: &mut Reader<'_>, count: usize) -> Result<Vec<Location>, FormatError> {
    let malformed = |reason: &str| FormatError::malformed("hints", reason);
    let pack_limit = u32::try_from(count).unwrap_or(u32::MAX);
    let packs_len = reader.u16()?.into();
    let packs_len = reader.check_count("number of hinted packs", packs_len, pack_limit, PackRef::LEN)?;
    let mut packs = Vec::with_capacity(packs_len);
    for _ in 0..packs_len {
        packs.push(PackRef::read(reader)?);
    }
    let mut first_unused = 0;
    let mut locations = Vec::with_capacity(count);
    for _ in 0..count {
        let number = usize::from(reader.u16()?);
        let pack = *packs.get(number).ok_or_else(|| malformed("pack number beyond the table"))?;
        if number > first_unused {
            return Err(malformed("packs are not in order of first use"));
        }
        first_unused = first_unused.max(number + 1);
        locations.push(Location { pack, offset: reader.u32()?, sealed_len: reader.u32()? });
    }
    let distinct: std::collections::HashSet<_> = packs.iter().collect();
    if first_unused != packs.len() || distinct.len() != packs.len() {
        return Err(malformed("a pack stands twice or is unused"));
    }
    Ok(locations)
}
