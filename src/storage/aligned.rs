//! Memory that begins on a page, which storage may write as it is: copying a pack once more costs as much as sealing it.

use std::ops::Deref;

/// What the address of the first byte is a multiple of, in bytes: as much as devices want for writes past the page cache.
pub const ALIGNMENT: usize = 4096;
/// What is written past the page cache from where it lies is a multiple of so many bytes long, so that devices of larger blocks take it, too.
pub const LARGEST_BLOCK: usize = 64 << 10;
const _: () = assert!(LARGEST_BLOCK.is_multiple_of(ALIGNMENT));

/// Bytes to write, the first of which lies on a page.
///
/// If they outgrow the capacity that was asked for, they may lie anywhere, which costs a copy, until the next [`Self::clear`].
#[derive(Debug)]
pub struct Aligned {
    memory: Vec<u8>,
    /// Where they begin in the memory.
    start: usize,
}

impl Aligned {
    /// No bytes yet, and memory for `capacity` of them.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        let mut aligned = Self { memory: Vec::with_capacity(capacity + ALIGNMENT), start: 0 };
        aligned.clear();
        aligned
    }

    /// Forgets the bytes, and keeps their memory.
    pub fn clear(&mut self) {
        self.memory.clear();
        self.start = to_page(&self.memory);
        self.memory.resize(self.start, 0);
    }

    /// Forgets what is behind so many bytes.
    pub fn truncate(&mut self, len: usize) {
        self.memory.truncate(self.start + len);
    }

    /// Appends bytes.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        self.memory.extend_from_slice(bytes);
    }

    /// Has `append` append bytes, of which none stays if it fails or panics.
    ///
    /// # Errors
    /// Those of `append`.
    pub fn append_with<E>(&mut self, append: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<(), E> {
        let len = self.memory.len();
        let mut whole = Whole { memory: &mut self.memory, len };
        append(whole.memory)?;
        whole.len = whole.memory.len();
        Ok(())
    }
}

/// Cuts off what is behind so many bytes when it is dropped.
struct Whole<'a> {
    memory: &'a mut Vec<u8>,
    len: usize,
}

impl Drop for Whole<'_> {
    fn drop(&mut self) {
        self.memory.truncate(self.len);
    }
}

impl Deref for Aligned {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[self.start..]
    }
}

/// How many bytes to pass over in `bytes` until a page begins.
pub(super) fn to_page(bytes: &[u8]) -> usize {
    bytes.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_stays_of_what_was_not_appended_to_its_end() {
        let mut bytes = Aligned::with_capacity(1000);
        bytes.extend_from_slice(b"all");
        let half = |bytes: &mut Vec<u8>, then| {
            bytes.extend_from_slice(b"half");
            then
        };
        assert_eq!(bytes.append_with(|bytes| half(bytes, Err("as told"))), Err("as told"));
        assert_eq!(bytes[..], *b"all");
        assert_eq!(bytes.append_with(|bytes| half(bytes, Ok(()))), Ok(()));
        assert_eq!(bytes[..], *b"allhalf");
        let panics = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            bytes.append_with::<()>(|bytes| {
                bytes.extend_from_slice(b"half");
                panic!("as told")
            })
        }));
        assert!(panics.is_err());
        assert_eq!(bytes[..], *b"allhalf");
    }

    #[test]
    fn bytes_lie_on_a_page_as_long_as_they_fit() {
        let mut bytes = Aligned::with_capacity(1000);
        for round in 0..3 {
            assert_eq!((bytes.len(), to_page(&bytes)), (0, 0), "round {round}");
            let before = bytes.as_ptr();
            bytes.extend_from_slice(&[round; 600]);
            bytes.extend_from_slice(&[round + 1; 400]);
            assert_eq!(bytes.as_ptr(), before);
            assert_eq!(bytes[..], [[round; 600].as_slice(), &[round + 1; 400]].concat());
            if round == 1 {
                bytes.extend_from_slice(&[9; 1 << 20]);
                assert!(bytes.len() == 1000 + (1 << 20) && bytes[1000..].iter().all(|byte| *byte == 9));
            }
            bytes.clear();
        }
    }
}
