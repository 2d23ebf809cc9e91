//! Sources that are read once, from front to back: standard input, a FIFO, a command's output.
//!
//! Invariants: the end, once seen, stays the end (a FIFO could get another writer); the read end of a command's
//! pipe is closed before the command is waited for, so that waiting cannot deadlock.
//!
//! It keeps nothing of what was read, so a stream cannot be read again.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use super::command::Running;
use super::{SourceError, SourceKind, not_an_image};

/// A source without a length.
///
/// Dropping it unfinished kills and reaps its command.
#[derive(Debug)]
pub struct Stream {
    /// Declared before `command`: dropped first, see the module's invariants.
    pipe: File,
    command: Option<Running>,
    kind: SourceKind,
    path: Vec<u8>,
    ended: bool,
}

impl Stream {
    fn new(pipe: File, command: Option<Running>, kind: SourceKind, path: Vec<u8>) -> Self {
        Self { pipe, command, kind, path, ended: false }
    }

    /// Standard input, from its current position. Bytes that `std::io::stdin` has buffered already are not seen.
    pub(super) fn stdin() -> Result<Self, SourceError> {
        let error = |source| SourceError::Stdin { source };
        let pipe = File::from(rustix::stdio::stdin().try_clone_to_owned().map_err(error)?);
        if pipe.metadata().map_err(error)?.is_dir() {
            return Err(error(io::ErrorKind::IsADirectory.into()));
        }
        Ok(Self::new(pipe, None, SourceKind::Stdin, Vec::new()))
    }

    /// A FIFO; blocks until it has a writer.
    pub(super) fn fifo(path: &Path) -> Result<Self, SourceError> {
        let error = |source| SourceError::opening(path, source);
        let pipe = File::open(path).map_err(error)?;
        let found = pipe.metadata().map_err(error)?.file_type();
        if !found.is_fifo() {
            // It was replaced since its type was looked up.
            return Err(not_an_image(path, found));
        }
        let absolute = std::path::absolute(path).map_err(error)?;
        Ok(Self::new(pipe, None, SourceKind::Fifo, absolute.as_os_str().as_bytes().to_vec()))
    }

    /// The output of a program that is started here.
    pub(super) fn command(program: &OsStr, args: &[OsString]) -> Result<Self, SourceError> {
        let (command, pipe) = Running::start(program, args)?;
        Ok(Self::new(pipe, Some(command), SourceKind::Command, program.as_bytes().to_vec()))
    }

    /// Fills as much of `buf` as the stream still has; returns the count in bytes.
    ///
    /// Less than `buf.len()` means that the end was reached. The end alone does not mean that the stream was whole:
    /// see [`Self::finish`].
    ///
    /// # Errors
    /// The system's. Bytes may have been lost; the stream is of no use any more.
    pub fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buf.len() && !self.ended {
            match self.pipe.read(&mut buf[filled..]) {
                Ok(0) => self.ended = true,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    /// Ends reading. Waits for a command to exit; closing its output first makes one that still writes stop.
    ///
    /// # Errors
    /// [`SourceError::CommandFailed`] if the command exited with another status than 0 or by a signal: what was
    /// read is not a whole image.
    pub fn finish(self) -> Result<(), SourceError> {
        let Self { pipe, command, .. } = self;
        drop(pipe);
        command.map_or(Ok(()), Running::wait)
    }

    /// Standard input, a FIFO or a command.
    #[must_use]
    pub fn kind(&self) -> SourceKind {
        self.kind
    }

    /// A FIFO's absolute path, a command's program, nothing for standard input; in raw bytes.
    #[must_use]
    pub fn path_bytes(&self) -> &[u8] {
        &self.path
    }
}
