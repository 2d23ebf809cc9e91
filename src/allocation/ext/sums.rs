//! Checksums of ext4: CRC-32C since Linux 3.5 (`metadata_csum`), CRC-16 of group descriptors before (`gdt_csum`).

/// How group descriptors and bitmaps are protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sums {
    /// Not at all.
    None,
    /// Descriptors only; what the sum of the filesystem's UUID is.
    Crc16(u16),
    /// Both; what all sums begin with.
    Crc32c(u32),
}

/// Offset of a descriptor's own checksum.
const OWN: usize = 0x1e;

impl Sums {
    /// The checksum that descriptor `bytes` of group number `group` should have; `None` if it has none.
    pub(super) fn of_descriptor(self, group: u32, bytes: &[u8]) -> Option<u16> {
        let (head, tail) = (bytes.get(..OWN)?, bytes.get(OWN + 2..)?);
        let group = group.to_le_bytes();
        match self {
            Self::None => None,
            Self::Crc16(seed) => Some([&group[..], head, tail].into_iter().fold(seed, crc16)),
            // Two zero bytes stand for the sum itself.
            Self::Crc32c(seed) => {
                let parts = [&group[..], head, &[0; 2], tail];
                Some((parts.into_iter().fold(seed, crc32c) & 0xffff) as u16)
            }
        }
    }

    /// Whether bitmaps have checksums.
    pub(super) fn cover_bitmaps(self) -> bool {
        matches!(self, Self::Crc32c(_))
    }

    /// The checksum that a block bitmap should have.
    pub(super) fn of_bitmap(self, bytes: &[u8]) -> Option<u32> {
        match self {
            Self::Crc32c(seed) => Some(crc32c(seed, bytes)),
            _ => None,
        }
    }
}

/// CRC-32C as ext4 has it: neither begun nor ended with an inversion.
pub(crate) fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
    !crc32c::crc32c_append(!seed, bytes)
}

/// CRC-16 with the polynomial 0x8005, reflected.
pub(super) fn crc16(seed: u16, bytes: &[u8]) -> u16 {
    bytes.iter().fold(seed, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xa001 } else { crc >> 1 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_values_of_both() {
        // CRC-16/ARC begins with 0, CRC-32/ISCSI begins and ends with an inversion.
        assert_eq!(crc16(0, b"123456789"), 0xbb3d);
        assert_eq!(!crc32c(!0, b"123456789"), 0xe306_9283);
    }

    #[test]
    fn a_descriptor_too_short_has_no_sum() {
        assert_eq!(Sums::Crc16(0).of_descriptor(0, &[0; OWN]), None);
        assert!(Sums::Crc32c(0).of_descriptor(0, &[0; 32]).is_some());
    }
}
