//! What can go wrong with a source, with the facts of each case.
//!
//! Messages say what to do next. Paths and programs are quoted and escaped, so that no name can drive a terminal.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use rustix::io::Errno;

/// A source that cannot be opened, read or finished.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Nothing is at the path.
    #[error("{path:?} does not exist: check the path")]
    Missing {
        /// As it was given.
        path: PathBuf,
    },
    /// The path may not be read.
    #[error("{path:?} may not be read: run as root, or as a user or group that may read it")]
    Permission {
        /// As it was given.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The path names something that holds no image.
    #[error("{path:?} is {found}: name an image file, a block device or a FIFO")]
    NotAnImage {
        /// As it was given.
        path: PathBuf,
        /// What is there.
        found: &'static str,
    },
    /// A block device whose size is zero.
    #[error(
        "block device {path:?} has a size of zero: insert its medium or attach its image, then try again"
    )]
    NoMedium {
        /// As it was given.
        path: PathBuf,
    },
    /// Opening failed for another reason.
    #[error("cannot open {path:?}: check the device or filesystem it is on")]
    Open {
        /// As it was given.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The medium gave an error.
    #[error(
        "cannot read {path:?} at byte {offset}: check the device's health and copy it with ddrescue first, or take what can be read with --read-errors=zero"
    )]
    Read {
        /// Where the source is.
        path: PathBuf,
        /// The first byte that could not be read.
        offset: u64,
        /// What the system said.
        source: io::Error,
    },
    /// The source ended before the length it had when it was opened.
    #[error(
        "{path:?} shrank from {expected} to {offset} bytes while it was read: stop what changes it, then try again"
    )]
    Shrank {
        /// Where the source is.
        path: PathBuf,
        /// Where it ended now, in bytes.
        offset: u64,
        /// Its length in bytes when it was opened.
        expected: u64,
    },
    /// The caller asked for bytes beyond the length seen at open.
    #[error(
        "{wanted} bytes at byte {offset} of {path:?} lie beyond its {len} bytes: please report this as a bug"
    )]
    OutOfRange {
        /// Where the source is.
        path: PathBuf,
        /// First byte asked for.
        offset: u64,
        /// How many bytes were asked for.
        wanted: usize,
        /// The source's length in bytes.
        len: u64,
    },
    /// Standard input cannot be read.
    #[error("standard input cannot be read: redirect a file or a pipe into it")]
    Stdin {
        /// What the system said.
        source: io::Error,
    },
    /// The program to run was not found.
    #[error(
        "command {program:?} was not found: install it, or give its full path (and check a script's first line)"
    )]
    CommandMissing {
        /// As it was given.
        program: OsString,
    },
    /// The program could not be started or waited for.
    #[error("command {program:?} could not be run: check that it is executable")]
    CommandStart {
        /// As it was given.
        program: OsString,
        /// What the system said.
        source: io::Error,
    },
    /// The command did not end well, so its output cannot be trusted to be whole.
    #[error(
        "command {program:?} failed ({status}): its output is not a whole image; see what it printed, then try again"
    )]
    CommandFailed {
        /// As it was given.
        program: OsString,
        /// How it ended.
        status: ExitStatus,
    },
}

/// What the system says where a part of a medium cannot be read: a bad block, a failed checksum, a lost path to it. Not that the device is gone.
const BAD_MEDIUM: [Errno; 6] =
    [Errno::IO, Errno::NODATA, Errno::ILSEQ, Errno::BADMSG, Errno::REMOTEIO, Errno::TIMEDOUT];

impl SourceError {
    /// The first byte that the medium would not give, where others may still be read.
    #[must_use]
    pub fn bad_medium_at(&self) -> Option<u64> {
        let Self::Read { offset, source, .. } = self else { return None };
        Errno::from_io_error(source).filter(|errno| BAD_MEDIUM.contains(errno)).map(|_| *offset)
    }

    /// Sorts an error from opening `path`.
    pub(super) fn opening(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Self::Missing { path },
            io::ErrorKind::PermissionDenied => Self::Permission { path, source },
            _ => Self::Open { path, source },
        }
    }
}

impl From<SourceError> for io::Error {
    /// Keeps the kind of the system's error where there is one.
    fn from(error: SourceError) -> Self {
        let kind = match &error {
            SourceError::Missing { .. } | SourceError::CommandMissing { .. } => io::ErrorKind::NotFound,
            SourceError::Shrank { .. } | SourceError::OutOfRange { .. } => io::ErrorKind::UnexpectedEof,
            SourceError::Permission { source, .. }
            | SourceError::Open { source, .. }
            | SourceError::Read { source, .. }
            | SourceError::Stdin { source }
            | SourceError::CommandStart { source, .. } => source.kind(),
            SourceError::NotAnImage { .. }
            | SourceError::NoMedium { .. }
            | SourceError::CommandFailed { .. } => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}
