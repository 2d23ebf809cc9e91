//! What `create` reads: an image file, a block device, a stream or the output of a command.
//!
//! A source has one of two shapes. A [`Seekable`] has a length and is read at any offset by many threads at once; a
//! [`Stream`] is read once, from front to back, and has to be finished to learn whether it was whole.
//!
//! Invariants: nothing here writes to a source; a source that cannot be read whole gives an error, never zeros; only
//! the length seen when a file was opened is read, however it grows afterwards.
//!
//! It does not look for zeros, cut chunks, retry or print: a damaged or busy source is reported to the caller, who
//! decides.

mod changed_map;
mod command;
mod device;
mod error;
mod file;
mod seekable;
mod stillness;
mod stream;
#[cfg(test)]
mod tests;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

pub use self::changed_map::{ChangedMap, MapError, MapFormat};
pub use self::error::SourceError;
pub use self::seekable::Seekable;
pub use self::stream::Stream;

/// What the user asked to back up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceSpec {
    /// An image file, a block device or a FIFO.
    Path(PathBuf),
    /// The standard input of this process.
    Stdin,
    /// The standard output of a program, which is started without a shell.
    Command {
        /// The program, looked up in `PATH` if it holds no slash.
        program: OsString,
        /// Its arguments, passed on unchanged.
        args: Vec<OsString>,
    },
}

/// Suggests a member name: the last component of the path, `stdin`, or the program's file name.
///
/// Bytes that are not UTF-8 become U+FFFD. The result need not fit the grammar of names, which the caller checks.
#[must_use]
pub fn default_member_name(spec: &SourceSpec) -> String {
    let last = |path: &OsStr| Path::new(path).file_name().map(|name| name.to_string_lossy().into_owned());
    match spec {
        SourceSpec::Path(path) => last(path.as_os_str()).unwrap_or_else(|| "image".to_owned()),
        SourceSpec::Stdin => "stdin".to_owned(),
        SourceSpec::Command { program, .. } => last(program).unwrap_or_else(|| "command".to_owned()),
    }
}

/// What kind of thing a source is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SourceKind {
    /// A regular file.
    File,
    /// A block device.
    Device,
    /// A named pipe.
    Fifo,
    /// Standard input.
    Stdin,
    /// A command's standard output.
    Command,
}

impl SourceKind {
    /// The word that archive records hold.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Device => "device",
            Self::Fifo => "fifo",
            Self::Stdin => "stdin",
            Self::Command => "command",
        }
    }
}

/// An open source.
#[derive(Debug)]
pub enum Source {
    /// It has a length and is read at offsets.
    Seekable(Seekable),
    /// It is read once, from front to back.
    Stream(Stream),
}

impl Source {
    /// Opens what `spec` names, for reading only.
    ///
    /// A block device is claimed exclusively where that is possible ([`Source::in_use`] tells).
    ///
    /// # Errors
    /// [`SourceError::Missing`], [`SourceError::Permission`], [`SourceError::NotAnImage`], [`SourceError::NoMedium`],
    /// [`SourceError::CommandMissing`], [`SourceError::CommandStart`], or [`SourceError::Open`] for anything else.
    pub fn open(spec: &SourceSpec) -> Result<Self, SourceError> {
        match spec {
            SourceSpec::Path(path) => Self::open_path(path),
            SourceSpec::Stdin => Stream::stdin().map(Self::Stream),
            SourceSpec::Command { program, args } => Stream::command(program, args).map(Self::Stream),
        }
    }

    fn open_path(path: &Path) -> Result<Self, SourceError> {
        let found = fs::metadata(path).map_err(|error| SourceError::opening(path, error))?.file_type();
        if found.is_file() {
            file::open(path).map(Self::Seekable)
        } else if found.is_block_device() {
            device::open(path).map(Self::Seekable)
        } else if found.is_fifo() {
            Stream::fifo(path).map(Self::Stream)
        } else {
            Err(not_an_image(path, found))
        }
    }

    /// What kind of thing it is.
    #[must_use]
    pub fn kind(&self) -> SourceKind {
        match self {
            Self::Seekable(seekable) => seekable.kind(),
            Self::Stream(stream) => stream.kind(),
        }
    }

    /// Where it was read from, in raw bytes: the absolute path (symbolic links not resolved), the program's name
    /// without its arguments, or nothing for standard input.
    #[must_use]
    pub fn path_bytes(&self) -> &[u8] {
        match self {
            Self::Seekable(seekable) => seekable.path_bytes(),
            Self::Stream(stream) => stream.path_bytes(),
        }
    }

    /// The logical sector size in bytes; 0 where it is unknown, which is everywhere but on block devices.
    #[must_use]
    pub fn logical_sector(&self) -> u32 {
        match self {
            Self::Seekable(seekable) => seekable.logical_sector(),
            Self::Stream(_) => 0,
        }
    }

    /// The physical sector size in bytes; 0 where it is unknown, which is everywhere but on block devices.
    #[must_use]
    pub fn physical_sector(&self) -> u32 {
        match self {
            Self::Seekable(seekable) => seekable.physical_sector(),
            Self::Stream(_) => 0,
        }
    }

    /// Whether it is a block device that something else holds (a mount, LVM, another backup), so that what is read
    /// may be no single instant. A warning is due.
    #[must_use]
    pub fn in_use(&self) -> bool {
        matches!(self, Self::Seekable(seekable) if seekable.in_use())
    }
}

/// The error for a path that names something that holds no image.
fn not_an_image(path: &Path, found: fs::FileType) -> SourceError {
    let found = if found.is_dir() {
        "a directory"
    } else if found.is_socket() {
        "a socket"
    } else if found.is_char_device() {
        "a character device"
    } else if found.is_fifo() {
        "a FIFO"
    } else if found.is_block_device() {
        "a block device"
    } else {
        "something else"
    };
    SourceError::NotAnImage { path: path.to_owned(), found }
}
