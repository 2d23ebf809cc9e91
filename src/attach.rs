//! From an archive to its files: loop devices on a served image, and the filesystems on them mounted.
//!
//! [`plan`] decides from tables and signatures what is to be done with each partition; [`setup`] does it and [`teardown`] undoes it, both through a
//! [`system::System`]; [`host`] is the machine they run on. Invariants:
//!
//! - Before each step, [`state`] has on disk what the step is about to make: whatever happens, [`teardown`] knows where to look.
//! - Nothing is taken away that is not verified to be ours at that moment: a loop device by the file behind it, which lies beneath a path of this attach alone;
//!   a mount by the device that it shows, which must be such a loop device.
//! - Everything is mounted `nodev,nosuid,noexec`, and read-only unless an overlay was asked for. A journal is replayed on an overlay only.
//! - What identifies a filesystem to the host (UUIDs, labels, members of groups and arrays) is kept from it as far as [`udev`] reaches.
//!
//! The kernel's drivers parse what an image holds: this is not for images that may be malicious.

pub mod directory;
pub mod host;
pub mod plan;
pub mod salvage;
pub mod setup;
pub mod state;
pub mod system;
pub mod teardown;
#[cfg(test)]
mod tests;
pub mod udev;

use std::path::{Path, PathBuf};

/// Where everything that belongs to an attach lies while it lasts.
pub const RUN: &str = "/run/copal/attach";
/// Where an attach without a directory of its own shows its files.
pub const SHOWN: &str = "/run/copal";

/// Why something could not be attached or detached.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system refused something.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A program failed.
    #[error("{program} failed: {said}")]
    Program {
        /// Its name.
        program: &'static str,
        /// What it wrote to standard error.
        said: String,
    },
    /// A program is not there.
    #[error("{program} is not installed; it is part of {package}")]
    Missing {
        /// Its name.
        program: &'static str,
        /// Debian's package.
        package: &'static str,
    },
    /// A signal came.
    #[error("stopped by signal {signal}")]
    Stopped {
        /// Its number.
        signal: i32,
    },
    /// The server did not start.
    #[error("the archive cannot be served: {0}")]
    Server(String),
    /// A record is none.
    #[error("the record {path} of an attach cannot be read: {reason}; {}", advice(.path))]
    Record {
        /// Its path.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Another process works on the same attach.
    #[error(
        "another copal works on this attach at this moment ({path} is locked); try again when it is done"
    )]
    Locked {
        /// The lock.
        path: PathBuf,
    },
    /// The directory is of no use.
    #[error("{path} {reason}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
}

/// How to get rid of a record that cannot be read.
fn advice(path: &Path) -> String {
    match state::id_of(path) {
        Some(id) => format!("'copal detach {id}' takes down what can be found of it, and deletes that file"),
        None => "it is none of Copal's by its name: delete it, if it is nobody else's".to_owned(),
    }
}

/// The directory of an attach alone.
fn run_directory(id: &str) -> PathBuf {
    Path::new(RUN).join(id)
}

/// This module's results.
pub type Result<T> = std::result::Result<T, Error>;

/// An error with its causes, in a line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    crate::repository::archives::chain(error)
}

/// For `map_err`: what was tried, with what.
pub(crate) fn failed<'a>(
    action: &'static str,
    path: &'a Path,
) -> impl FnOnce(std::io::Error) -> Error + use<'a> {
    move |source| Error::Io { action, path: path.to_owned(), source }
}
