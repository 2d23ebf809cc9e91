//! Opening a repository for a command: storage, memory, secret, keys, archives.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};

use super::output::{escaped, time};
use super::secret::SecretArgs;
use crate::codec::keys::KeySet;
use crate::codec::slot_key::Secret;
use crate::id::RepositoryId;
use crate::repository::Repository;
use crate::repository::archives::{Archive, Listing, LostArchive, is_deleted, list_all};
use crate::repository::known::{Memory, Recalled};
use crate::repository::slots::OpenedSlot;
use crate::repository::unlock::Locked;
use crate::storage::Storage;
use crate::storage::local::LocalStorage;
use crate::storage::patient::Patient;

/// An open repository, and its archives, oldest first.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) repository: Arc<Repository>,
    /// Of the listing that tells the archives.
    pub(super) mark: [u8; 32],
    pub(super) archives: Vec<Archive>,
    /// Those that were deleted, and whose space may not be reclaimed yet.
    pub(super) deleted: Vec<Archive>,
    /// Those that cannot be shown, though nobody deleted them.
    pub(super) lost: Vec<LostArchive>,
    place: String,
    memory: Memory,
}

/// A repository that was found and judged, but is not unlocked.
#[derive(Debug)]
pub(super) struct Found {
    locked: Locked,
    place: String,
    memory: Memory,
    /// What was remembered before anything was read; `None` if that does not matter.
    recalled: Option<Recalled>,
}

impl Found {
    /// Reads the config at `path` and holds it against what this machine remembers.
    pub(super) fn at(path: &Path, secrets: &SecretArgs, secret_given: bool) -> anyhow::Result<Self> {
        Self::in_storage(path, secrets, secret_given, |storage| Arc::new(storage))
    }

    /// As [`Self::at`], for what may not wait for the storage longer than this, all the time it is open.
    pub(super) fn within(
        path: &Path,
        secrets: &SecretArgs,
        secret_given: bool,
        patience: Duration,
    ) -> anyhow::Result<Self> {
        Self::in_storage(path, secrets, secret_given, |storage| Arc::new(Patient::new(storage, patience)))
    }

    fn in_storage(
        path: &Path,
        secrets: &SecretArgs,
        secret_given: bool,
        wrap: impl FnOnce(LocalStorage) -> Arc<dyn Storage>,
    ) -> anyhow::Result<Self> {
        let place = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let storage = LocalStorage::open(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => anyhow!(
                "there is no repository at {}: no such directory; check the path, or make one with 'copal init'",
                path.display()
            ),
            io::ErrorKind::NotADirectory => anyhow!("{} is not a directory, so no repository", path.display()),
            _ => anyhow!(error).context(format!("cannot open {}", path.display())),
        })?;
        let memory = Memory::new(state_directory());
        let place = escaped(place.as_os_str().as_bytes());
        let mut recalled = (!secrets.trust_changed).then(|| memory.recall(&place));
        let locked = Locked::read(wrap(storage))?;
        if let Some(recalled) = &mut recalled {
            recalled.check_header(locked.header(), secret_given)?;
        }
        Ok(Self { locked, place, memory, recalled })
    }

    /// Whether a secret is needed.
    pub(super) fn needs_secret(&self) -> bool {
        self.locked.needs_secret()
    }

    /// As [`Self::unlock`], asking for the secret if one is needed.
    pub(super) fn ask_and_unlock(self, path: &Path, secrets: &SecretArgs) -> anyhow::Result<Opened> {
        let secret = if self.needs_secret() { Some(secrets.get(path)?) } else { None };
        self.unlock(secret.as_ref())
    }

    /// Unlocks, lists, and holds the archives against what this machine remembers.
    pub(super) fn unlock(self, secret: Option<&Secret>) -> anyhow::Result<Opened> {
        self.open(|locked| Ok((locked.unlock(secret)?, ()))).map(|(opened, ())| opened)
    }

    /// As [`Self::unlock`], and hands on the slot that opened.
    pub(super) fn unlock_slot(self, secret: &Secret) -> anyhow::Result<(Opened, OpenedSlot)> {
        self.open(|locked| locked.unlock_slot(secret))
    }

    /// As [`Self::unlock`], with keys from elsewhere.
    pub(super) fn unlock_keys(self, keys: &KeySet) -> anyhow::Result<Opened> {
        self.open(|locked| Ok((locked.unlock_keys(keys)?, ()))).map(|(opened, ())| opened)
    }

    /// The repository's id, as its config says.
    pub(super) fn id(&self) -> RepositoryId {
        self.locked.header().repository
    }

    fn open<T>(
        self,
        unlock: impl FnOnce(Locked) -> crate::repository::Result<(Repository, T)>,
    ) -> anyhow::Result<(Opened, T)> {
        let Self { locked, place, memory, recalled } = self;
        let (repository, more) = unlock(locked)?;
        let repository = Arc::new(repository);
        let listing = list_all(repository.objects())?;
        let generation = repository.config().generation;
        if let Some(recalled) = recalled {
            let is_deleted = |archive| is_deleted(repository.objects(), archive).unwrap_or(false);
            recalled.check_archives(repository.id(), generation, &listing, &is_deleted)?;
        }
        let Listing { mark, archives, deleted, lost } = listing;
        memory.remember(&place, repository.header(), generation, &archives);
        Ok((Opened { repository, mark, archives, deleted, lost, place, memory }, more))
    }
}

impl Opened {
    /// Tells of archives that would be listed if their records were not gone.
    pub(super) fn warn_of_lost(&self) {
        for LostArchive { id, known, reason } in &self.lost {
            let Some(known) = known else { continue };
            log::warn!(
                "archive {id} ({}, {}) cannot be shown: {reason}; bring it back from a copy of the repository, or give it up: copal delete 'REPO::#{id}'",
                known.name,
                time(known.time())
            );
        }
    }

    /// Opens the repository at `path`, asking for its secret if it needs one.
    pub(super) fn at(path: &Path, secrets: &SecretArgs) -> anyhow::Result<Self> {
        Found::at(path, secrets, secrets.is_given())?.ask_and_unlock(path, secrets)
    }

    /// Remembers the archives as they are now.
    pub(super) fn remember(&self) -> anyhow::Result<()> {
        let archives =
            self.repository.archives().context("all is done, but the archives cannot be listed")?;
        let generation = self.repository.config().generation;
        self.memory.remember(&self.place, self.repository.header(), generation, &archives);
        Ok(())
    }
}

/// Remembers a repository that was just made.
pub(super) fn remember_new(path: &Path, repository: &Repository) {
    let place = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let generation = repository.config().generation;
    Memory::new(state_directory()).remember(
        &escaped(place.as_os_str().as_bytes()),
        repository.header(),
        generation,
        &[],
    );
}

/// `$COPAL_STATE_DIR`, `$XDG_STATE_HOME/copal`, `~/.local/state/copal`, or `/var/lib/copal`.
fn state_directory() -> PathBuf {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("COPAL_STATE_DIR")
        .or_else(|| variable("XDG_STATE_HOME").map(|state| state.join("copal")))
        .or_else(|| variable("HOME").map(|home| home.join(".local/state/copal")))
        .unwrap_or_else(|| PathBuf::from("/var/lib/copal"))
}
