//! From a passphrase or a key file to the key that wraps a slot.

use argon2::{Algorithm, Argon2, Block, Params, Version};
use rayon::iter::IndexedParallelIterator;
use unicode_normalization::UnicodeNormalization;
use zeroize::Zeroizing;

use super::CodecError;
use super::keys::Secret32;

/// How a slot's wrapping key is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Derivation {
    /// Argon2id of a passphrase (RFC 9106).
    Argon2id {
        /// Memory in KiB.
        memory_kib: u32,
        /// Passes over it.
        iterations: u32,
        /// Lanes.
        lanes: u32,
    },
    /// BLAKE3 of a file.
    KeyFile,
}

impl Derivation {
    /// RFC 9106's choice for machines without gigabytes to spare: 64 MiB, three passes, four lanes.
    pub const PASSPHRASE: Self = Self::Argon2id { memory_kib: 64 << 10, iterations: 3, lanes: 4 };

    /// How a slot for this secret derives its key: a passphrase as `self` says, a key file without stretching.
    #[must_use]
    pub fn fit_for(self, secret: &Secret) -> Self {
        match secret {
            Secret::Passphrase(_) => self,
            Secret::KeyFile(_) => Self::KeyFile,
        }
    }

    /// Bytes of memory that the derivation takes.
    #[must_use]
    pub fn memory(self) -> u64 {
        match self {
            Self::Argon2id { memory_kib, .. } => u64::from(memory_kib) << 10,
            Self::KeyFile => 0,
        }
    }

    /// How much work it is, to compare with others: KiB times passes.
    #[must_use]
    pub fn cost(self) -> u64 {
        match self {
            Self::Argon2id { memory_kib, iterations, .. } => u64::from(memory_kib) * u64::from(iterations),
            Self::KeyFile => 0,
        }
    }

    /// Within what bounds Argon2's parameters are accepted from a stored slot: memory in KiB, passes, lanes. The memory bound (4 GiB) keeps a
    /// hostile slot from exhausting the machine.
    pub const ARGON2_LIMITS: [std::ops::RangeInclusive<u32>; 3] = [8..=4 << 20, 1..=64, 1..=16];
}

/// What the user knows or has.
#[derive(Clone)]
pub enum Secret {
    /// A passphrase.
    Passphrase(Zeroizing<String>),
    /// The contents of a key file.
    KeyFile(Zeroizing<Vec<u8>>),
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Passphrase(_) => "Secret::Passphrase(..)",
            Self::KeyFile(_) => "Secret::KeyFile(..)",
        })
    }
}

/// The key that wraps a slot; `None` where the secret is of the other sort.
///
/// # Errors
/// [`CodecError::Derivation`] where Argon2 lacks memory or refuses its parameters.
pub fn wrapping_key(
    derivation: Derivation,
    salt: &[u8; 32],
    secret: &Secret,
) -> Result<Option<Secret32>, CodecError> {
    match (derivation, secret) {
        (Derivation::Argon2id { memory_kib, iterations, lanes }, Secret::Passphrase(passphrase)) => {
            let failed = |error: argon2::Error| CodecError::Derivation { reason: error.to_string() };
            let params = Params::new(memory_kib, iterations, lanes, Some(32)).map_err(failed)?;
            let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
            let passphrase = Zeroizing::new(passphrase.nfc().collect::<String>());
            let mut key = Secret32::default();
            let memory = blocks(argon2.params().block_count()).map_err(failed)?;
            argon2
                .hash_password_into_with_memory(passphrase.as_bytes(), salt, key.as_mut(), memory)
                .map_err(failed)?;
            Ok(Some(key))
        }
        (Derivation::KeyFile, Secret::KeyFile(contents)) => {
            let mut hasher = blake3::Hasher::new_derive_key("copal v1 key file slot");
            hasher.update(salt).update(blake3::hash(contents).as_bytes());
            Ok(Some(Zeroizing::new(*hasher.finalize().as_bytes())))
        }
        _ => Ok(None),
    }
}

/// Argon2's memory, made by all cores: one takes a quarter of the time of the whole derivation for it.
fn blocks(count: usize) -> Result<Vec<Block>, argon2::Error> {
    let mut blocks = Vec::new();
    blocks.try_reserve_exact(count).map_err(|_| argon2::Error::OutOfMemory)?;
    rayon::iter::repeat_n(Block::new(), count).collect_into_vec(&mut blocks);
    Ok(blocks)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAST: Derivation = Derivation::Argon2id { memory_kib: 8, iterations: 1, lanes: 1 };

    fn passphrase(text: &str) -> Secret {
        Secret::Passphrase(Zeroizing::new(text.into()))
    }

    #[test]
    fn salt_passphrase_and_sort_matter_but_not_the_normal_form() {
        let key = |salt, text| *wrapping_key(FAST, &[salt; 32], &passphrase(text)).unwrap().unwrap();
        assert_eq!(key(1, "caf\u{e9}"), key(1, "cafe\u{301}"));
        assert_ne!(key(1, "café"), key(2, "café"));
        assert_ne!(key(1, "café"), key(1, "cafe"));
        assert!(wrapping_key(Derivation::KeyFile, &[1; 32], &passphrase("x")).unwrap().is_none());
    }

    #[test]
    fn secrets_do_not_print() {
        assert!(!format!("{:?}", passphrase("hunter2")).contains("hunter2"));
    }
}
