//! Making and opening repositories.

use std::sync::Arc;

use super::error::{Error, Result};
use super::objects::{mirror_name, name};
use super::slots::{OpenedSlot, SlotError, search};
use super::{Repository, now};
use crate::codec::keys::{FIRST_EPOCH, KeySet, Keyring};
use crate::codec::slot_key::{Derivation, Secret};
use crate::format::FormatError;
use crate::format::config::{
    ChunkerParams, ConfigBody, ConfigHeader, EncryptionMode, MAX_CONFIG, SealedConfig,
};
use crate::format::slot::{Slot, SlotPayload};
use crate::id::{RepositoryId, SlotId};
use crate::storage::{Name, Storage};

/// What a new repository is like.
#[derive(Debug, Clone)]
pub struct InitOptions {
    /// The secret of the first slot; `None` for a repository that is not encrypted.
    pub secret: Option<Secret>,
    /// How a passphrase becomes a key.
    pub derivation: Derivation,
    /// How images are cut.
    pub chunker: ChunkerParams,
    /// Spans are `1 << span_shift` bytes.
    pub span_shift: u8,
    /// Packs are closed at this size in bytes.
    pub pack_size: u32,
    /// Whether small objects are stored twice.
    pub mirror: bool,
    /// Bytes set aside for reclaiming space on a full storage.
    pub reserve: u32,
}

impl Default for InitOptions {
    /// 32 KiB chunks, 16 MiB spans, 24 MiB packs, small objects twice, a reserve of 8 MiB, no encryption.
    fn default() -> Self {
        Self {
            secret: None,
            derivation: Derivation::PASSPHRASE,
            chunker: ChunkerParams::fastcdc(32 << 10),
            span_shift: 24,
            pack_size: 24 << 20,
            mirror: true,
            reserve: 8 << 20,
        }
    }
}

/// Makes a repository in an empty storage. The config comes last: before it, there is no repository.
///
/// # Errors
/// [`Error::Storage`], [`Error::Codec`], [`Error::Format`].
pub fn init(storage: Arc<dyn Storage>, options: &InitOptions) -> Result<Repository> {
    options.chunker.check()?;
    let repository = RepositoryId::random();
    let keys = if options.secret.is_some() { KeySet::generate() } else { KeySet::public(&repository) };
    let encryption = if options.secret.is_some() { EncryptionMode::Slots } else { EncryptionMode::None };
    let keyring = Arc::new(Keyring::new(repository, &keys, FIRST_EPOCH));
    let header = ConfigHeader { encryption, epoch: FIRST_EPOCH, writer_features: 0, repository };
    let body = ConfigBody {
        generation: 1,
        created: now(),
        chunker: options.chunker,
        span_shift: options.span_shift,
        pack_size: options.pack_size,
        mirror: options.mirror,
        reserve: options.reserve,
        generator: concat!("copal ", env!("CARGO_PKG_VERSION")).into(),
    };
    let config = SealedConfig::seal(header, &body, &keyring)?;
    // Refuse what would not open again.
    SealedConfig::from_bytes(&config)?.open(&keyring)??;
    let made = Repository::new(storage, header, body, keyring);
    if let Some(secret) = &options.secret {
        let id = SlotId::random();
        let derivation = options.derivation.fit_for(secret);
        let payload = SlotPayload { keys, label: "first".into(), created: now() };
        let slot = Slot::seal(id, repository, derivation, secret, &payload)?;
        made.objects.put_bytes(&name(&format!("keys/{id}")), &[&slot])?;
    }
    super::reserve::set_aside(&made)?;
    made.objects.put_bytes(&name("config"), &[&config])?;
    Ok(made)
}

/// A repository whose config was read, but whose keys are not open yet.
#[derive(Debug)]
pub struct Locked {
    storage: Arc<dyn Storage>,
    config: SealedConfig,
}

impl Locked {
    /// Reads the config. Writes nothing.
    ///
    /// # Errors
    /// [`Error::NoRepository`], [`Error::NoConfig`], [`Error::Format`] for versions and features of the future, [`Error::Storage`].
    pub fn read(storage: Arc<dyn Storage>) -> Result<Self> {
        let stored = |name: &Name| -> Result<Vec<u8>> {
            storage.read(name, MAX_CONFIG).map_err(|source| Error::Storage {
                action: "read",
                name: name.to_string(),
                storage: storage.describe(),
                source,
            })
        };
        let parse = |bytes: Vec<u8>| Ok(SealedConfig::from_bytes(&bytes)?);
        let first = stored(&name("config"));
        let intact = first.as_ref().is_ok_and(|bytes| SealedConfig::is_intact(bytes));
        let config = match first.and_then(parse) {
            Ok(config) => config,
            // Not damage, but of the future: the second copy may just not be rewritten yet.
            Err(error @ Error::Format(FormatError::Version { .. } | FormatError::Features { .. }))
                if intact =>
            {
                return Err(error);
            }
            Err(error) => match stored(&mirror_name(&name("config"))).and_then(parse) {
                Ok(config) => {
                    log::warn!("{}; read from its second copy", super::archives::chain(&error));
                    config
                }
                Err(second) if error.is_missing() && second.is_missing() => {
                    let is_used = |folder| storage.names(folder).is_ok_and(|names| !names.is_empty());
                    let storage = storage.describe();
                    return Err(if ["keys", "archives", "packs"].into_iter().any(is_used) {
                        Error::NoConfig { storage }
                    } else {
                        Error::NoRepository { storage }
                    });
                }
                Err(second) => {
                    let error = if error.is_missing() { second } else { error };
                    return Err(match error {
                        Error::Format(source) => Error::DamagedConfig { storage: storage.describe(), source },
                        error => error,
                    });
                }
            },
        };
        Ok(Self { storage, config })
    }

    /// The config's plain part, not yet authenticated.
    #[must_use]
    pub fn header(&self) -> &ConfigHeader {
        &self.config.header
    }

    /// Whether a secret is needed.
    #[must_use]
    pub fn needs_secret(&self) -> bool {
        self.config.header.encryption == EncryptionMode::Slots
    }

    /// Opens the keys with `secret`, and the config with the keys. A repository that is not encrypted takes none.
    ///
    /// # Errors
    /// [`Error::WrongPassphrase`], [`Error::WrongKeyFile`], [`Error::NoKeySlot`], [`Error::ForeignConfig`], [`Error::RolledBackConfig`].
    pub fn unlock(self, secret: Option<&Secret>) -> Result<Repository> {
        let repository = self.config.header.repository;
        match (self.config.header.encryption, secret) {
            (EncryptionMode::None, _) => self.unlock_keys(&KeySet::public(&repository)),
            (EncryptionMode::Slots, Some(secret)) => Ok(self.unlock_slot(secret)?.0),
            (EncryptionMode::Slots, None) => Err(Error::NoKeySlot { repository }),
        }
    }

    /// As [`Self::unlock`], and hands on the slot that opened, with its keys.
    ///
    /// # Errors
    /// As [`Self::unlock`]; [`SlotError::NotEncrypted`] where there are no slots.
    pub fn unlock_slot(self, secret: &Secret) -> Result<(Repository, OpenedSlot)> {
        if !self.needs_secret() {
            return Err(SlotError::NotEncrypted.into());
        }
        let slot = search::open_first(&self.storage, self.config.header.repository, secret)?;
        let repository = self.unlock_keys(slot.keys())?;
        Ok((repository, slot))
    }

    /// Opens the config with keys that come from elsewhere, such as a recovery form.
    ///
    /// # Errors
    /// [`Error::ForeignConfig`], [`Error::RolledBackConfig`].
    pub fn unlock_keys(self, keys: &KeySet) -> Result<Repository> {
        let header = self.config.header;
        let repository = header.repository;
        let newest = keys.iter().map(|(_, epoch, _)| epoch).max().unwrap_or(FIRST_EPOCH);
        if header.epoch < newest {
            let reason = format!("its keys are of epoch {newest}, it says {}", header.epoch);
            return Err(Error::RolledBackConfig { repository, reason });
        }
        let keyring = Arc::new(Keyring::new(repository, keys, header.epoch));
        let opened = self.config.open(&keyring).map_err(|_| Error::ForeignConfig { repository })?;
        Ok(Repository::new(self.storage, header, opened?, keyring))
    }
}
