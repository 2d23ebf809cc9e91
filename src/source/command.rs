//! Running the command whose output is backed up.
//!
//! Invariants: a started command is always reaped, by [`Running::wait`] or, killed first, on drop. No shell is
//! involved.
//!
//! The command's standard input is empty, so that it cannot swallow what the user types; its standard error is
//! ours. It stays in our process group: Ctrl-C reaches it, and an `ssh` in it can still ask for a password on the
//! terminal. Hence only the command itself is killed, not what it started; those end when they next write.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use super::SourceError;

/// How often a wait for the command's end looks.
const LOOK: Duration = Duration::from_millis(20);
/// The repository's secrets are no business of a command that only reads a disk.
const SECRETS: [&str; 7] = [
    "COPAL_PASSPHRASE",
    "COPAL_PASSCOMMAND",
    "COPAL_PASSPHRASE_FD",
    "COPAL_NEW_PASSPHRASE",
    "COPAL_TO_PASSPHRASE",
    "COPAL_TO_PASSCOMMAND",
    "COPAL_TO_PASSPHRASE_FD",
];

/// A command that was started and not yet reaped.
#[derive(Debug)]
pub(super) struct Running {
    child: Child,
    program: OsString,
    reaped: bool,
}

impl Running {
    /// Starts `program`; returns it and the read end of its standard output.
    pub(super) fn start(program: &OsStr, args: &[OsString]) -> Result<(Self, File), SourceError> {
        let mut command = Command::new(program);
        for name in SECRETS {
            command.env_remove(name);
        }
        let spawned =
            command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn();
        let child = spawned.map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => SourceError::CommandMissing { program: program.to_owned() },
            _ => SourceError::CommandStart { program: program.to_owned(), source },
        })?;
        let mut running = Self { child, program: program.to_owned(), reaped: false };
        let output = running.child.stdout.take().expect("its output was asked for as a pipe");
        Ok((running, File::from(OwnedFd::from(output))))
    }

    /// Waits until the command has exited, and checks that it did so with status 0. Kills it once `stopped` says so.
    pub(super) fn wait(mut self, stopped: &dyn Fn() -> bool) -> Result<(), SourceError> {
        let waited = self.wait_or_kill(stopped);
        let program = self.program.clone();
        let status = waited.map_err(|source| SourceError::CommandStart { program, source })?;
        self.reaped = true;
        if !status.success() {
            return Err(SourceError::CommandFailed { program: self.program.clone(), status });
        }
        Ok(())
    }

    fn wait_or_kill(&mut self, stopped: &dyn Fn() -> bool) -> io::Result<ExitStatus> {
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if stopped() {
                self.child.kill()?;
                return self.child.wait();
            }
            std::thread::sleep(LOOK);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.reaped {
            // It may have exited by itself; either way nothing is left to do about a failure here.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
