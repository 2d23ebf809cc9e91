//! AES-256-GCM-SIV (RFC 8452): nonce, ciphertext and tag in one buffer.
//!
//! Nonces are random; the cipher keeps its secrecy even where one repeats. The associated data says what the bytes are, so that no sealed
//! object passes for another.

use aes_gcm_siv::aead::{AeadInOut, KeyInit};
use aes_gcm_siv::{Aes256GcmSiv, Nonce, Tag};

use super::CodecError;
use super::compress::{Compression, PACK_OVERHEAD, pack_into, unpack, unpack_into, zstd_bound};

/// Bytes of the nonce that stand first.
const NONCE: usize = 12;
/// Bytes of the tag that stand last.
const TAG: usize = 16;
/// What sealing adds to a plaintext, in bytes.
pub const SEAL_OVERHEAD: usize = NONCE + TAG;
/// What packing and sealing add at most, in bytes.
pub const BLOB_OVERHEAD: usize = SEAL_OVERHEAD + PACK_OVERHEAD;

/// What has to fit behind a vector's end, in bytes, for so many to be packed and sealed there without moving what is before.
#[must_use]
pub fn packing_bound(plain_len: usize) -> usize {
    BLOB_OVERHEAD + zstd_bound(plain_len)
}

/// One sealing key, its round keys expanded once.
#[derive(Clone)]
pub struct SealKey(Aes256GcmSiv);

impl std::fmt::Debug for SealKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SealKey(..)")
    }
}

impl SealKey {
    /// Expands a 32-byte key.
    #[must_use]
    pub fn new(key: &[u8; 32]) -> Self {
        Self(Aes256GcmSiv::new(key.into()))
    }

    /// Seals `plain` as it is.
    #[must_use]
    pub fn seal(&self, aad: &[u8], plain: &[u8]) -> Vec<u8> {
        let mut buffer = Vec::with_capacity(plain.len() + SEAL_OVERHEAD);
        self.seal_behind(&mut buffer, aad, |buffer| buffer.extend_from_slice(plain));
        buffer
    }

    /// Compresses, then seals.
    #[must_use]
    pub fn seal_packed(&self, aad: &[u8], plain: &[u8], compression: Compression) -> Vec<u8> {
        let mut buffer = Vec::with_capacity(packing_bound(plain.len()));
        self.seal_packed_into(&mut buffer, aad, plain, compression);
        buffer
    }

    /// As [`Self::seal_packed`], behind what is in `out`, which does not move if there is room ([`packing_bound`]).
    pub fn seal_packed_into(&self, out: &mut Vec<u8>, aad: &[u8], plain: &[u8], compression: Compression) {
        self.seal_behind(out, aad, |out| pack_into(out, plain, compression));
    }

    /// Seals what `append` appends to `buffer`, in place.
    pub fn seal_behind(&self, buffer: &mut Vec<u8>, aad: &[u8], append: impl FnOnce(&mut Vec<u8>)) {
        let mut nonce = Nonce::default();
        getrandom::fill(&mut nonce).expect("the system's random source works");
        buffer.extend_from_slice(&nonce);
        let start = buffer.len();
        append(buffer);
        let tag = self
            .0
            .encrypt_inout_detached(&nonce, aad, (&mut buffer[start..]).into())
            .expect("plaintexts are far below the cipher's limit of 64 GiB");
        buffer.extend_from_slice(&tag);
    }

    /// Opens what [`Self::seal`] made.
    ///
    /// # Errors
    /// [`CodecError::TooShort`], [`CodecError::Unverified`].
    pub fn open(&self, aad: &[u8], mut sealed: Vec<u8>) -> Result<Vec<u8>, CodecError> {
        let plain_len = self.open_in_place(aad, &mut sealed)?.len();
        sealed.truncate(NONCE + plain_len);
        sealed.drain(..NONCE);
        Ok(sealed)
    }

    /// Opens and decompresses what [`Self::seal_packed`] made; the plain bytes are at most `limit`. `sealed` is
    /// overwritten.
    ///
    /// # Errors
    /// Any [`CodecError`] but a missing key.
    pub fn open_packed(&self, aad: &[u8], sealed: &mut [u8], limit: usize) -> Result<Vec<u8>, CodecError> {
        unpack(self.open_in_place(aad, sealed)?, limit)
    }

    /// As [`Self::open_packed`], into a buffer, whose content is replaced.
    ///
    /// # Errors
    /// Any [`CodecError`] but a missing key.
    pub fn open_packed_into(
        &self,
        aad: &[u8],
        sealed: &mut [u8],
        limit: usize,
        plain: &mut Vec<u8>,
    ) -> Result<(), CodecError> {
        unpack_into(self.open_in_place(aad, sealed)?, limit, plain)
    }

    /// As [`Self::open`], where it lies: the plain bytes are a part of `sealed` then.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_in_place<'a>(&self, aad: &[u8], sealed: &'a mut [u8]) -> Result<&'a [u8], CodecError> {
        let Some(plain_len) = sealed.len().checked_sub(SEAL_OVERHEAD) else {
            return Err(CodecError::TooShort { len: sealed.len() });
        };
        let (nonce, rest) = sealed.split_at_mut(NONCE);
        let (text, tag) = rest.split_at_mut(plain_len);
        let nonce = Nonce::try_from(&nonce[..]).map_err(|_| CodecError::Unverified)?;
        let tag = Tag::try_from(&tag[..]).map_err(|_| CodecError::Unverified)?;
        self.0
            .decrypt_inout_detached(&nonce, aad, (&mut *text).into(), &tag)
            .map_err(|_| CodecError::Unverified)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_only_untouched_bytes_with_the_same_aad_and_key() {
        let key = SealKey::new(&[1; 32]);
        let sealed = key.seal(b"aad", b"attack at dawn");
        assert_eq!(sealed.len(), 14 + SEAL_OVERHEAD);
        assert_eq!(key.open(b"aad", sealed.clone()).unwrap(), b"attack at dawn");
        assert_eq!(key.open(b"aae", sealed.clone()), Err(CodecError::Unverified));
        assert_eq!(SealKey::new(&[2; 32]).open(b"aad", sealed.clone()), Err(CodecError::Unverified));
        for i in 0..sealed.len() {
            let mut bad = sealed.clone();
            bad[i] ^= 1;
            assert_eq!(key.open(b"aad", bad), Err(CodecError::Unverified), "byte {i}");
        }
        assert_eq!(key.open(b"", vec![0; 27]), Err(CodecError::TooShort { len: 27 }));
    }

    #[test]
    fn what_is_sealed_behind_other_bytes_leaves_them_where_they_are() {
        let key = SealKey::new(&[4; 32]);
        let mut noise = vec![0; 50_000];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        for plain in [&[][..], &[1], &[0; 50_000], &noise] {
            for compression in [Compression::None, Compression::default()] {
                let mut out = Vec::with_capacity(1000 + packing_bound(plain.len()));
                out.resize(1000, 9);
                let before = (out.as_ptr(), out.capacity());
                key.seal_packed_into(&mut out, b"aad", plain, compression);
                assert_eq!((out.as_ptr(), out.capacity()), before);
                assert!(out[..1000] == [9; 1000] && out.len() <= 1000 + plain.len() + BLOB_OVERHEAD);
                assert_eq!(key.open_packed(b"aad", &mut out[1000..], plain.len()).unwrap(), plain);
            }
        }
    }

    #[test]
    fn packed_round_trip() {
        let key = SealKey::new(&[3; 32]);
        let plain = vec![5; 70_000];
        let mut sealed = key.seal_packed(b"id", &plain, Compression::default());
        assert!(sealed.len() < 1000);
        assert_eq!(key.open_packed(b"id", &mut sealed, plain.len()).unwrap(), plain);
    }
}
