//! Sources that are read once, from front to back: standard input, a FIFO, a command's output.
//!
//! Invariants: the end, once seen, stays the end (a FIFO could get another writer); the read end of a command's
//! pipe is closed before the command is waited for, so that waiting cannot deadlock; no wait outlasts a wish to stop.
//!
//! It keeps nothing of what was read, so a stream cannot be read again.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::command::Running;
use super::{SourceError, SourceKind, not_an_image};

/// How often a wait for bytes looks whether it should stop: 0.1 s, which nobody waits for in vain.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

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

    /// A FIFO. Opening does not wait for a writer; reading does.
    pub(super) fn fifo(path: &Path) -> Result<Self, SourceError> {
        let error = |source| SourceError::opening(path, source);
        let at_once = OFlags::NONBLOCK.bits().cast_signed();
        let pipe = File::options().read(true).custom_flags(at_once).open(path).map_err(error)?;
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
    /// see [`Self::finish`]. While it waits, it asks `stopped` again and again.
    ///
    /// # Errors
    /// `Interrupted` if it was stopped, or the system's. Bytes may have been lost; the stream is of no use any more.
    pub fn read(&mut self, buf: &mut [u8], stopped: &dyn Fn() -> bool) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buf.len() && !self.ended {
            // Also before the first read of a FIFO: without a writer it would seem to have ended.
            self.wait(stopped)?;
            match self.pipe.read(&mut buf[filled..]) {
                Ok(0) => self.ended = true,
                Ok(count) => filled += count,
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    /// Waits until there is something to read, or the end.
    fn wait(&self, stopped: &dyn Fn() -> bool) -> io::Result<()> {
        loop {
            if stopped() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            match poll(&mut [PollFd::new(&self.pipe, PollFlags::IN)], Some(&LOOK)) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Ends reading. Waits for a command to exit; closing its output first makes one that still writes stop. If `stopped` says so, it is
    /// killed.
    ///
    /// # Errors
    /// [`SourceError::CommandFailed`] if the command exited with another status than 0 or by a signal: what was
    /// read is not a whole image.
    pub fn finish(self, stopped: &dyn Fn() -> bool) -> Result<(), SourceError> {
        let Self { pipe, command, .. } = self;
        drop(pipe);
        command.map_or(Ok(()), |command| command.wait(stopped))
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
