//! Compressing and sealing bytes, and the keys for it. No I/O, no knowledge of objects.

pub mod compress;
pub mod keys;
pub mod seal;
pub mod slot_key;

/// Why bytes could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Too short to hold what always stands there.
    #[error("{len} bytes are too few for a sealed object")]
    TooShort {
        /// What there was, in bytes.
        len: usize,
    },
    /// Longer than what is read may be.
    #[error("{len} bytes are more than the {limit} allowed")]
    TooLong {
        /// The promised plain length in bytes.
        len: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The tag does not fit: damaged bytes, another key, or bytes that belong elsewhere.
    #[error("the seal does not verify")]
    Unverified,
    /// A codec byte of a later version.
    #[error("compression {codec} is unknown; a newer Copal may read it")]
    UnknownCodec {
        /// The codec byte.
        codec: u8,
    },
    /// Decompression failed or gave another length than promised.
    #[error("compressed bytes do not give the {expected} bytes they should")]
    BadCompression {
        /// The promised plain length in bytes.
        expected: usize,
    },
    /// The slots opened so far hold no such key.
    #[error("this key slot holds no {class} key of epoch {epoch}")]
    MissingKey {
        /// The key's class.
        class: &'static str,
        /// The key's epoch.
        epoch: u32,
    },
    /// Argon2 refused the parameters or had no memory.
    #[error("key derivation failed: {reason}")]
    Derivation {
        /// What the key derivation said.
        reason: String,
    },
}
