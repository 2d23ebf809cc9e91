//! Exit codes, and how an error is told.

use std::io;
use std::path::Path;
use std::process::ExitCode;

use crate::archiver;
use crate::archiver::extract::STANDARD_OUTPUT;
use crate::attach;
use crate::maintenance;
use crate::repository;
use crate::restore;

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    /// All done.
    Done,
    /// Done, with warnings.
    Warnings,
    /// Failed.
    Failed,
    /// Stopped by a signal.
    Signal(i32),
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Done => Self::SUCCESS,
            Exit::Warnings => Self::from(1),
            Exit::Failed => Self::from(2),
            Exit::Signal(signal) => Self::from(u8::try_from(128 + signal).unwrap_or(2)),
        }
    }
}

/// Prints an error with its causes and says how the program ends. A reader that went away is told nothing.
pub(super) fn report(error: &anyhow::Error) -> Exit {
    if is_broken_pipe(error) {
        return Exit::Signal(libc::SIGPIPE);
    }
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        // Some errors show their cause themselves.
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    super::logger::line(&format!("copal: {text}"));
    if let Some(advice) = advice(error) {
        super::logger::line(&format!("copal: {advice}"));
    }
    if let Some(restore::Error::Stopped(stopped)) = error.downcast_ref() {
        return Exit::Signal(stopped.signal);
    }
    if let Some(attach::Error::Stopped { signal }) = error.downcast_ref() {
        return Exit::Signal(*signal);
    }
    match (error.downcast_ref(), error.downcast_ref()) {
        (Some(archiver::Error::Stopped { signal }), _) => Exit::Signal(*signal),
        (_, Some(maintenance::Error::Stopped(stopped))) => Exit::Signal(stopped.signal),
        _ => Exit::Failed,
    }
}

/// What to do about an error of the system, where that is not said already.
fn advice(error: &anyhow::Error) -> Option<&'static str> {
    if is_lost(error) {
        return Some(
            "'copal mount' serves all the rest and gives an error just there; 'copal check' names what is damaged",
        );
    }
    let kind = error.chain().find_map(|cause| cause.downcast_ref::<io::Error>())?.kind();
    let in_repository = error.downcast_ref::<repository::Error>().is_some()
        || matches!(error.downcast_ref(), Some(archiver::Error::Repository(_) | archiver::Error::Image(_)))
        || matches!(
            error.downcast_ref(),
            Some(maintenance::Error::Repository(_) | maintenance::Error::Image(_))
        );
    match kind {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded if is_of_output(error) => {
            Some("no space is left where standard output goes: what is there is not whole")
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Some("no space is left: free some, or use another disk; what was there before is whole")
        }
        io::ErrorKind::ReadOnlyFilesystem if in_repository => Some(
            "the repository's disk is mounted read-only: mount it read-write to back up to it; list, info, extract and mount work as it is",
        ),
        io::ErrorKind::PermissionDenied if in_repository => {
            Some("run this as the user who owns the repository, or as root")
        }
        _ => None,
    }
}

/// Whether standard output could not be written to, which is not ours to clean.
fn is_of_output(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(archiver::Error::Io { path, .. }) if path == Path::new(STANDARD_OUTPUT))
}

/// Whether an image could not be read because a part of it is lost.
fn is_lost(error: &anyhow::Error) -> bool {
    match error.downcast_ref::<archiver::Error>() {
        Some(archiver::Error::Image(error)) => matches!(**error, repository::Error::LostBlob { .. }),
        _ => false,
    }
}

/// Whether a reader of standard output went away.
pub(super) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let broken = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    };
    error.chain().any(broken)
}
