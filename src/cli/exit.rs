//! Exit codes, and how an error is told.

use std::io;
use std::process::ExitCode;

use crate::archiver;

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
    match error.downcast_ref::<archiver::Error>() {
        Some(archiver::Error::Stopped { signal }) => Exit::Signal(*signal),
        Some(error) if error.is_full() => {
            super::logger::line(
                "copal: no space is left: free some, or use another disk; what was there before is whole",
            );
            Exit::Failed
        }
        _ => Exit::Failed,
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let broken = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    };
    error.chain().any(broken)
}
