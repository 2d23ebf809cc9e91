//! The repository: sealed objects, packs, the index, archives, and the protocol that keeps chunks alive.
//!
//! Readers never write and never take a lock. Writers follow the order of publication of `docs/format.md`, section 13.

pub mod archives;
pub mod catalogue;
pub mod error;
pub mod glob;
pub mod guards;
pub mod index;
pub mod known;
pub mod liveness;
pub mod objects;
pub mod packer;
pub mod packs;
pub mod reference;
pub mod reserve;
pub mod segments;
pub mod session;
pub mod slots;
pub mod standing;
pub mod states;
pub mod unlock;

use std::sync::Arc;
use std::time::Instant;

pub use error::{Error, Result};

use crate::codec::keys::Keyring;
use crate::format::config::{ConfigBody, ConfigHeader};
use crate::id::RepositoryId;
use crate::storage::Storage;
use objects::Objects;
use packs::Packs;

/// An unlocked repository.
#[derive(Debug)]
pub struct Repository {
    header: ConfigHeader,
    config: ConfigBody,
    keyring: Arc<Keyring>,
    objects: Objects,
    packs: Packs,
}

impl Repository {
    fn new(
        storage: Arc<dyn Storage>,
        header: ConfigHeader,
        config: ConfigBody,
        keyring: Arc<Keyring>,
    ) -> Self {
        let objects = Objects::new(storage, keyring.clone(), config.mirror);
        let packs = Packs::new(objects.clone());
        Self { header, config, keyring, objects, packs }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> RepositoryId {
        self.header.repository
    }

    /// The config's plain part.
    #[must_use]
    pub fn header(&self) -> &ConfigHeader {
        &self.header
    }

    /// The config's sealed part.
    #[must_use]
    pub fn config(&self) -> &ConfigBody {
        &self.config
    }

    /// The keys that the opened slot holds.
    #[must_use]
    pub fn keyring(&self) -> &Arc<Keyring> {
        &self.keyring
    }

    /// Its sealed objects.
    #[must_use]
    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    /// When the request that this thread works on has had all the time that it may take, if there is such a time.
    #[must_use]
    pub fn request_ends(&self) -> Option<Instant> {
        self.objects.storage().request_ends()
    }

    /// Its blobs.
    #[must_use]
    pub fn packs(&self) -> &Packs {
        &self.packs
    }

    /// Another handle of the same repository, which remembers nothing of what was read through this one.
    #[must_use]
    pub fn again(&self) -> Self {
        Self::new(self.objects.storage().clone(), self.header, self.config.clone(), self.keyring.clone())
    }

    /// Refuses writers that do not know all the repository's features.
    ///
    /// # Errors
    /// [`Error::ReadOnlyFeatures`].
    pub fn check_writable(&self) -> Result<()> {
        match self.header.writer_features {
            0 => Ok(()),
            bits => Err(Error::ReadOnlyFeatures { bits }),
        }
    }
}

/// Now, in ns since 1970, UTC.
#[must_use]
pub fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
