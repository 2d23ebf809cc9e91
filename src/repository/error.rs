//! The repository's error: what went wrong, where, and what to do next.

use std::io;
use std::path::PathBuf;

use crate::codec::CodecError;
use crate::format::FormatError;
use crate::format::envelope::EnvelopeError;
use crate::id::{ArchiveId, BlobId, PackId, RepositoryId};

/// A result of the repository.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The storage failed.
    #[error("cannot {action} {name} in {storage}")]
    Storage {
        /// What was tried: "read", "write", "list", "delete".
        action: &'static str,
        /// Which object or prefix.
        name: String,
        /// Which storage.
        storage: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is no config.
    #[error("{storage} holds no Copal repository; check the path, or make one with 'copal init'")]
    NoRepository {
        /// Where it was looked for.
        storage: String,
    },
    /// Objects of a repository, but no config.
    #[error(
        "what lies in {storage} looks like a Copal repository whose config is gone from both its places: restore the file 'config' from a copy of the repository, and do not run 'copal init' here"
    )]
    NoConfig {
        /// Where it was looked for.
        storage: String,
    },
    /// No copy of the config is whole.
    #[error(
        "the config of the repository in {storage} is damaged, and there is no whole second copy: restore the file 'config' from a copy of the repository"
    )]
    DamagedConfig {
        /// Where it is.
        storage: String,
        /// How the better of its copies is damaged.
        #[source]
        source: FormatError,
    },
    /// A repository cannot be made here.
    #[error("{path} is not empty; give a new or empty directory")]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// An object breaks the format or does not open.
    #[error("{name} is damaged")]
    Damaged {
        /// Its name.
        name: String,
        /// How.
        #[source]
        source: EnvelopeError,
    },
    /// A blob could not be read from any place where it may be.
    #[error("{kind} {id} is lost: {reason} (pack {pack}, offset {offset})")]
    LostBlob {
        /// "chunk", "span map" or "tree node".
        kind: &'static str,
        /// Its id.
        id: BlobId,
        /// Where it should be.
        pack: PackId,
        /// At which offset.
        offset: u32,
        /// What was found there.
        reason: String,
    },
    /// The config or an object needs a newer program.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// Keys are missing or derivation failed.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// No slot opens with this secret.
    #[error(
        "wrong passphrase: none of the {slots} key slots of repository {repository} opens with it; check the keyboard's layout and caps lock, and whether a key file is meant (--key-file); if it is lost, 'copal key import' takes an exported recovery form"
    )]
    WrongPassphrase {
        /// The repository.
        repository: RepositoryId,
        /// How many slots were tried.
        slots: usize,
    },
    /// No slot opens with this key file.
    #[error(
        "wrong key file: none of the {slots} key slots of repository {repository} opens with it; check whether it is the right file, and whether a passphrase is meant; if it is lost, 'copal key import' takes an exported recovery form"
    )]
    WrongKeyFile {
        /// The repository.
        repository: RepositoryId,
        /// How many slots were tried.
        slots: usize,
    },
    /// All slots are gone.
    #[error(
        "repository {repository} has no readable key slot: restore its 'keys' folder from a copy, or make a new slot from an exported recovery form with 'copal key import'"
    )]
    NoKeySlot {
        /// The repository.
        repository: RepositoryId,
    },
    /// The config does not open with the slot's keys.
    #[error(
        "the config of repository {repository} does not open with its own keys: it was changed or damaged"
    )]
    ForeignConfig {
        /// The repository.
        repository: RepositoryId,
    },
    /// The config is older than it must be.
    #[error("the config of repository {repository} was rolled back: {reason}")]
    RolledBackConfig {
        /// The repository.
        repository: RepositoryId,
        /// How that shows.
        reason: String,
    },
    /// Unknown features forbid writing.
    #[error(
        "the repository uses writer features that this Copal does not know (bits {bits:#x}): it can only be read; use a newer one"
    )]
    ReadOnlyFeatures {
        /// The unknown bits.
        bits: u64,
    },
    /// No archive fits.
    #[error("no archive fits {reference:?}; 'copal list' shows what there is")]
    UnknownArchive {
        /// What was asked for.
        reference: String,
    },
    /// Several archives fit.
    #[error("{reference:?} fits {} archives: {}", .candidates.len(), shown(.candidates))]
    AmbiguousArchive {
        /// What was asked for.
        reference: String,
        /// What fits.
        candidates: Vec<String>,
    },
    /// A name has several archives, and it was not said which.
    #[error(
        "{reference:?} fits {} archives: {}; say which one ({example}, or # and its id), or give --all for all of them", .candidates.len(), shown(.candidates)
    )]
    SeveralArchives {
        /// What was asked for.
        reference: String,
        /// What fits, newest first.
        candidates: Vec<String>,
        /// How the newest would be written.
        example: String,
    },
    /// A change breaks a rule of the format.
    #[error("{what}: {count} are too many, {limit} are allowed")]
    TooLong {
        /// What is too long.
        what: &'static str,
        /// How long it is.
        count: usize,
        /// How long it may be.
        limit: usize,
    },
    /// Not all of several archives were changed.
    #[error("{done} of {total} archives were changed, then it failed: repeat the command for the others")]
    Partly {
        /// How many were changed.
        done: usize,
        /// How many should have been.
        total: usize,
        /// Why the next one was not.
        #[source]
        source: Box<Error>,
    },
    /// A reference breaks its grammar.
    #[error("{reference:?} is no archive reference: {reason}")]
    BadReference {
        /// What was asked for.
        reference: String,
        /// Why.
        reason: String,
    },
    /// The archive has no such member.
    #[error("archive {archive} has no member {member:?}; it has: {}", .members.join(", "))]
    UnknownMember {
        /// The archive.
        archive: ArchiveId,
        /// What was asked for.
        member: String,
        /// What there is.
        members: Vec<String>,
    },
    /// A thread panicked; nothing was published.
    #[error("internal error: {what} ended unexpectedly; please report this")]
    Panicked {
        /// Which thread.
        what: &'static str,
    },
    /// Key slots cannot be changed as asked.
    #[error(transparent)]
    Slot(#[from] super::slots::SlotError),
    /// The client remembers this repository differently.
    #[error("{0}")]
    Untrusted(#[from] super::known::Distrust),
}

fn shown(candidates: &[String]) -> String {
    const MOST: usize = 8;
    let mut text = candidates.iter().take(MOST).cloned().collect::<Vec<_>>().join(", ");
    if candidates.len() > MOST {
        text.push_str(", …");
    }
    text
}

impl Error {
    /// Whether space ran out.
    #[must_use]
    pub fn is_full(&self) -> bool {
        match self {
            Self::Storage { source, .. } => super::objects::is_full(source),
            Self::Partly { source, .. } => source.is_full(),
            _ => false,
        }
    }

    /// Whether the storage did not answer in time, which says nothing of what it holds.
    #[must_use]
    pub fn is_late(&self) -> bool {
        matches!(self, Self::Storage { source, .. } if source.kind() == io::ErrorKind::TimedOut)
    }

    /// Whether the object was not there.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Storage { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// An error with its causes, on one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
