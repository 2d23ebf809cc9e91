//! What can go wrong while looking after a repository.

use std::sync::Arc;

use crate::format::name::ArchiveName;
use crate::id::ArchiveId;
use crate::repository;
use crate::task::Stopped;

/// A result of maintenance.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The repository failed.
    #[error(transparent)]
    Repository(#[from] repository::Error),
    /// The repository failed while an image's maps were read.
    #[error("cannot read the maps of an image: {0}")]
    Image(#[from] Arc<repository::Error>),
    /// Nobody knows when this storage's lists are up to date.
    #[error(
        "{storage} is on a network file system, whose lists may lag: nothing can be deleted there safely. Run this on the machine that has the disk"
    )]
    Unsettled {
        /// The storage.
        storage: String,
    },
    /// Nobody deleted an archive, and its record is gone.
    #[error(
        "archive {archive} ({name}) cannot be read: {reason}; so nobody knows what it needs, and nothing was deleted. Bring archives/{archive} back from a copy of the repository; if there is none, give the archive up: copal delete 'REPO::#{archive}'"
    )]
    Lost {
        /// The archive.
        archive: ArchiveId,
        /// Its name now.
        name: ArchiveName,
        /// What happened.
        reason: String,
    },
    /// What an archive needs is not known.
    #[error(
        "archive {archive} cannot be read ({reason}), so nobody knows what it needs: nothing was deleted. Run 'copal check --repair', or bring back what is missing from a copy of the repository; if there is none, give the archive up: copal delete 'REPO::#{archive}'"
    )]
    UnknownNeeds {
        /// The archive.
        archive: ArchiveId,
        /// Why.
        reason: String,
    },
    /// Space of a deleted archive was reclaimed.
    #[error(
        "archive {archive} cannot come back: its space was already reclaimed, in part at least ({reason}); it stays deleted"
    )]
    Reclaimed {
        /// The archive.
        archive: ArchiveId,
        /// What of it is gone.
        reason: String,
    },
    /// Somebody deleted an archive while it was being restored.
    #[error("archive {archive} was deleted again meanwhile; repeat the command if it is to come back")]
    DeletedAgain {
        /// The archive.
        archive: ArchiveId,
    },
    /// It is not deleted.
    #[error("archive {archive} is not deleted")]
    NotDeleted {
        /// The archive.
        archive: ArchiveId,
    },
    /// Others restored an archive again and again.
    #[error(
        "others were restoring archive {archive} all the time: look with 'copal list' whether it is back"
    )]
    Contended {
        /// The archive.
        archive: ArchiveId,
    },
    /// The policy says nothing about what to keep.
    #[error(
        "the policy keeps nothing, so that all archives but the newest would go: give at least one of --keep-last, --keep-hourly, --keep-daily, --keep-weekly, --keep-monthly, --keep-yearly (above 0) or --keep-within"
    )]
    EmptyPolicy,
    /// A signal came.
    #[error(transparent)]
    Stopped(#[from] Stopped),
    /// A thread could not be started, or panicked.
    #[error("internal error: {what} ended unexpectedly; please report this")]
    Panicked {
        /// Which thread.
        what: &'static str,
    },
}

impl Error {
    /// Whether space ran out.
    #[must_use]
    pub fn is_full(&self) -> bool {
        match self {
            Self::Repository(error) => error.is_full(),
            Self::Image(error) => error.is_full(),
            _ => false,
        }
    }
}
