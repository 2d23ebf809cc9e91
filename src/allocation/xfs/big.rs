//! Big-endian numbers, as XFS writes all but the contents of its log.

/// A buffer whose fields are taken by offset; zeros lie beyond its end, so that short buffers fail the checks of magic numbers.
#[derive(Clone, Copy)]
pub(super) struct Big<'a>(pub(super) &'a [u8]);

impl Big<'_> {
    /// The `N` bytes at `at`.
    pub(super) fn array<const N: usize>(self, at: usize) -> [u8; N] {
        self.0.get(at..).and_then(|tail| tail.first_chunk()).copied().unwrap_or([0; N])
    }

    pub(super) fn u16(self, at: usize) -> u16 {
        u16::from_be_bytes(self.array(at))
    }

    pub(super) fn u32(self, at: usize) -> u32 {
        u32::from_be_bytes(self.array(at))
    }

    pub(super) fn u64(self, at: usize) -> u64 {
        u64::from_be_bytes(self.array(at))
    }

    /// Whether the CRC-32C at `at` is that of the buffer. Checksums alone are little-endian.
    pub(super) fn has_checksum(self, at: usize) -> bool {
        u32::from_le_bytes(self.array(at)) == super::super::checked::crc32c_around(self.0, at)
    }
}
