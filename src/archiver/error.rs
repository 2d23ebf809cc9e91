//! What can go wrong while making or restoring an archive.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::id::{ArchiveId, RepositoryId};
use crate::repository;
use crate::source::{MapError, SourceError};
use crate::task::Stopped;

/// A result of the archiver.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The repository failed.
    #[error(transparent)]
    Repository(#[from] repository::Error),
    /// The repository failed while an image was read.
    #[error("cannot read the image: {0}")]
    Image(#[from] Arc<repository::Error>),
    /// The source failed.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A stream failed.
    #[error("cannot read {what} after {offset} bytes")]
    Stream {
        /// Which stream.
        what: String,
        /// How far it was read, in bytes.
        offset: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A source is longer than any image may be.
    #[error("{what} is longer than 64 PiB, the longest image a repository can hold")]
    TooLong {
        /// Which source.
        what: String,
    },
    /// Unused blocks were to be left out of a stream.
    #[error(
        "blocks that are not in use can be left out of a file or a device only, and {what} is a stream, which cannot be looked into"
    )]
    UnusedInStream {
        /// Which source.
        what: String,
    },
    /// A compaction removed chunks that this create relied on, and a stream cannot be read again.
    #[error(
        "a compaction removed {packs} packs while this backup ran, and a stream cannot be read again: run the backup once more"
    )]
    LostClaim {
        /// How many packs.
        packs: usize,
    },
    /// Compactions kept removing what was claimed.
    #[error("compactions removed packs again and again while this backup ran: run it when none is running")]
    NeverConfirmed,
    /// A part of an image cannot be read from the repository that it is copied from.
    #[error("bytes {offset} to {end} of {member} cannot be read")]
    Unreadable {
        /// Which member.
        member: String,
        /// Where the part begins, in bytes.
        offset: u64,
        /// Where it ends.
        end: u64,
        /// Why.
        #[source]
        source: Arc<repository::Error>,
    },
    /// Nothing of a source could be read.
    #[error("nothing of {what} can be read, so there is nothing to back up: check that it is attached")]
    NothingRead {
        /// Which source.
        what: String,
    },
    /// An archive cannot be what changes are counted from.
    #[error("archive #{base} cannot be the base: {reason}")]
    Base {
        /// Which archive.
        base: ArchiveId,
        /// Why, and what to do.
        reason: String,
    },
    /// A map of changed blocks does not fit the source.
    #[error("the map of changed blocks cannot be used")]
    Map(#[from] MapError),
    /// A map of changed blocks passed over something that changed.
    #[error(
        "bytes {offset} to {end} of the source are not what archive #{base} has there, though the map of changed blocks does not name them: \
         the map is wrong, or counts from another state; back up without it"
    )]
    WrongMap {
        /// The base.
        base: ArchiveId,
        /// Where the difference lies, in bytes.
        offset: u64,
        /// Where it ends at the latest.
        end: u64,
    },
    /// A repository cannot be copied to itself.
    #[error(
        "both are repository {repository}, or one is a copy of its files: give another repository to copy to"
    )]
    SameRepository {
        /// The repository.
        repository: RepositoryId,
    },
    /// A file or device outside the repository failed.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A target cannot take the image.
    #[error("{path}: {reason}")]
    Target {
        /// The target.
        path: PathBuf,
        /// Why, and what to do.
        reason: String,
    },
    /// The user or system asked to stop.
    #[error("stopped by signal {signal}")]
    Stopped {
        /// Which signal.
        signal: i32,
    },
    /// A thread panicked; nothing was published.
    #[error("internal error: {what} ended unexpectedly; please report this")]
    Panicked {
        /// Which thread.
        what: &'static str,
    },
}

impl From<crate::codec::CodecError> for Error {
    fn from(error: crate::codec::CodecError) -> Self {
        Self::Repository(error.into())
    }
}

impl From<Stopped> for Error {
    fn from(Stopped { signal }: Stopped) -> Self {
        Self::Stopped { signal }
    }
}

impl Error {
    /// Whether space ran out.
    #[must_use]
    pub fn is_full(&self) -> bool {
        match self {
            Self::Repository(error) => error.is_full(),
            Self::Io { source, .. } => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            _ => false,
        }
    }
}
