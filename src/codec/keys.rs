//! Keys: classes, epochs, derivation.
//!
//! A [`KeySet`] is what a slot holds: masters, or single class keys. A [`Keyring`] is what a set unlocks in one repository. The labels of
//! derivation are part of the format (`docs/format.md`, section 2).

use std::collections::BTreeMap;

use zeroize::Zeroizing;

use super::CodecError;
use super::seal::SealKey;
use crate::id::{BlobId, RepositoryId};

/// The first key epoch.
pub const FIRST_EPOCH: u32 = 1;

/// A 32-byte secret, wiped when dropped.
pub type Secret32 = Zeroizing<[u8; 32]>;

/// What a key may be used for. The discriminants are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum KeyClass {
    /// Derives all others of its epoch.
    Master = 1,
    /// Names content.
    Ids = 2,
    /// Seals chunks.
    Data = 3,
    /// Seals maps, nodes, records and what describes archives.
    Records = 4,
    /// Seals pack trailers, index segments and the protocol's objects.
    Index = 5,
    /// Seeds the chunker.
    Chunker = 6,
}

impl KeyClass {
    /// The class with this tag.
    #[must_use]
    pub fn from_tag(tag: u8) -> Option<Self> {
        [Self::Master, Self::Ids, Self::Data, Self::Records, Self::Index, Self::Chunker]
            .into_iter()
            .find(|class| *class as u8 == tag)
    }

    /// The class's name in derivation labels and messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Master => "master",
            Self::Ids => "ids",
            Self::Data => "data",
            Self::Records => "records",
            Self::Index => "index",
            Self::Chunker => "chunker",
        }
    }
}

/// The keys that a slot holds.
#[derive(Clone, Default)]
pub struct KeySet(BTreeMap<(u32, KeyClass), Secret32>);

impl std::fmt::Debug for KeySet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl KeySet {
    /// A fresh random master of the first epoch.
    #[must_use]
    pub fn generate() -> Self {
        let mut master = Secret32::default();
        getrandom::fill(master.as_mut()).expect("the system's random source works");
        Self::default().with(KeyClass::Master, FIRST_EPOCH, master)
    }

    /// The set of a repository that is not encrypted: no secret at all.
    #[must_use]
    pub fn public(repository: &RepositoryId) -> Self {
        let master = blake3::derive_key("copal v1 public master", repository.as_bytes());
        Self::default().with(KeyClass::Master, FIRST_EPOCH, Zeroizing::new(master))
    }

    /// Adds a key.
    #[must_use]
    pub fn with(mut self, class: KeyClass, epoch: u32, key: Secret32) -> Self {
        self.0.insert((epoch, class), key);
        self
    }

    /// All keys, by epoch and class.
    pub fn iter(&self) -> impl Iterator<Item = (KeyClass, u32, &Secret32)> {
        self.0.iter().map(|((epoch, class), key)| (*class, *epoch, key))
    }

    /// The key of a class and epoch, as held or as derived from that epoch's master.
    fn key(&self, class: KeyClass, epoch: u32, repository: &RepositoryId) -> Result<Secret32, CodecError> {
        if let Some(key) = self.0.get(&(epoch, class)) {
            return Ok(key.clone());
        }
        let missing = CodecError::MissingKey { class: class.name(), epoch };
        let master = self.0.get(&(epoch, KeyClass::Master)).ok_or(missing)?;
        let mut hasher = blake3::Hasher::new_derive_key(&format!("copal v1 class key: {}", class.name()));
        hasher.update(master.as_ref()).update(repository.as_bytes()).update(&epoch.to_le_bytes());
        Ok(Zeroizing::new(*hasher.finalize().as_bytes()))
    }
}

/// What kind of content a blob holds. The discriminants are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum BlobKind {
    /// Image data.
    Chunk = 1,
    /// The extents of a span.
    SpanMap = 2,
    /// A node of a map tree.
    Node = 3,
}

impl BlobKind {
    /// The kind with this tag.
    #[must_use]
    pub fn from_tag(tag: u8) -> Option<Self> {
        [Self::Chunk, Self::SpanMap, Self::Node].into_iter().find(|kind| *kind as u8 == tag)
    }

    /// The class of key that seals it.
    #[must_use]
    pub fn class(self) -> KeyClass {
        match self {
            Self::Chunk => KeyClass::Data,
            Self::SpanMap | Self::Node => KeyClass::Records,
        }
    }
}

/// The sealing keys of one epoch; classes that the slot does not hold are absent.
#[derive(Debug)]
struct EpochKeys {
    data: Option<SealKey>,
    records: Option<SealKey>,
    index: Option<SealKey>,
}

/// Every key that one slot unlocks in one repository, ready for use.
#[derive(Debug)]
pub struct Keyring {
    repository: RepositoryId,
    current: u32,
    epochs: BTreeMap<u32, EpochKeys>,
    ids: Option<IdKeys>,
    gear: Option<Box<[u64; 256]>>,
}

/// Keys of content names, one per kind of blob.
#[derive(Debug)]
struct IdKeys {
    chunk: Secret32,
    map: Secret32,
    node: Secret32,
}

impl Keyring {
    /// Derives all that `keys` allow; new objects are sealed with the keys of epoch `current`.
    #[must_use]
    pub fn new(repository: RepositoryId, keys: &KeySet, current: u32) -> Self {
        let seal_key = |class, epoch| keys.key(class, epoch, &repository).ok().map(|key| SealKey::new(&key));
        let epochs = keys.0.keys().map(|(epoch, _)| *epoch).map(|epoch| {
            let [data, records, index] =
                [KeyClass::Data, KeyClass::Records, KeyClass::Index].map(|class| seal_key(class, epoch));
            (epoch, EpochKeys { data, records, index })
        });
        let epochs = epochs.collect();
        let ids = keys.key(KeyClass::Ids, FIRST_EPOCH, &repository).ok().map(|ids| {
            let id_key = |label| Zeroizing::new(blake3::derive_key(label, ids.as_ref()));
            IdKeys {
                chunk: id_key("copal v1 id: chunk"),
                map: id_key("copal v1 id: map"),
                node: id_key("copal v1 id: node"),
            }
        });
        let gear = keys.key(KeyClass::Chunker, FIRST_EPOCH, &repository).ok().map(|key| gear_table(&key));
        Self { repository, current, epochs, ids, gear }
    }

    /// The repository whose keys these are.
    #[must_use]
    pub fn repository(&self) -> RepositoryId {
        self.repository
    }

    /// The epoch that new objects are sealed with.
    #[must_use]
    pub fn current_epoch(&self) -> u32 {
        self.current
    }

    /// The sealing key of a class and epoch.
    ///
    /// # Errors
    /// [`CodecError::MissingKey`] where the slot does not hold it.
    pub fn seal_key(&self, class: KeyClass, epoch: u32) -> Result<&SealKey, CodecError> {
        let keys = self.epochs.get(&epoch);
        let key = keys.and_then(|keys| match class {
            KeyClass::Data => keys.data.as_ref(),
            KeyClass::Records => keys.records.as_ref(),
            KeyClass::Index => keys.index.as_ref(),
            KeyClass::Master | KeyClass::Ids | KeyClass::Chunker => None,
        });
        key.ok_or(CodecError::MissingKey { class: class.name(), epoch })
    }

    /// The id of content: a keyed BLAKE3 hash.
    ///
    /// # Errors
    /// [`CodecError::MissingKey`] where the slot does not hold the ids key.
    pub fn blob_id(&self, kind: BlobKind, content: &[u8]) -> Result<BlobId, CodecError> {
        let missing = CodecError::MissingKey { class: KeyClass::Ids.name(), epoch: FIRST_EPOCH };
        let ids = self.ids.as_ref().ok_or(missing)?;
        let key = match kind {
            BlobKind::Chunk => &ids.chunk,
            BlobKind::SpanMap => &ids.map,
            BlobKind::Node => &ids.node,
        };
        Ok(BlobId(*blake3::keyed_hash(key, content).as_bytes()))
    }

    /// The chunker's gear table.
    ///
    /// # Errors
    /// [`CodecError::MissingKey`] where the slot does not hold the chunker key.
    pub fn gear(&self) -> Result<&[u64; 256], CodecError> {
        let missing = CodecError::MissingKey { class: KeyClass::Chunker.name(), epoch: FIRST_EPOCH };
        self.gear.as_deref().ok_or(missing)
    }
}

/// A gear table that only the key's holders know, so that chunk lengths do not tell which public files an image holds.
fn gear_table(key: &Secret32) -> Box<[u64; 256]> {
    let mut bytes = Zeroizing::new([0; 8 * 256]);
    blake3::Hasher::new_keyed(key).update(b"gear").finalize_xof().fill(bytes.as_mut());
    let mut gear = Box::new([0; 256]);
    for (value, bytes) in gear.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *value = u64::from_le_bytes(*bytes);
    }
    gear
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_kinds_and_repositories_are_separated() {
        let [a, b] = [RepositoryId([1; 16]), RepositoryId([2; 16])];
        let keys = KeySet::public(&a);
        let ring_a = Keyring::new(a, &keys, FIRST_EPOCH);
        let ring_b = Keyring::new(b, &keys, FIRST_EPOCH);
        let ids = [BlobKind::Chunk, BlobKind::SpanMap, BlobKind::Node]
            .map(|kind| ring_a.blob_id(kind, b"x").unwrap());
        assert!(ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2]);
        assert_ne!(ids[0], ring_b.blob_id(BlobKind::Chunk, b"x").unwrap());
        let sealed = ring_a.seal_key(KeyClass::Data, 1).unwrap().seal(b"", b"x");
        assert!(ring_a.seal_key(KeyClass::Records, 1).unwrap().open(b"", sealed.clone()).is_err());
        assert!(ring_a.seal_key(KeyClass::Data, 1).unwrap().open(b"", sealed).is_ok());
    }

    /// The derivation is part of the format: these values never change.
    #[test]
    fn golden_derivation() {
        let repository = RepositoryId([7; 16]);
        let ring = Keyring::new(repository, &KeySet::public(&repository), FIRST_EPOCH);
        assert_eq!(
            ring.blob_id(BlobKind::Chunk, b"copal").unwrap().to_string(),
            "4759522fbb6aa0a29d4ce00386bdc44c6348c705f4632f4d24f902696cfd556d"
        );
        assert_eq!(ring.gear().unwrap()[..2], [17_963_011_493_380_834_686, 9_170_257_997_167_195_164]);
    }

    #[test]
    fn a_slot_with_fewer_classes_opens_fewer_doors() {
        let repository = RepositoryId([7; 16]);
        let full = KeySet::public(&repository);
        let ids = full.key(KeyClass::Ids, 1, &repository).unwrap();
        let few = KeySet::default().with(KeyClass::Ids, 1, ids);
        let ring = Keyring::new(repository, &few, 1);
        let whole = Keyring::new(repository, &full, 1);
        assert_eq!(ring.blob_id(BlobKind::Chunk, b"x"), whole.blob_id(BlobKind::Chunk, b"x"));
        assert_eq!(
            ring.seal_key(KeyClass::Data, 1).unwrap_err(),
            CodecError::MissingKey { class: "data", epoch: 1 }
        );
    }
}
