//! The update sequence of NTFS: the last two bytes of every stride of a structure are replaced by a number that changes with each write, so that a torn write shows. No I/O.
//!
//! The structure begins with a magic number, and the place and length of the array that holds that number and what was replaced. Source: `layout.h` of ntfs-3g.

use super::bytes::Fields;

/// Every this many bytes, the last two are replaced.
const STRIDE: usize = 512;
/// What stands in front of the array at least.
const HEAD: usize = 8;

/// Why nothing can be put back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// There is no such array.
    Nonsense,
    /// Not all of it was written at the same time.
    Torn,
}

/// Puts the bytes back that were replaced.
///
/// # Errors
/// [`Wrong`]; the bytes may have changed in part then.
pub(crate) fn put_back(bytes: &mut [u8]) -> Result<(), Wrong> {
    let head = Fields(bytes);
    let (at, count) = (usize::from(head.u16(4)), usize::from(head.u16(6)));
    let strides = bytes.len() / STRIDE;
    // The array itself must not reach into the bytes that were replaced.
    if !bytes.len().is_multiple_of(STRIDE) || count != strides + 1 || at < HEAD || at + 2 * count > STRIDE - 2
    {
        return Err(Wrong::Nonsense);
    }
    let array = head.slice(at, 2 * count).to_vec();
    let (mark, saved) = array.split_at(2);
    for (stride, saved) in bytes.chunks_exact_mut(STRIDE).zip(saved.chunks_exact(2)) {
        let replaced = &mut stride[STRIDE - 2..];
        if replaced != mark {
            return Err(Wrong::Torn);
        }
        replaced.copy_from_slice(saved);
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Two strides with the count of writes 7, and `AB` and `CD` saved.
    pub(crate) fn marked() -> Vec<u8> {
        let mut bytes = vec![0; 1024];
        bytes[..8].copy_from_slice(b"FILE\x30\0\x03\0");
        bytes[48..54].copy_from_slice(b"\x07\0ABCD");
        bytes[510] = 7;
        bytes[1022] = 7;
        bytes
    }

    #[test]
    fn replaced_bytes_are_put_back() {
        let mut bytes = marked();
        put_back(&mut bytes).unwrap();
        assert_eq!((&bytes[510..512], &bytes[1022..]), (&b"AB"[..], &b"CD"[..]));
    }

    #[test]
    fn a_torn_write_shows() {
        for (at, byte) in [(510, 8), (1023, 1), (48, 6), (6, 2), (4, 4), (5, 2)] {
            let mut bytes = marked();
            bytes[at] = byte;
            assert!(put_back(&mut bytes).is_err(), "byte {at}");
        }
        assert!(put_back(&mut marked()[..1000]).is_err());
        assert!(put_back(&mut []).is_err());
    }
}
