//! Checksums of superblocks and nodes: over all that follows the 32 bytes which hold them.

use blake2::Digest;

use super::super::Distrust;

const LEN: usize = 32;

/// How checksums are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Checksum {
    Crc32c,
    Blake2b,
}

impl Checksum {
    /// The one that a superblock names by a number. XXH64 and SHA-256 are not known here.
    pub(super) fn of_kind(kind: u16) -> Result<Self, Distrust> {
        match kind {
            0 => Ok(Self::Crc32c),
            3 => Ok(Self::Blake2b),
            _ => Err(Distrust::because("its kind of checksum is not known here")),
        }
    }

    /// Whether `bytes` begin with their own checksum.
    pub(super) fn holds(self, bytes: &[u8]) -> bool {
        let Some((stored, rest)) = bytes.split_at_checked(LEN) else { return false };
        match self {
            Self::Crc32c => stored.starts_with(&crc32c::crc32c(rest).to_le_bytes()),
            Self::Blake2b => stored == blake2::Blake2b256::digest(rest).as_slice(),
        }
    }
}
