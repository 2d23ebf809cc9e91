//! Which errno the kernel gets, decided in one place.

use std::io;

use crate::codec::CodecError;
use crate::repository::Error;

/// An error as the kernel knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    /// No such name.
    pub const NOT_FOUND: Self = Self(libc::ENOENT);
    /// Bytes that cannot be had.
    pub const IO: Self = Self(libc::EIO);
    /// No data or hole at or behind this offset.
    pub const NO_SUCH_OFFSET: Self = Self(libc::ENXIO);
    /// No such extended attribute.
    pub const NO_ATTRIBUTE: Self = Self(libc::ENODATA);
    /// The buffer is too small.
    pub const RANGE: Self = Self(libc::ERANGE);
    /// Makes no sense here.
    pub const INVALID: Self = Self(libc::EINVAL);
    /// Not a directory.
    pub const NOT_A_DIRECTORY: Self = Self(libc::ENOTDIR);
    /// A handle or inode that is no more.
    pub const STALE: Self = Self(libc::ESTALE);
    /// No more can be written.
    pub const NO_SPACE: Self = Self(libc::ENOSPC);
    /// Nothing here can be changed.
    pub const READ_ONLY: Self = Self(libc::EROFS);
}

/// The errno of a repository's error: EACCES without the key, else EIO.
#[must_use]
pub fn errno_of(error: &Error) -> Errno {
    match error {
        Error::Codec(CodecError::MissingKey { .. }) => Errno(libc::EACCES),
        Error::Storage { source, .. } if source.kind() == io::ErrorKind::OutOfMemory => Errno(libc::ENOMEM),
        _ => Errno::IO,
    }
}
