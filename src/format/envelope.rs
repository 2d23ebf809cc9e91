//! The envelope around every sealed object that is stored by itself (`docs/format.md`, section 3).

use super::location::KEY_MODE_CLASS;
use super::wire::Reader;
use super::{FormatError, limits};
use crate::codec::CodecError;
use crate::codec::compress::Compression;
use crate::codec::keys::{KeyClass, Keyring};

const MAGIC: &[u8; 8] = b"COPALOBJ";
const VERSION: u16 = 1;

/// What an envelope holds. The discriminants are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ObjectKind {
    /// An archive record.
    Record = 1,
    /// An archive state.
    State = 2,
    /// A catalogue segment.
    Catalogue = 3,
    /// A session.
    Session = 5,
    /// A condemned list.
    Condemned = 6,
    /// An intent.
    Intent = 7,
    /// A forwarding.
    Forwarding = 8,
    /// A removal marker of a key slot.
    RemovalMarker = 9,
    /// A list of blobs that a repair gave up.
    Lost = 10,
}

impl ObjectKind {
    /// The class of key that seals it.
    #[must_use]
    pub fn class(self) -> KeyClass {
        match self {
            Self::Record | Self::State | Self::Catalogue => KeyClass::Records,
            _ => KeyClass::Index,
        }
    }

    /// The most plain bytes it may have.
    #[must_use]
    pub fn plain_limit(self) -> usize {
        match self {
            Self::Record => 1 << 20,
            Self::State | Self::Session => 64 << 10,
            Self::Catalogue => 16 << 20,
            Self::Condemned | Self::Intent => 64 << 20,
            Self::Forwarding | Self::Lost => 32 << 20,
            Self::RemovalMarker => 4 << 10,
        }
    }

    /// The most bytes it may have as stored.
    #[must_use]
    pub fn stored_limit(self) -> u64 {
        self.plain_limit() as u64 + limits::ENVELOPE_SLACK
    }

    /// What messages call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Record => "archive record",
            Self::State => "archive state",
            Self::Catalogue => "catalogue segment",
            Self::Session => "session",
            Self::Condemned => "condemned list",
            Self::Intent => "intent",
            Self::Forwarding => "forwarding",
            Self::RemovalMarker => "removal marker",
            Self::Lost => "list of lost blobs",
        }
    }
}

/// Seals `plain` as the object `name`.
///
/// # Errors
/// [`CodecError::MissingKey`], [`CodecError::TooLong`].
pub fn seal(keyring: &Keyring, kind: ObjectKind, name: &str, plain: &[u8]) -> Result<Vec<u8>, CodecError> {
    if plain.len() > kind.plain_limit() {
        return Err(CodecError::TooLong { len: plain.len(), limit: kind.plain_limit() });
    }
    let epoch = keyring.current_epoch();
    let mut out = Vec::with_capacity(24);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&[kind as u8, KEY_MODE_CLASS]);
    out.extend_from_slice(&epoch.to_le_bytes());
    out.extend_from_slice(&[0; 8]);
    let aad = aad(keyring, &out, name);
    let sealed = keyring.seal_key(kind.class(), epoch)?.seal_packed(&aad, plain, Compression::default());
    out.extend_from_slice(&sealed);
    Ok(out)
}

/// Why an envelope could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// The bytes break the format.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The bytes do not open.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

/// Opens the object `name`.
///
/// # Errors
/// [`EnvelopeError`].
pub fn open(keyring: &Keyring, kind: ObjectKind, name: &str, bytes: &[u8]) -> Result<Vec<u8>, EnvelopeError> {
    let mut reader = Reader::new(kind.name(), bytes);
    reader.magic(MAGIC)?;
    reader.version(VERSION)?;
    let [found, mode] = reader.array()?;
    if found != kind as u8 {
        return Err(FormatError::malformed(kind.name(), format!("it says it is of kind {found}")).into());
    }
    let epoch = reader.u32()?;
    if mode != KEY_MODE_CLASS {
        return Err(FormatError::KeyMode { what: kind.name(), mode }.into());
    }
    reader.zeros::<8>()?;
    let mut sealed = reader.rest().to_vec();
    let aad = aad(keyring, &bytes[..24], name);
    Ok(keyring.seal_key(kind.class(), epoch)?.open_packed(&aad, &mut sealed, kind.plain_limit())?)
}

fn aad(keyring: &Keyring, header: &[u8], name: &str) -> Vec<u8> {
    [keyring.repository().as_bytes(), header, name.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::keys::KeySet;
    use crate::id::RepositoryId;

    #[test]
    fn bound_to_name_kind_repository_and_every_bit() {
        let repository = RepositoryId([1; 16]);
        let ring = Keyring::new(repository, &KeySet::public(&repository), 1);
        let bytes = seal(&ring, ObjectKind::Record, "archives/a", b"plain").unwrap();
        let open_as = |kind, name, bytes: &[u8]| open(&ring, kind, name, bytes);
        assert_eq!(open_as(ObjectKind::Record, "archives/a", &bytes).unwrap(), b"plain");
        assert!(open_as(ObjectKind::Record, "archives/b", &bytes).is_err());
        assert!(open_as(ObjectKind::State, "archives/a", &bytes).is_err());
        for i in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[i] ^= 4;
            assert!(open_as(ObjectKind::Record, "archives/a", &bad).is_err(), "byte {i}");
            assert!(open_as(ObjectKind::Record, "archives/a", &bytes[..i]).is_err());
        }
        let other = RepositoryId([2; 16]);
        let other = Keyring::new(other, &KeySet::public(&repository), 1);
        assert!(open(&other, ObjectKind::Record, "archives/a", &bytes).is_err());
    }
}
