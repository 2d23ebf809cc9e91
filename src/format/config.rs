//! The config: what every client must know of a repository (`docs/format.md`, section 4).

use serde::{Deserialize, Serialize};

use super::limits::{self, MAX_CONFIG_BODY};
use super::wire::{Reader, checksum, verify_checksum};
use super::{FormatError, msgpack};
use crate::codec::CodecError;
use crate::codec::keys::{KeyClass, Keyring};
use crate::id::RepositoryId;

const MAGIC: &[u8; 8] = b"COPALCFG";
/// The format version that this program reads and writes.
pub const FORMAT_VERSION: u16 = 1;
/// Bytes before the sealed body.
const HEADER_LEN: usize = 56;
/// Longest stored config in bytes.
pub const MAX_CONFIG: u64 = (HEADER_LEN + 16) as u64 + MAX_CONFIG_BODY as u64;

/// Whether a secret is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum EncryptionMode {
    /// Keys derive from the repository id: damage is noticed, nothing is secret.
    None = 0,
    /// Keys are in slots.
    Slots = 1,
}

/// The plain part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConfigHeader {
    /// Whether a secret is needed.
    pub encryption: EncryptionMode,
    /// The key epoch that new objects use.
    pub epoch: u32,
    /// Features that a writer must know; readers ignore them.
    pub writer_features: u64,
    /// The repository's id.
    pub repository: RepositoryId,
}

/// How images are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkerParams {
    /// The algorithm.
    pub kind: ChunkerKind,
    /// Shortest chunk but for the last of a span, in bytes.
    pub min: u32,
    /// Average in bytes.
    pub avg: u32,
    /// Longest in bytes.
    pub max: u32,
}

/// The chunking algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChunkerKind {
    /// Content-defined.
    #[serde(rename = "fastcdc-1")]
    FastCdc,
    /// Fixed length.
    #[serde(rename = "fixed-1")]
    Fixed,
}

impl ChunkerParams {
    /// FastCDC around an average length, a power of two from 16 KiB to 1 MiB. Chunks are a quarter of it to twice as long: who reads a block opens its whole
    /// chunk, so that long ones, of which most blocks are part, cost more than short ones save.
    #[must_use]
    pub fn fastcdc(avg: u32) -> Self {
        Self { kind: ChunkerKind::FastCdc, min: avg / 4, avg, max: avg * 2 }
    }

    /// Pieces of one length.
    #[must_use]
    pub fn fixed(len: u32) -> Self {
        Self { kind: ChunkerKind::Fixed, min: len, avg: len, max: len }
    }

    /// Checks the bounds of the format.
    ///
    /// # Errors
    /// [`FormatError::Malformed`].
    pub fn check(&self) -> Result<(), FormatError> {
        let malformed = |reason| Err(FormatError::malformed("chunker", reason));
        let Self { kind, min, avg, max } = *self;
        if min < limits::MIN_CHUNK || min > avg || avg > max || max > limits::MAX_CHUNK {
            return malformed(format!(
                "lengths {min}, {avg}, {max} are not in order between 4 KiB and 4 MiB"
            ));
        }
        match kind {
            ChunkerKind::Fixed if min != max || !min.is_multiple_of(4096) => {
                malformed("a fixed length is one multiple of 4 KiB".into())
            }
            ChunkerKind::FastCdc if !avg.is_power_of_two() || avg > 1 << 20 || min > 1 << 20 => {
                malformed("FastCDC's average is a power of two, at most 1 MiB".into())
            }
            ChunkerKind::FastCdc if !min.is_multiple_of(2) || !max.is_multiple_of(2) => {
                malformed("FastCDC's lengths are even".into())
            }
            _ => Ok(()),
        }
    }
}

/// The sealed part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigBody {
    /// One more at each rewrite.
    pub generation: u64,
    /// When the repository was made, in ns since 1970, UTC.
    pub created: i64,
    /// How images are cut unless a create says otherwise.
    pub chunker: ChunkerParams,
    /// Spans are `1 << span_shift` bytes.
    pub span_shift: u8,
    /// A pack is closed when it has reached this many bytes.
    pub pack_size: u32,
    /// Whether small objects are stored twice.
    pub mirror: bool,
    /// Bytes set aside for what must be written to a full storage before space comes back.
    pub reserve: u32,
    /// The program that made the repository.
    pub generator: String,
}

impl ConfigBody {
    fn check(&self) -> Result<(), FormatError> {
        self.chunker.check()?;
        let bounds = limits::MIN_SPAN_SHIFT..=limits::MAX_SPAN_SHIFT;
        if !bounds.contains(&self.span_shift) || !limits::PACK_SIZES.contains(&self.pack_size) {
            return Err(FormatError::malformed("config", "span or pack size is out of bounds"));
        }
        if self.reserve > limits::MAX_RESERVE {
            return Err(FormatError::malformed("config", "its reserve is out of bounds"));
        }
        Ok(())
    }
}

impl ConfigHeader {
    fn to_bytes(self, body_len: u32) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_LEN);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        out.extend_from_slice(&[self.encryption as u8, 0]);
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.extend_from_slice(&0u64.to_le_bytes());
        out.extend_from_slice(&self.writer_features.to_le_bytes());
        out.extend_from_slice(self.repository.as_bytes());
        out.extend_from_slice(&body_len.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out
    }
}

/// A config as read, its body still sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedConfig {
    /// The plain part; not authentic until the body was opened.
    pub header: ConfigHeader,
    aad: Vec<u8>,
    body: Vec<u8>,
}

impl SealedConfig {
    /// Seals a config under the *index* key of the header's epoch and gives its stored form.
    ///
    /// # Errors
    /// [`CodecError::MissingKey`].
    pub fn seal(header: ConfigHeader, body: &ConfigBody, keyring: &Keyring) -> Result<Vec<u8>, CodecError> {
        let plain = msgpack::to_bytes(body);
        let body_len =
            u32::try_from(plain.len() + crate::codec::seal::SEAL_OVERHEAD).expect("a config is small");
        let mut out = header.to_bytes(body_len);
        let sealed = keyring.seal_key(KeyClass::Index, header.epoch)?.seal(&out, &plain);
        out.extend_from_slice(&sealed);
        let sum = checksum(&out);
        out.extend_from_slice(&sum);
        Ok(out)
    }

    /// Reads the plain part.
    ///
    /// # Errors
    /// Version and features are judged before the checksum, so that a repository of the future is named as such.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new("config", bytes);
        reader.magic(MAGIC)?;
        reader.version(FORMAT_VERSION)?;
        let encryption = reader.u8()?;
        reader.zeros::<1>()?;
        let epoch = reader.u32()?;
        let unknown = reader.u64()?;
        if unknown != 0 {
            return Err(FormatError::Features { bits: bits_of(unknown) });
        }
        let writer_features = reader.u64()?;
        let covered = verify_checksum("config", bytes)?;
        let encryption = match encryption {
            0 => EncryptionMode::None,
            1 => EncryptionMode::Slots,
            other => return Err(FormatError::malformed("config", format!("encryption mode {other}"))),
        };
        let repository = RepositoryId(reader.array()?);
        let body_len = reader.count("length of the config's body", MAX_CONFIG_BODY, 1)?;
        reader.zeros::<4>()?;
        let body = reader.bytes(body_len)?.to_vec();
        if covered.len() != HEADER_LEN + body_len {
            return Err(FormatError::malformed("config", "it is longer than it says"));
        }
        let header = ConfigHeader { encryption, epoch, writer_features, repository };
        Ok(Self { header, aad: covered[..HEADER_LEN].to_vec(), body })
    }

    /// Whether these are the bytes of a config that somebody wrote, of this version or another.
    #[must_use]
    pub fn is_intact(bytes: &[u8]) -> bool {
        bytes.starts_with(MAGIC) && verify_checksum("config", bytes).is_ok()
    }

    /// Opens the body.
    ///
    /// # Errors
    /// [`CodecError`] where the keys do not fit or bytes were changed; [`FormatError`] where the body breaks a bound.
    pub fn open(&self, keyring: &Keyring) -> Result<Result<ConfigBody, FormatError>, CodecError> {
        let plain =
            keyring.seal_key(KeyClass::Index, self.header.epoch)?.open(&self.aad, self.body.clone())?;
        Ok(msgpack::from_bytes::<ConfigBody>("config", &plain).and_then(|body| body.check().map(|()| body)))
    }
}

fn bits_of(features: u64) -> Vec<u32> {
    (0..64).filter(|bit| features >> bit & 1 == 1).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::keys::KeySet;

    fn sample() -> (Keyring, Vec<u8>, ConfigBody) {
        let repository = RepositoryId([9; 16]);
        let keyring = Keyring::new(repository, &KeySet::public(&repository), 1);
        let header =
            ConfigHeader { encryption: EncryptionMode::None, epoch: 1, writer_features: 0, repository };
        let body = ConfigBody {
            generation: 1,
            created: 5,
            chunker: ChunkerParams::fastcdc(32 << 10),
            span_shift: 24,
            pack_size: 24 << 20,
            mirror: true,
            reserve: 8 << 20,
            generator: "test".into(),
        };
        let bytes = SealedConfig::seal(header, &body, &keyring).unwrap();
        (keyring, bytes, body)
    }

    #[test]
    fn round_trips_and_every_flipped_bit_is_noticed() {
        let (keyring, bytes, body) = sample();
        let config = SealedConfig::from_bytes(&bytes).unwrap();
        assert_eq!(config.open(&keyring).unwrap().unwrap(), body);
        for i in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[i] ^= 0x10;
            assert!(SealedConfig::from_bytes(&bad).is_err(), "byte {i}");
            assert!(SealedConfig::from_bytes(&bytes[..i]).is_err());
        }
    }

    #[test]
    fn a_forged_header_does_not_open() {
        let (keyring, mut bytes, _) = sample();
        bytes[24] ^= 1; // a writer feature
        let end = bytes.len() - 16;
        let sum = checksum(&bytes[..end]);
        bytes[end..].copy_from_slice(&sum);
        let config = SealedConfig::from_bytes(&bytes).unwrap();
        assert_eq!(config.open(&keyring), Err(CodecError::Unverified));
    }

    #[test]
    fn the_future_is_refused_by_name() {
        let (_, bytes, _) = sample();
        let mut newer = bytes.clone();
        newer[8] = 2;
        let error = SealedConfig::from_bytes(&newer).unwrap_err();
        assert_eq!(error, FormatError::Version { what: "config", found: 2, supported: 1 });
        let mut features = bytes;
        features[16] = 0b101;
        assert_eq!(
            SealedConfig::from_bytes(&features).unwrap_err(),
            FormatError::Features { bits: vec![0, 2] }
        );
    }
}
