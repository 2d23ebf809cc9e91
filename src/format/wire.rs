//! Little-endian integers out of untrusted bytes.

use super::FormatError;

/// Reads an object from its beginning; every step checks what is left.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    what: &'static str,
    left: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts reading `bytes`, which errors call `what`.
    #[must_use]
    pub fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, left: bytes }
    }

    /// The next `len` bytes.
    ///
    /// # Errors
    /// [`FormatError::Truncated`], like all methods here.
    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8], FormatError> {
        let Some((taken, left)) = self.left.split_at_checked(len) else {
            return Err(FormatError::Truncated { what: self.what, needed: len, left: self.left.len() });
        };
        self.left = left;
        Ok(taken)
    }

    /// The next `N` bytes.
    ///
    /// # Errors
    /// [`FormatError::Truncated`].
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(N)?);
        Ok(array)
    }

    /// One byte.
    ///
    /// # Errors
    /// [`FormatError::Truncated`].
    pub fn u8(&mut self) -> Result<u8, FormatError> {
        self.array().map(u8::from_le_bytes)
    }

    /// Two bytes.
    ///
    /// # Errors
    /// [`FormatError::Truncated`].
    pub fn u16(&mut self) -> Result<u16, FormatError> {
        self.array().map(u16::from_le_bytes)
    }

    /// Four bytes.
    ///
    /// # Errors
    /// [`FormatError::Truncated`].
    pub fn u32(&mut self) -> Result<u32, FormatError> {
        self.array().map(u32::from_le_bytes)
    }

    /// Eight bytes.
    ///
    /// # Errors
    /// [`FormatError::Truncated`].
    pub fn u64(&mut self) -> Result<u64, FormatError> {
        self.array().map(u64::from_le_bytes)
    }

    /// A count of things `size` bytes long each, at most `limit`, that surely fit into what is left.
    ///
    /// # Errors
    /// [`FormatError::OutOfBounds`], [`FormatError::Truncated`].
    pub fn count(&mut self, name: &'static str, limit: u32, size: usize) -> Result<usize, FormatError> {
        let count = self.u32()?;
        self.check_count(name, count, limit, size)
    }

    /// As [`Self::count`], for a count already read.
    ///
    /// # Errors
    /// [`FormatError::OutOfBounds`], [`FormatError::Truncated`].
    pub fn check_count(
        &self,
        name: &'static str,
        count: u32,
        limit: u32,
        size: usize,
    ) -> Result<usize, FormatError> {
        if count > limit {
            return Err(FormatError::OutOfBounds { what: name, value: count.into(), limit: limit.into() });
        }
        let needed = (count as usize).saturating_mul(size);
        if needed > self.left.len() {
            return Err(FormatError::Truncated { what: name, needed, left: self.left.len() });
        }
        Ok(count as usize)
    }

    /// The magic bytes.
    ///
    /// # Errors
    /// [`FormatError::BadMagic`].
    pub fn magic(&mut self, magic: &[u8; 8]) -> Result<(), FormatError> {
        match self.array::<8>() {
            Ok(found) if found == *magic => Ok(()),
            _ => Err(FormatError::BadMagic { what: self.what }),
        }
    }

    /// A version, of which one is supported.
    ///
    /// # Errors
    /// [`FormatError::Version`].
    pub fn version(&mut self, supported: u16) -> Result<(), FormatError> {
        match self.u16()? {
            found if found == supported => Ok(()),
            found => Err(FormatError::Version { what: self.what, found, supported }),
        }
    }

    /// `N` bytes that must be zero, so that they can mean something later.
    ///
    /// # Errors
    /// [`FormatError::Malformed`].
    pub fn zeros<const N: usize>(&mut self) -> Result<(), FormatError> {
        if self.array::<N>()? == [0; N] {
            return Ok(());
        }
        Err(FormatError::malformed(self.what, "reserved bytes are not zero"))
    }

    /// What is left, unread.
    #[must_use]
    pub fn rest(self) -> &'a [u8] {
        self.left
    }

    /// Ends reading.
    ///
    /// # Errors
    /// [`FormatError::Malformed`] if anything is left.
    pub fn finish(self) -> Result<(), FormatError> {
        if self.left.is_empty() {
            return Ok(());
        }
        Err(FormatError::malformed(self.what, format!("{} bytes too many", self.left.len())))
    }
}

/// The checksum that ends objects which are read before any key is known: the first 16 bytes of BLAKE3 of `bytes`.
#[must_use]
pub fn checksum(bytes: &[u8]) -> [u8; 16] {
    let mut sum = [0; 16];
    sum.copy_from_slice(&blake3::hash(bytes).as_bytes()[..16]);
    sum
}

/// Splits off and checks the checksum at the end.
///
/// # Errors
/// [`FormatError::Truncated`], [`FormatError::Malformed`].
pub fn verify_checksum<'a>(what: &'static str, bytes: &'a [u8]) -> Result<&'a [u8], FormatError> {
    let Some((body, sum)) = bytes.split_last_chunk::<16>() else {
        return Err(FormatError::Truncated { what, needed: 16, left: bytes.len() });
    };
    if checksum(body) == *sum {
        Ok(body)
    } else {
        Err(FormatError::malformed(what, "its checksum does not fit"))
    }
}
