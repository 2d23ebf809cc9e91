//! Compression of what is sealed: codec (one byte), plain length (u32), payload.
//!
//! The plain length is held against the reader's limit before anything is allocated. Contexts are kept: making one costs more than compressing a small
//! chunk. Each thread that compresses has its own. Those that decompress are many, and take turns at it: who comes next finds in a processor's cache what the last one used.

use std::cell::RefCell;
use std::io::Cursor;

use zstd::bulk::{Compressor, Decompressor};

use super::CodecError;
use crate::pool::Pool;

/// Codec byte of bytes stored as they are.
const RAW: u8 = 0;
/// Codec byte of one zstd frame.
const ZSTD: u8 = 1;

/// How blobs are compressed before they are sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// zstd at a level from 1 to 19.
    Zstd(i32),
}

impl Default for Compression {
    /// Level 3: 0.3 GB/s a core at 2.87 to 1 on the contents of a system disk.
    fn default() -> Self {
        Self::Zstd(3)
    }
}

thread_local! {
    static COMPRESSOR: RefCell<Option<(i32, Compressor<'static>)>> = const { RefCell::new(None) };
}

/// Contexts of 100 to 200 KiB. What more threads than that use at once is made anew.
static DECOMPRESSORS: Pool<Option<Decompressor<'static>>> = Pool::new(64);

/// What packing adds at most, in bytes.
pub const PACK_OVERHEAD: usize = 5;

/// The most bytes that zstd makes of so many, before one sees that it gains nothing.
pub(super) fn zstd_bound(plain_len: usize) -> usize {
    zstd::zstd_safe::compress_bound(plain_len)
}

/// Appends the packed form of `plain`, which is below 4 GiB, to `out`: raw where compression gains nothing.
pub fn pack_into(out: &mut Vec<u8>, plain: &[u8], compression: Compression) {
    let start = out.len();
    let plain_len =
        u32::try_from(plain.len()).expect("every object has a limit far below 4 GiB").to_le_bytes();
    if let Compression::Zstd(level) = compression
        && let Some(payload_len) = zstd_into(out, plain, plain_len, level)
        && payload_len < plain.len()
    {
        out.truncate(start + PACK_OVERHEAD + payload_len);
        return;
    }
    out.truncate(start);
    out.push(RAW);
    out.extend_from_slice(&plain_len);
    out.extend_from_slice(plain);
}

/// Appends codec, length and frame, and returns the frame's length; `None` if zstd refused, which its bound of the frame length
/// rules out.
fn zstd_into(out: &mut Vec<u8>, plain: &[u8], plain_len: [u8; 4], level: i32) -> Option<usize> {
    out.push(ZSTD);
    out.extend_from_slice(&plain_len);
    // Not filled first: zstd writes behind the vector's end, within its capacity.
    out.reserve(zstd_bound(plain.len()));
    let start = out.len() as u64;
    let mut behind = Cursor::new(out);
    behind.set_position(start);
    COMPRESSOR.with_borrow_mut(|slot| {
        if slot.as_ref().is_none_or(|(held, _)| *held != level) {
            *slot = Some((level, Compressor::new(level).ok()?));
        }
        let (_, compressor) = slot.as_mut()?;
        compressor.compress_to_buffer(plain, &mut behind).ok()
    })
}

/// The plain bytes of `packed`, at most `limit` of them.
///
/// # Errors
/// As [`unpack_into`].
pub fn unpack(packed: &[u8], limit: usize) -> Result<Vec<u8>, CodecError> {
    let mut plain = Vec::new();
    unpack_into(packed, limit, &mut plain)?;
    Ok(plain)
}

/// Replaces what is in `plain` by the plain bytes of `packed`, at most `limit` of them.
///
/// # Errors
/// [`CodecError::UnknownCodec`], [`CodecError::BadCompression`], [`CodecError::TooLong`]. Never allocates more than `limit`.
pub fn unpack_into(packed: &[u8], limit: usize, plain: &mut Vec<u8>) -> Result<(), CodecError> {
    plain.clear();
    let Some(([codec, len @ ..], payload)) = packed.split_first_chunk::<PACK_OVERHEAD>() else {
        return Err(CodecError::TooShort { len: packed.len() });
    };
    let plain_len = u32::from_le_bytes(*len) as usize;
    if plain_len > limit {
        return Err(CodecError::TooLong { len: plain_len, limit });
    }
    match *codec {
        RAW if payload.len() == plain_len => {
            plain.reserve_exact(plain_len);
            plain.extend_from_slice(payload);
            Ok(())
        }
        ZSTD if decompress(payload, plain_len, plain) => Ok(()),
        RAW | ZSTD => Err(CodecError::BadCompression { expected: plain_len }),
        codec => Err(CodecError::UnknownCodec { codec }),
    }
}

/// Whether this is one frame, with nothing behind it, that gives exactly `plain_len` bytes, which `plain`, empty before, then holds.
fn decompress(frame: &[u8], plain_len: usize, plain: &mut Vec<u8>) -> bool {
    if zstd::zstd_safe::find_frame_compressed_size(frame) != Ok(frame.len()) {
        return false;
    }
    // Not filled first: zstd writes behind the vector's end, within its capacity.
    plain.reserve_exact(plain_len);
    let len = DECOMPRESSORS.with(|slot| {
        if slot.is_none() {
            *slot = Decompressor::new().ok();
        }
        slot.as_mut()?.decompress_to_buffer(frame, plain).ok()
    });
    len == Some(plain_len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(plain: &[u8], compression: Compression) -> Vec<u8> {
        let mut out = Vec::new();
        pack_into(&mut out, plain, compression);
        out
    }

    #[test]
    fn round_trips_and_never_grows_by_more_than_the_overhead() {
        let noise: Vec<u8> =
            (0..5000u32).flat_map(|i| blake3::hash(&i.to_le_bytes()).as_bytes()[..1].to_vec()).collect();
        for plain in [&b""[..], b"x", &[7; 100_000], &noise] {
            for compression in [Compression::None, Compression::Zstd(1), Compression::Zstd(3)] {
                let bytes = packed(plain, compression);
                assert!(bytes.len() <= plain.len() + PACK_OVERHEAD);
                assert_eq!(unpack(&bytes, plain.len()).unwrap(), plain);
            }
        }
        assert!(packed(&[7; 100_000], Compression::default()).len() < 200);
    }

    #[test]
    fn a_frame_of_another_length_is_damage() {
        let bytes = packed(&[7; 100_000], Compression::default());
        assert_eq!(unpack(&bytes, 99_999), Err(CodecError::TooLong { len: 100_000, limit: 99_999 }));
        for wrong in [0u32, 99_999, 100_001] {
            let mut bytes = bytes.clone();
            bytes[1..5].copy_from_slice(&wrong.to_le_bytes());
            assert_eq!(unpack(&bytes, 1 << 20), Err(CodecError::BadCompression { expected: wrong as usize }));
        }
        let twice = [&bytes[..], &bytes[PACK_OVERHEAD..]].concat();
        assert_eq!(unpack(&twice, 1 << 20), Err(CodecError::BadCompression { expected: 100_000 }));
        assert_eq!(unpack(&[9, 1, 0, 0, 0, 5], 1), Err(CodecError::UnknownCodec { codec: 9 }));
        assert!(unpack(&[], 0).is_err());
        assert!(unpack(&[RAW, 1, 0, 0, 0], 1).is_err());
    }
}
