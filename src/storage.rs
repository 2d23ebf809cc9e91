//! Where a repository's objects live: a small trait, and its implementations.
//!
//! An object is a named, immutable sequence of bytes. The trait says nothing of what the bytes mean. Its contract is
//! written at each method and checked by one conformance suite that every implementation passes.

pub mod aligned;
pub mod conformance;
pub mod faults;
pub mod lagging;
pub mod local;
pub mod memory;
pub mod patient;
pub mod recorder;
pub mod uncached;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The name of an object: one or more segments of `[a-z0-9.-]`, joined by `/`, at most 200 bytes.
///
/// A name can never leave the repository: no segment is empty or begins with a dot, which also keeps what file managers and
/// NFS leave behind out of lists. Nothing is published beneath `tmp/`, and no name is both an object and a prefix of others.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<str>);

impl Name {
    /// Longest name in bytes.
    pub const MAX: usize = 200;

    /// Checks `text` against the grammar; `None` if it breaks it.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        (text.len() <= Self::MAX && text.split('/').all(is_segment)).then(|| Self(text.into()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether a part of a name keeps the grammar. All bytes are looked at at once, as many of which there are thousands ask for.
fn is_segment(segment: &str) -> bool {
    let allowed = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.');
    segment.bytes().next().is_some_and(|first| first != b'.')
        && segment.as_bytes().iter().fold(true, |all, byte| all & allowed(byte))
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &self.0)
    }
}

/// One listed object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed {
    /// Its full name.
    pub name: Name,
    /// Its length in bytes.
    pub len: u64,
}

/// A range of an object that is wanted: as many bytes as the buffer has.
#[derive(Debug)]
pub struct Wanted {
    /// The object.
    pub name: Name,
    /// Where the range begins.
    pub offset: u64,
    /// What takes its bytes.
    pub buf: Vec<u8>,
}

/// What takes the buffers of ranges, filled, or why they are not.
pub type Taker<'a> = dyn FnMut(io::Result<Vec<u8>>) + 'a;

/// A state of a folder, which does not come again once something came to lie in it, or went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FolderMark {
    /// Which directory it is: of what device, and which of its inodes.
    pub directory: [u64; 2],
    /// When it last changed, and when that was last written down, in ns since 1970.
    pub times: [i128; 2],
}

/// How long after its puts a writer must wait before its lists surely show what others put before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settle {
    /// A list shows every put that was acknowledged before it began, once this much time has passed since the put.
    After(Duration),
    /// Nobody knows. Deleting packs is refused on such a storage.
    Unknown,
}

/// A place for objects.
///
/// All methods may be called from many threads at once. Reads see every put and delete as soon as it was acknowledged; only lists may
/// lag. Errors are plain [`io::Error`]s: `NotFound` for an object
/// that is not there, `StorageFull` or `QuotaExceeded` where space ran out, `ReadOnlyFilesystem` or `PermissionDenied` where nothing may be
/// written, `UnexpectedEof` for a range beyond an object's end; anything else is the medium's own error.
pub trait Storage: Send + Sync + fmt::Debug {
    /// Reads a whole object.
    ///
    /// # Errors
    /// `NotFound`; `InvalidData` if it is longer than `limit` bytes, before anything of that size is allocated.
    fn read(&self, name: &Name, limit: u64) -> io::Result<Vec<u8>>;

    /// Fills `buf` from byte `offset` of an object. There are no short reads: either all of `buf` is filled, or an
    /// error is returned and the contents of `buf` are unspecified.
    ///
    /// # Errors
    /// `NotFound`; `UnexpectedEof` if the object ends before `offset + buf.len()`.
    fn read_range(&self, name: &Name, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    /// As [`Storage::read_range`], into a buffer that is handed over and comes back, unless there is an error.
    ///
    /// # Errors
    /// As [`Storage::read_range`].
    fn read_into(&self, name: &Name, offset: u64, mut buf: Vec<u8>) -> io::Result<Vec<u8>> {
        self.read_range(name, offset, &mut buf).map(|()| buf)
    }

    /// As [`Storage::read_into`] for several ranges, which may be read at once; `take` gets what becomes of each, in the order given.
    fn read_ranges(&self, ranges: Vec<Wanted>, take: &mut Taker<'_>) {
        ranges.into_iter().for_each(|Wanted { name, offset, buf }| take(self.read_into(&name, offset, buf)));
    }

    /// As [`Storage::read_range`], but only if that needs no waiting, because the system has the bytes in memory. False, and the contents of
    /// `buf` are unspecified, if nobody knows.
    fn read_if_cached(&self, _name: &Name, _offset: u64, _buf: &mut [u8]) -> bool {
        false
    }

    /// When the request that this thread works on has had all the time that it may take, if there is such a time: reads fail then.
    fn request_ends(&self) -> Option<Instant> {
        None
    }

    /// Whether lists and reads by several threads at once may come in any order, and end sooner than one after the other. Not of those that do something
    /// at a certain moment, as tests want it.
    fn gains_from_threads(&self) -> bool {
        false
    }

    /// The length of an object in bytes.
    ///
    /// # Errors
    /// `NotFound`.
    fn len(&self, name: &Name) -> io::Result<u64>;

    /// Publishes an object, given as parts to be joined. Atomic: no reader ever sees a part of it. Durable: when this
    /// returns, the object survives a power loss. An object of that name is replaced, as atomically. After an error the name is either as it
    /// was before or holds the new object whole. Long parts that lie on pages of memory ([`aligned::Aligned`]) may cost a copy less.
    ///
    /// # Errors
    /// `StorageFull`, `ReadOnlyFilesystem`, `PermissionDenied`, or the medium's.
    fn put(&self, name: &Name, parts: &[&[u8]]) -> io::Result<()>;

    /// Begins an object before all its bytes are known; `None` where that gains nothing.
    ///
    /// # Errors
    /// As [`Storage::put`].
    fn begin_put(&self) -> io::Result<Option<Box<dyn Begun + '_>>> {
        Ok(None)
    }

    /// Lists all objects whose names begin with `prefix` followed by `/`, at any depth, sorted by name. A prefix without
    /// objects gives an empty list. Objects put or deleted while the list runs may be in it or not; all others are, once settled.
    ///
    /// # Errors
    /// The medium's. A list is never silently partial.
    fn list(&self, prefix: &str) -> io::Result<Vec<Listed>>;

    /// What [`Storage::list`] lists, in no order and without the lengths: where each costs a look at its object, this is many times as fast;
    /// one that cannot be looked at is there like others.
    /// An object that comes or goes meanwhile may be there twice.
    ///
    /// # Errors
    /// As [`Storage::list`].
    fn names(&self, prefix: &str) -> io::Result<Vec<Name>> {
        Ok(self.list(prefix)?.into_iter().map(|listed| listed.name).collect())
    }

    /// The state of a folder: if it is the same before and after some work, nothing came or went directly in the folder meanwhile. `None` if that cannot be told.
    fn folder_mark(&self, _folder: &str) -> Option<FolderMark> {
        None
    }

    /// Deletes an object, durably.
    ///
    /// # Errors
    /// `NotFound` if it is not there (which after a retry can mean that the first try worked).
    fn delete(&self, name: &Name) -> io::Result<()>;

    /// Removes what puts of dead writers left behind, unpublished, and that was last touched at least `older_than` ago; returns how many
    /// there were. A put that is still running after all fails, and publishes nothing.
    ///
    /// # Errors
    /// The medium's.
    fn clear_unpublished(&self, _older_than: Duration) -> io::Result<u64> {
        Ok(0)
    }

    /// See [`Settle`]. Zero for storage whose lists are exact.
    fn settle(&self) -> Settle;

    /// What to call this storage in messages.
    fn describe(&self) -> String;
}

/// An object that is being written: nobody sees it before it is published, and nothing of it stays if it is dropped before that.
pub trait Begun: Send {
    /// Appends bytes, a multiple of [`aligned::LARGEST_BLOCK`]; of those that lie on pages of memory it may cost a copy less. After an error none of them
    /// were appended, and the same may be tried again.
    ///
    /// # Errors
    /// As [`Storage::put`].
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Publishes the object, with these parts at its end; as [`Storage::put`]. After an error the same may be tried again.
    ///
    /// # Errors
    /// As [`Storage::put`]; `NotFound` if [`Storage::clear_unpublished`] took it for one whose writer died.
    fn publish(&mut self, name: &Name, last: &[&[u8]]) -> io::Result<()>;

    /// Says that its writer lives, for [`Storage::clear_unpublished`].
    ///
    /// # Errors
    /// The medium's.
    fn touch(&self) -> io::Result<()>;
}

impl<S: Storage + ?Sized> Storage for Arc<S> {
    fn read(&self, name: &Name, limit: u64) -> io::Result<Vec<u8>> {
        (**self).read(name, limit)
    }

    fn read_range(&self, name: &Name, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        (**self).read_range(name, offset, buf)
    }

    fn read_into(&self, name: &Name, offset: u64, buf: Vec<u8>) -> io::Result<Vec<u8>> {
        (**self).read_into(name, offset, buf)
    }

    fn read_ranges(&self, ranges: Vec<Wanted>, take: &mut Taker<'_>) {
        (**self).read_ranges(ranges, take);
    }

    fn read_if_cached(&self, name: &Name, offset: u64, buf: &mut [u8]) -> bool {
        (**self).read_if_cached(name, offset, buf)
    }

    fn request_ends(&self) -> Option<Instant> {
        (**self).request_ends()
    }

    fn gains_from_threads(&self) -> bool {
        (**self).gains_from_threads()
    }

    fn len(&self, name: &Name) -> io::Result<u64> {
        (**self).len(name)
    }

    fn put(&self, name: &Name, parts: &[&[u8]]) -> io::Result<()> {
        (**self).put(name, parts)
    }

    fn begin_put(&self) -> io::Result<Option<Box<dyn Begun + '_>>> {
        (**self).begin_put()
    }

    fn list(&self, prefix: &str) -> io::Result<Vec<Listed>> {
        (**self).list(prefix)
    }

    fn names(&self, prefix: &str) -> io::Result<Vec<Name>> {
        (**self).names(prefix)
    }

    fn folder_mark(&self, folder: &str) -> Option<FolderMark> {
        (**self).folder_mark(folder)
    }

    fn delete(&self, name: &Name) -> io::Result<()> {
        (**self).delete(name)
    }

    fn clear_unpublished(&self, older_than: Duration) -> io::Result<u64> {
        (**self).clear_unpublished(older_than)
    }

    fn settle(&self) -> Settle {
        (**self).settle()
    }

    fn describe(&self) -> String {
        (**self).describe()
    }
}
