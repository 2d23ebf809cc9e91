//! What this client remembers of repositories, so that one that was swapped, downgraded or rolled back is noticed.
//!
//! One small JSON file per repository and one per place, in the client's state directory. They hold no secret. Losing them loses
//! only the memory; where they cannot be written, that is logged.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::archives::{Archive, Listing};
use super::reference::format_time;
use crate::format::config::{ConfigHeader, EncryptionMode};
use crate::id::{ArchiveId, RepositoryId};

/// Longest memory file that is read, in bytes.
const MAX_FILE: u64 = 16 << 20;

/// Why a repository is not what this client knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Distrust {
    /// Another repository stands in this place.
    #[error(
        "{place} held repository {known} and now holds {found}: it was replaced, or another disk is mounted there; if that is right, repeat with --trust-changed"
    )]
    Swapped {
        /// The place.
        place: String,
        /// What it held.
        known: RepositoryId,
        /// What it holds.
        found: RepositoryId,
    },
    /// It was encrypted.
    #[error(
        "repository {repository} was encrypted and now says it is not: somebody may have replaced it to see your data; do not back up to it; if that is right, repeat with --trust-changed"
    )]
    Downgraded {
        /// The repository.
        repository: RepositoryId,
    },
    /// A secret was given, but none is needed.
    #[error(
        "a passphrase or key file was given, but repository {repository} is not encrypted: somebody may have replaced it; if that is right, take the secret away"
    )]
    Unencrypted {
        /// The repository.
        repository: RepositoryId,
    },
    /// Archives that this client has seen are not there.
    #[error(
        "repository {repository} lacks archive {archive} ({name}, {time}), which this machine has seen, nothing newer of that name, and no word of its deletion: it was rolled back, or the archive's record was lost, or the archive was deleted elsewhere and its space reclaimed since; 'copal check --trust-changed' looks and changes nothing; if all is right, repeat with --trust-changed"
    )]
    RolledBack {
        /// The repository.
        repository: RepositoryId,
        /// The missing archive.
        archive: ArchiveId,
        /// Its name.
        name: String,
        /// Its time.
        time: String,
    },
    /// Its config is an older one.
    #[error(
        "repository {repository} shows generation {found} of its config, this machine has seen {known}: it was rolled back; if that is right, repeat with --trust-changed"
    )]
    OlderConfig {
        /// The repository.
        repository: RepositoryId,
        /// What it shows.
        found: u64,
        /// What was seen.
        known: u64,
    },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Remembered {
    encryption: EncryptionMode,
    generation: u64,
    /// The archive stored last, by name, and when it was.
    newest: BTreeMap<String, (ArchiveId, i64)>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Place {
    place: String,
    repository: RepositoryId,
}

/// The memory, in one directory.
#[derive(Debug, Clone)]
pub struct Memory {
    directory: PathBuf,
}

impl Memory {
    /// A memory in `directory`, which is made when first written.
    #[must_use]
    pub fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    fn repository_file(&self, id: RepositoryId) -> PathBuf {
        self.directory.join(format!("{id}.json"))
    }

    fn place_file(&self, place: &str) -> PathBuf {
        self.directory.join(format!("place-{}.json", &blake3::hash(place.as_bytes()).to_hex()[..32]))
    }

    /// What is remembered of a place and of the repository in it. To be asked before anything of the repository is read: what another command
    /// of this machine remembers while this one reads could be newer than what it has read.
    #[must_use]
    pub fn recall(&self, place: &str) -> Recalled {
        let held = read::<Place>(&self.place_file(place)).map(|known| known.repository);
        let seen = held.and_then(|held| self.seen(held));
        Recalled { memory: self.clone(), place: place.into(), held, seen }
    }

    fn seen(&self, repository: RepositoryId) -> Option<Remembered> {
        read(&self.repository_file(repository))
    }

    /// Remembers what was seen; a failure is logged. Archives that are not confirmed may yet be withdrawn and are not remembered.
    pub fn remember(&self, place: &str, header: &ConfigHeader, generation: u64, archives: &[Archive]) {
        let confirmed = archives.iter().filter(|archive| !archive.unconfirmed);
        let mut newest: BTreeMap<String, (ArchiveId, i64)> = BTreeMap::new();
        for archive in confirmed {
            // By when it was stored: the moment it stands for is whatever the user said.
            let stored = (archive.id(), archive.entry.finished);
            let known = newest.entry(archive.name.to_string()).or_insert(stored);
            if known.1 < stored.1 {
                *known = stored;
            }
        }
        let remembered = Remembered { encryption: header.encryption, generation, newest };
        let place_known = Place { place: place.into(), repository: header.repository };
        let written = write(&self.repository_file(header.repository), &remembered)
            .and_then(|()| write(&self.place_file(place), &place_known));
        if let Err(error) = written {
            log::warn!(
                "cannot remember this repository in {}: {error}; a later swap or rollback will go unnoticed",
                self.directory.display()
            );
        }
    }
}

/// What was remembered when a command began.
#[derive(Debug)]
pub struct Recalled {
    memory: Memory,
    place: String,
    /// The repository that was in the place.
    held: Option<RepositoryId>,
    seen: Option<Remembered>,
}

impl Recalled {
    /// Judges what a config's plain part says, before any secret is asked for.
    ///
    /// # Errors
    /// [`Distrust`].
    pub fn check_header(&mut self, header: &ConfigHeader, secret_given: bool) -> Result<(), Distrust> {
        let repository = header.repository;
        if let Some(known) = self.held.filter(|known| *known != repository) {
            return Err(Distrust::Swapped { place: self.place.clone(), known, found: repository });
        }
        if self.held.is_none() {
            // It may be known from another place.
            self.seen = self.memory.seen(repository);
        }
        if header.encryption == EncryptionMode::None {
            if self.seen.as_ref().is_some_and(|seen| seen.encryption != EncryptionMode::None) {
                return Err(Distrust::Downgraded { repository });
            }
            if secret_given {
                return Err(Distrust::Unencrypted { repository });
            }
        }
        Ok(())
    }

    /// Judges the archives of an opened repository whose header was judged.
    ///
    /// One that this client remembers may be called otherwise now, give way to a newer one of its name, or be listed as deleted, restored though it may be since.
    /// One that is not there is asked for with `is_deleted`: a sealed state that says so is somebody's deletion, and no rollback.
    ///
    /// # Errors
    /// [`Distrust`].
    pub fn check_archives(
        &self,
        repository: RepositoryId,
        generation: u64,
        listing: &Listing,
        is_deleted: &dyn Fn(ArchiveId) -> bool,
    ) -> Result<(), Distrust> {
        let Some(seen) = &self.seen else { return Ok(()) };
        if generation < seen.generation {
            return Err(Distrust::OlderConfig { repository, found: generation, known: seen.generation });
        }
        let all = listing.archives.iter().chain(&listing.deleted);
        let listed: HashSet<ArchiveId> = all.map(Archive::id).collect();
        let mut newest: HashMap<&str, i64> = HashMap::new();
        for found in &listing.archives {
            let finished = newest.entry(found.name.as_str()).or_insert(found.entry.finished);
            *finished = found.entry.finished.max(*finished);
        }
        for (name, &(archive, time)) in &seen.newest {
            let gave_way = newest.get(name.as_str()).is_some_and(|finished| *finished > time);
            if !listed.contains(&archive) && !gave_way && !is_deleted(archive) {
                let (name, time) = (name.clone(), format_time(time));
                return Err(Distrust::RolledBack { repository, archive, name, time });
            }
        }
        Ok(())
    }
}

fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> Option<T> {
    let len = std::fs::metadata(path).ok()?.len();
    if len > MAX_FILE {
        log::warn!("{} is too long and is ignored", path.display());
        return None;
    }
    let bytes = std::fs::read(path).ok()?;
    match serde_json::from_slice(&bytes) {
        Ok(value) => Some(value),
        Err(error) => {
            log::warn!("{} cannot be read and is ignored: {error}", path.display());
            None
        }
    }
}

fn write<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let bytes = serde_json::to_vec_pretty(value)?;
    if std::fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    let directory = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(directory)?;
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    io::Write::write_all(&mut file, &bytes)?;
    file.as_file().sync_data()?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(id: u8, encryption: EncryptionMode) -> ConfigHeader {
        ConfigHeader { encryption, epoch: 1, writer_features: 0, repository: RepositoryId([id; 16]) }
    }

    #[test]
    fn swaps_and_downgrades_are_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let memory = Memory::new(dir.path().join("state"));
        let ours = header(1, EncryptionMode::Slots);
        let judge =
            |place: &str, header: &ConfigHeader, secret| memory.recall(place).check_header(header, secret);
        assert_eq!(judge("/repo", &ours, true), Ok(()));
        memory.remember("/repo", &ours, 2, &[]);
        assert_eq!(judge("/repo", &ours, true), Ok(()));
        let plain = header(1, EncryptionMode::None);
        assert!(matches!(judge("/repo", &plain, false), Err(Distrust::Downgraded { .. })));
        assert!(matches!(judge("/elsewhere", &plain, false), Err(Distrust::Downgraded { .. })));
        let other = header(2, EncryptionMode::Slots);
        assert!(matches!(judge("/repo", &other, true), Err(Distrust::Swapped { .. })));
        let fresh = header(3, EncryptionMode::None);
        assert!(matches!(judge("/new", &fresh, true), Err(Distrust::Unencrypted { .. })));
        assert_eq!(judge("/new", &fresh, false), Ok(()));
        let older =
            memory.recall("/repo").check_archives(ours.repository, 1, &Listing::default(), &|_| false);
        assert!(matches!(older, Err(Distrust::OlderConfig { found: 1, known: 2, .. })));
    }
}
